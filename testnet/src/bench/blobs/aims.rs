//! What the benchmark must show to succeed, as ratios within the run.

use super::report::Report;
use super::scaling::Scaling;

/// Each program, with the least that Ayni's median speed may be of its median speed. Bare libp2p
/// neither hashes nor stores: a tenth for both is what that may cost.
const OVER_MIN: [(&str, f64); 3] =
    [("iroh-blobs", 1.0), ("libp2p-perf", 0.9), ("libp2p-stream", 0.9)];
/// Providers, with the least that they must give together, over what one alone gives.
const SCALING_MIN: [(usize, f64); 2] = [(2, 1.9), (4, 3.6)];

/// The aims that were missed, in words.
pub(super) fn missed(report: &Report) -> Vec<String> {
    let ratios = report.over.iter().filter_map(|over| {
        let (_, least) = OVER_MIN.iter().find(|(program, _)| *program == over.program)?;
        (over.ratio < *least).then(|| {
            format!("at least {least} of the speed of {}: {:.2}", over.program, over.ratio)
        })
    });
    ratios.chain(scaling(&report.scaling)).collect()
}

fn scaling(scaling: &Scaling) -> impl Iterator<Item = String> {
    SCALING_MIN.into_iter().filter_map(|(providers, least)| {
        let over = scaling.over_one(providers);
        (over < least).then(|| {
            format!("{providers} providers give at least {least} times what one gives: {over:.2}")
        })
    })
}
