//! A leader that stands still for two seconds and goes on, and does not know that it was replaced.
//!
//! Reads go to every node directly, whoever leads, also while it stands still: they wait in its
//! socket and are the first thing that it sees when it goes on. None of them may be answered with a
//! commit index below what had been acknowledged when the read was sent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use catamaran::model::LogIndex;
use catamaran::wire::client::{Consistency, Read, Reply, encode_read};

use crate::cluster::{CLIENT_PORT, GROUP};
use crate::load::{Highest, Load, Shape, percentile};
use crate::progress::Progress;
use crate::raw::{Raw, hello};
use crate::report::Report;
use crate::site::{Balance, Site, rest};

const SHAPE: Shape = Shape { writers: 8, per_second: 800, record_bytes: 200 };
const PAUSE: Duration = Duration::from_secs(2);
/// After this time the others have a leader.
const ELECTED: Duration = Duration::from_millis(800);
/// Who writes by way of the others meanwhile.
const OTHERS: Shape = Shape { writers: 2, per_second: 200, record_bytes: 200 };
/// Between two reads of one node.
const READ_EVERY: Duration = Duration::from_millis(5);
const SERVES: u64 = 100;

/// What the readers of one node saw.
#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    refused: u64,
    /// What was acknowledged, what the read knew.
    stale: Vec<(LogIndex, LogIndex)>,
}

pub(crate) fn run(
    dir: &std::path::Path,
    rounds: u32,
    progress: &mut Progress,
) -> Result<Report, String> {
    let mut report = Report::new("pause-leader");
    let mut site = Site::open(dir, "wal.segments_ahead = 1")?;
    let mut load = Load::start(&site.nodes, SHAPE)?;
    load.wait_more(&site.nodes, SERVES)?;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<JoinHandle<Seen>> = site
        .nodes
        .all()
        .map(|node| {
            let to = SocketAddrV4::new(site.nodes.ip(node), CLIENT_PORT);
            let (highest, stop) = (load.highest(), Arc::clone(&stop));
            std::thread::spawn(move || watch(to, &highest, &stop))
        })
        .collect();
    let mut gaps = Vec::new();
    let mut replaced = 0;
    let mut meanwhile = 0;
    for round in 1..=rounds {
        let leader = site.leader()?;
        let paused_at = load.now();
        site.nodes.signal(leader, "STOP")?;
        rest(ELECTED)?;
        let others = site.nodes.all().filter(|node| *node != leader);
        let others: Vec<String> = others.map(|node| site.nodes.client_address(node)).collect();
        let before = load.acked();
        load.also(&others, OTHERS, PAUSE - ELECTED)?;
        rest(PAUSE - ELECTED)?;
        meanwhile += load.acked() - before;
        site.nodes.signal(leader, "CONT")?;
        load.wait_more(&site.nodes, SERVES)?;
        let gap = load.longest_gap(paused_at);
        gaps.push(u64::try_from(gap.as_micros()).unwrap_or(u64::MAX));
        replaced += u32::from(site.leader()? != leader);
        progress.now(|| format!("round {round}: node {leader} stood still, gap {gap:.0?}"));
    }
    stop.store(true, Ordering::Relaxed);
    let mut seen = Seen::default();
    for reader in readers {
        let more = reader.join().map_err(|_| "a reader panicked".to_owned())?;
        seen.answered += more.answered;
        seen.refused += more.refused;
        seen.stale.extend(more.stale);
    }
    let ledger = load.finish()?;
    let audit = site.settle(&ledger, progress)?;
    let mut balance = Balance::default();
    balance.add(&ledger, &audit);
    report.at_most("stale linearizable reads", (seen.stale.len() as f64, 0.0), "reads");
    report.at_least("reads answered", (seen.answered as f64, 1.0), "reads");
    // Without these there would be nothing that a stale read could miss.
    let name = "acknowledged while the leader stood still";
    report.at_least(name, (meanwhile as f64, 1.0), "records");
    report.fact("reads refused or not answered", seen.refused as f64, "reads");
    report.fact("leaders that were replaced", f64::from(replaced), "");
    report.fact("write gap, p50", percentile(&mut gaps, 50) as f64 / 1e3, "ms");
    report.fact("write gap, longest", percentile(&mut gaps, 100) as f64 / 1e3, "ms");
    report.note("the gap includes connecting anew: who knows the leader waits for its answer");
    if let Some((acknowledged, known)) = seen.stale.first() {
        report.note(format!("{acknowledged:?} was acknowledged, a read knew of {known:?}"));
    }
    balance.report(&mut report);
    Ok(report)
}

/// Reads from one node until it is told to stop; connects again when the connection breaks.
fn watch(to: SocketAddrV4, highest: &Highest, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let connected = Raw::connect(to, Ipv4Addr::UNSPECIFIED, Duration::from_millis(500));
        if let Ok(mut raw) = connected
            && raw.send(&hello()).is_ok()
        {
            ask(&mut raw, highest, stop, &mut seen);
        }
        std::thread::sleep(READ_EVERY);
    }
    seen
}

/// One connection: reads go out at their times whether or not answers come.
fn ask(raw: &mut Raw, highest: &Highest, stop: &AtomicBool, seen: &mut Seen) {
    let mut open: BTreeMap<u64, LogIndex> = BTreeMap::new();
    let mut correlation = 0;
    while !stop.load(Ordering::Relaxed) {
        correlation += 1;
        let acknowledged = highest.get();
        let mut frame = Vec::new();
        let consistency = Consistency::Linearizable;
        let read = Read { from: LogIndex::new(1), max_bytes: 1, consistency };
        encode_read(&mut frame, correlation, GROUP, &read);
        // A frame that did not go whole would end the stream: the socket has far more room.
        if !matches!(raw.send(&frame), Ok(bytes) if bytes == frame.len()) {
            break;
        }
        open.insert(correlation, acknowledged);
        std::thread::sleep(READ_EVERY);
        loop {
            match raw.next() {
                Ok(Some(frame)) => {
                    let Some(acknowledged) = open.remove(&frame.header.correlation) else {
                        continue; // The answer to the hello.
                    };
                    match Reply::decode(&frame.header, frame.body()) {
                        Ok(Reply::Read(view)) => {
                            seen.answered += 1;
                            if view.head.commit < acknowledged {
                                seen.stale.push((acknowledged, view.head.commit));
                            }
                        }
                        Ok(_) | Err(_) => seen.refused += 1,
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    seen.refused += open.len() as u64;
                    return;
                }
            }
        }
    }
    seen.refused += open.len() as u64;
}
