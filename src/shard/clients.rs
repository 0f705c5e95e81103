//! The client connections of a shard: cutting frames, collecting replies, giving back room.
//!
//! Does not: understand requests (`ingress`) or decide outcomes (`commit`, `reads`).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::effects::{Effect, Effects, Frame, Part, Returned};
use super::slot::Origin;
use crate::base::Moment;
use crate::model::limits::{FRAME_DEADLINE, HANDSHAKE_BYTES_MAX, QUESTIONS_PER_CONNECTION_MAX};
use crate::model::{ConnId, ShardId};
use crate::wire::Assembler;

/// One client connection of this shard.
pub(super) struct Connection {
    pub(super) assembler: Assembler,
    /// Its Hello was accepted.
    pub(super) is_greeted: bool,
    /// Requests taken and not answered.
    pub(super) unanswered: u32,
    /// Questions about the shard among them.
    questions: usize,
    /// Whole parts of this turn's replies.
    parts: Vec<Part>,
    /// Replies that are not in a part yet.
    out: Vec<u8>,
    /// Room to take for them at once: as much as they needed of late. Growing step by step was
    /// most of what a leader allocated.
    out_bytes_usual: usize,
    /// Since when, as far as was seen, it has owed the rest of a frame and waited for nothing.
    owes_since: Option<Moment>,
    /// Bytes it may read again.
    room_bytes: usize,
    /// Close it when this turn's replies are out, for this reason.
    closing: Option<&'static str>,
    /// In the list of connections with something to do at the end of the turn.
    is_dirty: bool,
}

/// The most room that is taken for replies before they are there: a thousand of them.
const REPLY_ROOM_BYTES_MAX: usize = 64 << 10;

/// Replies for a connection of another shard.
struct Remote {
    shard: ShardId,
    conn: ConnId,
    parts: Vec<Part>,
    out: Vec<u8>,
    requests: u32,
    room_bytes: usize,
}

/// All of them.
#[derive(Default)]
pub(super) struct Clients {
    list: BTreeMap<ConnId, Connection>,
    dirty: Vec<ConnId>,
    remote: Vec<Remote>,
}

impl Clients {
    pub(super) fn open(&mut self, conn: ConnId) {
        let connection = Connection {
            assembler: Assembler::new(HANDSHAKE_BYTES_MAX),
            is_greeted: false,
            unanswered: 0,
            questions: 0,
            parts: Vec::new(),
            out: Vec::new(),
            out_bytes_usual: 0,
            owes_since: None,
            room_bytes: 0,
            closing: None,
            is_dirty: false,
        };
        let before = self.list.insert(conn, connection);
        assert!(before.is_none(), "the world opened {conn:?} twice");
    }

    /// Forgets a connection; replies that are still owed to it are dropped when they come.
    pub(super) fn close(&mut self, conn: ConnId) {
        self.list.remove(&conn);
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.list.get_mut(&conn)
    }

    /// Whether it has asked for something that is not answered yet.
    pub(super) fn owes(&self, conn: ConnId) -> bool {
        self.list.get(&conn).is_some_and(|connection| connection.unanswered > 0)
    }

