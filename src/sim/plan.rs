//! Swarm testing: each seed first draws which world it will live in.
//!
//! A world in which everything goes wrong all the time hides the bugs that need a quiet moment, so
//! each seed draws which kinds of fault exist at all, how often they come, and how large cluster,
//! segments, blocks and load are (rules 4.2). Apart so that a plan can be printed, compared and,
//! later, cut down. Does not: make anything happen.

use core::time::Duration;

use crate::base::Prng;
use crate::wal::Geometry;

/// Bytes of one extent of a simulated arena: a few of the largest blocks.
const ARENA_EXTENT_BYTES: usize = 256 << 10;

/// Extents of the smallest arena that the configuration takes.
const ARENA_EXTENTS_MIN: usize = 16;

/// A range of durations, drawn from evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    /// The shortest.
    pub low: Duration,
    /// Longer than the longest.
    pub high: Duration,
}

impl Between {
    /// From `low` to `high` microseconds.
    pub(super) const fn micros(low: u64, high: u64) -> Self {
        Self { low: Duration::from_micros(low), high: Duration::from_micros(high) }
    }

    /// From `low` to `high` milliseconds.
    pub(super) const fn millis(low: u64, high: u64) -> Self {
        Self::micros(low * 1000, high * 1000)
    }

    /// One of them.
    pub(super) fn draw(self, prng: &mut Prng) -> Duration {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).expect("plans are short");
        Duration::from_nanos(prng.between(nanos(self.low), nanos(self.high)))
    }
}

/// A kind of fault that comes again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recurring {
    /// Time from the end of one to the start of the next.
    pub every: Between,
    /// How long one lasts.
    pub lasts: Between,
}

/// How the devices behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// From submission of a write to its completion.
    pub write: Between,
    /// From submission of a read to its completion.
    pub read: Between,
    /// How long it takes to make or recycle a segment file.
    pub prepare: Between,
    /// Of a million writes, so many fail with EIO.
    pub write_error_ppm: u64,
    /// Of a million reads, so many fail with EIO.
    pub read_error_ppm: u64,
    /// Of a million segment preparations, so many find no room.
    pub no_space_ppm: u64,
    /// Of a million reads of a log that is being recovered, so many fail with EIO.
    pub start_error_ppm: u64,
    /// Of a million writes that a lying device confirms, so many are not stored.
    pub lost_ppm: u64,
    /// Of a million writes that a lying device confirms, so many are stored elsewhere.
    pub misdirected_ppm: u64,
}

/// How the network behaves when it is not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetPlan {
    /// One way, one chunk.
    pub delay: Between,
    /// From a reset to the next attempt to connect.
    pub reconnect: Between,
    /// Of a million frames, so many reset their stream.
    pub reset_ppm: u64,
    /// Of a million frames, so many arrive with a changed byte.
    pub corrupt_ppm: u64,
    /// Of a million client frames, so many reset their connection.
    pub client_reset_ppm: u64,
    /// Byte streams arrive in pieces of at most so many bytes.
    pub chunk_bytes_max: u64,
}

/// The large faults. `None`: it does not exist in this world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChaosPlan {
    /// How long faults are made.
    pub lasts: Duration,
    /// One node dies; `lasts` is how long it stays down.
    pub crash: Option<Recurring>,
    /// Of a hundred crashes, so many are power losses and not mere kills.
    pub power_loss_percent: u64,
    /// Of a hundred crashes, so many hit all nodes at once.
    pub blackout_percent: u64,
    /// Of a hundred crashes of one node, so many are asked for: the process drains first.
    pub drain_percent: u64,
    /// Of a hundred restarts, so many find another disk, until a minority has.
    pub new_disk_percent: u64,
    /// Of a hundred restarts, so many lose their power again within moments.
    pub stumble_percent: u64,
    /// Of a hundred blocks of an opening that has several, so many are followed by a loss of power.
    pub torn_opening_percent: u64,
    /// One node, or one directed link, cannot be reached.
    pub cut: Option<Recurring>,
    /// Of a hundred cuts, so many are of one direction only.
    pub one_way_percent: u64,
    /// A leader is cut off together with its device, or does not hear one follower.
    pub ambush: Option<Recurring>,
    /// A story of several steps about a leader; `lasts` is how long one step may take.
    pub plot: Option<Recurring>,
    /// One node stands still.
    pub pause: Option<Recurring>,
    /// One device does nothing.
    pub stall: Option<Recurring>,
    /// Stored bytes of a minority change.
    pub rot: Option<Recurring>,
    /// One device takes long for everything.
    pub slow_disk: Option<Recurring>,
    /// One device never answers again; after a while somebody restarts its node.
    pub hang: Option<Recurring>,
    /// One device has no room for new segments.
    pub disk_full: Option<Recurring>,
    /// One clock jumps forward, by a duration drawn from `lasts`.
    pub clock_jump: Option<Recurring>,
    /// One node is suspended: it stands still, and so does its clock.
    pub freeze: Option<Recurring>,
    /// The turns of one node take long.
    pub slow_core: Option<Recurring>,
}

