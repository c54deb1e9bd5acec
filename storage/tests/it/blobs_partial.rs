//! Partial blobs: written in any order, resumed, served, and never believed too much.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ayni_storage::blobs::{
    BlobError, BlobLimits, BlobStore, EncodeError, PartialBlob, ServedBlob, Verification,
    VerifiedPart, decode_part, encode_part,
};
use proptest::prelude::*;
use protocol::blobs::wire::Availability;
use protocol::blobs::{GroupRange, GroupRanges, all_groups, groups_of, last_group};
use protocol::ids::ContentHash;

use crate::support::Draw;

const GROUP: usize = 16_384;
const MAX: u64 = 100_000_000;

fn bytes(size: usize) -> Vec<u8> {
    let mut draw = Draw(size as u64);
    (0..size).map(|_| draw.next() as u8).collect()
}

fn range(start: u64, end: u64) -> GroupRange {
    GroupRange::new(start, end).unwrap()
}

/// A store that has a blob, and one that receives it.
struct Pair {
    dir: tempfile::TempDir,
    served: ServedBlob,
    data: Vec<u8>,
    to: BlobStore,
}

impl Pair {
    fn new(size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = BlobStore::open(&dir.path().join("from")).unwrap();
        let data = bytes(size);
        let served = from.open_for_serving(&from.put_bytes(&data).unwrap()).unwrap();
        let to = BlobStore::open(&dir.path().join("to")).unwrap();
        Self { dir, served, data, to }
    }

    fn hash(&self) -> ContentHash {
        self.served.hash()
    }

    fn size(&self) -> u64 {
        self.served.size()
    }

    /// The file in which the blob arrives.
    fn partial_data(&self) -> File {
        let name = format!("to/blobs/partial/{}.data", self.hash());
        File::options().write(true).open(self.dir.path().join(name)).unwrap()
    }

    fn open(&self) -> PartialBlob {
        self.to.partial(self.hash(), self.size()).unwrap()
    }

    fn part(&self, range: GroupRange) -> VerifiedPart<Vec<u8>> {
        part(&self.served, range)
    }

    /// As after a crash: everything that was only in memory is gone.
    fn reopen(&mut self) {
        self.to = BlobStore::open(&self.dir.path().join("to")).unwrap();
    }

    fn partial_file(&self, extension: &str) -> PathBuf {
        self.dir.path().join("to/blobs/partial").join(format!("{}.{extension}", self.hash()))
    }

    fn final_file(&self, extension: &str) -> PathBuf {
        let name = self.hash().to_string();
        self.dir.path().join("to/blobs").join(&name[..2]).join(format!("{name}.{extension}"))
    }

    fn expect_whole(&self) {
        assert_eq!(self.to.read_all(&self.hash(), MAX).unwrap(), self.data);
        assert_eq!(self.to.verify(&self.hash()).unwrap(), Verification::Intact);
        assert_eq!(files(&self.dir.path().join("to/blobs/partial")), 0);
    }
}

