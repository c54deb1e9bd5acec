//! `ayni verify-proof`: without a node, from one trusted block.

use std::fs;
use std::path::Path;

use protocol::amount::{Height, TimestampMs, VotingPower};
use protocol::block::Header;
use protocol::codec;
use protocol::consensus::{Validator, ValidatorSet};
use protocol::ids::{AccountId, BlockHash, ChainId, ContentHash, StateRoot, ValidatorId};
use protocol::keys::SecretKey;
use protocol::ledger::entries::Account;
use protocol::ledger::state::account_key;
use protocol::proof::{Leaf, Proof, StateProof, leaf_hash};

use crate::support::{accepted, refused};

const ACCOUNT: AccountId = AccountId::from_bytes([3; 32]);

/// A proof of the only entry of a state, from the very block that commits it.
fn proof(balance: u64) -> Proof {
    let key = account_key(&ACCOUNT);
    let entry =
        Account { balance: protocol::amount::Credits::from_micro(balance), ..Account::default() };
    let value = codec::encode(&entry);
    let leaf = Leaf {
        key_hash: *ContentHash::of(&key).as_bytes(),
        value_hash: *ContentHash::of(&value).as_bytes(),
    };
    let signer = SecretKey::from_seed(&[1; 32]).public();
    let set = ValidatorSet::new(vec![Validator { key: signer, power: VotingPower::new(1) }]);
    let trusted = Header {
        chain: ChainId::from_bytes([5; 32]),
        rules_version: 1,
        height: Height::new(9),
        proposer: ValidatorId::default(),
        time: TimestampMs::new(1),
        parent: BlockHash::default(),
        parent_certificate: ContentHash::default(),
        transactions: ContentHash::default(),
        state: StateRoot::from_bytes(leaf_hash(&leaf)),
        next_validators: set.expect("one validator").hash(),
        beacon: Default::default(),
        beacon_proof: Vec::new(),
        snapshot: None,
    };
    let path = StateProof { other: None, siblings: Vec::new() };
    Proof { trusted, bridges: Vec::new(), key, value: Some(value), path }
}

#[test]
fn a_proof_is_checked_without_a_node_and_the_first_thing_wrong_is_named() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let home = Path::new("/nonexistent");
    let file = dir.path().join("balance.proof");
    let path = file.to_str().expect("UTF-8");
    let made = proof(2_500_000);
    let trusted = format!("9:{}", made.trusted.hash());
    let bytes = codec::encode(&made);
    fs::write(&file, &bytes).expect("writable");
    let verify = ["verify-proof", path, "--trusted", &trusted];
    let text = accepted(home, &verify);
    assert!(text.contains("2.5 credits") && text.contains(&ACCOUNT.to_string()), "{text}");
    // As it is printed without --out.
    fs::write(&file, format!("{}\n", hex::encode(&bytes))).expect("writable");
    let json = accepted(home, &[&verify[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["balance_micro"], &json["height"]), (&2_500_000.into(), &8.into()));

    let other = ChainId::default().to_string();
    refused(home, &[&verify[..], &["--chain", &other]].concat(), 1, &["belongs to network"]);
    let elsewhere = format!("8:{}", made.trusted.hash());
    let untrusted = ["verify-proof", path, "--trusted", &elsewhere];
    refused(home, &untrusted, 1, &["not the trusted one"]);
    let forged = Proof { value: proof(9_000_000).value, ..made.clone() };
    fs::write(&file, codec::encode(&forged)).expect("writable");
    refused(home, &verify, 1, &["the state of height 8 does not say this"]);
    fs::write(&file, b"nonsense").expect("writable");
    refused(home, &verify, 1, &["this is not a proof"]);
    refused(home, &["verify-proof", "absent", "--trusted", &trusted], 1, &["cannot read absent"]);
    refused(home, &["verify-proof", path, "--trusted", "9"], 2, &["HEIGHT:HASH"]);
}