impl ChaosPlan {
    /// Nothing goes wrong for that long.
    const fn quiet(lasts: Duration) -> Self {
        Self {
            lasts,
            crash: None,
            power_loss_percent: 0,
            blackout_percent: 0,
            drain_percent: 0,
            new_disk_percent: 0,
            stumble_percent: 0,
            torn_opening_percent: 0,
            cut: None,
            one_way_percent: 0,
            ambush: None,
            plot: None,
            pause: None,
            stall: None,
            rot: None,
            slow_disk: None,
            hang: None,
            disk_full: None,
            clock_jump: None,
            freeze: None,
            slow_core: None,
        }
    }
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// How many clients there are.
    pub clients: u32,
    /// How many more there are that are `client::session`.
    pub sessions: u32,
    /// Requests of all clients together; what stays of the run afterwards is quiet.
    pub requests: u64,
    /// Requests one client has under way at once.
    pub in_flight: u32,
    /// From a reply to the next request.
    pub think: Between,
    /// Of a hundred requests, so many are reads.
    pub read_percent: u64,
    /// Records of one append request at most.
    pub records_max: u64,
    /// Bytes of one record at most.
    pub record_bytes_max: u64,
    /// How long a client waits for a reply before it calls the outcome unknown.
    pub patience: Duration,
}

/// One seed's world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// Nodes, all of them voters of every group.
    pub nodes: u16,
    /// Shards of each node.
    pub shards: u16,
    /// Groups, numbered from 1.
    pub groups: u64,
    /// Sizes of segments and blocks.
    pub geometry: Geometry,
    /// Extents of each shard's arena.
    pub arena_extents: usize,
    /// Bytes of one extent.
    pub arena_extent_bytes: usize,
    /// Unacknowledged bulk bytes each shard allows each peer.
    pub credit_bytes: u64,
    /// Bytes of appends each shard takes in before it is busy.
    pub uncommitted_bytes_max: usize,
    /// Bulk frames of this size and more are written from where they were received.
    pub direct_frame_bytes_min: usize,
    /// Segments that are made ahead of the one being written.
    pub segments_ahead: u64,
    /// Bytes a group keeps, if it does not keep everything.
    pub retention_bytes: Option<u64>,
    /// Clocks run fast or slow by at most this many parts in a million.
    pub clock_drift_ppm: u64,
    /// From the first input to the turn that takes it.
    pub turn: Between,
    /// The devices.
    pub disk: DiskPlan,
    /// The network.
    pub net: NetPlan,
    /// The large faults.
    pub chaos: ChaosPlan,
    /// The clients.
    pub load: LoadPlan,
    /// The prime mover of everything drawn while the world runs.
    pub root: u64,
}

