//! Reading the daemon's log.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use crate::context::Context;
use crate::failure::{FAILED, Failure, NOT_FOUND};
use crate::output::{self, clean};

/// At most this much of the end is read; a line has perhaps 200 bytes.
const TAIL_BYTES_MAX: u64 = 1024 * 1024;
/// How often to look whether the log has grown.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn logs(context: &Context, lines: usize, follow: bool) -> Result<(), Failure> {
    let path = context.home()?.log();
    let mut file = open(&path)?;
    let mut position = file.metadata()?.len();
    let shown = last_lines(&read_range(&mut file, 0, position)?, lines);
    output::print(&clean(&shown))?;
    if !follow {
        return Ok(());
    }
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        let length = file.metadata()?.len();
        if length > position {
            output::print(&clean(&read_range(&mut file, position, length)?))?;
        }
        // A log that became shorter was emptied: go on from its new end.
        position = length;
    }
}

/// The last `lines` lines of what was written after `start`.
pub(super) fn tail(path: &Path, start: u64, lines: usize) -> Result<String, Failure> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    Ok(last_lines(&read_range(&mut file, start, length)?, lines))
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            Failure::new(NOT_FOUND, format!("there is no log {}", path.display())).with_hint(
                "it is written by `ayni node start`; a node run otherwise logs elsewhere",
            )
        }
        _ => Failure::new(FAILED, format!("cannot read {}: {error}", path.display())),
    })
}

fn read_range(file: &mut File, start: u64, end: u64) -> Result<String, Failure> {
    let start = start.max(end.saturating_sub(TAIL_BYTES_MAX));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(end.saturating_sub(start)).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines[lines.len().saturating_sub(count)..].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb", 5), "a\nb");
        assert_eq!(last_lines("", 5), "");
        assert_eq!(last_lines("a\n", 0), "");
    }
}
