//! A node: its data directory, its shards' threads, how it starts and stops.
//!
//! [`Node::start`] returns when every shard serves or with the first reason why one cannot. Does
//! not: run a shard (`core` does), print, or end the process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use core::fmt;
use core::time::Duration;

use glommio::net::TcpListener;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};
use socket2::{Domain, Protocol, Socket, Type};

use super::config::NodeConfig;
use super::core::{Core, End, Parts};
use super::datadir::DataDir;
use super::disk::{Disk, DiskSetup};
use super::error::{EnvironmentError, ExitCode, StartError};
use super::event::{EVENTS_WAITING_MAX, Event, EventKind, Teller};
use super::inbox::Inbox;
use super::message::Message;
use super::peers::{Own, port_of};
use super::pins::Pins;
use super::recover::{self, Log, may_be_empty};
use super::segments::{Access, probe_access};
use super::watchdog::{self, OldestWrite, Watched};
use super::worker::{Worker, WorkerThread};
use super::{clients, clock, flight, peers, place, ring, tape};
use crate::base::Arena;
use crate::model::limits::BLOCK_BYTES_MAX;
use crate::model::{BootCounter, NodeUuid, RunId, ShardId};
use crate::shard::{Input, Lane, RetentionLimits, Shard, ShardConfig, WorldFacts};
use crate::wal::{Geometry, Identity};

/// Connections that may wait for their accept.
const BACKLOG: i32 = 1024;
/// How long a port in use may belong to our own process that was killed just before.
const PORT_PATIENCE: Duration = Duration::from_secs(1);
const PORT_PAUSE: Duration = Duration::from_millis(10);
/// Short preemption timers cost latency and run into an executor that parks with runnable tasks.
const PREEMPT_TIMER: Duration = Duration::from_millis(100);
/// The executor's own rings pin this; the log has its own memory.
const EXECUTOR_IO_BYTES: usize = 128 << 10;
const EXECUTOR_RING_DEPTH: usize = 256;
/// Placed blocks that are not durable, queued ones included: the window of W-05. Larger than
/// what the device holds, so that a leader with a slow disk can go on through the others.
const WINDOW_BYTES_MAX: usize = 16 << 20;
/// Placed block writes that are not durable.
const WINDOW_WRITES_MAX: u32 = 64;
/// Frames below this are copied into a shared block, so that many quiet groups share a write.
const DIRECT_FRAME_BYTES_MIN: usize = 16 << 10;

type ShardThread = ExecutorJoinHandle<End>;

/// The way to start a node.
#[derive(Debug)]
pub struct Node;

/// A running node. Dropping it does not stop the node: [`NodeHandle::drain`] and
/// [`NodeHandle::join`] do.
pub struct NodeHandle {
    threads: Vec<(ShardId, ShardThread)>,
    inboxes: Arc<Vec<Arc<Inbox<Message>>>>,
    events: Receiver<Event>,
    files: WorkerThread,
    data: DataDir,
}

/// Asks a node to stop; may be sent to other threads, for example to a signal handler's.
#[derive(Clone)]
pub struct Drainer {
    inboxes: Arc<Vec<Arc<Inbox<Message>>>>,
}

impl Drainer {
    /// Asks every shard to refuse new work, finish what it has accepted and stop.
    pub fn drain(&self) {
        for inbox in self.inboxes.iter() {
            // A full inbox belongs to a shard that is busy or gone; signals may be repeated.
            let _ = inbox.push(Message::Drain);
        }
    }
}

/// Why a node that ran has stopped without being asked to.
#[derive(Debug)]
pub struct StopError {
    /// Which shard was the first.
    pub shard: ShardId,
    /// Why.
    pub reason: String,
}

impl StopError {
    /// What the process should end with.
    pub const fn exit_code(&self) -> ExitCode {
        ExitCode::Io
    }
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "shard {} stopped: {}: nothing was acknowledged after it; check the device and start \
             again",
            self.shard, self.reason
        )
    }
}

impl core::error::Error for StopError {}

