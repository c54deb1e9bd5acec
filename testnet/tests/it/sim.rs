//! The simulator's short form, and what it must be able to see.

use ayni_testnet::sim::checkers::Checker;
use ayni_testnet::sim::{Mode, Options, Scratch, SeedResult, Setup, SignOrder, measure, run_seed};

/// Few enough for `verify`, enough to meet every kind of fault.
const SEEDS: u64 = 48;
const HEIGHTS: u64 = 40;
/// Faults of single validators with less than a third of the power: a few dozen seeds may not meet
/// them.
const RARE: [&str; 2] = ["engine logs damaged or gone", "old backups restored"];

fn options() -> Options {
    Options {
        seeds: SEEDS,
        first_seed: 1,
        heights: HEIGHTS,
        threads: 2,
        control_seeds: 2,
        no_time_limit: true,
        sign_order: SignOrder::LogFirst,
        seed: None,
        mode: Mode::Search,
        trace: false,
        json: false,
    }
}

fn one(seed: u64, mode: Mode, heights: u64) -> SeedResult {
    let setup = Setup { mode, heights, sign_order: SignOrder::LogFirst, traces: false };
    run_seed(seed, &setup, &Scratch::new().unwrap())
}

#[test]
fn a_few_networks_hold_and_the_controls_fall() {
    let report = measure(&options(), &Scratch::new().unwrap());
    assert!(report.missed.is_empty(), "{:#?}", (&report.missed, &report.failures));
    assert!(report.heights_decided >= SEEDS * HEIGHTS, "every honest node got there");
    assert_eq!(report.repeated, report.repeated_equal);
    assert!(report.replayed > 0, "one seed in ten is replayed");
    for control in &report.controls {
        assert!(control.fired > 0, "{control:?}");
    }
    // Faults that never happen prove nothing.
    for (title, times) in report.counts.rows() {
        let may_miss = title.starts_with("seen: ") || RARE.contains(&title);
        assert!(times > 0 || may_miss, "no {title} in {SEEDS} seeds");
    }
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_gives_others() {
    let (first, again, other) =
        (one(7, Mode::Search, 12), one(7, Mode::Search, 12), one(8, Mode::Search, 12));
    assert_eq!(first.hash, again.hash);
    assert_eq!((first.events, first.counts), (again.events, again.counts));
    assert_ne!(first.hash, other.hash);
}

#[test]
fn too_many_byzantine_validators_break_agreement_and_nothing_else() {
    let result = one(1, Mode::TooManyByzantine, 10);
    assert!(!result.violations.is_empty());
    assert!(result.violations.iter().all(|v| v.checker == Checker::Agreement), "{result:?}");
}
