//! What goes wrong, when, and for how long.
//!
//! One `impl World` block: each kind of fault of the plan is a chain of events, begin and end,
//! until the world turns calm; then everything is mended at once. Small faults (resets, changed
//! bytes, failing writes) are drawn where they happen.

use core::time::Duration;

use super::node::SUPERVISOR;
use super::plan::{Between, Recurring};
use super::verdict::{Check, Fault};
use super::world::{Event, World};
use crate::base::Moment;
use crate::shard::Input;

/// How long a node that was asked to stop gets.
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);

/// How soon after its start a node loses its power again.
const STUMBLES_WITHIN: Between = Between::micros(100, 6000);

/// A large fault begins or ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chaos {
    /// One node dies, or all.
    Crash,
    /// A node that was asked to stop has not, and is killed.
    Lost { node: usize, boot: u64 },
    /// A node that was just started loses its power.
    Stumble { node: usize, boot: u64 },
    /// A dead node is started.
    Restart { node: usize, boot: u64 },
    /// A node or a directed link is cut off.
    Cut,
    /// The cut with this number ends.
    Uncut(usize),
    /// A leader is cut off together with its device, or does not hear one follower.
    Ambush,
    /// A plot begins, or the one that is under way goes on.
    Plot,
    /// A node stands still.
    Pause,
    /// It goes on, if it is still that run.
    Resume { node: usize, boot: u64 },
    /// A device does nothing.
    Stall,
    /// A device does nothing, until its node is restarted.
    Hang,
    /// A node is worse off for a while.
    Phase(Phase),
    /// Stored bytes change.
    Rot,
    /// A clock jumps.
    ClockJump,
    /// A node is suspended.
    Freeze,
}

/// What a node suffers from for a while.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// Its devices take long.
    SlowDisk,
    /// Its devices have no room.
    DiskFull,
    /// Its turns take long.
    SlowCore,
}

/// Directed links that one cut stops.
pub(super) type CutLinks = Vec<(usize, usize)>;

impl World {
    /// Lets the chains of the plan begin.
    pub(super) fn start_chaos(&mut self) {
        let chaos = self.plan.chaos;
        for (kind, begins) in [
            (chaos.crash, Chaos::Crash),
            (chaos.cut, Chaos::Cut),
            (chaos.ambush, Chaos::Ambush),
            (chaos.plot, Chaos::Plot),
            (chaos.pause, Chaos::Pause),
            (chaos.stall, Chaos::Stall),
            (chaos.hang, Chaos::Hang),
            (chaos.slow_disk, Chaos::Phase(Phase::SlowDisk)),
            (chaos.disk_full, Chaos::Phase(Phase::DiskFull)),
            (chaos.rot, Chaos::Rot),
            (chaos.clock_jump, Chaos::ClockJump),
            (chaos.freeze, Chaos::Freeze),
            (chaos.slow_core, Chaos::Phase(Phase::SlowCore)),
        ] {
            if let Some(kind) = kind {
                self.again(kind, begins);
            }
        }
    }

    pub(super) fn again(&mut self, kind: Recurring, begins: Chaos) {
        let delay = kind.every.draw(&mut self.prng.chaos);
        self.queue.after(delay, Event::Chaos(begins));
    }

    /// A large fault begins or ends.
    pub(super) fn on_chaos(&mut self, chaos: Chaos) -> Check {
        match chaos {
            Chaos::Restart { node, boot } => self.on_restart(node, boot)?,
            Chaos::Lost { node, boot } => self.on_lost(node, boot),
            Chaos::Stumble { node, boot } => self.stumble(node, boot),
            Chaos::Uncut(cut) => self.uncut(cut),
            Chaos::Resume { node, boot } => self.resume(node, boot),
            Chaos::Crash
            | Chaos::Cut
            | Chaos::Ambush
            | Chaos::Plot
            | Chaos::Pause
            | Chaos::Stall
            | Chaos::Hang
            | Chaos::Phase(_)
            | Chaos::Rot
            | Chaos::ClockJump
            | Chaos::Freeze
                if !self.chaotic => {}
            Chaos::Crash => self.begin_crash(),
            Chaos::Cut => self.begin_cut(),
            Chaos::Ambush => self.begin_ambush(),
            Chaos::Plot => self.plot_on(),
            Chaos::Pause => self.begin_pause(),
            Chaos::Stall => self.begin_stall(),
            Chaos::Hang => self.begin_hang(),
            Chaos::Phase(phase) => self.begin_phase(phase),
            Chaos::Rot => self.begin_rot(),
            Chaos::ClockJump => self.jump(),
            Chaos::Freeze => self.begin_freeze(),
        }
        Ok(())
    }

