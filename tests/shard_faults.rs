//! Real shards when something goes wrong at a chosen moment: devices that hang or are full, peers
//! that do not read, frames that nobody should send.
//!
//! Apart from the simulator, which draws its worlds: each of these is one situation that must end
//! well, and says which rule it is about.

mod shard_world;

use std::time::Duration;

use catamaran::base::{Arena, Checksum};
use catamaran::model::batch::BATCH_HEADER_BYTES;
use catamaran::model::{BatchHeader, BatchKind, GroupId, NodeId, RecordCount, Span, StreamId};
use catamaran::raft::RoleName;
use catamaran::shard::{Effect, Effects, Input, Notice};
use catamaran::wal::Geometry;
use catamaran::wire::client::{Consistency, ErrorCode, Kind};
use catamaran::wire::peer::{BULK_DESCRIPTOR_BYTES, BulkBatch, BulkFrameBuilder};
use catamaran::wire::{FRAME_HEADER_BYTES, FrameHeader};

use shard_world::{SMALL, Setup, World, records};

#[test]
fn a_leader_whose_device_hangs_lays_its_offices_down() {
    let mut world = World::of(Setup::new(Geometry::PRODUCTION, 3));
    world.run(1000);
    let hung = world.leader(1);
    world.hang(hung, true);
    world.append(1, 1, &records(3, 100));
    world.run(250);
    assert_eq!(world.leader(1), hung, "until then the others commit without its disk");
    assert_eq!(world.outcomes(), (1, vec![]));
    // Longer than any election timeout (E-13): it leads nothing any more, and another does.
    world.run(800);
    assert!(world.nodes[hung].notices.contains(&Notice::DeviceStuck));
    for group in 1..=3 {
        assert_ne!(world.leader(group), hung, "group {group}");
        assert_ne!(world.group(hung, group).role(), RoleName::Leader);
        world.append(group, 1 + group, &records(1, 100));
    }
    world.run(50);
    assert_eq!(world.outcomes(), (3, vec![]));
    // It works again: it catches up, and is as good as any.
    world.hang(hung, false);
    world.run(1000);
    assert!(world.nodes[hung].notices.contains(&Notice::DeviceWorks));
    for group in 1..=3 {
        let leader = world.leader(group);
        let last = world.group(leader, group).last();
        assert_eq!(world.group(hung, group).durable(), last.index, "group {group}");
    }
}

#[test]
fn nobody_campaigns_on_a_device_that_hangs() {
    let mut world = World::of(Setup::new(Geometry::PRODUCTION, 2));
    world.run(1000);
    let hung = (world.leader(1) + 1) % 3;
    world.hang(hung, true);
    // Something to write: a batch that it follows.
    world.append(1, 1, &records(1, 100));
    world.run(400);
    let terms = [1, 2].map(|group| world.group(hung, group).term());
    // It hears nobody for many timeouts.
    world.down = Some((hung + 1) % 3);
    for peer in [(hung + 1) % 3, (hung + 2) % 3] {
        let (peer, stream) = (world.nodes[peer].id, StreamId::new(1));
        for lane in [catamaran::shard::Lane::Control, catamaran::shard::Lane::Bulk] {
            world.nodes[hung].inputs.push(Input::PeerDown { peer, lane, stream });
        }
    }
    world.run(2000);
    assert_eq!([1, 2].map(|group| world.group(hung, group).term()), terms);
    assert_eq!(world.group(hung, 1).counters().campaigns, 0);
}

#[test]
fn a_slow_device_costs_no_election() {
    let mut world = World::of(Setup::new(SMALL, 1));
    world.run(1000);
    let slow = world.leader(1);
    let term = world.group(slow, 1).term();
    // Blocks queue behind one another and are older than any timeout when they are done; but
    // every quarter of a second something is.
    for correlation in 0..40 {
        world.hang(slow, true);
        for part in 0..5 {
            world.append(1, 10 * correlation + part, &records(10, 1000));
            world.run(50);
        }
        world.confirm(slow, 1);
        world.run(1);
    }
    assert_eq!((world.leader(1), world.group(slow, 1).term()), (slow, term));
    assert!(!world.nodes[slow].notices.contains(&Notice::DeviceStuck));
}

