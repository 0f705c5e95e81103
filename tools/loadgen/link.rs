//! One connection of the load: bytes that wait to leave, replies that came.
//!
//! Requests are encoded straight into the output buffer and replies decoded where they were
//! received. Does not know what the requests mean and never blocks.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use catamaran::wire::client::Reply;
use catamaran::wire::{FRAME_HEADER_BYTES, FrameError, FrameHeader};

use crate::dialogue::FRAME_LIMIT;

/// What one receive may bring. A thousand append replies; larger frames make it grow.
const RECEIVE_BYTES: usize = 64 << 10;
/// Requests wait in the open loop's schedule rather than in a buffer that grows without end.
const QUEUE_BYTES_MAX: usize = 8 << 20;

/// Whether everything could be handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing is left.
    All,
    /// The socket has no room; it will be told when it has.
    Blocked,
}

/// An open connection. A handful per run.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    /// Where it leads.
    pub(crate) endpoint: usize,
    /// Requests without a reply.
    pub(crate) outstanding: u32,
    /// When something came last.
    pub(crate) heard_ns: u64,
    /// Whether the socket refused bytes and epoll will tell when it takes more.
    pub(crate) blocked: bool,
    /// What waits to leave, from `queue_at` on.
    pub(crate) queue: Vec<u8>,
    queue_at: usize,
    /// Bytes ever handed to the kernel.
    handed: u64,
    /// What came and was not looked at.
    pub(crate) incoming: Incoming,
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Link {
    /// Takes over a connection after its handshake.
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking.
    pub(crate) fn new(stream: TcpStream, endpoint: usize, now_ns: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            endpoint,
            outstanding: 0,
            heard_ns: now_ns,
            blocked: false,
            queue: Vec::new(),
            queue_at: 0,
            handed: 0,
            incoming: Incoming::default(),
        })
    }

    /// Position in the stream of the next byte that will be queued.
    pub(crate) fn position(&self) -> u64 {
        self.handed + (self.queue.len() - self.queue_at) as u64
    }

    /// Whether a frame that begins at `position` never left: not one byte of it.
    pub(crate) fn kept(&self, position: u64) -> bool {
        position >= self.handed
    }

    /// Whether there is room for another request.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() - self.queue_at < QUEUE_BYTES_MAX
    }

    /// Hands as much as possible to the kernel.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn flush(&mut self) -> io::Result<Flushed> {
        while self.queue_at < self.queue.len() {
            match self.stream.write(&self.queue[self.queue_at..]) {
                Ok(written) => {
                    self.queue_at += written;
                    self.handed += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.queue.drain(..self.queue_at);
                    self.queue_at = 0;
                    return Ok(Flushed::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.queue.clear();
        self.queue_at = 0;
        Ok(Flushed::All)
    }

    /// Receives once; tells whether there may be more.
    ///
    /// # Errors
    /// The connection is gone, orderly or not.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        let room = self.incoming.room();
        let room_bytes = room.len();
        match self.stream.read(room) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.incoming.filled += read;
                Ok(read == room_bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Bytes received, cut into replies in place.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    buffer: Vec<u8>,
    filled: usize,
}

/// One reply and where the next one begins.
#[derive(Debug)]
pub(crate) struct Cut<'a> {
    /// Which request it answers.
    pub(crate) correlation: u64,
    /// What it says.
    pub(crate) reply: Reply<'a>,
    /// Where the next one begins.
    pub(crate) next_at: usize,
}

impl Incoming {
    fn room(&mut self) -> &mut [u8] {
        if self.buffer.len() < self.filled + RECEIVE_BYTES / 2 {
            self.buffer.resize(self.filled + RECEIVE_BYTES, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// The whole reply that begins at `at`, if all of it is there.
    ///
    /// # Errors
    /// The bytes are none: the connection is useless from here on.
    #[inline]
    pub(crate) fn cut(&self, at: usize) -> Result<Option<Cut<'_>>, FrameError> {
        let rest = &self.buffer[at..self.filled];
        if rest.len() < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let header = FrameHeader::decode(rest, FRAME_LIMIT)?;
        let Some(body) = rest.get(FRAME_HEADER_BYTES..header.frame_bytes()) else {
            return Ok(None);
        };
        header.check_body(body)?;
        let reply = Reply::decode(&header, body)?;
        let next_at = at + header.frame_bytes();
        Ok(Some(Cut { correlation: header.correlation, reply, next_at }))
    }

    /// Forgets what lies before `at`.
    pub(crate) fn forget(&mut self, at: usize) {
        if at > 0 {
            self.buffer.copy_within(at..self.filled, 0);
            self.filled -= at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catamaran::model::{GroupId, LogIndex, Term};
    use catamaran::wire::client::{AppendReply, encode_append_reply};

    #[test]
    fn replies_are_cut_wherever_the_bytes_are() {
        let mut bytes = Vec::new();
        for correlation in 0..3 {
            let reply = AppendReply {
                first: LogIndex::new(10 + correlation),
                term: Term::new(1),
                commit: LogIndex::new(20),
            };
            encode_append_reply(&mut bytes, correlation, GroupId::new(1), &reply);
        }
        for split in 0..=bytes.len() {
            let mut incoming = Incoming::default();
            let mut found = Vec::new();
            for part in [&bytes[..split], &bytes[split..]] {
                incoming.room()[..part.len()].copy_from_slice(part);
                incoming.filled += part.len();
                let mut at = 0;
                while let Some(cut) = incoming.cut(at).expect("sound bytes") {
                    found.push(cut.correlation);
                    at = cut.next_at;
                }
                incoming.forget(at);
            }
            assert_eq!(found, [0, 1, 2], "split at {split}");
            assert_eq!(incoming.filled, 0);
        }
    }

    #[test]
    fn garbage_is_an_error_and_not_a_wait() {
        let mut incoming = Incoming::default();
        incoming.room()[..40].fill(7);
        incoming.filled = 40;
        assert!(incoming.cut(0).is_err());
    }
}
