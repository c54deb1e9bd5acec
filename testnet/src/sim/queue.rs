//! What is going to happen, ordered by (time, number).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use protocol::transaction::SignedTransaction;

use super::message::{Message, Time};

/// Something that happens at a time.
pub(super) enum Event {
    Deliver { from: usize, to: usize, message: Message },
    Ring { node: usize, id: u64 },
    Build { node: usize, id: u64 },
    SyncTimeout { node: usize, id: u64 },
    Status { node: usize },
    Submit { node: usize, transaction: Rc<SignedTransaction> },
    Boot { node: usize },
    Crash,
    Partition,
    Mend,
}

impl Event {
    /// Kind, node and digest, for the hash over all events.
    pub(super) fn describe(&self) -> (u8, usize, [u8; 8]) {
        match self {
            Self::Deliver { to, message, .. } => (0, *to, message.digest()),
            Self::Ring { node, id } => (1, *node, id.to_le_bytes()),
            Self::Build { node, id } => (2, *node, id.to_le_bytes()),
            Self::SyncTimeout { node, id } => (3, *node, id.to_le_bytes()),
            Self::Status { node } => (4, *node, [0; 8]),
            Self::Submit { node, transaction } => {
                let bytes = transaction.signature.as_bytes();
                (5, *node, bytes.first_chunk::<8>().copied().unwrap_or_default())
            }
            Self::Boot { node } => (6, *node, [0; 8]),
            Self::Crash => (7, 0, [0; 8]),
            Self::Partition => (8, 0, [0; 8]),
            Self::Mend => (9, 0, [0; 8]),
        }
    }

    /// For traces.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Deliver { from, to, message } => {
                format!("{from}->{to} {} {}", message.name(), message.describe())
            }
            Self::Ring { node, id } => format!("{node} timer {id}"),
            Self::Build { node, .. } => format!("{node} builds"),
            Self::SyncTimeout { node, .. } => format!("{node} sync timeout"),
            Self::Status { node } => format!("{node} status"),
            Self::Submit { node, .. } => format!("{node} client's transaction"),
            Self::Boot { node } => format!("{node} boots"),
            Self::Crash => "crash".to_owned(),
            Self::Partition => "partition".to_owned(),
            Self::Mend => "partition mended".to_owned(),
        }
    }
}

struct Entry {
    time: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl Queue {
    pub(super) fn push(&mut self, time: Time, event: Event) {
        self.number += 1;
        self.heap.push(Reverse(Entry { time, number: self.number, event }));
    }

    /// The next event and its time.
    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        self.heap.pop().map(|Reverse(entry)| (entry.time, entry.event))
    }
}