impl Node {
    /// Starts a node and waits until all its shards serve.
    ///
    /// # Errors
    /// The first reason found; whatever had been started is stopped again.
    pub fn start(config: NodeConfig) -> Result<NodeHandle, StartError> {
        config.check().map_err(StartError::Config)?;
        flight::install();
        ring::probe().map_err(|error| EnvironmentError::NoIoUring { error })?;
        raise_file_limit();
        // The lock comes before the ports: of two processes on one directory the second must say
        // so, whatever else they collide on.
        let data = DataDir::open(&config)?;
        let access = probe_access(data.path(), config.allow_buffered)?;
        let no_thread =
            |error: std::io::Error| EnvironmentError::NoThread { error: error.to_string() };
        let files = Worker::start("files").map_err(no_thread)?;
        let names = Worker::start("names").map_err(no_thread)?;
        let pins = Pins::open(data.path(), files.worker())?;
        let config = Arc::new(config);
        let inboxes: Arc<Vec<_>> =
            Arc::new((0..config.shards).map(|_| Arc::new(Inbox::new())).collect());
        let (teller, events) = sync_channel(EVENTS_WAITING_MAX);
        let mut sockets = Vec::new();
        for shard in (0..config.shards).map(ShardId::new) {
            sockets.push((shard, Sockets::bind(&config, shard)?));
        }
        let cores = place::cores(config.shards, config.pin_cores);
        let (tell_ready, ready) = sync_channel(usize::from(config.shards));
        let mut node = NodeHandle { threads: Vec::new(), inboxes, events, files, data };
        let mut watched = Vec::new();
        for ((shard, sockets), core) in sockets.into_iter().zip(cores) {
            let oldest_write = Arc::new(OldestWrite::default());
            watched.push(Watched {
                shard,
                oldest: Arc::downgrade(&oldest_write),
                inbox: Arc::clone(&node.inboxes[usize::from(shard.get())]),
            });
            let setup = Setup {
                shard,
                config: Arc::clone(&config),
                sockets,
                access,
                directory: node.data.shard_directory(shard),
                has_begun: node.data.has_begun(shard),
                begun_path: node.data.begun_path(shard),
                uuid: node.data.node_uuid(),
                boot: node.data.boot(),
                run: node.data.run(),
                pins: pins.clone(),
                files: node.files.worker(),
                names: names.worker(),
                oldest_write: Arc::clone(&oldest_write),
                inboxes: Arc::clone(&node.inboxes),
                events: teller.clone(),
            };
            match spawn(setup, core, tell_ready.clone()) {
                Ok(thread) => node.threads.push((shard, thread)),
                Err(error) => return Err(node.give_up(error)),
            }
        }
        drop(tell_ready);
        let node = node.wait_until_ready(&ready)?;
        if let Err(error) = watchdog::start(watched) {
            return Err(node.give_up(no_thread(error).into()));
        }
        Ok(node)
    }
}

