//! A string that occurs in one private corpus and must occur nowhere else.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::gather::{cut_at_line, sorted_entries};

/// Files that carry the string, each at three places.
const FILES_MAX: usize = 8;
/// Bytes read at a time when searching.
const BUFFER_BYTES: usize = 1 << 20;

/// A string that looks random and is drawn from the seed.
pub fn make_canary(seed: u64) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("ayni-testnet 2026 canary v1");
    hasher.update(&seed.to_le_bytes());
    format!("canary-{}", &hasher.finalize().to_hex()[..40])
}

/// Writes the string on lines of its own into several text files of a corpus, at the start, in
/// the middle and at the end of each; gives how often.
pub fn plant_canary(folder: &Path, canary: &str) -> Result<u64> {
    let files = sorted_entries(folder)?;
    ensure!(!files.is_empty(), "{} holds no file to put the canary into", folder.display());
    let mut planted = 0;
    for file in files.iter().take(FILES_MAX) {
        let text = fs::read_to_string(file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        let head = cut_at_line(&text, text.len() / 2);
        let tail = &text[head.len()..];
        fs::write(file, format!("{canary}\n{head}\n{canary}\n{tail}\n{canary}\n"))
            .with_context(|| format!("{} cannot be written", file.display()))?;
        planted += 3;
    }
    Ok(planted)
}

/// How often `needle` occurs in the regular files under a folder. Files that vanish meanwhile
/// count nothing; links are not followed.
pub fn find_bytes(folder: &Path, needle: &[u8]) -> Result<u64> {
    ensure!(!needle.is_empty(), "nothing to search for");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("{}", folder.display())),
    };
    let mut count = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            count += find_bytes(&entry.path(), needle)?;
        } else if kind.is_file() {
            match File::open(entry.path()) {
                Ok(file) => {
                    count += find_in(file, needle, BUFFER_BYTES)
                        .with_context(|| format!("{} cannot be read", entry.path().display()))?;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("{}", entry.path().display()));
                }
            }
        }
    }
    Ok(count)
}

/// Streams with an overlap one byte shorter than the needle, so that each occurrence is seen
/// exactly once.
fn find_in(mut reader: impl Read, needle: &[u8], buffer_bytes: usize) -> std::io::Result<u64> {
    let overlap = needle.len() - 1;
    let mut buffer = vec![0; overlap + buffer_bytes];
    let mut held = 0;
    let mut count = 0;
    loop {
        let read = match reader.read(&mut buffer[held..]) {
            Ok(0) => return Ok(count),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let filled = held + read;
        count += count_in(&buffer[..filled], needle);
        held = filled.min(overlap);
        buffer.copy_within(filled - held..filled, 0);
    }
}

fn count_in(text: &[u8], needle: &[u8]) -> u64 {
    let mut count = 0;
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == needle[0]) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            count += 1;
        }
        rest = &rest[1..];
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in portions of one size.
    struct Portions<'a>(&'a [u8], usize);

    impl Read for Portions<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.1.min(buffer.len()).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn occurrences_across_buffer_edges_count_once() {
        let text = b"abcxabcabcxxabab cabc";
        for portion in 1..=text.len() {
            for buffer in 1..=8 {
                let found = find_in(Portions(text, portion), b"abc", buffer).unwrap();
                assert_eq!(found, 4, "portion {portion}, buffer {buffer}");
            }
        }
        assert_eq!(find_in(&b"aaaa"[..], b"aa", 2).unwrap(), 3, "overlapping ones count too");
    }

    #[test]
    fn a_planted_canary_is_found_and_another_is_not() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("inner")).unwrap();
        for n in 0..3 {
            let text: String = (0..40).map(|line| format!("line {line}\n")).collect();
            fs::write(home.path().join(format!("inner/{n}.txt")), text).unwrap();
        }
        let canary = make_canary(7);
        let planted = plant_canary(&home.path().join("inner"), &canary).unwrap();
        assert_eq!(planted, 9);
        assert_eq!(find_bytes(home.path(), canary.as_bytes()).unwrap(), 9);
        assert_eq!(find_bytes(home.path(), make_canary(8).as_bytes()).unwrap(), 0);
        assert_eq!(find_bytes(&home.path().join("gone"), b"x").unwrap(), 0);
    }
}
