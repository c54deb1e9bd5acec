//! `config.json`: what it says of the shape, and what in it is refused.

use protocol::model::{Architecture, BYTE_VOCABULARY};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Epsilon of the layer norms of GPT-2, the only one built here.
const NORM_EPSILON_GPT: f64 = 1e-5;

/// Why a configuration was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum ConfigError {
    /// Not a configuration.
    #[error("not a config.json: {0}")]
    Format(String),
    /// A family that is not built here.
    #[error("model type {0:?} is not built here: llama and gpt2 are")]
    ModelType(String),
    /// A field that is missing or of another type.
    #[error("{0} is missing, or not a whole number that fits")]
    Field(&'static str),
    /// A setting that would change what the model computes.
    #[error("{field} = {value} changes what the model computes and is not built here")]
    Unsupported {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A longer context than the model has.
    #[error("a context of {asked} tokens is asked for, the model has {has}")]
    Context {
        /// Asked for.
        asked: u32,
        /// In the file.
        has: u32,
    },
    /// An architecture that has no form there.
    #[error("this architecture has no form that transformers reads: GPT and Llama have")]
    Foreign,
}

/// What a configuration says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) architecture: Architecture,
    /// Rows of the position embedding in the files, where the model has one.
    pub(super) positions: Option<usize>,
    /// What was assumed or left out.
    pub(super) notes: Vec<String>,
}

/// Settings that matter only for training by `transformers`, for its own files or for its
/// generation, or are read elsewhere here.
const HARMLESS: [&str; 45] = [
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "bos_token_id",
    "decoder_start_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "gradient_checkpointing",
    "hidden_size",
    "id2label",
    "initializer_range",
    "intermediate_size",
    "is_decoder",
    "label2id",
    "max_position_embeddings",
    "n_ctx",
    "n_embd",
    "n_head",
    "n_layer",
    "n_positions",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "resid_pdrop",
    "rms_norm_eps",
    "rope_theta",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vocab_size",
    "model_type",
    "mlp_hidden_size",
    "output_attentions",
    "output_hidden_states",
];

/// Settings with the one value that is built here; absent or null means that value.
fn fixed(llama: bool) -> Vec<(&'static str, Vec<Value>)> {
    let mut fields: Vec<(&'static str, Vec<Value>)> = vec![
        ("quantization_config", vec![]),
        ("sliding_window", vec![]),
        ("use_sliding_window", vec![false.into()]),
        ("add_cross_attention", vec![false.into()]),
        ("is_encoder_decoder", vec![false.into()]),
        ("pruned_heads", vec![json!({})]),
        ("chunk_size_feed_forward", vec![0.into()]),
    ];
    if llama {
        fields.extend([
            ("attention_bias", vec![false.into()]),
            ("mlp_bias", vec![false.into()]),
            ("hidden_act", vec!["silu".into(), "swish".into()]),
            ("partial_rotary_factor", vec![1.into(), json!(1.0)]),
            ("pretraining_tp", vec![1.into()]),
            ("logits_scaling", vec![1.into(), json!(1.0)]),
            ("attention_multiplier", vec![]),
            ("embedding_multiplier", vec![1.into(), json!(1.0)]),
            ("residual_multiplier", vec![1.into(), json!(1.0)]),
        ]);
    } else {
        fields.extend([
            ("scale_attn_weights", vec![true.into()]),
            ("scale_attn_by_inverse_layer_idx", vec![false.into()]),
            ("reorder_and_upcast_attn", vec![false.into()]),
        ]);
    }
    fields
}

