//! In steady state a record costs no allocation, on a leader or on a follower; a turn costs few.
//!
//! In a process of its own, because it counts every allocation of it.

#[path = "../benches/world/mod.rs"]
mod world;

use world::World;

const ROUNDS: u64 = 30;

/// Allocations per round of the leader and of both followers.
fn per_round(world: &mut World, requests: u64, records: usize) -> (f64, f64) {
    (0..ROUNDS).for_each(|_| world.round(requests, records));
    let seen = |world: &World| {
        let leader = world.nodes[world.leader].allocations;
        (leader, world.nodes.iter().map(|node| node.allocations).sum::<u64>() - leader)
    };
    let (before, committed) = (seen(world), world.committed());
    (0..ROUNDS).for_each(|_| world.round(requests, records));
    let after = seen(world);
    let appended = ROUNDS * requests * records as u64;
    assert!(appended <= world.committed() - committed, "the leader knows of all of them");
    let share = |now: u64, before: u64| (now - before) as f64 / ROUNDS as f64;
    (share(after.0, before.0), share(after.1, before.1))
}

/// One test and not two: they would count each other's.
#[test]
fn records_and_requests_cost_no_allocation_and_a_round_a_few() {
    records_cost_none();
    requests_cost_none();
}

fn records_cost_none() {
    let mut world = World::new(1);
    // As many requests, of one record and of sixteen: what is more comes from records.
    let (leader_one, followers_one) = per_round(&mut world, 256, 1);
    let (leader_many, followers_many) = per_round(&mut world, 256, 16);
    let records = 256.0 * 15.0;
    assert!((leader_many - leader_one) / records < 0.01, "{leader_one} and {leader_many}");
    assert!((followers_many - followers_one) / records < 0.01, "{followers_one}, {followers_many}");
}

fn requests_cost_none() {
    let mut world = World::new(1);
    let (leader_few, followers_few) = per_round(&mut world, 512, 1);
    let (leader_many, followers_many) = per_round(&mut world, 4_096, 1);
    let requests = 4_096.0 - 512.0;
    assert!((leader_many - leader_few) / requests < 0.01, "{leader_few} and {leader_many}");
    assert!(
        (followers_many - followers_few) / requests < 0.01,
        "{followers_few}, {followers_many}"
    );
    assert!(leader_many <= ROUND_ALLOCATIONS_MAX, "{leader_many} in a round of 4,096 requests");
}

/// In the few turns of a round; what they are is in `docs/performance.md`.
const ROUND_ALLOCATIONS_MAX: f64 = 60.0;
