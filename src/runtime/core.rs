//! One shard's executor at work: gather what happened, let the shard take a turn, carry out what
//! it wants.
//!
//! All tasks of the executor share one [`Core`]. Reader tasks put inputs in and wake the loop; the
//! loop is the only one that calls the shard. Nothing here ever stays runnable without waiting
//! for the reactor, because the executor does no I/O while something is runnable. Does not: read
//! sockets (`clients`, `peers`), know frames, decide.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::Arc;

use glommio::io::BufferedFile;
use glommio::timer::Timer;
use socket2::Socket;

use super::buffers::Buffers;
use super::clients::Clients;
use super::clock;
use super::config::NodeConfig;
use super::disk::{Disk, WantedRead};
use super::event::{EventKind, Teller};
use super::flight;
use super::inbox::Inbox;
use super::local::{Bell, Flag, let_others_run};
use super::message::Message;
use super::peers::{Own, Peers};
use super::spin::Watched;
use crate::base::{Arena, Moment, Prng};
use crate::model::ShardId;
use crate::shard::{Effect, Effects, Input, Inputs, Shard};

/// Turns in a row before sockets get their chance. Completions that come while turns are taken
/// would otherwise keep the loop going for as long as the device is fast.
const TURNS_IN_A_ROW_MAX: u32 = 4;
/// The tick while the log is being written: the seal of a log that went idle is due after 5 ms.
const TICK_BUSY: Duration = Duration::from_millis(2);
/// The tick while nothing is. Also bounds how long the executor can oversleep: it may park with a
/// runnable task when the process was stopped for longer than its preemption timer.
const TICK_IDLE: Duration = Duration::from_millis(20);
/// How long after the last write a shard still counts as busy.
const BUSY_FOR: Duration = Duration::from_millis(20);
/// How long the device may take to end what it is doing at the end.
const LAST_WRITES: Duration = Duration::from_secs(5);
/// How long replies may take to leave at the end.
const LAST_FLUSH: Duration = Duration::from_secs(1);

/// How a shard ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In good order, or because another shard ended.
    Stopped,
    /// The device or the ring failed (I-03); nothing was acknowledged after it.
    Halted(String),
}

/// What the tasks of one shard share. One per shard, on its own thread.
pub(super) struct Core {
    pub(super) id: ShardId,
    pub(super) config: Arc<NodeConfig>,
    pub(super) own: Own,
    shard: RefCell<Shard>,
    pub(super) arena: RefCell<Arena>,
    inputs: RefCell<Inputs>,
    effects: RefCell<Effects>,
    disk: RefCell<Disk>,
    pub(super) buffers: RefCell<Buffers>,
    pub(super) clients: Clients,
    /// What the shard had to do after its last turn.
    uncommitted_bytes: Cell<usize>,
    pub(super) peers: Peers,
    /// Messages for the other shards, by shard; one push per target and turn.
    outgoing: RefCell<Vec<VecDeque<Message>>>,
    inboxes: Arc<Vec<Arc<Inbox<Message>>>>,
    pub(super) teller: Teller,
    pub(super) chance: RefCell<Prng>,
    /// There are inputs.
    wake: Flag,
    /// Rung after turns: memory may have come back.
    pub(super) after_turns: Bell,
    /// Looked at before sleeping, if that is configured.
    watched: RefCell<Watched>,
    /// The tick task is to tick fast.
    busy: Flag,
    busy_until: Cell<Moment>,
    end: RefCell<Option<End>>,
    /// Tasks are to end.
    pub(super) stopping: Cell<bool>,
    /// Second descriptors of the listening sockets, to end their accepts with.
    listeners: RefCell<Vec<Socket>>,
}

/// What a core is made of.
pub(super) struct Parts {
    pub(super) id: ShardId,
    pub(super) config: Arc<NodeConfig>,
    pub(super) own: Own,
    pub(super) shard: Shard,
    pub(super) arena: Arena,
    pub(super) disk: Disk,
    pub(super) inboxes: Arc<Vec<Arc<Inbox<Message>>>>,
    pub(super) teller: Teller,
    pub(super) seed: u64,
    pub(super) listeners: Vec<Socket>,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Rc<Self> {
        let outgoing = parts.inboxes.iter().map(|_| VecDeque::new()).collect();
        Rc::new(Self {
            id: parts.id,
            config: parts.config,
            own: parts.own,
            shard: RefCell::new(parts.shard),
            arena: RefCell::new(parts.arena),
            inputs: RefCell::default(),
            effects: RefCell::default(),
            disk: RefCell::new(parts.disk),
            buffers: RefCell::default(),
            clients: Clients::default(),
            uncommitted_bytes: Cell::new(0),
            peers: Peers::default(),
            outgoing: RefCell::new(outgoing),
            inboxes: parts.inboxes,
            teller: parts.teller,
            chance: RefCell::new(Prng::new(parts.seed)),
            wake: Flag::default(),
            after_turns: Bell::default(),
            watched: RefCell::default(),
            busy: Flag::default(),
            busy_until: Cell::default(),
            end: RefCell::default(),
            stopping: Cell::new(false),
            listeners: RefCell::new(parts.listeners),
        })
    }

