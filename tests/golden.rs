//! Golden scripts: what exactly happens between replicas in one situation, one claim a file.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test golden` rewrites the outputs; a changed line is then
//! reviewed against the claim in the file's head. The vocabulary is [`Script::run`]. A line
//! `# marks: NAME ..` claims coverage marks, which the script must hit; `GOLDEN_MARKS=1` prints
//! those that each script hits.

mod replicas;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use catamaran::base::mark::{Hits, Mark};
use catamaran::model::limits::VOTERS_MAX;
use catamaran::model::{
    BatchKind, EntryId, HardState, LogIndex, Member, Membership, NodeId, RecordCount, ReplicaId,
    Span, Term,
};
use catamaran::raft::{Append, Device, Envelope, LogBatch, Message, Window};
use goldenscript::{Argument, Command, Context, Runner};

use replicas::disk::Image;
use replicas::{Body, Cluster, GROUP, Options, Packet, node, replica, trace};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Runs one script.
#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
}

/// The arguments of one command, looked up by name.
struct Args<'a>(&'a [Argument]);

impl<'a> Args<'a> {
    fn find(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find_map(|argument| {
            if let Argument::KeyValue(key, value) = argument
                && key == name
            {
                return Some(value.as_str());
            }
            None
        })
    }

    fn need(&self, name: &str) -> Outcome<&'a str> {
        self.find(name).ok_or_else(|| format!("needs {name}=").into())
    }

    fn number(&self, name: &str) -> Outcome<Option<u64>> {
        Ok(self.find(name).map(str::parse).transpose()?)
    }

    fn words(&self) -> Vec<&'a str> {
        let word = |argument: &'a Argument| {
            if let Argument::Positional(word) = argument { Some(word.as_str()) } else { None }
        };
        self.0.iter().filter_map(word).collect()
    }

    fn nodes(&self) -> Outcome<Vec<NodeId>> {
        self.words().into_iter().map(node_of).collect()
    }

    fn one(&self) -> Outcome<NodeId> {
        self.nodes()?.first().copied().ok_or_else(|| "needs a node".into())
    }

    fn membership(&self) -> Outcome<Membership> {
        let list = |name| -> Outcome<Vec<Member>> {
            let names = self.find(name).unwrap_or_default();
            let names = names.split(',').filter(|name| !name.is_empty());
            names
                .map(|name| node_of(name).map(|node| Member { node, replica: replica(node) }))
                .collect()
        };
        let membership = Membership {
            voters: list("voters")?,
            outgoing: list("outgoing")?,
            learners: list("learners")?,
        };
        membership.check().map_err(|error| format!("{error:?}"))?;
        Ok(membership)
    }
}

fn node_of(text: &str) -> Outcome<NodeId> {
    let id = text.strip_prefix('n').ok_or_else(|| format!("{text:?} is no node"))?;
    Ok(node(id.parse()?))
}

/// `4.t2` is entry 4 of term 2; `0` is before the log.
fn entry_of(text: &str) -> Outcome<EntryId> {
    let (index, term) = text.split_once(".t").unwrap_or((text, "0"));
    Ok(EntryId::new(Term::new(term.parse()?), LogIndex::new(index.parse()?)))
}

/// `4.t2` or, for a batch of several records, `4-6.t2`.
fn span_of(text: &str) -> Outcome<Span> {
    let (range, term) = text.split_once(".t").ok_or("a span is written 4-6.t2")?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u64, u64) = (first.parse()?, last.parse()?);
    Ok(Span {
        term: Term::new(term.parse()?),
        first: LogIndex::new(first),
        count: RecordCount::new(u32::try_from(last + 1 - first)?),
    })
}

fn spans_of(text: &str) -> Outcome<Vec<Span>> {
    text.split_whitespace().map(span_of).collect()
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Outcome<String> {
        let args = Args(&command.args);
        match command.name.as_str() {
            "cluster" => {
                self.make_cluster(&args)?;
                return Ok(String::new());
            }
            "majority" | "joint" => return quorum(&args),
            _ => {}
        }
        let cluster = self.cluster.as_mut().ok_or("no cluster yet")?;
        let known = time(cluster, &command.name, &args)?
            || requests(cluster, &command.name, &args)?
            || network(cluster, &command.name, &args)?
            || machines(cluster, &command.name, &args)?
            || looks(cluster, &command.name, &args)?;
        if !known {
            return Err(format!("unknown command {}", command.name).into());
        }
        Ok(take_lines(cluster))
    }

    fn end_command(&mut self, _command: &Command, _context: &Context) -> Outcome<String> {
        if let Some(cluster) = &self.cluster {
            cluster.check_all();
        }
        Ok(String::new())
    }
}

