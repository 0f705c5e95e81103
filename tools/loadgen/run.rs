//! One run from beginning to end: cluster, load, account, result.
//!
//! The order is the point: everything that takes time without being measured (segments, elections,
//! reading back, the device's ceiling) happens before the clock starts or after it has stopped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use catamaran::model::limits::DEVICE_ALIGN_BYTES;
use catamaran::runtime::probe::{self, ProbeResult};
use catamaran::wire::client::Consistency;

use crate::args::{Embedded, Load, Mode, Plan, Rate, Target};
use crate::audit::Verdict;
use crate::budget;
use crate::cluster::Cluster;
use crate::control::{Control, Topology};
use crate::engine::{Early, Engine, Orders, Outcome, Place, Work};
use crate::failure::{Exit, Failure};
use crate::human::{self, byte_size, grouped, seconds};
use crate::machine;
use crate::meter::{Live, Meter};
use crate::payload::Payload;
use crate::progress::Progress;
use crate::report::{Judgement, Latency, Memory, Report, RunConfig};
use crate::sample::Sample;
use crate::verify;

/// Until every group has a leader.
const LEADERS_PATIENCE: Duration = Duration::from_secs(30);
/// Until an embedded node listens: it has nothing to recover.
const PORTS_PATIENCE: Duration = Duration::from_secs(30);
/// Without one more segment for this long, the disk is not worth waiting for.
const SEGMENTS_PATIENCE: Duration = Duration::from_secs(60);
/// Records that reads may choose from, per group at least one.
const PREFILL_RECORDS: u64 = 2_000;
/// How long the device is measured: to know how much log a closed loop may write, and for the
/// ceiling that the result is compared with.
const PROBE_SHORT: Duration = Duration::from_millis(300);
const PROBE_LONG: Duration = Duration::from_secs(1);
/// Block size and depth of the first of the two: what a loaded node writes.
const PROBE_BLOCK_BYTES: usize = 256 << 10;
const PROBE_DEPTH: u32 = 4;
/// A generator that sends later than this is behind: its own delay is no longer small beside
/// what it measures.
const BEHIND_US: f64 = 20_000.0;

/// A cluster that is ready for load.
struct Stage {
    cluster: Option<Cluster>,
    control: Control,
    load: Load,
    shortened: Option<String>,
    /// Where the logs are, if they are here.
    dir: Option<PathBuf>,
}

/// What was measured.
struct Measured {
    outcome: Outcome,
    before: Sample,
    after: Sample,
}

/// Does what the plan says; returns the result to be printed.
///
/// # Errors
/// Whatever kept the run from its end. Lost or duplicated records are no error here: the report
/// says so in its verdict.
pub(crate) fn run(plan: &Plan) -> Result<Report, Failure> {
    crate::system::remember_signals();
    let mut progress = Progress::new();
    let run = draw_run_id()?;
    let mut stage = set_stage(plan, run, &mut progress)?;
    let load = stage.load;
    let routes = stage.control.wait_for_leaders(LEADERS_PATIENCE)?;
    let payload = Payload::new(run, load.record_bytes, load.records_per_request);
    let orders = Orders {
        topology: stage.control.topology().clone(),
        routes,
        load,
        work: Work::Append,
        payload: payload.clone(),
        requests: None,
        live: Arc::new(Live::default()),
    };
    let work = prepare(&orders, &mut progress)?;
    let orders = Orders { work, ..orders };
    let measured = measure(orders, &mut stage, &mut progress)?;
    let Measured { mut outcome, before, after } = measured;
    let ledger = std::mem::replace(&mut outcome.ledger, crate::ledger::Ledger::new(0));
    let (acked, unknown) = (ledger.acked(), ledger.unknown());
    let verdict = if plan.verify {
        let read = |records| progress.now(|| format!("read back {}", grouped(records)));
        let mut read = read;
        Some(verify::verify(&mut stage.control, &payload, ledger, &mut read)?)
    } else {
        None
    };
    let memory = peak_memory(stage.cluster.as_ref());
    let (mut ceiling, mut write_4k_us_p50) = (None, None);
    if let (Some(cluster), Target::Embedded(embedded)) = (stage.cluster.take(), &plan.target) {
        progress.now(|| "stopping the nodes".to_owned());
        let depth = cluster.writes_in_flight;
        if let Err(failure) = cluster.stop() {
            progress.note(&failure.line);
            outcome.stopped_badly = true;
        }
        if load.mode == Mode::Append {
            progress.now(|| "measuring what the device can do".to_owned());
            let device = after.device_since(&before, 0, load.mode);
            ceiling = Some(probe(embedded, device.block_bytes(), depth, PROBE_LONG)?.bytes_per_s);
            if load.requests_in_flight() == 1 {
                let probe = probe(embedded, DEVICE_ALIGN_BYTES, 1, PROBE_LONG)?;
                write_4k_us_p50 = Some(probe.latency_us.p50);
            }
        }
    }
    let facts = Facts {
        plan,
        load,
        outcome,
        before,
        after,
        acked,
        unknown,
        verdict,
        memory,
        ceiling,
        write_4k_us_p50,
    };
    Ok(facts.report(&stage))
}

