//! A client connection without manners: bytes as one likes, from an address as one likes.
//!
//! For those who misbehave, and for reads that must go to one node whoever leads. Does not retry,
//! route or wait.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use catamaran::model::ClusterId;
use catamaran::model::limits::FRAME_BYTES_MAX;
use catamaran::wire::client::{Hello, encode_hello};
use catamaran::wire::{Assembler, InFrame};
use socket2::{Domain, Socket, Type};

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    assembler: Assembler,
}

/// The bytes of a hello to any cluster.
pub(crate) fn hello() -> Vec<u8> {
    let mut frame = Vec::new();
    encode_hello(&mut frame, 0, &Hello::new(ClusterId::default(), "hammer"));
    frame
}

impl Raw {
    /// Connects from `source` (unspecified: whatever the kernel likes), within `timeout`.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn connect(
        to: SocketAddrV4,
        source: Ipv4Addr,
        timeout: Duration,
    ) -> io::Result<Self> {
        Self::connect_with(to, source, timeout, |_| Ok(()))
    }

    /// The same with a socket that `prepare` has its way with.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn connect_with(
        to: SocketAddrV4,
        source: Ipv4Addr,
        timeout: Duration,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        prepare(&socket)?;
        if !source.is_unspecified() {
            // Ports are chosen when connecting, so that each source has all of them.
            let from = SocketAddr::from((source, 0));
            socket.bind(&from.into())?;
        }
        socket.connect_timeout(&SocketAddr::from(to).into(), timeout)?;
        socket.set_tcp_nodelay(true)?;
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(Self { stream, assembler: Assembler::new(FRAME_BYTES_MAX) })
    }

    /// The socket, which does not block.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Sends what the socket takes; tells how much that was.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// The connection is gone, or speaks nonsense.
    pub(crate) fn next(&mut self) -> io::Result<Option<InFrame>> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(frame) = self.assembler.next() {
                let nonsense =
                    |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
                return frame.map(Some).map_err(nonsense);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.assembler.push(Bytes::copy_from_slice(&buffer[..bytes])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the other end has closed. Takes nothing.
    pub(crate) fn is_closed(&self) -> bool {
        match self.stream.peek(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
