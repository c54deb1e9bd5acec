//! Telling others what is here: provider records and gossip, again after a restart and every hour.
//!
//! ```text
//! DATA/announced      one line a change: "+HASH" or "-HASH"; the last one of a hash counts
//! ```
//!
//! **Invariant.** Nothing is announced that nobody asked to announce: what cannot be read in the
//! file is left out. A change is durable when it returns. Deliberately absent: what is kept (the
//! store's pins); what is announced and no longer kept is forgotten by [`run`].

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::codec;
use protocol::ids::ContentHash;
use tokio::sync::Notify;

use super::{Node, notes};
use crate::network::Topic;
use crate::network::wire::{ANNOUNCED_MAX, Announcement};

/// How often everything is announced again: nodes forget announcements after two hours.
const REPEAT: Duration = Duration::from_secs(3_600);
/// How often it is looked whether there is anybody to tell, while something is waiting to be told.
const LOOK: Duration = Duration::from_secs(1);
/// Between two announcements, so that 65,536 hashes are no burst: below two minutes for all.
const PACE: Duration = Duration::from_millis(100);
/// Changes in the file, beside those that still count, after which it is written anew.
const STALE_LINES_MAX: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub struct Announcer {
    path: PathBuf,
    state: Mutex<State>,
    /// Something is waiting to be told.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    file: File,
    announced: BTreeSet<ContentHash>,
    /// Not told yet.
    pending: BTreeSet<ContentHash>,
}

/// What a file of changes amounts to, and its lines.
fn replay(text: &str) -> (BTreeSet<ContentHash>, usize) {
    let mut announced = BTreeSet::new();
    for line in text.lines() {
        match (line.get(..1), line.get(1..).and_then(|hash| hash.parse::<ContentHash>().ok())) {
            (Some("+"), Some(hash)) => drop(announced.insert(hash)),
            (Some("-"), Some(hash)) => drop(announced.remove(&hash)),
            // The end of the file when the power failed.
            _ => tracing::warn!(line, "a line of the file of announcements is damaged"),
        }
    }
    (announced, text.lines().count())
}