fn part(blob: &ServedBlob, range: GroupRange) -> VerifiedPart<Vec<u8>> {
    let mut frame = Vec::new();
    encode_part(blob, range, &mut frame).unwrap();
    decode_part(blob.hash(), blob.size(), range, frame).unwrap()
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// The windows of 32 groups that parts lie in.
fn windows(size: u64) -> Vec<GroupRange> {
    let groups = groups_of(size);
    (0..groups).step_by(32).map(|start| range(start, groups.min(start + 32))).collect()
}

#[test]
fn parts_in_any_order_make_the_blob() {
    for size in [0, 1, GROUP, GROUP + 1, 31 * GROUP, 33 * GROUP + 7, 200 * GROUP - 1] {
        let mut pair = Pair::new(size);
        let mut partial = pair.open();
        let mut order = windows(pair.size());
        let half = order.len() / 2;
        order.rotate_left(half);
        order.insert(0, last_group(pair.size()));
        let mut new = 0;
        for range in order {
            new += partial.write_part(&pair.part(range)).unwrap();
            assert_eq!(partial.write_part(&pair.part(range)).unwrap(), 0, "nothing is new twice");
        }
        assert_eq!(new, groups_of(pair.size()));
        assert!(partial.is_complete());
        assert_eq!((partial.finish().unwrap(), partial_count(&pair.to)), (size as u64, 0));
        pair.expect_whole();
        assert!(matches!(
            pair.to.partial(pair.hash(), pair.size()),
            Err(BlobError::AlreadyStored(_))
        ));
        pair.reopen();
        pair.expect_whole();
    }
}

fn partial_count(store: &BlobStore) -> usize {
    store.partials().len()
}

#[test]
fn what_a_checkpoint_made_durable_is_there_again_and_the_rest_is_looked_at() {
    let mut pair = Pair::new(150 * GROUP + 3);
    let mut partial = pair.open();
    partial.write_part(&pair.part(last_group(pair.size()))).unwrap();
    partial.write_part(&pair.part(range(32, 64))).unwrap();
    let checkpoint = partial.checkpoint();
    // Written meanwhile, and no part of it; some of it is lost.
    partial.write_part(&pair.part(range(64, 96))).unwrap();
    partial.write_part(&pair.part(range(96, 128))).unwrap();
    std::thread::spawn(move || checkpoint.run().unwrap()).join().unwrap();
    drop(partial);
    let data = pair.partial_data();
    data.write_all_at(&[0; 10], (100 * GROUP + 7) as u64).unwrap();
    pair.reopen();
    let expected: GroupRanges = [range(32, 64), range(150, 151)].into_iter().collect();
    let [status] = &pair.to.partials()[..] else { panic!("one partial blob") };
    assert_eq!((status.hash, status.size), (pair.hash(), pair.size()));
    assert_eq!((&status.verified, status.is_receiving), (&expected, false));
    let availability = Availability::Some { size: pair.size(), ranges: expected.clone() };
    assert_eq!(pair.to.availability(&pair.hash()), availability);

    let mut partial = pair.open();
    let found = expected.union(&range(64, 96).into());
    assert_eq!(partial.verified(), &found, "what is right, and no more");
    assert!(pair.to.partials()[0].is_receiving);
    for window in windows(pair.size()) {
        partial.write_part(&pair.part(window)).unwrap();
    }
    partial.finish().unwrap();
    pair.expect_whole();
    assert_eq!(pair.to.availability(&pair.hash()), Availability::All { size: pair.size() });
}

#[test]
fn an_older_checkpoint_is_not_written_over_a_newer_one() {
    let mut pair = Pair::new(100 * GROUP);
    let mut partial = pair.open();
    partial.write_part(&pair.part(range(0, 32))).unwrap();
    let older = partial.checkpoint();
    partial.write_part(&pair.part(range(32, 64))).unwrap();
    let newer = partial.checkpoint();
    assert_eq!((older.groups(), newer.groups()), (32, 64));
    newer.run().unwrap();
    older.run().unwrap();
    drop(partial);
    pair.reopen();
    assert_eq!(pair.open().verified().groups(), 64);
}

#[test]
fn a_checkpoint_after_the_end_does_nothing() {
    let pair = Pair::new(40 * GROUP);
    let mut partial = pair.open();
    partial.write_part(&pair.part(range(0, 32))).unwrap();
    let late = partial.checkpoint();
    partial.write_part(&pair.part(range(32, 40))).unwrap();
    partial.finish().unwrap();
    late.run().unwrap();
    pair.expect_whole();

    let pair = Pair::new(40 * GROUP);
    let mut partial = pair.open();
    partial.write_part(&pair.part(range(0, 32))).unwrap();
    let late = partial.checkpoint();
    partial.discard().unwrap();
    late.run().unwrap();
    assert_eq!(partial_count(&pair.to), 0);
    assert_eq!(files(&pair.dir.path().join("to/blobs/partial")), 0);
    assert_eq!(pair.to.availability(&pair.hash()), Availability::None);
}

#[test]
fn one_writer_and_no_foreign_parts() {
    let pair = Pair::new(40 * GROUP);
    let mut partial = pair.open();
    let again = pair.to.partial(pair.hash(), pair.size()).unwrap_err();
    assert!(matches!(again, BlobError::Receiving(_)), "{again}");
    let refused = pair.to.discard_partial(&pair.hash()).unwrap_err();
    assert!(matches!(refused, BlobError::Receiving(_)), "{refused}");
    let other = Pair::new(41 * GROUP);
    let refused = partial.write_part(&other.part(range(0, 32))).unwrap_err();
    assert!(matches!(refused, BlobError::OtherBlob { .. }), "{refused}");
    let refused = partial.finish().unwrap_err();
    assert!(matches!(refused, BlobError::Incomplete { have: 0, .. }), "{refused}");
    // The writer is gone: the next one may come, and throw it away.
    drop(pair.open());
    assert!(pair.to.discard_partial(&pair.hash()).unwrap());
    assert!(!pair.to.discard_partial(&pair.hash()).unwrap());
}

#[test]
fn what_is_here_is_served_while_it_arrives() {
    let pair = Pair::new(100 * GROUP + 9);
    let mut partial = pair.open();
    partial.write_part(&pair.part(range(32, 64))).unwrap();
    let served = pair.to.open_for_serving(&pair.hash()).unwrap();
    assert!(served.is_partial() && served.has(range(40, 50)) && !served.has(range(63, 65)));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for range in [range(32, 64), range(33, 34), range(40, 63)] {
        encode_part(&served, range, &mut ours).unwrap();
        encode_part(&pair.served, range, &mut theirs).unwrap();
        assert!(ours == theirs, "{range:?}");
    }
    let refused = encode_part(&served, last_group(pair.size()), &mut ours).unwrap_err();
    assert!(matches!(refused, EncodeError::Absent(_)), "{refused}");
    // The same view sees what arrives later, and goes on when the blob is finished.
    for window in windows(pair.size()) {
        partial.write_part(&pair.part(window)).unwrap();
        encode_part(&served, window, &mut ours).unwrap();
    }
    partial.finish().unwrap();
    encode_part(&served, last_group(pair.size()), &mut ours).unwrap();
    assert!(!pair.to.open_for_serving(&pair.hash()).unwrap().is_partial());
}

/// The moments at which a process can die while a blob is finished.
#[test]
fn a_crash_while_finishing_fetches_nothing_again() {
    for moment in 0..4 {
        let mut pair = Pair::new(70 * GROUP + 1);
        let mut partial = pair.open();
        for window in windows(pair.size()) {
            partial.write_part(&pair.part(window)).unwrap();
        }
        partial.checkpoint().run().unwrap();
        drop(partial);
        fs::create_dir_all(pair.final_file("data").parent().unwrap()).unwrap();
        if moment >= 1 {
            fs::rename(pair.partial_file("obao4"), pair.final_file("obao4")).unwrap();
        }
        if moment >= 2 {
            fs::rename(pair.partial_file("data"), pair.final_file("data")).unwrap();
        }
        if moment >= 3 {
            fs::remove_file(pair.partial_file("bits")).unwrap();
        }
        pair.reopen();
        if moment < 2 {
            let partial = pair.open();
            assert!(partial.is_complete(), "moment {moment}");
            partial.finish().unwrap();
        }
        pair.expect_whole();
        pair.reopen();
        pair.expect_whole();
    }
}

#[test]
fn another_size_or_a_damaged_record_begins_again() {
    let mut pair = Pair::new(70 * GROUP);
    let fill = |pair: &Pair| {
        let mut partial = pair.open();
        partial.write_part(&pair.part(range(0, 32))).unwrap();
        partial.checkpoint().run().unwrap();
    };
    fill(&pair);
    let partial = pair.to.partial(pair.hash(), pair.size() + 1).unwrap();
    assert!(partial.verified().is_empty());
    partial.discard().unwrap();

    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 5] = [
        ("bits", |bytes| bytes[60] ^= 1),
        ("bits", |bytes| bytes.truncate(20)),
        ("bits", Vec::clear),
        ("data", |bytes| bytes.truncate(1000)),
        ("obao4", |bytes| bytes.push(1)),
    ];
    for (extension, harm) in harms {
        fill(&pair);
        let path = pair.partial_file(extension);
        let mut contents = fs::read(&path).unwrap();
        harm(&mut contents);
        fs::write(&path, contents).unwrap();
        pair.reopen();
        assert_eq!(partial_count(&pair.to), 0, "{extension}");
        assert_eq!(files(&pair.dir.path().join("to/blobs/partial")), 0, "{extension}");
        let partial = pair.open();
        assert!(partial.verified().is_empty(), "{extension}");
        partial.discard().unwrap();
    }
}