    fn dirty(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.list.get_mut(&conn)?;
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(conn);
        }
        Some(connection)
    }

    /// Notes that a request was taken from a connection of this shard.
    pub(super) fn took(&mut self, conn: ConnId) {
        if let Some(connection) = self.list.get_mut(&conn) {
            connection.unanswered += 1;
        }
    }

    /// Whether a connection of this shard may ask something about the shard; if so, it is counted
    /// until [`Clients::answer_question`].
    pub(super) fn may_ask(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.list.get_mut(&conn) else { return true };
        let may = connection.questions < QUESTIONS_PER_CONNECTION_MAX;
        connection.questions += usize::from(may);
        may
    }

    /// Answers a question about the shard with a frame whose body others are sent too.
    pub(super) fn answer_question(&mut self, conn: ConnId, head: Vec<u8>, body: Bytes) {
        let Some(connection) = self.dirty(conn) else { return };
        connection.unanswered = connection.unanswered.saturating_sub(1);
        connection.questions -= 1;
        flush(&mut connection.parts, &mut connection.out);
        connection.parts.push(Part::Bytes(Bytes::from(head)));
        connection.parts.push(Part::Bytes(body));
    }

    /// Gives back the bytes of a frame that are no longer held.
    pub(super) fn give_room(&mut self, origin: Origin, bytes: usize) {
        match origin.remote {
            // It counts against its connection until this shard has let go of it too (F-01).
            Some(shard) => self.remote(shard, origin.conn).room_bytes += bytes,
            None => {
                if let Some(connection) = self.dirty(origin.conn) {
                    connection.room_bytes += bytes;
                }
            }
        }
    }

    /// Answers one request: `encode` appends exactly one frame.
    pub(super) fn answer(&mut self, origin: Origin, encode: impl FnOnce(&mut Vec<u8>)) {
        match origin.remote {
            Some(shard) => {
                let remote = self.remote(shard, origin.conn);
                remote.requests += 1;
                encode(&mut remote.out);
            }
            None => {
                if let Some(connection) = self.dirty(origin.conn) {
                    connection.unanswered = connection.unanswered.saturating_sub(1);
                    if connection.out.capacity() == 0 {
                        connection.out.reserve(connection.out_bytes_usual);
                    }
                    encode(&mut connection.out);
                }
            }
        }
    }

    /// Answers one request with a frame of its own memory.
    pub(super) fn answer_whole(&mut self, origin: Origin, frame: Vec<u8>) {
        let (parts, out) = match origin.remote {
            Some(shard) => {
                let remote = self.remote(shard, origin.conn);
                remote.requests += 1;
                (&mut remote.parts, &mut remote.out)
            }
            None => {
                let Some(connection) = self.dirty(origin.conn) else { return };
                connection.unanswered = connection.unanswered.saturating_sub(1);
                (&mut connection.parts, &mut connection.out)
            }
        };
        flush(parts, out);
        parts.push(Part::Bytes(Bytes::from(frame)));
    }

    /// Passes on replies that another shard made.
    pub(super) fn answer_returned(&mut self, conn: ConnId, returned: Returned) {
        let Returned { replies, requests, room_bytes } = returned;
        mark!(F01_ANSWERED_BY_HOME_SHARD);
        if let Some(connection) = self.dirty(conn) {
            connection.room_bytes += room_bytes;
            connection.unanswered = connection.unanswered.saturating_sub(requests);
            flush(&mut connection.parts, &mut connection.out);
            connection.parts.extend(replies.parts);
        }
    }

    /// Closes a connection at the end of the turn, after its replies.
    pub(super) fn hang_up(&mut self, conn: ConnId, reason: &'static str) {
        if let Some(connection) = self.dirty(conn) {
            connection.closing.get_or_insert(reason);
        }
    }

    /// Hangs up on those that began a frame long ago and do not finish it; tells how many. Whoever
    /// waits for an answer may have been paused by us in the middle of a frame and is left alone.
    pub(super) fn hang_up_unfinished(&mut self, now: Moment) -> u64 {
        let mut late = Vec::new();
        for (conn, client) in &mut self.list {
            let owes = client.assembler.held_bytes() > 0 && client.unanswered == 0;
            if !owes || !client.is_greeted {
                client.owes_since = None;
            } else if now.since(*client.owes_since.get_or_insert(now)) >= FRAME_DEADLINE {
                late.push(*conn);
            }
        }
        for conn in &late {
            self.hang_up(*conn, "a frame did not come to its end");
        }
        late.len() as u64
    }

    fn remote(&mut self, shard: ShardId, conn: ConnId) -> &mut Remote {
        let same = |remote: &Remote| remote.shard == shard && remote.conn == conn;
        let at = match self.remote.iter().rposition(same) {
            Some(at) => at,
            None => {
                let (parts, out) = (Vec::new(), Vec::new());
                self.remote.push(Remote { shard, conn, parts, out, requests: 0, room_bytes: 0 });
                self.remote.len() - 1
            }
        };
        &mut self.remote[at]
    }

    /// One send, one room and at most one close per connection and turn.
    pub(super) fn flush(&mut self, fx: &mut Effects) {
        for conn in self.dirty.drain(..) {
            let Some(connection) = self.list.get_mut(&conn) else { continue };
            connection.is_dirty = false;
            // Forgets slowly, so that a lone reply between many does not start over.
            let usual = connection.out_bytes_usual;
            connection.out_bytes_usual =
                (usual - usual / 8).max(connection.out.len()).min(REPLY_ROOM_BYTES_MAX);
            flush(&mut connection.parts, &mut connection.out);
            if !connection.parts.is_empty() {
                let parts = core::mem::take(&mut connection.parts);
                fx.push(Effect::SendClient { conn, frame: Frame { parts } });
            }
            if connection.room_bytes > 0 {
                let bytes = core::mem::take(&mut connection.room_bytes);
                fx.push(Effect::ClientRoom { conn, bytes });
            }
            if let Some(reason) = connection.closing {
                fx.push(Effect::CloseClient { conn, reason });
                // Whatever else it sends is not read: it spoke nonsense.
                self.list.remove(&conn);
            }
        }
        for mut remote in self.remote.drain(..) {
            flush(&mut remote.parts, &mut remote.out);
            let Remote { shard, conn, parts, requests, room_bytes, .. } = remote;
            let returned = Returned { replies: Frame { parts }, requests, room_bytes };
            fx.push(Effect::Return { to: shard, conn, returned });
        }
    }
}

fn flush(parts: &mut Vec<Part>, out: &mut Vec<u8>) {
    if !out.is_empty() {
        parts.push(Part::Bytes(Bytes::from(core::mem::take(out))));
    }
}
