//! A trained tokenizer as training sees it: with the places of tokens in the text, and with a token
//! that ends documents.

use tokenizers::Tokenizer;

use super::Tokenize;
use crate::error::JobError;
use crate::tokenizer::TEXT_BYTES_MAX;

/// Names under which tokenizers in use know the end of a text.
const END_NAMES: [&str; 6] =
    ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]"];

/// A tokenizer for documents.
pub struct DocumentTokens {
    tokenizer: Tokenizer,
    end: u32,
}

impl DocumentTokens {
    /// Fails for a tokenizer that cannot tell where a document ends.
    pub fn new(tokenizer: Tokenizer) -> Result<Self, JobError> {
        let end = END_NAMES.iter().find_map(|name| tokenizer.token_to_id(name));
        let end = end.ok_or_else(|| {
            let names = END_NAMES.join(", ");
            JobError::Request(format!(
                "the tokenizer has no token for the end of a text: add one of {names}"
            ))
        })?;
        Ok(Self { tokenizer, end })
    }
}

impl Tokenize for DocumentTokens {
    fn tokens(&self, text: &str) -> Result<Vec<(u32, usize)>, JobError> {
        let failed = |what: String| JobError::Request(format!("tokenizing failed: {what}"));
        if text.len() > TEXT_BYTES_MAX {
            let length = text.len();
            return Err(failed(format!("a document of {length} bytes, at most {TEXT_BYTES_MAX}")));
        }
        let encoding =
            self.tokenizer.encode(text, false).map_err(|error| failed(error.to_string()))?;
        let ends = encoding.get_offsets().iter().map(|(_, end)| *end);
        Ok(encoding.get_ids().iter().copied().zip(ends).collect())
    }

    fn end_of_text(&self) -> u32 {
        self.end
    }
}
