//! Models and their heads, training rounds' parameters, delta and dataset manifests.
//!
//! These are the documents that the ledger names by hash and that `ml` reads and writes. Ratios
//! are integers in ppm, so that no float enters a rule or a hash.

mod architecture;
mod documents;
mod round;

pub use architecture::{Architecture, BYTE_VOCABULARY, DataKind, InputKind, pooled};
pub use documents::*;
pub use round::*;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{self, Canonical};
use crate::ids::{ContentHash, ModelId};
use crate::limits;

/// What identifies a model for ever. Its hash is the [`ModelId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Name for people, 1 to 64 characters of `a-z 0-9 - _ .`.
    pub name: String,
    /// The shape.
    pub architecture: Architecture,
    /// Blob with the tokenizer (`tokenizer.json`); none where the vocabulary is that of bytes.
    pub tokenizer: Option<ContentHash>,
    /// What is trained instead of all the weights, if anything.
    pub adapter: Option<Adapter>,
    /// Seed of the initial weights (ChaCha20, uniform; no libm); not used if they are imported.
    pub seed: u64,
    /// Whether the initial weights come from elsewhere and cannot be made from the seed.
    pub imported: bool,
    /// Hash of the initial checkpoint.
    pub initial_checkpoint: ContentHash,
    /// Blob on which deltas are judged and heads reported: UTF-8 text, or records.
    pub evaluation_suite: ContentHash,
    /// Length of the suite in bytes.
    pub evaluation_suite_bytes: u64,
    /// SPDX expression of the weights' licence.
    pub licence: String,
}

/// A low-rank adapter (LoRA, Hu et al., arXiv 2106.09685): the model's tensors are matrices A and
/// B for every matrix W inside the blocks, which acts as W + (alpha / rank) B A. W is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Checkpoint with the frozen weights of the same architecture.
    pub base: ContentHash,
    /// Rank of the matrices.
    pub rank: u32,
    /// Scale: the adapter counts alpha / rank.
    pub alpha: u32,
}

impl Canonical for ModelSpec {
    const BYTES_MAX: usize = 1024;
}

/// Why a document was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum DocumentError {
    /// A field is out of its range.
    #[error("{field}: {reason}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What is allowed.
        reason: &'static str,
    },
}

fn require(ok: bool, field: &'static str, reason: &'static str) -> Result<(), DocumentError> {
    if ok { Ok(()) } else { Err(DocumentError::OutOfRange { field, reason }) }
}

/// Checks a name that people will read: 1 to 64 characters of `a-z 0-9 - _ .`.
pub fn check_name(field: &'static str, name: &str) -> Result<(), DocumentError> {
    let fits = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
    require(fits, field, "1 to 64 characters of a-z 0-9 - _ .")
}

impl ModelSpec {
    /// The model's id.
    pub fn id(&self) -> ModelId {
        ModelId::from_bytes(*codec::hash(self).as_bytes())
    }

    /// Bytes of the evaluation suite in one window: predicted bytes of a text, or one record.
    pub fn window_bytes(&self) -> u64 {
        match self.architecture.input() {
            InputKind::Text { context, .. } => u64::from(context),
            InputKind::Records { bytes, .. } => bytes,
        }
    }

    /// Whole windows in the evaluation suite. A window of a text predicts `context` bytes from
    /// the byte before them on, whatever the tokenizer, so that losses per byte can be compared.
    pub fn suite_windows(&self) -> u64 {
        let bytes = match self.architecture.input() {
            InputKind::Text { .. } => self.evaluation_suite_bytes.saturating_sub(1),
            InputKind::Records { .. } => self.evaluation_suite_bytes,
        };
        bytes.checked_div(self.window_bytes()).unwrap_or(0)
    }

    /// Number of trained parameters: of the adapter if there is one.
    pub fn parameters(&self) -> u64 {
        match self.adapter {
            None => self.architecture.parameters(),
            Some(adapter) => self.architecture.adapter_parameters(adapter.rank),
        }
    }

    /// Checks every field against its limits.
    pub fn validate(&self) -> Result<(), DocumentError> {
        check_name("name", &self.name)?;
        self.architecture.validate()?;
        require(
            self.architecture.parameters() <= limits::MODEL_PARAMETERS_MAX,
            "architecture",
            "fewer parameters",
        )?;
        require(
            self.tokenizer.is_none() == self.architecture.reads_bytes(),
            "tokenizer",
            "one for a vocabulary of tokens, none for bytes and for numbers",
        )?;
        if let Some(adapter) = self.adapter {
            require((1..=1_024).contains(&adapter.rank), "adapter.rank", "1 to 1,024")?;
            require((1..=65_536).contains(&adapter.alpha), "adapter.alpha", "1 to 65,536")?;
            require(
                self.architecture.adapter_parameters(adapter.rank) > 0,
                "adapter",
                "none for this architecture: it has no blocks",
            )?;
        }
        require(self.suite_windows() >= 16, "evaluation_suite_bytes", "at least 16 windows")?;
        require(
            self.evaluation_suite_bytes <= limits::EVALUATION_SUITE_BYTES_MAX,
            "evaluation_suite_bytes",
            "at most the blob limit",
        )?;
        require(
            (1..=64).contains(&self.licence.len()) && self.licence.is_ascii(),
            "licence",
            "an SPDX expression of 1 to 64 characters",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_narrow() {
        assert!(check_name("name", "ayni-1.0_x").is_ok());
        for bad in ["", "A", "a b", "../x", &"a".repeat(65)] {
            assert!(check_name("name", bad).is_err(), "{bad}");
        }
    }

    /// A Llama of 1B proportions: 1,235,814,400 parameters as published.
    #[test]
    fn parameters_as_published() {
        let llama = Architecture::Llama {
            layers: 16,
            width: 2048,
            heads: 32,
            kv_heads: 8,
            hidden: 8192,
            context: 8192,
            vocabulary: 128_256,
            rope_theta: 500_000,
            norm_epsilon_ppb: 10_000,
            tied: true,
        };
        assert_eq!(llama.parameters(), 1_235_814_400);
        let gpt2 = Architecture::Gpt {
            layers: 12,
            width: 768,
            heads: 12,
            context: 1024,
            vocabulary: 50_257,
            tied: true,
        };
        assert_eq!(gpt2.parameters(), 124_439_808);
    }
}
