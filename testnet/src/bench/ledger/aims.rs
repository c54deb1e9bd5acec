//! What the benchmark must show to succeed. Speeds are stated for four validators; that a node
//! which is behind outruns the chain, for every number of them.

use super::report::Report;
use super::unit::REFERENCE_US;

/// Validators for which the aims are stated.
const VALIDATORS: usize = 4;
/// CPU time of one validator per transfer at saturation, in microseconds of the machine where a
/// verification takes [`REFERENCE_US`].
const CPU_US_MAX: f64 = 100.0;
/// Transfers a second at saturation.
const TX_PER_S_MIN: f64 = 2_500.0;
/// Median finality at the rate below, in milliseconds.
const FINALITY_P50_MS_MAX: f64 = 150.0;
/// Catching up must be faster than the saturated chain by more than this factor.
const OVER_CHAIN_MIN: f64 = 1.0;
/// The rate for which finality is stated.
const RATE: u64 = 1_000;

/// The aims that were missed, in words.
pub(super) fn missed(report: &Report) -> Vec<String> {
    let mut missed = Vec::new();
    for (name, behind) in [("replay", &report.replay), ("block sync", &report.sync)] {
        if behind.over_chain <= OVER_CHAIN_MIN {
            missed.push(format!(
                "{name} outruns the saturated chain: {:.2} times its speed",
                behind.over_chain
            ));
        }
    }
    if report.validators != VALIDATORS {
        return missed;
    }
    let rate = report.saturated.tx_per_s;
    if rate < TX_PER_S_MIN {
        missed.push(format!("at least {TX_PER_S_MIN:.0} transfers/s: {rate:.0}"));
    }
    match report.cpu_verifications_per_tx.map(|count| count * REFERENCE_US) {
        Some(cpu) if cpu <= CPU_US_MAX => {}
        cpu => missed.push(format!(
            "at most {CPU_US_MAX:.0} us of CPU per transfer and validator where a verification \
             takes {REFERENCE_US:.0} us: {:.1}",
            cpu.unwrap_or(f64::INFINITY)
        )),
    }
    match report.steady.finality_p50_ms {
        _ if report.rate != RATE => {}
        Some(p50) if p50 <= FINALITY_P50_MS_MAX => {}
        p50 => missed.push(format!(
            "finality p50 of at most {FINALITY_P50_MS_MAX:.0} ms at {RATE} transfers/s: {:.1}",
            p50.unwrap_or(f64::INFINITY)
        )),
    }
    missed
}
