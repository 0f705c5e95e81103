//! Waiting inside one executor: a flag that one task waits for, a bell for many, and a way to let
//! the executor do its I/O.
//!
//! Apart because the executor's own primitives either cannot be re-polled safely or do not give
//! the reactor a chance. Nothing here crosses threads.

use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Poll, Waker};
use core::time::Duration;

use glommio::timer::Timer;

/// A flag with one waiter. Setting it twice before it is seen is the same as once.
#[derive(Default)]
pub(super) struct Flag {
    set: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Flag {
    /// Sets it and wakes the waiter.
    pub(super) fn set(&self) {
        if !self.set.replace(true)
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    /// Waits until it is set, but not longer than `time`, and clears it.
    pub(super) async fn wait_at_most(&self, time: Duration) {
        let mut timer = Timer::new(time);
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            self.waiter.set(Some(context.waker().clone()));
            Pin::new(&mut timer).poll(context).map(drop)
        })
        .await;
    }

    /// Waits until it is set and clears it.
    pub(super) async fn wait(&self) {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            self.waiter.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Wakes all who wait, and remembers nothing.
#[derive(Default)]
pub(super) struct Bell {
    waiters: RefCell<Vec<Waker>>,
}

impl Bell {
    /// Wakes all.
    pub(super) fn ring(&self) {
        // Taken out first: a woken task may wait again before this ends.
        for waiter in self.waiters.take() {
            waiter.wake();
        }
    }

    /// Waits for the next ring.
    pub(super) async fn wait(&self) {
        let mut waiting = false;
        poll_fn(|context| {
            if waiting {
                return Poll::Ready(());
            }
            waiting = true;
            self.waiters.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Lets everything else that is ready run, I/O included.
///
/// A task that merely yields stays runnable, and the executor does no I/O while anything is
/// runnable. So after yielding it waits for the shortest timer there is, which comes back through
/// the reactor (one of zero would be over before it is registered).
pub(super) async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    Timer::new(Duration::from_micros(1)).await;
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_flag_wakes_its_waiter_and_a_bell_all_of_them() {
        let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
        executor.run(async {
            let flag = Rc::new(Flag::default());
            let bell = Rc::new(Bell::default());
            let seen = Rc::new(Cell::new(0));
            for _ in 0..3 {
                let (bell, seen) = (Rc::clone(&bell), Rc::clone(&seen));
                glommio::spawn_local(async move {
                    bell.wait().await;
                    seen.set(seen.get() + 1);
                })
                .detach();
            }
            let other = Rc::clone(&flag);
            glommio::spawn_local(async move { other.set() }).detach();
            flag.wait().await;
            bell.ring();
            let_others_run().await;
            assert_eq!(seen.get(), 3);
        });
    }
}
