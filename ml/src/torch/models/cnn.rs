//! Classifier of images: two convolutions, a maximum, a hidden layer.
//!
//! The shape that comparisons of Byzantine-robust training use for MNIST. Convolutions stay in
//! f32 whatever the precision: they are small here.

use protocol::model::Architecture;
use tch::{Kind, TchError, Tensor};

use crate::arithmetic::ratio;
use crate::torch::layers::{Linear, Weights};
use crate::torch::model::{Batch, Network};

/// The network: the convolutions are one stage, the hidden layer another.
pub(super) struct Cnn {
    first: Convolution,
    second: Convolution,
    hidden: Linear,
    head: Linear,
    /// Rows, columns and bytes of a pixel.
    image: [i64; 3],
    mean: f64,
    deviation: f64,
    /// Trained tensors of the stages.
    trained: [Vec<usize>; 2],
}

struct Convolution {
    weight: Tensor,
    bias: Tensor,
}

impl Convolution {
    fn new(weights: &Weights<'_>, name: &str) -> Self {
        Self {
            weight: weights.tensor(&format!("{name}.weight")),
            bias: weights.tensor(&format!("{name}.bias")),
        }
    }

    /// 3x3, stride 1, no padding, then ReLU.
    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_conv2d(&self.weight, Some(&self.bias), [1, 1], [0, 0], [1, 1], 1)?.f_relu()
    }
}

impl Cnn {
    pub(super) fn new(weights: &Weights<'_>, shape: &Architecture) -> Result<Self, TchError> {
        let Architecture::Cnn { height, width, channels, mean_ppm, deviation_ppm, .. } = *shape
        else {
            unreachable!("called for this architecture only")
        };
        Ok(Self {
            first: Convolution::new(weights, "convolution1"),
            second: Convolution::new(weights, "convolution2"),
            hidden: weights.linear("hidden")?,
            head: weights.linear("head")?,
            image: [i64::from(height), i64::from(width), i64::from(channels)],
            mean: ratio(mean_ppm),
            deviation: ratio(deviation_ppm),
            trained: [weights.trained("convolution"), weights.trained("hidden")],
        })
    }
}

impl Network for Cnn {
    fn stages(&self) -> usize {
        self.trained.len()
    }

    /// Pixels to numbers around 0, channels first.
    fn begin(&self, batch: &Batch) -> Result<Tensor, TchError> {
        let [height, width, channels] = self.image;
        batch
            .input
            .f_to_kind(Kind::Float)?
            .f_div_scalar(255.0)?
            .f_sub_scalar(self.mean)?
            .f_div_scalar(self.deviation)?
            .f_view([-1, height, width, channels])?
            .f_permute([0, 3, 1, 2])?
            .f_contiguous()
    }

    fn stage(&self, index: usize, stream: &Tensor, _: &Batch) -> Result<Tensor, TchError> {
        if index > 0 {
            return self.hidden.forward(&stream.f_flatten(1, -1)?)?.f_relu();
        }
        self.second.forward(&self.first.forward(stream)?)?.f_max_pool2d(
            [2, 2],
            [2, 2],
            [0, 0],
            [1, 1],
            false,
        )
    }

    fn end(&self, stream: &Tensor, _: &Batch) -> Result<Tensor, TchError> {
        self.head.forward(stream)?.f_to_kind(Kind::Float)
    }

    fn stage_parameters(&self, index: usize) -> Vec<usize> {
        self.trained[index].clone()
    }
}