fn take_lines(cluster: &mut Cluster) -> String {
    cluster.lines.drain(..).map(|line| line + "\n").collect()
}

impl Script {
    /// `cluster nodes=3 [leader=n1] [others=1] [tail=N] [window=BATCHES] [window_bytes=N] [slots=WRITES]
    /// [block=BATCHES] [seed=N]`:
    /// fresh replicas; with `leader`, one is elected, has committed its no-op, and all know it.
    fn make_cluster(&mut self, args: &Args<'_>) -> Outcome<()> {
        let mut options = Options::default();
        if let Some(tail) = args.number("tail")? {
            options.tail_batches_max = usize::try_from(tail)?;
        }
        if let Some(batches) = args.number("window")? {
            options.window = Window { batches_max: u32::try_from(batches)?, ..options.window };
        }
        if let Some(bytes) = args.number("window_bytes")? {
            options.window = Window { bytes_max: bytes, ..options.window };
        }
        if let Some(slots) = args.number("slots")? {
            options.write_slots = usize::try_from(slots)?;
        }
        if let Some(items) = args.number("block")? {
            options.block_items_max = usize::try_from(items)?;
        }
        if let Some(seed) = args.number("seed")? {
            options.seed = seed;
        }
        let nodes = u16::try_from(args.number("nodes")?.ok_or("needs nodes=")?)?;
        assert!(usize::from(nodes) <= VOTERS_MAX);
        let others = u16::try_from(args.number("others")?.unwrap_or(0))?;
        let mut cluster = Cluster::new(nodes, others, options);
        if let Some(leader) = args.find("leader") {
            let leader = node_of(leader)?;
            cluster.timeout(leader);
            cluster.stabilize();
            cluster.heartbeat(leader);
            cluster.stabilize();
            cluster.lines.clear();
        }
        self.cluster = Some(cluster);
        Ok(())
    }
}

