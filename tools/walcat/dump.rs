//! The plain print: every sound block in the order of its file, with what stands in it.
//!
//! Shows what is there, void or not: stale blocks of an earlier lap are named as such, and
//! unreadable stretches are one line each. What of it counts is `--verify`'s business.

use std::path::Path;

use catamaran::model::{BatchKind, GroupId};
use catamaran::wal::{
    BlockError, BlockHeader, BlockRole, BlockView, DirectoryEntry, Lsn, Record, SegmentNo,
    parse_block_of,
};
use serde_json::{Value, json};

use crate::Failure;
use crate::log::{self, Log};

const STEP: usize = 4096;
/// Of a record, so much is shown.
const RECORD_BYTES_SHOWN: usize = 48;

/// What to print and how.
pub(crate) struct Options {
    pub(crate) json: bool,
    pub(crate) group: Option<u64>,
    pub(crate) records: bool,
}

impl Options {
    fn wants(&self, group: GroupId) -> bool {
        self.group.is_none_or(|wanted| wanted == group.get())
    }
}

/// Prints everything at `path`. True if every block that is not stale is sound.
pub(crate) fn run(path: &Path, options: &Options) -> Result<bool, Failure> {
    let mut is_sound = true;
    for log in log::open(path)? {
        if !options.json {
            println!("log {} identity {:#018x}", log.name, log.identity_tag);
        }
        for segment in log.files.keys() {
            is_sound &= dump_segment(&log, *segment, options)?;
        }
    }
    Ok(is_sound)
}

fn dump_segment(log: &Log, segment: SegmentNo, options: &Options) -> Result<bool, Failure> {
    let bytes = log.read_segment(segment)?;
    let start = log.start_of(segment);
    if !options.json {
        println!("segment {} at LSN {start}, {} bytes", segment.file_name(), bytes.len());
    }
    let (mut at, mut is_sound) = (0, true);
    // A stretch without a sound block: where it began, and why.
    let mut gap: Option<(usize, BlockError)> = None;
    while at + STEP <= bytes.len() {
        let lsn = start.plus(at as u64);
        let parsed = parse_block_of(&bytes[at..], lsn, log.identity_tag)
            .and_then(|block| block.verify().map(|()| block));
        match parsed {
            Ok(block) => {
                print_gap(gap.take(), start, at, options);
                print_block(segment, at, &block, options);
                at += block.total_bytes() as usize;
            }
            Err(error) => {
                // A header of our own that belongs here and still does not verify.
                let is_damaged = BlockHeader::decode(&bytes[at..]).is_ok_and(|header| {
                    header.stamp.lsn == lsn && header.stamp.identity_tag == log.identity_tag
                });
                if is_damaged {
                    print_gap(gap.take(), start, at, options);
                    is_sound = false;
                }
                gap.get_or_insert((at, error));
                at += STEP;
            }
        }
    }
    print_gap(gap, start, bytes.len(), options);
    Ok(is_sound)
}

fn print_gap(gap: Option<(usize, BlockError)>, start: Lsn, end: usize, options: &Options) {
    let Some((at, error)) = gap else { return };
    let bytes = end - at;
    let lsn = start.plus(at as u64);
    if options.json {
        let line = json!({ "lsn": lsn.get(), "bytes": bytes, "no_block": error.to_string() });
        println!("{line}");
    } else {
        println!("  @{lsn} {bytes} bytes: {error}");
    }
}

fn role_name(role: BlockRole) -> &'static str {
    match role {
        BlockRole::Data => "data",
        BlockRole::SegmentOpen => "segment-open",
        BlockRole::Seal => "seal",
    }
}

fn print_block(segment: SegmentNo, offset: usize, block: &BlockView<'_>, options: &Options) {
    let entries: Vec<DirectoryEntry> =
        block.entries().filter(|entry| options.wants(entry.group)).collect();
    let records: Vec<Record> = block.records().filter(|record| shown(record, options)).collect();
    if options.group.is_some() && entries.is_empty() && records.is_empty() {
        return;
    }
    if options.json {
        let batches: Vec<Value> =
            entries.iter().map(|entry| batch_json(block, entry, options)).collect();
        let line = json!({
            "segment": segment.0,
            "offset": offset,
            "lsn": block.lsn().get(),
            "total_bytes": block.total_bytes(),
            "used_bytes": block.header().used_bytes,
            "durable_lsn": block.durable_lsn().get(),
            "role": role_name(block.role()),
            "batches": batches,
            "records": records.iter().map(record_line).collect::<Vec<_>>(),
        });
        println!("{line}");
        return;
    }
    println!(
        "  @{} {} bytes, used {}, durable {}, {}",
        block.lsn(),
        block.total_bytes(),
        block.header().used_bytes,
        block.durable_lsn(),
        role_name(block.role())
    );
    for record in &records {
        println!("    {}", record_line(record));
    }
    for entry in &entries {
        println!("    {}", batch_line(entry));
        if options.records {
            records_of(block, entry).for_each(|(index, text)| println!("      {index}: {text}"));
        }
    }
}

