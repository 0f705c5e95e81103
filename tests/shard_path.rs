//! The data path of three real shards over a perfect network and disks in memory.
//!
//! Apart from the simulator because nothing goes wrong here: these are the figures and facts of
//! the path itself (copies, blocks, replies), and what a shard finds again after a restart. What
//! goes wrong at a chosen moment is in `shard_faults.rs`.

mod shard_world;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use catamaran::claims;
use catamaran::model::batch::{BATCH_HEADER_BYTES, BatchView};
use catamaran::model::limits::{
    BATCHES_PER_BLOCK_MAX, FRAME_BYTES_MAX, INPUTS_PER_TURN_MAX, QUESTION_BYTES_PER_TURN_MAX,
    QUESTIONS_PER_CONNECTION_MAX, READ_BACK_EXTENTS_PER_PEER_MAX, READ_BYTES_PER_TURN_MAX,
};
use catamaran::model::{ConnId, GroupId, LogIndex};
use catamaran::raft::RoleName;
use catamaran::shard::{Effect, Effects, Input, RetentionLimits};
use catamaran::wal::{DirectoryEntry, Geometry, parse_block};
use catamaran::wire::client::{
    Consistency, Hello, Read, Reply, encode_append, encode_hello, encode_metadata, encode_read,
    encode_status,
};
use catamaran::wire::{FRAME_HEADER_BYTES, FrameHeader};

use shard_world::{CLIENT, CLUSTER, Node, SMALL, Setup, World, records};

#[test]
fn appends_are_replicated_acknowledged_and_read_back() {
    let mut world = World::new(Geometry::PRODUCTION, 3, RetentionLimits::default());
    world.run(1000);
    for correlation in 1..=100 {
        world.append(1 + correlation % 3, correlation, &records(3, 200));
    }
    world.run(100);
    assert_eq!(world.count_done(), 100);
    let leader = world.leader(1);
    let read = world.read(leader, 1, 2, Consistency::Linearizable);
    assert_eq!(read.len(), 99);
    // Followers learn the commit index too and serve stale reads from their own device.
    let follower = (leader + 1) % 3;
    assert_eq!(world.read(follower, 1, 2, Consistency::Stale).len(), 99);
}

#[test]
fn a_record_is_copied_once_on_the_leader_and_never_on_a_follower() {
    let mut world = World::new(Geometry::PRODUCTION, 1, RetentionLimits::default());
    world.run(1000);
    for correlation in 1..=64 {
        world.append(1, correlation, &records(1000, 200));
    }
    world.run(200);
    assert_eq!(world.count_done(), 64);
    let leader = world.leader(1);
    let run_bytes = 64 * 1000 * (200 + 4);
    let counters = world.nodes[leader].shard.counters();
    assert_eq!(counters.copied_bytes_leader, run_bytes, "one copy of each record");
    for (at, node) in world.nodes.iter().enumerate() {
        if at != leader {
            let counters = node.shard.counters();
            assert!(counters.direct_bytes_follower >= run_bytes, "{counters:?}");
            assert!(counters.copied_bytes_follower < 1000, "the no-op's small frame: {counters:?}");
        }
    }
}

#[test]
fn a_restart_of_all_nodes_finds_every_acknowledged_record() {
    let mut world = World::new(SMALL, 2, RetentionLimits::default());
    world.run(1000);
    for round in 0..5_u64 {
        for correlation in 1..=40 {
            world.append(1, correlation, &records(10, 100));
            world.append(2, 1000 + correlation, &records(1, 1000));
            world.run(2);
        }
        world.run(50);
        assert_eq!(world.count_done(), 80, "round {round}");
        for at in 0..3 {
            world.resume(at);
        }
        world.run(1000);
        world.count_done();
    }
    let leader = world.leader(1);
    // 5 rounds of 400 records, and a no-op for each of the terms in between.
    let last = world.nodes[leader].shard.group(GroupId::new(1)).expect("there").last();
    assert!(last.index.get() >= 2000 + 6, "{last:?}");
    let (mut seen, mut next) = (0, 1);
    while next <= last.index.get() {
        let read = world.read(leader, 1, next, Consistency::Linearizable);
        assert!(!read.is_empty(), "nothing at {next} of {last:?}");
        seen += read.iter().filter(|record| record.len() == 100).count();
        next += read.len() as u64;
    }
    assert_eq!(seen, 2000);
}

