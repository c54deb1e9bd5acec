//! Windows of tokens: documents, each followed by the end-of-text token, packed without padding.
//!
//! A window begins at a byte position drawn like those of byte models, moved on to the next word,
//! and runs over the ends of documents and shards until it is full. Text is tokenised when it is
//! needed and thrown away: a corpus of any length takes no memory. A window's text never depends
//! on other windows, so any step can be read alone.
//!
//! In a shard documents end with a NUL byte, which no text has inside; a shard without any is one
//! document.

use super::{DataError, Examples, Shards, shifted};
use crate::error::JobError;
use crate::sample::{below, step_stream};

/// What ends a document inside a shard of text.
pub const DOCUMENT_END: u8 = 0;
/// Bytes read per token wanted: English has about four in a token.
const BYTES_PER_TOKEN: usize = 6;
/// Tokens at the end of a piece that are not used: the cut may have changed them.
const CUT_TOKENS: usize = 4;
/// How far to look for the start of a word. Longer words are cut.
const WORD_BYTES: usize = 64;
/// Shards passed through to fill one window. Only shards of a byte or two come near.
const HOPS_MAX: usize = 1_000;

/// A tokenizer as far as training needs it.
pub trait Tokenize {
    /// Tokens of a text, each with the position in bytes at which it ends.
    fn tokens(&self, text: &str) -> Result<Vec<(u32, usize)>, JobError>;
    /// The token after the end of a document.
    fn end_of_text(&self) -> u32;
}

/// Windows of tokens of some texts.
pub struct TokenWindows<'a> {
    shards: Shards<'a>,
    tokenizer: &'a dyn Tokenize,
    /// Bytes of all shards up to and including each.
    ends: Vec<u64>,
    length: usize,
    seed: u64,
}

impl<'a> TokenWindows<'a> {
    /// Windows of `context + 1` tokens.
    pub fn new(
        shards: Shards<'a>,
        tokenizer: &'a dyn Tokenize,
        context: usize,
        seed: u64,
    ) -> Result<Self, JobError> {
        let mut total = 0u64;
        let add = |bytes: &u64| {
            total = total.saturating_add(*bytes);
            total
        };
        let ends: Vec<u64> = shards.lengths().iter().map(add).collect();
        // A text may have one token for each byte of a window's size; less cannot fill one.
        let least = u64::try_from(context + 1).unwrap_or(u64::MAX);
        if total < least {
            return Err(DataError::TooShort(context + 1).into());
        }
        Ok(Self { shards, tokenizer, ends, length: context + 1, seed })
    }

    /// The windows of a step.
    pub fn step(&self, step: u64, rows: usize) -> Result<Examples, JobError> {
        let mut stream = step_stream(self.seed, step);
        let total = self.ends.last().copied().expect("checked when made");
        let (mut windows, mut bytes) = (Vec::with_capacity(rows), 0u64);
        for _ in 0..rows {
            let number = below(&mut stream, total);
            let shard = self.ends.partition_point(|end| *end <= number);
            let at = number - if shard == 0 { 0 } else { self.ends[shard - 1] };
            let (window, units) = self.fill(shard, at)?;
            windows.push(window);
            bytes = bytes.saturating_add(units);
        }
        Ok(shifted(&windows, bytes))
    }

    /// A window from a position on, and the bytes that its targets stand for.
    fn fill(&self, mut shard: usize, mut at: u64) -> Result<(Vec<i64>, u64), JobError> {
        let mut tokens: Vec<(u32, usize)> = Vec::with_capacity(self.length);
        for _ in 0..HOPS_MAX {
            let wanted = self.length - tokens.len();
            tokens.extend(self.piece(shard, at, wanted)?.into_iter().take(wanted));
            if tokens.len() == self.length {
                // The first token is input only.
                let bytes: usize = tokens[1..].iter().map(|(_, bytes)| bytes).sum();
                let units = u64::try_from(bytes).unwrap_or(u64::MAX);
                return Ok((tokens.iter().map(|(token, _)| i64::from(*token)).collect(), units));
            }
            shard = (shard + 1) % self.ends.len();
            at = 0;
        }
        Err(DataError::TooShort(self.length).into())
    }

