//! Clients that mean no good, or are broken: those who never read, those who trickle, those who say
//! nothing at all, and those who talk nonsense. The others must hardly notice, memory must stay
//! within its budget, and the counters must tell the story.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use catamaran::base::Prng;
use catamaran::wire::client::{encode_metadata, encode_status};

use crate::cluster::CLIENT_PORT;
use crate::load::{Load, Shape, percentile};
use crate::memory;
use crate::progress::Progress;
use crate::raw::{Raw, hello};
use crate::report::Report;
use crate::site::{Balance, Site, rest};
use crate::system;

/// Descriptors of everything here, the nodes' ends counted in their own processes.
const OPEN_FILES: u64 = 65_536;
/// What is left to everything else.
const OPEN_FILES_SPARE: u64 = 256;
/// Enough for those who stay; those who never say hello are more than this.
const CONNECTIONS_MAX: u32 = 2_048;
const SHAPE: Shape = Shape { writers: 8, per_second: 800, record_bytes: 200 };
const BEFORE: Duration = Duration::from_secs(6);
const SETTLE: Duration = Duration::from_secs(1);
const RATIO: f64 = 1.3;
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// How often those who never read ask: it is their not reading that is tried, not their asking.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Each thread's pause after a walk over its connections.
const WALK_PAUSE: Duration = Duration::from_millis(20);
/// Connections made in one walk: an attack, but one that leaves a processor to the attacked.
const CONNECTS_PER_WALK: usize = 40;

/// Kinds of misbehaviour, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Asks, and never reads an answer.
    NeverReads,
    /// Says hello, then a byte a second.
    Trickles,
    /// Connects, and says nothing, or half a hello.
    HalfOpen,
    /// Sends random bytes, and comes again.
    Garbage,
}

impl Kind {
    const ALL: [Self; 4] = [Self::NeverReads, Self::Trickles, Self::HalfOpen, Self::Garbage];

    fn name(self) -> &'static str {
        match self {
            Self::NeverReads => "clients that never read",
            Self::Trickles => "clients that trickle",
            Self::HalfOpen => "half-open handshakes",
            Self::Garbage => "random garbage",
        }
    }

    /// How many connections at once.
    fn connections(self, scale: f64) -> usize {
        let many = match self {
            Self::NeverReads | Self::Trickles => 1_000.0,
            Self::HalfOpen => 20_000.0,
            Self::Garbage => 50.0,
        };
        crate::human::whole((many * scale).max(1.0)).try_into().unwrap_or(usize::MAX)
    }

    /// The counter that must tell of it, if nodes are to do something about it within the time.
    fn counter(self, connections: usize, time: Duration) -> Option<&'static str> {
        match self {
            Self::NeverReads => {
                // Few, or for a short time, may lie unread: an answer has about 3 KB.
                let answers = connections as f64 * time.as_secs_f64() / ASK_EVERY.as_secs_f64();
                let unread = answers * 2_000.0 / 3.0;
                (unread > 2.0 * memory::UNREAD_BYTES as f64).then_some("client_cut_unread")
            }
            Self::Trickles => None,
            Self::HalfOpen => Some("client_strangers"),
            Self::Garbage => Some("client_malformed"),
        }
    }
}

