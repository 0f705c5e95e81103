//! The result: for programs as JSON, for people as a table.
//!
//! Numbers only, each with its meaning at the field. Does not measure and does not print.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use catamaran::model::limits::{BLOCK_BYTES_MAX, DEVICE_ALIGN_BYTES};
use serde::{Serialize, Serializer};

use crate::args::Mode;
use crate::human::{byte_size, grouped};
use crate::machine::Machine;
use crate::stages::{STAGES, Stage};

/// Everything that is known about one run. Field names are a promise to those who parse them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Version of this layout.
    pub(crate) format: u32,
    /// `ok`, `stopped`, or `failed: ` and why.
    pub(crate) verdict: Judgement,
    /// Requests of what kind.
    pub(crate) mode: Mode,
    /// Records acknowledged (or read) per second of the measured window.
    pub(crate) acked_per_s: f64,
    /// Their bytes.
    pub(crate) record_bytes_per_s: f64,
    /// Records per second that were offered; none in a closed loop.
    pub(crate) intended_rate: Option<u64>,
    /// From the intended time to the answer, per request.
    pub(crate) latency_us: Latency,
    /// How late the latest request left, in microseconds; its latency counts from when it was due.
    pub(crate) late_us_max: f64,
    /// Records whose time came and that never left, for want of answers to earlier ones.
    pub(crate) unsent: u64,
    /// Whether the generator fell behind its timetable.
    pub(crate) behind: bool,
    /// Requests that did not go as wished, by kind. Refused ones were sent again.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Records of unknown fate.
    pub(crate) unknown: u64,
    /// Records refused and not sent again before the end.
    pub(crate) refused: u64,
    /// Records acknowledged in the whole run, the warm-up included.
    pub(crate) acked: u64,
    /// Those found at their index, byte for byte; none if not looked for.
    pub(crate) verified: Option<u64>,
    /// Those not found there.
    pub(crate) lost: Option<u64>,
    /// Records found more than once.
    pub(crate) duplicated: Option<u64>,
    /// Records found that were refused or never sent.
    pub(crate) phantom: Option<u64>,
    /// Records of unknown fate that turned out to be there.
    pub(crate) unknown_present: Option<u64>,
    /// Reads answered with something else than what was written.
    pub(crate) wrong: u64,
    /// What an acknowledgement stands for.
    pub(crate) durability: String,
    /// Processor cores kept busy during the window.
    pub(crate) cpu_cores: Cpu,
    /// Peak resident memory.
    pub(crate) rss_bytes: Memory,
    /// What the log devices did during the window, all nodes together.
    pub(crate) device: Device,
    /// User-space copies per byte of record during the window.
    pub(crate) copies: Copies,
    /// Where an append's time went during the window, by stage, on the nodes that it passed.
    pub(crate) stages: BTreeMap<&'static str, Stage>,
    /// Whether the nodes' rings use registered memory; false where the system refuses it.
    pub(crate) registered: Option<bool>,
    /// Whether the logs go through the page cache: not durable.
    pub(crate) buffered: Option<bool>,
    /// Why the run was shorter than asked for, if it was.
    pub(crate) shortened: Option<String>,
    /// The measured window as it was, in seconds.
    pub(crate) measured_s: f64,
    /// What was asked for.
    pub(crate) config: RunConfig,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// What was run.
    pub(crate) commit: String,
}

/// What to think of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Every promise was kept, as far as it was looked at.
    Ok,
    /// Somebody stopped it; what it found until then is good.
    Stopped,
    /// A promise was broken.
    Failed(&'static str),
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

impl Serialize for Judgement {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Cores kept busy.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cpu {
    pub(crate) nodes: Vec<f64>,
    pub(crate) loadgen: f64,
}

/// Bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) nodes: Vec<u64>,
    pub(crate) loadgen: u64,
}

/// The log devices.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Device {
    /// Bytes written.
    pub(crate) bytes: u64,
    /// Writes.
    pub(crate) writes: u64,
    /// Bytes written per acknowledged byte, all copies together.
    pub(crate) bytes_per_acked_byte: f64,
    /// What the device took in the same run from one writer per log, at the same block size and
    /// depth.
    pub(crate) ceiling_bytes_per_s: Option<f64>,
    /// Acknowledged bytes times nodes, as a share of that.
    pub(crate) ceiling_ratio: Option<f64>,
    /// With one in flight: the median of a durable 4 KiB write by as many writers as there are
    /// logs, one at a time each, in microseconds.
    pub(crate) write_4k_us_p50: Option<f64>,
    /// The median latency of the run as a multiple of that.
    pub(crate) latency_ratio: Option<f64>,
}