#[test]
fn retention_moves_the_first_index_and_reuses_segments() {
    let retention = RetentionLimits { bytes_per_group: 512 << 10, records_per_group: 0 };
    let mut world = World::new(SMALL, 2, retention);
    world.run(1000);
    // Group 2 writes a little once and is quiet from then on.
    world.append(2, 1, &records(1, 500));
    for correlation in 2..=600 {
        world.append(1, correlation, &records(10, 1000));
        world.run(4);
    }
    world.run(300);
    assert_eq!(world.count_done(), 600);
    for node in &world.nodes {
        let first = node.shard.group(GroupId::new(1)).expect("there").first_index();
        assert!(first.get() > 1000, "{first:?}");
        let files = node.disk.len();
        assert!(files < 14, "{files} files of 256 KiB for a log of 512 KiB and 6 MiB written");
        assert!(node.shard.counters().wal_segments_recycled > 5);
    }
    let leader = world.leader(2);
    let quiet = world.read(leader, 2, 2, Consistency::Linearizable);
    assert_eq!(quiet, records(1, 500), "the quiet group's record was written forward");
}

/// A group within its limit that is no longer written may hold most of an old segment. Every later
/// segment would stay for it, dead, until the disk is full.
#[test]
fn a_quiet_group_of_any_size_does_not_keep_the_disk_full() {
    let retention = RetentionLimits { bytes_per_group: 512 << 10, records_per_group: 0 };
    let mut world = World::new(SMALL, 2, retention);
    world.run(1000);
    for correlation in 1..=18 {
        world.append(2, correlation, &records(10, 1000));
        world.run(4);
    }
    for correlation in 19..=900 {
        world.append(1, correlation, &records(10, 1000));
        world.run(4);
    }
    world.run(300);
    assert_eq!(world.count_done(), 900);
    for node in &world.nodes {
        let (files, written) = (node.disk.len(), node.shard.counters().wal_rewritten_bytes);
        // Twice what is live and four, then four spares, the current one and one ahead.
        assert!(files < 20, "{files} files of 256 KiB for logs of 512 and 180 KiB");
        // 9 MiB were appended; the bound is as much again, and there is far less to do.
        assert!((180_000..4 << 20).contains(&written), "{written} bytes written forward");
    }
    let leader = world.leader(2);
    let mut next = 2;
    while next < 182 {
        let page = world.read(leader, 2, next, Consistency::Linearizable);
        assert!(!page.is_empty() && page.iter().all(|record| record.len() == 1000), "at {next}");
        next += page.len() as u64;
    }
    assert_eq!(next, 182, "the quiet group is whole");
}

#[test]
fn a_follower_that_was_away_catches_up_from_the_leaders_device() {
    let mut world = World::new(SMALL, 1, RetentionLimits::default());
    world.run(1000);
    let away = (world.leader(1) + 1) % 3;
    world.stop(away);
    for correlation in 1..=300 {
        world.append(1, correlation, &records(10, 1000));
        world.run(2);
    }
    world.run(50);
    assert_eq!(world.count_done(), 300);
    world.resume(away);
    world.run(1500);
    let leader = world.leader(1);
    let last = world.nodes[leader].shard.group(GroupId::new(1)).expect("there").last();
    let group = world.nodes[away].shard.group(GroupId::new(1)).expect("there");
    assert_eq!((group.last(), group.commit(), group.durable()), (last, last.index, last.index));
    assert_eq!(world.nodes[away].shard.counters().snapshots_installed, 0);
    assert!(world.nodes.iter().any(|node| node.shard.counters().wal_reads > 0));
}

