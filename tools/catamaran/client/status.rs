//! `status`: what every shard of every node says about itself.
//!
//! A shard answers with lines of a key and a value, and one line a group; this makes a page for
//! people or an object for programs of it. Keys that are new here are passed on, not dropped.

use std::collections::BTreeMap;

use catamaran::client::{Client, Metadata, Node};
use catamaran::model::ShardId;
use serde_json::{Map, Value, json};

use super::{connect, unless_closed};
use crate::args::StatusArguments;
use crate::failure::Failure;
use crate::terminal;

/// Groups that are listed one by one unless `--all` is given.
const GROUPS_SHOWN_MAX: usize = 32;

/// What one shard said.
#[derive(Debug, Default, PartialEq)]
struct ShardStatus {
    /// In the order of the shard's text.
    facts: Vec<(String, String)>,
    /// By number.
    groups: BTreeMap<u64, Vec<(String, String)>>,
}

/// A shard and what it said, or why it did not.
struct Answer {
    shard: ShardId,
    address: String,
    status: Result<ShardStatus, String>,
}

/// Asks every shard of every node.
pub(crate) fn status(arguments: &StatusArguments) -> Result<(), Failure> {
    let client = connect(&arguments.to)?;
    let metadata = client.metadata().map_err(|error| {
        Failure::environment(format!("{error}: check --connect and whether the nodes run"))
    })?;
    let nodes: Vec<(&Node, Vec<Answer>)> =
        metadata.nodes.iter().map(|node| (node, ask(&client, &metadata, node))).collect();
    let page = if arguments.json {
        as_json(&metadata, &nodes).to_string()
    } else {
        as_page(&metadata, &nodes, arguments.all)
    };
    unless_closed(terminal::result(page))?;
    let silent: Vec<&str> = nodes
        .iter()
        .flat_map(|(_, answers)| answers)
        .filter(|answer| answer.status.is_err())
        .map(|answer| answer.address.as_str())
        .collect();
    if silent.is_empty() {
        return Ok(());
    }
    Err(Failure::environment(format!(
        "no answer: {}: see whether the node runs and its ports are open",
        silent.join(", ")
    )))
}

fn ask(client: &Client, metadata: &Metadata, node: &Node) -> Vec<Answer> {
    let answer = |shard| {
        let address = node.address(shard);
        let status = client.status(&address).map(|text| parse(&text));
        Answer { shard, address, status: status.map_err(|error| error.problem) }
    };
    (0..metadata.shard_count).map(ShardId::new).map(answer).collect()
}

/// Reads a shard's text. Total: what is not understood is a fact without a value.
fn parse(text: &str) -> ShardStatus {
    let mut status = ShardStatus::default();
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let group = key.strip_prefix("group.").and_then(|number| number.parse().ok());
        match group {
            Some(group) => {
                let pairs = value.split(' ').filter_map(|pair| pair.split_once('='));
                let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
                status.groups.insert(group, pairs.collect());
            }
            None => status.facts.push((key.to_owned(), value.to_owned())),
        }
    }
    status
}

impl ShardStatus {
    fn fact(&self, key: &str) -> &str {
        let found = self.facts.iter().find(|(name, _)| name == key);
        found.map_or("?", |(_, value)| value)
    }
}

/// A number or a flag as such, anything else as text.
fn value(text: &str) -> Value {
    if let Ok(number) = text.parse::<u64>() {
        return json!(number);
    }
    match text {
        "true" => json!(true),
        "false" => json!(false),
        text => json!(text),
    }
}

fn object(pairs: &[(String, String)]) -> Map<String, Value> {
    pairs.iter().map(|(key, text)| (key.clone(), value(text))).collect()
}

