//! The evaluation suite, read window by window: it may be larger than memory.
//!
//! Window w of a text predicts the bytes from w * context + 1 on, `context` of them, from the byte
//! before. For models with a tokenizer both ends move on to the next whole character, so that
//! windows still share the text between them; a window's text is tokenised on its own, after an
//! end-of-text token, and its loss is that of all its tokens over its bytes. Window w of records
//! is record w.

use protocol::model::{InputKind, ModelSpec};
use protocol::worker::FileName;

use super::records::Records;
use super::{Examples, Input, Shards, Tokenize};
use crate::error::JobError;
use crate::files::JobDirectory;

/// Bytes of the longest character after its first one.
const CHARACTER_REST: usize = 3;
/// Targets that count for nothing, as libtorch's cross entropy has it.
const IGNORED: i64 = -100;

/// An open suite.
pub struct Suite<'a> {
    content: Content<'a>,
}

enum Content<'a> {
    Text { shards: Shards<'a>, tokenizer: Option<&'a dyn Tokenize>, context: usize },
    Records(Records<'a>),
}

/// Some windows as examples.
pub struct Windows {
    /// Examples, a few per window if a window has more tokens than the model reads at once.
    pub parts: Vec<Part>,
    /// Bytes, or records, of each window.
    pub units: Vec<usize>,
}

/// Rows for the model at once.
pub struct Part {
    /// The rows.
    pub examples: Examples,
    /// To which of the windows asked for each row belongs.
    pub windows: Vec<usize>,
}

impl<'a> Suite<'a> {
    /// Opens a model's suite.
    pub fn open(
        directory: &'a JobDirectory,
        spec: &ModelSpec,
        name: &FileName,
        tokenizer: Option<&'a dyn Tokenize>,
    ) -> Result<Self, JobError> {
        let shards = Shards::open(directory, std::slice::from_ref(name))?;
        Self::new(shards, spec, tokenizer)
    }

    /// A suite that is the only one of some shards.
    pub fn new(
        shards: Shards<'a>,
        spec: &ModelSpec,
        tokenizer: Option<&'a dyn Tokenize>,
    ) -> Result<Self, JobError> {
        let expected = spec.evaluation_suite_bytes;
        if shards.lengths() != [expected] {
            let found = shards.lengths().first().copied().unwrap_or(0);
            let text = format!("the suite has {found} bytes, the model's has {expected}");
            return Err(JobError::Request(text));
        }
        let content = match spec.architecture.input() {
            InputKind::Records { .. } => {
                Content::Records(Records::new(spec, shards, tokenizer, 0)?)
            }
            InputKind::Text { context, .. } => {
                if tokenizer.is_none() && !spec.architecture.reads_bytes() {
                    return Err(super::DataError::NoTokenizer.into());
                }
                Content::Text { shards, tokenizer, context: crate::tensors::index(context) }
            }
        };
        Ok(Self { content })
    }

    /// Reads windows; each must be below the specification's `suite_windows`.
    pub fn read(&self, windows: &[u64]) -> Result<Windows, JobError> {
        match &self.content {
            Content::Records(records) => {
                let part = Part {
                    examples: records.read(windows)?,
                    windows: (0..windows.len()).collect(),
                };
                Ok(Windows { parts: vec![part], units: vec![1; windows.len()] })
            }
            Content::Text { shards, tokenizer, context } => {
                let mut rows = Vec::with_capacity(windows.len());
                let mut units = Vec::with_capacity(windows.len());
                for (number, window) in windows.iter().enumerate() {
                    let (tokens, bytes) = match tokenizer {
                        None => (bytes_of(shards, *context, *window)?, *context),
                        Some(tokenizer) => tokens_of(shards, *tokenizer, *context, *window)?,
                    };
                    units.push(bytes.max(1));
                    // The last token of a row is the first input of the next.
                    let mut at = 0;
                    while at + 1 < tokens.len() {
                        let end = (at + context + 1).min(tokens.len());
                        rows.push((number, tokens[at..end].to_vec()));
                        at = end - 1;
                    }
                }
                Ok(Windows { parts: vec![padded(rows)], units })
            }
        }
    }
}