impl Device {
    /// The average write, as a block that can be measured: a multiple of 4 KiB up to 1 MiB.
    pub(crate) fn block_bytes(&self) -> usize {
        let average = self.bytes.checked_div(self.writes).unwrap_or(0);
        let average = usize::try_from(average).unwrap_or(BLOCK_BYTES_MAX);
        average.next_multiple_of(DEVICE_ALIGN_BYTES).clamp(DEVICE_ALIGN_BYTES, BLOCK_BYTES_MAX)
    }

    /// Compares `copies_bytes_per_s`, the acknowledged bytes per second on all nodes, with what
    /// the device can do.
    pub(crate) fn compare(&mut self, ceiling: Option<f64>, copies_bytes_per_s: f64) {
        self.ceiling_bytes_per_s = ceiling.map(f64::round);
        self.ceiling_ratio = ceiling
            .filter(|ceiling| *ceiling > 0.0)
            .map(|ceiling| (copies_bytes_per_s / ceiling * 1e3).round() / 1e3);
    }
}

/// User-space copies per byte of record.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Copies {
    /// On the leader, receive buffer to log block.
    pub(crate) leader_per_record_byte: f64,
    /// On a follower, receive buffer to log block.
    pub(crate) follower_per_record_byte: f64,
    /// For frames cut across two receive buffers, everywhere.
    pub(crate) carry: f64,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunConfig {
    /// Records per second, or `max`.
    pub(crate) rate: String,
    pub(crate) record_bytes: u32,
    pub(crate) records_per_request: u32,
    pub(crate) connections: u32,
    pub(crate) inflight_records: u32,
    pub(crate) warmup_s: f64,
    pub(crate) duration_s: f64,
    pub(crate) nodes: usize,
    pub(crate) shards: u16,
    pub(crate) groups: usize,
    /// `embedded` or `connect`.
    pub(crate) cluster: &'static str,
    pub(crate) profile: Option<String>,
    pub(crate) verify: bool,
}