impl Plan {
    /// Draws the world of `seed`.
    pub fn draw(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        // Three nodes are what people run; the others that the configuration takes have corners of
        // their own, and so have many groups.
        let nodes = *pick(&mut prng, &[1, 3, 3, 3, 3, 3, 5, 7]);
        let groups = *pick(&mut prng, &[1, 1, 1, 2, 2, 3, 5, 8, 13, 13, 50, 200]);
        let geometry = draw_geometry(&mut prng, groups);
        let disk = draw_disk(&mut prng);
        let net = draw_net(&mut prng);
        let chaos = draw_chaos(&mut prng, nodes);
        let load = draw_load(&mut prng, &geometry);
        let credit_bytes: u64 = *pick(&mut prng, &[64 << 10, 256 << 10, 1 << 20]);
        let arena_extents = draw_arena(&mut prng, nodes, credit_bytes, &geometry);
        let mut plan = Self {
            seed,
            nodes,
            shards: *pick(&mut prng, &[1, 1, 2]),
            groups,
            geometry,
            arena_extents,
            arena_extent_bytes: ARENA_EXTENT_BYTES,
            credit_bytes,
            uncommitted_bytes_max: *pick(&mut prng, &[16 << 10, 256 << 10, 4 << 20]),
            direct_frame_bytes_min: *pick(&mut prng, &[4 << 10, 16 << 10, 1 << 20]),
            segments_ahead: *pick(&mut prng, &[1, 1, 2, 3]),
            retention_bytes: draw_retention(&mut prng, &geometry),
            clock_drift_ppm: *pick(&mut prng, &[0, 0, 1000, 50_000, 200_000]),
            turn: *pick(&mut prng, &[Between::micros(1, 20), Between::micros(1, 2000)]),
            disk,
            net,
            chaos,
            load,
            root: prng.next_u64(),
        };
        plan.draw_late(&mut prng);
        plan
    }

    /// What was added last is drawn last, and the worlds without it stay what they were.
    fn draw_late(&mut self, prng: &mut Prng) {
        if self.nodes > 1 && prng.chance(25, 100) {
            self.draw_plots(prng);
        }
        // Openings of several blocks: many groups, small blocks. Not on many nodes: such a world takes
        // as long as fifty others, and what it is about happens on one node.
        if self.groups >= 50 && self.nodes <= 3 && prng.chance(2, 3) {
            let geometry = &mut self.geometry;
            geometry.block_bytes_max = *pick(prng, &[4 << 10, 8 << 10]);
            let window = u64::from(geometry.block_bytes_max * geometry.writes_in_flight_max);
            geometry.in_flight_bytes_max = window.min(geometry.segment_bytes / 2);
            geometry.check();
            let record = u64::from(geometry.block_bytes_max) / 4;
            self.load.record_bytes_max = self.load.record_bytes_max.min(record);
            self.chaos.torn_opening_percent = *pick(prng, &[0, 10, 30]);
        }
    }

    /// A plot needs time, somebody who asks for things all the while, and mostly no other faults,
    /// which only make it end early.
    fn draw_plots(&mut self, prng: &mut Prng) {
        if self.nodes == 3 && prng.chance(1, 3) {
            // Some stories need a minority of more than one.
            self.nodes = 5;
            let least = least_arena(self.nodes, self.credit_bytes, &self.geometry);
            self.arena_extents = self.arena_extents.max(least);
        }
        let story = Recurring { every: Between::millis(10, 300), lasts: Between::millis(500, 501) };
        self.groups = self.groups.min(*pick(prng, &[1, 1, 3, 200]));
        self.load.requests = self.load.requests.max(5000);
        self.load.think = Between::millis(1, 20);
        self.load.clients = self.load.clients.max(4);
        self.load.patience = Duration::from_millis(200);
        self.load.read_percent = *pick(prng, &[20, 60]);
        if self.groups <= 13 && prng.chance(1, 2) {
            // Logs that are trimmed all the time.
            self.geometry.segment_bytes = 64 << 10;
            self.geometry.block_bytes_max = 16 << 10;
            self.geometry.in_flight_bytes_max = 32 << 10;
            self.geometry.check();
            self.retention_bytes = Some(self.geometry.segment_bytes / 4);
            self.load.record_bytes_max = 2000;
        }
        let chaos = &mut self.chaos;
        chaos.plot = Some(story);
        chaos.lasts += Duration::from_secs(2);
        if prng.chance(3, 4) {
            let power_loss_percent = chaos.power_loss_percent;
            let plot = chaos.plot;
            *chaos = ChaosPlan { power_loss_percent, plot, ..ChaosPlan::quiet(chaos.lasts) };
        }
    }
}

