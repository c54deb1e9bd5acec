//! A node's disk: the real block log, proposal log and signer guard on files in memory, a model of
//! the engine's write-ahead log, and the faults that a disk has.
//!
//! **What a crash does.** A fuse counts durable operations down. The one at which it burns out is
//! cut: not begun, written in part (the file keeps any prefix of what was being written), or
//! done without the caller ever learning of it. What was written but not synced is lost from any
//! point on. Then the files are opened again by the same code that the daemon opens them with.
//!
//! The ledger's state index (sled in the daemon) is modelled: a crash takes it back to its last
//! flush, and it is replayed from the block log. The marker of abstention is modelled as durable
//! once written (the daemon renames it into place).

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use malachite_core_consensus::Input;
use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::consensus::ProposalBody;
use protocol::ids::ChainId;
use storage::{BlockLog, Decision, GuardEntry, ProposalLog, SignerGuard};

use super::chain::Snapshot;
use super::context::SimContext;
use super::random::Random;

/// The node died in the middle of what it was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crashed;

/// Rounds of the height in progress whose stored bodies are offered to the engine again, as the
/// daemon does it.
const ROUNDS_RECOVERED_MAX: u32 = 256;
/// Blocks between two raisings of the guard's floor, as `storage::ledger` does it.
const BLOCKS_PER_FLOOR: u64 = 64;

/// The engine's log of one height.
#[derive(Default)]
struct Wal {
    height: Height,
    entries: Vec<Input<SimContext>>,
    synced: usize,
}

struct Logs {
    blocks: BlockLog,
    proposals: ProposalLog,
    guard: SignerGuard,
}

/// One of the files.
#[derive(Clone, Copy)]
enum File {
    Blocks,
    Proposals,
    Guard,
}

/// What happened to a disk beyond a clean stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Operations cut in their middle.
    pub(super) torn: u64,
    /// Unsynced entries of the engine's log that were lost.
    pub(super) unsynced: u64,
}

/// See the module.
pub(super) struct Disk {
    directory: PathBuf,
    chain: ChainId,
    logs: Option<Logs>,
    wal: Wal,
    flushed: Rc<Snapshot>,
    commits: u32,
    /// Commits between two flushes of the state index.
    commits_per_flush: u32,
    abstain: Option<Height>,
    /// Durable operations left before a crash.
    fuse: Option<u32>,
    is_guarded: bool,
    /// Length of the block log after each block, to put an old copy back.
    lengths: Vec<u64>,
    random: Random,
    pub(super) losses: Losses,
}

impl Disk {
    /// An empty disk in a directory of its own.
    pub(super) fn new(
        directory: PathBuf,
        chain: ChainId,
        first: Rc<Snapshot>,
        is_guarded: bool,
        mut random: Random,
    ) -> Self {
        let commits_per_flush = u32::try_from(random.between(1, 32)).unwrap_or(1);
        Self {
            directory,
            chain,
            logs: None,
            wal: Wal::default(),
            flushed: first,
            commits: 0,
            commits_per_flush,
            abstain: None,
            fuse: None,
            is_guarded,
            lengths: Vec::new(),
            random,
            losses: Losses::default(),
        }
    }

    fn path(&self, file: File) -> PathBuf {
        self.directory.join(match file {
            // Its first segment: a seed writes far less than one holds.
            File::Blocks => "blocks/00000000000000000001.blocks",
            File::Proposals => "proposals.log",
            // Outside the data directory in the daemon: an old copy of that does not touch it.
            File::Guard => "guard",
        })
    }

    /// Opens the logs in the order of `storage::LedgerStore::open`. A log that its own crash made
    /// unreadable is a violation, hence a panic.
    pub(super) fn open(&mut self) {
        fs::create_dir_all(&self.directory).expect("the simulator's directory can be made");
        let (blocks, _) = BlockLog::open(&self.directory, &self.chain)
            .expect("a crash leaves the block log readable");
        let (proposals, _) = ProposalLog::open(&self.directory, &self.chain)
            .expect("a crash leaves the proposal log readable");
        let (guard, _) = SignerGuard::open(&self.path(File::Guard), &self.chain)
            .expect("a crash leaves the signer guard readable");
        let mut logs = Logs { blocks, proposals, guard };
        if let Some(tip) = logs.blocks.tip() {
            logs.guard.raise_floor(tip.height.plus(1)).expect("the floor is raised");
            logs.proposals.prune(tip.height).expect("old proposals are pruned");
            self.lengths.truncate(usize::try_from(tip.height.get()).unwrap_or(usize::MAX));
            if self.lengths.len() as u64 != tip.height.get() {
                self.lengths.push(logs.blocks.bytes());
            }
        }
        self.logs = Some(logs);
    }

    /// Lights the fuse: the node dies at the durable operation after `operations` others.
    pub(super) const fn light(&mut self, operations: u32) {
        self.fuse = Some(operations);
    }