    /// Adds what happened; the loop takes it in once those who are runnable now have had their
    /// say, which is how batches form.
    pub(super) fn input(&self, input: Input) {
        let mut inputs = self.inputs.borrow_mut();
        inputs.since.get_or_insert_with(clock::now);
        inputs.push(input);
        drop(inputs);
        self.wake.set();
    }

    /// Counts bytes of bulk frames that had to be moved to another block.
    pub(super) fn note_carried(&self, bytes: usize) {
        self.shard.borrow_mut().note_carried(bytes as u64);
    }

    /// What the shard may have to do before readers wait for it: far less than makes it say Busy, so
    /// that what is being read at the same moment fits too. More would only wait longer: 8 MiB of
    /// small records are tens of milliseconds of work, many times what keeps the device busy.
    fn work_bytes_max(&self) -> usize {
        self.config.uncommitted_bytes_per_shard / 4
    }

    /// Whether the shard has enough to do for now: appends that are not committed, and bytes that it
    /// has not seen yet. Neither stays: appends end, with whatever outcome, and after each turn
    /// readers are called as far as there is room. The beginning of a request that was seen is no
    /// reason to wait, since nothing but reading on makes a whole one of it.
    pub(super) fn is_full(&self) -> bool {
        self.uncommitted_bytes.get() + self.clients.fresh_bytes() >= self.work_bytes_max()
    }

    /// Readers that wait go on as far as there is room.
    fn call_readers(&self) {
        let uncommitted = self.shard.borrow().uncommitted_bytes();
        self.uncommitted_bytes.set(uncommitted);
        if self.inputs.borrow().queue.is_empty() {
            self.clients.note_all_seen();
        }
        let work = uncommitted + self.clients.fresh_bytes();
        self.clients.call_readers(self.work_bytes_max().saturating_sub(work));
    }

    /// Runs the shard until it ends.
    pub(super) async fn run(&self) -> End {
        loop {
            if let Some(end) = self.end.borrow().clone() {
                return end;
            }
            self.wake.wait().await;
            self.take_turns();
            if !self.config.spin.is_zero() {
                self.look_on();
            }
            if self.inputs.borrow().queue.is_empty() {
                let shard = self.shard.borrow();
                self.clients.finish_half_closed(|conn| shard.owes_replies(conn));
            }
            self.call_readers();
            self.after_turns.ring();
            if !self.inputs.borrow().queue.is_empty() {
                self.wake.set();
                let_others_run().await;
            }
        }
    }

    fn take_turns(&self) {
        for _ in 0..TURNS_IN_A_ROW_MAX {
            // Completions are also picked up here, without waiting for their eventfd.
            if let Err(error) = self.disk.borrow_mut().reap(&mut self.inputs.borrow_mut()) {
                return self.halt(format!("the log device failed: {error}"));
            }
            if self.inputs.borrow().queue.is_empty() || self.end.borrow().is_some() {
                return;
            }
            let now = clock::now();
            flight::record_inputs(now, &self.inputs.borrow());
            self.shard.borrow_mut().turn(
                now,
                &mut self.inputs.borrow_mut(),
                &mut self.arena.borrow_mut(),
                &mut self.effects.borrow_mut(),
            );
            flight::record_effects(now, &self.effects.borrow());
            if let Err(error) = self.act() {
                return self.halt(format!("the log device failed: {error}"));
            }
        }
    }

    /// Looks for what is outstanding until it comes, something else does, or the time is over. No
    /// other task runs meanwhile, so sockets stay open; their readers run as soon as there is
    /// something for them.
    fn look_on(&self) {
        let mut watched = self.watched.borrow_mut();
        watched.clear();
        self.peers.descriptors(|socket| watched.add(socket));
        self.clients.descriptors(|socket| watched.add(socket));
        if !watched.is_affordable() {
            return;
        }
        let until = clock::now().after(self.config.spin);
        while self.inputs.borrow().queue.is_empty()
            && self.end.borrow().is_none()
            && (!self.disk.borrow().is_idle() || self.shard.borrow().awaits_peers())
        {
            if self.disk.borrow_mut().has_done() {
                self.take_turns();
            } else if watched.look() || until <= clock::now() {
                return;
            }
        }
    }

