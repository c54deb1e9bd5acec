//! Who uses the worker next.
//!
//! Guaranteed: one holder at a time; first come, first served within a lane; a waiting duty goes
//! before a waiting interactive job, except that after [`DUTIES_IN_A_ROW_MAX`] duties in a row one
//! interactive job that waits has its turn. Nobody is interrupted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Jobs that may wait in each lane; more are refused at once.
pub(super) const WAITING_MAX: usize = 64;
/// Duties that may pass a waiting interactive job.
const DUTIES_IN_A_ROW_MAX: u32 = 4;

/// Which queue a job stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Training, reviewing and merging for the network: late work costs credits.
    Duty,
    /// Somebody at this node asked for it.
    Interactive,
}

#[derive(Default)]
struct State {
    busy: bool,
    duties: VecDeque<oneshot::Sender<Permit>>,
    interactive: VecDeque<oneshot::Sender<Permit>>,
    /// Duties since the last interactive job.
    in_a_row: u32,
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        let patience_over = self.in_a_row >= DUTIES_IN_A_ROW_MAX;
        if (patience_over || self.duties.is_empty())
            && let Some(waiter) = self.interactive.pop_front()
        {
            self.in_a_row = 0;
            return Some(waiter);
        }
        let duty = self.duties.pop_front();
        self.in_a_row = if duty.is_some() { self.in_a_row.saturating_add(1) } else { 0 };
        duty
    }
}

/// A fair lock with two priorities. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Lanes(Arc<Mutex<State>>);

/// Exclusive use, until dropped.
pub(super) struct Permit(Lanes);

impl Lanes {
    /// Lanes that somebody holds from the beginning.
    pub(super) fn held() -> (Self, Permit) {
        let lanes = Self::default();
        lanes.state().busy = true;
        let permit = Permit(lanes.clone());
        (lanes, permit)
    }

    /// Waits for its turn. `None` when too many wait already. Cancel-safe: a waiter that goes
    /// away loses its place and nothing else.
    pub(super) async fn acquire(&self, lane: Lane) -> Option<Permit> {
        let turn = {
            let mut state = self.state();
            if !state.busy {
                state.busy = true;
                return Some(Permit(self.clone()));
            }
            let queue = match lane {
                Lane::Duty => &mut state.duties,
                Lane::Interactive => &mut state.interactive,
            };
            queue.retain(|waiter| !waiter.is_closed());
            if queue.len() >= WAITING_MAX {
                return None;
            }
            let (sender, turn) = oneshot::channel();
            queue.push_back(sender);
            turn
        };
        // Senders leave the queues only with a permit.
        turn.await.ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state();
            let next = state.next();
            state.busy = next.is_some();
            next
        };
        if let Some(waiter) = next {
            // A waiter that has gone gives the permit back, whose drop serves the next one: at
            // most as deep as the queues are long.
            drop(waiter.send(Permit(self.0.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn duties_first_but_not_for_ever() {
        let lanes = Lanes::default();
        let mut held = lanes.acquire(Lane::Interactive).await.expect("free");
        let queue = |lane| {
            let mut turn = Box::pin({
                let lanes = lanes.clone();
                async move { lanes.acquire(lane).await }
            });
            assert!(turn.as_mut().now_or_never().is_none(), "must wait");
            turn
        };
        let mut interactive = queue(Lane::Interactive);
        let duties: Vec<_> = (0..=DUTIES_IN_A_ROW_MAX).map(|_| queue(Lane::Duty)).collect();
        let mut last = None;
        for (index, mut duty) in duties.into_iter().enumerate() {
            drop(held);
            if index == DUTIES_IN_A_ROW_MAX as usize {
                held = interactive.as_mut().await.expect("its turn");
                last = Some(duty);
                break;
            }
            assert!(interactive.as_mut().now_or_never().is_none(), "a duty goes first");
            held = duty.as_mut().now_or_never().expect("its turn").expect("a permit");
        }
        drop(held);
        assert!(last.expect("one duty is left").await.is_some());
        assert!(lanes.acquire(Lane::Duty).now_or_never().is_some(), "free again");
    }

    #[tokio::test]
    async fn waiters_that_leave_do_not_block_the_others() {
        let lanes = Lanes::default();
        let held = lanes.acquire(Lane::Duty).await.expect("free");
        let mut gone = Box::pin(lanes.acquire(Lane::Duty));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut stays = Box::pin(lanes.acquire(Lane::Duty));
        assert!(stays.as_mut().now_or_never().is_none());
        drop(gone);
        drop(held);
        assert!(stays.now_or_never().is_some(), "passed over the one that left");
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let lanes = Lanes::default();
        let _held = lanes.acquire(Lane::Duty).await.expect("free");
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX {
            let mut turn = Box::pin(lanes.acquire(Lane::Duty));
            assert!(turn.as_mut().now_or_never().is_none());
            waiting.push(turn);
        }
        assert!(lanes.acquire(Lane::Duty).await.is_none());
    }
}