/// A bit that rots in what was synced is not sent on, and is found when the blob is checked.
#[test]
fn rot_in_a_partial_blob_is_not_served() {
    let pair = Pair::new(70 * GROUP);
    let mut partial = pair.open();
    partial.write_part(&pair.part(range(0, 32))).unwrap();
    let mut contents = fs::read(pair.partial_file("data")).unwrap();
    contents[5 * GROUP] ^= 1;
    fs::write(pair.partial_file("data"), contents).unwrap();
    let served = pair.to.open_for_serving(&pair.hash()).unwrap();
    let refused = encode_part(&served, range(0, 32), &mut Vec::new()).unwrap_err();
    assert!(matches!(refused, EncodeError::Damaged { group: 5, .. }), "{refused}");
}

#[test]
fn the_quota_counts_what_is_on_its_way() {
    let pair = Pair::new(70 * GROUP);
    let max = pair.size() + 100;
    pair.to.set_limits(BlobLimits { bytes_max: max });
    let partial = pair.open();
    assert_eq!(pair.to.used_bytes(), pair.size());
    let refused = pair.to.put_bytes(&[1; 101]).unwrap_err();
    assert!(
        matches!(refused, BlobError::QuotaExceeded { wanted: 101, used, max: m } if used == pair.size() && m == max),
        "{refused}"
    );
    let other = pair.to.partial(ContentHash::of(b"other"), 101).unwrap_err();
    assert!(matches!(other, BlobError::QuotaExceeded { .. }), "{other}");
    pair.to.put_bytes(&[1; 100]).unwrap();
    partial.discard().unwrap();
    assert_eq!(pair.to.used_bytes(), 100);
    drop(pair.open());
    // What is begun stays begun when the quota shrinks.
    pair.to.set_limits(BlobLimits { bytes_max: 1 });
    let mut partial = pair.open();
    for window in windows(pair.size()) {
        partial.write_part(&pair.part(window)).unwrap();
    }
    partial.finish().unwrap();
    pair.expect_whole();
}

