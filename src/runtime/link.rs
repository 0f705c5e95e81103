//! One TCP connection, to a client or a peer: its socket, what waits to be sent, how it ends.
//!
//! Sending happens in the shard's own step, straight from the frames' parts; a task of its own
//! takes over only while the socket is full. Closing is a shutdown of the socket: the reader task
//! sees the end of the stream and is the one place that reports it. Does not: know frames, or
//! whether the other end is a client or a peer.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::rc::Rc;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};

use super::buffers::{Buffers, Size};
use super::local::Flag;
use crate::shard::{Frame, Part};

/// Pieces of one `sendmsg`. The kernel takes 1,024; more than this many are rarely waiting.
const PIECES_PER_SEND_MAX: usize = 128;

/// What waits to be sent, in order.
#[derive(Default)]
struct Outbox {
    parts: VecDeque<Part>,
    /// Bytes of the first part that are gone already.
    sent: usize,
    /// Bytes of all parts that are not gone.
    bytes: usize,
}

impl Outbox {
    fn push(&mut self, frame: Frame) {
        for part in frame.parts {
            if !part.as_bytes().is_empty() {
                self.bytes += part.as_bytes().len();
                self.parts.push_back(part);
            }
        }
    }

    fn pieces(&self, into: &mut Vec<libc::iovec>) {
        into.clear();
        for (i, part) in self.parts.iter().take(PIECES_PER_SEND_MAX).enumerate() {
            let bytes = &part.as_bytes()[if i == 0 { self.sent } else { 0 }..];
            let iov_base = bytes.as_ptr().cast_mut().cast();
            into.push(libc::iovec { iov_base, iov_len: bytes.len() });
        }
    }

    fn on_sent(&mut self, mut bytes: usize) {
        assert!(bytes <= self.bytes, "{bytes} of {} sent", self.bytes);
        self.bytes -= bytes;
        while bytes > 0 {
            let front = self.parts.front().expect("bytes are left").as_bytes().len() - self.sent;
            if bytes < front {
                self.sent += bytes;
                return;
            }
            bytes -= front;
            self.sent = 0;
            self.parts.pop_front();
        }
    }
}

/// How a connection is treated by the kernel.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Unacknowledged bytes for this long end the connection (N9).
    pub(super) unacknowledged: Duration,
    /// Silence for this long is answered with a probe.
    pub(super) silence: Duration,
}

/// See the module's documentation. Shared by the tasks of one connection.
pub(super) struct Link {
    /// Owns the descriptor. Borrowed only inside a poll.
    stream: RefCell<TcpStream>,
    descriptor: RawFd,
    outbox: RefCell<Outbox>,
    /// Reused by `flush`.
    pieces: RefCell<Vec<libc::iovec>>,
    /// The socket is full and the sender task is waiting for it.
    blocked: Cell<bool>,
    sender_started: Cell<bool>,
    /// Wakes the sender task: blocked, or closed.
    sender: Flag,
    /// Close when the outbox is empty.
    closing: Cell<bool>,
    closed: Cell<bool>,
    /// Wakes a reader that paused: something was sent, or the link is closed. Whoever else gives
    /// the reader a reason to go on sets it too.
    pub(super) room: Flag,
}

