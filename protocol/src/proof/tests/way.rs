//! Ways from the genesis or a trusted block to a snapshot, and what is refused on them.

use super::*;
use crate::block::{Block, DecidedBlock};
use crate::codec::CodecError;
use crate::proof::snapshot::{Follower, SnapshotProofError, StoredSets, check_base, committed_at};
use crate::proof::trail::{Trail, TrailStart};

fn signers(height: u64) -> Vec<u8> {
    members(height).iter().map(|(n, _)| *n).collect()
}

fn genesis() -> ValidatorSet {
    set(&members(1))
}

/// A chain whose header at `target` commits a snapshot.
fn committing(target: u64) -> (Chain, ContentHash) {
    let mut chain = Chain::new(target + 20, StateRoot::default());
    let hash = ContentHash::of(b"snapshot");
    let (header, certificate) = &mut chain.0[usize::try_from(target).expect("small") - 1];
    header.snapshot = Some(hash);
    *certificate = certify(header, &signers(target));
    (chain, hash)
}

fn way(chain: &Chain, from: u64, target: u64) -> Vec<Bridge> {
    extend(chain, Height::new(from), Height::new(target), BRIDGES_MAX).expect("the chain is whole")
}

fn follow(bridges: &[Bridge], target: u64) -> Result<Follower, SnapshotProofError> {
    let from = Anchor::genesis(&genesis());
    let mut follower = Follower::new(CHAIN, from, Height::new(target));
    bridges.iter().try_for_each(|bridge| follower.cross(bridge))?;
    Ok(follower)
}

#[test]
fn a_snapshot_is_proven_from_the_genesis_and_from_a_trusted_header() {
    let (chain, hash) = committing(88);
    assert_eq!(committed_at(Height::new(80)), Height::new(88));
    let bridges = way(&chain, 0, 88);
    assert!((3..9).contains(&bridges.len()), "{}", bridges.len());
    follow(&bridges, 88).expect("a good way").check_snapshot(&hash).expect("committed");

    let trusted = chain.0[40].0.clone();
    for (from, header) in [(41, trusted), (88, chain.0[87].0.clone())] {
        let mut follower = Follower::trusting(CHAIN, header, Height::new(88));
        way(&chain, from, 88).iter().try_for_each(|b| follower.cross(b)).expect("a good way");
        follower.check_snapshot(&hash).expect("committed");
    }
}

#[test]
fn the_first_thing_wrong_on_the_way_is_named() {
    let (chain, hash) = committing(88);
    let good = way(&chain, 0, 88);
    let refused = |change: &dyn Fn(&mut Vec<Bridge>)| {
        let mut bridges = good.clone();
        change(&mut bridges);
        let followed = follow(&bridges, 88).and_then(|f| f.check_snapshot(&hash));
        followed.expect_err("tampered").to_string()
    };
    let short = refused(&|b| b.truncate(b.len() - 1));
    assert!(short.ends_with("the header that commits is at 88"), "{short}");
    let none = refused(&|b| b.clear());
    assert!(none.starts_with("the proof ends at height 0"), "{none}");
    let missing = refused(&|b| drop(b.remove(0)));
    assert!(missing.contains("a bridge is missing, or the set is forged"), "{missing}");
    let strangers = refused(&|b| {
        b[0].validators = set(&[(99, 1)]);
        b[0].certificate = certify(&b[0].header, &[99]);
    });
    assert!(strangers.contains("the set is forged"), "{strangers}");
    let weak = refused(&|b| b[0].certificate.signatures.truncate(2));
    assert!(weak.contains("signed by 20 of 40 voting power"), "{weak}");
    // The hash exchanged under the signatures.
    let exchanged = refused(&|b| b.last_mut().expect("bridges").header.snapshot = None);
    assert_eq!(exchanged, "the certificate of height 88 is for another block");
    let beyond = refused(&|b| b.extend(way(&chain, 88, 90)));
    assert!(beyond.starts_with("the proof leads to height 90, beyond 88"), "{beyond}");

    let other = ContentHash::of(b"another");
    let promised = follow(&good, 88).expect("a good way").check_snapshot(&other);
    let promised = promised.expect_err("promised something else");
    assert!(matches!(promised, SnapshotProofError::OtherSnapshot { .. }), "{promised}");
    // A header that commits nothing.
    let nothing = follow(&way(&chain, 0, 90), 90).expect("a good way").check_snapshot(&hash);
    assert!(nothing.expect_err("nothing").to_string().contains("commits the snapshot None"));
    let mut foreign = Follower::new(ChainId::default(), Anchor::genesis(&genesis()), committed());
    assert!(foreign.cross(&good[0]).expect_err("foreign").to_string().contains("network"));
}

const fn committed() -> Height {
    Height::new(88)
}

#[test]
fn endless_proofs_are_cut_off() {
    let chain = Chain::new(1, StateRoot::default());
    let set = set(&members(1));
    let mut follower = Follower::new(CHAIN, Anchor::genesis(&set), Height::new(u64::MAX));
    let mut bridge = way(&chain, 0, 1).remove(0);
    let refused = (1..=600_u64).find_map(|height| {
        bridge.header.height = Height::new(height);
        bridge.header.next_validators = set.hash();
        bridge.certificate = certify(&bridge.header, &signers(1));
        follower.cross(&bridge).err()
    });
    let refused = refused.expect("a limit");
    assert_eq!(refused, ProofError::TooManyBridges(BRIDGES_MAX + 1).into());
}

