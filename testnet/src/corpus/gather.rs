//! Reading the files of sources: which, in what order, how much, and what is left out.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Document;
use super::filter::{self, Reason};

/// Something whose text stays together: a folder or a file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Name, good as a file name.
    pub name: String,
    /// Where it is.
    pub root: PathBuf,
}

/// How files are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Sources and documentation of a crate, without what programs wrote.
    Crate,
    /// Every file that is text.
    Any,
}

/// Files left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Not UTF-8 text.
    pub not_utf8: u64,
    /// Written by programs.
    pub generated: u64,
    /// Licences.
    pub licences: u64,
    /// The same as a file before.
    pub duplicates: u64,
    /// Could not be opened.
    pub unreadable: u64,
    /// Beyond what is taken of a source.
    pub beyond_limit: u64,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} files not UTF-8, {} generated, {} licences, {} duplicates, {} unreadable, {} over \
             the limit per source",
            self.not_utf8,
            self.generated,
            self.licences,
            self.duplicates,
            self.unreadable,
            self.beyond_limit
        )
    }
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// One for each source that had text, in the order added.
    pub documents: Vec<Document>,
    /// What was left out.
    pub skipped: Skipped,
}

/// What was taken of a file.
enum Portion {
    /// All of it.
    Whole(String),
    /// As much as there was room for.
    Head(String),
}

impl Portion {
    fn text(&self) -> &str {
        let (Self::Whole(text) | Self::Head(text)) = self;
        text
    }
}

/// Reads sources one after another and remembers what it has seen.
pub struct Gatherer {
    rules: Rules,
    seen: BTreeSet<[u8; 32]>,
    gathered: Gathered,
}

impl Gatherer {
    /// Nothing read yet.
    pub fn new(rules: Rules) -> Self {
        let gathered = Gathered { documents: Vec::new(), skipped: Skipped::default() };
        Self { rules, seen: BTreeSet::new(), gathered }
    }

    /// Reads at most `limit` bytes of a source and gives how many it had.
    pub fn add(&mut self, source: &Source, limit: usize) -> Result<usize> {
        let mut files = Vec::new();
        if source.root.is_dir() {
            self.list(&source.root, &mut files)?;
            files.sort_by_cached_key(|file| reading_order(&source.root, file));
        } else {
            files.push(source.root.clone());
        }
        let mut text = String::new();
        let mut room = limit;
        for file in files {
            if room == 0 {
                self.gathered.skipped.beyond_limit += 1;
                continue;
            }
            if let Some(more) = self.read(&source.root, &file, room)? {
                text.push_str(more.text());
                room = match more {
                    Portion::Whole(_) => limit.saturating_sub(text.len()),
                    Portion::Head(_) => 0,
                };
                if !text.ends_with('\n') {
                    text.push('\n');
                }
            }
        }
        let bytes = text.len();
        if bytes > 0 {
            self.gathered.documents.push(Document { name: source.name.clone(), text });
        }
        Ok(bytes)
    }

    /// Everything read.
    pub fn finish(self) -> Gathered {
        self.gathered
    }

    /// Regular files under a folder; links are not followed, so there are no loops.
    fn list(&mut self, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
        let Ok(entries) = sorted_entries(folder) else {
            self.gathered.skipped.unreadable += 1;
            return Ok(());
        };
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let kind = fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() && !filter::is_skipped_folder(&name) {
                self.list(&path, files)?;
            } else if kind.is_file()
                && (self.rules == Rules::Any || filter::has_wanted_extension(&path))
            {
                files.push(path);
            }
        }
        Ok(())
    }

    fn read(&mut self, root: &Path, file: &Path, limit: usize) -> Result<Option<Portion>> {
        let skipped = &mut self.gathered.skipped;
        let Ok(opened) = File::open(file) else {
            skipped.unreadable += 1;
            return Ok(None);
        };
        // A character more than the limit, so that a cut is noticed.
        let mut bytes = Vec::new();
        let most = u64::try_from(limit)?.saturating_add(4);
        opened
            .take(most)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        let Some(text) = as_text(&bytes, limit) else {
            skipped.not_utf8 += 1;
            return Ok(None);
        };
        let reason = match self.rules {
            Rules::Crate => filter::judge(file.strip_prefix(root).unwrap_or(file), text),
            Rules::Any => None,
        };
        match reason {
            Some(Reason::Generated) => skipped.generated += 1,
            Some(Reason::Licence) => skipped.licences += 1,
            None if text.trim().is_empty() => {}
            None if !self.seen.insert(*blake3::hash(&bytes).as_bytes()) => skipped.duplicates += 1,
            None if bytes.len() <= limit => return Ok(Some(Portion::Whole(text.to_owned()))),
            None => return Ok(Some(Portion::Head(cut_at_line(text, limit).to_owned()))),
        }
        Ok(None)
    }
}

