//! The command line: what may be asked for, what does not go together, and the cure.
//!
//! [`Args`] is what was typed, [`Plan`] what will be done: every default filled in and every
//! relation checked, so that nothing behind this file asks again.

use std::path::PathBuf;
use std::time::Duration;

use catamaran::model::limits;
use clap::{ArgAction, Parser, ValueEnum};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::human;

/// Bytes at the start of each record that name it: run and sequence number.
pub(crate) const RECORD_ID_BYTES: u32 = 16;
/// Open loop: records that may be outstanding before the generator falls behind its schedule. At
/// 100,000 records/s that is more than half a second without a single reply.
const INFLIGHT_OPEN_LOOP: u32 = 65_536;
const INFLIGHT_CLOSED_LOOP: u32 = 4_096;
const RECORDS_PER_REQUEST_CLOSED_LOOP: u32 = 16;
/// More outstanding records than this measure the generator's memory, not the cluster.
const INFLIGHT_MAX: u32 = 1 << 20;
const CONNECTIONS_MAX: u32 = 1024;

const EXAMPLES: &str = "\
Examples:
  loadgen                                  three nodes here, 100,000 writes/s of 200 bytes for 10 s
  loadgen --rate max                       as fast as it goes, 4,096 records in flight
  loadgen --rate max --records-per-request 1 --inflight 512
  loadgen --rate 50k --size 1KiB --duration 60s --groups 64 --shards 2
  loadgen --rate max --mode read-index     linearizable reads of one record
  loadgen --connect 10.0.0.1:7000,10.0.0.2:7000,10.0.0.3:7000 --rate 20k --verify
  loadgen --stages                         also where an append's time went
  loadgen table --help                     medians of a set of such runs as a table
  loadgen --json result.json               the same figures for programs (- for standard output)

Exit codes: 0 good; 1 an acknowledged record was lost, duplicated or changed; 2 bad arguments;
3 this machine cannot run it; 4 a data directory was refused; 5 stopped by an I/O error.";

/// Drives a catamaran cluster and accounts for every record it acknowledges.
///
/// Without arguments: starts three nodes on this machine (three processes, durable on three write-ahead
/// logs in a temporary directory on the current disk), offers 100,000 writes/s of 200 bytes for
/// 10 seconds at times fixed in advance, then reads everything back and checks it.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Args {
    /// Records per second to offer at fixed times, or `max`: as many as are answered
    #[arg(long, default_value = "100k", value_name = "N|max", value_parser = rate)]
    rate: Rate,
    /// Size of a record
    #[arg(long, default_value = "200", value_name = "BYTES", value_parser = human::bytes)]
    size: u64,
    /// How long to measure
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = human::duration)]
    duration: Duration,
    /// How long to load before measuring
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = human::duration)]
    warmup: Duration,
    /// How many logs share the load [default: 1, or all that a --connect cluster has]
    #[arg(long, value_name = "N")]
    groups: Option<u32>,
    /// Shards (cores) of each embedded node [default: 1]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Connections in all; at least one per node and shard that leads a group
    #[arg(long, default_value_t = 8, value_name = "N")]
    connections: u32,
    /// Records that may be outstanding [default: 4096 with --rate max, else 65536]
    #[arg(long, value_name = "N", value_parser = human::count)]
    inflight: Option<u64>,
    /// append, read-index (linearizable reads of one record) or read-stale (without a quorum round)
    #[arg(long, value_enum, default_value_t = Mode::Append, hide_possible_values = true)]
    mode: Mode,
    /// Records in one request [default: 16 with --rate max, else 1]
    #[arg(long, value_name = "N", value_parser = human::count)]
    records_per_request: Option<u64>,
    /// Afterwards, read everything back and account for each record (default unless --connect)
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "no_verify")]
    verify: bool,
    /// Do not read back what was written
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "verify")]
    no_verify: bool,
    /// Use a running cluster: any client ports of it
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    connect: Vec<String>,
    /// Write the result as JSON to FILE, or `-` for standard output
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Where the embedded cluster keeps its logs for as long as it runs [default: .]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Nodes of the embedded cluster: 3, 5 or 7 [default: 3]
    #[arg(long, value_name = "N")]
    nodes: Option<u16>,
    /// Tuning profile of the embedded nodes
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Also print where an append's time went (the JSON result always says so)
    #[arg(long)]
    stages: bool,
    /// Let the embedded nodes use a file system without O_DIRECT, such as tmpfs
    #[arg(long)]
    allow_buffered: bool,
}

