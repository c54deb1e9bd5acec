//! `ayni model create` and `ayni model import`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ayni_cli::client::{Client, ClientError, Pieces};
use clap::{Args, ValueEnum};
use protocol::api::{
    AddMode, AddRequest, CreateModelRequest, ErrorCode, JobResult, ModelOrigin, ModelRef,
    UploadQuery,
};
use protocol::ids::ContentHash;
use protocol::model::{Architecture, BYTE_VOCABULARY, InputKind};

use crate::commands::data::absolute;
use crate::context::Context;
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::{clean, pairs};

/// Bytes of a suite that are looked at at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Shapes that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// Transformer over bytes, learned positions
    BytesGpt,
    /// GPT-2
    Gpt,
    /// Llama: rotary positions, grouped-query attention, SwiGLU
    Llama,
    /// Classifier of rows of numbers
    Mlp,
    /// Classifier of images
    Cnn,
    /// Classifier of texts
    TextClassifier,
}

/// What every new model has.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Name: 1 to 64 characters of a-z 0-9 . - _
    name: String,
    /// File on which deltas are judged: text, or records for a classifier
    #[arg(long, value_name = "FILE", required_unless_present = "suite_hash")]
    suite: Option<PathBuf>,
    /// The same as a blob that the node has already
    #[arg(long, value_name = "HASH", conflicts_with = "suite")]
    suite_hash: Option<ContentHash>,
    /// SPDX expression of the weights' licence
    #[arg(long, default_value = "CC0-1.0")]
    licence: String,
}

/// A new model.
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    common: Common,
    /// The shape
    #[arg(long, value_enum, default_value_t = Shape::BytesGpt)]
    architecture: Shape,
    /// Blocks, or hidden layers
    #[arg(long, default_value_t = 4)]
    layers: u32,
    /// Residual width, a multiple of heads; columns of an image
    #[arg(long, default_value_t = 128)]
    width: u32,
    /// Attention heads
    #[arg(long, default_value_t = 4)]
    heads: u32,
    /// Heads of keys and values (llama) [default: as many as heads]
    #[arg(long)]
    kv_heads: Option<u32>,
    /// Width inside the feed-forward (llama) or of the hidden layers (mlp)
    /// [default: 8/3 of the width, or 128]
    #[arg(long)]
    hidden: Option<u32>,
    /// Context length in tokens (bytes without a tokenizer)
    #[arg(long, default_value_t = 128)]
    context: u32,
    /// tokenizer.json; without it the model reads bytes
    #[arg(long, value_name = "FILE", requires = "vocabulary")]
    tokenizer: Option<PathBuf>,
    /// Symbols of the tokenizer
    #[arg(long)]
    vocabulary: Option<u32>,
    /// Classes of a classifier
    #[arg(long, default_value_t = 10)]
    classes: u32,
    /// Numbers of a row (mlp)
    #[arg(long, default_value_t = 16)]
    inputs: u32,
    /// Rows of an image (cnn)
    #[arg(long, default_value_t = 28)]
    height: u32,
    /// Bytes of a pixel (cnn)
    #[arg(long, default_value_t = 1)]
    channels: u32,
    /// Features of the first convolution (cnn)
    #[arg(long, default_value_t = 32)]
    features: u32,
    /// Seed of the initial weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Train a low-rank adapter on this model instead; its weights stay frozen
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["architecture", "tokenizer"])]
    adapter_of: Option<ModelRef>,
    /// Rank of the adapter
    #[arg(long, default_value_t = 8)]
    rank: u32,
    /// Scale of the adapter: it counts alpha / rank
    #[arg(long, default_value_t = 16)]
    alpha: u32,
}

/// A model in Hugging Face's format.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    #[command(flatten)]
    common: Common,
    /// Folder with config.json, the safetensors files and, if there is one, tokenizer.json
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// Longest context to keep [default: what the configuration says]
    #[arg(long)]
    context: Option<u32>,
}

