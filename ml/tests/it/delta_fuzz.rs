//! Replays the corpus of the fuzz targets: what once was interesting stays tested.

use std::fs;
use std::path::PathBuf;

use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::delta::{Delta, encode};
use ayni_ml::frames::write_frame;
use protocol::model::OuterState;
use protocol::worker::{Progress, WorkerReply, WorkerRequest};

use crate::process::file;
use crate::support::{generated, small_spec};

#[path = "../../fuzz/src/targets.rs"]
mod targets;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 3] =
    [("delta", targets::delta), ("checkpoint", targets::checkpoint), ("frames", targets::frames)];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn the_corpus_does_no_harm() {
    for (name, target) in TARGETS {
        let folder = corpus(name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has a corpus");
        for file in files {
            target(&fs::read(&file).expect("a readable file"));
        }
    }
}

/// What the fuzzer starts from: something valid for every target.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let dense = generated(&targets::specs(), 3, 1e-3);
    for (choice, (plan, _)) in (0u8..).zip(targets::plans()) {
        let delta = Delta::compress(&dense, &plan).expect("finite");
        let payload = encode(&delta, &plan);
        seeds.push(("delta", format!("whole-{choice}"), [&[choice, 0], &payload[..]].concat()));
        let rest = [&[choice, 1], &payload[16..]].concat();
        seeds.push(("delta", format!("rest-{choice}"), rest));
    }
    let one = generated(&targets::specs()[..1], 3, 1e-3).to_bytes();
    seeds.push(("checkpoint", "whole".into(), [&[0], &one[..]].concat()));
    seeds.push(("checkpoint", "values".into(), [&[1], &one[one.len() - 40..]].concat()));
    let state = OuterState { clip_norm_bits: vec![1, 2], ..OuterState::default() };
    seeds.push(("checkpoint", "outer-state".into(), protocol::codec::encode(&state)));
    let initialize = WorkerRequest::Initialize { spec: small_spec(), checkpoint_out: file("head") };
    let mut requests = Vec::new();
    for request in [WorkerRequest::Describe, initialize] {
        write_frame(&mut requests, &request).expect("small");
    }
    seeds.push(("frames", "requests".into(), requests));
    let progress = Progress {
        done: 1,
        total: 2,
        loss_nanonats: Some(3),
        per_second: None,
        prompt: 0,
        text: vec![65],
    };
    let mut replies = Vec::new();
    write_frame(&mut replies, &WorkerReply::Progress(progress)).expect("small");
    seeds.push(("frames", "replies".into(), replies));
    seeds
}

/// `AYNI_WRITE_CORPUS=1 cargo test -p ayni-ml --test it fuzz` writes the seeds as files.
#[test]
fn every_target_takes_its_seeds() {
    for (name, seed, bytes) in seeds() {
        let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
        target(&bytes);
        for cut in [1, bytes.len() / 2, bytes.len() - 1] {
            target(&bytes[..cut]);
        }
        if std::env::var_os("AYNI_WRITE_CORPUS").is_some() {
            fs::create_dir_all(corpus(name)).expect("a folder");
            fs::write(corpus(name).join(seed), bytes).expect("a seed");
        }
    }
}

/// The valid seeds must reach the depths of their decoders, else nothing is fuzzed there.
#[test]
fn seeds_are_valid() {
    let specs = targets::specs();
    for (plan, _) in targets::plans() {
        let delta = Delta::compress(&generated(&specs, 3, 1e-3), &plan).expect("finite");
        assert_eq!(ayni_ml::delta::decode(&encode(&delta, &plan), &plan), Ok(delta));
    }
    let one = generated(&specs[..1], 3, 1e-3);
    assert_eq!(Checkpoint::from_bytes(&one.to_bytes(), &specs[..1]), Ok(one));
}
