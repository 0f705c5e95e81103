//! Streams to the peers of one shard: dialling, the handshake, reading, replacing.
//!
//! Two per peer, and the node with the lower id dials both. A stream is told to the shard only
//! when its handshake is done and what it taught is durable (O-04); each has a number that no
//! later one shares (N-06).
//!
//! A socket must not outlive the shard that opened it: the other end would take it for a live lane
//! and wait for words that never come. So every socket is known to [`Peers`] from its first moment,
//! and what comes up after [`Peers::close_all`] is shut down at once. And a stream whose peer has
//! been started again since is ended, whatever its socket says. Does not: understand a message, or decide whom to trust
//! (`wire::peer::check_hello` does).

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::RawFd;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::Timer;

use super::buffers::Size;
use super::bulk::read_bulk;
use super::clock;
use super::config::NodeAddress;
use super::core::Core;
use super::event::EventKind;
use super::link::{Link, Patience};
use super::local::let_others_run;
use super::pins::{LearnError, Pins};
use super::worker::{Worker, oneshot};
use crate::base::Moment;
use crate::model::limits::HANDSHAKE_DEADLINE;
use crate::model::{BootCounter, NodeId, NodeUuid, RunId, ShardId, StreamId};
use crate::shard::{Frame, Input, Lane, Part, PeerFault};
use crate::wire::peer::{
    HANDSHAKE_FRAME_BYTES, Handshake, HandshakeError, PeerFacts, Pin, check_hello,
    decode_handshake, encode_hello, encode_refused, encode_welcome,
};

/// A peer whose machine is gone is noticed after this long, without waiting for a keepalive.
const PATIENCE: Patience =
    Patience { unacknowledged: Duration::from_millis(2500), silence: Duration::from_secs(1) };
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// The pause before another attempt: doubled from the first to the second, with jitter, so that
/// a restarted node is not met by everybody at once.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Handshakes that strangers may have open at once.
const HANDSHAKES_MAX: usize = 64;
/// The wait after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who we are, for handshakes, and what answers slowly.
pub(super) struct Own {
    pub(super) uuid: NodeUuid,
    pub(super) boot: BootCounter,
    pub(super) run: RunId,
    pub(super) pins: Pins,
    /// Resolves host names.
    pub(super) names: Worker,
}

struct Stream {
    number: StreamId,
    /// Which run of the peer is at the other end.
    pin: Pin,
    link: Rc<Link>,
    /// Why we closed it, for the log.
    reason: Cell<&'static str>,
    dirty: Cell<bool>,
}

/// Who made a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    ByUs,
    ByThem,
}

/// A connection whose handshake is not done.
struct Deadline {
    at: Moment,
    opened: Opened,
    link: Weak<Link>,
    met: Rc<Cell<bool>>,
}

/// All peer streams of one shard.
#[derive(Default)]
pub(super) struct Peers {
    open: RefCell<BTreeMap<(NodeId, Lane), Rc<Stream>>>,
    dirty: RefCell<Vec<Rc<Stream>>>,
    handshakes: RefCell<Vec<Deadline>>,
    last_number: Cell<StreamId>,
    /// The pins by which streams were last judged to be of the past.
    generation: Cell<u64>,
    /// All were closed, for good.
    closed: Cell<bool>,
}

impl Peers {
    /// Calls `see` with every open socket.
    pub(super) fn descriptors(&self, mut see: impl FnMut(RawFd)) {
        self.open.borrow().values().for_each(|stream| see(stream.link.descriptor()));
    }

    fn get(&self, key: (NodeId, Lane), number: StreamId) -> Option<Rc<Stream>> {
        self.open.borrow().get(&key).filter(|stream| stream.number == number).cloned()
    }

    /// Queues a frame; [`Peers::flush`] sends it. A stream that is gone drops it.
    pub(super) fn send(&self, key: (NodeId, Lane), number: StreamId, frame: Frame, most: usize) {
        let Some(stream) = self.get(key, number) else { return };
        stream.link.push(frame);
        // N10: credit bounds what is on its way on the bulk lane; a peer that does not even read
        // its control lane is not there.
        if stream.link.waiting_bytes() > most {
            stream.reason.set("it does not read");
            stream.link.close();
            return;
        }
        if !stream.dirty.replace(true) {
            self.dirty.borrow_mut().push(stream);
        }
    }

    /// Sends what was queued.
    pub(super) fn flush(&self) {
        let mut dirty = core::mem::take(&mut *self.dirty.borrow_mut());
        for stream in dirty.drain(..) {
            stream.dirty.set(false);
            stream.link.flush();
        }
        // Given back for its capacity; flushing queues nothing.
        *self.dirty.borrow_mut() = dirty;
    }

