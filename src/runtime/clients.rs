//! Client connections of one shard: accepting, reading within a budget, closing.
//!
//! Bytes go to the shard uncut; it knows frames. A connection's reader pauses when what it
//! delivered and the shard has not given back reaches its budget (F-01). All readers pause while
//! the shard as a whole has enough to do: what is not read costs nothing, whereas a request that is
//! read and refused costs almost as much as one that is done, and comes back. Replies that nobody
//! takes are bounded for each connection and for all together. Does not: understand a byte, or
//! answer.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::rc::Rc;

use glommio::net::{TcpListener, TcpStream};
use glommio::timer::Timer;

use super::buffers::{RECEIVE_BYTES_MAX, Size};
use super::clock;
use super::config::NodeConfig;
use super::core::Core;
use super::link::{Link, Patience};
use super::local::let_others_run;
use crate::base::Moment;
use crate::model::ConnId;
use crate::model::limits::HANDSHAKE_DEADLINE;
use crate::shard::{ClientTroubles, Frame, Input};

const PATIENCE: Patience =
    Patience { unacknowledged: Duration::from_secs(30), silence: Duration::from_secs(30) };
/// How often deadlines are looked at: a walk over all connections.
const DEADLINES_EVERY: Duration = Duration::from_millis(250);
/// A connection that is being closed has this long to take its last replies.
const CLOSING_DEADLINE: Duration = Duration::from_secs(5);
/// A client that has said all it will say has this long to be answered and to take the replies.
const HALF_CLOSED_DEADLINE: Duration = Duration::from_secs(10);
/// The wait after an accept that failed, for example because no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One client connection.
struct Client {
    link: Rc<Link>,
    /// Bytes delivered to the shard and not given back.
    held_bytes: Cell<usize>,
    /// Whether the shard ever answered it; until then it is a stranger.
    answered: Cell<bool>,
    /// When a stranger, or a connection that is being closed, is cut off.
    deadline: Cell<Moment>,
    /// It will say nothing more, and waits for what it is owed.
    half_closed: Cell<bool>,
    /// There is something to flush.
    dirty: Cell<bool>,
    /// In the line of those who wait until the shard has less to do.
    in_line: Cell<bool>,
}

/// What waits for this connection is more than it may have waiting; it was closed.
pub(super) struct Overrun;

/// All client connections of one shard.
#[derive(Default)]
pub(super) struct Clients {
    open: RefCell<BTreeMap<ConnId, Rc<Client>>>,
    dirty: RefCell<Vec<Rc<Client>>>,
    /// Those that are half closed. Usually none.
    half_closed: RefCell<Vec<ConnId>>,
    last_id: Cell<u64>,
    deadlines_checked: Cell<Moment>,
    /// Bytes delivered since the shard had last taken in everything.
    fresh_bytes: Cell<usize>,
    /// Readers that wait until the shard has less to do, the longest first.
    line: RefCell<VecDeque<Rc<Client>>>,
    /// Bytes of replies that wait, of all connections. Never below the truth: what leaves a full
    /// socket is subtracted when they are counted again.
    waiting_bytes: Cell<usize>,
    /// What happened since the shard was last told.
    troubles: Cell<ClientTroubles>,
}

impl Clients {
    /// Calls `see` with every open socket.
    pub(super) fn descriptors(&self, mut see: impl FnMut(RawFd)) {
        self.open.borrow().values().for_each(|client| see(client.link.descriptor()));
    }

    fn get(&self, conn: ConnId) -> Option<Rc<Client>> {
        self.open.borrow().get(&conn).cloned()
    }

    /// Queues a reply; [`Clients::flush`] sends it. A connection that is gone drops it.
    pub(super) fn send(&self, conn: ConnId, frame: Frame, most: usize) -> Result<(), Overrun> {
        let Some(client) = self.get(conn) else { return Ok(()) };
        if !client.answered.replace(true) && !client.half_closed.get() {
            client.deadline.set(Moment::NEVER);
        }
        let before = client.link.waiting_bytes();
        client.link.push(frame);
        self.waiting_bytes.set(self.waiting_bytes.get() + client.link.waiting_bytes() - before);
        // N10: a client that does not read is cut off before it costs more than its share.
        if client.link.waiting_bytes() > most {
            // What its socket takes at once is not waiting.
            client.link.flush();
        }
        if client.link.waiting_bytes() > most {
            self.cut(&client, |troubles| troubles.unread += 1);
            return Err(Overrun);
        }
        if !client.dirty.replace(true) {
            self.dirty.borrow_mut().push(client);
        }
        Ok(())
    }

    /// Sends what was queued.
    pub(super) fn flush(&self) {
        let mut dirty = core::mem::take(&mut *self.dirty.borrow_mut());
        for client in dirty.drain(..) {
            client.dirty.set(false);
            let before = client.link.waiting_bytes();
            client.link.flush();
            let left = before.saturating_sub(client.link.waiting_bytes());
            self.waiting_bytes.set(self.waiting_bytes.get().saturating_sub(left));
        }
        // Given back for its capacity; flushing queues nothing.
        *self.dirty.borrow_mut() = dirty;
    }