    pub(super) fn any_node(&mut self) -> usize {
        let node = self.prng.chaos.below(self.nodes.len() as u64);
        usize::try_from(node).expect("a handful of nodes")
    }

    fn begin_crash(&mut self) {
        let Some(kind) = self.plan.chaos.crash else { return };
        let all = self.prng.chaos.chance(self.plan.chaos.blackout_percent, 100);
        let power_loss = self.prng.chaos.chance(self.plan.chaos.power_loss_percent, 100);
        let victims: Vec<usize> =
            if all { (0..self.nodes.len()).collect() } else { vec![self.any_node()] };
        if all {
            self.tally.count(Fault::Blackout);
        }
        let drains = !all && self.prng.chaos.chance(self.plan.chaos.drain_percent, 100);
        for node in victims {
            if drains {
                self.drain(node);
            } else if self.nodes[node].is_up() {
                self.tally.count(if power_loss { Fault::PowerLoss } else { Fault::Kill });
                self.crash(node, power_loss);
                let down = kind.lasts.draw(&mut self.prng.chaos);
                self.restart_after(node, down);
            }
        }
        self.again(kind, Chaos::Crash);
    }

    /// Asks a node to stop; kills it if it does not in time.
    fn drain(&mut self, node: usize) {
        if !self.nodes[node].answers() || self.nodes[node].undrained > 0 {
            return;
        }
        self.tally.count(Fault::Drain);
        self.nodes[node].undrained = usize::from(self.plan.shards);
        for shard in 0..usize::from(self.plan.shards) {
            self.give(self.nodes[node].at(shard), Input::Drain);
        }
        let boot = self.nodes[node].boot;
        self.queue.after(DRAIN_DEADLINE, Event::Chaos(Chaos::Lost { node, boot }));
    }

    fn on_lost(&mut self, node: usize, boot: u64) {
        if self.nodes[node].boot == boot && self.nodes[node].is_up() {
            self.crash(node, false);
            self.restart_after(node, SUPERVISOR);
        }
    }

    /// Lets a dead node start again.
    pub(super) fn restart_after(&mut self, node: usize, down: Duration) {
        let boot = self.nodes[node].boot;
        self.queue.after(down, Event::Chaos(Chaos::Restart { node, boot }));
    }

    fn on_restart(&mut self, node: usize, boot: u64) -> Check {
        if self.nodes[node].boot != boot || self.nodes[node].is_up() {
            return Ok(());
        }
        if self.chaotic && self.plan.chaos.rot.is_some() && self.prng.chaos.chance(1, 3) {
            self.rot(node);
        }
        if self.chaotic {
            self.tamper(node);
        }
        self.boot(node)?;
        if self.chaotic && self.prng.chaos.chance(self.plan.chaos.stumble_percent, 100) {
            let after = STUMBLES_WITHIN.draw(&mut self.prng.chaos);
            let boot = self.nodes[node].boot;
            self.queue.after(after, Event::Chaos(Chaos::Stumble { node, boot }));
        }
        Ok(())
    }

    /// So soon that its first opening is on its way to the device.
    fn stumble(&mut self, node: usize, boot: u64) {
        if self.chaotic && self.nodes[node].boot == boot && self.nodes[node].is_up() {
            self.tally.count(Fault::Stumble);
            self.crash(node, true);
            self.restart_after(node, SUPERVISOR);
        }
    }

