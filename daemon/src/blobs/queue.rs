//! Whose turn it is to fetch.
//!
//! Invariant: at most `max` blobs are fetched at once, and [`URGENT_EXTRA`] urgent ones beside
//! them; who waits is let in by urgency, then by age. While an urgent fetch runs, bulk ones ask
//! for nothing new. Cancel-safe: a turn that nobody waits for any more goes to the next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

/// Urgent fetches that run although all turns are taken.
const URGENT_EXTRA: usize = 4;

/// How urgent a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A training round waits for it.
    Urgent,
    /// Somebody waits for it.
    #[default]
    Normal,
    /// It may take its time: a dataset, a copy for others.
    Bulk,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    state: Mutex<State>,
    urgent: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    waiting: BTreeMap<(Priority, u64), oneshot::Sender<Turn>>,
    next: u64,
}

/// A running fetch; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Turn {
    shared: Option<Arc<Shared>>,
    priority: Priority,
}

impl Queue {
    pub(super) fn new(max: usize) -> Self {
        let shared = Shared { max, state: Mutex::default(), urgent: watch::Sender::new(0) };
        Self(Arc::new(shared))
    }

    /// Waits for a turn.
    pub(super) async fn enter(&self, priority: Priority) -> Turn {
        let receiver = {
            let mut state = self.0.lock();
            let is_next = state.waiting.is_empty() || priority == Priority::Urgent;
            if is_next && state.running < self.0.room(priority) {
                return self.0.admit(&mut state, priority);
            }
            let (sender, receiver) = oneshot::channel();
            state.next += 1;
            let place = (priority, state.next);
            state.waiting.insert(place, sender);
            receiver
        };
        match receiver.await {
            Ok(turn) => turn,
            // The queue keeps every sender until it has used it.
            Err(_) => unreachable!("a place in the queue was lost"),
        }
    }

    /// Follows whether urgent fetches are running.
    pub(super) fn urgent(&self) -> watch::Receiver<usize> {
        self.0.urgent.subscribe()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn room(&self, priority: Priority) -> usize {
        match priority {
            Priority::Urgent => self.max + URGENT_EXTRA,
            Priority::Normal | Priority::Bulk => self.max,
        }
    }

    fn admit(self: &Arc<Self>, state: &mut State, priority: Priority) -> Turn {
        state.running += 1;
        if priority == Priority::Urgent {
            self.urgent.send_modify(|urgent| *urgent += 1);
        }
        Turn { shared: Some(Arc::clone(self)), priority }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        if self.priority == Priority::Urgent {
            shared.urgent.send_modify(|urgent| *urgent = urgent.saturating_sub(1));
        }
        let mut state = shared.lock();
        state.running = state.running.saturating_sub(1);
        while let Some(first) = state.waiting.first_entry() {
            let priority = first.key().0;
            let sender = first.remove();
            if state.running >= shared.room(priority) {
                // Its place was the best; nobody after it fits either.
                state.next += 1;
                state.waiting.insert((priority, 0), sender);
                break;
            }
            if sender.is_closed() {
                continue;
            }
            let turn = shared.admit(&mut state, priority);
            if let Err(mut unused) = sender.send(turn) {
                // Without the lock twice: undone here instead of by its drop.
                unused.shared = None;
                state.running = state.running.saturating_sub(1);
                if priority == Priority::Urgent {
                    shared.urgent.send_modify(|urgent| *urgent = urgent.saturating_sub(1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_urgent_go_first_and_beside_the_others() {
        let queue = Queue::new(1);
        let urgent = queue.urgent();
        let first = queue.enter(Priority::Bulk).now_or_never().expect("free");
        let mut bulk = Box::pin(queue.enter(Priority::Bulk));
        let mut normal = Box::pin(queue.enter(Priority::Normal));
        assert!((&mut bulk).now_or_never().is_none());
        assert!((&mut normal).now_or_never().is_none());
        let hurry: Vec<_> = (0..URGENT_EXTRA)
            .map(|_| queue.enter(Priority::Urgent).now_or_never().expect("beside"))
            .collect();
        assert_eq!(*urgent.borrow(), URGENT_EXTRA);
        let mut late = Box::pin(queue.enter(Priority::Urgent));
        assert!((&mut late).now_or_never().is_none(), "bounded, too");
        drop(first);
        let late = (&mut late).now_or_never().expect("the first of all");
        drop((hurry, late));
        assert_eq!(*urgent.borrow(), 0);
        let normal = (&mut normal).now_or_never().expect("before the older bulk fetch");
        assert!((&mut bulk).now_or_never().is_none());
        drop(normal);
        assert!((&mut bulk).now_or_never().is_some());
    }

    #[test]
    fn who_gave_up_costs_nobody_a_turn() {
        let queue = Queue::new(1);
        let first = queue.enter(Priority::Normal).now_or_never().expect("free");
        let mut gone = Box::pin(queue.enter(Priority::Normal));
        let mut next = Box::pin(queue.enter(Priority::Normal));
        assert!((&mut gone).now_or_never().is_none() && (&mut next).now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!((&mut next).now_or_never().is_some());
        assert!(queue.enter(Priority::Normal).now_or_never().is_some());
        assert_eq!(queue.0.lock().running, 0);
    }

    #[test]
    fn a_turn_given_to_one_who_leaves_goes_on() {
        let queue = Queue::new(1);
        let first = queue.enter(Priority::Normal).now_or_never().expect("free");
        let mut second = Box::pin(queue.enter(Priority::Normal));
        assert!((&mut second).now_or_never().is_none());
        // The turn lies in the channel when its owner is dropped.
        drop(first);
        drop(second);
        assert_eq!(queue.0.lock().running, 0);
    }
}
