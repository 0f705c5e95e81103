//! Client connections of one shard: accepting, reading within a budget, closing.
//!
//! Bytes go to the shard uncut; it knows frames. A connection's reader pauses when what it
//! delivered and the shard has not given back reaches its budget (F-01). Does not: understand a
//! byte, or answer.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use glommio::net::{TcpListener, TcpStream};
use glommio::timer::Timer;

use super::buffers::Size;
use super::clock;
use super::config::NodeConfig;
use super::core::Core;
use super::link::{Link, Patience};
use super::local::let_others_run;
use crate::base::Moment;
use crate::model::ConnId;
use crate::model::limits::HANDSHAKE_DEADLINE;
use crate::shard::{Frame, Input};

const PATIENCE: Patience =
    Patience { unacknowledged: Duration::from_secs(30), silence: Duration::from_secs(30) };
/// How often deadlines are looked at: a walk over all connections.
const DEADLINES_EVERY: Duration = Duration::from_millis(250);
/// A connection that is being closed has this long to take its last replies.
const CLOSING_DEADLINE: Duration = Duration::from_secs(5);
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
    /// There is something to flush.
    dirty: Cell<bool>,
}

/// What waits for this connection is more than it may have waiting; it was closed.
pub(super) struct Overrun;

/// All client connections of one shard.
#[derive(Default)]
pub(super) struct Clients {
    open: RefCell<BTreeMap<ConnId, Rc<Client>>>,
    dirty: RefCell<Vec<Rc<Client>>>,
    last_id: Cell<u64>,
    deadlines_checked: Cell<Moment>,
}

impl Clients {
    fn get(&self, conn: ConnId) -> Option<Rc<Client>> {
        self.open.borrow().get(&conn).cloned()
    }

    /// Queues a reply; [`Clients::flush`] sends it. A connection that is gone drops it.
    pub(super) fn send(&self, conn: ConnId, frame: Frame, most: usize) -> Result<(), Overrun> {
        let Some(client) = self.get(conn) else { return Ok(()) };
        if !client.answered.replace(true) {
            client.deadline.set(Moment::NEVER);
        }
        client.link.push(frame);
        // N10: a client that does not read is cut off before it costs more than its share.
        if client.link.waiting_bytes() > most {
            // What its socket takes at once is not waiting.
            client.link.flush();
        }
        if client.link.waiting_bytes() > most {
            client.link.close();
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
            client.link.flush();
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

    /// Closes a connection once its replies are out.
    pub(super) fn close(&self, conn: ConnId) {
        if let Some(client) = self.get(conn) {
            client.deadline.set(clock::now().after(CLOSING_DEADLINE));
            client.link.close_after_flush();
        }
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
        for client in self.open.borrow().values() {
            if client.deadline.get() <= now {
                client.link.close();
            }
        }
    }

    /// Makes room for one more by cutting off the oldest stranger.
    fn evict_stranger(&self) -> bool {
        let open = self.open.borrow();
        let stranger = open.values().find(|c| !c.answered.get() && !c.link.is_closed());
        stranger.is_some_and(|client| {
            client.link.close();
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
            deadline: Cell::new(clock::now().after(HANDSHAKE_DEADLINE)),
            dirty: Cell::new(false),
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
    if core.stopping.get() || full && !core.clients.evict_stranger() {
        return;
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

/// Moves bytes to the shard until the connection ends.
async fn read(core: &Rc<Core>, conn: ConnId, client: &Client) {
    let mut size = Size::Small;
    loop {
        while must_pause(&core.config, client) {
            client.link.room.wait().await;
        }
        let (bytes, more) = match client.link.receive(&core.buffers, size).await {
            Ok((bytes, _)) if bytes.is_empty() => return,
            Ok(received) => received,
            Err(_) => return,
        };
        if client.link.is_closed() {
            return;
        }
        size = size.after(bytes.len());
        if client.link.is_closing() {
            // The shard has said its last word; what still comes is dropped.
            continue;
        }
        client.held_bytes.set(client.held_bytes.get() + bytes.len());
        core.input(Input::ClientBytes { conn, bytes });
        if more {
            let_others_run().await;
        }
    }
}
