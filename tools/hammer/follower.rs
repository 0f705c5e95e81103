//! A follower that stands still, is dead, or has a slow disk: the other two must hardly notice,
//! neither while it is away nor while it catches up from their disks.

use std::time::{Duration, Instant};

use crate::load::{Load, Shape, percentile};
use crate::progress::Progress;
use crate::report::Report;
use crate::site::{Balance, Site, rest};
use crate::throttle::Throttle;

/// Enough that what is missed is more than memory holds.
const SHAPE: Shape = Shape { writers: 16, per_second: 2_000, record_bytes: 4_096 };
/// Small arenas, so that a follower is sent what it missed from the leader's disk.
const SETTINGS: &str = "limits.arena_bytes_per_shard = \"16 MiB\"\nwal.segments_ahead = 4";
const SETTLE: Duration = Duration::from_secs(2);
const BEFORE: Duration = Duration::from_secs(8);
/// Time of catching up that is measured at least, so that there is something to compare.
const AFTER_MIN: Duration = Duration::from_secs(3);
/// p99 while the follower is away, and while it catches up, against before.
const AWAY_RATIO: f64 = 1.2;
const AFTER_RATIO: f64 = 1.3;
/// What the throttled disk still takes.
const SLOW_WRITES_PER_SECOND: u32 = 20;

/// What happens to the follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its process is stopped and continued.
    Stopped,
    /// It is killed and started again.
    Dead,
    /// Its disk takes few writes a second.
    SlowDisk,
}

impl Fault {
    fn command(self) -> &'static str {
        match self {
            Self::Stopped => "slow-follower",
            Self::Dead => "dead-follower",
            Self::SlowDisk => "slow-disk",
        }
    }
}

pub(crate) fn run(
    dir: &std::path::Path,
    fault: Fault,
    away: Duration,
    progress: &mut Progress,
) -> Result<Report, String> {
    let mut report = Report::new(fault.command());
    let mut site = Site::open(dir, SETTINGS)?;
    let follower = site.follower()?;
    let leader = site.leader()?;
    let throttle = match fault {
        Fault::SlowDisk => Some(Throttle::new(dir)?),
        Fault::Stopped | Fault::Dead => None,
    };
    let load = Load::start(&site.nodes, SHAPE)?;
    progress.now(|| "measuring before".to_owned());
    rest(SETTLE)?;
    let from = load.now();
    rest(BEFORE)?;
    let before = p99_ms(&load, from, load.now());

    let elections = site.sum("elections_won")?;
    progress.now(|| format!("node {follower} is away for {away:?}"));
    let from = load.now();
    match fault {
        Fault::Stopped => site.nodes.signal(follower, "STOP")?,
        Fault::Dead => site.nodes.kill(follower)?,
        Fault::SlowDisk => {}
    }
    if let Some(throttle) = &throttle {
        throttle.take(site.nodes.pid(follower), SLOW_WRITES_PER_SECOND)?;
    }
    rest(away)?;
    let while_away = p99_ms(&load, from, load.now());

    let from_disk = site.nodes.counter(leader, "wal_read_bytes")?;
    let (from, began) = (load.now(), Instant::now());
    match fault {
        Fault::Stopped => site.nodes.signal(follower, "CONT")?,
        Fault::Dead => site.start_all()?,
        Fault::SlowDisk => {}
    }
    drop(throttle); // It takes as many writes as ever.
    let aim = load.highest().get().get();
    site.nodes.wait_for("the follower to catch up", || {
        progress.now(|| format!("node {follower} catches up"));
        (site.nodes.group_fact(follower, "commit")? >= aim).then_some(())
    })?;
    let caught_up = began.elapsed();
    rest(AFTER_MIN.saturating_sub(caught_up))?;
    let after = p99_ms(&load, from, load.now());
    let from_disk = site.nodes.counter(leader, "wal_read_bytes")? - from_disk;

    report.fact("p99 before", before, "ms");
    report.fact("p99 while it was away", while_away, "ms");
    report.fact("p99 while it caught up", after, "ms");
    report.at_most("p99 while it was away, against before", (while_away / before, AWAY_RATIO), "x");
    report.at_most("p99 while it caught up, against before", (after / before, AFTER_RATIO), "x");
    report.fact("time until it had caught up", caught_up.as_secs_f64(), "s");
    report.at_least("bytes that the leader read from its disk", (from_disk as f64, 1.0), "bytes");
    if fault != Fault::Dead {
        // A node that starts again has counters that start again.
        let more = site.sum("elections_won")?.saturating_sub(elections);
        report.at_most("elections", (more as f64, 0.0), "");
    }
    let ledger = load.finish()?;
    let audit = site.settle(&ledger, progress)?;
    let mut balance = Balance::default();
    balance.add(&ledger, &audit);
    balance.report(&mut report);
    Ok(report)
}

fn p99_ms(load: &Load, from: Duration, upto: Duration) -> f64 {
    percentile(&mut load.latencies(from, upto), 99) as f64 / 1e3
}