    /// The shard has let go of `bytes` that this connection delivered.
    pub(super) fn give_room(&self, conn: ConnId, bytes: usize) {
        if let Some(client) = self.get(conn) {
            let held = client.held_bytes.get();
            assert!(bytes <= held, "{conn:?} got {bytes} of {held} bytes back");
            client.held_bytes.set(held - bytes);
            client.link.room.set();
        }
    }

    fn hold(&self, client: &Client, bytes: usize) {
        client.held_bytes.set(client.held_bytes.get() + bytes);
        self.fresh_bytes.set(self.fresh_bytes.get() + bytes);
    }

    /// The shard has taken in everything that was delivered.
    pub(super) fn note_all_seen(&self) {
        self.fresh_bytes.set(0);
    }

    /// Bytes delivered since the shard had last taken in everything: what it has not seen, and
    /// some that it has.
    pub(super) fn fresh_bytes(&self) -> usize {
        self.fresh_bytes.get()
    }

    fn count(&self, what: impl FnOnce(&mut ClientTroubles)) {
        let mut troubles = self.troubles.get();
        what(&mut troubles);
        self.troubles.set(troubles);
    }

    /// Ends a connection that asks for too much, and counts it.
    fn cut(&self, client: &Client, what: impl FnOnce(&mut ClientTroubles)) {
        if !client.link.is_closed() {
            client.link.close();
            self.count(what);
        }
    }

    /// What happened since this was last asked, if anything did.
    pub(super) fn take_troubles(&self) -> Option<ClientTroubles> {
        let troubles = self.troubles.take();
        (troubles != ClientTroubles::default()).then_some(troubles)
    }

    /// Lets readers go on that waited until the shard has less to do: as many as there is room for,
    /// if each reads a full buffer.
    pub(super) fn call_readers(&self, room_bytes: usize) {
        let mut line = self.line.borrow_mut();
        for _ in 0..room_bytes.div_ceil(RECEIVE_BYTES_MAX) {
            let Some(client) = line.pop_front() else { return };
            client.in_line.set(false);
            client.link.room.set();
        }
    }

    /// Keeps the replies that nobody takes, of all connections together, within `most` bytes, by
    /// cutting off those that let most of them lie. A walk over all connections, but only when there
    /// seems to be too much. Tells who was cut off.
    pub(super) fn bound_waiting(&self, most: usize) -> Vec<ConnId> {
        let mut cut = Vec::new();
        if self.waiting_bytes.get() <= most {
            return cut;
        }
        let open = self.open.borrow();
        let mut waiting: Vec<(usize, ConnId, &Rc<Client>)> = open
            .iter()
            .map(|(conn, client)| (client.link.waiting_bytes(), *conn, client))
            .filter(|(bytes, _, _)| *bytes > 0)
            .collect();
        let mut total: usize = waiting.iter().map(|(bytes, _, _)| bytes).sum();
        if total > most {
            waiting.sort_unstable_by_key(|(bytes, conn, _)| (*bytes, *conn));
            // Well below the bound, so that the next walk is not due at once.
            while total > most / 4 * 3
                && let Some((bytes, conn, client)) = waiting.pop()
            {
                self.cut(client, |troubles| troubles.unread += 1);
                cut.push(conn);
                total -= bytes;
            }
        }
        self.waiting_bytes.set(total);
        cut
    }

    /// Closes a connection once its replies are out.
    pub(super) fn close(&self, conn: ConnId) {
        if let Some(client) = self.get(conn) {
            client.deadline.set(clock::now().after(CLOSING_DEADLINE));
            client.link.close_after_flush();
        }
    }

    /// Closes half-closed connections once what `owes` says no is out. Called when the shard has
    /// taken in everything that came before.
    pub(super) fn finish_half_closed(&self, owes: impl Fn(ConnId) -> bool) {
        if self.half_closed.borrow().is_empty() {
            return;
        }
        self.half_closed.borrow_mut().retain(|conn| {
            let Some(client) = self.get(*conn) else { return false };
            let is_owed = owes(*conn) && !client.link.is_closed();
            if !is_owed {
                client.link.close_after_flush();
            }
            is_owed
        });
    }

    /// Notes that a client will say nothing more.
    fn half_close(&self, conn: ConnId, client: &Client) {
        client.half_closed.set(true);
        let deadline = clock::now().after(HALF_CLOSED_DEADLINE);
        client.deadline.set(client.deadline.get().min(deadline));
        self.half_closed.borrow_mut().push(conn);
    }

    /// Closes all at once.
    pub(super) fn close_all(&self) {
        for client in self.open.borrow().values() {
            client.link.close();
        }
    }