fn draw_run_id() -> Result<u64, Failure> {
    getrandom::u64()
        .map_err(|error| Failure::new(Exit::Environment, format!("no randomness: {error}")))
}

fn set_stage(plan: &Plan, run: u64, progress: &mut Progress) -> Result<Stage, Failure> {
    match &plan.target {
        Target::Connect(addresses) => {
            let topology = Topology::discover(addresses, plan.load.groups)?;
            let control = Control::new(topology);
            Ok(Stage { cluster: None, control, load: plan.load, shortened: None, dir: None })
        }
        Target::Embedded(embedded) => set_embedded_stage(plan, embedded, run, progress),
    }
}

fn set_embedded_stage(
    plan: &Plan,
    embedded: &Embedded,
    run: u64,
    progress: &mut Progress,
) -> Result<Stage, Failure> {
    let (nodes, shards) = (embedded.nodes, embedded.shards);
    let device = match plan.load.rate {
        // A timetable says by itself how much will be written.
        Rate::PerSecond(_) => f64::INFINITY,
        Rate::Max => {
            progress.now(|| "measuring the device".to_owned());
            let probe = probe(embedded, PROBE_BLOCK_BYTES, PROBE_DEPTH, PROBE_SHORT)?;
            probe.bytes_per_s
        }
    };
    let free = crate::system::free_bytes(&embedded.dir).ok_or_else(|| {
        Failure::new(
            Exit::Environment,
            format!("cannot look at {}: choose another with --dir", embedded.dir.display()),
        )
    })?;
    let (load, shortened) = budget::fit(plan.load, nodes, shards, device, free)
        .map_err(|line| Failure::new(Exit::Environment, line))?;
    if let Some(line) = &shortened {
        progress.note(line);
    }
    let need = budget::need(&load, nodes, shards, device);
    let mut cluster = Cluster::start(embedded, &need, run)?;
    cluster.wait_for_ports(PORTS_PATIENCE)?;
    cluster.wait_for_segments(need.segments_per_shard, SEGMENTS_PATIENCE, &mut |bytes| {
        progress.now(|| {
            format!(
                "preparing log files: {} of {}",
                byte_size(bytes as f64),
                byte_size(need.bytes as f64)
            )
        });
    })?;
    let topology = Topology::discover(&cluster.addresses(), None)?;
    let dir = Some(embedded.dir.clone());
    let control = Control::new(topology);
    Ok(Stage { cluster: Some(cluster), control, load, shortened, dir })
}

/// Measures the device below the logs with as many writers as there are logs.
fn probe(
    embedded: &Embedded,
    block_bytes: usize,
    depth: u32,
    duration: Duration,
) -> Result<ProbeResult, Failure> {
    let logs = u32::from(embedded.nodes) * u32::from(embedded.shards);
    let load = probe::Load {
        block_bytes,
        depth: depth.min(probe::DEPTH_MAX),
        writers: logs.min(probe::WRITERS_MAX),
        duration,
        allow_buffered: embedded.allow_buffered,
    };
    probe::ceiling(&embedded.dir, &load).map_err(|error| {
        Failure::new(Exit::from_child(error.exit_code().code()), error.to_string())
    })
}

/// For reads: appends the records that will be read, one in flight per group, so that each
/// becomes a batch of its own and a read of one record reads one record.
fn prepare(orders: &Orders, progress: &mut Progress) -> Result<Work, Failure> {
    let consistency = match orders.load.mode {
        Mode::Append => return Ok(Work::Append),
        Mode::ReadIndex => Consistency::Linearizable,
        Mode::ReadStale => Consistency::Stale,
    };
    let groups = orders.topology.groups.len();
    progress.now(|| "appending the records to be read".to_owned());
    let inflight = u32::try_from(groups).expect("GROUPS_MAX is small");
    let load = Load {
        rate: Rate::Max,
        mode: Mode::Append,
        inflight,
        connections: orders.load.connections.min(inflight),
        warmup: Duration::ZERO,
        duration: Duration::from_secs(120),
        ..orders.load
    };
    let prefill = Orders {
        topology: orders.topology.clone(),
        routes: orders.routes.clone(),
        load,
        work: Work::Append,
        payload: orders.payload.clone(),
        requests: Some(PREFILL_RECORDS.max(groups as u64)),
        live: Arc::new(Live::default()),
    };
    let outcome = Engine::new(prefill)?.run()?;
    let mut places = vec![Vec::new(); groups];
    for (group, account) in outcome.ledger.into_accounts().into_iter().enumerate() {
        for run in account.runs {
            places[group].extend(
                (0..u64::from(run.count))
                    .map(|nth| Place { index: run.index + nth, number: run.number + nth }),
            );
        }
    }
    if places.iter().any(Vec::is_empty) {
        return Err(Failure::new(
            Exit::CheckFailed,
            "a group took no record to be read later: look at the nodes' logs",
        ));
    }
    Ok(Work::Read { consistency, places })
}