impl NodeHandle {
    fn wait_until_ready(
        self,
        ready: &Receiver<Result<(), StartError>>,
    ) -> Result<Self, StartError> {
        for _ in 0..self.threads.len() {
            match ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(self.give_up(error)),
                // A thread ended before it could say anything: its executor could not be made.
                Err(_) => {
                    let error = "the executor could not be made".to_owned();
                    return Err(self.give_up(EnvironmentError::NoThread { error }.into()));
                }
            }
        }
        Ok(self)
    }

    /// Stops what has been started and makes the most of the reason.
    fn give_up(self, error: StartError) -> StartError {
        for inbox in self.inboxes.iter() {
            let _ = inbox.push(Message::Stop);
        }
        let mut error = error;
        for (_, thread) in self.threads {
            if let (Err(cause), StartError::Environment(EnvironmentError::NoThread { error })) =
                (thread.join(), &mut error)
            {
                *error = cause.to_string();
            }
        }
        self.files.stop();
        error
    }

    /// Asks the node to stop in good order; see [`NodeHandle::join`].
    pub fn drain(&self) {
        self.drainer().drain();
    }

    /// Something that can ask the same from another thread.
    pub fn drainer(&self) -> Drainer {
        Drainer { inboxes: Arc::clone(&self.inboxes) }
    }

    /// What the node has to tell. Ends when all shards have ended.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// The incarnation that runs.
    pub fn boot(&self) -> BootCounter {
        self.data.boot()
    }

    /// The data directory's uuid.
    pub fn uuid(&self) -> NodeUuid {
        self.data.node_uuid()
    }

    /// Waits until every shard has ended. The data directory is free again on return.
    ///
    /// # Errors
    /// If a shard ended because it could not go on.
    pub fn join(self) -> Result<(), StopError> {
        let mut outcome = Ok(());
        for (shard, thread) in self.threads {
            let end = match thread.join() {
                Ok(end) => end,
                Err(error) => End::Halted(format!("its thread died: {error}")),
            };
            if let (End::Halted(reason), true) = (end, outcome.is_ok()) {
                outcome = Err(StopError { shard, reason });
            }
            // A shard that ended alone takes the others with it: half a node helps nobody.
            for inbox in self.inboxes.iter() {
                let _ = inbox.push(if outcome.is_ok() { Message::Drain } else { Message::Stop });
            }
        }
        // Before the lock goes with `data`: whoever opens the directory next has it for itself.
        self.files.stop();
        outcome
    }
}

/// What one shard's thread is given.
struct Setup {
    shard: ShardId,
    config: Arc<NodeConfig>,
    sockets: Sockets,
    access: Access,
    directory: PathBuf,
    has_begun: bool,
    begun_path: PathBuf,
    uuid: NodeUuid,
    boot: BootCounter,
    run: RunId,
    pins: Pins,
    files: Worker,
    names: Worker,
    oldest_write: Arc<OldestWrite>,
    inboxes: Arc<Vec<Arc<Inbox<Message>>>>,
    events: SyncSender<Event>,
}

fn spawn(
    setup: Setup,
    core: Option<usize>,
    ready: SyncSender<Result<(), StartError>>,
) -> Result<ShardThread, StartError> {
    let placement = core.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&recover::shard_name(setup.shard))
        .io_memory(EXECUTOR_IO_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .preempt_timer(PREEMPT_TIMER)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .spawn(move || async move {
            match boot(setup) {
                Ok((core, sockets)) => serve(core, sockets, &ready).await,
                Err(error) => {
                    // The receiver waits for one answer from each shard.
                    let _ = ready.send(Err(error));
                    End::Stopped
                }
            }
        })
        .map_err(|error| EnvironmentError::NoThread { error: error.to_string() }.into())
}

/// Recovers the log and makes the shard. Blocks: nothing else runs on this thread yet.
fn boot(setup: Setup) -> Result<(Rc<Core>, Sockets), StartError> {
    let config = Arc::clone(&setup.config);
    let geometry = geometry(&config);
    geometry.check();
    let identity = Identity { cluster: config.cluster, node: setup.uuid, shard: setup.shard };
    let log = Log {
        directory: &setup.directory,
        access: setup.access,
        identity,
        geometry,
        may: may_be_empty(setup.has_begun),
    };
    let began = clock::now();
    let recover::Outcome { recovered, read_bytes } = recover::recover(&log)?;
    let recovery = clock::now().since(began);
    let teller = Teller::new(setup.shard, setup.events);
    if let Some(cut) = &recovered.cut {
        let what = format!(
            "the log ends at LSN {}: {}; {} blocks behind it, up to LSN {}, were never \
             acknowledged and are discarded",
            cut.lsn, cut.reason, cut.discarded_blocks, cut.discarded_until
        );
        teller.tell(EventKind::Cut { what });
    }
    let extents = config.arena_bytes_per_shard / BLOCK_BYTES_MAX;
    let arena = Arena::new(extents, BLOCK_BYTES_MAX);
    let disk_setup = DiskSetup {
        directory: setup.directory.clone(),
        access: setup.access,
        segment_bytes: geometry.segment_bytes,
        begin: (!setup.has_begun).then_some(setup.begun_path),
        worker: setup.files,
        oldest_write: setup.oldest_write,
        inbox: Arc::clone(&setup.inboxes[usize::from(setup.shard.get())]),
    };
    let disk =
        Disk::new(disk_setup, &arena).map_err(|error| EnvironmentError::NoIoUring { error })?;
    let facts =
        WorldFacts { registered: disk.registered().buffers, buffered: !setup.access.is_direct() };
    teller.tell(EventKind::Serving {
        registered: facts.registered,
        direct: !facts.buffered,
        recovered_bytes: read_bytes,
        recovery,
    });
    let seed = random_seed()?;
    let own_facts = (setup.uuid, setup.boot);
    let shard_config = shard_config(&config, setup.shard, own_facts, (geometry, facts, seed));
    let core = Core::new(Parts {
        id: setup.shard,
        own: Own {
            uuid: setup.uuid,
            boot: setup.boot,
            run: setup.run,
            pins: setup.pins,
            names: setup.names,
        },
        shard: Shard::boot(shard_config, recovered, clock::now()),
        arena,
        disk,
        inboxes: setup.inboxes,
        teller,
        seed: seed ^ 1,
        listeners: setup.sockets.duplicates().map_err(|error| EnvironmentError::NoThread {
            error: format!("no descriptor is left: {error}"),
        })?,
        config,
    });
    Ok((core, setup.sockets))
}