#[test]
fn a_frame_without_room_for_a_directory_is_copied() {
    let mut world = World::of(Setup::new(Geometry::PRODUCTION, 1));
    world.run(1000);
    let leader = world.leader(1);
    let follower = (leader + 1) % 3;
    let (term, prev) = (world.group(leader, 1).term(), world.group(follower, 1).last());
    let span = Span { term, first: prev.index.next(), count: RecordCount::new(1) };
    let body = [&20_000_u32.to_le_bytes()[..], &[7; 20_000]].concat();
    let header = BatchHeader {
        group: GroupId::new(1),
        replica: replica_of(&world, leader),
        span,
        kind: BatchKind::Records,
        body_bytes: 20_004,
        body_crc: Checksum::of(&body),
    };
    let mut batch = vec![0; BATCH_HEADER_BYTES];
    header.encode(&mut batch);
    batch.extend_from_slice(&body);
    // Nothing lies before its batch but what the frame itself needs: less than a block's head.
    let mut builder = BulkFrameBuilder::new(1 << 20, |_| 0);
    builder.push(BulkBatch {
        group: GroupId::new(1),
        from_replica: replica_of(&world, leader),
        to_replica: replica_of(&world, follower),
        term,
        prev,
        commit: prev.index,
        offset: 0,
        bytes: u32::try_from(batch.len()).expect("small"),
    });
    let head = builder.finish();
    let area = FRAME_HEADER_BYTES + 8 + BULK_DESCRIPTOR_BYTES;
    let frame_bytes = (area + batch.len()).next_multiple_of(4096);
    let mut frame = Arena::new(1, 64 << 10).take(frame_bytes).expect("fresh");
    frame.fill(0);
    frame[..area].copy_from_slice(&head.bytes[..area]);
    frame[area..area + batch.len()].copy_from_slice(&batch);
    let area_word = u32::try_from(area).expect("small").to_le_bytes();
    frame[FRAME_HEADER_BYTES + 4..FRAME_HEADER_BYTES + 8].copy_from_slice(&area_word);
    frame[area - 8..area - 4].copy_from_slice(&area_word);
    let header = FrameHeader {
        body_bytes: u32::try_from(frame_bytes - FRAME_HEADER_BYTES).expect("small"),
        covered_bytes: u32::try_from(area - FRAME_HEADER_BYTES).expect("small"),
        body_crc: Checksum::of(&frame[FRAME_HEADER_BYTES..area]),
        ..FrameHeader::decode(&head.bytes, 1 << 20).expect("just made")
    };
    frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
    let peer = world.nodes[leader].id;
    world.nodes[follower].inputs.push(Input::PeerBulk { peer, stream: StreamId::new(1), frame });
    world.run(5);
    assert_eq!(world.group(follower, 1).last(), span.last_entry());
    assert_eq!(world.group(follower, 1).durable(), span.last(), "and it is on its disk");
    let counters = world.nodes[follower].shard.counters();
    assert!(counters.copied_bytes_follower > 20_000, "{counters:?}");
}

fn replica_of(world: &World, at: usize) -> catamaran::model::ReplicaId {
    let node = NodeId::new(u16::try_from(at + 1).expect("a handful"));
    world.group(at, 1).membership().replica_of(node).expect("a member")
}

const GROUPS: u64 = 12;

/// One follower was away and comes back; many groups are behind on it, and their batches must be
/// read back. Once it has said what it has, `strike` makes it acknowledge nothing more. Whatever
/// it is, the others go on: appends are done and old records are read, period after period of the
/// watchdog; in the end `mend` helps and it catches up.
fn a_follower_lags(nodes: u16, strike: fn(&mut World, usize), mend: fn(&mut World, usize)) -> u64 {
    let credit_bytes = 64 << 10;
    let arena_extents = 2 * usize::from(nodes - 1) * 2 + 8;
    let setup = Setup { nodes, credit_bytes, arena_extents, ..Setup::new(SMALL, GROUPS) };
    let mut world = World::of(setup);
    world.run(1000);
    let led = |at: usize| (1..=GROUPS).filter(|group| world.leader(*group) == at).count();
    let away = (0..usize::from(nodes)).min_by_key(|at| led(*at)).expect("several");
    world.stop(away);
    world.run(1000);
    let mut correlation = 0;
    let mut append_to_all = |world: &mut World, count, bytes| {
        for group in 1..=GROUPS {
            correlation += 1;
            world.append(group, correlation, &records(count, bytes));
        }
    };
    for _ in 0..120 {
        append_to_all(&mut world, 2, 700);
        world.run(10);
    }
    assert_eq!(world.outcomes(), (120 * 12, vec![]));
    world.resume(away);
    let known = |world: &World| (1..=GROUPS).filter(|g| world.knows_match(away, *g)).count();
    while 2 * known(&world) < 12 {
        world.run(1);
    }
    strike(&mut world, away);
    for round in 0..20 {
        append_to_all(&mut world, 1, 300);
        world.run(500);
        assert_eq!(world.outcomes(), (12, vec![]), "{nodes} nodes, round {round}");
        let group = 1 + round % GROUPS;
        let leader = world.leader(group);
        let old = world.read(leader, group, 2, Consistency::Linearizable);
        assert!(!old.is_empty(), "{nodes} nodes, round {round}: what is old is read back");
    }
    mend(&mut world, away);
    world.run(5000);
    for group in 1..=GROUPS {
        let last = world.group(world.leader(group), group).last();
        assert_eq!(world.group(away, group).durable(), last.index, "group {group}");
    }
    world.wedged
}

