//! A run that was killed goes on where it last saved itself, bit for bit.
//!
//! The file holds which run it is, what was found so far, the state, and a hash of all of it. It
//! is written whole, synced and renamed: after a kill at any moment there is either the old one or
//! the new one. One of another run, or a damaged one, is not used: the run then starts over.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::time::{Duration, Instant};

use protocol::codec;
use protocol::ids::{ContentHash, derive};
use protocol::worker::{FileName, InnerRun, ModelFiles, TrainJob, WorkerRequest};

use super::train::{STEPS_MAX, Trace, Trainer};
use super::{Machine, state};
use crate::checkpoint::Checkpoint;
use crate::data::Shards;
use crate::error::JobError;
use crate::files::{JobDirectory, Pending};

/// Saving takes at most one part in so many of the time.
const COST_PART: u32 = 20;
/// And not more often than this, so that small models do not wear the disk.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Identity, steps, units.
const HEADER_BYTES: u64 = 32 + 8 + 8;
const HASH_BYTES: u64 = 32;

/// Saves a run, and finds what was saved of it.
pub struct Resume<'a> {
    directory: &'a JobDirectory,
    name: FileName,
    identity: [u8; 32],
    due: Instant,
}

impl<'a> Resume<'a> {
    /// For a run that is kept in the file `name`.
    pub fn new(
        machine: &Machine<'a>,
        name: &FileName,
        run: &InnerRun,
        head: &Checkpoint,
        shards: &Shards<'_>,
    ) -> Result<Self, JobError> {
        // Names of files may change from start to start; what is in them may not.
        let nameless = InnerRun { files: ModelFiles::default(), shards: vec![], ..run.clone() };
        let request = WorkerRequest::Train(TrainJob {
            run: nameless,
            checkpoint: name.clone(),
            checkpoint_out: name.clone(),
            resume: None,
            states: None,
        });
        let identity = derive(
            "ayni 2026 resumed run v1",
            &[
                &codec::encode(&request),
                head.hash().as_bytes(),
                shards.hash()?.as_bytes(),
                machine.describe().as_bytes(),
            ],
        );
        Ok(Self { directory: machine.directory, name: name.clone(), identity, due: Instant::now() })
    }

    /// Saves the run if it is time. The first step of a run is always saved: it tells the cost.
    pub fn save_if_due(&mut self, trainer: &Trainer<'_>, trace: &Trace) -> Result<(), JobError> {
        let started = Instant::now();
        if started < self.due {
            return Ok(());
        }
        let file = self.directory.create(&self.name)?;
        let mut output = Hashed { inner: file, hasher: blake3::Hasher::new() };
        write(&mut output, &self.identity, trainer, trace)?;
        let hash = *output.hasher.finalize().as_bytes();
        output.inner.write_all(&hash).map_err(|error| not_written(&error))?;
        output.inner.commit(true)?;
        let now = Instant::now();
        self.due = now + (now.duration_since(started) * COST_PART).max(PAUSE_MIN);
        Ok(())
    }

    /// Brings a fresh run to where it was saved, if it was.
    pub fn restore(&self, trainer: &mut Trainer<'_>, trace: &mut Trace) -> Result<(), JobError> {
        let Ok((mut file, length)) = self.directory.file(&self.name) else {
            return Ok(());
        };
        match self.check(&mut file, length, trainer) {
            Ok(steps) => {
                // The file is what this program wrote for this run: from here on an error is one
                // of the disk, and the model half filled.
                *trace = read(&mut file, steps, trainer)?;
                if trace.states.last() != Some(&trainer.state_hash()?) {
                    return Err(JobError::Request("the saved state is not what it was".into()));
                }
                tracing::info!(step = steps, "going on with a run that was cut off");
            }
            Err(reason) => tracing::warn!(reason, "what was saved is not used; starting over"),
        }
        Ok(())
    }

    /// Whether the file is whole and of this run; the steps that it has.
    fn check(&self, file: &mut File, length: u64, trainer: &Trainer<'_>) -> Result<u32, String> {
        let io = |error: std::io::Error| error.to_string();
        let mut head = [0u8; 40];
        file.read_exact(&mut head).map_err(io)?;
        let (identity, steps) = head.split_at(32);
        if identity != self.identity {
            return Err("it is of another run".into());
        }
        let steps = u64::from_le_bytes(steps.try_into().expect("eight bytes"));
        let steps = u32::try_from(steps).ok().filter(|steps| *steps <= STEPS_MAX);
        let steps = steps.ok_or("it has more steps than a run")?;
        if length != file_bytes(steps, trainer) {
            return Err("it has another length".into());
        }
        file.rewind().map_err(io)?;
        let mut hasher = blake3::Hasher::new();
        let mut content = Read::by_ref(file).take(length - HASH_BYTES);
        hasher.update_reader(&mut content).map_err(io)?;
        let mut hash = [0u8; 32];
        file.read_exact(&mut hash).map_err(io)?;
        if hash != *hasher.finalize().as_bytes() {
            return Err("it is damaged".into());
        }
        Ok(steps)
    }
}

/// Length of the file after so many steps.
fn file_bytes(steps: u32, trainer: &Trainer<'_>) -> u64 {
    let steps = u64::from(steps);
    let state = state::state_bytes(trainer.model.flat().numel());
    HEADER_BYTES + (steps + 1) * 32 + steps * 8 + state + HASH_BYTES
}

fn write(
    output: &mut Hashed<Pending<'_>>,
    identity: &[u8; 32],
    trainer: &Trainer<'_>,
    trace: &Trace,
) -> Result<(), JobError> {
    let mut bytes = identity.to_vec();
    bytes.extend_from_slice(&u64::from(trainer.step).to_le_bytes());
    bytes.extend_from_slice(&trace.units.to_le_bytes());
    for state in &trace.states {
        bytes.extend_from_slice(state.as_bytes());
    }
    for loss in &trace.losses {
        bytes.extend_from_slice(&loss.to_bits().to_le_bytes());
    }
    output.write_all(&bytes).map_err(|error| not_written(&error))?;
    state::write(trainer.model, &trainer.optimizer, output)
}

/// Reads a file that was checked.
fn read(file: &mut File, steps: u32, trainer: &mut Trainer<'_>) -> Result<Trace, JobError> {
    let failed = |error| JobError::Request(format!("the saved run cannot be read: {error}"));
    file.rewind().map_err(failed)?;
    let mut input = BufReader::new(file);
    input.seek_relative(40).map_err(failed)?;
    let mut units = [0u8; 8];
    input.read_exact(&mut units).map_err(failed)?;
    let units = u64::from_le_bytes(units);
    let mut states = Vec::new();
    for _ in 0..=steps {
        let mut bytes = [0u8; 32];
        input.read_exact(&mut bytes).map_err(failed)?;
        states.push(ContentHash::from_bytes(bytes));
    }
    let mut losses = Vec::new();
    for _ in 0..steps {
        let mut bytes = [0u8; 8];
        input.read_exact(&mut bytes).map_err(failed)?;
        losses.push(f64::from_bits(u64::from_le_bytes(bytes)));
    }
    state::read(trainer.model, &mut trainer.optimizer, &mut input)?;
    trainer.step = steps;
    Ok(Trace { states, losses, units })
}

fn not_written(error: &std::io::Error) -> JobError {
    JobError::Request(format!("the run cannot be saved: {error}"))
}

/// A writer that hashes what passes.
struct Hashed<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