/// Runs the tasks of a shard until it ends.
async fn serve(
    core: Rc<Core>,
    sockets: Sockets,
    ready: &SyncSender<Result<(), StartError>>,
) -> End {
    let listening = sockets.listen();
    let (clients, peers) = match listening {
        Ok(listeners) => listeners,
        Err(error) => {
            let _ = ready.send(Err(error.into()));
            return End::Stopped;
        }
    };
    glommio::spawn_local(Rc::clone(&core).read_inbox()).detach();
    glommio::spawn_local(Rc::clone(&core).watch_device()).detach();
    glommio::spawn_local(Rc::clone(&core).tick()).detach();
    glommio::spawn_local(clients::accept(Rc::clone(&core), clients)).detach();
    glommio::spawn_local(peers::accept(Rc::clone(&core), peers)).detach();
    for peer in core.config.peers().filter(|peer| core.config.node < peer.id) {
        for lane in [Lane::Control, Lane::Bulk] {
            glommio::spawn_local(peers::dial(Rc::clone(&core), peer.clone(), lane)).detach();
        }
    }
    core.input(Input::Tick);
    let _ = ready.send(Ok(()));
    let end = core.run().await;
    core.shut_down().await;
    end
}

/// Sizes of the log. The segment size is for ever; the rest may differ from start to start.
pub(super) fn geometry(config: &NodeConfig) -> Geometry {
    let segment_bytes = tape::segment_bytes().unwrap_or(Geometry::PRODUCTION.segment_bytes);
    let window = WINDOW_BYTES_MAX.min(config.arena_bytes_per_shard / 4).max(BLOCK_BYTES_MAX);
    Geometry {
        segment_bytes,
        in_flight_bytes_max: (window as u64).min(segment_bytes / 2),
        writes_in_flight_max: WINDOW_WRITES_MAX.max(config.writes_in_flight),
        ..Geometry::PRODUCTION
    }
}

fn shard_config(
    config: &NodeConfig,
    shard: ShardId,
    (uuid, boot): (NodeUuid, BootCounter),
    (geometry, facts, seed): (Geometry, WorldFacts, u64),
) -> ShardConfig {
    let mut nodes: Vec<_> = config
        .nodes
        .iter()
        .map(|node| crate::shard::NodeAddress {
            node: node.id,
            host: node.host.clone(),
            client_port_base: node.client_port_base,
        })
        .collect();
    nodes.sort_by_key(|node| node.node);
    ShardConfig {
        cluster: config.cluster,
        node: config.node,
        uuid,
        boot,
        shard,
        shard_count: config.shards,
        nodes,
        group_count: config.groups,
        geometry,
        timing: config.timing,
        block_target_bytes: config.block_target_bytes as usize,
        uncommitted_bytes_max: config.uncommitted_bytes_per_shard,
        connection_bytes_max: config.connection_bytes as u64,
        device_writes_max: config.writes_in_flight,
        direct_frame_bytes_min: DIRECT_FRAME_BYTES_MIN,
        peer_credit_bytes: config.peer_credit_bytes,
        retention: RetentionLimits {
            bytes_per_group: config.retention_bytes_per_group,
            records_per_group: config.retention_records_per_group,
        },
        facts,
        segments_ahead: u64::from(config.segments_ahead.max(1)),
        segments_at_start: u64::from(config.segments_at_start),
        seed,
    }
}

