//! Members that learn together in one process: every arm learns, and bytes and text are counted.

use std::path::Path;

use ayni_ml::lab::faults::Faults;
use ayni_ml::lab::loss::{self, Arm, Options, Shape};
use serde_json::Value;

const MEMBERS: u32 = 3;
const ROUNDS: u32 = 4;
const STEPS: u32 = 10;
/// Text that a member trains on in a round: windows of 32 bytes, four in a step.
const MEMBER_BYTES: u64 = 4 * 32 * 10;

fn texts(folder: &Path) {
    for member in 0..MEMBERS {
        let home = folder.join(format!("node-{member}"));
        std::fs::create_dir(&home).expect("made");
        let text = format!("member {member} says: the sun rises, the sun sets. ").repeat(200);
        std::fs::write(home.join("a.txt"), text).expect("written");
    }
    let suite = "somebody says: the sun sets, the sun rises. ".repeat(60);
    std::fs::write(folder.join("suite.txt"), suite).expect("written");
}

fn plain_cell(data: &Path, arm: Arm, faults: Faults) -> Value {
    loss::run(&options(data, arm, faults)).expect("the cell runs").json
}

fn options(data: &Path, arm: Arm, faults: Faults) -> Options {
    Options {
        arm,
        data: data.to_owned(),
        workers: MEMBERS,
        rounds: ROUNDS,
        steps: STEPS,
        warm_steps: 0,
        head: None,
        batch: 4,
        learning_rate_ppm: 5_000,
        outer_learning_rate_ppm: None,
        outer_momentum_ppm: None,
        seed: 1,
        windows: 16,
        shape: Shape { layers: 1, width: 32, heads: 2, context: 32 },
        faults,
    }
}

fn number(point: &Value, what: &str) -> f64 {
    point[what].as_f64().expect("a number")
}

#[test]
fn every_arm_learns_and_is_counted() {
    let home = tempfile::tempdir().expect("a folder");
    texts(home.path());
    let mut sent = Vec::new();
    for arm in [Arm::Dp, Arm::Diloco, Arm::Sparse256, Arm::Sparse64] {
        let outcome = plain_cell(home.path(), arm, Faults::default());
        let curve = outcome["curve"].as_array().expect("a curve");
        assert_eq!(curve.len(), 5, "the initial head and one a round");
        let (first, last) = (&curve[0], &curve[4]);
        assert!(number(last, "loss") < number(first, "loss") - 0.3, "{arm:?}: {curve:?}");
        let computed = last["computed"].as_u64().expect("a count");
        assert_eq!(computed, MEMBER_BYTES * u64::from(MEMBERS * ROUNDS), "{arm:?}");
        assert_eq!(last["integrated"], last["computed"], "{arm:?}");
        sent.push(number(last, "sent_bytes"));
        if let Some(bits) = outcome["bits_per_parameter"].as_f64() {
            // A member gives its payload to the two others, four times.
            let parameters = number(&outcome, "parameters");
            let expect = bits * parameters / 8.0 * f64::from((MEMBERS - 1) * ROUNDS);
            assert!((sent[sent.len() - 1] - expect).abs() < 1.0, "{arm:?}");
        }
    }
    assert!(sent.is_sorted_by(|a, b| a > b), "each arm sends less than the one before: {sent:?}");
    let again = plain_cell(home.path(), Arm::Sparse64, Faults::default());
    let once = plain_cell(home.path(), Arm::Sparse64, Faults::default());
    assert_eq!(again["curve"], once["curve"], "equal seeds, equal curves");
}

#[test]
fn what_does_not_arrive_is_not_merged() {
    let home = tempfile::tempdir().expect("a folder");
    texts(home.path());
    let all = plain_cell(home.path(), Arm::Sparse64, Faults { drop_ppm: 1_000_000, kill: false });
    let curve = all["curve"].as_array().expect("a curve");
    assert_eq!(curve[0]["loss"], curve[4]["loss"], "nothing came, the head stays");
    assert_eq!((&curve[4]["integrated"], &curve[4]["dropped"]), (&0.into(), &curve[4]["computed"]));
    assert_eq!(number(&curve[4], "sent_bytes"), 0.0);

    let half = plain_cell(home.path(), Arm::Sparse64, Faults { drop_ppm: 500_000, kill: true });
    let last = &half["curve"][4];
    let part = |what: &str| last[what].as_u64().expect("a count");
    assert_eq!(part("computed"), part("integrated") + part("dropped") + part("died"));
    assert!(part("integrated") > 0 && part("dropped") > 0);
}

#[test]
fn all_arms_begin_at_one_trained_head() {
    let home = tempfile::tempdir().expect("a folder");
    texts(home.path());
    let head = home.path().join("head");
    let cell = |arm, head: Option<&Path>| {
        let head = head.map(Path::to_owned);
        let plain = options(home.path(), arm, Faults::default());
        loss::run(&Options { warm_steps: 40, head, ..plain })
    };
    let first = |json: &Value| number(&json["curve"][0], "loss");
    let made = cell(Arm::Dp, Some(&head)).expect("runs").json;
    let untrained = plain_cell(home.path(), Arm::Dp, Faults::default());
    assert!(first(&made) < first(&untrained) - 0.2, "trained: {made}");
    let kept = cell(Arm::Sparse64, Some(&head)).expect("runs").json;
    let alone = cell(Arm::Sparse64, None).expect("runs").json;
    assert_eq!((first(&kept), &kept["curve"]), (first(&made), &alone["curve"]));
    std::fs::write(&head, "no checkpoint").expect("written");
    assert!(cell(Arm::Dp, Some(&head)).is_err(), "a damaged head is not used");
}
