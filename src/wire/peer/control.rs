//! Control frames: Raft messages of many groups under one header.
//!
//! Heartbeats of a thousand idle groups are one frame per peer and turn. Apart from `raft`, which
//! never sees a byte. The other end's node id is not in the bytes: the stream's handshake knows it.
//!
//! The body is a run of messages, each:
//!
//! ```text
//!      0      8  group
//!      8      4  replica that speaks
//!     12      4  replica that is spoken to
//!     16      8  term
//!     24      1  message kind, see `encode_message`
//!     25      1  1 for a granted vote, else 0
//!     26      2  length of what follows
//!     28         by kind
//! ```

use super::super::frame::{
    Address, FRAME_HEADER_BYTES, FrameError, FrameHeader, Reader, Sink, encode_frame,
};
use super::Kind;
use crate::model::batch::{decode_membership, encode_membership};
use crate::model::limits::{FRAME_BYTES_MAX, VOTERS_MAX};
use crate::model::{EntryId, GroupId, LogIndex, NodeId, ReplicaId, Term};
use crate::raft::{Envelope, Message};

/// Bytes of the fixed part of a message.
const MESSAGE_HEADER_BYTES: usize = 28;
/// The longest message: a snapshot with three full lists of members.
const MESSAGE_BYTES_MAX: usize = MESSAGE_HEADER_BYTES + 16 + 3 * (4 + 8 * VOTERS_MAX);

const PRE_VOTE: u8 = 1;
const PRE_VOTE_REPLY: u8 = 2;
const VOTE: u8 = 3;
const VOTE_REPLY: u8 = 4;
const HEARTBEAT: u8 = 5;
const HEARTBEAT_REPLY: u8 = 6;
const PROBE: u8 = 7;
const ACCEPTED: u8 = 8;
const REJECTED: u8 = 9;
const SNAPSHOT: u8 = 10;

/// Appends as many control frames as the envelopes need, each within the frame limit; none for
/// no envelopes. Returns the number of frames.
pub fn encode_control<'a, S: Sink>(
    to: &mut S,
    envelopes: impl Iterator<Item = &'a Envelope>,
) -> usize {
    let mut envelopes = envelopes.peekable();
    let mut frames = 0;
    let address = Address { kind: Kind::Control.number(), correlation: 0, group: GroupId::new(0) };
    while envelopes.peek().is_some() {
        encode_frame(to, address, |to| {
            let start = to.as_mut().len();
            let room = FRAME_BYTES_MAX - FRAME_HEADER_BYTES - MESSAGE_BYTES_MAX;
            while to.as_mut().len() - start <= room
                && let Some(envelope) = envelopes.next()
            {
                encode_envelope(to, envelope);
            }
        });
        frames += 1;
    }
    frames
}

fn encode_envelope<S: Sink>(to: &mut S, envelope: &Envelope) {
    to.put_u64_le(envelope.group.get());
    to.put_u32_le(envelope.from_replica.get());
    to.put_u32_le(envelope.to_replica.get());
    to.put_u64_le(envelope.term.get());
    let (kind, granted) = match &envelope.message {
        Message::PreVote { .. } => (PRE_VOTE, false),
        Message::PreVoteReply { granted } => (PRE_VOTE_REPLY, *granted),
        Message::Vote { .. } => (VOTE, false),
        Message::VoteReply { granted } => (VOTE_REPLY, *granted),
        Message::Heartbeat { .. } => (HEARTBEAT, false),
        Message::HeartbeatReply { .. } => (HEARTBEAT_REPLY, false),
        Message::Probe { .. } => (PROBE, false),
        Message::Accepted { .. } => (ACCEPTED, false),
        Message::Rejected { .. } => (REJECTED, false),
        Message::Snapshot { .. } => (SNAPSHOT, false),
    };
    to.put_u8(kind);
    to.put_u8(u8::from(granted));
    let length_at = to.as_mut().len();
    to.put_u16_le(0);
    encode_message(to, &envelope.message);
    let frame = to.as_mut();
    let bytes = u16::try_from(frame.len() - length_at - 2).expect("below MESSAGE_BYTES_MAX");
    frame[length_at..length_at + 2].copy_from_slice(&bytes.to_le_bytes());
}