    pub(super) const fn put_out(&mut self) {
        self.fuse = None;
    }

    /// Counts one thing that the outside world or the disk would notice.
    pub(super) fn burn(&mut self) -> Result<(), Crashed> {
        match &mut self.fuse {
            None => Ok(()),
            Some(0) => {
                self.fuse = None;
                Err(Crashed)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Does something durable to `file`, or dies in it.
    fn operate<T>(
        &mut self,
        file: File,
        operation: impl FnOnce(&mut Logs) -> T,
    ) -> Result<T, Crashed> {
        let dies = self.burn().is_err();
        let path = self.path(file);
        let logs = self.logs.as_mut().expect("a running node has its logs open");
        if !dies {
            return Ok(operation(logs));
        }
        let before = length(&path);
        if self.random.chance(250_000) {
            return Err(Crashed);
        }
        operation(logs);
        let after = length(&path);
        self.logs = None;
        // A new segment is renamed into place whole.
        if before > 0 && after > before && self.random.chance(750_000) {
            let cut = self.random.between(before, after);
            truncate(&path, cut);
            self.losses.torn += 1;
        }
        Err(Crashed)
    }

    /// The machine stops: what was not synced is lost from some point on.
    pub(super) fn crash(&mut self) {
        self.logs = None;
        self.fuse = None;
        self.commits = 0;
        let unsynced = self.wal.entries.len() - self.wal.synced;
        let kept = self.wal.synced + self.random.index(unsynced + 1);
        self.losses.unsynced += (self.wal.entries.len() - kept) as u64;
        self.wal.entries.truncate(kept);
        self.wal.synced = kept;
    }

    /// The engine's log is damaged: it is set aside, and the node abstains from its next height.
    pub(super) fn set_wal_aside(&mut self) {
        self.wal = Wal::default();
        let tip = self.lengths.len() as u64;
        self.abstain = self.abstain.or(Some(Height::new(tip + 1)));
    }

    /// The engine's log is gone without a trace.
    pub(super) fn lose_wal(&mut self) {
        self.wal = Wal::default();
    }

    /// An old copy of the data directory is put back: up to `blocks` blocks, all proposals and the
    /// engine's log are gone; the signer guard lies elsewhere and stays.
    pub(super) fn restore_backup(&mut self, blocks: usize, first: &Rc<Snapshot>) {
        let kept = self.lengths.len().saturating_sub(blocks);
        self.lengths.truncate(kept);
        let path = self.path(File::Blocks);
        match self.lengths.last() {
            Some(length) => truncate(&path, *length),
            None => fs::remove_file(&path).expect("the block log can be removed"),
        }
        fs::remove_file(self.path(File::Proposals)).expect("the proposal log can be removed");
        self.wal = Wal::default();
        if self.flushed.height.get() > kept as u64 {
            self.flushed = Rc::clone(first);
        }
    }

    /// The state that the index has after a crash.
    pub(super) fn flushed(&self) -> Rc<Snapshot> {
        Rc::clone(&self.flushed)
    }

    /// The last decided height.
    pub(super) fn tip(&self) -> Height {
        self.logs().blocks.tip().map_or(Height::ZERO, |tip| tip.height)
    }

    fn logs(&self) -> &Logs {
        self.logs.as_ref().expect("a running node has its logs open")
    }

    /// A decided block.
    pub(super) fn decided(&self, height: Height) -> Option<DecidedBlock> {
        self.logs().blocks.get(height).expect("a stored block can be read")
    }

    /// Bodies of a height.
    pub(super) fn bodies(&self, height: Height) -> Vec<ProposalBody> {
        let proposals = &self.logs().proposals;
        if proposals.is_empty() {
            return Vec::new();
        }
        (0..=ROUNDS_RECOVERED_MAX)
            .flat_map(|round| {
                proposals.for_round(height, round).expect("stored bodies can be read")
            })
            .collect()
    }

    /// Stores a body.
    pub(super) fn store_body(&mut self, body: &ProposalBody) -> Result<(), Crashed> {
        self.operate(File::Proposals, |logs| {
            logs.proposals.insert(body).expect("a body is stored");
        })
    }

    /// Stores a decided block, then moves the state index on, as `LedgerStore::append_decided`.
    pub(super) fn append(
        &mut self,
        decided: &DecidedBlock,
        after: &Rc<Snapshot>,
    ) -> Result<(), Crashed> {
        let bytes = self.operate(File::Blocks, |logs| {
            logs.blocks.append(decided).expect("a decided block follows the last");
            logs.blocks.bytes()
        })?;
        self.lengths.push(bytes);
        self.commits += 1;
        if self.commits >= self.commits_per_flush {
            self.commits = 0;
            self.flushed = Rc::clone(after);
        }
        self.operate(File::Proposals, |logs| {
            logs.proposals.prune(after.height).expect("old proposals are pruned");
        })?;
        if after.height.get().is_multiple_of(BLOCKS_PER_FLOOR) {
            self.operate(File::Guard, |logs| {
                logs.guard.raise_floor(after.height).expect("the floor is raised");
            })?;
        }
        Ok(())
    }

    /// Whether the guard lets this be signed.
    pub(super) fn allows(&mut self, entry: &GuardEntry) -> Result<bool, Crashed> {
        if !self.is_guarded {
            return Ok(true);
        }
        let decision =
            self.operate(File::Guard, |logs| logs.guard.check(entry).expect("the guard works"))?;
        Ok(decision == Decision::Sign)
    }

    /// Entries of the engine's log for a height; another height's are dropped.
    pub(super) fn start_wal(&mut self, height: Height) -> Vec<Input<SimContext>> {
        if self.wal.height != height {
            self.reset_wal(height);
        }
        self.wal.entries.clone()
    }

    /// Empties the engine's log.
    pub(super) fn reset_wal(&mut self, height: Height) {
        self.wal = Wal { height, entries: Vec::new(), synced: 0 };
    }

    /// Writes to the engine's log, without syncing.
    pub(super) fn append_wal(
        &mut self,
        height: Height,
        entry: Input<SimContext>,
    ) -> Result<(), Crashed> {
        self.burn()?;
        if self.wal.height == height {
            self.wal.entries.push(entry);
        }
        Ok(())
    }

    /// Syncs the engine's log.
    pub(super) fn flush_wal(&mut self) -> Result<(), Crashed> {
        if self.wal.synced < self.wal.entries.len() {
            self.burn()?;
            self.wal.synced = self.wal.entries.len();
        }
        Ok(())
    }

    /// The height to abstain at, if it is not over.
    pub(super) fn abstains_until(&mut self) -> Option<Height> {
        let tip = self.tip();
        self.abstain = self.abstain.filter(|until| *until > tip);
        self.abstain
    }

    /// Remembers to abstain.
    pub(super) const fn abstain(&mut self, until: Height) {
        self.abstain = Some(until);
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

fn truncate(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("a log can be opened");
    file.set_len(length).expect("a log can be cut");
}

#[cfg(test)]
mod tests {
    use protocol::ids::BlockHash;
    use protocol::ledger::parameters::LedgerParameters;
    use storage::Step;

    use super::super::chain::Network;
    use super::*;

    fn entry(round: u32, block: u8) -> GuardEntry {
        let value = Some(BlockHash::from_bytes([block; 32]));
        GuardEntry { height: Height::new(1), round, step: Step::Prevote, value }
    }

    #[test]
    fn a_crash_in_the_guard_leaves_what_was_answered_and_never_two_values() {
        let network = Network::new(&[1_000; 4], 0, LedgerParameters::default());
        for seed in 0..40 {
            let directory = tempfile::tempdir().unwrap();
            let random = Random::new(seed, "disk", 0);
            let first = Rc::clone(&network.first);
            let path = directory.path().to_path_buf();
            let mut disk = Disk::new(path, network.chain, first, true, random);
            disk.open();
            disk.light(2);
            assert_eq!(disk.allows(&entry(0, 1)), Ok(true));
            assert_eq!(disk.allows(&entry(1, 1)), Ok(true));
            assert_eq!(disk.allows(&entry(2, 1)), Err(Crashed), "the fuse is out");
            disk.crash();
            disk.open();
            // What was answered stands; what was not may have been written or not, but only once.
            assert_eq!(disk.allows(&entry(0, 2)), Ok(false));
            assert_eq!(disk.allows(&entry(1, 2)), Ok(false));
            let other = disk.allows(&entry(2, 2)).unwrap();
            assert_eq!(disk.allows(&entry(2, 1)), Ok(!other));
        }
    }

    #[test]
    fn the_engines_log_keeps_what_was_synced() {
        let network = Network::new(&[1_000; 4], 0, LedgerParameters::default());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_path_buf();
        let first = Rc::clone(&network.first);
        let random = Random::new(5, "disk", 0);
        let mut disk = Disk::new(path, network.chain, first, true, random);
        let timeout = || {
            let round = malachite_core_types::Round::new(0);
            Input::TimeoutElapsed(malachite_core_types::Timeout::propose(round))
        };
        assert!(disk.start_wal(Height::new(1)).is_empty());
        disk.append_wal(Height::new(1), timeout()).unwrap();
        disk.flush_wal().unwrap();
        (0..9).for_each(|_| disk.append_wal(Height::new(1), timeout()).unwrap());
        disk.crash();
        let kept = disk.start_wal(Height::new(1)).len();
        assert!((1..=10).contains(&kept));
        assert_eq!(disk.losses.unsynced, 10 - kept as u64);
        assert!(disk.start_wal(Height::new(2)).is_empty(), "another height's entries go");
    }
}