impl Plan {
    /// What people run, and how most of its days are: three nodes, one group, a client that
    /// appends and reads about fifteen times a second, now and then a crash or a cut. The measure
    /// of how fast this world is, and of what it finds in many quiet hours.
    pub fn steady(seed: u64, lasts: Duration) -> Self {
        let mut prng = Prng::new(seed);
        let rare = |low, high, lasts| Recurring { every: Between::millis(low, high), lasts };
        Self {
            seed,
            nodes: 3,
            shards: 1,
            groups: 1,
            geometry: Geometry {
                segment_bytes: 256 << 10,
                block_bytes_max: 64 << 10,
                in_flight_bytes_max: 128 << 10,
                writes_in_flight_max: 4,
            },
            arena_extents: 24,
            arena_extent_bytes: ARENA_EXTENT_BYTES,
            credit_bytes: 256 << 10,
            uncommitted_bytes_max: 256 << 10,
            direct_frame_bytes_min: 16 << 10,
            segments_ahead: 1,
            retention_bytes: Some(256 << 10),
            clock_drift_ppm: 1000,
            turn: Between::micros(1, 20),
            disk: DiskPlan {
                write: Between::micros(50, 200),
                read: Between::micros(50, 300),
                prepare: Between::micros(100, 1000),
                write_error_ppm: 0,
                read_error_ppm: 0,
                no_space_ppm: 0,
                start_error_ppm: 0,
                lost_ppm: 0,
                misdirected_ppm: 0,
            },
            net: NetPlan {
                delay: Between::micros(50, 1000),
                reconnect: Between::millis(5, 200),
                reset_ppm: 0,
                corrupt_ppm: 0,
                client_reset_ppm: 0,
                chunk_bytes_max: 64 << 10,
            },
            chaos: ChaosPlan {
                crash: Some(rare(10_000, 60_000, Between::millis(100, 2000))),
                power_loss_percent: 50,
                blackout_percent: 10,
                drain_percent: 20,
                cut: Some(rare(10_000, 60_000, Between::millis(100, 2000))),
                one_way_percent: 50,
                ..ChaosPlan::quiet(lasts)
            },
            load: LoadPlan {
                clients: 1,
                sessions: 0,
                requests: u64::MAX,
                in_flight: 1,
                think: Between::millis(20, 100),
                read_percent: 20,
                records_max: 4,
                record_bytes_max: 400,
                patience: Duration::from_secs(1),
            },
            root: prng.next_u64(),
        }
    }
}

fn pick<'a, T>(prng: &mut Prng, choices: &'a [T]) -> &'a T {
    let choice = prng.below(choices.len() as u64);
    &choices[usize::try_from(choice).expect("an index of a slice")]
}

fn draw_geometry(prng: &mut Prng, groups: u64) -> Geometry {
    // A checkpoint of all groups opens every segment, and must leave room for what it is for.
    let segments: &[u64] = if groups <= 13 {
        &[64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20]
    } else {
        &[256 << 10, 512 << 10, 1 << 20]
    };
    let segment_bytes = *pick(prng, segments);
    let block_bytes_max = (*pick(prng, &[16_u32 << 10, 32 << 10, 64 << 10]))
        .min(u32::try_from(segment_bytes / 2).expect("a MiB at most"));
    let writes_in_flight_max = *pick(prng, &[1, 2, 4, 8, 32]);
    let in_flight = u64::from(block_bytes_max) * u64::from(writes_in_flight_max);
    let geometry = Geometry {
        segment_bytes,
        block_bytes_max,
        in_flight_bytes_max: in_flight.min(segment_bytes / 2),
        writes_in_flight_max,
    };
    geometry.check();
    geometry
}

/// Half of it for what peers send, the other half for own writes: that is what the configuration
/// asks for at least, and one choice is exactly that.
fn draw_arena(prng: &mut Prng, nodes: u16, credit_bytes: u64, geometry: &Geometry) -> usize {
    least_arena(nodes, credit_bytes, geometry) + *pick(prng, &[0, 0, 8, 24])
}