#[test]
fn more_small_batches_than_a_frame_may_list_are_sent_in_several() {
    const GROUPS: u64 = 64;
    const BATCHES_OF_EACH: u64 = 4 * BATCHES_PER_BLOCK_MAX as u64 / GROUPS;
    let mut world = World::new(Geometry::PRODUCTION, GROUPS, RetentionLimits::default());
    world.run(1000);
    let away = (world.leader(1) + 1) % 3;
    world.stop(away);
    world.run(1000);
    for round in 0..BATCHES_OF_EACH {
        for group in 1..=GROUPS {
            world.append(group, round * GROUPS + group, &records(1, 1));
        }
        world.run(2);
    }
    world.run(50);
    world.resume(away);
    world.run(1500);
    for group in 1..=GROUPS {
        let leader = world.leader(group);
        let last = world.nodes[leader].shard.group(GroupId::new(group)).expect("there").last();
        let caught_up = world.nodes[away].shard.group(GroupId::new(group)).expect("there");
        assert!(last.index.get() > BATCHES_OF_EACH);
        assert_eq!((caught_up.last(), caught_up.commit()), (last, last.index), "{group}");
    }
}

#[test]
fn a_follower_below_the_first_index_goes_on_from_a_metadata_snapshot() {
    let retention = RetentionLimits { bytes_per_group: 256 << 10, records_per_group: 0 };
    let mut world = World::new(SMALL, 1, retention);
    world.run(1000);
    let away = (world.leader(1) + 1) % 3;
    world.stop(away);
    for correlation in 1..=300 {
        world.append(1, correlation, &records(10, 1000));
        world.run(4);
    }
    world.run(300);
    assert_eq!(world.count_done(), 300);
    world.resume(away);
    world.run(1500);
    let leader = world.leader(1);
    let group = world.nodes[leader].shard.group(GroupId::new(1)).expect("there");
    let (last, first) = (group.last(), group.first_index());
    assert!(first.get() > 1000);
    let group = world.nodes[away].shard.group(GroupId::new(1)).expect("there");
    assert_eq!((group.last(), group.commit(), group.durable()), (last, last.index, last.index));
    assert_eq!(world.nodes[away].shard.counters().snapshots_installed, 1);
    // And it is still so after one more restart.
    world.resume(away);
    world.run(1500);
    let group = world.nodes[away].shard.group(GroupId::new(1)).expect("there");
    assert!(group.last() >= last && group.first_index() > LogIndex::new(1000));
}

#[test]
fn campaigns_come_as_a_stream_and_not_as_a_storm() {
    let mut world = World::new(Geometry::PRODUCTION, 1000, RetentionLimits::default());
    // Nobody hears anybody: every election timeout of every group passes on one node at once.
    world.down = Some(0);
    world.now = world.now.after(Duration::from_secs(1));
    let campaigning = |world: &World| {
        let groups = (1..=1000).filter_map(|id| world.nodes[1].shard.group(GroupId::new(id)));
        groups.filter(|group| group.role() != RoleName::Follower).count()
    };
    world.run(1);
    assert_eq!(campaigning(&world), 64, "one scan starts so many and no more (E-15)");
}

#[test]
fn a_thousand_groups_share_blocks_and_frames() {
    let mut world = World::new(Geometry::PRODUCTION, 1000, RetentionLimits::default());
    world.run(1500);
    let writes: u64 = world.nodes.iter().map(|n| n.shard.counters().wal_writes).sum();
    for group in 1..=1000 {
        world.append(group, group, &records(1, 200));
    }
    world.run(100);
    assert_eq!(world.count_done(), 1000);
    let after: u64 = world.nodes.iter().map(|n| n.shard.counters().wal_writes).sum();
    assert!(after - writes < 100, "{} writes for a thousand appends", after - writes);
}