/// What follows the fixed part. An entry is u64 term, u64 index.
///
/// ```text
///  1 pre-vote         last entry              6 heartbeat reply  u64 round
///  2 pre-vote reply   -                       7 probe            prev entry, u64 commit
///  3 vote             last entry              8 accepted         u64 matched
///  4 vote reply       -                       9 rejected         u64 prev, hint entry
///  5 heartbeat        u64 commit, u64 round  10 snapshot         last entry, membership
/// ```
fn encode_message<S: Sink>(to: &mut S, message: &Message) {
    match message {
        Message::PreVote { last } | Message::Vote { last } => put_entry(to, *last),
        Message::PreVoteReply { granted: _ } | Message::VoteReply { granted: _ } => (),
        Message::Heartbeat { commit, round } => {
            to.put_u64_le(commit.get());
            to.put_u64_le(*round);
        }
        Message::HeartbeatReply { round } => to.put_u64_le(*round),
        Message::Probe { prev, commit } => {
            put_entry(to, *prev);
            to.put_u64_le(commit.get());
        }
        Message::Accepted { matched } => to.put_u64_le(matched.get()),
        Message::Rejected { prev, hint } => {
            to.put_u64_le(prev.get());
            put_entry(to, *hint);
        }
        Message::Snapshot { last, membership } => {
            put_entry(to, *last);
            let mut bytes = Vec::new();
            encode_membership(membership, &mut bytes);
            to.put_slice(&bytes);
        }
    }
}

fn put_entry<S: Sink>(to: &mut S, entry: EntryId) {
    to.put_u64_le(entry.term.get());
    to.put_u64_le(entry.index.get());
}

/// The messages in a checked control frame from `peer`.
///
/// # Errors
/// If the frame is not a control frame. A broken message is an error of the iteration, after
/// which it ends: close the stream.
pub fn decode_control<'a>(
    header: &FrameHeader,
    body: &'a [u8],
    peer: NodeId,
) -> Result<ControlIter<'a>, FrameError> {
    if header.kind != Kind::Control.number() || header.covered_bytes != header.body_bytes {
        return Err(FrameError::Body { offset: 5 });
    }
    Ok(ControlIter { from: Reader::new(body), body_bytes: body.len(), peer })
}

/// Iterates over the messages of a control frame.
#[derive(Clone, Debug)]
pub struct ControlIter<'a> {
    from: Reader<'a>,
    body_bytes: usize,
    peer: NodeId,
}

impl Iterator for ControlIter<'_> {
    type Item = Result<Envelope, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.from.at() == self.body_bytes {
            return None;
        }
        let envelope = decode_envelope(&mut self.from, self.peer);
        if envelope.is_err() {
            self.from.rest();
        }
        Some(envelope)
    }
}

fn decode_envelope(from: &mut Reader<'_>, peer: NodeId) -> Result<Envelope, FrameError> {
    let group = GroupId::new(from.u64()?);
    let from_replica = ReplicaId::new(from.u32()?);
    let to_replica = ReplicaId::new(from.u32()?);
    let term = Term::new(from.u64()?);
    let at = from.error();
    let kind = from.u8()?;
    let granted = match from.u8()? {
        0 => false,
        1 => true,
        _ => return Err(at),
    };
    if granted && !matches!(kind, PRE_VOTE_REPLY | VOTE_REPLY) {
        return Err(at);
    }
    let bytes = usize::from(from.u16()?);
    let mut inner = Reader::new(from.bytes(bytes)?);
    // Offsets inside `inner` mean nothing outside: the message is named by its kind's place.
    let message = decode_message(kind, granted, &mut inner).ok_or(at)?;
    inner.end().map_err(|_| at)?;
    Ok(Envelope { group, peer, from_replica, to_replica, term, message })
}

fn decode_message(kind: u8, granted: bool, from: &mut Reader<'_>) -> Option<Message> {
    Some(match kind {
        PRE_VOTE => Message::PreVote { last: entry(from)? },
        PRE_VOTE_REPLY => Message::PreVoteReply { granted },
        VOTE => Message::Vote { last: entry(from)? },
        VOTE_REPLY => Message::VoteReply { granted },
        HEARTBEAT => Message::Heartbeat { commit: index(from)?, round: from.u64().ok()? },
        HEARTBEAT_REPLY => Message::HeartbeatReply { round: from.u64().ok()? },
        PROBE => Message::Probe { prev: entry(from)?, commit: index(from)? },
        ACCEPTED => Message::Accepted { matched: index(from)? },
        REJECTED => Message::Rejected { prev: index(from)?, hint: entry(from)? },
        SNAPSHOT => {
            let last = entry(from)?;
            let rest = from.rest();
            let (membership, bytes) = decode_membership(rest)?;
            if bytes != rest.len() {
                return None;
            }
            Message::Snapshot { last, membership }
        }
        _ => return None,
    })
}

fn index(from: &mut Reader<'_>) -> Option<LogIndex> {
    Some(LogIndex::new(from.u64().ok()?))
}

fn entry(from: &mut Reader<'_>) -> Option<EntryId> {
    let term = Term::new(from.u64().ok()?);
    Some(EntryId::new(term, index(from)?))
}
