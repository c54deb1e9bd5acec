//! Models of transformers: logits as there, and back; what is hostile is refused.

use std::collections::BTreeMap;

#[cfg(feature = "torch")]
use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::files::JobDirectory;
use ayni_ml::huggingface::{export, import};
#[cfg(feature = "torch")]
use ayni_ml::tensors::architecture_specs;
use protocol::ids::ContentHash;
use protocol::model::{Architecture, ModelSpec};
use protocol::worker::{ExportJob, ImportJob, ModelFiles, WorkerOutcome};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::file;
use crate::support::small_spec;

/// A tensor in their file: type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// As `number` in ml/bench/reference.py.
fn number(seed: usize, index: usize) -> f32 {
    let value = (index * 37 + index / 127 * 11 + seed) % 127;
    (f32::from(u8::try_from(value).expect("below 127")) - 63.0) / 512.0
}

/// As `fill` there.
fn fill(tensors: &mut Tensors, name: &str, shape: &[usize]) {
    let seed = name.bytes().zip(1..).map(|(byte, at)| usize::from(byte) * at).sum::<usize>() % 1009;
    let norm = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
    let count: usize = shape.iter().product();
    let bytes = (0..count).flat_map(|i| (number(seed, i) + norm).to_le_bytes()).collect();
    tensors.insert(name.into(), (Dtype::F32, shape.into(), bytes));
}

const W: usize = 64;
const H: usize = 176;
const V: usize = 300;

fn llama(tied: bool) -> (Value, Tensors) {
    let config = json!({
        "model_type": "llama", "hidden_size": W, "intermediate_size": H, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "vocab_size": V, "rms_norm_eps": 1e-6, "tie_word_embeddings": tied, "head_dim": 16,
        "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
    });
    let mut tensors = Tensors::new();
    fill(&mut tensors, "model.embed_tokens.weight", &[V, W]);
    fill(&mut tensors, "model.norm.weight", &[W]);
    for layer in 0..2 {
        for (part, shape) in [
            ("self_attn.q_proj", &[W, W][..]),
            ("self_attn.k_proj", &[W / 2, W]),
            ("self_attn.v_proj", &[W / 2, W]),
            ("self_attn.o_proj", &[W, W]),
            ("mlp.gate_proj", &[H, W]),
            ("mlp.up_proj", &[H, W]),
            ("mlp.down_proj", &[W, H]),
            ("input_layernorm", &[W]),
            ("post_attention_layernorm", &[W]),
        ] {
            fill(&mut tensors, &format!("model.layers.{layer}.{part}.weight"), shape);
        }
    }
    if !tied {
        fill(&mut tensors, "lm_head.weight", &[V, W]);
    }
    (config, tensors)
}

fn gpt2(tied: bool) -> (Value, Tensors) {
    let config = json!({
        "model_type": "gpt2", "n_embd": W, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "vocab_size": V, "tie_word_embeddings": tied,
    });
    let mut tensors = Tensors::new();
    fill(&mut tensors, "transformer.wte.weight", &[V, W]);
    fill(&mut tensors, "transformer.wpe.weight", &[64, W]);
    fill(&mut tensors, "transformer.ln_f.weight", &[W]);
    fill(&mut tensors, "transformer.ln_f.bias", &[W]);
    for layer in 0..2 {
        for (part, inputs, outputs) in [
            ("attn.c_attn", W, 3 * W),
            ("attn.c_proj", W, W),
            ("mlp.c_fc", W, 4 * W),
            ("mlp.c_proj", 4 * W, W),
        ] {
            let name = format!("transformer.h.{layer}.{part}");
            fill(&mut tensors, &format!("{name}.weight"), &[inputs, outputs]);
            fill(&mut tensors, &format!("{name}.bias"), &[outputs]);
        }
        for norm in ["ln_1", "ln_2"] {
            let name = format!("transformer.h.{layer}.{norm}");
            fill(&mut tensors, &format!("{name}.weight"), &[W]);
            fill(&mut tensors, &format!("{name}.bias"), &[W]);
        }
    }
    if !tied {
        fill(&mut tensors, "lm_head.weight", &[V, W]);
    }
    (config, tensors)
}

fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (kind, shape, bytes))| {
        (name, TensorView::new(*kind, shape.clone(), bytes).expect("fits"))
    });
    safetensors::serialize(views, None).expect("serializes")
}

/// A byte-level tokenizer in the manner of GPT-2, with two merges and a mark.
pub(crate) fn tokenizer_json() -> Vec<u8> {
    let plain = |byte: &u32| (33..127).contains(byte) || (161..=255).contains(byte) && *byte != 173;
    let (mut vocabulary, mut next) = (serde_json::Map::new(), 256);
    for byte in 0..256u32 {
        let symbol = if plain(&byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocabulary.insert(char::from_u32(symbol).expect("a letter").into(), byte.into());
    }
    vocabulary.insert("th".into(), 256.into());
    vocabulary.insert("the".into(), 257.into());
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 258, "content": "<|endoftext|>", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "vocab": vocabulary, "merges": [["t", "h"], ["th", "e"]]}
    })
    .to_string()
    .into_bytes()
}