impl Announcer {
    /// Reads what is announced; all of it is waiting to be told. Blocks.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&bytes);
        let (announced, lines) = replay(&text);
        let is_torn = !text.is_empty() && !text.ends_with('\n');
        if is_torn || lines > announced.len().saturating_add(STALE_LINES_MAX) {
            let text: String = announced.iter().map(|hash| format!("+{hash}\n")).collect();
            notes::write(&path, text.as_bytes())?;
        }
        let file = File::options().create(true).append(true).open(&path)?;
        let state = State { file, pending: announced.clone(), announced };
        Ok(Self { path, state: Mutex::new(state), changed: Notify::new() })
    }

    /// Whether a blob is announced.
    pub fn contains(&self, hash: &ContentHash) -> bool {
        self.lock().announced.contains(hash)
    }

    /// Announces a blob from now on. Blocks.
    pub fn insert(&self, hash: ContentHash) -> io::Result<()> {
        let mut state = self.lock();
        if !state.announced.contains(&hash) {
            self.append(&mut state, &format!("+{hash}\n"))?;
            state.announced.insert(hash);
        }
        state.pending.insert(hash);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Announces a blob no more; whether it was. Blocks.
    pub fn remove(&self, hash: &ContentHash) -> io::Result<bool> {
        let mut state = self.lock();
        if !state.announced.contains(hash) {
            return Ok(false);
        }
        self.append(&mut state, &format!("-{hash}\n"))?;
        state.pending.remove(hash);
        Ok(state.announced.remove(hash))
    }

    fn append(&self, state: &mut State, line: &str) -> io::Result<()> {
        let written = state.file.write_all(line.as_bytes()).and_then(|()| state.file.sync_data());
        written.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", self.path.display()))
        })
    }

    fn all(&self) -> BTreeSet<ContentHash> {
        self.lock().announced.clone()
    }

    fn has_pending(&self) -> bool {
        !self.lock().pending.is_empty()
    }

    fn take_pending(&self) -> BTreeSet<ContentHash> {
        std::mem::take(&mut self.lock().pending)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one insert or remove after the file has it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells others until shutdown.
pub async fn run(node: Arc<Node>) {
    let mut repeat = tokio::time::interval(REPEAT);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once, and everything is pending then.
    repeat.tick().await;
    let work = async {
        loop {
            let waits = node.announcer.has_pending();
            tokio::select! {
                () = node.announcer.changed.notified(), if !waits => {}
                _ = look.tick(), if waits => {
                    if !node.network.peers().await.is_empty() {
                        let pending = node.announcer.take_pending();
                        for hash in &pending {
                            node.network.provide(*hash).await;
                        }
                        publish(&node, &pending).await;
                    }
                }
                _ = repeat.tick() => {
                    tidy(&node).await;
                    publish(&node, &node.announcer.all()).await;
                }
            }
        }
    };
    tokio::select! {
        () = node.token.cancelled() => {}
        () = work => {}
    }
}

async fn publish(node: &Node, hashes: &BTreeSet<ContentHash>) {
    let mut pace = tokio::time::interval(PACE);
    let hashes: Vec<ContentHash> = hashes.iter().copied().collect();
    for batch in hashes.chunks(ANNOUNCED_MAX) {
        pace.tick().await;
        let announcement = Announcement { blobs: batch.to_vec() };
        node.network.publish(Topic::Blobs, codec::encode(&announcement)).await;
    }
}

/// Forgets what is no longer here, and what nobody pins any more.
pub async fn tidy(node: &Arc<Node>) {
    let shared = Arc::clone(node);
    let gone = tokio::task::spawn_blocking(move || {
        let pins = match shared.store.pins() {
            Ok(pins) => pins,
            Err(error) => {
                tracing::warn!(%error, "announcements are not compared with the pins");
                return Vec::new();
            }
        };
        let named: BTreeSet<ContentHash> = pins.names.values().copied().collect();
        let now = unix_seconds();
        let is_kept = |hash: &ContentHash| {
            let pinned = pins.pins.get(hash).is_some_and(|until| !until.has_ended(now));
            (pinned || named.contains(hash)) && shared.store.contains(hash)
        };
        let gone = shared.announcer.all().into_iter().filter(|hash| !is_kept(hash));
        gone.filter(|hash| match shared.announcer.remove(hash) {
            Ok(was) => was,
            Err(error) => {
                tracing::warn!(%error, "an announcement could not be withdrawn");
                false
            }
        })
        .collect::<Vec<_>>()
    });
    for hash in gone.await.unwrap_or_default() {
        node.network.withdraw(hash).await;
    }
}

/// Now, for the leases of pins.
pub(crate) fn unix_seconds() -> u64 {
    super::ledger::now().get() / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_survive_a_restart_and_a_torn_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("announced");
        let [one, two] = [ContentHash::of(b"1"), ContentHash::of(b"2")];
        let announcer = Announcer::open(path.clone()).expect("writable");
        assert!(!announcer.has_pending());
        announcer.insert(one).expect("writable");
        announcer.insert(two).expect("writable");
        assert!(announcer.remove(&one).expect("writable"));
        assert!(!announcer.remove(&one).expect("writable"), "once");
        assert_eq!(announcer.take_pending(), BTreeSet::from([two]));
        drop(announcer);

        let torn =
            format!("{}+{}", fs::read_to_string(&path).expect("there"), &one.to_string()[..9]);
        fs::write(&path, torn).expect("writable");
        let announcer = Announcer::open(path.clone()).expect("readable");
        assert!(announcer.contains(&two) && !announcer.contains(&one));
        assert_eq!(announcer.take_pending(), BTreeSet::from([two]), "told again after a restart");
        announcer.insert(one).expect("writable");
        drop(announcer);
        let announcer = Announcer::open(path).expect("readable");
        assert_eq!(announcer.all(), BTreeSet::from([one, two]));
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("announced");
        let hash = ContentHash::of(b"x");
        let lines: String = (0..STALE_LINES_MAX + 2)
            .map(|turn| format!("{}{hash}\n", if turn % 2 == 0 { '+' } else { '-' }))
            .collect();
        fs::write(&path, lines + &format!("+{hash}\n")).expect("writable");
        let announcer = Announcer::open(path.clone()).expect("readable");
        assert!(announcer.contains(&hash));
        assert_eq!(fs::read_to_string(&path).expect("there"), format!("+{hash}\n"));
    }
}
