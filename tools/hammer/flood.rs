//! As many appends as one likes from many connections, at hardly any cost to the sender: all frames
//! are the same bytes, and of a reply only kind and length are looked at.
//!
//! The nodes share their processors with whoever floods them, so a sender that works for each
//! record would measure itself. Refused requests are not sent again: this is the part of the world
//! that does not listen. Does not know whether the log is right; `account` does that for others.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use catamaran::wire::FRAME_HEADER_BYTES;
use catamaran::wire::client::{Kind, encode_append};

use crate::cluster::{CLIENT_PORT, GROUP};
use crate::raw::{Raw, hello};

const RECORD_BYTES: usize = 200;
/// Frames of the buffer that is sent over and over.
const FRAMES: usize = 200;
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Between two walks over all connections: they cost two system calls each.
const WALK_EVERY: Duration = Duration::from_millis(2);

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many requests without an answer on each connection: as fast as it goes.
    Window(u64),
    /// So many requests a second on all connections, whatever becomes of them. What does not fit
    /// into a full socket is offered and not sent.
    Offered(f64),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Requests whose time came.
    pub(crate) offered: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) seconds: f64,
}

/// One connection.
struct Conn {
    stream: TcpStream,
    /// Bytes of the repeated buffer that are out, modulo its length.
    at: usize,
    sent: u64,
    answered: u64,
    /// Requests whose time came.
    due: u64,
    /// The beginning of a reply's header.
    head: Vec<u8>,
    /// Bytes of a reply's body that are still to come.
    skip: usize,
}

/// Connections to one node.
pub(crate) struct Flood {
    conns: Vec<Conn>,
    frames: Vec<u8>,
    frame_bytes: usize,
    acked: u64,
    refused: u64,
}

impl Flood {
    /// Connects so many times to the node that leads.
    ///
    /// # Errors
    /// It does not take so many.
    pub(crate) fn open(leader: Ipv4Addr, connections: usize) -> Result<Self, String> {
        let to = SocketAddrV4::new(leader, CLIENT_PORT);
        let failed = |error: io::Error| format!("{to}: {error}");
        let mut conns = Vec::new();
        for _ in 0..connections {
            let raw = Raw::connect(to, Ipv4Addr::UNSPECIFIED, CONNECT_PATIENCE).map_err(failed)?;
            let mut stream = raw.into_stream();
            stream.write_all(&hello()).map_err(failed)?;
            let (head, skip) = (Vec::new(), 0);
            conns.push(Conn { stream, at: 0, sent: 0, answered: 0, due: 0, head, skip });
        }
        let mut frames = Vec::new();
        for _ in 0..FRAMES {
            encode_append(&mut frames, 1, GROUP, None, &[[b'f'; RECORD_BYTES]]);
        }
        let frame_bytes = frames.len() / FRAMES;
        Ok(Self { conns, frames, frame_bytes, acked: 0, refused: 0 })
    }

    /// Sends for a while; the first `warmup` of it does not count.
    ///
    /// # Errors
    /// A connection was closed.
    pub(crate) fn run(
        &mut self,
        pace: Pace,
        warmup: Duration,
        time: Duration,
    ) -> Result<Outcome, String> {
        let begun = Instant::now();
        let mut counted: Option<(Instant, Outcome)> = None;
        let (sent, answered) = (self.conns.iter().map(|c| c.sent).sum::<u64>(), self.answered());
        assert!(sent >= answered, "{answered} answers to {sent} requests");
        self.conns.iter_mut().for_each(|conn| conn.due = conn.sent);
        let first_due: u64 = self.conns.iter().map(|conn| conn.due).sum();
        while begun.elapsed() < warmup + time {
            let walk = Instant::now();
            self.walk(pace, begun.elapsed(), first_due)?;
            if counted.is_none() && begun.elapsed() >= warmup {
                counted = Some((Instant::now(), self.so_far()));
            }
            std::thread::sleep(WALK_EVERY.saturating_sub(walk.elapsed()));
        }
        let (since, before) = counted.expect("the warm-up is over");
        let after = self.so_far();
        Ok(Outcome {
            offered: after.offered - before.offered,
            acked: after.acked - before.acked,
            refused: after.refused - before.refused,
            seconds: since.elapsed().as_secs_f64(),
        })
    }

    fn answered(&self) -> u64 {
        self.conns.iter().map(|conn| conn.answered).sum()
    }

    fn so_far(&self) -> Outcome {
        let offered = self.conns.iter().map(|conn| conn.due).sum();
        Outcome { offered, acked: self.acked, refused: self.refused, seconds: 0.0 }
    }

    /// Sends what is due on each connection, and takes what has come.
    fn walk(&mut self, pace: Pace, elapsed: Duration, first_due: u64) -> Result<(), String> {
        let connections = self.conns.len() as f64;
        for conn in &mut self.conns {
            match pace {
                Pace::Window(window) => conn.due = conn.due.max(conn.answered + window),
                Pace::Offered(rate) => {
                    let all = first_due as f64 + rate * elapsed.as_secs_f64();
                    conn.due = conn.due.max(crate::human::whole(all / connections));
                }
            }
            let [acked, refused] =
                conn.receive().map_err(|error| format!("flood, receiving: {error}"))?;
            self.acked += acked;
            self.refused += refused;
            conn.send(&self.frames, self.frame_bytes)
                .map_err(|error| format!("flood, sending: {error}"))?;
        }
        Ok(())
    }
}

impl Conn {
    fn send(&mut self, frames: &[u8], frame_bytes: usize) -> io::Result<()> {
        while self.sent < self.due || !self.at.is_multiple_of(frame_bytes) {
            let wanted = usize::try_from(self.due - self.sent).unwrap_or(usize::MAX);
            let begun = self.at / frame_bytes * frame_bytes;
            let upto = begun.saturating_add(wanted.saturating_mul(frame_bytes)).min(frames.len());
            match self.stream.write(&frames[self.at..upto.max(self.at + 1)]) {
                Ok(bytes) => {
                    let whole = (self.at + bytes) / frame_bytes - self.at / frame_bytes;
                    self.sent += whole as u64;
                    self.at = (self.at + bytes) % frames.len();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what has come: appends that were done, and that were not.
    fn receive(&mut self) -> io::Result<[u64; 2]> {
        let mut buffer = [0; 16 << 10];
        let mut counts = [0; 2];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.take(&buffer[..bytes], &mut counts),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(counts),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8], [acked, refused]: &mut [u64; 2]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let missing = (FRAME_HEADER_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.head.len() < FRAME_HEADER_BYTES {
                return;
            }
            let length = self.head[8..12].try_into().expect("four bytes");
            self.skip = u32::from_le_bytes(length) as usize;
            let is_append = self.head[5] == Kind::AppendReply.number();
            let is_refusal = self.head[5] == Kind::Error.number();
            *acked += u64::from(is_append);
            *refused += u64::from(is_refusal);
            self.answered += u64::from(is_append || is_refusal);
            self.head.clear();
        }
    }
}