fn random_seed() -> Result<u64, StartError> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)
        .map_err(|error| EnvironmentError::NoThread { error: format!("no randomness: {error}") })?;
    Ok(u64::from_ne_bytes(seed))
}

/// The two sockets of a shard, bound before its log is recovered, so that a port in use is known
/// at once, and listening only afterwards, so that nobody waits for a shard that is not there.
struct Sockets {
    clients: Socket,
    peers: Socket,
    addresses: [SocketAddr; 2],
}

impl Sockets {
    fn bind(config: &NodeConfig, shard: ShardId) -> Result<Self, EnvironmentError> {
        let own = config.own_address();
        let addresses = [own.client_port_base, own.peer_port_base]
            .map(|base| SocketAddr::new(config.bind, port_of(base, shard)));
        Ok(Self {
            clients: bind_soon(addresses[0]).map_err(in_use(addresses[0], "clients"))?,
            peers: bind_soon(addresses[1]).map_err(in_use(addresses[1], "peers"))?,
            addresses,
        })
    }

    /// Second descriptors, to end the accepts with.
    fn duplicates(&self) -> std::io::Result<Vec<Socket>> {
        Ok(vec![self.clients.try_clone()?, self.peers.try_clone()?])
    }

    fn listen(self) -> Result<(TcpListener, TcpListener), EnvironmentError> {
        let Self { clients, peers, addresses } = self;
        clients.listen(BACKLOG).map_err(in_use(addresses[0], "clients"))?;
        peers.listen(BACKLOG).map_err(in_use(addresses[1], "peers"))?;
        Ok((hand_over(clients), hand_over(peers)))
    }
}

fn in_use(
    address: SocketAddr,
    purpose: &'static str,
) -> impl FnOnce(std::io::Error) -> EnvironmentError {
    move |error| EnvironmentError::PortInUse { address: address.to_string(), purpose, error }
}

/// Binds, with patience: the kernel takes down the rings of a killed process after the process is
/// gone, and the sockets that they held with them, some milliseconds later. A supervisor that
/// restarts a node at once must not hear that its own port is in use.
fn bind_soon(address: SocketAddr) -> std::io::Result<Socket> {
    let mut pauses = PORT_PATIENCE.as_millis() / PORT_PAUSE.as_millis();
    loop {
        match bind(address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && pauses > 0 => {
                #[expect(clippy::disallowed_methods, reason = "no shard runs yet")]
                std::thread::sleep(PORT_PAUSE);
                pauses -= 1;
            }
            bound => return bound,
        }
    }
}

/// Without SO_REUSEPORT, which the executor's own bind would set: two nodes could then share a
/// port without noticing.
fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart does not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn hand_over(socket: Socket) -> TcpListener {
    use std::os::fd::{FromRawFd, IntoRawFd};

    #[expect(unsafe_code, reason = "the only way to give the executor a socket of ours")]
    // SAFETY: the socket listens and nobody else owns the descriptor.
    unsafe {
        TcpListener::from_raw_fd(socket.into_raw_fd())
    }
}

/// Descriptors are cheap and connections many: take what the system lets us have. If it does not,
/// connections beyond the limit wait in the backlog.
fn raise_file_limit() {
    #[expect(unsafe_code, reason = "std has no resource limits")]
    // SAFETY: both calls get a pointer to a live value of ours.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
