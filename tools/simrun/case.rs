//! Cases: whole plans as TOML, so that a failure stays the same world when drawing changes.
//!
//! The structs here mirror those of `sim::Plan`, because the simulator is a pure room and knows no
//! formats. They are taken apart field by field, so a new field of a plan does not compile until it
//! has a line here; give it a default that means "this does not exist", and older cases stay
//! readable. Does not: draw plans, or run them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use catamaran::sim::{Between, ChaosPlan, DiskPlan, LoadPlan, NetPlan, Plan, Recurring};
use catamaran::wal::Geometry;
use serde::{Deserialize, Serialize};

/// How a value of a plan is written.
trait Written<T> {
    fn of(value: &T) -> Self;
    fn back(self) -> T;
}

macro_rules! as_it_is {
    ($($type:ty)*) => {
        $(impl Written<$type> for $type {
            fn of(value: &$type) -> Self {
                *value
            }

            fn back(self) -> $type {
                self
            }
        })*
    };
}

as_it_is! { bool u16 u32 u64 usize }

/// A duration in microseconds.
#[derive(Serialize, Deserialize)]
struct Micros(u64);

impl Written<Duration> for Micros {
    fn of(value: &Duration) -> Self {
        Self(u64::try_from(value.as_micros()).unwrap_or(u64::MAX))
    }

    fn back(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

/// A range of durations: the shortest and longer than the longest, in microseconds.
#[derive(Serialize, Deserialize)]
struct Range([Micros; 2]);

impl Written<Between> for Range {
    fn of(value: &Between) -> Self {
        Self([Micros::of(&value.low), Micros::of(&value.high)])
    }

    fn back(self) -> Between {
        let [low, high] = self.0;
        Between { low: low.back(), high: high.back() }
    }
}

impl<T, W: Written<T>> Written<Option<T>> for Option<W> {
    fn of(value: &Option<T>) -> Self {
        value.as_ref().map(W::of)
    }

    fn back(self) -> Option<T> {
        self.map(W::back)
    }
}

macro_rules! mirror {
    ($text:ident of $plan:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $text {
            $($(#[$meta])* $field: $type,)*
        }

        impl Written<$plan> for $text {
            fn of(value: &$plan) -> Self {
                let $plan { $($field),* } = value;
                Self { $($field: Written::of($field)),* }
            }

            fn back(self) -> $plan {
                $plan { $($field: Written::back(self.$field)),* }
            }
        }
    };
}

mirror!(RecurringText of Recurring { every: Range, lasts: Range, });

mirror!(GeometryText of Geometry {
    segment_bytes: u64,
    block_bytes_max: u32,
    in_flight_bytes_max: u64,
    writes_in_flight_max: u32,
});

mirror!(DiskText of DiskPlan {
    write: Range,
    read: Range,
    prepare: Range,
    write_error_ppm: u64,
    read_error_ppm: u64,
    no_space_ppm: u64,
    #[serde(default)]
    start_error_ppm: u64,
    #[serde(default)]
    lost_ppm: u64,
    #[serde(default)]
    misdirected_ppm: u64,
});

mirror!(NetText of NetPlan {
    delay: Range,
    reconnect: Range,
    reset_ppm: u64,
    corrupt_ppm: u64,
    client_reset_ppm: u64,
    chunk_bytes_max: u64,
});

mirror!(ChaosText of ChaosPlan {
    lasts: Micros,
    power_loss_percent: u64,
    blackout_percent: u64,
    drain_percent: u64,
    #[serde(default)]
    new_disk_percent: u64,
    #[serde(default)]
    stumble_percent: u64,
    #[serde(default)]
    torn_opening_percent: u64,
    one_way_percent: u64,
    crash: Option<RecurringText>,
    cut: Option<RecurringText>,
    ambush: Option<RecurringText>,
    plot: Option<RecurringText>,
    pause: Option<RecurringText>,
    stall: Option<RecurringText>,
    rot: Option<RecurringText>,
    slow_disk: Option<RecurringText>,
    hang: Option<RecurringText>,
    disk_full: Option<RecurringText>,
    clock_jump: Option<RecurringText>,
    freeze: Option<RecurringText>,
    slow_core: Option<RecurringText>,
});

mirror!(LoadText of LoadPlan {
    clients: u32,
    #[serde(default)]
    sessions: u32,
    requests: u64,
    in_flight: u32,
    think: Range,
    read_percent: u64,
    records_max: u64,
    record_bytes_max: u64,
    patience: Micros,
});

// Plain values first: TOML wants them before tables.
mirror!(PlanText of Plan {
    seed: u64,
    #[serde(with = "hex")]
    root: u64,
    nodes: u16,
    shards: u16,
    groups: u64,
    arena_extents: usize,
    arena_extent_bytes: usize,
    credit_bytes: u64,
    uncommitted_bytes_max: usize,
    direct_frame_bytes_min: usize,
    segments_ahead: u64,
    retention_bytes: Option<u64>,
    clock_drift_ppm: u64,
    turn: Range,
    geometry: GeometryText,
    disk: DiskText,
    net: NetText,
    chaos: ChaosText,
    load: LoadText,
});

/// The root is any u64; TOML's integers are signed.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(de::Error::custom)
    }
}

/// A plan as text.
pub(crate) fn text(plan: &Plan) -> String {
    // A number above what TOML holds means "no end" and is written as the largest it has.
    let mut plan = *plan;
    let largest = u64::MAX >> 1;
    plan.load.requests = plan.load.requests.min(largest);
    plan.seed = plan.seed.min(largest);
    toml::to_string(&PlanText::of(&plan)).expect("plain values, then tables")
}

/// A plan from its text.
pub(crate) fn parse(text: &str) -> Result<Plan, String> {
    let read: PlanText = toml::from_str(text).map_err(|error| error.to_string())?;
    Ok(read.back())
}

/// Reads a case file.
pub(crate) fn read(file: &Path) -> io::Result<Plan> {
    let told = |what: String| io::Error::other(format!("{}: {what}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| told(error.to_string()))?;
    parse(&text).map_err(told)
}

/// The files among `paths` and, for a folder, those in it that end in `.toml`, in order.
pub(crate) fn files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in fs::read_dir(path)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "toml") {
                inside.push(file);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_come_back_from_their_text_as_they_were() {
        for seed in 1..300 {
            let plan = Plan::draw(seed);
            let text = text(&plan);
            assert_eq!(parse(&text).as_ref(), Ok(&plan), "seed {seed}:\n{text}");
        }
        let steady = Plan::steady(1, Duration::from_secs(5));
        let back = parse(&text(&steady)).expect("it was just written");
        assert_eq!(back.load.requests, u64::MAX >> 1);
        assert_eq!((back.root, back.chaos), (steady.root, steady.chaos));
    }

    #[test]
    fn a_misspelt_field_is_refused_by_name() {
        let text = text(&Plan::draw(1)).replace("groups", "gruops");
        let error = parse(&text).expect_err("there is no such field");
        assert!(error.contains("gruops"), "{error}");
    }
}
