//! Telling listeners of the local interface what happens, without ever waiting for them.

use std::sync::{Mutex, PoisonError};

use protocol::api::NodeEvent;
use tokio::sync::mpsc;

/// Events that may wait for one listener.
const QUEUE: usize = 256;
/// Listeners at once.
const LISTENERS_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub struct Events(Mutex<Vec<Listener>>);

struct Listener {
    sender: mpsc::Sender<NodeEvent>,
    missed: u64,
}

impl Events {
    /// A new listener; `None` when there are too many.
    pub fn listen(&self) -> Option<mpsc::Receiver<NodeEvent>> {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.sender.is_closed());
        if listeners.len() >= LISTENERS_MAX {
            return None;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        listeners.push(Listener { sender, missed: 0 });
        Some(receiver)
    }

    /// Tells all listeners. Who is too slow misses events and is told how many.
    pub fn tell(&self, event: &NodeEvent) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain_mut(|listener| {
            if listener.missed > 0 {
                let missed = NodeEvent::Missed { events: listener.missed };
                if listener.sender.try_send(missed).is_ok() {
                    listener.missed = 0;
                }
            }
            match listener.sender.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    listener.missed += 1;
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }
}