/// A folder with the files of a job.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.put("tokenizer", &tokenizer_json());
        folder
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).expect("written");
    }

    fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).expect("there")
    }

    fn directory(&self) -> JobDirectory {
        JobDirectory::open(self.0.path()).expect("opens")
    }

    fn import(
        &self,
        config: &Value,
        weights: &[&str],
    ) -> Result<(Architecture, Vec<String>), String> {
        self.put("config", config.to_string().as_bytes());
        let job = ImportJob {
            config: file("config"),
            tokenizer: Some(file("tokenizer")),
            weights: weights.iter().map(|name| file(name)).collect(),
            context: None,
            checkpoint_out: file("head"),
        };
        match import(&self.directory(), &job) {
            Ok(WorkerOutcome::Imported { architecture, checkpoint, notes }) => {
                assert_eq!(checkpoint, ContentHash::of(&self.get("head")));
                Ok((architecture, notes))
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[cfg(feature = "torch")]
    fn checkpoint(&self, architecture: &Architecture) -> Checkpoint {
        Checkpoint::from_bytes(&self.get("head"), &architecture_specs(architecture)).expect("ours")
    }
}

fn spec(architecture: Architecture) -> ModelSpec {
    ModelSpec { architecture, tokenizer: Some(ContentHash::default()), ..small_spec() }
}

/// Logits of the last of 12 tokens in transformers 5.23.0 and torch 2.13.0 for the weights of
/// `fill`: `ml/bench/reference.py formula`.
#[cfg(feature = "torch")]
#[test]
fn logits_are_those_of_transformers() {
    let golden: [((Value, Tensors), [f64; 8]); 4] = [
        (
            llama(false),
            [
                -0.023_855_306,
                -0.399_734_17,
                -0.027_454_924,
                -0.104_376_49,
                -0.062_787_26,
                -0.221_567_41,
                0.532_919_5,
                -0.160_921_02,
            ],
        ),
        (
            llama(true),
            [
                0.461_945_2,
                0.010_030_345,
                0.003_447_132_7,
                0.378_165_6,
                0.179_866_12,
                0.266_428_38,
                -0.112_775_736,
                0.218_351_02,
            ],
        ),
        (
            gpt2(true),
            [
                -0.713_025_33,
                -1.078_343_5,
                1.440_788_5,
                0.545_103_8,
                -1.535_956_1,
                0.816_602_8,
                2.484_888_3,
                -1.587_881_2,
            ],
        ),
        (
            gpt2(false),
            [
                -1.664_370_8,
                1.462_491_3,
                1.694_468,
                -1.239_617_3,
                -0.555_763_4,
                2.701_431,
                -1.558_282_6,
                -0.769_370_1,
            ],
        ),
    ];
    for ((config, tensors), expected) in golden {
        use ayni_ml::torch::model::{Batch, Model, Options};
        ayni_ml::torch::prepare_thread(1);
        let folder = Folder::new();
        folder.put("weights", &safetensors(&tensors));
        let (architecture, notes) = folder.import(&config, &["weights"]).expect("imports");
        assert_eq!(notes, Vec::<String>::new());
        let checkpoint = folder.checkpoint(&architecture);
        let model =
            Model::new(&spec(architecture), &checkpoint, None, Options::inference()).expect("fits");
        let tokens: Vec<i64> = (0..12).map(|i| (7 * i + 3) % 300).collect();
        let input = tch::Tensor::from_slice(&tokens).view([1, 12]);
        let batch = Batch { target: input.copy(), input, lengths: None };
        let logits = model.logits(&batch).expect("computes").get(-1);
        for (i, expected) in (0i64..).zip(expected) {
            let ours = logits.double_value(&[i]);
            assert!((ours - expected).abs() < 1e-4, "{i}: {ours}, {expected}");
        }
    }
}

#[test]
fn exported_is_what_was_imported() {
    for (config, tensors) in [llama(false), llama(true), gpt2(true), gpt2(false)] {
        let folder = Folder::new();
        folder.put("weights", &safetensors(&tensors));
        let (architecture, _) = folder.import(&config, &["weights"]).expect("imports");
        let head = folder.get("head");
        let job = ExportJob {
            spec: spec(architecture),
            files: ModelFiles::default(),
            checkpoint: file("head"),
            config_out: file("config-out"),
            weights_out: file("weights-out"),
        };
        export(&folder.directory(), &job).expect("exports");
        let bytes = folder.get("weights-out");
        let read = safetensors::SafeTensors::deserialize(&bytes).expect("theirs reads it");
        for (name, view) in read.iter() {
            let (_, shape, bytes) = &tensors[name];
            assert_eq!((view.shape(), view.data()), (&shape[..], &bytes[..]), "{name}");
        }
        assert_eq!(read.len(), tensors.len());
        let config = serde_json::from_slice(&folder.get("config-out")).expect("JSON");
        assert_eq!(folder.import(&config, &["weights-out"]), Ok((architecture, vec![])));
        assert_eq!(folder.get("head"), head);
    }
}

/// Several files, half precision, the names of the model without its head, tables to leave out.
#[test]
fn other_forms_of_the_same_weights() {
    let (config, tensors) = gpt2(true);
    let folder = Folder::new();
    folder.put("whole", &safetensors(&tensors));
    folder.import(&config, &["whole"]).expect("imports");
    let whole = folder.get("head");

    let (mut first, mut second) = (Tensors::new(), Tensors::new());
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let name = name.trim_start_matches("transformer.").to_owned();
        if i % 2 == 0 { &mut first } else { &mut second }.insert(name, tensor.clone());
    }
    first.insert("h.0.attn.bias".into(), (Dtype::BOOL, vec![1, 1, 2, 2], vec![1; 4]));
    fill(&mut second, "lm_head.weight", &[V, W]);
    folder.put("first", &safetensors(&first));
    folder.put("second", &safetensors(&second));
    let (_, notes) = folder.import(&config, &["second", "first"]).expect("imports");
    assert!(notes.iter().any(|note| note.contains("head")), "{notes:?}");
    assert_eq!(folder.get("head"), whole);

    // Values of `fill` are multiples of 1/512 below 2: bfloat16 holds all but the norms' exactly.
    let mut halved = tensors.clone();
    for (kind, shape, bytes) in halved.values_mut() {
        if shape.len() == 2 {
            *kind = Dtype::BF16;
            *bytes = bytes.as_chunks::<4>().0.iter().flat_map(|b| [b[2], b[3]]).collect();
        }
    }
    folder.put("halved", &safetensors(&halved));
    folder.import(&config, &["halved"]).expect("imports");
    assert_eq!(folder.get("head"), whole);
}

#[test]
fn hostile_weights_are_refused() {
    let (config, tensors) = llama(false);
    let folder = Folder::new();
    let refused = |words: &str, bytes: &[u8]| {
        folder.put("weights", bytes);
        let error = folder.import(&config, &["weights"]).expect_err(words);
        assert!(error.contains(words), "{error} does not say: {words}");
        assert!(error.len() < 600, "{error}");
    };
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        safetensors(&tensors)
    };
    refused("none of the files", &changed(&|t| drop(t.remove("lm_head.weight"))));
    refused("belongs to no model", &changed(&|t| fill(t, "model.extra", &[2])));
    refused("shape", &changed(&|t| fill(t, "model.norm.weight", &[W + 1])));
    refused("comes twice", &changed(&|t| fill(t, "embed_tokens.weight", &[V, W])));
    refused(
        "quantized",
        &changed(&|t| drop(t.insert("model.norm.weight".into(), (Dtype::I8, vec![W], vec![0; W])))),
    );
    refused(
        "finite",
        &changed(&|t| {
            let bytes = f32::NAN.to_le_bytes().repeat(W);
            t.insert("model.norm.weight".into(), (Dtype::F32, vec![W], bytes));
        }),
    );
    let good = safetensors(&tensors);
    refused("not safetensors", &good[..good.len() - 1]);
    refused("not safetensors", &good[..5]);
    refused("not safetensors", &[255; 64]);
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused("not safetensors", &huge);
    let header = br#"{"a":{"dtype":"F32","shape":[9223372036854775807,8],"data_offsets":[0,4]}}"#;
    let mut overflow = u64::try_from(header.len()).expect("short").to_le_bytes().to_vec();
    overflow.extend_from_slice(header);
    overflow.extend_from_slice(&[0; 4]);
    refused("not safetensors", &overflow);
    refused("not safetensors", b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01u.");
    folder.put("weights", &good);
    let twice = folder.import(&config, &["weights", "weights"]).expect_err("twice");
    assert!(twice.contains("comes twice"));
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_read() {
    let (config, tensors) = llama(false);
    let folder = Folder::new();
    folder.put("weights", &safetensors(&tensors));
    let with = |field: &str, value: Value| {
        let mut config = config.clone();
        config[field] = value;
        folder.import(&config, &["weights"]).expect_err(field)
    };
    let mut large = config.clone();
    large["num_hidden_layers"] = 99.into();
    large["intermediate_size"] = 65_536.into();
    assert!(folder.import(&large, &["weights"]).expect_err("1.2e9").contains("parameters"));
    assert!(with("num_hidden_layers", 100.into()).contains("layers"));
    assert!(with("vocab_size", 258.into()).contains("258 symbols"));
    assert!(with("num_key_value_heads", 3.into()).contains("kv_heads"));
    assert!(with("max_position_embeddings", 1_000_000.into()).contains("context"));
    folder.put("tokenizer", b"{}");
    assert!(folder.import(&config, &["weights"]).expect_err("no tokenizer").contains("tokenizer"));
}