    fn begin_cut(&mut self) {
        let Some(kind) = self.plan.chaos.cut else { return };
        let one_way = self.prng.chaos.chance(self.plan.chaos.one_way_percent, 100);
        let (node, peer) = (self.any_node(), self.any_node());
        let mut links = CutLinks::new();
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            // Half of the cuts isolate a node, the others part two nodes of a cluster.
            if peer == node || peer == other {
                links.push((node, other));
                if !one_way {
                    links.push((other, node));
                }
            }
        }
        let lasts = kind.lasts.draw(&mut self.prng.chaos);
        self.cut(links, lasts);
        self.again(kind, Chaos::Cut);
    }

    pub(super) fn cut(&mut self, links: CutLinks, lasts: Duration) -> usize {
        for (from, to) in &links {
            self.tally.count(Fault::Cut);
            self.net.cut(*from, *to, true);
            self.note("cut", &[*from as u64, *to as u64]);
        }
        self.cuts.push(links);
        let cut = self.cuts.len() - 1;
        self.queue.after(lasts, Event::Chaos(Chaos::Uncut(cut)));
        cut
    }

    /// Two things at once that seldom meet by chance. Half of the time a leader is cut off while
    /// its device stands still a little longer than that: what it wrote meanwhile is replaced while
    /// it is on its way (I-06). Otherwise it does not hear one follower, which hears it: what that
    /// one has is trimmed before the leader knows of it (R-03, S-04).
    fn begin_ambush(&mut self) {
        let Some(kind) = self.plan.chaos.ambush else { return };
        let lasts = kind.lasts.draw(&mut self.prng.chaos);
        let (isolates, other) = (self.prng.chaos.chance(1, 2), self.any_node());
        let later = Duration::from_millis(self.prng.chaos.between(1, 300));
        if let Some(leader) = self.leaders().first().copied() {
            self.tally.count(Fault::Ambush);
            if isolates {
                let others = (0..self.nodes.len()).filter(|node| *node != leader);
                let links = others.flat_map(|node| [(leader, node), (node, leader)]).collect();
                self.cut(links, lasts);
                self.stall_until(leader, self.queue.now().after(lasts + later));
            } else if other != leader {
                self.cut(vec![(other, leader)], lasts);
            }
        }
        self.again(kind, Chaos::Ambush);
    }

    /// A cut ends: what waited comes through, or, as often, the streams had timed out.
    fn uncut(&mut self, cut: usize) {
        for (from, to) in core::mem::take(&mut self.cuts[cut]) {
            self.net.cut(from, to, false);
            self.note("uncut", &[from as u64, to as u64]);
            let times_out = self.prng.chaos.chance(1, 2);
            self.pass_on((from, to), times_out);
        }
    }

    /// A cut ends before its time, and everything that waited comes through.
    pub(super) fn release(&mut self, cut: usize) {
        for (from, to) in core::mem::take(&mut self.cuts[cut]) {
            self.net.cut(from, to, false);
            self.note("uncut", &[from as u64, to as u64]);
            self.pass_on((from, to), false);
        }
    }

    /// What waited on the streams between two nodes moves again, or their streams are reset.
    fn pass_on(&mut self, (from, to): (usize, usize), times_out: bool) {
        for link in self.net.links_of(from) {
            if !self.net.link(link).nodes.contains(&to) {
                continue;
            }
            if times_out {
                self.reset(link);
            } else {
                self.reschedule(link);
            }
        }
    }

    fn begin_pause(&mut self) {
        let Some(kind) = self.plan.chaos.pause else { return };
        self.stand_still(kind, Fault::Pause);
        self.again(kind, Chaos::Pause);
    }

    /// As a virtual machine that is suspended: it does not even notice that time has passed.
    fn begin_freeze(&mut self) {
        let Some(kind) = self.plan.chaos.freeze else { return };
        if let Some(node) = self.stand_still(kind, Fault::Freeze) {
            let now = self.queue.now();
            self.nodes[node].freeze_clock(now);
        }
        self.again(kind, Chaos::Freeze);
    }

    fn stand_still(&mut self, kind: Recurring, fault: Fault) -> Option<usize> {
        let node = self.any_node();
        if !self.nodes[node].answers() {
            return None;
        }
        let lasts = kind.lasts.draw(&mut self.prng.chaos);
        self.stop(node, fault, lasts);
        Some(node)
    }

    /// A node stands still.
    pub(super) fn stop(&mut self, node: usize, fault: Fault, lasts: Duration) {
        self.tally.count(fault);
        self.nodes[node].paused = true;
        self.note("pause", &[node as u64, fault as u64]);
        let boot = self.nodes[node].boot;
        self.queue.after(lasts, Event::Chaos(Chaos::Resume { node, boot }));
    }

    pub(super) fn resume(&mut self, node: usize, boot: u64) {
        if self.nodes[node].boot != boot || !self.nodes[node].paused {
            return;
        }
        self.nodes[node].paused = false;
        let now = self.queue.now();
        self.nodes[node].thaw_clock(now);
        self.note("resume", &[node as u64]);
        for shard in 0..usize::from(self.plan.shards) {
            self.turn_soon(self.nodes[node].at(shard));
        }
        for link in self.net.links_of(node) {
            self.reschedule(link);
        }
    }

    fn begin_stall(&mut self) {
        let Some(kind) = self.plan.chaos.stall else { return };
        let node = self.any_node();
        self.tally.count(Fault::Stall);
        let until = self.queue.now().after(kind.lasts.draw(&mut self.prng.chaos));
        self.stall_until(node, until);
        self.again(kind, Chaos::Stall);
    }

    pub(super) fn stall_until(&mut self, node: usize, until: Moment) {
        // One that hangs already goes on hanging.
        let until = until.max(self.nodes[node].stalled_until);
        self.nodes[node].stalled_until = until;
        self.note("stall", &[node as u64, until.as_nanos()]);
    }

    /// What was begun is never answered. Somebody sees it after a while and restarts the node; the
    /// device then works again.
    fn begin_hang(&mut self) {
        let Some(kind) = self.plan.chaos.hang else { return };
        let node = self.any_node();
        if self.nodes[node].is_up() {
            self.tally.count(Fault::Hang);
            self.nodes[node].stalled_until = Moment::NEVER;
            self.note("hang", &[node as u64]);
            let lasts = kind.lasts.draw(&mut self.prng.chaos);
            let boot = self.nodes[node].boot;
            self.queue.after(lasts, Event::Chaos(Chaos::Lost { node, boot }));
        }
        self.again(kind, Chaos::Hang);
    }

    /// A node is worse off for a while.
    fn begin_phase(&mut self, phase: Phase) {
        let plan = &self.plan.chaos;
        let (kind, fault) = match phase {
            Phase::SlowDisk => (plan.slow_disk, Fault::SlowDisk),
            Phase::DiskFull => (plan.disk_full, Fault::DiskFull),
            Phase::SlowCore => (plan.slow_core, Fault::SlowCore),
        };
        let Some(kind) = kind else { return };
        let node = self.any_node();
        self.tally.count(fault);
        let until = self.queue.now().after(kind.lasts.draw(&mut self.prng.chaos));
        let one = &mut self.nodes[node];
        match phase {
            Phase::SlowDisk => one.slow_disk_until = until,
            Phase::DiskFull => one.disk_full_until = until,
            Phase::SlowCore => one.slow_core_until = until,
        }
        self.note("phase", &[node as u64, fault as u64, until.as_nanos()]);
        self.again(kind, Chaos::Phase(phase));
    }

    fn begin_rot(&mut self) {
        let Some(kind) = self.plan.chaos.rot else { return };
        let node = self.any_node();
        self.rot(node);
        self.again(kind, Chaos::Rot);
    }

    fn jump(&mut self) {
        let Some(kind) = self.plan.chaos.clock_jump else { return };
        let node = self.any_node();
        self.tally.count(Fault::ClockJump);
        let by = kind.lasts.draw(&mut self.prng.chaos);
        self.nodes[node].jump_clock(by);
        self.note("jump", &[node as u64, u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)]);
        self.again(kind, Chaos::ClockJump);
    }

    /// Everything is mended at once; nothing breaks any more.
    pub(super) fn heal(&mut self) -> Check {
        self.chaotic = false;
        self.plot = None;
        self.note("heal", &[]);
        for cut in 0..self.cuts.len() {
            self.uncut(cut);
        }
        let now = self.queue.now();
        for node in 0..self.nodes.len() {
            let hung = self.nodes[node].stalled_until == Moment::NEVER;
            let one = &mut self.nodes[node];
            one.stalled_until = now;
            one.slow_disk_until = now;
            one.disk_full_until = now;
            one.slow_core_until = now;
            let boot = one.boot;
            self.resume(node, boot);
            // Whoever looks after a cluster restarts a node whose device hangs or whose log reads
            // badly: only a start finds all of the damage.
            if (hung || self.nodes[node].is_damaged()) && self.nodes[node].is_up() {
                self.crash(node, false);
            }
            if !self.nodes[node].is_up() && !self.nodes[node].refused {
                self.boot(node)?;
            }
        }
        Ok(())
    }
}