#[test]
fn a_trail_is_led_on_in_few_bridges_and_can_be_entered_where_it_passes() {
    let chain = Chain::new(100, StateRoot::default());
    let mut trail = Trail::new(TrailStart::Genesis);
    for height in (5..=95).step_by(5) {
        assert!(trail.extend(&chain, Height::new(height)).expect("the chain is whole"));
        assert!(!trail.extend(&chain, Height::new(height)).expect("it is there already"));
        assert_eq!(trail.end(), Height::new(height));
        let end = trail.verify(&CHAIN, &genesis()).expect("a good trail");
        assert_eq!(end.height, Height::new(height));
    }
    assert!(trail.bridges.len() <= 10, "{} bridges for 9 changes", trail.bridges.len());
    let all = trail.between(Height::ZERO, Height::new(100)).expect("from its start");
    assert_eq!(all, trail.bridges);
    let passed = trail.bridges[1].header.height;
    assert_eq!(trail.header(passed), Some(&trail.bridges[1].header));
    assert_eq!(trail.between(passed, Height::new(100)), Some(&trail.bridges[2..]));
    assert_eq!(trail.between(Height::ZERO, passed), Some(&trail.bridges[..2]));
    assert_eq!(trail.between(passed, passed), Some(&[][..]));
    assert_eq!(trail.between(passed.plus(1), Height::new(100)), None, "it does not pass there");
    let bytes = codec::encode_checked(&trail).expect("within limits");
    assert_eq!(codec::decode(&bytes), Ok(trail.clone()));

    let start = TrailStart::Header(Box::new(chain.0[29].0.clone()));
    let mut late = Trail::new(start);
    assert_eq!(late.end(), Height::new(30));
    late.extend(&chain, Height::new(60)).expect("the chain is whole");
    late.verify(&CHAIN, &genesis()).expect("a good trail");
    assert_eq!(late.between(Height::ZERO, Height::new(60)), None, "it begins later");
    late.bridges.remove(0);
    late.verify(&CHAIN, &genesis()).expect_err("a bridge is missing");
}

/// The block at a snapshot of height 29, whole, and the sets that the snapshot has.
fn base() -> (BlockHash, StoredSets, Block) {
    let chain = Chain::new(29, StateRoot::default());
    let (mut header, _) = chain.0[28].clone();
    let parent = chain.0[27].1.clone();
    header.parent_certificate = parent.hash();
    header.transactions = Block::contents_root(&[], &[]);
    let sets = StoredSets {
        tip: Some(codec::encode(&set(&members(29)))),
        next: Some(codec::encode(&set(&members(30)))),
    };
    let block = Block {
        header,
        transactions: Vec::new(),
        parent_certificate: Some(parent),
        evidence: Vec::new(),
    };
    (block.header.hash(), sets, block)
}

fn decided(block: &Block) -> DecidedBlock {
    let certificate = certify(&block.header, &signers(29));
    DecidedBlock { block: codec::encode(block), certificate }
}

#[test]
fn the_block_at_a_snapshot_must_be_the_one_and_whole() {
    let (hash, sets, block) = base();
    let check = |sets: &StoredSets, decided: &DecidedBlock| {
        check_base(&CHAIN, Height::new(29), &hash, sets, decided)
    };
    let good = decided(&block);
    check(&sets, &good).expect("a good block");
    let refused = |decided: &DecidedBlock| check(&sets, decided).expect_err("false").to_string();

    let malformed = DecidedBlock { block: good.block[1..].to_vec(), ..good.clone() };
    assert!(matches!(
        check(&sets, &malformed),
        Err(SnapshotProofError::Encoding(CodecError::Malformed(_) | CodecError::Trailing(_)))
            | Err(SnapshotProofError::Encoding(CodecError::NotCanonical))
    ));
    let mut other = block.clone();
    other.header.time = TimestampMs::new(1);
    assert!(refused(&decided(&other)).starts_with("the snapshot is of block"));
    let mut body = block.clone();
    body.parent_certificate = None;
    let body = DecidedBlock { block: codec::encode(&body), ..good.clone() };
    assert!(refused(&body).ends_with("its parent's certificate"));
    let mut weak = good.clone();
    weak.certificate.signatures.truncate(2);
    assert!(refused(&weak).ends_with("signed by 20 of 40 voting power"));
    let mut higher = good.clone();
    higher.certificate.height = Height::new(30);
    assert!(refused(&higher).ends_with("wrong in its height"));

    let strangers = StoredSets { tip: Some(codec::encode(&set(&[(99, 1)]))), ..sets.clone() };
    let error = check(&strangers, &good).expect_err("strangers").to_string();
    assert!(error.contains("is not a validator at this height"), "{error}");
    for missing in [StoredSets::default(), StoredSets { tip: None, ..sets.clone() }] {
        let error = check(&missing, &good).expect_err("no sets").to_string();
        assert!(error.ends_with("are not the chain's"), "{error}");
    }
    let swapped = StoredSets { tip: sets.next.clone(), next: sets.tip.clone() };
    let error = check(&swapped, &good).expect_err("another set").to_string();
    assert_eq!(error, "the snapshot's validators of the next height are not the chain's");
}
