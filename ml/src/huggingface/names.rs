//! Which of our tensors is which of theirs.

use protocol::model::Architecture;

use crate::tensors::{TensorSpec, architecture_specs};

/// One tensor under both names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Ours.
    pub(super) ours: TensorSpec,
    /// Theirs, without the prefix that names the model inside.
    pub(super) short: String,
    /// Their prefix; none for the head.
    pub(super) prefix: &'static str,
    /// Whether theirs is `[in, out]`: GPT-2's linear layers are convolutions of width 1.
    pub(super) transposed: bool,
}

impl Name {
    /// The full name.
    pub(super) fn theirs(&self) -> String {
        format!("{}{}", self.prefix, self.short)
    }

    /// Their shape.
    pub(super) fn their_shape(&self) -> Vec<usize> {
        let mut shape = self.ours.shape.clone();
        if self.transposed {
            shape.reverse();
        }
        shape
    }
}

/// The tensors of an architecture in our order. Call only for those that [`super::config`] knows.
pub(super) fn names(architecture: &Architecture) -> Vec<Name> {
    let llama = matches!(architecture, Architecture::Llama { .. });
    architecture_specs(architecture)
        .into_iter()
        .map(|ours| {
            let head = ours.name == "head.weight";
            let short = if llama { llama_name(&ours.name) } else { gpt_name(&ours.name) };
            let prefix = match (head, llama) {
                (true, _) => "",
                (false, true) => "model.",
                (false, false) => "transformer.",
            };
            let in_block = ours.name.starts_with("blocks.");
            let transposed = !llama && in_block && ours.shape.len() == 2;
            Name { ours, short, prefix, transposed }
        })
        .collect()
}

fn gpt_name(ours: &str) -> String {
    translate(
        ours,
        "h.",
        &[
            ("embed.position", "wpe.weight"),
            ("embed.token", "wte.weight"),
            ("final_norm", "ln_f"),
            ("head.weight", "lm_head.weight"),
            ("attention.out", "attn.c_proj"),
            ("attention.qkv", "attn.c_attn"),
            ("mlp.down", "mlp.c_proj"),
            ("mlp.up", "mlp.c_fc"),
            ("norm1", "ln_1"),
            ("norm2", "ln_2"),
        ],
    )
}

fn llama_name(ours: &str) -> String {
    translate(
        ours,
        "layers.",
        &[
            ("embed.token", "embed_tokens.weight"),
            ("final_norm", "norm"),
            ("head.weight", "lm_head.weight"),
            ("attention.key", "self_attn.k_proj"),
            ("attention.out", "self_attn.o_proj"),
            ("attention.query", "self_attn.q_proj"),
            ("attention.value", "self_attn.v_proj"),
            ("mlp.down", "mlp.down_proj"),
            ("mlp.gate", "mlp.gate_proj"),
            ("mlp.up", "mlp.up_proj"),
            ("norm1", "input_layernorm"),
            ("norm2", "post_attention_layernorm"),
        ],
    )
}

/// `blocks.07.PART.weight` becomes `LAYERS7.THEIRS.weight`.
fn translate(ours: &str, layers: &str, parts: &[(&str, &str)]) -> String {
    let (front, part) = match ours.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((number, part)) => {
            let number: u32 = number.parse().expect("blocks are numbered");
            (format!("{layers}{number}."), part)
        }
        None => (String::new(), ours),
    };
    let (part, theirs) = parts
        .iter()
        .find(|(name, _)| part.starts_with(name))
        .map(|(name, theirs)| (&part[name.len()..], theirs))
        .expect("every tensor of these architectures has a name there");
    format!("{front}{theirs}{part}")
}

/// Rows become columns. `columns`: of the values given.
pub(super) fn transpose(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    let mut out = Vec::with_capacity(values.len());
    for column in 0..columns {
        out.extend((0..rows).map(|row| values[row * columns + column]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::tests::each;

    #[test]
    fn names_of_both() {
        let theirs = |index: usize| -> Vec<String> {
            names(&each()[index].architecture).iter().map(Name::theirs).collect()
        };
        let gpt = theirs(1);
        for name in ["lm_head.weight", "transformer.h.1.attn.c_attn.bias", "transformer.wpe.weight"]
        {
            assert!(gpt.iter().any(|theirs| theirs == name), "{name} in {gpt:?}");
        }
        let llama = theirs(4);
        for name in ["model.layers.0.self_attn.k_proj.weight", "model.norm.weight"] {
            assert!(llama.iter().any(|theirs| theirs == name), "{name} in {llama:?}");
        }
        assert!(!llama.iter().any(|name| name.contains("lm_head")), "tied");
        let unique: std::collections::BTreeSet<_> = gpt.iter().collect();
        assert_eq!(unique.len(), gpt.len());
    }

    #[test]
    fn transposed_twice_is_the_same() {
        let values: Vec<f32> = (0u8..6).map(f32::from).collect();
        assert_eq!(transpose(&values, 3), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(transpose(&transpose(&values, 3), 2), values);
    }
}