/// One hostile crowd at work.
struct Crowd {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Crowd {
    fn start(kind: Kind, nodes: &[Ipv4Addr], connections: usize) -> Self {
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop_seen, open_told) = (Arc::clone(&stop), Arc::clone(&open));
        let nodes = nodes.to_vec();
        let thread = std::thread::spawn(move || {
            misbehave(kind, &nodes, connections, &stop_seen, &open_told);
        });
        Self { stop, open, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic there has been reported; it is the hostile side that lost something.
        let _ = self.thread.join();
    }
}

pub(crate) fn run(
    dir: &std::path::Path,
    time: Duration,
    scale: f64,
    progress: &mut Progress,
) -> Result<Report, String> {
    let mut report = Report::new("hostile");
    let files = system::raise_open_files(OPEN_FILES);
    let most = usize::try_from(files.saturating_sub(OPEN_FILES_SPARE)).unwrap_or(usize::MAX);
    let mut site = Site::open(dir, &memory::settings(CONNECTIONS_MAX))?;
    let addresses: Vec<Ipv4Addr> = site.nodes.all().map(|node| site.nodes.ip(node)).collect();
    let load = Load::start(&site.nodes, SHAPE)?;
    rest(SETTLE)?;
    let from = load.now();
    rest(BEFORE)?;
    let before = percentile(&mut load.latencies(from, load.now()), 99) as f64 / 1e3;
    report.fact("p99 before", before, "ms");
    let elections = site.sum("elections_won")?;
    for kind in Kind::ALL {
        let wanted = kind.connections(scale);
        let connections = wanted.min(most);
        if connections < wanted {
            report.note(format!("{}: {connections}, for want of open files", kind.name()));
        }
        let name = kind.counter(connections, time);
        let counter = name.map(|name| site.sum(name)).transpose()?;
        let crowd = Crowd::start(kind, &addresses, connections);
        rest(SETTLE)?;
        let from = load.now();
        let mut open = 0;
        let until = Instant::now() + time;
        while Instant::now() < until {
            rest(Duration::from_millis(250))?;
            open = open.max(crowd.open.load(Ordering::Relaxed));
            progress.now(|| format!("{}: {open}", kind.name()));
        }
        let p99 = percentile(&mut load.latencies(from, load.now()), 99) as f64 / 1e3;
        crowd.end();
        report.fact(format!("{}, at once", kind.name()), open as f64, "connections");
        report.at_most(format!("{}, p99 against before", kind.name()), (p99 / before, RATIO), "x");
        if let (Some(name), Some(counted)) = (name, counter) {
            // What the world counts reaches the shard with the next tick.
            rest(Duration::from_millis(500))?;
            let more = site.sum(name)? - counted;
            report.at_least(format!("{}, {name}", kind.name()), (more as f64, 1.0), "");
        }
        rest(SETTLE)?;
    }
    let names = ["client_cut_late", "client_cut_evicted", "client_turned_away"];
    for name in names.into_iter().chain(["client_cut_unfinished", "client_paused"]) {
        report.fact(name, site.sum(name)? as f64, "");
    }
    let rss = memory::peak_mib(&site)?;
    report.at_most("peak resident memory of a node", (rss, memory::peak_mib_max()), "MiB");
    let more = site.sum("elections_won")? - elections;
    report.at_most("elections", (more as f64, 0.0), "");
    let ledger = load.finish()?;
    let audit = site.settle(&ledger, progress)?;
    let mut balance = Balance::default();
    balance.add(&ledger, &audit);
    balance.report(&mut report);
    Ok(report)
}

/// One connection of a crowd, and what it still has to do.
struct Stranger {
    raw: Raw,
    /// What trickles, and how much of it is out.
    trickle: Vec<u8>,
    sent: usize,
    next: Instant,
}

/// Keeps so many connections open, each misbehaving in its way, until it is told to stop.
fn misbehave(
    kind: Kind,
    nodes: &[Ipv4Addr],
    connections: usize,
    stop: &AtomicBool,
    open: &AtomicU64,
) {
    let mut prng = Prng::new(connections as u64);
    let mut crowd: Vec<Stranger> = Vec::new();
    let mut made = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        crowd.retain(|stranger| !stranger.raw.is_closed());
        let missing = connections.saturating_sub(crowd.len());
        for _ in 0..missing.min(CONNECTS_PER_WALK) {
            let node = nodes[made % nodes.len()];
            // A source of its own for every thousand: ports are few, loopback addresses many.
            let source = 1 + u8::try_from(made / 1_000 % 200).expect("below 200");
            made += 1;
            let to = SocketAddrV4::new(node, CLIENT_PORT);
            let source = Ipv4Addr::new(127, 0, 0, source);
            let raw = Raw::connect_with(to, source, CONNECT_PATIENCE, |socket| match kind {
                // What is not read is to lie at the node, and not in our socket.
                Kind::NeverReads => socket.set_recv_buffer_size(4096),
                Kind::Trickles | Kind::HalfOpen | Kind::Garbage => Ok(()),
            });
            if let Ok(raw) = raw {
                crowd.extend(greet(kind, raw, made));
            }
        }
        for stranger in &mut crowd {
            stranger.go_on(kind, &mut prng);
        }
        open.store(crowd.len() as u64, Ordering::Relaxed);
        std::thread::sleep(WALK_PAUSE);
    }
}

/// The first words of a new connection, if it survives them.
fn greet(kind: Kind, mut raw: Raw, number: usize) -> Option<Stranger> {
    let mut trickle = Vec::new();
    let first = hello();
    match kind {
        Kind::NeverReads => drop(raw.send(&first).ok()?),
        Kind::Trickles => {
            raw.send(&first).ok()?;
            encode_metadata(&mut trickle, 1);
        }
        // Every other one begins and stops in the middle.
        Kind::HalfOpen if number.is_multiple_of(2) => drop(raw.send(&first[..20]).ok()?),
        Kind::HalfOpen | Kind::Garbage => {}
    }
    Some(Stranger { raw, trickle, sent: 0, next: Instant::now() })
}

impl Stranger {
    /// Does what it does next. A broken connection is found by the next walk.
    fn go_on(&mut self, kind: Kind, prng: &mut Prng) {
        match kind {
            Kind::NeverReads if self.next <= Instant::now() => {
                // A short question with a long answer.
                let mut question = Vec::new();
                encode_status(&mut question, 1);
                let _ = self.raw.send(&question);
                self.next += ASK_EVERY;
            }
            Kind::Trickles if self.next <= Instant::now() => {
                let at = self.sent % self.trickle.len();
                self.sent += self.raw.send(&self.trickle[at..=at]).unwrap_or(0);
                self.next += Duration::from_secs(1);
            }
            Kind::Garbage => {
                let bytes: Vec<u8> = (0..prng.between(1, 512))
                    .map(|_| u8::try_from(prng.below(256)).expect("below 256"))
                    .collect();
                let _ = self.raw.send(&bytes);
            }
            Kind::NeverReads | Kind::Trickles | Kind::HalfOpen => {}
        }
    }
}