impl CreateArguments {
    fn shape(&self) -> Architecture {
        let Self { layers, width, heads, context, classes, .. } = *self;
        let vocabulary = self.vocabulary.unwrap_or(BYTE_VOCABULARY);
        match self.architecture {
            Shape::BytesGpt => Architecture::BytesGpt { layers, width, heads, context },
            Shape::Gpt => {
                Architecture::Gpt { layers, width, heads, context, vocabulary, tied: true }
            }
            Shape::Llama => Architecture::Llama {
                layers,
                width,
                heads,
                kv_heads: self.kv_heads.unwrap_or(heads),
                // As published: two thirds of four times the width, in whole 32s.
                hidden: self
                    .hidden
                    .unwrap_or_else(|| (width.saturating_mul(8) / 3).next_multiple_of(32)),
                context,
                vocabulary,
                rope_theta: 10_000,
                norm_epsilon_ppb: 10_000,
                tied: true,
            },
            Shape::Mlp => Architecture::Mlp {
                inputs: self.inputs,
                hidden: self.hidden.unwrap_or(128),
                layers,
                classes,
            },
            Shape::Cnn => Architecture::Cnn {
                height: self.height,
                width,
                channels: self.channels,
                features: self.features,
                classes,
                mean_ppm: 500_000,
                deviation_ppm: 500_000,
            },
            Shape::TextClassifier => {
                Architecture::TextClassifier { layers, width, heads, context, vocabulary, classes }
            }
        }
    }
}

pub(super) async fn create(context: &Context, arguments: CreateArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let origin = match &arguments.adapter_of {
        Some(base) => ModelOrigin::Adapter {
            base: base.clone(),
            rank: arguments.rank,
            alpha: arguments.alpha,
            seed: arguments.seed,
        },
        None => ModelOrigin::Seed {
            architecture: arguments.shape(),
            tokenizer: match &arguments.tokenizer {
                Some(file) => Some(give(context, &client, file).await?),
                None => None,
            },
            seed: arguments.seed,
        },
    };
    register(context, &client, arguments.common, origin).await
}

pub(super) async fn import(context: &Context, arguments: ImportArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let files = ModelFolder::read(&arguments.from)?;
    let mut weights = Vec::new();
    for file in &files.weights {
        weights.push(give(context, &client, file).await?);
    }
    let origin = ModelOrigin::Import {
        config: give(context, &client, &files.config).await?,
        tokenizer: match &files.tokenizer {
            Some(file) => Some(give(context, &client, file).await?),
            None => None,
        },
        weights,
        context: arguments.context,
    };
    register(context, &client, arguments.common, origin).await
}

async fn register(
    context: &Context,
    client: &Client,
    common: Common,
    origin: ModelOrigin,
) -> Result<(), Failure> {
    let evaluation_suite = match (common.suite_hash, &common.suite) {
        (Some(hash), _) => hash,
        (None, Some(file)) => {
            if reads_text(&origin) {
                check_text(file)?;
            }
            give(context, client, file).await?
        }
        (None, None) => return Err(Failure::new(USAGE, "give --suite or --suite-hash")),
    };
    let request =
        CreateModelRequest { name: common.name, origin, evaluation_suite, licence: common.licence };
    let job = client.create_model(&request).await?;
    let result = context.wait(client, job).await?;
    context.output.show(&result, || {
        let JobResult::CreateModel { model, parameters, initial_checkpoint, notes, receipt } =
            &result
        else {
            return "Done.".to_owned();
        };
        let mut rows = vec![
            ("model", model.to_string()),
            ("parameters", parameters.to_string()),
            ("initial weights", initial_checkpoint.to_string()),
            ("final in block", receipt.height.to_string()),
        ];
        rows.extend(notes.iter().map(|note| ("note", clean(note))));
        let name = &request.name;
        format!("The model is registered.\n\n{}\nNext: ayni train open {name}", pairs(&rows))
    })
}

/// Whether the model predicts text, as far as that is known here.
fn reads_text(origin: &ModelOrigin) -> bool {
    match origin {
        ModelOrigin::Seed { architecture, .. } => {
            matches!(architecture.input(), InputKind::Text { .. })
        }
        ModelOrigin::Import { .. } => true,
        ModelOrigin::Adapter { .. } => false,
    }
}