fn as_json(metadata: &Metadata, nodes: &[(&Node, Vec<Answer>)]) -> Value {
    let shard = |answer: &Answer| match &answer.status {
        Ok(status) => {
            let groups = status.groups.iter().map(|(number, pairs)| {
                let mut group = object(pairs);
                group.insert("group".to_owned(), json!(number));
                Value::Object(group)
            });
            json!({
                "shard": answer.shard.get(),
                "address": answer.address,
                "facts": object(&status.facts),
                "groups": groups.collect::<Vec<_>>(),
            })
        }
        Err(problem) => json!({
            "shard": answer.shard.get(),
            "address": answer.address,
            "error": problem,
        }),
    };
    let node = |(node, answers): &(&Node, Vec<Answer>)| {
        json!({
            "id": node.node.get(),
            "shards": answers.iter().map(shard).collect::<Vec<_>>(),
        })
    };
    json!({
        "cluster_id": metadata.cluster.to_string(),
        "shards": metadata.shard_count,
        "groups": metadata.group_count,
        "nodes": nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

fn as_page(metadata: &Metadata, nodes: &[(&Node, Vec<Answer>)], all: bool) -> String {
    let mut page = format!(
        "cluster {}: {} node(s), {} shard(s), {} group(s)\n",
        metadata.cluster,
        nodes.len(),
        metadata.shard_count,
        metadata.group_count
    );
    for (node, answers) in nodes {
        for answer in answers {
            let name = format!("node {} shard {} {}", node.node, answer.shard, answer.address);
            match &answer.status {
                Ok(status) => page.push_str(&shard_lines(&name, status, all)),
                Err(problem) => page.push_str(&format!("\n{name}: no answer: {problem}\n")),
            }
        }
    }
    page.truncate(page.trim_end().len());
    page
}

fn shard_lines(name: &str, status: &ShardStatus, all: bool) -> String {
    let fact = |key| status.fact(key);
    let mut lines = format!(
        "\n{name}: boot {}, {}, registered {}, {} client(s)\n",
        fact("boot"),
        fact("durability"),
        fact("registered"),
        fact("clients"),
    );
    if fact("buffered") == "true" {
        lines.push_str("  BUFFERED: acknowledged records may be lost with the machine's memory\n");
    }
    if fact("disk_full") == "true" {
        lines.push_str("  DISK FULL: appends are refused\n");
    }
    let said = ["cluster", "node", "shard", "shard_count", "boot", "durability", "registered"];
    let said = [&said[..], &["clients", "buffered", "disk_full"]].concat();
    for (key, value) in &status.facts {
        if !said.contains(&key.as_str()) && (all || value != "0") {
            lines.push_str(&format!("  {key:<32} {value}\n"));
        }
    }
    let shown = if all { usize::MAX } else { GROUPS_SHOWN_MAX };
    for (group, pairs) in status.groups.iter().take(shown) {
        let pairs: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{key} {value}")).collect();
        lines.push_str(&format!("  group {group}: {}\n", pairs.join(", ")));
    }
    if status.groups.len() > shown {
        let more = status.groups.len() - shown;
        lines.push_str(&format!("  ... and {more} more group(s), shown by --all\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "node 2\nboot 7\ndurability dsync-buffered\nbuffered true\nturns 0\n\
                        peer.1.up true\nnew_key\ngroup.3 role=leader term=4 last=9\n";

    #[test]
    fn a_text_becomes_facts_and_groups() {
        let status = parse(TEXT);
        assert_eq!(status.fact("boot"), "7");
        assert_eq!(status.fact("new_key"), "");
        assert_eq!(status.fact("missing"), "?");
        assert_eq!(status.groups[&3][0], ("role".to_owned(), "leader".to_owned()));
        assert_eq!(parse(""), ShardStatus::default());
    }

    #[test]
    fn numbers_and_flags_are_such_in_json() {
        assert_eq!(value("7"), json!(7));
        assert_eq!(value("true"), json!(true));
        assert_eq!(value("leader"), json!("leader"));
    }

    #[test]
    fn people_are_warned_of_buffers_and_spared_zeros() {
        let lines = shard_lines("n", &parse(TEXT), false);
        assert!(lines.contains("BUFFERED"), "{lines}");
        assert!(!lines.contains("turns"), "{lines}");
        assert!(lines.contains("  group 3: role leader, term 4, last 9"), "{lines}");
        assert!(shard_lines("n", &parse(TEXT), true).contains("turns"));
    }
}