/// Reads a configuration. `context`: longest context to keep, if not all of it.
pub(super) fn parse(bytes: &[u8], context: Option<u32>) -> Result<Config, ConfigError> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| ConfigError::Format(error.to_string()))?;
    let fields = value.as_object().ok_or_else(|| ConfigError::Format("no object".into()))?;
    let kind = fields.get("model_type").and_then(Value::as_str).unwrap_or("");
    let llama = match kind {
        "llama" => true,
        "gpt2" => false,
        other => return Err(ConfigError::ModelType(other.chars().take(40).collect())),
    };
    let fixed = fixed(llama);
    for (field, allowed) in &fixed {
        match fields.get(*field) {
            None | Some(Value::Null) => {}
            Some(value) if allowed.contains(value) => {}
            Some(value) => return Err(unsupported(field, value)),
        }
    }
    let mut config = if llama { parse_llama(fields)? } else { parse_gpt(fields)? };
    shorten(&mut config, context)?;
    let read_elsewhere = [
        "rope_scaling",
        "rope_parameters",
        "head_dim",
        "n_inner",
        "activation_function",
        "layer_norm_epsilon",
    ];
    let unknown: Vec<&str> = fields
        .keys()
        .map(String::as_str)
        .filter(|key| !HARMLESS.contains(key) && !read_elsewhere.contains(key))
        .filter(|key| !fixed.iter().any(|(field, _)| field == key))
        .take(16)
        .collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        config.notes.push(format!("settings that were not read: {names:.400}"));
    }
    Ok(config)
}

fn parse_llama(fields: &Map<String, Value>) -> Result<Config, ConfigError> {
    let (width, heads) = (whole(fields, "hidden_size")?, whole(fields, "num_attention_heads")?);
    let head = width.checked_div(heads).unwrap_or(0);
    if let Some(value) = present(fields, "head_dim")
        && value.as_u64() != Some(u64::from(head))
    {
        return Err(unsupported("head_dim", value));
    }
    let kv_heads = match present(fields, "num_key_value_heads") {
        None => heads,
        Some(_) => whole(fields, "num_key_value_heads")?,
    };
    let rope_theta = rope(fields)?;
    let epsilon = number(fields, "rms_norm_eps", 1e-6)?;
    let norm_epsilon_ppb = rounded(epsilon * 1e9).ok_or_else(|| {
        let value = fields.get("rms_norm_eps").unwrap_or(&Value::Null);
        unsupported("rms_norm_eps", value)
    })?;
    let architecture = Architecture::Llama {
        layers: whole(fields, "num_hidden_layers")?,
        width,
        heads,
        kv_heads,
        hidden: whole(fields, "intermediate_size")?,
        context: whole(fields, "max_position_embeddings")?,
        vocabulary: whole(fields, "vocab_size")?,
        rope_theta,
        norm_epsilon_ppb,
        tied: flag(fields, "tie_word_embeddings", false)?,
    };
    Ok(Config { architecture, positions: None, notes: vec![] })
}

/// The base of the rotary frequencies, under its old and its new name; scaled ones are refused.
fn rope(fields: &Map<String, Value>) -> Result<u32, ConfigError> {
    let mut theta = None;
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(value) = present(fields, field) else { continue };
        let inner = value.as_object().ok_or_else(|| unsupported(field, value))?;
        for (key, setting) in inner {
            match key.as_str() {
                "rope_type" | "type" if setting == "default" => {}
                "rope_theta" => theta = Some(number(inner, "rope_theta", 0.0)?),
                "partial_rotary_factor" if setting.as_f64() == Some(1.0) => {}
                _ => return Err(unsupported(field, value)),
            }
        }
    }
    // The outer field wins nothing: where both are given they must agree.
    if let Some(value) = present(fields, "rope_theta") {
        let outer = number(fields, "rope_theta", 0.0)?;
        if theta.is_some_and(|inner| inner != outer) {
            return Err(unsupported("rope_theta", value));
        }
        theta = Some(outer);
    }
    let theta = theta.unwrap_or(10_000.0);
    rounded(theta).ok_or_else(|| unsupported("rope_theta", &json!(theta)))
}