    /// Closes a stream that spoke nonsense.
    pub(super) fn close(&self, key: (NodeId, Lane), number: StreamId, reason: &'static str) {
        if let Some(stream) = self.get(key, number) {
            stream.reason.set(reason);
            stream.link.close();
        }
    }

    /// Closes all, those included that are still being opened.
    pub(super) fn close_all(&self) {
        self.closed.set(true);
        for stream in self.open.borrow().values() {
            stream.reason.set("we stop");
            stream.link.close();
        }
        for handshake in self.handshakes.take() {
            if let Some(link) = handshake.link.upgrade() {
                link.close();
            }
        }
    }

    /// Cuts off handshakes that take too long (S8).
    pub(super) fn enforce_deadlines(&self, now: Moment) {
        self.handshakes.borrow_mut().retain(|handshake| {
            let Some(link) = handshake.link.upgrade() else { return false };
            if handshake.at <= now && !handshake.met.get() {
                link.close();
            }
            !handshake.met.get() && !link.is_closed()
        });
    }

    /// Ends the streams of peers that have been started again since: their process is gone, and
    /// with it whoever would answer.
    pub(super) fn end_what_is_past(&self, pins: &Pins) {
        let generation = pins.generation();
        if self.generation.replace(generation) == generation {
            return;
        }
        for ((peer, _), stream) in self.open.borrow().iter() {
            if pins.get(*peer).is_some_and(|pin| stream.pin.is_before(&pin)) {
                stream.reason.set("the peer was started again");
                stream.link.close();
            }
        }
    }

    /// Takes a new connection over and sets the deadline of its handshake; the returned cell says
    /// that it was met. `None` if it was shut down again: the shard stops, or it has gone already.
    fn take_over(&self, stream: TcpStream, opened: Opened) -> Option<(Rc<Link>, Rc<Cell<bool>>)> {
        let link = Link::new(stream, PATIENCE).ok()?;
        if self.closed.get() {
            // Not merely dropped: what is dropped is closed in the background, and at the end of a
            // shard there is no background any more.
            link.close();
            return None;
        }
        if opened == Opened::ByThem {
            self.make_room();
        }
        let met = Rc::new(Cell::new(false));
        let at = clock::now().after(HANDSHAKE_DEADLINE);
        let deadline = Deadline { at, opened, link: Rc::downgrade(&link), met: Rc::clone(&met) };
        self.handshakes.borrow_mut().push(deadline);
        Some((link, met))
    }

    /// Cuts off the oldest stranger if there are as many as there may be: silent ones must not keep
    /// a peer out until their time is over.
    fn make_room(&self) {
        let mut handshakes = self.handshakes.borrow_mut();
        let theirs = |deadline: &Deadline| deadline.opened == Opened::ByThem;
        if handshakes.iter().filter(|deadline| theirs(deadline)).count() < HANDSHAKES_MAX {
            return;
        }
        let oldest = handshakes.iter().position(theirs).expect("there are several");
        // One whose handshake is done is no stranger and only leaves the list.
        let deadline = handshakes.remove(oldest);
        if let Some(link) = deadline.link.upgrade()
            && !deadline.met.get()
        {
            link.close();
        }
    }
}

