//! Nodes that start with a long log: how fast they read it, and what memory that takes.
//!
//! The log is written by a flood of small records, all nodes are stopped, and each is then started
//! alone, so that it has the device and the processors to itself. The same files are read plainly
//! before that, for comparison. Reads bypass the page cache in both cases, so nothing is warm.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use catamaran::base::Arena;

use crate::flood::{Flood, Pace};
use crate::memory;
use crate::progress::Progress;
use crate::report::Report;
use crate::site::{Site, go_on};

const CONNECTIONS: usize = 64;
/// Requests on their way on each connection.
const WINDOW: u64 = 256;
/// How long the flood may be at it, in runs of one second: ten minutes.
const FLOODS_MAX: u32 = 600;
const MEGABYTE: f64 = 1e6;
/// One plain read.
const READ_BYTES: usize = 1 << 20;
/// What a core must recover, in MB/s.
const RATE_MIN: f64 = 800.0;

/// What a node says of its start.
struct Start {
    bytes: u64,
    milliseconds: u64,
    ready: Duration,
}

pub(crate) fn run(dir: &Path, log_bytes: u64, progress: &mut Progress) -> Result<Report, String> {
    let mut report = Report::new("cold-start");
    let mut site = Site::open(dir, &memory::settings(1024))?;
    write_log(&site, log_bytes, progress)?;
    site.stop()?;
    let (mut slowest, mut share, mut peak) = (f64::MAX, f64::MAX, 0.0_f64);
    for node in site.nodes.all() {
        progress.now(|| format!("reading the log of node {node} plainly"));
        let plain = read_plainly(&site.nodes.shard_dir(node))?;
        progress.now(|| format!("node {node} starts"));
        let start = start_alone(&mut site, node, log_bytes)?;
        let rate = start.bytes as f64 / MEGABYTE / (start.milliseconds.max(1) as f64 / 1e3);
        report.fact(format!("node {node}: log read"), start.bytes as f64 / MEGABYTE, "MB");
        report.fact(format!("node {node}: rate"), rate, "MB/s");
        report.fact(format!("node {node}: the same files read plainly"), plain, "MB/s");
        report.fact(format!("node {node}: ready after"), start.ready.as_secs_f64(), "s");
        slowest = slowest.min(rate);
        share = share.min(rate / plain);
        peak = peak.max(memory::peak_mib(&site)?);
        site.nodes.kill(node)?;
    }
    report.at_least("slowest recovery on one core", (slowest, RATE_MIN), "MB/s");
    report.fact("least share of a plain read", share, "");
    report.at_most("peak memory of a node", (peak, memory::peak_mib_max()), "MiB");
    Ok(report)
}

/// Appends small records until every node has written that much log.
fn write_log(site: &Site, log_bytes: u64, progress: &mut Progress) -> Result<(), String> {
    let leader = site.leader()?;
    let mut flood = Flood::open(site.nodes.ip(leader), CONNECTIONS)?;
    for _ in 0..FLOODS_MAX {
        go_on()?;
        let written = site.nodes.counter(leader, "wal_write_bytes")?;
        if written >= log_bytes {
            return Ok(());
        }
        progress.now(|| format!("{} of {} MB of log", written / 1_000_000, log_bytes / 1_000_000));
        flood.run(Pace::Window(WINDOW), Duration::ZERO, Duration::from_secs(1))?;
    }
    Err(format!("{log_bytes} bytes of log were not written in {FLOODS_MAX} s"))
}

fn start_alone(site: &mut Site, node: usize, log_bytes: u64) -> Result<Start, String> {
    let began = Instant::now();
    site.nodes.start_with(node, |_| ())?;
    // One patience for every GiB: a very slow disk reads that.
    let mut patience = 1 + (log_bytes >> 30);
    let line = loop {
        let line = site.nodes.wait_for("a node that starts", || {
            let told = site.nodes.tail(node);
            told.lines().find(|line| line.contains("event=serving")).map(str::to_owned)
        });
        patience -= 1;
        if line.is_ok() || patience == 0 || !site.nodes.is_alive(node) {
            break line?;
        }
        go_on()?;
    };
    let ready = began.elapsed();
    let number = |name: &str| {
        let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {name} in: {line}"))
    };
    Ok(Start { bytes: number("recovered_bytes")?, milliseconds: number("recovery_ms")?, ready })
}

/// MB/s at which one thread reads the files of a directory, past the page cache.
fn read_plainly(dir: &Path) -> Result<f64, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    let mut buffer = Arena::new(1, READ_BYTES).take(READ_BYTES).expect("its only block");
    let (began, mut bytes) = (Instant::now(), 0);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let mut options = File::options();
        let mut file =
            options.read(true).custom_flags(libc::O_DIRECT).open(&path).map_err(failed)?;
        while let count @ 1.. = file.read(&mut buffer).map_err(failed)? {
            bytes += count;
        }
    }
    Ok(bytes as f64 / MEGABYTE / began.elapsed().as_secs_f64())
}
