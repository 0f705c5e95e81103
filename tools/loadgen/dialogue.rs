//! One question at a time to one shard of a node: the handshake, metadata, status, reads.
//!
//! Blocking, for everything that is not the load itself. Apart from `client::tcp` because this
//! program hands the opened sockets to its own engine and reads pages without copying them.
//! Does not retry: whoever asks knows better.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::time::Duration;

use catamaran::model::limits::FRAME_BYTES_MAX;
use catamaran::model::{ClusterId, GroupId, Outcome};
use catamaran::wire::client::{
    Hello, MetadataView, Read, Reply, encode_hello, encode_metadata, encode_read, encode_status,
};
use catamaran::wire::{FRAME_HEADER_BYTES, FrameError, FrameHeader};

/// Longest frame that a node may send us.
pub(crate) const FRAME_LIMIT: usize = FRAME_BYTES_MAX;

/// An open connection after its handshake.
#[derive(Debug)]
pub(crate) struct Dialogue {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// The frame that [`Dialogue::receive`] returned last, to be dropped by the next call.
    taken: usize,
    correlation: u64,
}

fn broken(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected reply to {what}"))
}

/// Connects to the first address of `host:port` that answers.
fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Dialogue {
    /// Connects to `host:port` and says hello to `cluster`, or to any if that is all zero.
    ///
    /// # Errors
    /// No connection, no answer within `timeout`, or a refusal: another cluster's node, for one.
    pub(crate) fn open(address: &str, cluster: ClusterId, timeout: Duration) -> io::Result<Self> {
        let stream = connect(address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut dialogue = Self { stream, buffer: Vec::new(), filled: 0, taken: 0, correlation: 0 };
        dialogue.send(|to, id| encode_hello(to, id, &Hello::new(cluster, "loadgen")))?;
        let Reply::Hello(_) = dialogue.receive_reply("hello")? else {
            return Err(unexpected("hello"));
        };
        Ok(dialogue)
    }

    /// The socket, for the engine. Nothing is unread, since every question has its answer.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Asks for metadata.
    ///
    /// # Errors
    /// No or no proper answer.
    pub(crate) fn metadata(&mut self) -> io::Result<MetadataView<'_>> {
        self.send(encode_metadata)?;
        let Reply::Metadata(view) = self.receive_reply("metadata")? else {
            return Err(unexpected("metadata"));
        };
        Ok(view)
    }

    /// Asks for the status text.
    ///
    /// # Errors
    /// No or no proper answer.
    pub(crate) fn status(&mut self) -> io::Result<String> {
        self.send(encode_status)?;
        let Reply::Status(status) = self.receive_reply("status")? else {
            return Err(unexpected("status"));
        };
        Ok(status.text.to_owned())
    }

    /// Asks for a page of a log; the answer is for [`Dialogue::receive`].
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn send_read(&mut self, group: GroupId, read: &Read) -> io::Result<()> {
        self.send(|to, id| encode_read(to, id, group, read))
    }

    fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>, u64)) -> io::Result<()> {
        self.correlation += 1;
        let mut frame = Vec::with_capacity(128);
        encode(&mut frame, self.correlation);
        self.stream.write_all(&frame)
    }

    fn receive_reply(&mut self, what: &str) -> io::Result<Reply<'_>> {
        let reply = self.receive()?;
        if let Reply::Error(error) = reply {
            let why = match error.outcome::<()>() {
                Outcome::Done(()) => "done".to_owned(),
                Outcome::NotDone(refusal) => refusal.to_string(),
                Outcome::Unknown(doubt) => doubt.to_string(),
            };
            return Err(io::Error::other(format!("{what} refused: {why}")));
        }
        Ok(reply)
    }

    /// Waits for the next reply, whatever it is.
    ///
    /// # Errors
    /// The socket's, or bytes that are no reply.
    pub(crate) fn receive(&mut self) -> io::Result<Reply<'_>> {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        self.fill(FRAME_HEADER_BYTES)?;
        let header =
            FrameHeader::decode(&self.buffer[..self.filled], FRAME_LIMIT).map_err(broken)?;
        let frame_bytes = header.frame_bytes();
        self.fill(frame_bytes)?;
        self.taken = frame_bytes;
        let body: Range<usize> = FRAME_HEADER_BYTES..frame_bytes;
        header.check_body(&self.buffer[body.clone()]).map_err(broken)?;
        Reply::decode(&header, &self.buffer[body]).map_err(broken)
    }

    /// Reads until there are `bytes`, which were checked against the limit.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes.max(4096), 0);
        }
        while self.filled < bytes {
            let read = self.stream.read(&mut self.buffer[self.filled..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += read;
        }
        Ok(())
    }
}