fn least_arena(nodes: u16, credit_bytes: u64, geometry: &Geometry) -> usize {
    let halves = [u64::from(nodes - 1) * credit_bytes, geometry.in_flight_bytes_max];
    let least = 2 * usize::try_from(halves[0].max(halves[1])).expect("a few MiB");
    least.div_ceil(ARENA_EXTENT_BYTES).max(ARENA_EXTENTS_MIN)
}

fn draw_retention(prng: &mut Prng, geometry: &Geometry) -> Option<u64> {
    let segment = geometry.segment_bytes;
    *pick(prng, &[None, Some(segment / 4), Some(segment), Some(4 * segment)])
}

fn draw_disk(prng: &mut Prng) -> DiskPlan {
    let failing = prng.chance(1, 8);
    let lying = prng.chance(1, 8);
    DiskPlan {
        write: *pick(
            prng,
            &[Between::micros(50, 200), Between::micros(50, 5000), Between::millis(1, 60)],
        ),
        read: *pick(prng, &[Between::micros(50, 300), Between::micros(50, 20_000)]),
        prepare: *pick(prng, &[Between::micros(100, 1000), Between::millis(1, 200)]),
        write_error_ppm: if failing { 300 } else { 0 },
        read_error_ppm: if failing { 2000 } else { 0 },
        no_space_ppm: if prng.chance(1, 8) { 200_000 } else { 0 },
        start_error_ppm: if failing { 50_000 } else { 0 },
        lost_ppm: if lying { *pick(prng, &[0, 3000, 30_000]) } else { 0 },
        misdirected_ppm: if lying { *pick(prng, &[0, 3000, 30_000]) } else { 0 },
    }
}

fn draw_net(prng: &mut Prng) -> NetPlan {
    NetPlan {
        delay: *pick(
            prng,
            &[
                Between::micros(5, 50),
                Between::micros(50, 1000),
                Between::micros(50, 20_000),
                Between::millis(1, 80),
            ],
        ),
        reconnect: Between::millis(5, 200),
        reset_ppm: *pick(prng, &[0, 0, 500, 5000]),
        corrupt_ppm: *pick(prng, &[0, 0, 0, 1000]),
        client_reset_ppm: *pick(prng, &[0, 0, 300, 3000]),
        chunk_bytes_max: *pick(prng, &[64, 1500, 64 << 10]),
    }
}

fn draw_chaos(prng: &mut Prng, nodes: u16) -> ChaosPlan {
    let mut maybe = |chance: u64, choices: &[Recurring]| {
        let exists = prng.chance(chance, 100);
        let choice = *pick(prng, choices);
        exists.then_some(choice)
    };
    let often = |every: Between, lasts: Between| Recurring { every, lasts };
    let crash = maybe(
        75,
        &[
            often(Between::millis(20, 400), Between::millis(5, 100)),
            often(Between::millis(200, 2000), Between::millis(10, 600)),
            often(Between::millis(500, 3000), Between::millis(300, 2500)),
        ],
    );
    let cut = maybe(
        if nodes > 1 { 50 } else { 0 },
        &[
            often(Between::millis(20, 600), Between::millis(5, 500)),
            often(Between::millis(300, 2000), Between::millis(300, 2000)),
        ],
    );
    let pause = maybe(30, &[often(Between::millis(100, 2000), Between::millis(5, 900))]);
    let stall = maybe(25, &[often(Between::millis(200, 2000), Between::millis(20, 1500))]);
    let sometimes = Between::millis(200, 2000);
    let rot = maybe(if nodes > 1 { 15 } else { 0 }, &[often(sometimes, Between::millis(1, 2))]);
    let slow_disk = maybe(15, &[often(sometimes, Between::millis(100, 2000))]);
    let hang = maybe(15, &[often(sometimes, Between::millis(300, 2500))]);
    let disk_full = maybe(15, &[often(sometimes, Between::millis(100, 2500))]);
    let clock_jump = maybe(
        20,
        &[
            often(Between::millis(50, 1000), Between::millis(1, 200)),
            often(sometimes, Between::millis(50, 20_000)),
        ],
    );
    let ambush = maybe(
        if nodes > 1 { 20 } else { 0 },
        &[often(Between::millis(100, 800), Between::millis(150, 900))],
    );
    let freeze = maybe(15, &[often(Between::millis(100, 2000), Between::millis(5, 1500))]);
    let slow_core = maybe(15, &[often(sometimes, Between::millis(50, 2000))]);
    ChaosPlan {
        lasts: Duration::from_millis(prng.between(1500, 5000)),
        crash,
        power_loss_percent: *pick(prng, &[50, 100]),
        blackout_percent: *pick(prng, &[0, 10, 50]),
        drain_percent: *pick(prng, &[0, 0, 30]),
        new_disk_percent: *pick(prng, &[0, 0, 0, 0, 0, 40]),
        stumble_percent: *pick(prng, &[0, 0, 0, 30, 80]),
        torn_opening_percent: 0,
        cut,
        one_way_percent: *pick(prng, &[0, 50, 100]),
        ambush,
        plot: None,
        pause,
        stall,
        rot,
        slow_disk,
        hang,
        disk_full,
        clock_jump,
        freeze,
        slow_core,
    }
}

