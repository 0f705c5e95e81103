//! Stories of several steps that chance alone tells too seldom.
//!
//! Some mistakes show only when things happen in one order: an answer must be under way while its
//! reader loses an office and wins another, or a log be replaced while its owner's device stands
//! still. A plot brings that about with the means of `chaos`, cuts, stops and stalls, looks every
//! few milliseconds who leads, and gives up when the story takes another turn. It is about group 1.
//! Does not: touch what a node knows or says; whatever happens could happen by chance.

use core::time::Duration;

use super::chaos::{Chaos, CutLinks};
use super::plan::Between;
use super::verdict::Fault;
use super::world::{Event, World, node_id};
use crate::base::Moment;
use crate::model::{GroupId, LogIndex};
use crate::raft;

/// How often a plot looks around.
const LOOKS_EVERY: Duration = Duration::from_millis(5);
/// A cut or a stop that nobody ends ends by itself.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(4);

/// What the plot is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    /// Followers take batches while their device does nothing, and another leader replaces those
    /// before they are in any block (I-06).
    Orphans,
    /// Answers to heartbeats arrive in the next office of their reader, when a third leader has
    /// committed something (L-09).
    LateVoices,
    /// Acknowledgements arrive in the next office of their reader, when what they speak of was
    /// replaced.
    LateAcks,
    /// A follower, or the leader, trims what the leader does not know the follower to have, because
    /// its acknowledgements are lost (R-03, S-04).
    Forgotten,
}

/// A plot that is under way. At most one per world.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    story: Story,
    /// How far the story is.
    step: u32,
    /// When this step began.
    since: Moment,
    /// How long this step waits, once what it waits for is there.
    wait: Duration,
    /// The leader it is about.
    hero: usize,
    /// Followers whose words to the hero are held back.
    mute: Vec<usize>,
    /// The others.
    rest: Vec<usize>,
    /// The cut that holds back what the mute say to the hero.
    held: Option<usize>,
    /// Cuts that end with the step.
    cuts: Vec<usize>,
    /// How old the hero's first office was when the mute were muted, and when that was.
    office: Duration,
    muted: Moment,
}

/// What comes after a look.
enum Turn {
    /// The step goes on.
    Waits,
    /// The next step begins, and waits so many milliseconds at least and at most.
    Next(u64, u64),
    /// The story is told, or went another way.
    Ends,
}

