//! The world of a [`Session`]: plain blocking sockets and background threads.
//!
//! The one place besides `runtime` that touches the kernel, so that a client needs neither
//! glommio nor an executor of its own. Threads of one [`Client`]: one for time, and per connection
//! one that connects and then reads and one that writes, so that no socket is ever waited for
//! with the session locked. A caller submits under the lock, and the reading thread completes
//! under it: two thread hops per request. All threads end when the client is dropped.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a world of its own, with threads and a clock; see the module's text"
)]

mod ask;

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;

pub use self::ask::{AskError, GroupLeader, Metadata, status};
use super::session::{
    Answer, LinkId, RequestId, Session, SessionEffect, SessionOptions, SubmitError,
};
use super::{ReadBatch, ReadError};
use crate::base::Moment;
use crate::model::{ClusterId, GroupId, LogIndex, Outcome, Refusal};
use crate::wire::client::{AppendReply, Consistency, Read};

/// What one read call takes from a socket at most.
const RECEIVE_BYTES: usize = 64 << 10;
/// What a writing thread puts into one write call at most.
const WRITE_BYTES: usize = 256 << 10;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster to talk to; all zero takes the first one that answers.
    pub cluster: ClusterId,
    /// What the client calls itself in the nodes' logs. At most 256 bytes.
    pub name: String,
    /// How long [`Client::connect`] tries, and how long one connection attempt may take.
    pub connect_timeout: Duration,
    /// How long a request may take, all attempts together.
    pub request_timeout: Duration,
    /// Pause before the second attempt to do anything; doubles with each further one.
    pub backoff_min: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// Bytes of requests without an outcome; beyond it callers wait.
    pub buffer_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        let session = SessionOptions::default();
        Self {
            cluster: session.cluster,
            name: session.name,
            connect_timeout: Duration::from_secs(5),
            request_timeout: session.request_timeout,
            backoff_min: session.backoff_min,
            backoff_max: session.backoff_max,
            buffer_bytes: session.buffer_bytes,
        }
    }
}