/// A client that begins a frame and does not end it holds memory for nothing; one that is merely
/// slow has half a minute for each frame.
#[test]
fn a_frame_that_does_not_end_ends_its_connection() {
    let mut world = World::new(Geometry::PRODUCTION, 1, RetentionLimits::default());
    world.hang_ups = Some(Vec::new());
    world.run(1000);
    let leader = world.leader(1);
    let mut frame = Vec::new();
    encode_append(&mut frame, 1, GroupId::new(1), None, &records(1, 200));
    let seconds = |world: &mut World, seconds: u32| {
        (0..seconds * 50).for_each(|_| world.round(Duration::from_millis(20)));
    };
    for piece in [&frame[..10], &frame[10..100], &frame[100..], &frame[..10]] {
        let bytes = Bytes::copy_from_slice(piece);
        world.nodes[leader].inputs.push(Input::ClientBytes { conn: CLIENT, bytes });
        // Three pieces of ten seconds make a frame in time; the fourth stays what it is.
        seconds(&mut world, 10);
    }
    assert_eq!(world.count_done(), 1);
    seconds(&mut world, 18);
    assert_eq!(world.hang_ups, Some(vec![]), "28 s");
    seconds(&mut world, 4);
    assert_eq!(world.hang_ups, Some(vec!["a frame did not come to its end"]), "32 s");
    assert_eq!(world.nodes[leader].shard.counters().client_cut_unfinished, 1);
}

/// A Status is forty bytes and its answer may be a hundred kilobytes of text that must be made. A
/// client that sends nothing else must not make turns long, nor keep others from their answers.
#[test]
fn a_flood_of_questions_is_answered_with_one_rendering_a_turn() {
    const ASKED: u64 = 20_000;
    let other = ConnId::new(2);
    let mut world = World::new(Geometry::PRODUCTION, 1000, RetentionLimits::default());
    world.run(1500);
    let leader = world.leader(1);
    let node = &mut world.nodes[leader];
    node.inputs.push(Input::ClientOpened { conn: other });
    let (mut flood, mut fair) = (Vec::new(), Vec::new());
    (0..ASKED).for_each(|id| encode_status(&mut flood, id));
    encode_hello(&mut fair, 1, &Hello::new(CLUSTER, "fair"));
    encode_metadata(&mut fair, 2);
    encode_status(&mut fair, 3);
    node.inputs.push(Input::ClientBytes { conn: CLIENT, bytes: flood.into() });
    node.inputs.push(Input::ClientBytes { conn: other, bytes: fair.into() });
    let (before, busy) =
        (node.shard.counters().questions_rendered, node.shard.counters().client_busy);

    let text_bytes = node.shard.status_text().len();
    let (mut fx, mut sent) = (Effects::default(), BTreeMap::<ConnId, usize>::new());
    let now = world.now.after(Duration::from_millis(1));
    node.shard.turn(now, &mut node.inputs, &mut node.arena, &mut fx);
    for effect in &fx.list {
        if let Effect::SendClient { conn, frame } = effect {
            *sent.entry(*conn).or_default() += frame.len_bytes();
        }
    }
    let counters = node.shard.counters();
    assert_eq!(counters.questions_rendered - before, 1, "the text, once for all");
    let taken = ASKED - (counters.client_busy - busy);
    assert_eq!(taken, QUESTIONS_PER_CONNECTION_MAX as u64);
    // The refusals have a header, a fixed part and a few words each.
    let refusals = usize::try_from(ASKED).expect("small") * 100;
    assert!(sent[&CLIENT] < QUESTION_BYTES_PER_TURN_MAX + text_bytes + refusals, "{sent:?}");

    // The flood's answers fill this turn; the other client has its own a turn or two later.
    let mut heard = sent.get(&other).copied().unwrap_or(0);
    for _ in 0..3 {
        let (node, mut fx) = (&mut world.nodes[leader], Effects::default());
        node.inputs.push(Input::Tick);
        node.shard.turn(now, &mut node.inputs, &mut node.arena, &mut fx);
        for effect in &fx.list {
            if let Effect::SendClient { conn, frame } = effect {
                heard += if *conn == other { frame.len_bytes() } else { 0 };
            }
        }
    }
    assert!(heard > text_bytes + 24 * 1000, "{heard} bytes, the text has {text_bytes}");
    assert_eq!(world.nodes[leader].shard.counters().questions_rendered - before, 3);
}

