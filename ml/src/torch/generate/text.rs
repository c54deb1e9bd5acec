//! A continuation as text: tokens become bytes, stops are found, and what is certain is told.
//!
//! A byte is certain once no stop can begin at it and no later token can change it.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens of the prompt that are decoded with the first new ones: some tokenizers write a space
/// before a word only where something comes before it.
const LEAD_TOKENS: usize = 6;
/// Tokens that may wait for the rest of a character. One has at most four bytes; more waiting
/// tokens hold bytes that never become text.
const WAITING_TOKENS_MAX: usize = 8;
/// What decoders write for bytes that are not, or not yet, UTF-8.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// One growing text.
pub struct Continuation<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [Vec<u8>],
    /// Bytes wanted.
    most: usize,
    text: Vec<u8>,
    ended: bool,
    generated: usize,
    /// The latest tokens: up to `decoded` they are in the text.
    recent: Vec<u32>,
    decoded: usize,
}

impl<'a> Continuation<'a> {
    /// The empty continuation of a prompt, which ends before any of the stops and at `most` bytes.
    pub fn new(
        tokenizer: &'a Tokenizer,
        prompt: &[u32],
        stops: &'a [Vec<u8>],
        most: usize,
    ) -> Self {
        let recent = prompt[prompt.len().saturating_sub(LEAD_TOKENS)..].to_vec();
        let decoded = recent.len();
        let ended = most == 0;
        Self { tokenizer, stops, most, text: Vec::new(), ended, generated: 0, recent, decoded }
    }

    /// Adds a token; a mark, such as that of the end of a text, ends it.
    pub fn push(&mut self, token: u32) -> Result<(), TokenizerError> {
        if self.ended {
            return Ok(());
        }
        if self.tokenizer.is_mark(token) {
            self.append_waiting(true)?;
            self.ended = true;
            return Ok(());
        }
        self.generated += 1;
        self.recent.push(token);
        // A token without any text must not make this endless.
        let last = self.generated >= self.most;
        self.append_waiting(last || self.recent.len() - self.decoded > WAITING_TOKENS_MAX)?;
        self.ended |= last;
        Ok(())
    }

    /// Decodes the waiting tokens, if they are whole characters or it is `forced`.
    fn append_waiting(&mut self, forced: bool) -> Result<(), TokenizerError> {
        let new = if matches!(self.tokenizer, Tokenizer::Bytes) {
            self.tokenizer.decode(&self.recent[self.decoded..])?
        } else {
            let before = self.tokenizer.decode(&self.recent[..self.decoded])?;
            let all = self.tokenizer.decode(&self.recent)?;
            if all.ends_with(REPLACEMENT) && !forced {
                return Ok(());
            }
            all.get(before.len()..).unwrap_or_default().to_vec()
        };
        // The tokens that lead the next ones.
        self.recent.drain(..self.recent.len().saturating_sub(LEAD_TOKENS));
        self.decoded = self.recent.len();
        self.append(&new);
        Ok(())
    }

    fn append(&mut self, new: &[u8]) {
        let longest = self.stops.iter().map(Vec::len).max().unwrap_or(0);
        let from = self.text.len().saturating_sub(longest.saturating_sub(1));
        self.text.extend_from_slice(new);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.text[from..].windows(stop.len()).position(|w| w == &stop[..]))
            .min();
        if let Some(at) = found {
            self.text.truncate(from + at);
            self.ended = true;
        }
        if self.text.len() >= self.most {
            let mut end = self.most;
            if matches!(self.tokenizer, Tokenizer::Trained(_)) {
                // What a trained tokenizer wrote is UTF-8: no half of a character.
                while end > 0 && self.text.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
                    end -= 1;
                }
            }
            self.text.truncate(end);
            self.ended = true;
        }
    }

    /// The text that no later token changes.
    pub fn certain(&self) -> &[u8] {
        if self.ended {
            return &self.text;
        }
        let held = self
            .stops
            .iter()
            .flat_map(|stop| (1..stop.len()).filter(|len| self.text.ends_with(&stop[..*len])))
            .max()
            .unwrap_or(0);
        let text = &self.text[..self.text.len() - held];
        &text[..text.len() - incomplete(text)]
    }

    /// Whether nothing more comes.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Tokens added, marks not counted.
    pub fn tokens(&self) -> usize {
        self.generated
    }

    /// The whole text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.text
    }
}

/// Bytes at the end that begin a character of UTF-8 and may yet become one.
fn incomplete(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let byte = text[text.len() - back];
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if back < length { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_stop_over_several_tokens_is_never_shown() {
        let stops = stops(&["END", "\n\n"]);
        let mut text = Continuation::new(&Tokenizer::Bytes, &[], &stops, 100);
        for (byte, certain) in
            b"aENbEND".iter().zip(["a", "a", "a", "aENb", "aENb", "aENb", "aENb"])
        {
            text.push(u32::from(*byte)).expect("a byte");
            assert_eq!(text.certain(), certain.as_bytes());
        }
        assert!(text.ended());
        assert_eq!(text.into_bytes(), b"aENb");
    }

    #[test]
    fn half_characters_wait() {
        let mut text = Continuation::new(&Tokenizer::Bytes, &[], &[], 4);
        let mut shown = Vec::new();
        for byte in "é€".bytes() {
            text.push(u32::from(byte)).expect("a byte");
            shown.push(text.certain().len());
        }
        assert_eq!(shown, [0, 2, 2, 4, 4], "the limit cuts bytes where they are symbols");
    }

    proptest! {
        /// However the text comes: what is certain only grows, it is the start of the result,
        /// and the result is the text before the first stop.
        #[test]
        fn the_result_is_the_text_before_the_first_stop(
            bytes in prop::collection::vec(97u8..100, 0..60),
            stops in prop::collection::vec(prop::collection::vec(97u8..100, 1..4), 0..3),
            most in 1usize..50,
        ) {
            let mut text = Continuation::new(&Tokenizer::Bytes, &[], &stops, most);
            let mut seen: Vec<u8> = Vec::new();
            for byte in &bytes {
                text.push(u32::from(*byte)).expect("a byte");
                prop_assert!(text.certain().starts_with(&seen));
                seen = text.certain().to_vec();
            }
            // By definition: read byte by byte, end at the first whole stop or at the limit.
            let mut expected: Vec<u8> = Vec::new();
            for byte in &bytes {
                expected.push(*byte);
                let cut = stops.iter().filter(|s| expected.ends_with(s)).map(Vec::len).max();
                if let Some(cut) = cut {
                    expected.truncate(expected.len() - cut);
                    break;
                }
                if expected.len() >= most {
                    break;
                }
            }
            let ended = text.ended();
            let result = text.into_bytes();
            prop_assert!(result.starts_with(&seen));
            prop_assert_eq!(&result, &expected);
            if ended {
                prop_assert_eq!(result, seen);
            }
        }
    }
}