fn both(some: &[usize], others: &[usize]) -> CutLinks {
    let pairs = some.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
    pairs.filter(|(one, other)| one != other).flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

fn one_way(from: &[usize], to: &[usize]) -> CutLinks {
    let pairs = from.iter().flat_map(|one| to.iter().map(move |other| (*one, *other)));
    pairs.filter(|(one, other)| one != other).collect()
}

impl World {
    /// Begins a plot, or goes on with the one that is under way.
    pub(super) fn plot_on(&mut self) {
        let Some(kind) = self.plan.chaos.plot else { return };
        let plot = self.plot.take().or_else(|| self.conceive());
        let Some(mut plot) = plot else { return self.again(kind, Chaos::Plot) };
        let now = self.queue.now();
        let is_late = kind.lasts.low.max(plot.wait) + kind.lasts.low < now.since(plot.since);
        let turn = if now.since(plot.since) < plot.wait {
            Turn::Waits
        } else if is_late {
            Turn::Ends
        } else {
            match plot.story {
                Story::Orphans => self.orphans(&mut plot),
                Story::LateVoices => self.late_voices(&mut plot),
                Story::LateAcks => self.late_acks(&mut plot),
                Story::Forgotten => self.forgotten(&mut plot),
            }
        };
        match turn {
            Turn::Waits => {}
            Turn::Next(low, high) => {
                self.note("plot", &[plot.story as u64, u64::from(plot.step), plot.hero as u64]);
                plot.step += 1;
                plot.since = now;
                plot.wait = Between::millis(low, high + 1).draw(&mut self.prng.chaos);
            }
            Turn::Ends => {
                self.end_cuts(&mut plot);
                plot.held.take().into_iter().for_each(|cut| self.release(cut));
                return self.again(kind, Chaos::Plot);
            }
        }
        self.plot = Some(plot);
        self.queue.after(LOOKS_EVERY, Event::Chaos(Chaos::Plot));
    }

    /// Chooses a story for the present leader.
    fn conceive(&mut self) -> Option<Plot> {
        let hero = self.leaders().first().copied()?;
        let nodes = self.nodes.len();
        let stories: &[Story] = if nodes >= 5 {
            &[Story::Orphans, Story::LateVoices, Story::LateAcks, Story::LateAcks, Story::Forgotten]
        } else {
            &[Story::Orphans, Story::LateVoices, Story::Forgotten]
        };
        let story = self.prng.chaos.below(stories.len() as u64);
        let story = stories[usize::try_from(story).expect("a few")];
        let mutes = if story == Story::LateVoices { (nodes - 1) / 2 } else { 1 };
        let mut rest: Vec<usize> = (0..nodes).filter(|node| *node != hero).collect();
        let by = self.prng.chaos.below(rest.len() as u64);
        rest.rotate_left(usize::try_from(by).expect("a handful of nodes"));
        let mute = rest.drain(..mutes).collect();
        self.tally.count(Fault::Plot);
        let now = self.queue.now();
        Some(Plot {
            story,
            step: 0,
            since: now,
            wait: Duration::ZERO,
            hero,
            mute,
            rest,
            held: None,
            cuts: Vec::new(),
            office: now.since(self.led_since[hero]),
            muted: now,
        })
    }

    fn step_cut(&mut self, plot: &mut Plot, links: CutLinks) {
        let cut = self.cut(links, FORGOTTEN_AFTER);
        plot.cuts.push(cut);
    }

    fn end_cuts(&mut self, plot: &mut Plot) {
        for cut in core::mem::take(&mut plot.cuts) {
            self.release(cut);
        }
    }

    fn hold(&mut self, plot: &mut Plot) {
        let links = one_way(&plot.mute, &[plot.hero]);
        plot.held = Some(self.cut(links, FORGOTTEN_AFTER));
    }

    fn leads(&mut self, node: usize) -> bool {
        self.leaders().contains(&node)
    }

    /// Whether somebody leads who is neither the hero nor mute.
    fn successor(&mut self, plot: &Plot) -> Option<usize> {
        self.leaders().into_iter().find(|leader| plot.rest.contains(leader))
    }

    fn orphans(&mut self, plot: &mut Plot) -> Turn {
        let now = self.queue.now();
        let (hero, mute) = (plot.hero, plot.mute[0]);
        let is_minority = self.nodes.len() >= 5;
        match plot.step {
            // The hero goes on with this one follower, whose device does nothing. Of three nodes
            // the two are a majority: then the hero's own device must stand still too.
            0 => {
                let (pair, rest) = ([hero, mute], plot.rest.clone());
                self.step_cut(plot, both(&pair, &rest));
                self.tally.count(Fault::Stall);
                self.stall_until(mute, now.after(FORGOTTEN_AFTER));
                if !is_minority {
                    self.stall_until(hero, now.after(FORGOTTEN_AFTER));
                }
                Turn::Next(20, 250)
            }
            // And the hero must forget it.
            1 if !is_minority => {
                if !self.nodes[hero].is_up() {
                    return self.end_stalls(plot);
                }
                self.tally.count(Fault::PowerLoss);
                self.crash(hero, true);
                self.nodes[hero].stalled_until = now;
                let down = Between::millis(5, 50).draw(&mut self.prng.chaos);
                self.restart_after(hero, down);
                self.end_cuts(plot);
                plot.rest.push(hero);
                // Whose log is the longest must not win.
                let rest = plot.rest.clone();
                self.step_cut(plot, one_way(&[mute], &rest));
                Turn::Next(0, 0)
            }
            1 => Turn::Next(0, 0),
            2 if self.successor(plot).is_none() => self.unless_late(plot),
            2 => {
                self.end_cuts(plot);
                Turn::Next(0, 60)
            }
            _ => self.end_stalls(plot),
        }
    }

    /// Waits on, but lets no device stand still for longer than a step may take.
    fn unless_late(&mut self, plot: &Plot) -> Turn {
        let patience = self.plan.chaos.plot.map_or(Duration::ZERO, |kind| kind.lasts.low);
        if self.queue.now().since(plot.since) < patience {
            Turn::Waits
        } else {
            self.end_stalls(plot)
        }
    }

    fn end_stalls(&mut self, plot: &Plot) -> Turn {
        let now = self.queue.now();
        for node in [plot.hero, plot.mute[0]] {
            let until = self.nodes[node].stalled_until;
            if until != Moment::NEVER {
                self.nodes[node].stalled_until = until.min(now);
            }
        }
        Turn::Ends
    }

    fn mutes(&mut self, plot: &mut Plot) -> Turn {
        self.hold(plot);
        let (mute, rest) = (plot.mute.clone(), plot.rest.clone());
        self.step_cut(plot, one_way(&mute, &rest));
        Turn::Next(30, 250)
    }

    fn late_voices(&mut self, plot: &mut Plot) -> Turn {
        let now = self.queue.now();
        let (hero, mute, rest) = (plot.hero, plot.mute.clone(), plot.rest.clone());
        match plot.step {
            0 => self.mutes(plot),
            // The hero hears nobody and lays its office down.
            1 => {
                self.step_cut(plot, one_way(&rest, &[hero]));
                Turn::Next(50, 50)
            }
            2 if self.leads(hero) => Turn::Waits,
            // No other two can talk to each other.
            2 => {
                self.end_cuts(plot);
                self.step_cut(plot, one_way(&mute, &rest));
                self.step_cut(plot, both(&rest, &mute));
                self.step_cut(plot, one_way(&rest, &rest));
                Turn::Next(0, 0)
            }
            // Another one could, with the hero's vote: then the story begins again, about that one.
            3 if self.successor(plot).is_some() => {
                let next = self.successor(plot).expect("just seen");
                plot.rest.retain(|node| *node != next);
                plot.rest.push(hero);
                plot.hero = next;
                plot.step = 0;
                plot.office = now.since(self.led_since[next]);
                plot.muted = now;
                self.end_cuts(plot);
                plot.held.take().into_iter().for_each(|cut| self.release(cut));
                self.mutes(plot)
            }
            3 if !self.leads(hero) => Turn::Waits,
            // Until its rounds have the numbers of those whose answers are held back.
            3 => {
                let held = now.since(plot.muted);
                let held = u64::try_from(held.as_millis()).expect("a plot is short");
                let office = u64::try_from(plot.office.as_millis()).expect("a run is short");
                if office > 1000 {
                    return Turn::Ends;
                }
                Turn::Next(office + held / 8, office + held * 3 / 4)
            }
            4 if !self.leads(hero) || !self.nodes[hero].answers() => Turn::Ends,
            // It is suspended, and the others choose a leader of their own.
            4 => {
                self.stop(hero, Fault::Freeze, FORGOTTEN_AFTER);
                self.nodes[hero].freeze_clock(now);
                self.end_cuts(plot);
                self.step_cut(plot, both(&[hero], &rest));
                self.step_cut(plot, one_way(&[hero], &mute));
                Turn::Next(0, 0)
            }
            5 => {
                let leaders = self.leaders();
                if leaders.iter().all(|leader| *leader == hero) {
                    return Turn::Waits;
                }
                Turn::Next(60, 400)
            }
            6 => {
                let boot = self.nodes[hero].boot;
                self.resume(hero, boot);
                Turn::Next(10, 120)
            }
            7 => {
                plot.held.take().into_iter().for_each(|cut| self.release(cut));
                Turn::Next(30, 60)
            }
            _ => Turn::Ends,
        }
    }

    fn late_acks(&mut self, plot: &mut Plot) -> Turn {
        let (hero, mute, rest) = (plot.hero, plot.mute.clone(), plot.rest.clone());
        match plot.step {
            // The hero goes on with one follower, whose acknowledgements are held back.
            0 => {
                self.hold(plot);
                self.step_cut(plot, both(&[hero, mute[0]], &rest));
                Turn::Next(100, 100)
            }
            1 if self.leads(hero) || self.successor(plot).is_none() => Turn::Waits,
            // A successor replaces what the two have.
            1 => {
                self.end_cuts(plot);
                Turn::Next(0, 80)
            }
            2 => {
                let Some(successor) = self.successor(plot) else { return Turn::Ends };
                plot.rest.retain(|node| *node != successor);
                let rest = plot.rest.clone();
                let everybody: Vec<usize> = (0..self.nodes.len()).collect();
                self.step_cut(plot, both(&[successor], &everybody));
                self.step_cut(plot, both(&rest, &mute));
                self.step_cut(plot, one_way(&rest, &rest));
                Turn::Next(0, 0)
            }
            3 if !self.leads(hero) => Turn::Waits,
            // The hero leads again and lacks one voice of a majority.
            3 => {
                let heard = self.nodes.len() / 2 - 1;
                let deaf = rest[heard..].to_vec();
                self.step_cut(plot, both(&[hero], &deaf));
                Turn::Next(5, 150)
            }
            4 => {
                plot.held.take().into_iter().for_each(|cut| self.release(cut));
                Turn::Next(30, 60)
            }
            _ => Turn::Ends,
        }
    }

    fn forgotten(&mut self, plot: &mut Plot) -> Turn {
        let (hero, mute) = (plot.hero, plot.mute[0]);
        match plot.step {
            0 => {
                self.hold(plot);
                Turn::Next(0, 0)
            }
            1 => {
                let base_of = |raft: &raft::Group| raft.base().index;
                let matched = self.replica(hero).and_then(|raft| raft.match_of(node_id(mute)));
                let bases = [mute, hero].map(|node| self.replica(node).map(base_of));
                let Some(matched) = matched.filter(|matched| *matched > LogIndex::BEFORE_FIRST)
                else {
                    return Turn::Waits;
                };
                if bases.into_iter().flatten().all(|base| base <= matched) {
                    return Turn::Waits;
                }
                for link in self.net.links_of(mute) {
                    if self.net.link(link).nodes.contains(&hero) {
                        self.tally.count(Fault::Reset);
                        self.reset(link);
                    }
                }
                plot.held.take().into_iter().for_each(|cut| self.release(cut));
                Turn::Next(100, 300)
            }
            _ => Turn::Ends,
        }
    }

    /// A replica of the group that plots are about, if its process runs.
    fn replica(&mut self, node: usize) -> Option<&raft::Group> {
        let group = GroupId::new(1);
        let shard = self.shard_of(group);
        self.nodes[node].live(shard)?.shard.group(group)
    }
}
