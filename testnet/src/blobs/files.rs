//! Files that no compression and no deduplication can make smaller, and whether two are equal.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use protocol::ids::ContentHash;

/// Bytes drawn or read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes a file of random bytes, and syncs it.
pub(crate) fn random_file(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("{} is made", path.display()))?;
    let mut random = random(seed);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left.min(BUFFER_BYTES as u64))?;
        random.fill(&mut buffer[..now]);
        file.write_all(&buffer[..now])?;
        left -= now as u64;
    }
    file.sync_all().with_context(|| format!("{} is synced", path.display()))
}

/// Makes a folder of so many random files, a hundred to a folder below it; their bytes together.
pub(crate) fn random_folder(path: &Path, files: u64, bytes: usize, seed: u64) -> Result<u64> {
    const PER_FOLDER: u64 = 100;
    let mut random = random(seed);
    let mut buffer = vec![0; bytes];
    for number in 0..files {
        let folder = path.join(format!("part-{:03}", number / PER_FOLDER));
        if number % PER_FOLDER == 0 {
            fs::create_dir_all(&folder)?;
        }
        random.fill(&mut buffer);
        let mut file = BufWriter::new(File::create(folder.join(format!("file-{number:05}.bin")))?);
        file.write_all(&buffer)?;
        file.flush()?;
    }
    Ok(files * bytes as u64)
}

fn random(seed: u64) -> blake3::OutputReader {
    blake3::Hasher::new().update(b"ayni bench file").update(&seed.to_le_bytes()).finalize_xof()
}

/// The hash of a file.
pub(crate) fn hash_file(path: &Path) -> Result<ContentHash> {
    let mut file = File::open(path).with_context(|| format!("{} is read", path.display()))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(ContentHash::from_bytes(*hasher.finalize().as_bytes()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// All files below two folders must be equal, and the same; how many there are.
pub(crate) fn check_equal_folders(left: &Path, right: &Path) -> Result<u64> {
    let (names, others) = (names(left)?, names(right)?);
    ensure!(names == others, "{} and {} hold other files", left.display(), right.display());
    for name in &names {
        let (left, right) = (left.join(name), right.join(name));
        let equal = fs::read(&left)? == fs::read(&right)?;
        ensure!(equal, "{} is not as {}", right.display(), left.display());
    }
    Ok(names.len() as u64)
}

/// Paths of all files below a folder, relative to it, in order.
fn names(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        let entries = fs::read_dir(&next).with_context(|| format!("{} is read", next.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder)?.to_owned());
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_folders_are_told_from_others() {
        let place = tempfile::tempdir().expect("temporary folder");
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        assert_eq!(random_folder(&one, 130, 64, 1).expect("made"), 130 * 64);
        random_folder(&two, 130, 64, 1).expect("made");
        assert_eq!(check_equal_folders(&one, &two).expect("equal"), 130);
        let file = two.join("part-001/file-00129.bin");
        random_file(&file, 64, 9).expect("overwritten");
        check_equal_folders(&one, &two).expect_err("other bytes");
        fs::remove_file(&file).expect("removed");
        check_equal_folders(&one, &two).expect_err("one file less");
    }

    #[test]
    fn a_file_has_the_hash_of_its_bytes() {
        let place = tempfile::tempdir().expect("temporary folder");
        let path = place.path().join("file");
        random_file(&path, (2 << 20) + 3, 5).expect("made");
        let bytes = fs::read(&path).expect("read");
        assert_eq!(bytes.len(), (2 << 20) + 3);
        assert_eq!(hash_file(&path).expect("hashed"), ContentHash::of(&bytes));
    }
}
