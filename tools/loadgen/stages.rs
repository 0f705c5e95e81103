//! Where an append's time went: the nodes' stage histograms of a window, as quantiles.
//!
//! The nodes count buckets, one append at a time (`shard::trace`); here the buckets of all nodes
//! and shards are added and those of before the window taken away. Does not time anything itself.

use std::collections::BTreeMap;

use catamaran::stats::middle_ns;
use serde::Serialize;

use crate::sample::Sample;

/// The stages in the order of the way, with what they are.
pub(crate) const STAGES: [(&str, &str); 9] = [
    ("receive", "bytes wait for the turn"),
    ("wait", "admitted, waits for a write slot"),
    ("own_disk", "batched, until durable on the leader"),
    ("peer", "batched, until the first peer says durable"),
    ("commit", "batched, until committed"),
    ("reply", "committed, until the reply is sent"),
    ("total", "first byte to reply, on the leader"),
    ("follower_disk", "part of peer: frame there, until durable there"),
    ("follower_lag", "batched, until a peer has it, every peer"),
];

/// One stage of a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Stage {
    /// Appends, frames or batches that were followed through it.
    pub(crate) samples: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Every stage that somebody went through, by name; and what of `peer` is neither the follower's
/// device nor the wait for it, by the means.
pub(crate) fn stages(before: &Sample, after: &Sample) -> BTreeMap<&'static str, Stage> {
    let mut stages: BTreeMap<&'static str, Stage> = BTreeMap::new();
    for (name, _) in STAGES {
        let sum_ns = after.grown(before, &format!("stage.{name}.sum_ns"));
        let buckets = after.grown_below(before, &format!("stage.{name}.b"));
        if !buckets.is_empty() {
            stages.insert(name, stage(sum_ns, &buckets));
        }
    }
    if let (Some(peer), Some(disk)) = (stages.get("peer"), stages.get("follower_disk")) {
        let mean_us = (peer.mean_us - disk.mean_us).max(0.0);
        let network =
            Stage { samples: peer.samples.min(disk.samples), mean_us, ..Stage::default() };
        stages.insert("network", network);
    }
    stages
}

fn stage(sum_ns: u64, buckets: &BTreeMap<usize, u64>) -> Stage {
    let samples: u64 = buckets.values().sum();
    let quantile = |share: f64| {
        let wanted = crate::human::whole((samples as f64 * share).ceil()).max(1);
        let mut seen = 0;
        let at = buckets.iter().find_map(|(bucket, count)| {
            seen += count;
            (seen >= wanted).then_some(*bucket)
        });
        at.map_or(0.0, |bucket| crate::meter::us(middle_ns(bucket)))
    };
    Stage {
        samples,
        mean_us: crate::meter::us(sum_ns / samples.max(1)),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_buckets() {
        // 98 values of about 1 us, one of 10 us, one of 100 us.
        let bucket = |ns: u64| (0..).find(|at| middle_ns(*at) >= ns).expect("there is one");
        let buckets = [(bucket(1_000), 98), (bucket(10_000), 1), (bucket(100_000), 1)].into();
        let stage = stage(208_000, &buckets);
        assert_eq!((stage.samples, stage.mean_us), (100, 2.1));
        assert!((1.0..1.2).contains(&stage.p50_us), "{stage:?}");
        assert!((10.0..11.5).contains(&stage.p99_us), "{stage:?}");
    }
}