/// Ten thousand groups with long indexes have more lines than a frame takes; here more groups than a
/// configuration allows stand for the long numbers.
#[test]
fn a_status_text_fits_into_a_frame() {
    const GROUPS: u64 = 14_000;
    let mut world = World::of(Setup { nodes: 1, ..Setup::new(Geometry::PRODUCTION, GROUPS) });
    world.run(1);
    let text = world.nodes[0].shard.status_text();
    assert!(text.len() + 40 <= FRAME_BYTES_MAX, "{} bytes", text.len());
    let told = text.lines().filter(|line| line.starts_with("group.")).count() as u64;
    let left_out = text.lines().last().and_then(|line| line.strip_prefix("groups_left_out "));
    let left_out: u64 = left_out.expect("the last line").parse().expect("a number");
    assert_eq!(told + left_out, GROUPS);
}

/// MR-02: a turn takes so many inputs and gives out so many bytes of reads, and what is left is not
/// lost.
#[test]
fn a_turn_takes_no_more_than_it_may() {
    let mut world = World::of(Setup { nodes: 1, ..Setup::new(Geometry::PRODUCTION, 1) });
    world.run(1000);
    for correlation in 1..=10 {
        world.append(1, correlation, &records(1, 900_000));
        world.run(5);
    }
    assert_eq!(world.count_done(), 10);
    let node = &mut world.nodes[0];
    (0..3 * INPUTS_PER_TURN_MAX).for_each(|_| node.inputs.push(Input::Tick));
    let mut fx = Effects::default();
    node.shard.turn(world.now, &mut node.inputs, &mut node.arena, &mut fx);
    assert_eq!(node.inputs.queue.len(), 2 * INPUTS_PER_TURN_MAX);
    node.inputs.queue.clear();

    let mut reads = Vec::new();
    for id in 0..40 {
        let from = LogIndex::new(2 + id % 10);
        let read = Read { from, max_bytes: 1, consistency: Consistency::Stale };
        encode_read(&mut reads, id, GroupId::new(1), &read);
    }
    node.inputs.push(Input::ClientBytes { conn: CLIENT, bytes: reads.into() });
    let mut turns = Vec::new();
    for _ in 0..40 {
        let mut fx = Effects::default();
        node.inputs.push(Input::Tick);
        node.shard.turn(world.now, &mut node.inputs, &mut node.arena, &mut fx);
        turns.push(fx.list.iter().map(sent_bytes).sum::<usize>());
    }
    let most = READ_BYTES_PER_TURN_MAX + FRAME_BYTES_MAX;
    assert!(turns.iter().all(|bytes| *bytes <= most), "{turns:?}");
    assert!(turns.iter().sum::<usize>() > 40 * 900_000, "all are answered: {turns:?}");
}

fn sent_bytes(effect: &Effect) -> usize {
    if let Effect::SendClient { frame, .. } = effect { frame.len_bytes() } else { 0 }
}

/// Many small batches of many groups in each block, in logs that do not fit into memory.
const INTERLEAVED: Geometry = Geometry {
    segment_bytes: 2 << 20,
    block_bytes_max: 128 << 10,
    in_flight_bytes_max: 512 << 10,
    writes_in_flight_max: 12,
};
const GROUPS: u64 = 400;
/// What a record of these tests takes in the log, about.
const RECORD_BYTES: usize = 1000;

fn read_bytes(world: &World) -> u64 {
    world.nodes.iter().map(|node| node.shard.counters().wal_read_bytes).sum()
}