    /// Tokens with their lengths in bytes: `wanted` of them, or all up to the end of the shard.
    fn piece(&self, shard: usize, at: u64, wanted: usize) -> Result<Vec<(u32, usize)>, JobError> {
        let left = usize::try_from(self.shards.lengths()[shard] - at).unwrap_or(usize::MAX);
        let mut bytes = wanted.saturating_mul(BYTES_PER_TOKEN) + 2 * WORD_BYTES;
        loop {
            let whole = bytes >= left;
            let mut buffer = vec![0u8; bytes.min(left)];
            self.shards.read(shard, at, &mut buffer)?;
            let text = if at == 0 { &buffer[..] } else { from_word(&buffer) };
            let mut tokens = self.tokenise(text, whole)?;
            if !whole {
                tokens.truncate(tokens.len().saturating_sub(CUT_TOKENS));
            }
            if whole || tokens.len() >= wanted {
                return Ok(tokens);
            }
            bytes = bytes.saturating_mul(2);
        }
    }

    fn tokenise(&self, text: &[u8], whole: bool) -> Result<Vec<(u32, usize)>, JobError> {
        let mut tokens = Vec::new();
        let mut documents = text.split(|byte| *byte == DOCUMENT_END).peekable();
        while let Some(document) = documents.next() {
            let last = documents.peek().is_none();
            // What is cut in two at the end becomes a replacement sign, which `piece` drops.
            let text = String::from_utf8_lossy(document);
            let mut before = 0;
            for (token, end) in self.tokenizer.tokens(&text)? {
                tokens.push((token, end.saturating_sub(before)));
                before = end.max(before);
            }
            // The last document ends here only if the shard does; an empty rest is none.
            if !document.is_empty() && (!last || whole) {
                tokens.push((self.tokenizer.end_of_text(), 1));
            }
        }
        Ok(tokens)
    }
}

/// The text from its first word start on, or from its first whole character.
fn from_word(text: &[u8]) -> &[u8] {
    let near = &text[..text.len().min(WORD_BYTES)];
    let word = near.iter().position(|byte| byte.is_ascii_whitespace() || *byte == DOCUMENT_END);
    let character = || near.iter().position(|byte| byte & 0xc0 != 0x80);
    &text[word.or_else(character).unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Input;

    /// A token for each word with the space before it; 0 ends a text.
    struct Words;

    impl Tokenize for Words {
        fn tokens(&self, text: &str) -> Result<Vec<(u32, usize)>, JobError> {
            let mut tokens = Vec::new();
            let mut starts: Vec<usize> = text.match_indices(' ').map(|(at, _)| at).collect();
            starts.push(text.len());
            let mut before = 0;
            for end in starts {
                if end > before {
                    let word = text[before..end].trim();
                    tokens.push((word.parse().unwrap_or(9_999), end));
                    before = end;
                }
            }
            Ok(tokens)
        }

        fn end_of_text(&self) -> u32 {
            0
        }
    }

    #[test]
    fn windows_are_full_and_cross_documents_with_a_separator() {
        let counted = |range: std::ops::Range<u32>| {
            range.map(|i| i.to_string()).collect::<Vec<_>>().join(" ")
        };
        let first = format!("{}\0{}\0", counted(1..40), counted(100..140));
        let shards = vec![first.into_bytes(), counted(200..230).into_bytes(), b"\0".to_vec()];
        let source = TokenWindows::new(Shards::in_memory(shards), &Words, 16, 3).expect("long");
        let mut ends = 0;
        for step in 0..50 {
            let examples = source.step(step, 2).expect("read");
            assert_eq!(examples, source.step(step, 2).expect("read"), "any step alone");
            let Input::Tokens(input) = &examples.input else { panic!("tokens") };
            assert_eq!((input.len(), examples.target.len()), (32, 32));
            for (a, b) in input.iter().zip(&examples.target) {
                // Words count up; after the last of a document comes the separator.
                let last = [39, 139, 229].contains(a);
                let first = [1, 100, 200].contains(b);
                assert!(*b == a + 1 || (last && *b == 0) || (*a == 0 && first), "{a} {b}");
                ends += usize::from(*b == 0);
            }
        }
        assert!(ends > 10);
    }

    #[test]
    fn any_bytes_make_windows() {
        let noise: Vec<u8> =
            (0..4_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
        let source =
            TokenWindows::new(Shards::in_memory(vec![noise]), &Words, 16, 3).expect("long");
        for step in 0..50 {
            assert_eq!(source.step(step, 3).expect("read").target.len(), 48);
        }
        let short = TokenWindows::new(Shards::in_memory(vec![vec![65; 9]]), &Words, 16, 3);
        assert!(short.is_err());
        let one = Shards::in_memory(vec![vec![0; 5_000]]);
        let empty = TokenWindows::new(one, &Words, 16, 3).expect("bytes enough");
        assert!(empty.step(0, 1).is_err(), "no tokens at all end in an error, not in a loop");
    }
}
