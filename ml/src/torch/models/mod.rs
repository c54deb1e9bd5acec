//! The architectures, one file each. Adding one is a file here, its tensors in
//! [`crate::tensors`], its beginning in [`crate::initialize`] and an arm below.

mod cnn;
mod gpt;
mod llama;
mod mlp;
mod text_classifier;

use protocol::model::Architecture;
use tch::TchError;

use super::layers::Weights;
use super::model::Network;

/// The network of an architecture over some weights.
pub(super) fn network(
    architecture: &Architecture,
    weights: &Weights<'_>,
) -> Result<Box<dyn Network>, TchError> {
    Ok(match *architecture {
        Architecture::BytesGpt { layers, heads, context, .. } => {
            Box::new(gpt::Gpt::new(weights, layers, heads, context, gpt::Form::Bytes)?)
        }
        Architecture::Gpt { layers, heads, context, tied, .. } => {
            let form = if tied { gpt::Form::Tied } else { gpt::Form::Untied };
            Box::new(gpt::Gpt::new(weights, layers, heads, context, form)?)
        }
        Architecture::Llama { .. } => Box::new(llama::Llama::new(weights, architecture)?),
        Architecture::Mlp { layers, .. } => Box::new(mlp::Mlp::new(weights, layers)?),
        Architecture::Cnn { .. } => Box::new(cnn::Cnn::new(weights, architecture)?),
        Architecture::TextClassifier { layers, heads, .. } => {
            Box::new(text_classifier::TextClassifier::new(weights, layers, heads)?)
        }
    })
}