#[test]
fn a_blob_can_arrive_twice_at_once() {
    let pair = Pair::new(40 * GROUP);
    let mut partial = pair.open();
    partial.write_part(&pair.part(all_groups(pair.size()))).unwrap();
    pair.to.put_bytes(&pair.data).unwrap();
    partial.finish().unwrap();
    pair.expect_whole();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any parts in any order, with crashes and checkpoints between them: what is claimed is
    /// there and right, and the end is the blob.
    #[test]
    fn any_history_ends_with_the_blob(
        size in 1..90 * GROUP,
        steps in prop::collection::vec((0..100_u8, any::<prop::sample::Index>()), 1..12),
    ) {
        let mut pair = Pair::new(size);
        let mut partial = Some(pair.open());
        let mut durable = GroupRanges::new();
        for (kind, index) in steps {
            let writer = partial.as_mut().unwrap();
            match kind {
                0..60 => {
                    let windows = windows(pair.size());
                    let window = windows[index.index(windows.len())];
                    writer.write_part(&pair.part(window)).unwrap();
                }
                60..80 => {
                    durable = writer.verified().clone();
                    writer.checkpoint().run().unwrap();
                }
                _ => {
                    drop(partial.take());
                    pair.reopen();
                    partial = Some(pair.open());
                    prop_assert!(partial.as_ref().unwrap().verified().is_superset(&durable));
                }
            }
            let served = pair.to.open_for_serving(&pair.hash()).unwrap();
            for run in partial.as_ref().unwrap().verified() {
                encode_part(&served, run, &mut Vec::new()).unwrap();
            }
        }
        let mut partial = partial.unwrap();
        for window in windows(pair.size()) {
            partial.write_part(&pair.part(window)).unwrap();
        }
        partial.finish().unwrap();
        pair.expect_whole();
    }
}