fn bytes_of(shards: &Shards<'_>, context: usize, window: u64) -> Result<Vec<i64>, JobError> {
    let mut bytes = vec![0u8; context + 1];
    let stride = u64::try_from(context).unwrap_or(u64::MAX);
    shards.read(0, window.saturating_mul(stride), &mut bytes)?;
    Ok(bytes.into_iter().map(i64::from).collect())
}

/// Tokens of a window after an end-of-text token, and the bytes that they stand for.
fn tokens_of(
    shards: &Shards<'_>,
    tokenizer: &dyn Tokenize,
    context: usize,
    window: u64,
) -> Result<(Vec<i64>, usize), JobError> {
    let stride = u64::try_from(context).unwrap_or(u64::MAX);
    let start = window.saturating_mul(stride).saturating_add(1);
    let left = shards.lengths()[0].saturating_sub(start);
    let more = usize::try_from(left).unwrap_or(usize::MAX).min(context + CHARACTER_REST);
    let mut bytes = vec![0u8; more];
    shards.read(0, start, &mut bytes)?;
    let first = next_character(&bytes, 0);
    let last = next_character(&bytes, context.min(more));
    let text = bytes.get(first..last).unwrap_or_default();
    let mut tokens = vec![i64::from(tokenizer.end_of_text())];
    for (token, _) in tokenizer.tokens(&String::from_utf8_lossy(text))? {
        tokens.push(i64::from(token));
    }
    Ok((tokens, text.len()))
}

/// The next position that begins a character, at most three bytes on.
fn next_character(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let skip = rest.iter().take(CHARACTER_REST).take_while(|byte| **byte & 0xc0 == 0x80).count();
    at + skip
}

/// Rows of different lengths side by side; what is filled up counts for nothing.
fn padded(rows: Vec<(usize, Vec<i64>)>) -> Part {
    let longest = rows.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(2) - 1;
    let (mut input, mut target) = (Vec::new(), Vec::new());
    for (_, tokens) in &rows {
        let fill = longest - (tokens.len() - 1);
        input.extend_from_slice(&tokens[..tokens.len() - 1]);
        input.extend(std::iter::repeat_n(0, fill));
        target.extend_from_slice(&tokens[1..]);
        target.extend(std::iter::repeat_n(IGNORED, fill));
    }
    Part {
        examples: Examples {
            rows: rows.len(),
            input: Input::Tokens(input),
            target,
            lengths: None,
            units: 0,
        },
        windows: rows.into_iter().map(|(window, _)| window).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::tests::spec;

    /// A token for each character, two for those outside ASCII.
    struct Characters;

    impl Tokenize for Characters {
        fn tokens(&self, text: &str) -> Result<Vec<(u32, usize)>, JobError> {
            let mut tokens = Vec::new();
            for (at, character) in text.char_indices() {
                let end = at + character.len_utf8();
                tokens
                    .extend(std::iter::repeat_n((u32::from(character), end), character.len_utf8()));
            }
            Ok(tokens)
        }

        fn end_of_text(&self) -> u32 {
            7
        }
    }

    #[test]
    fn windows_of_characters_share_the_text() {
        let text = "aé漢字ω".repeat(40);
        let mut spec = spec(1, 16, 1, 16);
        spec.evaluation_suite_bytes = u64::try_from(text.len()).expect("short");
        let shards = || Shards::in_memory(vec![text.clone().into_bytes()]);
        let suite = Suite::new(shards(), &spec, Some(&Characters)).expect("opened");
        let all: Vec<u64> = (0..spec.suite_windows()).collect();
        let windows = suite.read(&all).expect("read");
        let [part] = windows.parts.as_slice() else { panic!("one part") };
        let bytes: usize = windows.units.iter().sum();
        let tokens = part.examples.target.iter().filter(|token| **token != IGNORED).count();
        assert_eq!(bytes, tokens, "each token of this tokenizer is a byte");
        assert!(!part.examples.target.contains(&i64::from(u32::from('\u{fffd}'))), "none is cut");
        assert!(bytes + 20 > text.len());
        assert!(part.windows.len() > all.len(), "windows with too many tokens take two rows");
        assert_eq!(part.examples.target.len() % 16, 0, "no row is longer than the context");

        let plain = Suite::new(shards(), &spec, None).expect("opened").read(&[0, 2]).expect("read");
        assert_eq!(plain.units, [16, 16]);
        assert_eq!(plain.parts[0].examples.target[15], i64::from(text.as_bytes()[16]));
    }
}
