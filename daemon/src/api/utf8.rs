//! Text from bytes that arrive in pieces, which may end inside a character.

/// Joins pieces. What can never become a character is replaced by U+FFFD.
#[derive(Default)]
pub(super) struct Utf8Joiner {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Joiner {
    /// The text that is complete with `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut rest = all.as_slice();
        while let Err(error) = std::str::from_utf8(rest) {
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(bad) = error.error_len() else {
                self.pending = after.to_vec();
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &after[bad..];
        }
        text.push_str(&String::from_utf8_lossy(rest));
        text
    }

    /// What is left when no more bytes come.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_gives_the_same_text() {
        let bytes = b"a\xc3\xa9\xe2\x82\xac\xff\xf0\x9f\x98\x80z\xe2\x82";
        let whole = String::from_utf8_lossy(bytes);
        for split in 0..=bytes.len() {
            let mut joiner = Utf8Joiner::default();
            let mut text = joiner.push(&bytes[..split]);
            text += &joiner.push(&bytes[split..]);
            text += &joiner.finish();
            assert_eq!(text, whole, "split at {split}");
        }
    }
}