fn parse_gpt(fields: &Map<String, Value>) -> Result<Config, ConfigError> {
    let width = whole(fields, "n_embd")?;
    if let Some(value) = present(fields, "n_inner")
        && value.as_u64() != Some(u64::from(width).saturating_mul(4))
    {
        return Err(unsupported("n_inner", value));
    }
    if number(fields, "layer_norm_epsilon", NORM_EPSILON_GPT)? != NORM_EPSILON_GPT {
        let value = fields.get("layer_norm_epsilon").unwrap_or(&Value::Null);
        return Err(unsupported("layer_norm_epsilon", value));
    }
    let activation = fields.get("activation_function").and_then(Value::as_str);
    let tied = flag(fields, "tie_word_embeddings", true)?;
    let (layers, heads) = (whole(fields, "n_layer")?, whole(fields, "n_head")?);
    let (context, vocabulary) = (whole(fields, "n_positions")?, whole(fields, "vocab_size")?);
    let architecture = match activation.unwrap_or("gelu_new") {
        "gelu_new" | "gelu_pytorch_tanh" => {
            Architecture::Gpt { layers, width, heads, context, vocabulary, tied }
        }
        // The byte-level GPT, as it is exported.
        "gelu" if vocabulary == BYTE_VOCABULARY && !tied => {
            Architecture::BytesGpt { layers, width, heads, context }
        }
        other => return Err(unsupported("activation_function", &json!(other))),
    };
    let positions = usize::try_from(context).map_err(|_| ConfigError::Field("n_positions"))?;
    Ok(Config { architecture, positions: Some(positions), notes: vec![] })
}

/// Keeps only the first positions.
fn shorten(config: &mut Config, asked: Option<u32>) -> Result<(), ConfigError> {
    let Some(asked) = asked else { return Ok(()) };
    if let Architecture::BytesGpt { context, .. }
    | Architecture::Gpt { context, .. }
    | Architecture::Llama { context, .. } = &mut config.architecture
    {
        if asked > *context {
            return Err(ConfigError::Context { asked, has: *context });
        }
        if asked < *context {
            config.notes.push(format!("the context is cut from {context} to {asked} tokens"));
        }
        *context = asked;
    }
    Ok(())
}

/// The configuration of an architecture, as `transformers` reads it.
pub(super) fn write(architecture: &Architecture) -> Result<String, ConfigError> {
    let value = match *architecture {
        Architecture::BytesGpt { layers, width, heads, context } => {
            gpt(layers, width, heads, context, BYTE_VOCABULARY, false, "gelu")
        }
        Architecture::Gpt { layers, width, heads, context, vocabulary, tied } => {
            gpt(layers, width, heads, context, vocabulary, tied, "gelu_new")
        }
        Architecture::Llama {
            layers,
            width,
            heads,
            kv_heads,
            hidden,
            context,
            vocabulary,
            rope_theta,
            norm_epsilon_ppb,
            tied,
        } => json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": hidden,
            "max_position_embeddings": context,
            "vocab_size": vocabulary,
            "rope_theta": f64::from(rope_theta),
            "rms_norm_eps": f64::from(norm_epsilon_ppb) / 1e9,
            "tie_word_embeddings": tied,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": null,
            "eos_token_id": null,
            "torch_dtype": "float32",
        }),
        Architecture::Mlp { .. }
        | Architecture::Cnn { .. }
        | Architecture::TextClassifier { .. } => return Err(ConfigError::Foreign),
    };
    Ok(format!("{value:#}\n"))
}

fn gpt(
    layers: u32,
    width: u32,
    heads: u32,
    context: u32,
    vocabulary: u32,
    tied: bool,
    activation: &str,
) -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": layers,
        "n_embd": width,
        "n_head": heads,
        "n_positions": context,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "activation_function": activation,
        "layer_norm_epsilon": NORM_EPSILON_GPT,
        "bos_token_id": null,
        "eos_token_id": null,
        "torch_dtype": "float32",
    })
}