/// Refuses a suite that is not UTF-8 text. Reads it in pieces: it may be large.
fn check_text(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let unreadable = |error| Failure::new(USAGE, format!("cannot read {shown}: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).map_err(unreadable)?;
        let end = kept + read;
        let valid = match std::str::from_utf8(&buffer[..end]) {
            Ok(_) => end,
            // A character that the piece has cut goes on in the next one.
            Err(error) if error.error_len().is_none() && read > 0 => error.valid_up_to(),
            Err(_) => {
                return Err(Failure::new(USAGE, format!("{shown} is not UTF-8 text"))
                    .with_hint("the suite is the text on which deltas are judged"));
            }
        };
        if read == 0 {
            return Ok(());
        }
        buffer.copy_within(valid..end, 0);
        kept = end - valid;
    }
}

/// Gives the node a file as a blob: by path where it may open it, else by sending the bytes.
async fn give(context: &Context, client: &Client, path: &Path) -> Result<ContentHash, Failure> {
    let request = AddRequest {
        path: absolute(path)?,
        mode: AddMode::Copy,
        name: None,
        chunked: false,
        announce: true,
    };
    match client.add_data(&request).await {
        Ok(job) => match context.wait_transfer(client, job).await? {
            JobResult::AddData { hash, collection: false, .. } => Ok(hash),
            _ => Err(Failure::new(USAGE, format!("{} is not a file", path.display()))),
        },
        Err(ClientError::Api(error)) if error.code == ErrorCode::Denied => {
            let unreadable = |error: std::io::Error| {
                Failure::new(USAGE, format!("cannot read {}: {error}", path.display()))
            };
            let file = File::open(path).map_err(unreadable)?;
            let bytes = file.metadata().map_err(unreadable)?.len();
            let options = UploadQuery { name: None, announce: Some(true), bytes: Some(bytes) };
            Ok(client.upload(&options, Pieces::new(file, |_| ())).await?.hash)
        }
        Err(error) => Err(error.into()),
    }
}

/// The files of a model in Hugging Face's format.
struct ModelFolder {
    config: PathBuf,
    tokenizer: Option<PathBuf>,
    weights: Vec<PathBuf>,
}

impl ModelFolder {
    fn read(folder: &Path) -> Result<Self, Failure> {
        let shown = folder.display();
        let entries = std::fs::read_dir(folder)
            .map_err(|error| Failure::new(USAGE, format!("cannot read {shown}: {error}")))?;
        let mut weights: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
            .collect();
        weights.sort();
        if weights.is_empty() {
            return Err(Failure::new(FAILED, format!("{shown} has no .safetensors file"))
                .with_hint(
                    "only safetensors are read: a .bin, .pt or .pth file can run code when it is \
                     opened; convert it where you trust it",
                ));
        }
        let config = folder.join("config.json");
        if !config.is_file() {
            return Err(Failure::new(FAILED, format!("{shown} has no config.json")));
        }
        let tokenizer = Some(folder.join("tokenizer.json")).filter(|path| path.is_file());
        Ok(Self { config, tokenizer, weights })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_text_wherever_a_piece_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("suite");
        let check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            check_text(&path).is_ok()
        };
        for before in 0..4 {
            let text = format!("{}{}", "a".repeat(before), "\u{20ac}".repeat(PIECE_BYTES));
            assert!(check(text.as_bytes()), "{before}");
            assert!(!check(&text.as_bytes()[..text.len() - 1]), "the last character is cut");
        }
        assert!(check(b""));
        assert!(!check(b"a\xffb"));
    }

    #[test]
    fn a_model_folder_has_safetensors_and_a_configuration() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let refused = |expect: &str| {
            let error = ModelFolder::read(path).err().expect("refused").message().to_owned();
            assert!(error.contains(expect), "{error}");
        };
        refused("no .safetensors file");
        std::fs::write(path.join("pytorch_model.bin"), b"x").expect("written");
        refused("no .safetensors file");
        for name in ["b.safetensors", "a.safetensors"] {
            std::fs::write(path.join(name), b"x").expect("written");
        }
        refused("no config.json");
        std::fs::write(path.join("config.json"), b"{}").expect("written");
        let files = ModelFolder::read(path).expect("whole");
        assert_eq!(files.weights, [path.join("a.safetensors"), path.join("b.safetensors")]);
        assert_eq!(files.tokenizer, None);
    }
}
