//! The last word on a device that hangs: one write that does not end for 20 s ends the process.
//!
//! A device that answers with an error stops a shard at once (I-03). One that does not answer at
//! all leaves a node that looks alive and never will be, so after `HUNG_WRITE` it is told to stop
//! (rule D12) with exit code 5, for somebody to restart it or take it away. A thread of its own,
//! because the shard's may itself be stuck in the kernel; then it ends the process over its head.
//!
//! Counts its own looks instead of comparing clocks: a process that was stopped, or a machine that
//! slept, did not see the device hang. Does not: step down (E-13 does, after a fraction of this).

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io::{self, Write};
use std::sync::{Arc, Weak};
use std::thread;

use super::error::ExitCode;
use super::inbox::Inbox;
use super::message::Message;
use crate::model::{ShardId, WriteSeq};

/// How long one write may take.
const HUNG_WRITE: Duration = Duration::from_secs(20);
/// How long a shard that was told so may take to end; what it does then takes half of it.
const LAST_WORDS: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOKS_UNTIL_HUNG: u32 = looks(HUNG_WRITE);
const LOOKS_UNTIL_END: u32 = LOOKS_UNTIL_HUNG + looks(LAST_WORDS);

const fn looks(time: Duration) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "seconds over half seconds")]
    let looks = (time.as_millis() / LOOK_EVERY.as_millis()) as u32;
    looks
}

/// The oldest write of one shard that has not ended. One per shard, set by it and read by the
/// watchdog's thread.
#[derive(Debug, Default)]
pub(super) struct OldestWrite(AtomicU64);

impl OldestWrite {
    /// Of several writes in flight the one that was started first, or none.
    pub(super) fn set(&self, write: Option<WriteSeq>) {
        // Relaxed: only this number is read, and late by one look does not matter.
        self.0.store(write.map_or(0, |write| write.get() + 1), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a look at one shard comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Well,
    /// Told once: it is to stop.
    Stop,
    /// It was told, and is still there.
    End,
}

/// The looks at one shard.
#[derive(Debug, Default)]
struct Looks {
    at: u64,
    count: u32,
}

impl Looks {
    fn look(&mut self, oldest: u64) -> Verdict {
        if oldest == 0 || oldest != self.at {
            *self = Self { at: oldest, count: 0 };
            return Verdict::Well;
        }
        self.count += 1;
        match self.count {
            LOOKS_UNTIL_HUNG => Verdict::Stop,
            LOOKS_UNTIL_END.. => Verdict::End,
            _ => Verdict::Well,
        }
    }
}

/// One shard under watch.
pub(super) struct Watched {
    pub(super) shard: ShardId,
    /// Gone when the shard has let go of its device.
    pub(super) oldest: Weak<OldestWrite>,
    pub(super) inbox: Arc<Inbox<Message>>,
}

/// What a shard says when it stops for this.
fn reason() -> String {
    format!("the log device has not ended a write for {} s", HUNG_WRITE.as_secs())
}

/// Watches until all shards have ended.
pub(super) fn start(shards: Vec<Watched>) -> io::Result<()> {
    let mut shards: Vec<_> = shards.into_iter().map(|shard| (shard, Looks::default())).collect();
    thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        while !shards.is_empty() {
            #[expect(clippy::disallowed_methods, reason = "a thread that does nothing else")]
            thread::sleep(LOOK_EVERY);
            shards.retain_mut(|(watched, looks)| look(watched, looks));
        }
    })?;
    Ok(())
}

/// Looks once. False when there is nothing to watch any more.
fn look(watched: &Watched, looks: &mut Looks) -> bool {
    let Some(oldest) = watched.oldest.upgrade() else { return false };
    match looks.look(oldest.get()) {
        Verdict::Well => {}
        Verdict::Stop => {
            // A full inbox is not read by anybody: then the end comes without this word.
            let _ = watched.inbox.push(Message::Halt { reason: reason() });
        }
        Verdict::End => {
            let line = format!(
                "shard {} stopped: {}, and its thread hangs: check the device and start again\n",
                watched.shard,
                reason()
            );
            // There is nothing to be done about a standard error that cannot be written.
            let _ = io::stderr().write_all(line.as_bytes());
            std::process::exit(ExitCode::Io.code());
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use core::task::{Context, Waker};
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn one_write_that_does_not_end_is_told_at_20_s_and_ended_over_at_35() {
        let mut looks = Looks::default();
        let seen: Vec<_> = (0..=LOOKS_UNTIL_END).map(|_| looks.look(7)).collect();
        let first = |verdict| seen.iter().position(|found| *found == verdict);
        // The first look only learns which write it is.
        assert_eq!(first(Verdict::Stop), Some(40));
        assert_eq!(first(Verdict::End), Some(70));
        assert_eq!(seen.iter().filter(|found| **found == Verdict::Stop).count(), 1);
    }

    #[test]
    fn slow_writes_are_not_hung_ones() {
        let mut looks = Looks::default();
        // Each takes 19.5 s, one after the other, and then there is nothing to do for an hour.
        for write in 1..=20 {
            assert!((0..40).all(|_| looks.look(write) == Verdict::Well));
        }
        assert!((0..7200).all(|_| looks.look(0) == Verdict::Well));
    }

    #[test]
    fn the_shard_is_told_in_words_and_a_shard_that_is_gone_is_not_watched() {
        let inbox = Arc::new(Inbox::new());
        let oldest = Arc::new(OldestWrite::default());
        let watched = Watched {
            shard: ShardId::new(0),
            oldest: Arc::downgrade(&oldest),
            inbox: Arc::clone(&inbox),
        };
        oldest.set(Some(WriteSeq::new(0)));
        let mut looks = Looks::default();
        assert!((0..=LOOKS_UNTIL_HUNG).all(|_| look(&watched, &mut looks)));
        let mut messages = VecDeque::new();
        let mut context = Context::from_waker(Waker::noop());
        assert!(inbox.poll_take(&mut context, &mut messages).is_ready());
        let Some(Message::Halt { reason }) = messages.pop_front() else { panic!("{messages:?}") };
        assert_eq!(reason, "the log device has not ended a write for 20 s");
        drop(oldest);
        assert!(!look(&watched, &mut looks));
    }
}