impl Report {
    /// The JSON, with a newline at the end.
    pub(crate) fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain values are JSON");
        text.push('\n');
        text
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        self.put_rate(&mut out);
        self.put_account(&mut out);
        self.put_cost(&mut out);
        self.put_place(&mut out);
        out
    }

    fn put_rate(&self, out: &mut String) {
        let what = match self.mode {
            Mode::Append => "durable appends",
            Mode::ReadIndex => "linearizable reads",
            Mode::ReadStale => "stale reads",
        };
        let c = &self.config;
        row(
            out,
            what,
            &format!(
                "{} records/s, {}/s ({} of {} bytes, {} a request, {} connections)",
                grouped(crate::human::whole(self.acked_per_s)),
                byte_size(self.record_bytes_per_s),
                self.intended_rate.map_or_else(
                    || format!("closed loop, {} in flight", grouped(u64::from(c.inflight_records))),
                    |rate| format!("open loop, {} offered", grouped(rate)),
                ),
                c.record_bytes,
                c.records_per_request,
                c.connections,
            ),
        );
        let l = &self.latency_us;
        row(
            out,
            "latency",
            &format!(
                "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
                ms(l.p50),
                ms(l.p90),
                ms(l.p99),
                ms(l.p999),
                ms(l.max)
            ),
        );
        if self.behind {
            row(
                out,
                "BEHIND",
                &format!(
                    "the generator could not keep its timetable: up to {} late, {} records never sent",
                    ms(self.late_us_max),
                    grouped(self.unsent)
                ),
            );
        }
        let errors: Vec<String> =
            self.errors.iter().map(|(kind, count)| format!("{kind} {}", grouped(*count))).collect();
        row(out, "errors", if errors.is_empty() { "none" } else { "" });
        if !errors.is_empty() {
            out.pop();
            let _ = writeln!(out, "{}", errors.join(", "));
        }
    }

    fn put_account(&self, out: &mut String) {
        if self.mode != Mode::Append {
            row(
                out,
                "records",
                &format!(
                    "{} read, {} of them not as they were written",
                    grouped(self.acked),
                    grouped(self.wrong)
                ),
            );
            return row(out, "freshness", &self.durability);
        }
        let mut account = format!("{} acknowledged", grouped(self.acked));
        if let (Some(verified), Some(lost), Some(duplicated)) =
            (self.verified, self.lost, self.duplicated)
        {
            let _ = write!(
                account,
                ", {} verified, {} lost, {} duplicated",
                grouped(verified),
                grouped(lost),
                grouped(duplicated)
            );
        } else {
            account.push_str(", not read back");
        }
        if self.unknown > 0 {
            let _ = write!(account, ", {} of unknown fate", grouped(self.unknown));
            if let Some(present) = self.unknown_present {
                let _ = write!(account, " ({} of them present)", grouped(present));
            }
        }
        if let Some(phantom) = self.phantom.filter(|phantom| *phantom > 0) {
            let _ = write!(account, ", {} PRESENT THOUGH REFUSED", grouped(phantom));
        }
        row(out, "records", &account);
        row(out, "durability", &self.durability);
    }

    fn put_cost(&self, out: &mut String) {
        let list = |values: Vec<String>| {
            if values.is_empty() { "elsewhere".to_owned() } else { values.join(" + ") }
        };
        row(
            out,
            "CPU",
            &format!(
                "nodes {}, loadgen {:.2} cores",
                list(self.cpu_cores.nodes.iter().map(|cores| format!("{cores:.2}")).collect()),
                self.cpu_cores.loadgen
            ),
        );
        row(
            out,
            "peak memory",
            &format!(
                "nodes {}, loadgen {}",
                list(self.rss_bytes.nodes.iter().map(|bytes| byte_size(*bytes as f64)).collect()),
                byte_size(self.rss_bytes.loadgen as f64)
            ),
        );
        let d = &self.device;
        if d.writes > 0 {
            row(
                out,
                "device",
                &format!(
                    "{} in {} writes of {}, {:.2} bytes per acknowledged byte (all {} copies)",
                    byte_size(d.bytes as f64),
                    grouped(d.writes),
                    byte_size(d.bytes as f64 / d.writes as f64),
                    d.bytes_per_acked_byte,
                    self.config.nodes
                ),
            );
        }
        if let (Some(ceiling), Some(ratio)) = (d.ceiling_bytes_per_s, d.ceiling_ratio) {
            row(
                out,
                "device ceiling",
                &format!(
                    "{}/s at this block size; records x nodes are {:.0} % of it",
                    byte_size(ceiling),
                    ratio * 100.0
                ),
            );
        }
        if let (Some(write), Some(ratio)) = (d.write_4k_us_p50, d.latency_ratio) {
            row(
                out,
                "one write",
                &format!("p50 {} for 4 KiB here; p50 of the run is {ratio:.2} times it", ms(write)),
            );
        }
        if let Some(lag) = self.stages.get("follower_lag") {
            row(out, "follower lag", &format!("p50 {}  p99 {}", ms(lag.p50_us), ms(lag.p99_us)));
        }
        let copies = &self.copies;
        if self.mode == Mode::Append && d.writes > 0 {
            row(
                out,
                "copies",
                &format!(
                    "leader {:.2}, follower {:.2}, cut frames {:.3} per record byte",
                    copies.leader_per_record_byte, copies.follower_per_record_byte, copies.carry
                ),
            );
        }
    }

    /// Where an append's time went, for people.
    pub(crate) fn stage_table(&self) -> String {
        let mut out =
            String::from("\nstage              mean       p50        p99        samples\n");
        let network = ("network", "part of peer: the rest, by the means");
        for (name, text) in STAGES.iter().chain([&network]) {
            let Some(stage) = self.stages.get(name) else { continue };
            let _ = writeln!(
                out,
                "{name:<19}{:<11}{:<11}{:<11}{:<9}{text}",
                ms(stage.mean_us),
                ms(stage.p50_us),
                ms(stage.p99_us),
                stage.samples
            );
        }
        out
    }

    fn put_place(&self, out: &mut String) {
        let c = &self.config;
        let mut cluster =
            format!("{} nodes, {} shards each, {} groups", c.nodes, c.shards, c.groups);
        if self.registered == Some(false) {
            cluster.push_str(", ring memory not registered");
        }
        row(out, "cluster", &cluster);
        let m = &self.machine;
        row(
            out,
            "machine",
            &format!(
                "{}, {} cores, {}, Linux {}, {} on {}",
                m.cpu,
                m.cores,
                byte_size(m.memory_bytes as f64),
                m.kernel,
                m.file_system,
                m.disk
            ),
        );
        row(out, "commit", &self.commit);
        if let Some(shortened) = &self.shortened {
            row(out, "SHORTENED", shortened);
        }
        row(out, "verdict", &self.verdict.to_string());
    }
}

fn row(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name:<19}{value}");
}

/// Microseconds as milliseconds.
fn ms(us: f64) -> String {
    if us >= 100_000.0 { format!("{:.0} ms", us / 1e3) } else { format!("{:.2} ms", us / 1e3) }
}