/// No node answered in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What went wrong where.
    pub problems: Vec<(String, String)>,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no node answered")?;
        for (i, (address, problem)) in self.problems.iter().enumerate() {
            write!(f, "{}{address}: {problem}", if i == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

/// A connection to a cluster. May be shared between threads; requests are pipelined.
pub struct Client {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    options: Options,
    timer: Option<JoinHandle<()>>,
}

struct Shared {
    core: Mutex<Core>,
    /// Signalled when an outcome is there, when there may be room, when the cluster was found,
    /// and when the timer has to look at the clock again.
    changed: Condvar,
    origin: Instant,
    connect_timeout: Duration,
}

struct Core {
    session: Session,
    effects: Vec<SessionEffect>,
    links: BTreeMap<LinkId, Link>,
    outcomes: BTreeMap<RequestId, Slot>,
    /// What the last failed attempt at each address said.
    faults: BTreeMap<String, String>,
    closed: bool,
    /// When the timer sleeps until; it is woken if something is due sooner.
    timer_at: Moment,
}

/// Where the outcome of a request goes.
enum Slot {
    Wanted,
    There(Outcome<Answer>),
}

/// A connection that is up.
struct Link {
    stream: TcpStream,
    outbox: Sender<Bytes>,
}

impl Shared {
    fn now(&self) -> Moment {
        let nanos = self.origin.elapsed().as_nanos();
        Moment::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// A panic while the lock was held is a bug of ours that has been reported already; the
    /// session's own assertions guard what follows.
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, core: MutexGuard<'a, Core>, timeout: Duration) -> MutexGuard<'a, Core> {
        let waited = self.changed.wait_timeout(core, timeout);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Carries out what the session wants. Nothing here waits.
    fn carry_out(self: &Arc<Self>, core: &mut Core) {
        let mut effects = core::mem::take(&mut core.effects);
        core.session.take_effects(&mut effects);
        let mut changed = false;
        for effect in effects.drain(..) {
            match effect {
                SessionEffect::Connect { link, address } => {
                    let shared = Arc::clone(self);
                    let work = move || shared.run_link(link, &address);
                    drop(spawn("catamaran-link", work));
                }
                SessionEffect::Send { link, bytes } => {
                    if let Some(link) = core.links.get(&link) {
                        // A writer that is gone has left its stream shut down; the reader of it
                        // reports the link lost, and with it what was sent.
                        let _ = link.outbox.send(bytes);
                    }
                }
                SessionEffect::Close { link, reason: _ } => close(core.links.remove(&link)),
                SessionEffect::Finished { request, outcome } => {
                    // A ticket that was dropped has taken its slot with it.
                    if let Some(slot) = core.outcomes.get_mut(&request) {
                        *slot = Slot::There(outcome);
                        changed = true;
                    }
                }
            }
        }
        core.effects = effects;
        if changed || core.session.next_wake() < core.timer_at {
            self.changed.notify_all();
        }
    }

    /// One thread per connection attempt: connects, then reads until the end.
    fn run_link(self: &Arc<Self>, link: LinkId, address: &str) {
        let connected = connect(address, self.connect_timeout)
            .and_then(|stream| Ok((stream.try_clone()?, stream.try_clone()?, stream)));
        let mut core = self.lock();
        let stream = match connected {
            Ok((own, writers, stream)) if !core.closed => {
                let (outbox, inbox) = channel();
                core.links.insert(link, Link { stream: own, outbox });
                drop(spawn("catamaran-write", move || write(writers, &inbox)));
                let now = self.now();
                core.session.on_link_up(now, link);
                self.carry_out(&mut core);
                Some(stream)
            }
            Ok(_) => None,
            Err(error) => {
                core.faults.insert(address.to_string(), error.to_string());
                None
            }
        };
        drop(core);
        if let Some(stream) = stream {
            self.read(link, stream);
        }
        let mut core = self.lock();
        let now = self.now();
        close(core.links.remove(&link));
        core.session.on_link_down(now, link);
        self.carry_out(&mut core);
        self.changed.notify_all();
    }

    fn read(self: &Arc<Self>, link: LinkId, mut stream: TcpStream) {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(bytes) => {
                    let mut core = self.lock();
                    let ready = core.session.is_ready();
                    let now = self.now();
                    core.session.on_bytes(now, link, Bytes::copy_from_slice(&buffer[..bytes]));
                    self.carry_out(&mut core);
                    if ready != core.session.is_ready() {
                        self.changed.notify_all();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(_) => return,
            }
        }
    }

    /// The thread of time.
    fn run_timer(self: &Arc<Self>) {
        let mut core = self.lock();
        while !core.closed {
            let now = self.now();
            core.session.on_tick(now);
            self.carry_out(&mut core);
            core.timer_at = core.session.next_wake().min(now.after(IDLE));
            // Moments in the past are due now; a short sleep keeps a due thing that cannot be
            // done from spinning.
            let pause = core.timer_at.since(now).clamp(Duration::from_millis(1), IDLE);
            core = self.wait(core, pause);
        }
    }
}

/// The timer looks at the clock at least this often.
const IDLE: Duration = Duration::from_secs(1);

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(work);
    thread.expect("the system has room for a thread")
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn close(link: Option<Link>) {
    if let Some(link) = link {
        // An error says that it is closed already.
        let _ = link.stream.shutdown(Shutdown::Both);
    }
}

/// One thread per connection: writes what is handed over, gathered while the last write ran.
fn write(mut stream: TcpStream, inbox: &Receiver<Bytes>) {
    let mut buffer = Vec::new();
    while let Ok(bytes) = inbox.recv() {
        buffer.clear();
        buffer.extend_from_slice(&bytes);
        while buffer.len() < WRITE_BYTES
            && let Ok(bytes) = inbox.try_recv()
        {
            buffer.extend_from_slice(&bytes);
        }
        if stream.write_all(&buffer).is_err() {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

impl Client {
    /// Finds the cluster at `addresses` ("host:port": any client port of any node; one that lives
    /// is enough).
    ///
    /// # Errors
    /// If nobody answered within `options.connect_timeout`, with what went wrong where.
    pub fn connect<A: AsRef<str>>(addresses: &[A], options: Options) -> Result<Self, ConnectError> {
        let addresses: Vec<String> = addresses.iter().map(|a| a.as_ref().to_string()).collect();
        let session = Session::new(&addresses, session_options(&options));
        let core = Core {
            session,
            effects: Vec::new(),
            links: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            faults: BTreeMap::new(),
            closed: false,
            timer_at: Moment::ZERO,
        };
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            changed: Condvar::new(),
            origin: Instant::now(),
            connect_timeout: options.connect_timeout,
        });
        let timing = Arc::clone(&shared);
        let timer = Some(spawn("catamaran-timer", move || timing.run_timer()));
        let client = Self { shared, addresses, options, timer };
        client.wait_until_ready()?;
        Ok(client)
    }

    fn wait_until_ready(&self) -> Result<(), ConnectError> {
        let deadline = Instant::now() + self.options.connect_timeout;
        let mut core = self.shared.lock();
        while !core.session.is_ready() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let mut problems: BTreeMap<String, String> = core
                    .session
                    .problems()
                    .map(|(address, problem)| (address.to_string(), problem.to_string()))
                    .collect();
                // What the system said is more to the point.
                problems.append(&mut core.faults);
                for address in &self.addresses {
                    problems.entry(address.clone()).or_insert_with(|| "no answer".to_string());
                }
                return Err(ConnectError { problems: problems.into_iter().collect() });
            }
            core = self.shared.wait(core, left);
        }
        Ok(())
    }

    /// Appends `records` to `group`, all or none, and waits for the outcome.
    ///
    /// `Unknown` means that the records may be in the log or may still get there. This library
    /// never sends them again by itself; whoever does may find them twice.
    pub fn append<R: AsRef<[u8]>>(&self, group: GroupId, records: &[R]) -> Outcome<AppendReply> {
        self.append_async(group, records).wait()
    }

    /// As [`Client::append`], but only if the log's last index is `tail`: the refusal `WrongTail`
    /// says where it is.
    pub fn append_at<R: AsRef<[u8]>>(
        &self,
        group: GroupId,
        tail: LogIndex,
        records: &[R],
    ) -> Outcome<AppendReply> {
        self.submit(|session, now| session.append(now, group, Some(tail), records)).wait()
    }

    /// As [`Client::append`], without waiting for the outcome. Waits while the buffer is full.
    pub fn append_async<R: AsRef<[u8]>>(&self, group: GroupId, records: &[R]) -> Ticket {
        self.submit(|session, now| session.append(now, group, None, records))
    }

    /// Reads committed records of `group` from `from` on: whole batches of at most `max_bytes`
    /// together, but at least one if there is one.
    ///
    /// # Errors
    /// Why there is no answer, or what is wrong with it: every checksum is verified.
    pub fn read(
        &self,
        group: GroupId,
        from: LogIndex,
        max_bytes: u32,
        consistency: Consistency,
    ) -> Result<ReadBatch, ReadError> {
        let read = Read { from, max_bytes, consistency };
        let ticket = self.submit(|session, now| session.read(now, group, &read));
        match ticket.answer() {
            Outcome::Done(Answer::Read(frame)) => ReadBatch::decode(&frame, group, from),
            Outcome::Done(Answer::Append(_)) => Err(ReadError::Nonsense),
            Outcome::NotDone(refusal) => Err(ReadError::Refused(refusal)),
            Outcome::Unknown(doubt) => Err(ReadError::NoAnswer(doubt)),
        }
    }

    /// The nodes, and who leads each group, asked now.
    ///
    /// # Errors
    /// If no node answers.
    pub fn metadata(&self) -> Result<Metadata, AskError> {
        let nodes = self.shared.lock().session.nodes().to_vec();
        ask::metadata(&self.addresses, &nodes, &self.options)
    }

    /// The status text of the shard that listens at `address`, asked now: lines of "key value".
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self, address: &str) -> Result<String, AskError> {
        status(address, &self.options)
    }

    fn submit(
        &self,
        request: impl Fn(&mut Session, Moment) -> Result<RequestId, SubmitError>,
    ) -> Ticket {
        let mut core = self.shared.lock();
        loop {
            let now = self.shared.now();
            match request(&mut core.session, now) {
                Ok(id) => {
                    core.outcomes.insert(id, Slot::Wanted);
                    self.shared.carry_out(&mut core);
                    return Ticket { shared: Arc::clone(&self.shared), state: Waiting::For(id) };
                }
                Err(SubmitError::Refused(refusal)) => {
                    return Ticket {
                        shared: Arc::clone(&self.shared),
                        state: Waiting::Refused(refusal),
                    };
                }
                // An outcome makes room and signals; the timeout of requests bounds the wait.
                Err(SubmitError::Full) => core = self.shared.wait(core, IDLE),
            }
        }
    }
}

fn session_options(options: &Options) -> SessionOptions {
    SessionOptions {
        cluster: options.cluster,
        name: options.name.clone(),
        request_timeout: options.request_timeout,
        backoff_min: options.backoff_min,
        backoff_max: options.backoff_max,
        buffer_bytes: options.buffer_bytes,
        // Keyed afresh per process and per call: clients must not move in step.
        seed: RandomState::new().build_hasher().finish(),
        ..SessionOptions::default()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut core = self.shared.lock();
        core.closed = true;
        core.session.shut_down();
        self.shared.carry_out(&mut core);
        for (_, link) in core::mem::take(&mut core.links) {
            close(Some(link));
        }
        drop(core);
        self.shared.changed.notify_all();
        // The threads of links end by themselves, now that their sockets are shut down. One that
        // is still connecting finds the client closed later; waiting for it would be slow.
        if let Some(timer) = self.timer.take() {
            // It has no reason to panic, and if it did, that was reported.
            let _ = timer.join();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// An append on its way. Dropping it forgets the outcome, not the append.
#[must_use = "the outcome says whether the records are safe"]
pub struct Ticket {
    shared: Arc<Shared>,
    state: Waiting,
}

#[derive(Clone, Copy)]
enum Waiting {
    For(RequestId),
    Refused(Refusal),
}

impl Ticket {
    /// Waits for the outcome. Ends at the request timeout at the latest.
    pub fn wait(self) -> Outcome<AppendReply> {
        as_append(self.answer())
    }

    /// The outcome if it is there, or the ticket back.
    ///
    /// # Errors
    /// The ticket, while there is no outcome.
    pub fn try_wait(self) -> Result<Outcome<AppendReply>, Self> {
        let taken = match self.state {
            Waiting::Refused(refusal) => Some(Outcome::NotDone(refusal)),
            Waiting::For(id) => take_outcome(&mut self.shared.lock(), id),
        };
        taken.map(as_append).ok_or(self)
    }

    fn answer(self) -> Outcome<Answer> {
        let id = match self.state {
            Waiting::Refused(refusal) => return Outcome::NotDone(refusal),
            Waiting::For(id) => id,
        };
        let mut core = self.shared.lock();
        loop {
            if let Some(outcome) = take_outcome(&mut core, id) {
                return outcome;
            }
            core = self.shared.wait(core, IDLE);
        }
    }
}

fn take_outcome(core: &mut Core, id: RequestId) -> Option<Outcome<Answer>> {
    match core.outcomes.get(&id).expect("a ticket's slot lives as long as the ticket") {
        Slot::Wanted => return None,
        Slot::There(_) => (),
    }
    match core.outcomes.remove(&id) {
        Some(Slot::There(outcome)) => Some(outcome),
        Some(Slot::Wanted) | None => None,
    }
}

fn as_append(outcome: Outcome<Answer>) -> Outcome<AppendReply> {
    match outcome {
        Outcome::Done(Answer::Append(reply)) => Outcome::Done(reply),
        // A node that answers an append with a read has done who knows what.
        Outcome::Done(Answer::Read(_)) => Outcome::Unknown(crate::model::Doubt::ConnectionLost),
        Outcome::NotDone(refusal) => Outcome::NotDone(refusal),
        Outcome::Unknown(doubt) => Outcome::Unknown(doubt),
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Waiting::For(id) = self.state {
            self.shared.lock().outcomes.remove(&id);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            Waiting::For(_) => "Ticket(on its way)",
            Waiting::Refused(_) => "Ticket(refused)",
        })
    }
}

#[cfg(test)]
mod tests;