#[test]
fn a_hung_follower_with_many_groups_behind_starves_nobody() {
    for nodes in [3, 5] {
        a_follower_lags(nodes, |world, at| world.hang(at, true), |world, at| world.hang(at, false));
    }
}

#[test]
fn a_peer_that_does_not_read_holds_no_more_than_its_credit() {
    let wedged =
        a_follower_lags(3, |world, at| world.deaf = Some(at), |world, _| world.deaf = None);
    assert!(0 < wedged, "what was given up is taken back by ending the stream");
}

/// F-04: whoever loses its office owes nothing for what it had taken in, or it would say Busy for
/// ever when it leads again.
#[test]
fn a_lost_office_gives_its_budget_back() {
    let mut world = World::of(Setup::new(Geometry::PRODUCTION, 1));
    world.run(1000);
    let leader = world.leader(1);
    (0..3).for_each(|at| world.hang(at, true));
    // More than the device may have and what may wait behind it, so some are in no block yet.
    for correlation in 1..=60 {
        world.append(1, correlation, &records(100, 1000));
    }
    world.run(10);
    let taken = world.nodes[leader].shard.uncommitted_bytes();
    assert!(taken > 60 * 100 * 1000, "{taken}");
    world.run(2000);
    assert_ne!(world.group(leader, 1).role(), RoleName::Leader);
    let (done, errors) = world.outcomes();
    let in_doubt = errors.iter().filter(|code| **code == ErrorCode::LeadershipLost).count();
    let refused = errors.iter().filter(|code| **code == ErrorCode::NotLeader).count();
    assert_eq!((done, in_doubt + refused), (0, 60), "{errors:?}");
    assert!(in_doubt > 0 && refused > 0, "{errors:?}");
    assert_eq!(world.nodes[leader].shard.uncommitted_bytes(), 0);
}

/// I-03, I-04: what a device holds behind a failed write is unknown. Nothing is written beyond it,
/// and nothing is promised, also while the end of the process takes its time.
#[test]
fn after_a_failed_write_nothing_is_written_and_nothing_is_done() {
    let mut world = World::of(Setup { nodes: 1, ..Setup::new(Geometry::PRODUCTION, 1) });
    world.run(1000);
    world.hang(0, true);
    world.append(1, 1, &records(3, 100));
    world.run(2);
    world.fail_write(0);
    // Not of the world's rounds: they end with the process.
    let (mut halts, mut replies) = (0, 0);
    for turn in 0..100 {
        if world.find_leader(1).is_none() {
            break;
        }
        world.append(1, 2 + turn, &records(3, 100));
        world.now = world.now.after(Duration::from_millis(10));
        let (node, mut fx) = (&mut world.nodes[0], Effects::default());
        node.inputs.push(Input::Tick);
        node.shard.turn(world.now, &mut node.inputs, &mut node.arena, &mut fx);
        for effect in fx.list {
            halts += usize::from(matches!(effect, Effect::Halt { .. }));
            assert!(!matches!(effect, Effect::Write { .. }), "turn {turn}: {effect:?}");
            if let Effect::SendClient { frame, .. } = effect {
                for part in frame.parts {
                    let header = FrameHeader::decode(part.as_bytes(), 1 << 20).expect("good");
                    assert_eq!(header.kind, Kind::Error.number(), "turn {turn}");
                    replies += 1;
                }
            }
        }
    }
    assert_eq!(halts, 1);
    assert!(replies > 0, "the append hears that nobody knows");
}