/// Runs the load on its own thread; samples the nodes when the window opens and closes.
fn measure(
    orders: Orders,
    stage: &mut Stage,
    progress: &mut Progress,
) -> Result<Measured, Failure> {
    let processes = stage.cluster.as_ref().map(Cluster::processes).unwrap_or_default();
    let (load, live) = (orders.load, Arc::clone(&orders.live));
    let mut engine = Engine::new(orders)?;
    let start = engine.start_now();
    let running = thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || engine.run())
        .map_err(|error| Failure::io("cannot start a thread", &error))?;
    let mut before = None;
    let mut after = None;
    let mut last = (Instant::now(), 0);
    while !running.is_finished() {
        let elapsed = start.elapsed();
        if before.is_none() && elapsed >= load.warmup {
            before = Some(Sample::take(&mut stage.control, &processes));
        }
        let over = elapsed >= load.warmup + load.duration || live.ended.load(Ordering::Relaxed);
        if after.is_none() && before.is_some() && over {
            after = Some(Sample::take(&mut stage.control, &processes));
        }
        if last.0.elapsed() >= Duration::from_millis(500) {
            let records = live.records.load(Ordering::Relaxed);
            let rate = (records - last.1) as f64 / last.0.elapsed().as_secs_f64();
            last = (Instant::now(), records);
            progress.now(|| line(&load, elapsed, rate, &live));
        }
        if let Some(cluster) = &mut stage.cluster {
            cluster.check()?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let outcome = running.join().expect("the engine does not panic")?;
    let after = after.unwrap_or_else(|| Sample::take(&mut stage.control, &processes));
    let before = before.unwrap_or_else(|| after.clone());
    Ok(Measured { outcome, before, after })
}

fn line(load: &Load, elapsed: Duration, rate: f64, live: &Live) -> String {
    let whole = load.warmup + load.duration;
    let phase = if elapsed < load.warmup { "warming up" } else { "measuring" };
    format!(
        "{phase} {} of {}: {} records/s, {} requests outstanding, {} errors",
        seconds(Duration::from_secs(elapsed.min(whole).as_secs())),
        seconds(whole),
        grouped(human::whole(rate)),
        grouped(live.outstanding.load(Ordering::Relaxed)),
        grouped(live.errors.load(Ordering::Relaxed)),
    )
}

fn peak_memory(cluster: Option<&Cluster>) -> Memory {
    let peak = |process: u32| machine::peak_resident_bytes(process).unwrap_or(0);
    let nodes = cluster.map(Cluster::processes).unwrap_or_default();
    Memory { nodes: nodes.into_iter().map(peak).collect(), loadgen: peak(std::process::id()) }
}

/// Everything the report is made from.
struct Facts<'a> {
    plan: &'a Plan,
    load: Load,
    outcome: Outcome,
    before: Sample,
    after: Sample,
    acked: u64,
    unknown: u64,
    verdict: Option<Verdict>,
    memory: Memory,
    ceiling: Option<f64>,
    write_4k_us_p50: Option<f64>,
}

