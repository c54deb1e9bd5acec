//! Folders in and out: the same files again, hostile folders, and targets that must not be hurt.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use ayni_storage::blobs::{
    BlobError, BlobStore, ExportReport, FolderOptions, FolderReport, ImportMode, Imported,
};
use protocol::blobs::collection::Collection;
use protocol::ids::ContentHash;

use crate::support::Draw;

const MAX: u64 = 100_000_000;
const MIB: usize = 1 << 20;

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut draw = Draw(seed);
    let mut bytes: Vec<u8> = (0..size / 8 + 1).flat_map(|_| draw.next().to_le_bytes()).collect();
    bytes.truncate(size);
    bytes
}

struct Fixture {
    dir: tempfile::TempDir,
    store: BlobStore,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&dir.path().join("store")).unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        Self { dir, store }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn write(&self, name: &str, contents: &[u8]) {
        let path = self.path("in").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn import(&self, options: &FolderOptions) -> Result<(Imported, FolderReport), BlobError> {
        self.store.import_folder(&self.path("in"), options, &mut |_| true)
    }

    fn collection(&self, hash: &ContentHash) -> Collection {
        self.store.stored_collection(hash).unwrap().unwrap()
    }

    fn export(&self, hash: &ContentHash, replace: bool) -> Result<ExportReport, BlobError> {
        self.store.export(&self.collection(hash), &self.path("out"), replace, &mut |_| true)
    }

    /// What lies in the folder that holds everything: nothing temporary may stay.
    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// All files below a folder.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside = path.strip_prefix(folder).unwrap().to_path_buf();
                found.insert(inside, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn sample(fixture: &Fixture) {
    fixture.write("a.txt", b"a small file");
    fixture.write("empty", b"");
    fixture.write("deep/er/b.json", &bytes(1, 20_000));
    fixture.write("deep/er-c", &bytes(2, 700_000));
    fixture.write("deep/large.bin", &bytes(3, 9 * MIB + 13));
    fixture.write("same.bin", &bytes(3, 9 * MIB + 13));
    fixture.write("\u{fc} b.md", b"a name");
}

#[test]
fn a_folder_comes_out_as_it_went_in() {
    for mode in [ImportMode::Copy, ImportMode::Reflink, ImportMode::InPlace] {
        for chunked in [true, false] {
            let fixture = Fixture::new();
            sample(&fixture);
            let options = FolderOptions { mode, chunked, skip_special: false };
            let (imported, report) = fixture.import(&options).unwrap();
            let sum = 12 + 20_000 + 700_000 + 2 * (9 * MIB + 13) + 6;
            assert_eq!((report.files, report.bytes), (7, sum as u64));
            assert_eq!(report.new_bytes, (sum - 9 * MIB - 13) as u64, "alike is stored once");
            let exported = fixture.export(&imported.hash, false).unwrap();
            assert_eq!((exported.files, exported.bytes), (7, sum as u64));
            assert!(tree(&fixture.path("in")) == tree(&fixture.path("out")));
            assert_eq!(fixture.entries(), ["in", "out", "store"]);
            let collection = fixture.collection(&imported.hash);
            let types: Vec<&str> =
                collection.files().iter().map(|file| file.media_type.as_str()).collect();
            assert!(types.contains(&"text/plain") && types.contains(&"application/json"));
            assert_eq!(collection.chunks().count() > 9, chunked && mode == ImportMode::Copy);
            // Once more: nothing is new, and it is the same.
            let (again, report) = fixture.import(&options).unwrap();
            assert_eq!((again.hash, report.new_bytes), (imported.hash, 0));
            // Held, it survives; then nothing of it does.
            drop(again);
            fixture.store.gc(0, []).unwrap();
            assert_eq!(fixture.export(&imported.hash, true).unwrap(), exported);
            drop(imported);
            fixture.store.gc(0, []).unwrap();
            assert!(fixture.store.list().is_empty());
        }
    }
}

#[test]
fn a_changed_file_shares_most_of_its_chunks() {
    let fixture = Fixture::new();
    let mut data = bytes(1, 24 * MIB);
    fixture.write("data", &data);
    let (_first, report) = fixture.import(&FolderOptions::default()).unwrap();
    assert!(report.chunks >= 12, "{} chunks", report.chunks);
    // Inserted, removed, changed.
    data.splice(5 * MIB..5 * MIB, *b"something new");
    data.drain(12 * MIB..12 * MIB + 1_000);
    data[20 * MIB] ^= 1;
    fixture.write("data", &data);
    let (_second, report) = fixture.import(&FolderOptions::default()).unwrap();
    assert!(report.new_bytes > 0 && report.new_bytes < 12 << 20, "{} are new", report.new_bytes);
    // Whole, all of it is new.
    let whole = FolderOptions { chunked: false, ..FolderOptions::default() };
    let (_third, report) = fixture.import(&whole).unwrap();
    assert_eq!(report.new_bytes, data.len() as u64);
}

#[test]
fn one_file_is_a_collection_too() {
    let fixture = Fixture::new();
    fixture.write("data.csv", &bytes(1, 3 * MIB));
    let path = fixture.path("in/data.csv");
    let (imported, _) =
        fixture.store.import_folder(&path, &FolderOptions::default(), &mut |_| true).unwrap();
    let collection = fixture.collection(&imported.hash);
    let [file] = collection.files() else { panic!("one file") };
    assert_eq!((file.path.as_str(), file.media_type.as_str()), ("data.csv", "text/csv"));
    let target = fixture.path("copy.csv");
    fixture.store.export_file(file, &target, false, &mut |_| true).unwrap();
    assert!(fs::read(&target).unwrap() == bytes(1, 3 * MIB));
}

#[test]
fn links_and_devices_are_refused_or_left_out() {
    let fixture = Fixture::new();
    fixture.write("a", b"a");
    fixture.write("b/c", b"c");
    let outside = fixture.path("outside");
    fs::write(&outside, b"secret").unwrap();
    let inside = fixture.path("in");
    type Make = fn(&Path, &Path);
    let makes: [(&str, Make); 6] = [
        ("link", |at, outside| symlink(outside, at).unwrap()),
        ("dangling", |at, _| symlink("nowhere", at).unwrap()),
        ("folder", |at, _| symlink("/etc", at).unwrap()),
        ("loop", |at, _| symlink("..", at).unwrap()),
        ("socket", |at, _| drop(std::os::unix::net::UnixListener::bind(at).unwrap())),
        ("pipe", |at, _| {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
    ];
    for (name, make) in makes {
        let at = inside.join("b").join(name);
        make(&at, &outside);
        let refused = fixture.import(&FolderOptions::default()).unwrap_err();
        assert!(matches!(refused, BlobError::NotRegular { .. }), "{name}: {refused}");
        assert!(refused.to_string().contains(name), "{refused}");
        fs::rename(&at, inside.join(name)).unwrap();
    }
    let bad: [&[u8]; 3] = [b"not-utf8-\xff", b"back\\slash", b"new\nline"];
    for name in bad {
        fs::write(inside.join(OsStr::from_bytes(name)), b"x").unwrap();
    }
    let skip = FolderOptions { skip_special: true, ..FolderOptions::default() };
    let (imported, report) = fixture.import(&skip).unwrap();
    assert_eq!((report.files, report.skipped), (2, 9));
    assert_eq!(report.skipped_paths.len(), 9);
    let collection = fixture.collection(&imported.hash);
    let paths: Vec<&str> = collection.files().iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["a", "b/c"]);
    let refused = fixture.import(&FolderOptions::default()).unwrap_err();
    assert!(
        matches!(refused, BlobError::BadName { .. } | BlobError::NotRegular { .. }),
        "{refused}"
    );
    assert!(fixture.store.import_folder(&fixture.path("no"), &skip, &mut |_| true).is_err());
}

#[test]
fn a_folder_that_changes_is_not_taken() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 5] = [
        ("appended", |folder| {
            let file = fs::File::options().append(true).open(folder.join("b")).unwrap();
            std::io::Write::write_all(&mut &file, b"more").unwrap();
        }),
        ("cut", |folder| {
            fs::File::options().write(true).open(folder.join("b")).unwrap().set_len(0).unwrap();
        }),
        ("rewritten", |folder| fs::write(folder.join("b"), bytes(9, 3 * MIB)).unwrap()),
        ("removed", |folder| fs::remove_file(folder.join("c")).unwrap()),
        ("a link instead of a folder", |folder| {
            fs::rename(folder.join("d"), folder.with_extension("moved")).unwrap();
            symlink("/etc", folder.join("d")).unwrap();
        }),
    ];
    for (change, apply) in changes {
        for chunked in [true, false] {
            let fixture = Fixture::new();
            fixture.write("a", b"a");
            fixture.write("b", &bytes(1, 3 * MIB));
            fixture.write("c", b"c");
            fixture.write("d/e", b"e");
            let (mut applied, folder) = (false, fixture.path("in"));
            let options = FolderOptions { chunked, ..FolderOptions::default() };
            let result = fixture.store.import_folder(&folder, &options, &mut |done| {
                // In the middle of `b`.
                if done > 1 && !applied {
                    apply(&folder);
                    applied = true;
                }
                true
            });
            let refused = result.unwrap_err();
            // A link that was found as a link is simply refused.
            let is_told = matches!(
                refused,
                BlobError::ChangedWhileRead { .. } | BlobError::NotRegular { .. }
            );
            assert!(is_told, "{change}: {refused}");
            fixture.store.gc(0, []).unwrap();
            assert!(fixture.store.list().is_empty(), "{change}");
        }
    }
}

#[test]
fn a_target_is_whole_or_as_it_was() {
    let fixture = Fixture::new();
    sample(&fixture);
    let (imported, _) = fixture.import(&FolderOptions::default()).unwrap();
    let (out, hash) = (fixture.path("out"), imported.hash);
    // What exists stays unless told.
    fs::write(&out, b"mine").unwrap();
    let refused = fixture.export(&hash, false).unwrap_err();
    assert!(matches!(refused, BlobError::Exists { .. }), "{refused}");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    // Nor does a folder ever take the place of a file, or a file that of a folder.
    let refused = fixture.export(&hash, true).unwrap_err();
    assert!(matches!(refused, BlobError::OtherKind { .. }), "{refused}");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    fs::remove_file(&out).unwrap();
    fixture.export(&hash, false).unwrap();
    let refused = fixture.store.export_blob(&hash, &out, true, &mut |_| true).unwrap_err();
    assert!(matches!(refused, BlobError::OtherKind { .. }), "{refused}");
    assert!(tree(&fixture.path("in")) == tree(&out));
    fs::write(out.join("old"), b"goes with the folder").unwrap();
    fixture.export(&hash, true).unwrap();
    assert!(tree(&fixture.path("in")) == tree(&out));
    // A link is replaced and not followed.
    fs::rename(&out, fixture.path("victim")).unwrap();
    fs::write(fixture.path("victim/kept"), b"x").unwrap();
    symlink(fixture.path("victim"), &out).unwrap();
    let refused = fixture.export(&hash, false).unwrap_err();
    assert!(matches!(refused, BlobError::Exists { .. }), "{refused}");
    fixture.export(&hash, true).unwrap();
    assert!(fixture.path("victim/kept").exists() && !out.symlink_metadata().unwrap().is_symlink());
    // Cancelled, damaged, incomplete: nothing is left and nothing is touched.
    let before = tree(&out);
    let collection = fixture.collection(&hash);
    let cancelled = fixture.store.export(&collection, &out, true, &mut |done| done < 1_000_000);
    assert!(matches!(cancelled, Err(BlobError::Cancelled)), "{cancelled:?}");
    let chunk = collection.files().iter().find(|file| file.bytes > 8_000_000).unwrap().chunks[2];
    let path = fixture.store.data_path(&chunk.hash).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[100_000] ^= 1;
    for contents in [&damaged[..], &whole[..1_000], &[&whole[..], b"x"].concat()] {
        fs::write(&path, contents).unwrap();
        assert!(fixture.export(&hash, true).is_err());
        assert!(tree(&out) == before);
    }
    fixture.store.delete(&chunk.hash).unwrap();
    let refused = fixture.export(&hash, true).unwrap_err();
    assert!(matches!(refused, BlobError::NotFound(missing) if missing == chunk.hash), "{refused}");
    assert!(tree(&out) == before);
    assert_eq!(fixture.entries(), ["in", "out", "store", "victim"]);
}

#[test]
fn zeros_take_no_space() {
    let fixture = Fixture::new();
    let file = fs::File::create(fixture.path("in/sparse")).unwrap();
    file.set_len(64 * MIB as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"something", 40 * MIB as u64).unwrap();
    drop(file);
    let (imported, report) = fixture.import(&FolderOptions::default()).unwrap();
    assert!(report.new_bytes < 16 << 20, "zeros are stored once: {}", report.new_bytes);
    let exported = fixture.export(&imported.hash, false).unwrap();
    assert!(exported.sparse_bytes > 63 << 20, "{exported:?}");
    let out = fixture.path("out/sparse");
    assert!(out.metadata().unwrap().blocks() * 512 < 1 << 20);
    assert!(fs::read(&out).unwrap() == fs::read(fixture.path("in/sparse")).unwrap());
    // Whole, it takes no more space in the store either.
    let whole = FolderOptions { chunked: false, ..FolderOptions::default() };
    let (imported, _) = fixture.import(&whole).unwrap();
    let chunk = fixture.collection(&imported.hash).chunks().next().unwrap();
    let path = fixture.store.data_path(&chunk.hash).unwrap();
    assert!(path.metadata().unwrap().blocks() * 512 < 2 << 20);
    assert!(fs::read(path).unwrap() == fs::read(&out).unwrap());
    // A blob alone, with zeros at its end.
    let zeros = fixture.store.put_bytes(&vec![0; 5 * MIB]).unwrap();
    let target = fixture.path("zeros");
    fixture.store.export_blob(&zeros, &target, false, &mut |_| true).unwrap();
    assert!(fs::read(&target).unwrap() == vec![0; 5 * MIB]);
    assert_eq!(fixture.store.read_all(&zeros, MAX).unwrap().len(), 5 * MIB);
}
