//! An adapter folded into its base: W + (alpha / rank) B A.

use protocol::model::Adapter;

use crate::arithmetic::{narrow, ratio};
use crate::checkpoint::Checkpoint;

/// The base with the adapter in it. Call only with checkpoints that were read for one
/// specification.
pub fn fold(mut base: Checkpoint, adapter: &Checkpoint, settings: &Adapter) -> Checkpoint {
    let scale = ratio(settings.alpha) / ratio(settings.rank);
    let find = |name: String| adapter.tensors.iter().find(|tensor| tensor.spec.name == name);
    for tensor in &mut base.tensors {
        let Some(name) = tensor.spec.name.strip_suffix(".weight") else { continue };
        let (Some(down), Some(up)) =
            (find(format!("{name}.lora_a")), find(format!("{name}.lora_b")))
        else {
            continue;
        };
        let (inputs, rank) = (tensor.spec.shape[1], down.spec.shape[0]);
        let mut sums = vec![0.0f64; inputs];
        for (row, factors) in
            tensor.values.chunks_exact_mut(inputs).zip(up.values.chunks_exact(rank))
        {
            sums.fill(0.0);
            for (factor, line) in factors.iter().zip(down.values.chunks_exact(inputs)) {
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum += f64::from(*factor) * f64::from(*value);
                }
            }
            for (weight, sum) in row.iter_mut().zip(&sums) {
                *weight = narrow(f64::from(*weight) + scale * sum);
            }
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use protocol::ids::ContentHash;

    use super::*;
    use crate::tensors::tests::each;
    use crate::tensors::{adapter_specs, architecture_specs};

    #[test]
    fn by_hand() {
        let architecture = each()[3].architecture;
        let adapter = Adapter { base: ContentHash::default(), rank: 2, alpha: 6 };
        let base = Checkpoint::zeros(&architecture_specs(&architecture));
        let mut low = Checkpoint::zeros(&adapter_specs(&architecture, 2));
        for tensor in &mut low.tensors {
            let name = &tensor.spec.name;
            if name == "blocks.01.attention.key.lora_a" {
                tensor.values[3] = 2.0;
            } else if name == "blocks.01.attention.key.lora_b" {
                tensor.values[2] = 5.0;
            }
        }
        let folded = fold(base.clone(), &low, &adapter);
        for (tensor, before) in folded.tensors.iter().zip(&base.tensors) {
            if tensor.spec.name != "blocks.01.attention.key.weight" {
                assert_eq!(tensor, before);
                continue;
            }
            // Row 1 (values 2 and 3 of B), column 3: 6 / 2 * 5 * 2.
            let at = tensor.spec.shape[1] + 3;
            assert_eq!(tensor.values[at], 30.0);
            assert_eq!(tensor.values.iter().filter(|value| **value != 0.0).count(), 1);
        }
    }
}