/// A world of `GROUPS` groups with a follower that is away, and to which so many bytes of records
/// were appended meanwhile, one record of each group after the other.
fn world_of_interleaved_groups(rounds: u64) -> (World, usize, u64) {
    let mut world = World::new(INTERLEAVED, GROUPS, RetentionLimits::default());
    world.run(1500);
    let away = (world.leader(1) + 1) % 3;
    world.stop(away);
    world.run(1500);
    let mut done = 0;
    for round in 0..rounds {
        for group in 1..=GROUPS {
            world.append(group, 1 + round * GROUPS + group, &records(1, RECORD_BYTES));
        }
        world.run(10);
        done += world.count_done();
    }
    world.run(200);
    done += world.count_done();
    assert_eq!(done as u64, rounds * GROUPS);
    (world, away, (done * RECORD_BYTES) as u64)
}

/// A block holds batches of many groups, and so does a read: alone, each group would read all of
/// the log to find its own.
#[test]
fn a_peer_that_was_away_gets_interleaved_groups_from_one_passage_over_the_log() {
    let (mut world, away, missing) = world_of_interleaved_groups(40);
    let before = read_bytes(&world);
    world.resume(away);
    let mut rounds = 0;
    let is_behind = |world: &World| {
        (1..=GROUPS).any(|group| {
            let last = world.group(world.leader(group), group).last();
            world.group(away, group).durable() < last.index
        })
    };
    while is_behind(&world) {
        assert!(rounds < 10_000, "it does not catch up");
        world.run(100);
        rounds += 100;
    }
    let read = read_bytes(&world) - before;
    assert!(missing / 2 < read, "nothing came from the device: the test shows nothing");
    assert!(read < 3 * missing, "{read} bytes read for {missing} that were missing");
    claims!(W15_ONE_READ_SERVES_MANY);
}

/// Reads every log of the world from its leader, as many side by side as given, and answers how
/// many bytes of records of full size there were.
fn read_side_by_side(world: &mut World, readers: u64) -> u64 {
    let wish = |world: &mut World, group: u64, from: u64| {
        let leader = world.leader(group);
        let mut bytes = Vec::new();
        let (from, consistency) = (LogIndex::new(from), Consistency::Stale);
        let read = Read { from, max_bytes: 64 << 10, consistency };
        encode_read(&mut bytes, group, GroupId::new(group), &read);
        let bytes = bytes.into();
        world.nodes[leader].inputs.push(Input::ClientBytes { conn: CLIENT, bytes });
    };
    let (mut asked, mut open, mut seen) = (0, 0, 0);
    for _ in 0..40_000 {
        while asked < GROUPS && open < readers {
            asked += 1;
            open += 1;
            wish(world, asked, 1);
        }
        world.run(1);
        let frames: Vec<_> =
            world.nodes.iter_mut().flat_map(|node| node.answers.drain(..)).collect();
        for frame in frames {
            let header = FrameHeader::decode(&frame, 2 << 20).expect("checked");
            let reply = Reply::decode(&header, &frame[FRAME_HEADER_BYTES..]).expect("a reply");
            let Reply::Read(reply) = reply else { panic!("{reply:?}") };
            let mut batches = reply.batches;
            assert!(!batches.is_empty(), "group {} at {}", header.correlation, reply.head.next);
            while !batches.is_empty() {
                let batch = BatchView::decode(batches).expect("a good batch");
                let of_full_size = |record: &[u8]| record.len() == RECORD_BYTES;
                let of_full_size = batch.records().filter(|r| of_full_size(r.expect("adds up").1));
                seen += (of_full_size.count() * RECORD_BYTES) as u64;
                batches = &batches[batch.header.batch_bytes()..];
            }
            if reply.head.next <= reply.head.commit {
                wish(world, header.correlation, reply.head.next.get());
            } else {
                open -= 1;
            }
        }
        if asked == GROUPS && open == 0 {
            return seen;
        }
    }
    panic!("not read to the end: {seen} bytes, {open} groups");
}