/// How load is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    /// Closed loop: a fixed number outstanding.
    Max,
    /// Open loop: this many records per second, at times fixed in advance.
    PerSecond(u64),
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Durable, majority-acknowledged appends
    Append,
    /// Linearizable reads of one record (ReadIndex)
    ReadIndex,
    /// Reads of one record from whatever the leader's shard has, without a quorum round
    ReadStale,
}

/// Where the cluster comes from.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Child processes on this machine.
    Embedded(Embedded),
    /// These client ports.
    Connect(Vec<String>),
}

/// An embedded cluster to be.
#[derive(Clone, Debug)]
pub(crate) struct Embedded {
    /// How many processes.
    pub(crate) nodes: u16,
    /// Shards of each.
    pub(crate) shards: u16,
    /// Groups on all of them.
    pub(crate) groups: u32,
    /// Where its temporary directory goes.
    pub(crate) dir: PathBuf,
    /// A profile of `tuning/`.
    pub(crate) profile: Option<String>,
    /// Whether a file system without O_DIRECT will do.
    pub(crate) allow_buffered: bool,
}

/// Everything that will be done, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Against what.
    pub(crate) target: Target,
    /// The load itself.
    pub(crate) load: Load,
    /// Whether to read everything back.
    pub(crate) verify: bool,
    /// Where the JSON goes.
    pub(crate) json: Option<PathBuf>,
    /// Whether the stages are printed.
    pub(crate) stages: bool,
}

/// The load, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// How it is offered.
    pub(crate) rate: Rate,
    /// What it is.
    pub(crate) mode: Mode,
    /// Bytes of a record.
    pub(crate) record_bytes: u32,
    /// Records of a request.
    pub(crate) records_per_request: u32,
    /// Time before the measured window.
    pub(crate) warmup: Duration,
    /// The measured window.
    pub(crate) duration: Duration,
    /// Connections in all.
    pub(crate) connections: u32,
    /// Records outstanding at most.
    pub(crate) inflight: u32,
    /// Groups to use; `None` is all there are.
    pub(crate) groups: Option<u32>,
}

impl Load {
    /// Requests outstanding at most.
    pub(crate) fn requests_in_flight(&self) -> u32 {
        (self.inflight / self.records_per_request).max(1)
    }

    /// Whether records can carry their identity.
    pub(crate) fn has_ids(&self) -> bool {
        self.record_bytes >= RECORD_ID_BYTES
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    if text.eq_ignore_ascii_case("max") {
        return Ok(Rate::Max);
    }
    let rate = human::count(text).map_err(|error| format!("{error}, or max"))?;
    if rate == 0 || rate > 100_000_000 {
        return Err("between 1 and 100M records per second, or max".to_owned());
    }
    Ok(Rate::PerSecond(rate))
}

fn bad(line: impl Into<String>) -> Failure {
    Failure::new(Exit::BadArguments, line)
}

impl Args {
    /// Fills in the defaults and checks what must go together.
    ///
    /// # Errors
    /// The first combination that makes no sense, with a cure; exit code 2.
    pub(crate) fn plan(self) -> Result<Plan, Failure> {
        let load = self.load()?;
        let verify = self.verify_or_default(&load)?;
        let target = self.target()?;
        Ok(Plan { target, load, verify, json: self.json, stages: self.stages })
    }