/// UTF-8 without zero bytes; a character cut by the reading limit does not spoil the rest.
fn as_text(bytes: &[u8], limit: usize) -> Option<&str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() && bytes.len() > limit => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}

/// The longest head of at most `limit` bytes that ends with a line, or else with a character.
/// Never empty for a text and a limit of at least four bytes.
pub fn cut_at_line(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let head = &text[..text.floor_char_boundary_at(limit)];
    head.rfind('\n').map_or(head, |end| &head[..=end])
}

/// `str::floor_char_boundary` is newer than the oldest compiler supported.
trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|&i| self.is_char_boundary(i)).unwrap_or(0)
    }
}

/// The introduction first, then the code, then the rest.
fn reading_order(root: &Path, file: &Path) -> (u8, PathBuf) {
    let path = file.strip_prefix(root).unwrap_or(file).to_owned();
    let rank = if path == Path::new("README.md") {
        0
    } else if path.starts_with("src") {
        1
    } else {
        2
    };
    (rank, path)
}

/// Entries of a folder in name order.
pub fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("{} cannot be listed", folder.display()))?;
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(rules: Rules, files: &[(&str, &[u8])], limit: usize) -> Gathered {
        let home = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let mut gatherer = Gatherer::new(rules);
        let source = Source { name: "a".into(), root: home.path().to_owned() };
        gatherer.add(&source, limit).unwrap();
        gatherer.finish()
    }

    #[test]
    fn a_crate_is_read_in_order_and_what_is_left_out_is_counted() {
        let gathered = gather(
            Rules::Crate,
            &[
                ("tests/t.rs", b"fn t() {}\n"),
                ("src/lib.rs", b"fn a() {}"),
                ("src/copy.rs", b"fn a() {}"),
                ("src/bad.rs", b"fn \xff\xfe"),
                ("src/bindings.rs", b"fn g() {}"),
                ("LICENSE.md", b"words"),
                ("README.md", b"# Hello\n"),
                ("data.bin", b"\0\x01"),
                ("target/x.rs", b"fn x() {}"),
            ],
            1_000,
        );
        // The copy comes first in name order.
        assert_eq!(gathered.documents[0].text, "# Hello\nfn a() {}\nfn t() {}\n");
        let expect = Skipped {
            not_utf8: 1,
            generated: 1,
            licences: 1,
            duplicates: 1,
            unreadable: 0,
            beyond_limit: 0,
        };
        assert_eq!(gathered.skipped, expect);
    }

    #[test]
    fn a_limit_cuts_at_a_line_and_counts_the_rest() {
        let gathered = gather(
            Rules::Any,
            &[("a", "one\ntwö\nthree\n".as_bytes()), ("b", b"four\n"), ("c", b"five\n")],
            11,
        );
        assert_eq!(gathered.documents[0].text, "one\ntwö\n");
        let gathered = gather(Rules::Any, &[("a", b"0123456789"), ("b", b"x"), ("c", b"y")], 10);
        assert_eq!(gathered.documents[0].text, "0123456789\n");
        assert_eq!(gathered.skipped.beyond_limit, 2);
    }

    #[test]
    fn a_character_cut_by_the_limit_is_no_fault() {
        assert_eq!(as_text("aé".as_bytes(), 9), Some("aé"));
        assert_eq!(as_text(&"aéé".as_bytes()[..4], 3), Some("aé"));
        assert_eq!(as_text(&"aéé".as_bytes()[..4], 9), None);
        assert_eq!(as_text(b"a\0b", 9), None);
        assert_eq!(cut_at_line("ééé", 3), "é");
    }
}
