//! `--verify`: what a start would say of each log, and what each group would start from.

use std::path::Path;

use catamaran::wal::{Recovered, RecoveredGroup};
use serde_json::json;

use crate::Failure;
use crate::log::{self, Log};

/// Recovers every log at `path` and prints the outcome.
pub(crate) fn run(path: &Path, group: Option<u64>, json: bool) -> Result<bool, Failure> {
    let mut refused = None;
    for log in log::open(path)? {
        match log.recover()? {
            Ok(recovered) => print(&log, &recovered, group, json),
            Err(error) => {
                let line = format!("{}: {error}", log.name);
                if json {
                    println!("{}", json!({ "log": log.name, "refused": error.to_string() }));
                }
                refused.get_or_insert(line);
            }
        }
    }
    refused.map_or(Ok(true), |line| Err(Failure::Corrupt(line)))
}

fn print(log: &Log, recovered: &Recovered, group: Option<u64>, json: bool) {
    let cut = recovered.cut.map(|cut| {
        format!(
            "cut at LSN {}: {} unacknowledged blocks up to LSN {} discarded ({})",
            cut.lsn, cut.discarded_blocks, cut.discarded_until, cut.reason
        )
    });
    let groups =
        recovered.groups.iter().filter(|log| group.is_none_or(|wanted| wanted == log.group.get()));
    if json {
        let groups: Vec<_> = groups.map(group_json).collect();
        let line = json!({
            "log": log.name,
            "end_lsn": recovered.end.get(),
            "durable_lsn": recovered.durable_lsn.get(),
            "segments_kept": recovered.kept.len(),
            "segments_spare": recovered.spare.len(),
            "segments_set_aside": recovered.set_aside.len(),
            "cut": cut,
            "groups": groups,
        });
        println!("{line}");
        return;
    }
    println!(
        "log {}: sound up to LSN {}, durable {}, {} segments kept, {} spare, {} set aside",
        log.name,
        recovered.end,
        recovered.durable_lsn,
        recovered.kept.len(),
        recovered.spare.len(),
        recovered.set_aside.len()
    );
    if let Some(cut) = cut {
        println!("  {cut}");
    }
    for group in groups {
        println!(
            "  group {} replica {} term {} commit {} base {:?} last {:?}",
            group.group,
            group.replica,
            group.hard_state.term,
            group.hard_state.commit,
            group.base,
            group.last
        );
    }
}

fn group_json(group: &RecoveredGroup) -> serde_json::Value {
    json!({
        "group": group.group.get(),
        "replica": group.replica.get(),
        "term": group.hard_state.term.get(),
        "commit": group.hard_state.commit.get(),
        "base": { "term": group.base.term.get(), "index": group.base.index.get() },
        "last": { "term": group.last.term.get(), "index": group.last.index.get() },
    })
}