    /// The log is being written: its seal is due soon. Heartbeats alone do not count, or no shard
    /// would ever be idle.
    fn note_busy(&self) {
        let now = clock::now();
        if now >= self.busy_until.replace(now.after(BUSY_FOR)) {
            self.busy.set();
        }
    }

    /// Carries out one turn's effects. What goes to peers leaves before the own write is handed
    /// to the kernel, and replies after it: peers have the longer way to go.
    fn act(&self) -> io::Result<()> {
        let mut effects = core::mem::take(&mut *self.effects.borrow_mut());
        for effect in effects.list.drain(..) {
            self.carry_out(effect)?;
        }
        // Given back for its capacity.
        *self.effects.borrow_mut() = effects;
        self.peers.flush();
        self.disk.borrow_mut().submit()?;
        self.clients.flush();
        for conn in self.clients.bound_waiting(self.config.uncommitted_bytes_per_shard) {
            let (conn, reason) = (conn.get(), "too many replies lie unread");
            self.teller.tell(EventKind::ClientClosed { conn, reason });
        }
        self.shard.borrow_mut().note_flushed(clock::now);
        self.send_messages();
        Ok(())
    }

    fn carry_out(&self, effect: Effect) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        let inputs = &mut *self.inputs.borrow_mut();
        match effect {
            Effect::Write { write, segment, offset, block } => {
                disk.write(write, segment, offset, block)?;
                self.note_busy();
            }
            Effect::Read { read, segment, offset, buf } => {
                disk.read(WantedRead { read, segment, offset, buf }, inputs);
            }
            Effect::PrepareSegment { segment, recycle } => disk.prepare(segment, recycle, inputs),
            Effect::RemoveSegment { segment } => disk.remove(segment),
            Effect::SendPeer { peer, lane, stream, frame } => {
                self.peers.send((peer, lane), stream, frame, self.config.send_queue_bytes);
            }
            Effect::ClosePeer { peer, lane, stream, reason } => {
                self.peers.close((peer, lane), stream, reason);
            }
            Effect::SendClient { conn, frame } => {
                if self.clients.send(conn, frame, self.config.send_queue_bytes).is_err() {
                    let (conn, reason) = (conn.get(), "it does not read its replies");
                    self.teller.tell(EventKind::ClientClosed { conn, reason });
                }
            }
            Effect::ClientRoom { conn, bytes } => self.clients.give_room(conn, bytes),
            Effect::CloseClient { conn, reason } => {
                self.clients.close(conn);
                self.teller.tell(EventKind::ClientClosed { conn: conn.get(), reason });
            }
            Effect::Forward { to, conn, frame } => {
                self.post(to, Message::Forwarded { from: self.id, conn, frame });
            }
            Effect::Return { to, conn, returned } => {
                self.post(to, Message::Returned { conn, returned });
            }
            Effect::Notice(notice) => self.teller.tell(EventKind::Notice(notice)),
            Effect::Halt { reason } => self.halt(reason.to_owned()),
            Effect::Drained => self.finish(End::Stopped),
        }
        Ok(())
    }

    fn post(&self, to: ShardId, message: Message) {
        self.outgoing.borrow_mut()[usize::from(to.get())].push_back(message);
    }

    /// Hands over what has piled up for other shards. What does not fit goes with the next turn,
    /// at the latest with the next tick; connection budgets bound what can pile up.
    fn send_messages(&self) {
        for (messages, inbox) in self.outgoing.borrow_mut().iter_mut().zip(self.inboxes.iter()) {
            if !messages.is_empty() {
                inbox.push_all(messages);
            }
        }
    }

    fn halt(&self, reason: String) {
        self.teller.tell(EventKind::Halted { reason: reason.clone() });
        self.finish(End::Halted(reason));
        // Half a node helps nobody: the other shards end too, whoever is waited for first.
        for inbox in self.inboxes.iter() {
            // A full inbox is read by a shard that will hear of it from `join` all the same.
            let _ = inbox.push(Message::Stop);
        }
    }

    fn finish(&self, end: End) {
        let mut current = self.end.borrow_mut();
        // The first reason is the true one.
        if current.is_none() {
            *current = Some(end);
        }
        drop(current);
        self.wake.set();
    }

    /// Reads the shard's inbox until the shard stops.
    pub(super) async fn read_inbox(self: Rc<Self>) {
        let inbox = Arc::clone(&self.inboxes[usize::from(self.id.get())]);
        let mut messages = VecDeque::new();
        while !self.stopping.get() {
            core::future::poll_fn(|context| inbox.poll_take(context, &mut messages)).await;
            for message in messages.drain(..) {
                self.on_message(message);
            }
        }
    }

    fn on_message(&self, message: Message) {
        match message {
            Message::Prepared { segment, result } => {
                let inputs = &mut *self.inputs.borrow_mut();
                self.disk.borrow_mut().on_prepared(segment, result, inputs);
                self.wake.set();
            }
            Message::Forwarded { from, conn, frame } => {
                self.input(Input::Forwarded { from, conn, frame });
            }
            Message::Returned { conn, returned } => {
                self.input(Input::Returned { conn, returned });
            }
            Message::Drain => self.input(Input::Drain),
            Message::Halt { reason } => self.halt(reason),
            Message::Stop => self.finish(End::Stopped),
        }
    }

    /// Waits for the device until the shard stops.
    pub(super) async fn watch_device(self: Rc<Self>) {
        let descriptor = match self.disk.borrow().wake_descriptor() {
            Ok(descriptor) => descriptor.into_raw_fd(),
            Err(error) => return self.halt(format!("no descriptor for the ring: {error}")),
        };
        #[expect(unsafe_code, reason = "the executor awaits an eventfd only as a file")]
        // SAFETY: just duplicated, and owned by nobody else.
        let eventfd = unsafe { BufferedFile::from_raw_fd(descriptor) };
        while !self.stopping.get() {
            if let Err(error) = eventfd.read_at(0, 8).await {
                self.halt(format!("the ring's eventfd failed: {error}"));
                break;
            }
            // The loop itself reaps, so that there is one place that does.
            self.wake.set();
        }
        // Closed here, because what is dropped is closed in the background, and at the end of a
        // shard there is no background any more. The kernel takes it back in any case.
        let _ = eventfd.close().await;
    }

    /// Tells the time until the shard stops, fast while something is going on.
    pub(super) async fn tick(self: Rc<Self>) {
        let mut last = Moment::ZERO;
        while !self.stopping.get() {
            let now = clock::now();
            if now < self.busy_until.get() {
                Timer::new(TICK_BUSY).await;
            } else {
                self.busy.wait_at_most(TICK_IDLE).await;
            }
            let now = clock::now();
            if now.since(last) >= TICK_BUSY {
                last = now;
                self.input(Input::Tick);
            }
            self.peers.enforce_deadlines(now);
            self.peers.end_what_is_past(&self.own.pins);
            self.clients.enforce_deadlines(now);
            if let Some(troubles) = self.clients.take_troubles() {
                self.input(Input::ClientTroubles { troubles });
            }
        }
    }

    /// Ends everything in good order: replies leave, connections close, the device is done.
    pub(super) async fn shut_down(self: Rc<Self>) {
        let give_up = clock::now().after(LAST_FLUSH);
        while self.clients.waiting_bytes() > 0 && clock::now() < give_up {
            Timer::new(Duration::from_millis(2)).await;
        }
        self.stopping.set(true);
        for listener in self.listeners.take() {
            // Ends the accept that is pending on it, and with it the task that owns the socket.
            // One that is shut down already is just as well.
            let _ = listener.shutdown(std::net::Shutdown::Both);
        }
        self.clients.close_all();
        self.peers.close_all();
        let give_up = clock::now().after(LAST_WRITES);
        while !self.disk.borrow().is_idle() && clock::now() < give_up {
            let mut ignored = Inputs::default();
            if self.disk.borrow_mut().reap(&mut ignored).is_err() {
                break;
            }
            Timer::new(Duration::from_millis(1)).await;
        }
        if !self.disk.borrow().is_idle() {
            // The device does not answer. Its buffers stay its own (I-05): nothing is freed, and
            // the end of the process is not held up by a ring that waits for it.
            core::mem::forget(Rc::clone(&self));
        }
        self.wake_device_watcher();
        // Tasks let go of the core one by one. One that does not within this time is waiting for
        // somebody else's machine, and the process is about to end anyway.
        let give_up = clock::now().after(LAST_FLUSH * 2);
        // The inbox's reader is woken by a message that it then ignores.
        let _ = self.inboxes[usize::from(self.id.get())].push(Message::Stop);
        while Rc::strong_count(&self) > 1 && clock::now() < give_up {
            self.after_turns.ring();
            self.busy.set();
            Timer::new(Duration::from_millis(5)).await;
        }
        // Whoever listens learns that nothing more will come, even if a task was left behind.
        self.teller.close();
    }

    /// Makes the read of the eventfd return.
    fn wake_device_watcher(&self) {
        if let Ok(descriptor) = self.disk.borrow().wake_descriptor() {
            let one = 1_u64.to_ne_bytes();
            let mut file = std::fs::File::from(descriptor);
            // An eventfd takes any count; if it does not, the watcher is left behind.
            let _ = io::Write::write(&mut file, &one);
        }
    }
}
