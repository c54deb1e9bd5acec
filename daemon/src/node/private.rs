//! Private data: a folder of text that trains here and never leaves.
//!
//! **Invariant.** Its bytes go from the folder into a job directory of the worker and nowhere
//! else. Nothing here returns them; no message of the network, blob or API type can hold them.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::api::PrivateSummary;
use protocol::limits;
use protocol::training::Draw;
use protocol::worker::FileName;

/// Files looked at in a private folder.
const FILES_MAX: usize = 100_000;

/// A text file of the folder.
struct TextFile {
    path: PathBuf,
    bytes: u64,
}

fn visit(dir: &Path, files: &mut Vec<TextFile>, skipped: &mut u32) -> std::io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            visit(&entry.path(), files, skipped)?;
        } else if kind.is_file() && files.len() < FILES_MAX {
            let bytes = entry.metadata()?.len();
            let text = bytes > 0
                && bytes <= limits::SHARD_BYTES_MAX
                && fs::read(entry.path()).is_ok_and(|b| std::str::from_utf8(&b).is_ok());
            if text {
                files.push(TextFile { path: entry.path(), bytes });
            } else {
                *skipped = skipped.saturating_add(1);
            }
        }
    }
    Ok(())
}

/// Looks at a folder. Blocks.
pub fn summarize(dir: &Path) -> std::io::Result<PrivateSummary> {
    let (mut files, mut skipped) = (Vec::new(), 0);
    visit(dir, &mut files, &mut skipped)?;
    Ok(PrivateSummary {
        path: dir.display().to_string(),
        files: u32::try_from(files.len()).unwrap_or(u32::MAX),
        bytes: files.iter().map(|f| f.bytes).sum(),
        files_skipped: skipped,
    })
}

/// Copies files of the folder, up to `bytes_max` together and in drawn order, to `private-N.txt`
/// in a job directory. Blocks.
pub fn copy_some(
    dir: &Path,
    job: &Path,
    bytes_max: u64,
    draw: &mut Draw,
) -> anyhow::Result<Vec<FileName>> {
    let (mut files, mut skipped) = (Vec::new(), 0);
    visit(dir, &mut files, &mut skipped)?;
    let mut copied = Vec::new();
    let mut bytes = 0_u64;
    for index in draw.sample(u64::try_from(files.len())?, files.len()) {
        let Some(file) = files.get(usize::try_from(index)?) else { continue };
        if bytes >= bytes_max {
            break;
        }
        let name = FileName::new(format!("private-{}.txt", copied.len()))?;
        fs::copy(&file.path, job.join(name.as_str()))?;
        bytes = bytes.saturating_add(file.bytes);
        copied.push(name);
    }
    Ok(copied)
}