    /// Bytes of replies that have not left.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.open.borrow().values().map(|client| client.link.waiting_bytes()).sum()
    }

    /// Cuts off strangers that took too long (S8) and those that do not take their last replies.
    pub(super) fn enforce_deadlines(&self, now: Moment) {
        if now.since(self.deadlines_checked.get()) < DEADLINES_EVERY {
            return;
        }
        self.deadlines_checked.set(now);
        let mut waiting = 0;
        for client in self.open.borrow().values() {
            if client.deadline.get() <= now {
                self.cut(client, |troubles| troubles.late += 1);
            }
            waiting += client.link.waiting_bytes();
        }
        self.waiting_bytes.set(waiting);
    }

    /// Makes room for one more by cutting off the oldest stranger.
    fn evict_stranger(&self) -> bool {
        let open = self.open.borrow();
        let stranger = open.values().find(|c| !c.answered.get() && !c.link.is_closed());
        stranger.is_some_and(|client| {
            self.cut(client, |troubles| troubles.evicted += 1);
            true
        })
    }

    fn add(&self, link: Rc<Link>) -> (ConnId, Rc<Client>) {
        self.last_id.set(self.last_id.get() + 1);
        let conn = ConnId::new(self.last_id.get());
        let client = Rc::new(Client {
            link,
            held_bytes: Cell::new(0),
            answered: Cell::new(false),
            half_closed: Cell::new(false),
            deadline: Cell::new(clock::now().after(HANDSHAKE_DEADLINE)),
            dirty: Cell::new(false),
            in_line: Cell::new(false),
        });
        self.open.borrow_mut().insert(conn, Rc::clone(&client));
        (conn, client)
    }
}

/// Accepts client connections until the shard stops.
pub(super) async fn accept(core: Rc<Core>, listener: TcpListener) {
    while !core.stopping.get() {
        match listener.accept().await {
            Ok(stream) => open(&core, stream),
            Err(_) if core.stopping.get() => return,
            Err(_) => {
                Timer::new(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn open(core: &Rc<Core>, stream: TcpStream) {
    let full = core.clients.open.borrow().len() >= core.config.connections_max;
    // Full of answered clients: the newcomer is closed by dropping it.
    if core.stopping.get() {
        return;
    }
    if full && !core.clients.evict_stranger() {
        return core.clients.count(|troubles| troubles.turned_away += 1);
    }
    // Fails if the client has already gone.
    let Ok(link) = Link::new(stream, PATIENCE) else { return };
    let (conn, client) = core.clients.add(link);
    core.input(Input::ClientOpened { conn });
    let core = Rc::clone(core);
    glommio::spawn_local(async move {
        read(&core, conn, &client).await;
        client.link.close();
        core.clients.open.borrow_mut().remove(&conn);
        core.input(Input::ClientClosed { conn });
    })
    .detach();
}

/// Whether a connection has delivered enough for now: its budget is used up, or it is slower to
/// take replies than to ask for them.
fn must_pause(config: &NodeConfig, client: &Client) -> bool {
    let full = client.held_bytes.get() >= config.connection_bytes
        || client.link.waiting_bytes() >= config.send_queue_bytes / 4;
    full && !client.link.is_closed()
}

/// Whether the shard has enough to do without this connection, which then stands in line.
fn must_stand_in_line(core: &Core, client: &Rc<Client>) -> bool {
    if !core.is_full() || client.link.is_closed() {
        return false;
    }
    let clients = &core.clients;
    if !client.in_line.replace(true) {
        clients.line.borrow_mut().push_back(Rc::clone(client));
        clients.count(|troubles| troubles.paused += 1);
    }
    true
}

/// Moves bytes to the shard until the connection ends.
async fn read(core: &Rc<Core>, conn: ConnId, client: &Rc<Client>) {
    let mut size = Size::Small;
    loop {
        while must_pause(&core.config, client) || must_stand_in_line(core, client) {
            client.link.room.wait().await;
        }
        // Whoever waited for its client while the shard got busy takes little and then stands in
        // line, or a thousand that speak at once would be too much.
        let size_now = || if core.is_full() { Size::Small } else { size };
        let (bytes, more) = match client.link.receive(&core.buffers, size_now).await {
            Ok((bytes, _)) if bytes.is_empty() => return await_replies(core, conn, client).await,
            Ok(received) => received,
            Err(_) => return,
        };
        if client.link.is_closed() {
            return;
        }
        if !core.is_full() {
            size = size.after(bytes.len());
        }
        if client.link.is_closing() {
            // The shard has said its last word; what still comes is dropped.
            continue;
        }
        core.clients.hold(client, bytes.len());
        core.input(Input::ClientBytes { conn, bytes });
        if more {
            let_others_run().await;
        }
    }
}

/// After the client's last byte: it may have shut down its sending half and still want replies.
async fn await_replies(core: &Core, conn: ConnId, client: &Client) {
    core.clients.half_close(conn, client);
    // The loop looks after each turn; one that finds nothing to do ends the connection at once.
    core.input(Input::Tick);
    while !client.link.is_closed() {
        client.link.room.wait().await;
    }
}