    fn load(&self) -> Result<Load, Failure> {
        let closed = self.rate == Rate::Max;
        let reads = self.mode != Mode::Append;
        if reads && self.records_per_request.is_some_and(|records| records != 1) {
            return Err(bad(
                "--records-per-request: a read asks for one record; leave the option out",
            ));
        }
        let records_per_request = match self.records_per_request {
            Some(records) => u32::try_from(records).unwrap_or(u32::MAX),
            None if closed && !reads => RECORDS_PER_REQUEST_CLOSED_LOOP,
            None => 1,
        };
        let inflight = match self.inflight {
            Some(records) => u32::try_from(records).unwrap_or(u32::MAX),
            None if closed => INFLIGHT_CLOSED_LOOP.max(records_per_request),
            None => INFLIGHT_OPEN_LOOP,
        };
        let load = Load {
            rate: self.rate,
            mode: self.mode,
            record_bytes: u32::try_from(self.size).unwrap_or(u32::MAX),
            records_per_request,
            warmup: self.warmup,
            duration: self.duration,
            connections: self.connections,
            inflight,
            groups: self.groups,
        };
        check(&load)?;
        // With fewer requests in flight than connections, the rest would stand idle.
        Ok(Load { connections: load.connections.min(load.requests_in_flight()), ..load })
    }

    fn verify_or_default(&self, load: &Load) -> Result<bool, Failure> {
        let ids = load.has_ids();
        if load.mode != Mode::Append {
            if !ids {
                return Err(bad(format!(
                    "--size {}: reads are checked by the record's identity of {RECORD_ID_BYTES} \
                     bytes; use --size {RECORD_ID_BYTES} or more",
                    load.record_bytes
                )));
            }
            return Ok(false); // Every read is checked when it is answered.
        }
        let wanted = self.verify || (!self.no_verify && self.connect.is_empty());
        if wanted && !ids {
            return Err(bad(format!(
                "--size {}: a record needs {RECORD_ID_BYTES} bytes to be told from the others; use \
                 --size {RECORD_ID_BYTES} or more, or --no-verify",
                load.record_bytes
            )));
        }
        Ok(wanted)
    }

    fn target(&self) -> Result<Target, Failure> {
        if self.connect.is_empty() {
            return self.embedded().map(Target::Embedded);
        }
        let only_embedded = [
            ("--dir", self.dir.is_some()),
            ("--nodes", self.nodes.is_some()),
            ("--shards", self.shards.is_some()),
            ("--profile", self.profile.is_some()),
            ("--allow-buffered", self.allow_buffered),
        ];
        if let Some((option, _)) = only_embedded.iter().find(|(_, given)| *given) {
            return Err(bad(format!(
                "{option} shapes the embedded cluster and --connect uses another one: leave out \
                 one of the two"
            )));
        }
        for address in &self.connect {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(bad(format!(
                    "--connect {address}: not HOST:PORT, for example 127.0.0.1:7000"
                )));
            }
        }
        Ok(Target::Connect(self.connect.clone()))
    }

    fn embedded(&self) -> Result<Embedded, Failure> {
        let nodes = self.nodes.unwrap_or(3);
        if !matches!(nodes, 3 | 5 | 7) {
            return Err(bad(format!("--nodes {nodes}: a majority needs 3, 5 or 7")));
        }
        let shards = self.shards.unwrap_or(1);
        if shards == 0 || usize::from(shards) > limits::SHARDS_MAX {
            return Err(bad(format!("--shards {shards}: between 1 and {}", limits::SHARDS_MAX)));
        }
        let groups = self.groups.unwrap_or(u32::from(shards));
        Ok(Embedded {
            nodes,
            shards,
            groups,
            dir: self.dir.clone().unwrap_or_else(|| PathBuf::from(".")),
            profile: self.profile.clone(),
            allow_buffered: self.allow_buffered,
        })
    }
}

