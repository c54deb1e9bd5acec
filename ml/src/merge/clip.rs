//! How much of each delta counts: per tensor, norms are cut down to the lower median.

use protocol::model::OuterState;

use super::MergeError;
use crate::delta::{Delta, DeltaTensor};

/// Clipping norms and what follows from them.
pub(super) struct Clipping {
    /// Clipping norm of each tensor.
    pub(super) clips: Vec<f32>,
    /// What each delta's tensors are multiplied with: `[delta][tensor]`.
    pub(super) scales: Vec<Vec<f64>>,
}

impl Clipping {
    /// `deltas` are all submitted ones; `None` counts for nothing.
    pub(super) fn new(
        state: &OuterState,
        deltas: &[Option<Delta>],
        tensors: usize,
    ) -> Result<Self, MergeError> {
        let previous = previous_clips(state, tensors)?;
        let norms: Vec<Vec<f32>> = deltas
            .iter()
            .map(|delta| match delta {
                Some(delta) => delta.tensors.iter().map(DeltaTensor::norm).collect(),
                None => vec![0.0; tensors],
            })
            .collect();
        let decoded = deltas.iter().flatten().count();
        let clips = (0..tensors).map(|t| {
            let tensor = deltas.iter().flatten().map(|delta| &delta.tensors[t]);
            let senders = tensor.filter(|tensor| !matches!(tensor, DeltaTensor::Absent)).count();
            let median = lower_median_nonzero(norms.iter().map(|norms| norms[t]));
            clip(previous[t], median, senders, decoded)
        });
        let clips: Vec<f32> = clips.collect();
        let scales = norms
            .iter()
            .map(|norms| norms.iter().zip(&clips).map(|(norm, clip)| scale(*norm, *clip)).collect())
            .collect();
        Ok(Self { clips, scales })
    }
}

/// The clipping norm of a tensor: the median of those who send it, but no lower than half the
/// previous one. A tensor of another fragment, which nobody sends, keeps its norm. One that only
/// a few late deltas send is clipped to the previous norm at most: alone among themselves they
/// would be their own median.
fn clip(previous: f32, median: f32, senders: usize, deltas: usize) -> f32 {
    if senders == 0 && deltas > 0 {
        return previous;
    }
    let median = if 2 * senders < deltas && previous > 0.0 { median.min(previous) } else { median };
    median.max(previous * 0.5)
}

/// Norms of the previous round; zeros before the first merge.
fn previous_clips(state: &OuterState, tensors: usize) -> Result<Vec<f32>, MergeError> {
    if state.clip_norm_bits.is_empty() {
        return Ok(vec![0.0; tensors]);
    }
    let clips: Vec<f32> = state.clip_norm_bits.iter().map(|bits| f32::from_bits(*bits)).collect();
    let usable = |clip: &f32| clip.is_finite() && clip.is_sign_positive();
    if clips.len() != tensors || !clips.iter().all(usable) {
        return Err(MergeError::OuterState);
    }
    Ok(clips)
}

/// The lower median of the norms above zero; zero if there are none.
fn lower_median_nonzero(norms: impl Iterator<Item = f32>) -> f32 {
    let mut norms: Vec<f32> = norms.filter(|norm| *norm > 0.0).collect();
    norms.sort_unstable_by(f32::total_cmp);
    match norms.len() {
        0 => 0.0,
        len => norms[(len - 1) / 2],
    }
}

/// min(1, clip/norm).
fn scale(norm: f32, clip: f32) -> f64 {
    if norm > clip { f64::from(clip) / f64::from(norm) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_medians() {
        assert_eq!(lower_median_nonzero([].into_iter()), 0.0);
        assert_eq!(lower_median_nonzero([0.0, 0.0].into_iter()), 0.0);
        assert_eq!(lower_median_nonzero([3.0, 0.0, 1.0].into_iter()), 1.0);
        assert_eq!(lower_median_nonzero([9.0, 2.0, 4.0].into_iter()), 4.0);
    }

    #[test]
    fn scales() {
        assert_eq!(scale(0.0, 0.0), 1.0);
        assert_eq!(scale(1.0, 2.0), 1.0);
        assert_eq!(scale(4.0, 1.0), 0.25);
    }

    #[test]
    fn clips() {
        for (previous, median, senders, deltas, expect) in [
            (0.0, 3.0, 4, 4, 3.0),
            (8.0, 3.0, 4, 4, 4.0),
            (8.0, 90.0, 4, 4, 90.0),
            // Another fragment.
            (8.0, 0.0, 0, 4, 8.0),
            // One late delta alone.
            (8.0, 90.0, 1, 4, 8.0),
            (0.0, 90.0, 1, 4, 90.0),
            // Nothing was submitted at all.
            (8.0, 0.0, 0, 0, 4.0),
        ] {
            assert_eq!(clip(previous, median, senders, deltas), expect);
        }
    }
}