/// Keeps one lane to one peer open until the shard stops. One task per peer and lane, on the
/// side that dials.
pub(super) async fn dial(core: Rc<Core>, peer: NodeAddress, lane: Lane) {
    let mut pause = PAUSE_MIN;
    let mut told = String::new();
    while !core.stopping.get() {
        let started = clock::now();
        if let Err(reason) = dial_once(&core, &peer, lane).await
            && reason != told
            && !core.stopping.get()
        {
            let at = format!("{}:{}", peer.host, peer.peer_port_base + core.id.get());
            told.clone_from(&reason);
            core.teller.tell(EventKind::PeerRefused { peer: at, reason });
        }
        if clock::now().since(started) > PAUSE_MAX {
            // It was up: what happens next is news again.
            (pause, told) = (PAUSE_MIN, String::new());
        }
        sleep(&core, jittered(&core, pause)).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

fn jittered(core: &Core, pause: Duration) -> Duration {
    let micros = u64::try_from(pause.as_micros()).expect("at most a second");
    Duration::from_micros(core.chance.borrow_mut().between(micros / 2, micros + 1))
}

/// Sleeps in pieces, so that a shard that stops does not wait for it.
async fn sleep(core: &Core, mut time: Duration) {
    const PIECE: Duration = Duration::from_millis(50);
    while !core.stopping.get() && !time.is_zero() {
        Timer::new(time.min(PIECE)).await;
        time = time.saturating_sub(PIECE);
    }
}

/// One connection from its beginning to its end. An error is why there was none.
async fn dial_once(core: &Rc<Core>, peer: &NodeAddress, lane: Lane) -> Result<(), String> {
    let address = resolve(core, &peer.host, peer.peer_port_base + core.id.get()).await?;
    let stream = TcpStream::connect_timeout(address, CONNECT_DEADLINE)
        .await
        .map_err(|error| io::Error::from(error).to_string())?;
    let (link, met) =
        core.peers.take_over(stream, Opened::ByUs).ok_or("it closed the connection at once")?;
    let outcome = shake_as_dialler(core, &link, peer.id, lane).await;
    met.set(true);
    match outcome {
        Ok(theirs) => {
            serve(core, &theirs, &link).await;
            Ok(())
        }
        Err(reason) => {
            link.close();
            Err(reason)
        }
    }
}

/// The address of a host, without blocking the shard.
async fn resolve(core: &Core, host: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = host.parse() {
        return Ok(SocketAddr::new(address, port));
    }
    let (sender, receiver) = oneshot();
    let name = host.to_owned();
    let job = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(|mut found| found.next());
        sender.send(match found {
            Ok(Some(address)) => Ok(address),
            Ok(None) => Err("the name has no address".to_owned()),
            Err(error) => Err(error.to_string()),
        });
    };
    core.own.names.submit(job).map_err(|_| "too many names to resolve".to_owned())?;
    receiver.await.unwrap_or_else(|| Err("the resolver is gone".to_owned()))
}

fn facts(core: &Core, to_node: NodeId, lane: Lane) -> PeerFacts {
    let (version_min, version_max) = PeerFacts::VERSIONS;
    PeerFacts {
        version_min,
        version_max,
        lane,
        node: core.config.node,
        to_node,
        shard: core.id,
        shard_count: core.config.shards,
        cluster: core.config.cluster,
        uuid: core.own.uuid,
        boot: core.own.boot,
        run: core.own.run,
        nonce: core.chance.borrow_mut().between(1, u64::MAX),
        echo: 0,
        credit_bytes: core.config.peer_credit_bytes,
    }
}

/// Says hello and judges the answer. Returns what the other end said of itself.
async fn shake_as_dialler(
    core: &Core,
    link: &Rc<Link>,
    peer: NodeId,
    lane: Lane,
) -> Result<PeerFacts, String> {
    let mine = facts(core, peer, lane);
    say(link, &encode_hello(&mine));
    let mut answer = [0; HANDSHAKE_FRAME_BYTES];
    link.receive_exact(&mut answer).await.map_err(|error| no_answer(&error))?;
    let theirs = match decode_handshake(&answer).map_err(|error| error.to_string())? {
        Handshake::Welcome(theirs) => theirs,
        Handshake::Refused { code, text } => {
            return Err(format!("it refused us: {text} (code {code})"));
        }
        Handshake::Hello(_) => return Err("it answered a hello with a hello".to_owned()),
    };
    check_hello(&mine, &theirs, core.own.pins.get(peer)).map_err(|error| error.to_string())?;
    core.own.pins.learn(peer, Pin::of(&theirs)).await.map_err(|error| error.to_string())?;
    Ok(theirs)
}

fn no_answer(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        "it closed the connection during the handshake".to_owned()
    } else {
        format!("no handshake: {error}")
    }
}

fn say(link: &Rc<Link>, frame: &[u8]) {
    link.push(Frame { parts: vec![Part::Bytes(Bytes::copy_from_slice(frame))] });
    link.flush();
}