fn check(load: &Load) -> Result<(), Failure> {
    let batch_max = limits::BATCH_BYTES_MAX as u64 - 1024;
    let records = load.records_per_request;
    let request_bytes = (u64::from(load.record_bytes) + 4) * u64::from(records);
    if load.record_bytes == 0 {
        return Err(bad("--size 0: a record has at least one byte"));
    }
    if records == 0 {
        return Err(bad("--records-per-request 0: a request has at least one record"));
    }
    if request_bytes > batch_max {
        return Err(bad(format!(
            "--size {} with {records} records per request makes requests of {request_bytes} bytes; \
             the limit is {batch_max}: make either smaller",
            load.record_bytes
        )));
    }
    if load.inflight < records || load.inflight > INFLIGHT_MAX {
        return Err(bad(format!(
            "--inflight {}: between --records-per-request ({records}) and {INFLIGHT_MAX}",
            load.inflight
        )));
    }
    if load.connections == 0 || load.connections > CONNECTIONS_MAX {
        return Err(bad(format!(
            "--connections {}: between 1 and {CONNECTIONS_MAX}",
            load.connections
        )));
    }
    if load.duration < Duration::from_millis(100) {
        return Err(bad("--duration: at least 100ms, or there is nothing to measure"));
    }
    if load.duration + load.warmup > Duration::from_secs(24 * 3600) {
        return Err(bad("--duration: at most a day with the warm-up"));
    }
    if load.groups.is_some_and(|groups| groups == 0 || groups as usize > limits::GROUPS_MAX) {
        return Err(bad(format!("--groups: between 1 and {}", limits::GROUPS_MAX)));
    }
    if let Rate::PerSecond(rate) = load.rate
        && rate < u64::from(records)
    {
        return Err(bad(format!(
            "--rate {rate} is less than one request of {records} records per second: raise it or \
             lower --records-per-request"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, Failure> {
        let words = std::iter::once("loadgen").chain(line.split_whitespace());
        Args::try_parse_from(words).expect("clap takes it").plan()
    }

    #[test]
    fn no_arguments_are_the_promised_run() {
        let plan = plan("").expect("good");
        assert_eq!(plan.load.rate, Rate::PerSecond(100_000));
        assert_eq!((plan.load.record_bytes, plan.load.records_per_request), (200, 1));
        assert_eq!(plan.load.duration, Duration::from_secs(10));
        assert!(plan.verify);
        assert!(matches!(plan.target, Target::Embedded(Embedded { nodes: 3, shards: 1, .. })));
    }

    #[test]
    fn max_has_its_own_defaults() {
        let load = plan("--rate max").expect("good").load;
        assert_eq!((load.inflight, load.records_per_request, load.connections), (4096, 16, 8));
        assert_eq!(load.requests_in_flight(), 256);
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_cure() {
        for (line, cure) in [
            ("--size 8", "--no-verify"),
            ("--nodes 4", "3, 5 or 7"),
            ("--connect 127.0.0.1:1 --dir x", "leave out"),
            ("--connect localhost", "HOST:PORT"),
            ("--mode read-index --records-per-request 2", "leave the option out"),
            ("--size 1MiB", "smaller"),
            ("--inflight 1 --records-per-request 2", "between"),
            ("--rate 1 --records-per-request 2", "raise it"),
            ("--duration 1ms", "at least"),
            ("--shards 65", "between"),
            ("--groups 0", "between"),
            ("--connections 0", "between"),
        ] {
            let failure = plan(line).expect_err(line);
            assert_eq!(failure.exit, Exit::BadArguments, "{line}");
            assert!(failure.line.contains(cure), "{line}: {}", failure.line);
        }
    }

    #[test]
    fn small_records_are_fine_unverified() {
        assert!(!plan("--size 8 --no-verify").expect("good").verify);
        assert!(!plan("--connect 127.0.0.1:7000").expect("good").verify);
        assert!(plan("--connect 127.0.0.1:7000 --verify").expect("good").verify);
    }
}