fn shown(record: &Record, options: &Options) -> bool {
    match record {
        Record::SegmentOpen(_) => options.group.is_none(),
        Record::HardState { group, .. }
        | Record::TermRuns { group, .. }
        | Record::Membership { group, .. } => options.wants(*group),
        Record::LogReset(reset) => options.wants(reset.group),
        Record::Group(checkpoint) => options.wants(checkpoint.group),
    }
}

fn kind_name(kind: BatchKind) -> &'static str {
    match kind {
        BatchKind::Records => "records",
        BatchKind::Noop => "no-op",
        BatchKind::Configuration => "configuration",
    }
}

fn batch_line(entry: &DirectoryEntry) -> String {
    format!(
        "batch group {} term {} index {}..={} {} {} bytes at {}",
        entry.group,
        entry.span.term,
        entry.span.first,
        entry.span.last(),
        kind_name(entry.kind),
        entry.bytes,
        entry.offset
    )
}

fn batch_json(block: &BlockView<'_>, entry: &DirectoryEntry, options: &Options) -> Value {
    let mut batch = json!({
        "group": entry.group.get(),
        "replica": entry.replica.get(),
        "term": entry.span.term.get(),
        "first": entry.span.first.get(),
        "count": entry.span.count.get(),
        "kind": kind_name(entry.kind),
        "offset": entry.offset,
        "bytes": entry.bytes,
    });
    if options.records {
        batch["records"] = records_of(block, entry).map(|(_, text)| Value::from(text)).collect();
    }
    batch
}

/// Index and the first bytes of each record, escaped.
fn records_of<'a>(
    block: &BlockView<'a>,
    entry: &DirectoryEntry,
) -> impl Iterator<Item = (u64, String)> + use<'a> {
    let batch = block.batch(entry).expect("verified before it is printed");
    batch.records().map(|record| match record {
        Ok((index, bytes)) => {
            let shown = &bytes[..bytes.len().min(RECORD_BYTES_SHOWN)];
            let more = if shown.len() < bytes.len() { "..." } else { "" };
            (index.get(), format!("{} bytes \"{}\"{more}", bytes.len(), shown.escape_ascii()))
        }
        Err(error) => (0, error.to_string()),
    })
}

fn record_line(record: &Record) -> String {
    match record {
        Record::SegmentOpen(open) => format!(
            "opening part {} of {}: void {}..{}, oldest segment needed {}, window {} bytes",
            open.part + 1,
            open.parts,
            open.void.from,
            open.void.to,
            open.oldest.0,
            open.window_bytes
        ),
        Record::HardState { group, replica, state } => format!(
            "hard state group {group} replica {replica} term {} vote {} commit {}",
            state.term,
            state.vote.map_or_else(|| "none".to_owned(), |node| node.to_string()),
            state.commit
        ),
        Record::LogReset(reset) => format!(
            "log reset group {} replica {} behind {:?}, tail {}",
            reset.group,
            reset.replica,
            reset.last,
            if reset.keep_tail { "kept" } else { "dropped" }
        ),
        Record::Group(group) => format!(
            "checkpoint group {} replica {} term {} commit {} base {:?} last {:?}",
            group.group,
            group.replica,
            group.hard_state.term,
            group.hard_state.commit,
            group.base,
            group.last
        ),
        Record::TermRuns { group, runs } => {
            let runs: Vec<String> =
                runs.iter().map(|run| format!("{:?} from {}", run.term, run.first)).collect();
            format!("terms group {group}: {}", runs.join(", "))
        }
        Record::Membership { group, index, membership } => {
            format!("configuration group {group} index {index}: {} voters", membership.voters.len())
        }
    }
}
