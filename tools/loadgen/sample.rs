//! What nodes and generator have used and done at one moment; the difference of two is a window.
//!
//! Reads `/proc` and asks the nodes' status over connections of its own. Does not run while the
//! load does more than the two times that a window needs.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::args::Mode;
use crate::control::{Control, Status};
use crate::machine;
use crate::report::{Copies, Cpu, Device};

/// One moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    at: Instant,
    cpu_nodes: Vec<f64>,
    cpu_loadgen: f64,
    status: Vec<Status>,
}

impl Sample {
    /// Now. `processes` are the nodes', if they are ours.
    pub(crate) fn take(control: &mut Control, processes: &[u32]) -> Self {
        let cpu = |process: u32| machine::cpu_seconds(process).unwrap_or(0.0);
        Self {
            at: Instant::now(),
            cpu_nodes: processes.iter().map(|process| cpu(*process)).collect(),
            cpu_loadgen: cpu(std::process::id()),
            status: control.status(),
        }
    }

    /// Cores kept busy since `earlier`.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Cpu {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64().max(1e-3);
        let cores = |now: f64, before: f64| ((now - before) / seconds * 1000.0).round() / 1000.0;
        let both = self.cpu_nodes.iter().zip(&earlier.cpu_nodes);
        Cpu {
            nodes: both.map(|(now, before)| cores(*now, *before)).collect(),
            loadgen: cores(self.cpu_loadgen, earlier.cpu_loadgen),
        }
    }

    /// How much a counter grew on all nodes since `earlier`.
    pub(crate) fn grown(&self, earlier: &Self, key: &str) -> u64 {
        let both = self.status.iter().zip(&earlier.status);
        both.map(|(now, before)| now.grown(before, key)).sum()
    }

    /// How much each counter grew on all nodes since `earlier` whose name is `prefix` and a number.
    pub(crate) fn grown_below(&self, earlier: &Self, prefix: &str) -> BTreeMap<usize, u64> {
        let mut all = BTreeMap::new();
        for (now, before) in self.status.iter().zip(&earlier.status) {
            for (key, number) in now.numbers_below(prefix) {
                let grown = number - before.number(&format!("{prefix}{key}")).min(number);
                if grown > 0 {
                    *all.entry(key).or_default() += grown;
                }
            }
        }
        all
    }

    /// What the devices did since `earlier`, for so many acknowledged bytes.
    pub(crate) fn device_since(&self, earlier: &Self, acked_bytes: u64, mode: Mode) -> Device {
        let bytes = self.grown(earlier, "wal_write_bytes");
        let per_acked = if mode == Mode::Append { share(bytes, acked_bytes) } else { 0.0 };
        Device {
            bytes,
            writes: self.grown(earlier, "wal_writes"),
            bytes_per_acked_byte: per_acked,
            ceiling_bytes_per_s: None,
            ceiling_ratio: None,
            write_4k_us_p50: None,
            latency_ratio: None,
        }
    }

    /// What was copied since `earlier`, per byte of record.
    pub(crate) fn copies_since(&self, earlier: &Self) -> Copies {
        let records = self.grown(earlier, "append_record_bytes");
        let followers = self.status.len().saturating_sub(1) as u64;
        Copies {
            leader_per_record_byte: share(self.grown(earlier, "copied_bytes_leader"), records),
            follower_per_record_byte: share(
                self.grown(earlier, "copied_bytes_follower"),
                records * followers,
            ),
            carry: share(self.grown(earlier, "copied_bytes_carry"), records),
        }
    }

    /// A flag that every node must agree on to be true; none if nobody says.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        let words: Vec<&str> = self.status.iter().filter_map(|status| status.word(key)).collect();
        (!words.is_empty()).then(|| words.iter().all(|word| *word == "true"))
    }

    /// Whether any node says that a flag is true; none if nobody says.
    pub(crate) fn any_flag(&self, key: &str) -> Option<bool> {
        let words: Vec<&str> = self.status.iter().filter_map(|status| status.word(key)).collect();
        (!words.is_empty()).then(|| words.contains(&"true"))
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1e4).round() / 1e4 }
}
