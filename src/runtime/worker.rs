//! A thread for what would block a shard: making segment files, resolving names, writing pins.
//!
//! Apart because a shard never waits for a file system or a resolver (I-12). A node has two: one
//! for files and one for names, so that a slow resolver cannot delay a segment. Results travel
//! back through an inbox or a [`oneshot`]. What works on files is joined before its node says that the
//! directory is free. Does not: know what the jobs are.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Jobs that may wait. A shard asks for a few segments and a few names at a time.
const JOBS_WAITING_MAX: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The way to hand a job to the thread. The thread ends when the last of these is dropped and
/// what was asked for is done, or when it is [stopped](WorkerThread::stop).
#[derive(Clone)]
pub(super) struct Worker {
    jobs: SyncSender<Job>,
    stopping: Stopping,
}

/// Whether a worker is to end: a job that takes long looks at it now and then, and gives up.
#[derive(Clone, Default)]
pub(super) struct Stopping(Arc<AtomicBool>);

impl Stopping {
    /// Whether it is.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The thread itself.
pub(super) struct WorkerThread {
    worker: Worker,
    thread: thread::JoinHandle<()>,
}

/// There are too many jobs already, or the thread was stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overloaded;

impl Worker {
    /// Starts the thread.
    pub(super) fn start(name: &str) -> io::Result<WorkerThread> {
        let (jobs, waiting) = sync_channel::<Job>(JOBS_WAITING_MAX);
        let worker = Self { jobs, stopping: Stopping::default() };
        let stopping = worker.stopping.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in waiting {
                if stopping.is_set() {
                    return;
                }
                job();
            }
        })?;
        Ok(WorkerThread { worker, thread })
    }

    /// What a job that takes long looks at.
    pub(super) fn stopping(&self) -> Stopping {
        self.stopping.clone()
    }

    /// Runs `job` after those already waiting. Never blocks.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Overloaded> {
        self.jobs.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Overloaded,
        })
    }
}

impl WorkerThread {
    /// The way to hand jobs to it.
    pub(super) fn worker(&self) -> Worker {
        self.worker.clone()
    }

    /// Ends the thread: jobs that wait are dropped, the one that runs is finished or gives up.
    /// Nothing it does comes after this call.
    pub(super) fn stop(self) {
        self.worker.stopping.0.store(true, Ordering::Release);
        // Wakes it if it has nothing to do; if its queue is full it is awake.
        let _ = self.worker.submit(|| ());
        // A job that panicked has told so.
        let _ = self.thread.join();
    }
}

enum State<T> {
    Waiting(Option<Waker>),
    Sent(T),
    Taken,
    /// The sender is gone without a word, because the job was refused or panicked.
    Lost,
}

/// One value from a worker to a task. `None` if the worker will never send it.
pub(super) struct Receiver<T>(Arc<Mutex<State<T>>>);

/// The other end.
pub(super) struct Sender<T>(Arc<Mutex<State<T>>>);

/// Both ends.
pub(super) fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let state = Arc::new(Mutex::new(State::Waiting(None)));
    (Sender(Arc::clone(&state)), Receiver(state))
}

impl<T> Sender<T> {
    /// Sends the value and wakes the task.
    pub(super) fn send(self, value: T) {
        self.end(State::Sent(value));
    }

    fn end(&self, with: State<T>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Waiting(waker) = &mut *state else { return };
        let waker = waker.take();
        *state = with;
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.end(State::Lost);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match core::mem::replace(&mut *state, State::Taken) {
            State::Waiting(_) => {
                *state = State::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
            State::Sent(value) => Poll::Ready(Some(value)),
            State::Taken | State::Lost => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn jobs_run_in_order_and_too_many_are_refused() {
        let worker = Worker::start("test").unwrap().worker();
        let (go, gate) = channel::<()>();
        let (tell, told) = channel();
        worker.submit(move || gate.recv().unwrap()).unwrap();
        let mut accepted = 0;
        while {
            let tell = tell.clone();
            worker.submit(move || tell.send(accepted).unwrap()).is_ok()
        } {
            accepted += 1;
        }
        assert!((JOBS_WAITING_MAX - 1..=JOBS_WAITING_MAX).contains(&accepted));
        go.send(()).unwrap();
        assert!((0..accepted).all(|n| told.recv().unwrap() == n));
    }

    #[test]
    fn a_stopped_worker_finishes_one_job_and_drops_the_rest() {
        let thread = Worker::start("test").unwrap();
        let worker = thread.worker();
        let (started, runs) = channel();
        let (tell, told) = channel();
        let stopping = worker.stopping();
        let first = tell.clone();
        worker
            .submit(move || {
                started.send(()).unwrap();
                while !stopping.is_set() {
                    thread::yield_now();
                }
                first.send(1).unwrap();
            })
            .unwrap();
        worker.submit(move || tell.send(2).unwrap()).unwrap();
        runs.recv().unwrap();
        thread.stop();
        assert_eq!(told.iter().collect::<Vec<_>>(), [1]);
        assert_eq!(worker.submit(|| ()), Err(Overloaded));
    }

    #[test]
    fn a_lost_sender_is_an_answer() {
        let mut context = Context::from_waker(Waker::noop());
        let (sender, mut receiver) = oneshot::<u8>();
        assert_eq!(Pin::new(&mut receiver).poll(&mut context), Poll::Pending);
        drop(sender);
        assert_eq!(Pin::new(&mut receiver).poll(&mut context), Poll::Ready(None));
        let (sender, mut receiver) = oneshot();
        sender.send(5);
        assert_eq!(Pin::new(&mut receiver).poll(&mut context), Poll::Ready(Some(5)));
    }
}
