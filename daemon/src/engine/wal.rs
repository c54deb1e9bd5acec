//! The engine's write-ahead log before the engine opens it.
//!
//! Malachite 0.8.2 stops for ever (it waits for an operator) when it meets an entry whose
//! checksum or encoding is wrong. So the log is read through first, with the engine's own reader;
//! one that cannot be read is set aside under a name that says when, and the node does not vote
//! until the height it stood at is final elsewhere.
//!
//! A torn last entry is no corruption: a crash leaves it, the reader cuts it off, and what it
//! would have said was not sent to anybody. A damaged length looks the same; that is what the
//! vote guard is for.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use malachite_app::wal::Log;
use malachite_engine::wal::log_entries;
use rustix::fs::{FlockOperation, flock};

use super::codec::EngineCodec;
use super::context::AyniContext;

/// State of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalState {
    /// There was none.
    Absent,
    /// Every entry can be read.
    Readable,
    /// It could not be read and now lies at this path.
    SetAside(PathBuf),
}

/// Reads the log through and sets it aside if it cannot be read. Blocks on the file's lock until
/// an engine that is stopping has let go of it. The directory is created if it is missing.
///
/// # Errors
/// When the file system refuses; the engine must not start then.
pub fn check(path: &Path) -> io::Result<WalState> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(WalState::Absent),
        Err(error) => return Err(error),
    };
    flock(&file, FlockOperation::LockExclusive)?;
    let is_empty = file.metadata()?.len() == 0;
    // Closing the file releases the lock, which the reader takes itself.
    drop(file);
    if is_empty {
        return Ok(WalState::Absent);
    }
    match read_through(path) {
        Ok(()) => Ok(WalState::Readable),
        Err(error) => {
            let aside = aside(path);
            tracing::error!(
                path = %path.display(), aside = %aside.display(), %error,
                "the consensus log cannot be read; setting it aside and not voting until its \
                 height is final"
            );
            fs::rename(path, &aside)?;
            if let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
            Ok(WalState::SetAside(aside))
        }
    }
}

fn read_through(path: &Path) -> io::Result<()> {
    let mut log = Log::open(path)?;
    let entries = log_entries::<AyniContext, _>(&mut log, &EngineCodec)
        .map_err(|error| io::Error::other(error.to_string()))?;
    for entry in entries {
        entry?;
    }
    Ok(())
}

fn aside(path: &Path) -> PathBuf {
    let seconds =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{seconds}"));
    let first = path.with_file_name(&name);
    // Never onto an earlier one: it is evidence of what was signed.
    (0..)
        .map(|number| first.with_extension(format!("damaged-{seconds}-{number}")))
        .find(|candidate| !candidate.exists())
        .unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use malachite_core_consensus::Input;
    use malachite_core_types::{Round, SignedMessage};
    use malachite_engine::wal::encode_entry;
    use protocol::amount::Height;
    use protocol::consensus::{Vote, VoteKind};
    use protocol::ids::ValidatorId;

    use super::super::context::{self, Signature};
    use super::*;

    fn log_with_votes(path: &Path, count: u32) {
        let mut log = Log::open(path).expect("a new log");
        for round in 0..count {
            let vote = context::Vote::new(Vote {
                height: Height::new(1),
                round,
                kind: VoteKind::Prevote,
                block: None,
                validator: ValidatorId::from_bytes([1; 32]),
            });
            let signature = Signature(protocol::keys::Signature::from_bytes([7; 64]));
            let mut entry = Vec::new();
            let input = Input::<AyniContext>::Vote(SignedMessage::new(vote, signature));
            encode_entry(input, &EngineCodec, &mut entry).expect("encodes");
            log.append(entry).expect("appends");
        }
        log.flush().expect("flushes");
    }

    #[test]
    fn a_sound_log_is_left_alone_and_a_torn_tail_is_no_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deeper/consensus.wal");
        assert_eq!(check(&path).expect("no log"), WalState::Absent);
        log_with_votes(&path, 3);
        assert_eq!(check(&path).expect("a log"), WalState::Readable);
        let file = File::options().write(true).open(&path).expect("opens");
        let length = file.metadata().expect("metadata").len();
        file.set_len(length - 5).expect("cuts");
        assert_eq!(check(&path).expect("a torn log"), WalState::Readable);
    }

    #[test]
    fn a_damaged_log_is_set_aside_every_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("consensus.wal");
        let mut names = Vec::new();
        for _ in 0..2 {
            log_with_votes(&path, 2);
            let mut file = File::options().write(true).open(&path).expect("opens");
            file.seek(SeekFrom::End(-10)).expect("seeks");
            file.write_all(&[0xff]).expect("writes");
            let WalState::SetAside(aside) = check(&path).expect("handled") else {
                panic!("damage was not seen");
            };
            assert!(aside.exists() && !path.exists());
            names.push(aside);
        }
        assert_ne!(names[0], names[1]);
        assert_eq!(Round::new(0), Round::ZERO);
    }
}