impl Link {
    /// Takes a connected socket over.
    pub(super) fn new(stream: TcpStream, patience: Patience) -> io::Result<Rc<Self>> {
        let descriptor = stream.as_raw_fd();
        let link = Rc::new(Self {
            stream: RefCell::new(stream),
            descriptor,
            outbox: RefCell::default(),
            pieces: RefCell::default(),
            blocked: Cell::new(false),
            sender_started: Cell::new(false),
            sender: Flag::default(),
            closing: Cell::new(false),
            closed: Cell::new(false),
            room: Flag::default(),
        });
        let socket = link.borrow_descriptor();
        let socket = SockRef::from(&socket);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(patience.unacknowledged))?;
        let keepalive = TcpKeepalive::new()
            .with_time(patience.silence)
            .with_interval(Duration::from_secs(1))
            .with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        Ok(link)
    }

    fn borrow_descriptor(&self) -> BorrowedFd<'_> {
        #[expect(unsafe_code, reason = "glommio's stream has no AsFd")]
        // SAFETY: `stream` owns the descriptor and lives as long as `self`.
        unsafe {
            BorrowedFd::borrow_raw(self.descriptor)
        }
    }

    /// Its socket, to be looked at.
    pub(super) fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.outbox.borrow().bytes
    }

    /// Whether the socket has been shut down.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether it is only open for what is still to be sent.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Adds a frame; [`Link::flush`] sends it.
    pub(super) fn push(&self, frame: Frame) {
        if !self.closed.get() {
            self.outbox.borrow_mut().push(frame);
        }
    }

    /// Sends as much as the socket takes, in one call if it takes it all.
    pub(super) fn flush(self: &Rc<Self>) {
        if self.blocked.get() || self.closed.get() {
            return;
        }
        while self.outbox.borrow().bytes > 0 {
            match self.send_once() {
                Ok(sent) => self.outbox.borrow_mut().on_sent(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.set(true);
                    self.start_sender();
                    self.sender.set();
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(),
            }
        }
        if self.closing.get() {
            self.close();
        }
    }

    fn send_once(&self) -> io::Result<usize> {
        let outbox = self.outbox.borrow();
        let mut pieces = self.pieces.borrow_mut();
        outbox.pieces(&mut pieces);
        #[expect(unsafe_code, reason = "neither std nor glommio sends several slices at once")]
        // SAFETY: an all-zero msghdr is valid; its pieces point into parts that `outbox` owns and
        // that nobody changes while it is borrowed; the descriptor is open.
        let sent = unsafe {
            let mut message: libc::msghdr = core::mem::zeroed();
            message.msg_iov = pieces.as_mut_ptr();
            message.msg_iovlen = pieces.len();
            libc::sendmsg(
                self.descriptor,
                &raw const message,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn start_sender(self: &Rc<Self>) {
        if self.sender_started.replace(true) {
            return;
        }
        match self.duplicate() {
            Ok(stream) => {
                let link = Rc::clone(self);
                glommio::spawn_local(send_when_full(link, stream)).detach();
            }
            // No descriptor left for a second half: this connection cannot go on.
            Err(_) => self.close(),
        }
    }

    /// A second stream on the same socket, so that waiting to write and waiting to read have a
    /// poll each.
    fn duplicate(&self) -> io::Result<TcpStream> {
        let descriptor = self.borrow_descriptor().try_clone_to_owned()?.into_raw_fd();
        #[expect(unsafe_code, reason = "the only way to make a stream of a descriptor")]
        // SAFETY: just duplicated, and owned by nobody else.
        Ok(unsafe { TcpStream::from_raw_fd(descriptor) })
    }

    /// Closes when everything that waits is out.
    pub(super) fn close_after_flush(self: &Rc<Self>) {
        self.closing.set(true);
        self.flush();
    }

    /// Ends the connection: the reader sees the end, and what waits to be sent is dropped.
    pub(super) fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        *self.outbox.borrow_mut() = Outbox::default();
        self.room.set();
        // Fails only if the other end has closed already.
        let _ = SockRef::from(&self.borrow_descriptor()).shutdown(std::net::Shutdown::Both);
        self.sender.set();
    }

    /// Receives into `buffer` what there is. 0 is the end.
    pub(super) fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, buffer)
    }

    /// Receives exactly `buffer.len()` bytes.
    pub(super) async fn receive_exact(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            match poll_fn(|context| self.poll_receive(context, rest)).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => filled += bytes,
            }
        }
        Ok(())
    }

    /// Receives what there is, into a buffer that is only taken while there is something.
    /// `true` if there may be more right now. How much is taken is asked when there is something.
    pub(super) async fn receive(
        &self,
        buffers: &RefCell<Buffers>,
        size: impl Fn() -> Size,
    ) -> io::Result<(bytes::Bytes, bool)> {
        poll_fn(|context| {
            let size = size();
            let mut buffers = buffers.borrow_mut();
            let mut buffer = buffers.take(size);
            match self.poll_receive(context, &mut buffer) {
                Poll::Ready(Ok(filled)) => {
                    let full = filled == buffer.len();
                    Poll::Ready(Ok((buffers.give_back(size, buffer, filled), full)))
                }
                Poll::Ready(Err(error)) => {
                    buffers.give_back(size, buffer, 0);
                    Poll::Ready(Err(error))
                }
                Poll::Pending => {
                    buffers.give_back(size, buffer, 0);
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Waits for room in the socket on behalf of a link whose outbox did not fit.
async fn send_when_full(link: Rc<Link>, mut stream: TcpStream) {
    loop {
        link.sender.wait().await;
        if link.closed.get() {
            return;
        }
        if !link.blocked.get() {
            continue;
        }
        // The stream tries to send and, if the socket is still full, arms a poll for room.
        let sent = poll_fn(|context| {
            let outbox = link.outbox.borrow();
            match outbox.parts.front() {
                Some(part) => {
                    Pin::new(&mut stream).poll_write(context, &part.as_bytes()[outbox.sent..])
                }
                None => Poll::Ready(Ok(0)),
            }
        })
        .await;
        if link.closed.get() {
            return;
        }
        link.blocked.set(false);
        match sent {
            Ok(sent) => {
                link.outbox.borrow_mut().on_sent(sent);
                link.flush();
                link.room.set();
            }
            Err(_) => link.close(),
        }
    }
}