fn draw_load(prng: &mut Prng, geometry: &Geometry) -> LoadPlan {
    let record_bytes_max = *pick(prng, &[64, 400, 2000, u64::from(geometry.block_bytes_max) / 4]);
    LoadPlan {
        clients: *pick(prng, &[1, 2, 4, 8]),
        sessions: *pick(prng, &[0, 0, 1, 3]),
        requests: *pick(prng, &[100, 500, 2000, 5000]),
        in_flight: *pick(prng, &[1, 4, 16]),
        think: *pick(
            prng,
            &[Between::micros(10, 1000), Between::millis(1, 20), Between::millis(5, 100)],
        ),
        read_percent: *pick(prng, &[5, 20, 60]),
        records_max: *pick(prng, &[1, 4, 16]),
        record_bytes_max,
        patience: Duration::from_millis(*pick(prng, &[200, 1000, 3000])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_world_and_seeds_differ() {
        assert_eq!(Plan::draw(7), Plan::draw(7));
        assert_ne!(Plan::draw(7), Plan::draw(8));
    }

    #[test]
    fn a_few_hundred_seeds_reach_every_kind_of_world() {
        let plans: Vec<Plan> = (0..300).map(Plan::draw).collect();
        for nodes in [1, 3, 5, 7] {
            assert!(plans.iter().any(|plan| plan.nodes == nodes), "{nodes} nodes");
        }
        assert!(plans.iter().any(|plan| plan.groups == 200 && plan.nodes == 3));
        assert!(plans.iter().any(|plan| plan.geometry.segment_bytes == 64 << 10));
        assert!(plans.iter().any(|plan| plan.arena_extents == ARENA_EXTENTS_MIN));
        assert!(plans.iter().any(|plan| plan.chaos.crash.is_none()));
        assert!(plans.iter().any(|plan| plan.chaos.rot.is_some() && plan.chaos.cut.is_some()));
        assert!(plans.iter().any(|plan| plan.disk.lost_ppm > 0 && plan.nodes > 1));
        assert!(plans.iter().any(|plan| plan.disk.misdirected_ppm > 0 && plan.nodes > 1));
        assert!(plans.iter().any(|plan| plan.chaos.hang.is_some() && plan.nodes == 7));
        assert!(plans.iter().any(|plan| plan.retention_bytes.is_some() && plan.shards == 2));
        let plots = || plans.iter().filter(|plan| plan.chaos.plot.is_some());
        assert!(plots().any(|plan| plan.nodes == 3) && plots().any(|plan| plan.nodes == 5));
        assert!(plots().all(|plan| plan.nodes > 1));
        let tears = |plan: &&Plan| plan.chaos.torn_opening_percent > 0;
        assert!(plans.iter().filter(tears).any(|plan| plan.geometry.block_bytes_max == 4 << 10));
    }
}
