//! Importing: the three modes, streams, and files that change or are not what they should be.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use ayni_storage::blobs::{
    BlobError, BlobLimits, BlobStore, ImportMode, Imported, Stored, Verification, encode_part,
};
use protocol::blobs::{GroupRange, all_groups};
use protocol::ids::ContentHash;

use crate::support::Draw;

const GROUP: usize = 16_384;
const MAX: u64 = 100_000_000;

fn bytes(size: usize) -> Vec<u8> {
    let mut draw = Draw(size as u64);
    (0..size).map(|_| draw.next() as u8).collect()
}

struct Fixture {
    dir: tempfile::TempDir,
    store: BlobStore,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn reopen(&mut self) {
        self.store = BlobStore::open(&self.dir.path().join("store")).unwrap();
    }

    fn write(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    fn import(&self, path: &std::path::Path, mode: ImportMode) -> Result<Imported, BlobError> {
        self.store.import(path, mode, MAX, &mut |_| true)
    }

    fn temporary_files(&self) -> usize {
        fs::read_dir(self.dir.path().join("store/blobs/tmp")).unwrap().count()
    }
}

const SIZES: [usize; 7] = [0, 1, GROUP, GROUP + 1, 3 * GROUP, 1 << 20, (1 << 20) + 70_001];

#[test]
fn every_mode_gives_the_same_blob() {
    for mode in [ImportMode::Copy, ImportMode::Reflink, ImportMode::InPlace] {
        let mut fixture = Fixture::new();
        for size in SIZES {
            let data = bytes(size);
            let path = fixture.write(&format!("file-{size}"), &data);
            let mut last = 0;
            let told = &mut |done| {
                last = done;
                true
            };
            let imported = fixture.store.import(&path, mode, MAX, told).unwrap();
            assert_eq!((imported.hash, imported.size), (ContentHash::of(&data), size as u64));
            assert_eq!(last, size as u64);
            let expected: &[Stored] = match mode {
                ImportMode::Copy => &[Stored::Copied],
                // Whether it can is the file system's.
                ImportMode::Reflink => &[Stored::Reflinked, Stored::Copied],
                ImportMode::InPlace => &[Stored::InPlace],
            };
            assert!(expected.contains(&imported.stored), "{:?}", imported.stored);
            assert_eq!(imported.hold.hash(), imported.hash);
            let again = fixture.import(&path, mode).unwrap();
            assert_eq!(again.stored, Stored::AlreadyHere);
        }
        let used = fixture.store.used_bytes();
        let sum: usize = SIZES.iter().sum();
        assert_eq!(used, if mode == ImportMode::InPlace { 0 } else { sum as u64 });
        for _ in 0..2 {
            for size in SIZES {
                let (data, hash) = (bytes(size), ContentHash::of(&bytes(size)));
                assert!(fixture.store.read_all(&hash, MAX).unwrap() == data);
                assert_eq!(fixture.store.verify(&hash).unwrap(), Verification::Intact);
                let served = fixture.store.open_for_serving(&hash).unwrap();
                encode_part(&served, all_groups(size as u64), &mut Vec::new()).unwrap();
            }
            assert!(fixture.store.fsck(true, &mut |_, _| true).unwrap().is_clean());
            assert_eq!(fixture.temporary_files(), 0);
            fixture.reopen();
        }
    }
}

#[test]
fn a_changed_file_is_no_longer_a_blob() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 6] = [
        ("written", |path| {
            fs::write(path, bytes(99_999)).unwrap();
        }),
        ("one byte, same length", |path| {
            let mut data = fs::read(path).unwrap();
            data[5] ^= 1;
            fs::write(path, data).unwrap();
        }),
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("replaced by the same bytes", |path| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(copy, path).unwrap();
        }),
        ("a link instead", |path| {
            let moved = path.with_extension("moved");
            fs::rename(path, &moved).unwrap();
            symlink(moved, path).unwrap();
        }),
        ("cut", |path| {
            File::options().write(true).open(path).unwrap().set_len(10).unwrap();
        }),
    ];
    for (change, apply) in changes {
        for use_first in [false, true] {
            let mut fixture = Fixture::new();
            let path = fixture.write("file", &bytes(100_000));
            let hash = fixture.import(&path, ImportMode::InPlace).unwrap().hash;
            assert!(fixture.store.contains(&hash));
            apply(&path);
            if use_first {
                let refused = fixture.store.open_data(&hash).unwrap_err();
                assert!(matches!(refused, BlobError::Changed { .. }), "{change}: {refused}");
            }
            assert!(!fixture.store.contains(&hash), "{change}");
            assert_eq!(fixture.store.availability(&hash).groups().groups(), 0);
            let refused = fixture.store.read_all(&hash, MAX).unwrap_err();
            assert!(matches!(refused, BlobError::NotFound(_)), "{change}: {refused}");
            fixture.reopen();
            assert!(fixture.store.list().is_empty(), "{change}");
            // Bytes that are here again are a blob again.
            fixture.store.put_bytes(&bytes(100_000)).unwrap();
            assert!(fixture.store.contains(&hash));
        }
    }
}

