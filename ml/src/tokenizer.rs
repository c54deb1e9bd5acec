//! From text to tokens and back: bytes as they are, or a Hugging Face `tokenizer.json`.
//!
//! A tokenizer comes from a stranger. It is bounded in size, parsed where a panic harms nobody,
//! and refused where it could grow a short text without bound or where encoding is random. Text
//! is cut to [`TEXT_BYTES_MAX`] per call: patterns may take time, but only so much.

use std::panic::{AssertUnwindSafe, catch_unwind};

use protocol::ids::ContentHash;
use protocol::limits::TOKENIZER_BYTES_MAX;
use protocol::model::{Architecture, InputKind, ModelSpec};
use protocol::worker::FileName;
use serde_json::Value;
use thiserror::Error;

use crate::error::JobError;
use crate::files::JobDirectory;

/// Longest text of one call.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// How much longer normalizing may make a text.
const GROWTH_MAX: usize = 64;

/// Why a tokenizer or a text was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum TokenizerError {
    /// Not a tokenizer that this program reads.
    #[error("not a usable tokenizer.json: {0}")]
    Format(String),
    /// Tokens that the model has no row for.
    #[error("the tokenizer has a token {token}, the model has {vocabulary} symbols")]
    Vocabulary {
        /// The largest token.
        token: u32,
        /// Symbols of the model.
        vocabulary: u32,
    },
    /// The text is too long for one call.
    #[error("a text of {0} bytes, at most {TEXT_BYTES_MAX} are tokenized at once")]
    TooLong(usize),
    /// The tokenizer failed on this text.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// A model's tokenizer.
pub enum Tokenizer {
    /// A byte is a token.
    Bytes,
    /// A `tokenizer.json`.
    Trained(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// Parses a `tokenizer.json` for a model with so many symbols.
    pub fn parse(json: &[u8], vocabulary: u32) -> Result<Self, TokenizerError> {
        let format = |text: String| TokenizerError::Format(text);
        if u64::try_from(json.len()).unwrap_or(u64::MAX) > TOKENIZER_BYTES_MAX {
            return Err(format(format!("{} bytes, at most {TOKENIZER_BYTES_MAX}", json.len())));
        }
        let value: Value = serde_json::from_slice(json).map_err(|e| format(e.to_string()))?;
        check_harmless(&value)?;
        drop(value);
        // One thread: the order of work must not depend on a pool, nor its threads on the host.
        tokenizers::utils::parallelism::set_parallelism(false);
        let mut tokenizer =
            guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(TokenizerError::Format)?;
        // What a file may ask for here is padding to any length.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| format(e.to_string()))?;
        let largest = tokenizer.get_vocab(true).into_values().max();
        match largest {
            None => Err(format("it has no tokens".into())),
            Some(token) if token >= vocabulary => {
                Err(TokenizerError::Vocabulary { token, vocabulary })
            }
            Some(_) => Ok(Self::Trained(Box::new(tokenizer))),
        }
    }

    /// The tokenizer of a model, read from the file of a job where it has one.
    pub fn open(
        directory: &JobDirectory,
        spec: &ModelSpec,
        file: Option<&FileName>,
    ) -> Result<Self, JobError> {
        let Some(expected) = spec.tokenizer else {
            return Ok(Self::Bytes);
        };
        let file =
            file.ok_or_else(|| JobError::Request("the model's tokenizer is needed too".into()))?;
        let json = directory.read(file, TOKENIZER_BYTES_MAX)?;
        if ContentHash::of(&json) != expected {
            let text = format!("{}: not the tokenizer that the model names", file.as_str());
            return Err(JobError::Request(text));
        }
        Self::parse(&json, vocabulary(&spec.architecture))
            .map_err(|error| JobError::Request(format!("{}: {error}", file.as_str())))
    }

    /// Tokens of a text without any that mark its beginning or end. Bytes that are not UTF-8
    /// become U+FFFD before a trained tokenizer sees them.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, false)
    }

    /// Tokens of a text that is to be continued: with the mark of its beginning, where the
    /// tokenizer sets one.
    pub fn encode_prompt(&self, text: &[u8]) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, true)
    }

    fn encode_with(&self, text: &[u8], marks: bool) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenizerError::TooLong(text.len()));
        }
        match self {
            Self::Bytes => Ok(text.iter().copied().map(u32::from).collect()),
            Self::Trained(tokenizer) => {
                let text = String::from_utf8_lossy(text);
                let encoding = guarded(|| tokenizer.encode_fast(text.as_ref(), marks))
                    .map_err(TokenizerError::Failed)?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The text of some tokens; unknown ones and marks have none.
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>, TokenizerError> {
        match self {
            Self::Bytes => {
                Ok(tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect())
            }
            Self::Trained(tokenizer) => guarded(|| tokenizer.decode(tokens, true))
                .map(String::into_bytes)
                .map_err(TokenizerError::Failed),
        }
    }

    /// Whether a token is a mark, such as that of the end of a text.
    pub fn is_mark(&self, token: u32) -> bool {
        match self {
            Self::Bytes => false,
            Self::Trained(tokenizer) => tokenizer
                .get_added_vocabulary()
                .simple_id_to_token(token)
                .is_some_and(|text| tokenizer.get_added_vocabulary().is_special_token(&text)),
        }
    }
}

/// Symbols of an architecture's vocabulary; none for one that reads no text.
pub fn vocabulary(architecture: &Architecture) -> u32 {
    if let Architecture::TextClassifier { vocabulary, .. } = *architecture {
        return vocabulary;
    }
    match architecture.input() {
        InputKind::Text { vocabulary, .. } => vocabulary,
        InputKind::Records { .. } => 0,
    }
}

/// Calls into the tokenizer; a panic becomes an error.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // Nothing of ours is changed inside: tokenizers are only read.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| shorten(&error.to_string())),
        Err(_) => Err("it panicked".into()),
    }
}