fn present<'a>(fields: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    fields.get(field).filter(|value| !value.is_null())
}

fn whole(fields: &Map<String, Value>, field: &'static str) -> Result<u32, ConfigError> {
    let number = fields.get(field).and_then(Value::as_u64);
    number.and_then(|n| u32::try_from(n).ok()).ok_or(ConfigError::Field(field))
}

fn number(
    fields: &Map<String, Value>,
    field: &'static str,
    default: f64,
) -> Result<f64, ConfigError> {
    match present(fields, field) {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or(ConfigError::Field(field)),
    }
}

fn flag(
    fields: &Map<String, Value>,
    field: &'static str,
    default: bool,
) -> Result<bool, ConfigError> {
    match present(fields, field) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or(ConfigError::Field(field)),
    }
}

/// A number that is whole but for the rounding of its decimal form.
fn rounded(value: f64) -> Option<u32> {
    let near = value.round();
    let whole = (value - near).abs() <= 1e-9 * near.abs();
    (whole && (1.0..=f64::from(u32::MAX)).contains(&near)).then_some(near as u32)
}

fn unsupported(field: &'static str, value: &Value) -> ConfigError {
    ConfigError::Unsupported { field, value: value.to_string().chars().take(120).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::tests::each;

    #[test]
    fn written_and_read() {
        for spec in each() {
            let text = write(&spec.architecture);
            match spec.architecture {
                Architecture::BytesGpt { .. }
                | Architecture::Gpt { .. }
                | Architecture::Llama { .. } => {
                    let config = parse(text.expect("has a form").as_bytes(), None).expect("ours");
                    assert_eq!(config.architecture, spec.architecture);
                    assert_eq!(config.notes, Vec::<String>::new());
                }
                _ => assert_eq!(text, Err(ConfigError::Foreign)),
            }
        }
    }

    #[test]
    fn what_changes_the_logits_is_refused_by_name() {
        let text = |index: usize| write(&each()[index].architecture).expect("has a form");
        let check = |index: usize, field: &str, value: Value, names: &str| {
            let mut config: Value = serde_json::from_str(&text(index)).expect("JSON");
            config[field] = value;
            let error = parse(config.to_string().as_bytes(), None).expect_err(field).to_string();
            assert!(error.contains(names), "{field}: {error}");
        };
        for (field, value) in [
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("hidden_act", json!("gelu")),
            ("sliding_window", json!(4096)),
            ("quantization_config", json!({"bits": 4})),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
            ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 10_000.0})),
            ("rope_parameters", json!({"rope_type": "default", "rope_theta": 5.0})),
            ("head_dim", json!(99)),
            ("rms_norm_eps", json!(1.5e-10)),
            ("rope_theta", json!(0.5)),
            ("vocab_size", json!(-1)),
            ("num_hidden_layers", json!(4_294_967_296u64)),
        ] {
            let name = if value["rope_theta"] == 5.0 { "rope_theta" } else { field };
            check(3, field, value, name);
        }
        for (field, value) in [
            ("activation_function", json!("relu")),
            ("n_inner", json!(7)),
            ("layer_norm_epsilon", json!(1e-6)),
            ("scale_attn_by_inverse_layer_idx", json!(true)),
            ("add_cross_attention", json!(true)),
        ] {
            check(1, field, value, field);
        }
        check(1, "model_type", json!("mamba"), "mamba");
        let mut config: Value = serde_json::from_str(&text(3)).expect("JSON");
        config["new_setting"] = 1.into();
        let bytes = config.to_string();
        let notes = parse(bytes.as_bytes(), Some(8)).expect("noted only").notes;
        assert!(notes.iter().any(|note| note.contains("new_setting")), "{notes:?}");
        let longer = parse(bytes.as_bytes(), Some(17));
        assert_eq!(longer, Err(ConfigError::Context { asked: 17, has: 16 }));
        assert!(parse(b"[]", None).is_err());
    }
}