/// A file that changes while it is in use, after the check: what is served is checked besides.
#[test]
fn a_file_that_changes_in_use_is_not_served() {
    let fixture = Fixture::new();
    let path = fixture.write("file", &bytes(10 * GROUP));
    let hash = fixture.import(&path, ImportMode::InPlace).unwrap().hash;
    let served = fixture.store.open_for_serving(&hash).unwrap();
    let mut data = bytes(10 * GROUP);
    data[3 * GROUP] ^= 1;
    File::options().write(true).open(&path).unwrap().write_all(&data).unwrap();
    let mut frame = Vec::new();
    encode_part(&served, GroupRange::one(2), &mut frame).unwrap();
    assert!(encode_part(&served, GroupRange::one(3), &mut frame).is_err());
}

#[test]
fn a_damaged_reference_is_forgotten() {
    let mut fixture = Fixture::new();
    let path = fixture.write("file", &bytes(100_000));
    let hash = fixture.import(&path, ImportMode::InPlace).unwrap().hash;
    let reference = fixture.dir.path().join(format!("store/blobs/refs/{hash}.ref"));
    let mut contents = fs::read(&reference).unwrap();
    contents[30] ^= 1;
    fs::write(&reference, contents).unwrap();
    fixture.reopen();
    assert!(!fixture.store.contains(&hash));
    assert_eq!(fs::read_dir(fixture.dir.path().join("store/blobs/refs")).unwrap().count(), 0);
    assert!(path.exists(), "the user's file is not ours to remove");
    // Deleting a reference does not either.
    let hash = fixture.import(&path, ImportMode::InPlace).unwrap().hash;
    assert!(fixture.store.delete(&hash).unwrap());
    assert!(path.exists());
}

#[test]
fn what_is_no_plain_file_is_refused_in_every_mode() {
    let fixture = Fixture::new();
    let file = fixture.write("file", &bytes(1_000));
    let link = fixture.dir.path().join("link");
    symlink(&file, &link).unwrap();
    for mode in [ImportMode::Copy, ImportMode::Reflink, ImportMode::InPlace] {
        for path in [&link, &fixture.dir.path().to_path_buf(), &PathBuf::from("/dev/zero")] {
            let refused = fixture.import(path, mode).unwrap_err();
            assert!(matches!(refused, BlobError::NotRegular { .. }), "{mode:?}: {refused}");
        }
        let refused = fixture.store.import(&file, mode, 999, &mut |_| true).unwrap_err();
        assert!(matches!(refused, BlobError::TooLarge { .. }), "{mode:?}: {refused}");
        let large = fixture.write("large", &bytes(3 << 20));
        let refused = fixture.store.import(&large, mode, MAX, &mut |_| false).unwrap_err();
        assert!(matches!(refused, BlobError::Cancelled), "{mode:?}: {refused}");
        assert!(fixture.store.list().is_empty());
        assert_eq!((fixture.temporary_files(), fixture.store.used_bytes()), (0, 0));
    }
}

#[test]
fn streams_are_the_same_however_they_are_cut() {
    for size in SIZES {
        let data = bytes(size);
        for cut in [1_usize << 30, 100_000, 777] {
            let fixture = Fixture::new();
            let mut importer = fixture.store.importer(MAX);
            data.chunks(cut).for_each(|bytes| importer.write(bytes).unwrap());
            assert_eq!(importer.size(), size as u64);
            let imported = importer.finish().unwrap();
            assert_eq!(imported.hash, ContentHash::of(&data));
            assert!(fixture.store.read_all(&imported.hash, MAX).unwrap() == data);
            assert_eq!(fixture.store.verify(&imported.hash).unwrap(), Verification::Intact);
            assert_eq!(fixture.temporary_files(), 0);
        }
    }
    let fixture = Fixture::new();
    let mut importer = fixture.store.importer(50_000);
    importer.write(&bytes(40_000)).unwrap();
    let refused = importer.write(&bytes(10_001)).unwrap_err();
    assert!(matches!(refused, BlobError::TooLarge { size: 50_001, .. }), "{refused}");
    drop(importer);
    assert_eq!((fixture.temporary_files(), fixture.store.used_bytes()), (0, 0));
}

#[test]
fn imports_count_towards_the_quota_while_they_run() {
    let fixture = Fixture::new();
    fixture.store.set_limits(BlobLimits { bytes_max: 100_000 });
    let mut first = fixture.store.importer(MAX);
    first.write(&bytes(60_000)).unwrap();
    let mut second = fixture.store.importer(MAX);
    let refused = second.write(&bytes(50_000)).unwrap_err();
    assert!(
        matches!(refused, BlobError::QuotaExceeded { used: 60_000, wanted: 50_000, .. }),
        "{refused}"
    );
    drop(first);
    second.write(&bytes(50_000)).unwrap();
    second.finish().unwrap();
    let path = fixture.write("file", &bytes(60_000));
    let refused = fixture.import(&path, ImportMode::Copy).unwrap_err();
    assert!(matches!(refused, BlobError::QuotaExceeded { .. }), "{refused}");
    // In place it takes nothing.
    fixture.import(&path, ImportMode::InPlace).unwrap();
    assert_eq!(fixture.store.used_bytes(), 50_000);
}