/// `timeout N`: time passes to its deadline. `heartbeat N`: 50 ms pass. Others do not notice yet.
/// `campaign N`: `timeout` and `stabilize`. `wait ms=N`: time passes for all. `pause ms=N`: time
/// passes and nobody acts.
fn time(cluster: &mut Cluster, name: &str, args: &Args<'_>) -> Outcome<bool> {
    match name {
        "timeout" => cluster.timeout(args.one()?),
        "heartbeat" => cluster.heartbeat(args.one()?),
        "tick" => cluster.tick(args.one()?),
        "campaign" => {
            cluster.timeout(args.one()?);
            cluster.stabilize();
        }
        "wait" => cluster.run(Duration::from_millis(args.number("ms")?.ok_or("needs ms=")?)),
        "pause" => {
            let ms = args.number("ms")?.ok_or("needs ms=")?;
            cluster.now = cluster.now.after(Duration::from_millis(ms));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// `put N [records=R] [batches=B]`, `configure N voters=n1,n2 [outgoing=..] [learners=..]`,
/// `read N [count=C]` (C reads in one turn), `trim N INDEX`, `evict N INDEX`, and what a leader that is not there could send:
/// `follow N leader=L term=T prev=I.tT entries=".." [commit=I] [to_replica=R]`.
fn requests(cluster: &mut Cluster, name: &str, args: &Args<'_>) -> Outcome<bool> {
    match name {
        "put" => {
            let records = u32::try_from(args.number("records")?.unwrap_or(1))?;
            for _ in 0..args.number("batches")?.unwrap_or(1) {
                cluster.put(args.one()?, records);
            }
        }
        "configure" => cluster.configure(args.one()?, args.membership()?),
        "read" => cluster.read(args.one()?, args.number("count")?.unwrap_or(1)),
        "trim" | "evict" => {
            let words = args.words();
            let (id, index) = (node_of(words[0])?, words[1].parse()?);
            if name == "trim" { cluster.trim(id, index) } else { cluster.evict(id, index) }
        }
        "follow" => follow(cluster, args)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn follow(cluster: &mut Cluster, args: &Args<'_>) -> Outcome<()> {
    let (to, leader) = (args.one()?, node_of(args.need("leader")?)?);
    let term = Term::new(args.number("term")?.ok_or("needs term=")?);
    let commit = LogIndex::new(args.number("commit")?.unwrap_or(0));
    let mut prev = entry_of(args.need("prev")?)?;
    let to_replica = args.number("to_replica")?;
    for span in spans_of(args.need("entries")?)? {
        let append = Append {
            from_replica: replica(leader),
            to_replica: match to_replica {
                Some(id) => ReplicaId::new(u32::try_from(id)?),
                None => replica(to),
            },
            term,
            prev,
            commit,
            batch: LogBatch { span, kind: BatchKind::Records, bytes: 100, slice: None },
            membership: None,
        };
        cluster.append(leader, to, append);
        prev = span.last_entry();
    }
    Ok(())
}

/// `deliver N.. [from=M]`, `drop N [from=M]`, `copy N` and `replay` (what waits for N comes once
/// more, later), `stabilize`, `cut N M [oneway=yes]`, `isolate N`, `heal`, `reset N M`, `packets`,
/// and `say KIND from=N to=M term=T [from_replica=R]
/// [to_replica=R] ..`: a message that
/// nobody sent.
fn network(cluster: &mut Cluster, name: &str, args: &Args<'_>) -> Outcome<bool> {
    let from = args.find("from").map(node_of).transpose()?;
    match name {
        "deliver" => {
            for to in args.nodes()? {
                cluster.deliver(to, from);
            }
        }
        "drop" => {
            let to = args.one()?;
            cluster.packets.retain(|p| p.to != to || from.is_some_and(|from| p.from != from));
        }
        "copy" => {
            let to = args.one()?;
            cluster.copies = cluster.packets.iter().filter(|p| p.to == to).cloned().collect();
        }
        "replay" => {
            for packet in core::mem::take(&mut cluster.copies) {
                cluster.say(|| packet.text());
                cluster.hand_over(packet);
            }
        }
        "stabilize" => cluster.stabilize(),
        "cut" => {
            let nodes = args.nodes()?;
            cluster.cut(nodes[0], nodes[1]);
            if args.find("oneway").is_none() {
                cluster.cut(nodes[1], nodes[0]);
            }
        }
        "isolate" => {
            let id = args.one()?;
            let peers: Vec<NodeId> = cluster.nodes.keys().copied().filter(|p| *p != id).collect();
            for peer in peers {
                cluster.cut(id, peer);
                cluster.cut(peer, id);
            }
        }
        "heal" => cluster.heal(),
        "reset" => {
            let nodes = args.nodes()?;
            cluster.reset_link(nodes[0], nodes[1]);
        }
        "packets" => {
            let waiting: Vec<String> = cluster.packets.iter().map(|p| p.text()).collect();
            cluster.lines.extend(waiting);
        }
        "say" => say(cluster, args)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn say(cluster: &mut Cluster, args: &Args<'_>) -> Outcome<()> {
    let index =
        |name| -> Outcome<LogIndex> { Ok(LogIndex::new(args.number(name)?.unwrap_or_default())) };
    let entry = |name| entry_of(args.need(name)?);
    let round = args.number("round")?.unwrap_or_default();
    let granted = args.find("granted") == Some("yes");
    let message = match *args.words().first().ok_or("say what?")? {
        "pre-vote" => Message::PreVote { last: entry("last")? },
        "pre-vote-reply" => Message::PreVoteReply { granted },
        "vote" => Message::Vote { last: entry("last")? },
        "vote-reply" => Message::VoteReply { granted },
        "heartbeat" => Message::Heartbeat { commit: index("commit")?, round },
        "heartbeat-reply" => Message::HeartbeatReply { round },
        "probe" => Message::Probe { prev: entry("prev")?, commit: index("commit")? },
        "accepted" => Message::Accepted { matched: index("match")? },
        "rejected" => Message::Rejected { prev: index("prev")?, hint: entry("hint")? },
        "snapshot" => Message::Snapshot { last: entry("last")?, membership: args.membership()? },
        other => return Err(format!("{other} is no message").into()),
    };
    let (from, to) = (node_of(args.need("from")?)?, node_of(args.need("to")?)?);
    let replica_of = |name, node| -> Outcome<ReplicaId> {
        let number = args.number(name)?.map(u32::try_from).transpose()?;
        Ok(number.map_or(replica(node), ReplicaId::new))
    };
    let envelope = Envelope {
        group: GROUP,
        peer: to,
        from_replica: replica_of("from_replica", from)?,
        to_replica: replica_of("to_replica", to)?,
        term: Term::new(args.number("term")?.ok_or("needs term=")?),
        message,
    };
    cluster.hand_over(Packet { from, to, body: Body::Control(envelope) });
    Ok(())
}

/// `hold_disk N..`, `release_disk N..`, `complete N` (the oldest held write), `crash N [keep=W]`
/// (W writes in flight survive), `device N.. stuck|works` (what its shard found), `restart N`, `wipe N [but=hard_state]`, `hold_fetch N`,
/// `release_fetch N`, and `boot N term=T [vote=M] [commit=I] [base=I.tT] entries=".."`: a replica
/// that finds this on its disk. `agreed entries=".."`: what counts as committed, where the leader
/// that committed it is not played.
fn machines(cluster: &mut Cluster, name: &str, args: &Args<'_>) -> Outcome<bool> {
    match name {
        "hold_disk" | "release_disk" => {
            for id in args.nodes()? {
                cluster.hold(id, name == "hold_disk");
            }
        }
        "device" => {
            let words = args.words();
            let (state, ids) = words.split_last().ok_or("needs a state")?;
            let device = match *state {
                "stuck" => Device::Stuck,
                "works" => Device::Works,
                other => return Err(format!("a device is not {other}").into()),
            };
            for id in ids {
                let id = node_of(id)?;
                cluster.with(id, |group, now, fx| group.on_device(now, device, fx));
            }
        }
        "complete" => {
            if !cluster.complete(args.one()?) {
                return Err("nothing is held".into());
            }
        }
        "crash" => {
            let keep = usize::try_from(args.number("keep")?.unwrap_or(0))?;
            cluster.crash(args.one()?, keep);
        }
        "restart" => {
            for id in args.nodes()? {
                cluster.restart(id);
            }
        }
        "wipe" => {
            cluster.oracle.trust_lost = true;
            cluster.wipe(args.one()?, args.find("but") == Some("hard_state"));
        }
        "hold_fetch" | "release_fetch" => {
            let id = args.one()?;
            cluster.nodes.get_mut(&id).ok_or("unknown node")?.fetches_held = name == "hold_fetch";
            cluster.tick(id);
        }
        "boot" => boot(cluster, args)?,
        "agreed" => {
            for span in spans_of(args.need("entries")?)? {
                let terms = core::iter::repeat_n(span.term, span.count.get() as usize);
                cluster.oracle.committed.extend(terms);
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn boot(cluster: &mut Cluster, args: &Args<'_>) -> Outcome<()> {
    let mut image = Image::new(cluster.initial.clone());
    image.hard = HardState {
        term: Term::new(args.number("term")?.ok_or("needs term=")?),
        vote: args.find("vote").map(node_of).transpose()?,
        commit: LogIndex::new(args.number("commit")?.unwrap_or(0)),
    };
    if let Some(base) = args.find("base") {
        image.base = entry_of(base)?;
    }
    for span in spans_of(args.find("entries").unwrap_or_default())? {
        image.spans.push((span, BatchKind::Records, 100));
    }
    // What a script says is committed counts as committed for the oracle.
    let first = cluster.oracle.committed.len() as u64 + 1;
    for index in first..=image.hard.commit.get() {
        let term = image.term_at(LogIndex::new(index));
        cluster.oracle.committed.push(term.unwrap_or(image.base.term));
    }
    cluster.boot(args.one()?, image);
    Ok(())
}

/// `status [N..]`, `log N..`, `counters N`, `deadline N`.
fn looks(cluster: &mut Cluster, name: &str, args: &Args<'_>) -> Outcome<bool> {
    let mut nodes = args.nodes().unwrap_or_default();
    if nodes.is_empty() {
        nodes = cluster.nodes.keys().copied().collect();
    }
    match name {
        "status" => {
            for id in nodes {
                let line = cluster.status(id);
                cluster.lines.push(line);
            }
        }
        "log" => {
            for id in nodes {
                let group = cluster.group(id);
                let mut line = format!("{id:?} log behind {:?}:", group.base());
                let mut at = group.base().index;
                while at < group.last().index {
                    at = at.next();
                    let span = group.span_at(at).ok_or("too old for the tail")?.span;
                    line += &format!(" {}", trace::span(&span));
                    at = span.last();
                }
                line += &format!(" | {}", trace::membership(group.membership()));
                cluster.lines.push(line);
            }
        }
        "deadline" => {
            for id in nodes {
                let left = cluster.group(id).deadline().since(cluster.now).as_millis();
                cluster.lines.push(format!("{id:?} deadline in {left} ms"));
            }
        }
        "counters" => {
            let id = args.one()?;
            let counters = cluster.group(id).counters();
            cluster.lines.push(format!(
                "{id:?} nonsense {} stalled {} reversions {} campaigns {}",
                counters.nonsense, counters.stalled, counters.reversions, counters.campaigns
            ));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// `majority durable="7 5 _"`, `joint old=".." new=".."`: the arithmetic as a picture.
fn quorum(args: &Args<'_>) -> Outcome<String> {
    let parse = |text: &str| -> Outcome<Vec<Option<u64>>> {
        let word = |word: &str| if word == "_" { Ok(None) } else { word.parse().map(Some) };
        Ok(text.split_whitespace().map(word).collect::<Result<_, _>>()?)
    };
    let half = |values: &[Option<u64>], first: u16| -> Membership {
        let ids: Vec<NodeId> = (first..).take(values.len()).map(node).collect();
        Membership::of_voters(&ids)
    };
    if let Some(durable) = args.find("durable") {
        let values = parse(durable)?;
        let of = |id: NodeId| values[usize::from(id.get()) - 1].unwrap_or(0);
        let commit = half(&values, 1).quorum_value(of);
        let mut out = String::new();
        for (at, value) in values.iter().enumerate() {
            let bar = value.map_or("?".into(), |v| "=".repeat(usize::try_from(v).unwrap_or(0)));
            let number = value.map_or(String::new(), |v| format!(" {v}"));
            out += &format!("n{} {bar}{number}\n", at + 1);
        }
        return Ok(out + &format!("commit {commit}"));
    }
    let (old, new) = (parse(args.need("old")?)?, parse(args.need("new")?)?);
    let all: Vec<Option<u64>> = old.iter().chain(&new).copied().collect();
    let of = |id: NodeId| all[usize::from(id.get()) - 1].unwrap_or(0);
    let (a, b) = (half(&old, 1), half(&new, 1 + u16::try_from(old.len())?));
    let joint = Membership { outgoing: a.voters.clone(), ..b.clone() };
    let swapped = Membership { outgoing: b.voters.clone(), ..a.clone() };
    assert_eq!(joint.quorum_value(of), swapped.quorum_value(of), "the halves weigh the same");
    Ok(format!(
        "old {}\nnew {}\ncommit {}",
        a.quorum_value(of),
        b.quorum_value(of),
        joint.quorum_value(of)
    ))
}

/// The marks that a script claims and does not hit, a line each.
fn missed_marks(name: &str, text: &str, hits: &Hits) -> Vec<String> {
    if std::env::var_os("GOLDEN_MARKS").is_some() {
        let hit = Mark::ALL.iter().filter(|(mark, _)| hits.of(*mark) > 0);
        let hit: Vec<&str> = hit.map(|(_, name)| *name).collect();
        #[expect(clippy::print_stderr, reason = "whoever sets the variable wants to read it")]
        {
            eprintln!("{name}: {}", hit.join(" "));
        }
    }
    let claims = text.lines().filter_map(|line| line.strip_prefix("# marks:"));
    claims
        .flat_map(str::split_whitespace)
        .filter(|claim| Mark::named(claim).is_none_or(|mark| hits.of(mark) == 0))
        .map(|claim| format!("{name}: claims the mark {claim} and does not hit it"))
        .collect()
}

#[test]
fn scripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/raft");
    let mut paths: Vec<_> = std::fs::read_dir(&dir)
        .expect("the scripts are there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    let only = std::env::var("GOLDEN").unwrap_or_default();
    let (count, mut failed) = (paths.len(), Vec::new());
    for path in paths {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        for head in ["# claim:", "# source:", "# rule:"] {
            assert!(text.contains(head), "{name} lacks {head:?}");
        }
        // All scripts run even if one fails: a broken rule should show every script it breaks.
        let _before = Hits::take();
        let run = || goldenscript::run(&mut Script::default(), &path);
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}: {error}")),
            Err(_) => failed.push(format!("{name}: see above")),
        }
        failed.extend(missed_marks(&name, &text, &Hits::take()));
    }
    assert!(failed.is_empty(), "{} scripts fail:\n{}", failed.len(), failed.join("\n"));
    assert!(45 <= count, "scripts are missing: there are {count}");
}