#[test]
fn clients_that_read_interleaved_groups_side_by_side_share_reads_of_the_device() {
    let (mut world, _, written) = world_of_interleaved_groups(40);
    for (readers, bound) in [(GROUPS, 3), (GROUPS / 4, 12)] {
        let before = read_bytes(&world);
        assert_eq!(read_side_by_side(&mut world, readers), written);
        let read = read_bytes(&world) - before;
        assert!(written / 2 < read, "nothing came from the device: the test shows nothing");
        assert!(read < bound * written, "{readers} readers: {read} bytes read for {written}");
    }
}

/// What is read for a peer that then takes nothing holds four extents and no more, however many
/// groups it lags in; others are served as ever.
#[test]
fn a_peer_that_hangs_while_it_catches_up_holds_a_few_extents() {
    let (mut world, away, written) = world_of_interleaved_groups(40);
    world.resume(away);
    world.deaf = Some(away);
    world.run(200);
    let held = |world: &mut World, at: usize| -> usize {
        (2..4).map(|owner| world.nodes[at].arena.lent_apart(owner)).max().expect("two links")
    };
    let mut most = 0;
    for _ in 0..50 {
        world.run(10);
        most = (0..3).map(|at| held(&mut world, at)).chain([most]).max().expect("some");
    }
    assert!(most > 0, "nothing was read for it: the test shows nothing");
    assert!(most <= READ_BACK_EXTENTS_PER_PEER_MAX, "{most} extents");
    world.count_done();
    assert_eq!(read_side_by_side(&mut world, GROUPS), written);
    world.deaf = None;
    world.run(6000);
    for group in 1..=GROUPS {
        let last = world.group(world.leader(group), group).last();
        assert_eq!(world.group(away, group).last(), last, "group {group}");
    }
}

/// A batch that is damaged stops its own group; it is tried again now and then, not all the time.
#[test]
fn a_damaged_batch_keeps_neither_the_other_groups_nor_the_device_busy() {
    let (mut world, away, _) = world_of_interleaved_groups(40);
    let damaged = 1 + (0..GROUPS).find(|at| world.leader(1 + at) != away).expect("one leads");
    let leader = world.leader(damaged);
    spoil_first_batch(&mut world.nodes[leader], damaged);
    world.resume(away);
    world.run(6000);
    for group in (1..=GROUPS).filter(|group| *group != damaged) {
        let last = world.group(world.leader(group), group).last();
        assert_eq!(world.group(away, group).last(), last, "group {group}");
    }
    let last = world.group(leader, damaged).last();
    assert_ne!(world.group(away, damaged).last(), last, "it cannot have it");
    let reads = |world: &World| world.nodes[leader].shard.counters().wal_reads;
    let before = reads(&world);
    world.run(1000);
    let after = reads(&world) - before;
    assert!((5..=25).contains(&after), "{after} reads a second for one batch");
    claims!(W15_READ_CHECKSUM_WRONG);
}

/// Changes a bit in the body of the first batch of records of a group, wherever it lies on the disk.
fn spoil_first_batch(node: &mut Node, group: u64) {
    let identity = node.identity();
    for (segment, bytes) in &mut node.disk {
        let mut at = 0;
        while at < bytes.len() {
            let lsn = INTERLEAVED.start_of(*segment).plus(at as u64);
            let Ok(block) = parse_block(&bytes[at..], lsn, &identity) else { break };
            let total = block.total_bytes() as usize;
            let is_it = |entry: &DirectoryEntry| {
                entry.group == GroupId::new(group) && entry.bytes as usize > RECORD_BYTES
            };
            let offset = block.entries().find(is_it).map(|entry| entry.offset as usize);
            if let Some(offset) = offset {
                bytes[at + offset + BATCH_HEADER_BYTES + 100] ^= 1;
                return;
            }
            at += total;
        }
    }
    panic!("no batch of group {group}");
}
