//! The one door through which other threads reach a shard.
//!
//! One per shard: a bounded queue behind a mutex, swapped whole by the shard, and a waker that is
//! used on the edge from empty to non-empty only. Does not: know what the messages mean.

use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Messages that may wait for one shard. What does not fit stays with its sender, who tries again
/// at its next turn; so a shard that is overrun slows the others instead of growing.
pub(super) const MESSAGES_MAX: usize = 65_536;

struct State<T> {
    queue: VecDeque<T>,
    waker: Option<Waker>,
}

/// See the module's documentation.
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
}

impl<T> Inbox<T> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { queue: VecDeque::new(), waker: None }) }
    }

    /// Moves from the front of `messages` what fits.
    pub(super) fn push_all(&self, messages: &mut VecDeque<T>) {
        let mut state = self.lock();
        let room = MESSAGES_MAX - state.queue.len();
        let count = room.min(messages.len());
        if count == 0 {
            return;
        }
        let waker = if state.queue.is_empty() { state.waker.take() } else { None };
        state.queue.extend(messages.drain(..count));
        // Woken outside the lock: the shard takes it next.
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Adds one message, or gives it back if there is no room.
    pub(super) fn push(&self, message: T) -> Result<(), T> {
        let mut one = VecDeque::from([message]);
        self.push_all(&mut one);
        one.pop_front().map_or(Ok(()), Err)
    }

    /// Takes everything there is, in exchange for `empty`. Pending while there is nothing.
    pub(super) fn poll_take(&self, context: &mut Context<'_>, empty: &mut VecDeque<T>) -> Poll<()> {
        assert!(empty.is_empty(), "{} messages would be lost", empty.len());
        let mut state = self.lock();
        if state.queue.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        core::mem::swap(&mut state.queue, empty);
        Poll::Ready(())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in a critical section panics half-way, so the queue is whole either way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_the_first_message_wakes() {
        let inbox = Inbox::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut taken = VecDeque::new();
        assert!(inbox.poll_take(&mut context, &mut taken).is_pending());
        for n in 0..3 {
            inbox.push(n).unwrap();
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(inbox.poll_take(&mut context, &mut taken).is_ready());
        assert_eq!(taken, [0, 1, 2]);
    }

    #[test]
    fn what_does_not_fit_stays_with_the_sender_in_order() {
        let inbox = Inbox::new();
        let mut messages: VecDeque<usize> = (0..MESSAGES_MAX + 2).collect();
        inbox.push_all(&mut messages);
        assert_eq!(messages, [MESSAGES_MAX, MESSAGES_MAX + 1]);
        assert_eq!(inbox.push(7), Err(7));
        let mut taken = VecDeque::new();
        let mut context = Context::from_waker(Waker::noop());
        assert!(inbox.poll_take(&mut context, &mut taken).is_ready());
        inbox.push_all(&mut messages);
        assert!(messages.is_empty());
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let inbox = Arc::new(Inbox::new());
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let inbox = Arc::clone(&inbox);
                std::thread::spawn(move || {
                    for n in 0..1000_u32 {
                        inbox.push(n).unwrap();
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        let mut taken = VecDeque::new();
        let mut context = Context::from_waker(Waker::noop());
        assert!(inbox.poll_take(&mut context, &mut taken).is_ready());
        assert_eq!(taken.len(), 4000);
    }
}
