//! The CPU ceiling: what a leader's turns and a follower's cost for requests of one 200-byte
//! record, each answered, 4,096 a round; everything but sockets and the device.

#![expect(clippy::print_stdout, reason = "a bench reports to whoever started it")]

mod harness;
mod world;

use std::time::Duration;

use harness::{Pass, measure, mix};
use world::World;

const REQUESTS: u64 = 4_096;

fn main() {
    measure("shard_turn, leader", 200, 2, leader);
    measure("shard_turn, leader of 1,000 groups", 100, 1, leader_of_many);
    measure("shard_turn, two followers", 200, 2, followers);
    let mut world = World::new(1);
    (0..20).for_each(|_| world.round(REQUESTS, 1));
    let before = world.nodes[world.leader].allocations;
    (0..20).for_each(|_| world.round(REQUESTS, 1));
    let made = world.nodes[world.leader].allocations - before;
    println!("allocations of the leader in a round of {REQUESTS}: {:.1}", made as f64 / 20.0);
}

fn leader(rounds: u32) -> Pass {
    pass(rounds, 1, |world| world.nodes[world.leader].spent)
}

fn leader_of_many(rounds: u32) -> Pass {
    pass(rounds, 1_000, |world| world.nodes[world.leader].spent)
}

fn followers(rounds: u32) -> Pass {
    pass(rounds, 1, |world| {
        let nodes = world.nodes.iter().enumerate();
        nodes.filter(|(at, _)| *at != world.leader).map(|(_, node)| node.spent).sum()
    })
}

fn pass(rounds: u32, groups: u64, spent: fn(&World) -> Duration) -> Pass {
    let mut world = World::new(groups);
    world.round(REQUESTS, 1);
    let before = spent(&world);
    for _ in 0..rounds {
        world.round(REQUESTS, 1);
    }
    let elapsed = spent(&world) - before;
    Pass { records: u64::from(rounds) * REQUESTS, elapsed, hash: mix(0, world.committed()) }
}