/// Accepts peers until the shard stops.
pub(super) async fn accept(core: Rc<Core>, listener: TcpListener) {
    while !core.stopping.get() {
        match listener.accept().await {
            Ok(stream) => {
                if let Some((link, met)) = core.peers.take_over(stream, Opened::ByThem) {
                    glommio::spawn_local(accepted(Rc::clone(&core), link, met)).detach();
                }
            }
            Err(_) if core.stopping.get() => return,
            Err(_) => {
                Timer::new(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One accepted connection from its beginning to its end.
async fn accepted(core: Rc<Core>, link: Rc<Link>, met: Rc<Cell<bool>>) {
    let mut hello = [0; HANDSHAKE_FRAME_BYTES];
    let received = link.receive_exact(&mut hello).await;
    if received.is_err() {
        core.input(Input::PeerRefused { fault: PeerFault::Handshake });
        return link.close();
    }
    match judge(&core, &hello).await {
        Ok((mine, theirs)) => {
            met.set(true);
            say(&link, &encode_welcome(&mine));
            serve(&core, &theirs, &link).await;
        }
        Err((from, error)) => {
            say(&link, &encode_refused(&error));
            link.close_after_flush();
            let reason = error.to_string();
            core.input(Input::PeerRefused { fault: PeerFault::Handshake });
            core.teller.tell(EventKind::PeerRefused { peer: from, reason });
        }
    }
}

/// The verdict on a hello: what we answer and what it said, or who was refused and why.
async fn judge(
    core: &Core,
    hello: &[u8; HANDSHAKE_FRAME_BYTES],
) -> Result<(PeerFacts, PeerFacts), (String, HandshakeError)> {
    let unknown = |error| ("unknown".to_owned(), error);
    let theirs = match decode_handshake(hello).map_err(unknown)? {
        Handshake::Hello(theirs) => theirs,
        Handshake::Welcome(_) | Handshake::Refused { .. } => {
            return Err(unknown(HandshakeError::Kind { found: hello[5] }));
        }
    };
    let from = format!("node {}", theirs.node);
    let refused = |error| (from.clone(), error);
    let found = theirs.node;
    if !core.config.peers().any(|peer| peer.id == found) {
        return Err(refused(HandshakeError::Stranger { found }));
    }
    if theirs.nonce == 0 {
        return Err(refused(HandshakeError::Nonce));
    }
    let mine = facts(core, found, theirs.lane).answering(&theirs);
    check_hello(&mine, &theirs, core.own.pins.get(found)).map_err(refused)?;
    // Whoever cannot be noted is not let in: the dialler tries again.
    core.own.pins.learn(found, Pin::of(&theirs)).await.map_err(|error| match error {
        LearnError::Refused(error) => refused(error),
        LearnError::NotNoted(_) => refused(HandshakeError::NotNoted),
    })?;
    Ok((mine, theirs))
}

/// Tells the shard of a stream, reads it to its end, and tells that.
async fn serve(core: &Rc<Core>, theirs: &PeerFacts, link: &Rc<Link>) {
    if core.peers.closed.get() {
        return link.close();
    }
    let (peer, lane, credit_bytes) = (theirs.node, theirs.lane, theirs.credit_bytes);
    let number = core.peers.last_number.get().next();
    core.peers.last_number.set(number);
    let stream = Rc::new(Stream {
        number,
        pin: Pin::of(theirs),
        link: Rc::clone(link),
        reason: Cell::new("it ended"),
        dirty: Cell::new(false),
    });
    let replaced = core.peers.open.borrow_mut().insert((peer, lane), Rc::clone(&stream));
    if let Some(old) = replaced {
        old.reason.set("a newer one took its place");
        old.link.close();
        core.input(Input::PeerDown { peer, lane, stream: old.number });
    }
    core.peers.end_what_is_past(&core.own.pins);
    core.input(Input::PeerUp { peer, lane, stream: number, credit_bytes });
    core.teller.tell(EventKind::PeerUp { peer, lane });
    match lane {
        Lane::Control => read_control(core, peer, &stream).await,
        Lane::Bulk => {
            if let Err(reason) = read_bulk(core, peer, number, link).await {
                stream.reason.set(reason);
                core.input(Input::PeerRefused { fault: PeerFault::Frame });
            }
        }
    }
    link.close();
    let current = core.peers.get((peer, lane), number).is_some();
    if current {
        core.peers.open.borrow_mut().remove(&(peer, lane));
        core.input(Input::PeerDown { peer, lane, stream: number });
    }
    let reason = stream.reason.get().to_owned();
    core.teller.tell(EventKind::PeerDown { peer, lane, reason });
}

async fn read_control(core: &Rc<Core>, peer: NodeId, stream: &Stream) {
    let mut size = Size::Small;
    while let Ok((bytes, more)) = stream.link.receive(&core.buffers, || size).await {
        if bytes.is_empty() || stream.link.is_closed() {
            return;
        }
        size = size.after(bytes.len());
        core.input(Input::PeerControl { peer, stream: stream.number, bytes });
        if more {
            let_others_run().await;
        }
    }
}

/// The port of a shard.
pub(super) fn port_of(base: u16, shard: ShardId) -> u16 {
    base.checked_add(shard.get()).expect("checked with the configuration")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_comes_up_after_all_were_closed_is_shut_down_at_once() {
        let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
        executor.run(async {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let peers = Peers::default();
            for opened in [Opened::ByUs, Opened::ByThem] {
                let ours = TcpStream::connect(address).await.unwrap();
                let (mut theirs, _) = listener.accept().unwrap();
                let (link, _met) = peers.take_over(ours, opened).expect("nothing is closed yet");
                peers.close_all();
                assert!(link.is_closed());
                assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "the other end hears of it");

                // Was under way when all were closed.
                let late = TcpStream::connect(address).await.unwrap();
                let (mut theirs, _) = listener.accept().unwrap();
                theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                assert!(peers.take_over(late, opened).is_none());
                assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "not a socket without an owner");
                assert!(peers.handshakes.borrow().is_empty());
                peers.closed.set(false);
            }
        });
    }
}