/// Errors of the parser may repeat what it read.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Refuses what would make a short text long, and what draws random numbers.
fn check_harmless(json: &Value) -> Result<(), TokenizerError> {
    if json.pointer("/model/dropout").is_some_and(|dropout| !dropout.is_null()) {
        return Err(TokenizerError::Format("it drops merges at random (`dropout`)".into()));
    }
    let mut growth = 1usize;
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        let Some(part) = json.get(part) else { continue };
        let mut open = vec![part];
        while let Some(value) = open.pop() {
            match value {
                Value::Array(values) => open.extend(values),
                Value::Object(fields) => {
                    for (key, value) in fields {
                        let grows = ["content", "prepend", "replacement"].contains(&key.as_str());
                        match value {
                            Value::String(text) if grows => {
                                growth = growth.saturating_mul(text.len().max(1));
                            }
                            other => open.push(other),
                        }
                    }
                }
                _ => {}
            }
        }
    }
    if growth > GROWTH_MAX {
        let text = format!("its replacements can make a text {growth} times longer");
        return Err(TokenizerError::Format(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level BPE without merges but for two words.
    fn json() -> Value {
        let mut vocabulary = serde_json::Map::new();
        for (id, token) in ["h", "i", "Ġ", "hi", "Ġhi", "<end>"].iter().enumerate() {
            vocabulary.insert((*token).into(), id.into());
        }
        serde_json::json!({
            "version": "1.0", "truncation": null,
            "padding": {"strategy": {"Fixed": 4_000_000_000u64}, "direction": "Right",
                "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "h"},
            "added_tokens": [{"id": 5, "content": "<end>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
                "trim_offsets": true, "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
                "merges": [["h", "i"], ["Ġ", "hi"]]}
        })
    }

    fn parse(value: &Value) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::parse(value.to_string().as_bytes(), 6)
    }

    #[test]
    fn there_and_back() {
        let tokenizer = parse(&json()).expect("usable");
        let tokens = tokenizer.encode(b"hi hi").expect("short");
        assert_eq!(tokens, [3, 4], "merged, and not padded");
        assert_eq!(tokenizer.decode(&tokens).expect("known"), b"hi hi");
        assert_eq!(tokenizer.decode(&[3, 5, 99]).expect("marks have no text"), b"hi");
        assert!(tokenizer.is_mark(5) && !tokenizer.is_mark(3) && !tokenizer.is_mark(99));
        assert_eq!(Tokenizer::Bytes.encode(&[0, 255]), Ok(vec![0, 255]));
        assert_eq!(Tokenizer::Bytes.decode(&[104, 300]), Ok(vec![104]));
    }

    #[test]
    fn hostile_files_are_refused() {
        let refused = |value: &Value| parse(value).err().expect("refused").to_string();
        let with = |path: &str, new: Value| {
            let mut value = json();
            *value.pointer_mut(path).expect("a field") = new;
            value
        };
        for (path, new, words) in [
            ("/model/dropout", 0.5.into(), "random"),
            (
                "/normalizer",
                serde_json::json!({"type": "Replace", "pattern": {"String": "a"},
                    "content": "b".repeat(100)}),
                "longer",
            ),
            (
                "/normalizer",
                serde_json::json!({"type": "Replace", "pattern": {"Regex": "(("},
                    "content": "b"}),
                "not a usable",
            ),
            ("/model/merges", serde_json::json!([["x", "y"]]), "not a usable"),
            ("/model/vocab", serde_json::json!({"h": 4_294_967_295u64}), "not a usable"),
            ("/model/vocab/h", 6.into(), "6 symbols"),
        ] {
            let error = refused(&with(path, new));
            assert!(error.contains(words), "{path}: {error}");
        }
        assert!(Tokenizer::parse(b"{}", 256).is_err());
        assert!(Tokenizer::parse(&[b'['; 10_000], 256).is_err());
        let long = vec![b'h'; TEXT_BYTES_MAX + 1];
        assert!(matches!(Tokenizer::Bytes.encode(&long), Err(TokenizerError::TooLong(_))));
    }

    /// A pattern that backtracks without end on this text is given up, not waited for.
    #[test]
    fn slow_patterns_end() {
        let mut value = json();
        value["pre_tokenizer"] = serde_json::json!({"type": "Split", "behavior": "Isolated",
            "invert": false, "pattern": {"Regex": "(h+)+(?=x)\\1"}});
        let tokenizer = parse(&value).expect("usable");
        // Either answer is good; that there is one is the test.
        let tokens = tokenizer.encode(&vec![b'h'; 5_000]);
        assert!(tokens.is_err() || tokens.is_ok_and(|tokens| tokens.len() <= 5_000));
    }
}