impl Facts<'_> {
    fn report(self, stage: &Stage) -> Report {
        let Self {
            plan,
            load,
            outcome,
            before,
            after,
            acked,
            unknown,
            verdict,
            memory,
            ceiling,
            write_4k_us_p50,
        } = self;
        let meter = &outcome.meter;
        let window = outcome.end.saturating_sub(load.warmup);
        let seconds = window.as_secs_f64().max(1e-3);
        let window_bytes = meter.records_in_window * u64::from(load.record_bytes);
        let nodes = stage.control.topology().nodes.len();
        let mut device = after.device_since(&before, window_bytes, load.mode);
        device.compare(ceiling, window_bytes as f64 / seconds * nodes as f64);
        device.write_4k_us_p50 = write_4k_us_p50;
        device.latency_ratio = write_4k_us_p50
            .filter(|write| *write > 0.0)
            .map(|write| (meter.quantile_us(0.5) / write * 100.0).round() / 100.0);
        let late_us_max = crate::meter::us(meter.late_ns_max);
        let buffered = after.any_flag("buffered");
        let at = human::seconds(outcome.end);
        let early = outcome.early.map(|early| format!("ended after {at}: {early}"));
        let shortened = early.or_else(|| stage.shortened.clone());
        let reads = load.mode != Mode::Append;
        Report {
            format: 1,
            verdict: judge(verdict.as_ref(), &outcome),
            mode: load.mode,
            acked_per_s: meter.records_in_window as f64 / seconds,
            record_bytes_per_s: window_bytes as f64 / seconds,
            intended_rate: match load.rate {
                Rate::Max => None,
                Rate::PerSecond(rate) => Some(rate),
            },
            latency_us: latency(meter),
            late_us_max,
            unsent: outcome.unsent,
            behind: load.rate != Rate::Max && (outcome.unsent > 0 || late_us_max > BEHIND_US),
            errors: meter.errors().clone(),
            unknown,
            refused: outcome.refused,
            acked: if reads { meter.records } else { acked },
            verified: verdict.map(|verdict| verdict.verified),
            lost: verdict.map(|verdict| verdict.lost),
            duplicated: verdict.map(|verdict| verdict.duplicated),
            phantom: verdict.map(|verdict| verdict.phantom),
            unknown_present: verdict.map(|verdict| verdict.unknown_present),
            wrong: meter.wrong,
            durability: durability(load.mode, buffered, nodes),
            cpu_cores: after.cpu_since(&before),
            rss_bytes: memory,
            device,
            copies: after.copies_since(&before),
            stages: crate::stages::stages(&before, &after),
            registered: after.flag("registered"),
            buffered,
            shortened,
            measured_s: (seconds * 1e3).round() / 1e3,
            config: run_config(plan, &load, stage.control.topology()),
            machine: machine::machine(stage.dir.as_deref()),
            commit: machine::commit(),
        }
    }
}

fn latency(meter: &Meter) -> Latency {
    Latency {
        mean: (meter.latency_us_mean() * 10.0).round() / 10.0,
        p50: meter.quantile_us(0.5),
        p90: meter.quantile_us(0.9),
        p99: meter.quantile_us(0.99),
        p999: meter.quantile_us(0.999),
        max: meter.latency_us_max(),
    }
}

fn judge(verdict: Option<&Verdict>, outcome: &Outcome) -> Judgement {
    if verdict.is_some_and(|verdict| !verdict.is_good()) {
        return Judgement::Failed("acknowledged records were lost, duplicated or changed");
    }
    if outcome.meter.wrong > 0 {
        return Judgement::Failed("reads returned something else than what was written");
    }
    if outcome.stopped_badly {
        return Judgement::Failed("a node did not stop in good order when asked to");
    }
    match outcome.early {
        Some(Early::Stopped) => Judgement::Stopped,
        Some(Early::Refused(_)) => Judgement::Failed("a node refused the load for good"),
        // A shorter run than asked for, and the report says so, but a whole account.
        Some(Early::LedgerFull) | None => Judgement::Ok,
    }
}

fn durability(mode: Mode, buffered: Option<bool>, nodes: usize) -> String {
    let majority = nodes / 2 + 1;
    let medium = match buffered {
        Some(false) => "on their disks (O_DIRECT, RWF_DSYNC)",
        Some(true) => "in their PAGE CACHES: not durable",
        None => "on their disks, says the protocol",
    };
    match mode {
        Mode::Append => format!("acknowledged by {majority} of {nodes} nodes {medium}"),
        Mode::ReadIndex => {
            format!("a round to {majority} of {nodes} nodes per read or group of reads")
        }
        Mode::ReadStale => "one node, no round".to_owned(),
    }
}

fn run_config(plan: &Plan, load: &Load, topology: &Topology) -> RunConfig {
    let (cluster, profile) = match &plan.target {
        Target::Embedded(embedded) => ("embedded", embedded.profile.clone()),
        Target::Connect(_) => ("connect", None),
    };
    RunConfig {
        rate: match load.rate {
            Rate::Max => "max".to_owned(),
            Rate::PerSecond(rate) => rate.to_string(),
        },
        record_bytes: load.record_bytes,
        records_per_request: load.records_per_request,
        connections: load.connections,
        inflight_records: load.inflight,
        warmup_s: load.warmup.as_secs_f64(),
        duration_s: load.duration.as_secs_f64(),
        nodes: topology.nodes.len(),
        shards: topology.shards,
        groups: topology.groups.len(),
        cluster,
        profile,
        verify: plan.verify,
    }
}

/// Writes the JSON to where it was asked for; `-` is the caller's business.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_json(path: &Path, report: &Report) -> Result<(), Failure> {
    std::fs::write(path, report.json()).map_err(|error| Failure::io(path.display(), &error))
}
