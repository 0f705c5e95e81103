//! The flight recorder: the last thousand things that happened to a shard, told when it crashes.
//!
//! An assertion that fails in production ends the process (O-06). What led to it is then worth more
//! than what a log level let through, so each shard's thread keeps a short, fixed list of plain
//! numbers and the panic hook writes it to standard error. Does not: allocate while recording,
//! survive the process, or record payloads.

use core::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Once;

use crate::base::Moment;
use crate::shard::{Effect, Effects, Input, Inputs, Lane};

/// How many events are kept (O-06).
const EVENTS_MAX: usize = 1000;

/// One event: what, and two numbers that say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    at: Moment,
    what: &'static str,
    which: u64,
    more: u64,
}

thread_local! {
    static EVENTS: RefCell<VecDeque<Event>> = RefCell::new(VecDeque::with_capacity(EVENTS_MAX));
}

/// Makes every panic of this process tell what the panicking thread recorded, before whatever hook
/// was there says its word.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // There is nothing to be done about a standard error that cannot be written.
            let _ = dump(&mut io::stderr().lock());
            before(info);
        }));
    });
}

/// Records what a turn is about to take in.
pub(super) fn record_inputs(now: Moment, inputs: &Inputs) {
    record(now, inputs.queue.iter().take(EVENTS_MAX).map(of_input));
}

/// Records what a turn wants done.
pub(super) fn record_effects(now: Moment, effects: &Effects) {
    record(now, effects.list.iter().map(of_effect));
}

fn record(at: Moment, events: impl Iterator<Item = (&'static str, u64, u64)>) {
    EVENTS.with_borrow_mut(|list| {
        for (what, which, more) in events {
            if list.len() == EVENTS_MAX {
                list.pop_front();
            }
            list.push_back(Event { at, what, which, more });
        }
    });
}

fn dump(to: &mut impl Write) -> io::Result<()> {
    EVENTS.with(|events| {
        // The recorder itself may have been at work when it happened.
        let Ok(events) = events.try_borrow() else { return Ok(()) };
        if !events.is_empty() {
            writeln!(to, "the last {} events of this shard, the newest last:", events.len())?;
        }
        for Event { at, what, which, more } in events.iter() {
            writeln!(to, "  {} us {what} {which} {more}", at.as_nanos() / 1000)?;
        }
        Ok(())
    })
}

fn lane(lane: Lane) -> u64 {
    match lane {
        Lane::Control => 0,
        Lane::Bulk => 1,
    }
}

fn of_input(input: &Input) -> (&'static str, u64, u64) {
    match input {
        Input::ClientOpened { conn } => ("in client-opened", conn.get(), 0),
        Input::ClientBytes { conn, bytes } => ("in client-bytes", conn.get(), bytes.len() as u64),
        Input::ClientClosed { conn } => ("in client-closed", conn.get(), 0),
        Input::ClientTroubles { troubles } => {
            ("in client-troubles", troubles.unread, troubles.late)
        }
        Input::PeerUp { peer, lane: l, .. } => ("in peer-up", u64::from(peer.get()), lane(*l)),
        Input::PeerDown { peer, lane: l, .. } => ("in peer-down", u64::from(peer.get()), lane(*l)),
        Input::PeerRefused { .. } => ("in peer-refused", 0, 0),
        Input::PeerControl { peer, bytes, .. } => {
            ("in peer-control", u64::from(peer.get()), bytes.len() as u64)
        }
        Input::PeerBulk { peer, frame, .. } => {
            ("in peer-bulk", u64::from(peer.get()), frame.len() as u64)
        }
        Input::WriteDone { write } => ("in write-done", write.get(), 0),
        Input::WriteFailed { write, .. } => ("in write-failed", write.get(), 0),
        Input::ReadDone { read, .. } => ("in read-done", read.0, 0),
        Input::SegmentReady { segment } => ("in segment-ready", segment.0, 0),
        Input::SegmentFailed { segment, .. } => ("in segment-failed", segment.0, 0),
        Input::Forwarded { conn, frame, .. } => ("in forwarded", conn.get(), frame.len() as u64),
        Input::Returned { conn, returned } => {
            ("in returned", conn.get(), u64::from(returned.requests))
        }
        Input::Tick => ("in tick", 0, 0),
        Input::Drain => ("in drain", 0, 0),
    }
}

fn of_effect(effect: &Effect) -> (&'static str, u64, u64) {
    match effect {
        Effect::Write { write, block, .. } => ("out write", write.get(), block.len() as u64),
        Effect::Read { read, segment, .. } => ("out read", read.0, segment.0),
        Effect::PrepareSegment { segment, recycle } => {
            ("out prepare-segment", segment.0, recycle.map_or(u64::MAX, |old| old.0))
        }
        Effect::RemoveSegment { segment } => ("out remove-segment", segment.0, 0),
        Effect::SendPeer { peer, lane: l, .. } => {
            ("out send-peer", u64::from(peer.get()), lane(*l))
        }
        Effect::ClosePeer { peer, lane: l, .. } => {
            ("out close-peer", u64::from(peer.get()), lane(*l))
        }
        Effect::SendClient { conn, .. } => ("out send-client", conn.get(), 0),
        Effect::ClientRoom { conn, bytes } => ("out client-room", conn.get(), *bytes as u64),
        Effect::CloseClient { conn, .. } => ("out close-client", conn.get(), 0),
        Effect::Forward { to, conn, .. } => ("out forward", u64::from(to.get()), conn.get()),
        Effect::Return { to, conn, .. } => ("out return", u64::from(to.get()), conn.get()),
        Effect::Notice(_) => ("out notice", 0, 0),
        Effect::Halt { .. } => ("out halt", 0, 0),
        Effect::Drained => ("out drained", 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WriteSeq;

    #[test]
    fn the_last_thousand_events_are_told_in_order() {
        let mut inputs = Inputs::default();
        for write in 1..=600 {
            inputs.push(Input::WriteDone { write: WriteSeq::new(write) });
        }
        record_inputs(Moment::from_nanos(1000), &inputs);
        record_inputs(Moment::from_nanos(2000), &inputs);
        let mut told = Vec::new();
        dump(&mut told).expect("a Vec takes everything");
        let told = String::from_utf8(told).expect("text");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 1 + EVENTS_MAX);
        assert_eq!(lines[1], "  1 us in write-done 201 0", "the oldest went");
        assert_eq!(lines[EVENTS_MAX], "  2 us in write-done 600 0");
    }
}
