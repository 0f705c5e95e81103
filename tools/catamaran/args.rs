//! The arguments of every subcommand, with the help that people read first.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Many replicated, durable, ordered logs on three, five or seven nodes.
#[derive(Debug, Parser)]
#[command(name = "catamaran", version, max_term_width = 100, after_long_help = EXIT_CODES)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  good
  1  the check failed, or certainly not done
  2  bad arguments or configuration
  3  the environment cannot run it (no io_uring, no O_DIRECT, port in use, nobody to connect to)
  4  the data directory is refused (not formatted, foreign, newer, locked, corrupt)
  5  stopped by an I/O error
  6  append only: unknown, the write may have happened or may yet

Try it:
  catamaran dev                    a cluster of three on this machine
  catamaran append --connect 127.0.0.1:21000 --group 1 hello
  catamaran read --connect 127.0.0.1:21000 --group 1";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Formats the data directory of a new node
    Init(InitArguments),
    /// Runs one node until SIGTERM or Ctrl-C
    Serve(ServeArguments),
    /// Runs a whole cluster on this machine until Ctrl-C
    Dev(DevArguments),
    /// Shows the nodes of a cluster, who leads, and what each node has done
    Status(StatusArguments),
    /// Appends records to a log
    Append(AppendArguments),
    /// Prints records of a log
    Read(ReadArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  catamaran init --config /etc/catamaran/node.toml

Run it once for each new node, never to bring a node back that lost its disk: the others remember
who it was, and refuse a stranger under its number.")]
pub(crate) struct InitArguments {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The tuning profile below it: laptop, ci, nvme or low-latency
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Prints the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  catamaran serve --config /etc/catamaran/node.toml
  catamaran serve --config /etc/catamaran/node.toml --profile nvme

SIGTERM or Ctrl-C ends it cleanly: it stops taking requests, answers those it has, and exits 0.")]
pub(crate) struct ServeArguments {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The tuning profile below it: laptop, ci, nvme or low-latency
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Accepts a file system without O_DIRECT, such as tmpfs: acknowledged records may be lost
    #[arg(long)]
    pub(crate) allow_buffered: bool,
    /// Also ends when stdin is closed: for a program that starts nodes and may die
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  catamaran dev
  catamaran dev --nodes 5 --shards 2 --groups 100 --dir /data/try
  catamaran dev --dir /data/try        starts the same cluster again, with what it holds

Node n serves clients at the base port + 1000 n (+ its shard number). What it is told about its
nodes, shards, groups and ports is kept in the directory; without these options a second start
takes them from there.")]
pub(crate) struct DevArguments {
    /// How many nodes: 1, 3, 5 or 7 [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<u16>,
    /// Where everything is kept; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "catamaran-dev")]
    pub(crate) dir: PathBuf,
    /// Node n gets the ports from P + 1000 n on [default: 20000]
    #[arg(long, value_name = "P")]
    pub(crate) base_port: Option<u16>,
    /// Shards of each node [default: 1]
    #[arg(long, value_name = "S")]
    pub(crate) shards: Option<u16>,
    /// Groups, which are logs: numbered 1 to G [default: 1]
    #[arg(long, value_name = "G")]
    pub(crate) groups: Option<u32>,
    /// The tuning profile of the nodes: laptop, ci, nvme or low-latency
    #[arg(long, value_name = "NAME", default_value = "laptop")]
    pub(crate) profile: String,
    /// Accepts a file system without O_DIRECT, such as tmpfs: acknowledged records may be lost
    #[arg(long)]
    pub(crate) allow_buffered: bool,
    /// Prints the endpoints as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ConnectArguments {
    /// Client ports of one or more nodes, HOST:PORT each; the rest of the cluster is learnt there
    #[arg(long, value_name = "A[,B...]", required = true, value_delimiter = ',')]
    pub(crate) connect: Vec<String>,
    /// How long to wait for an answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub(crate) timeout_ms: u64,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  catamaran status --connect 127.0.0.1:21000
  catamaran status --connect 10.0.0.1:8000,10.0.0.2:8000 --json

Ends with 3 if a node does not answer, after showing the others.")]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) to: ConnectArguments,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Prints every counter, also those that are zero
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  catamaran append --connect 127.0.0.1:21000 --group 1 hello world
  seq 100000 | catamaran append --connect 127.0.0.1:21000 --group 1

Each TEXT is one record; without any, each line of stdin is. Prints the index of each record once it
is durable on a majority. Stops at the first record that is not, with exit code 1 if it certainly
was not written and 6 if nobody knows.")]
pub(crate) struct AppendArguments {
    #[command(flatten)]
    pub(crate) to: ConnectArguments,
    /// Which log
    #[arg(long, value_name = "G")]
    pub(crate) group: u64,
    /// Prints one JSON object a record
    #[arg(long)]
    pub(crate) json: bool,
    /// The records
    #[arg(value_name = "TEXT")]
    pub(crate) records: Vec<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  catamaran read --connect 127.0.0.1:21000 --group 1
  catamaran read --connect 127.0.0.1:21000 --group 1 --from 1000 --max-records 10 --json
  catamaran read --connect 127.0.0.1:21000 --group 1 --raw > copy.txt

Prints each record as INDEX, a tab, and its text, from the first one that is left to the last one
that was committed when the reading began.")]
pub(crate) struct ReadArguments {
    #[command(flatten)]
    pub(crate) to: ConnectArguments,
    /// Which log
    #[arg(long, value_name = "G")]
    pub(crate) group: u64,
    /// The first index to print [default: the first one that is left]
    #[arg(long, value_name = "INDEX")]
    pub(crate) from: Option<u64>,
    /// Stops after this many
    #[arg(long, value_name = "N")]
    pub(crate) max_records: Option<u64>,
    /// Reads what the first node that answers has, which may be old
    #[arg(long)]
    pub(crate) stale: bool,
    /// Prints one JSON object a record: index, and text or (if it is not UTF-8) hex
    #[arg(long, conflicts_with = "raw")]
    pub(crate) json: bool,
    /// Prints the bytes of each record as they are, and a newline
    #[arg(long)]
    pub(crate) raw: bool,
}
