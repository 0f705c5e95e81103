//! How events look in a trace: one line each, subject first.

use catamaran::model::{LogIndex, Member, Membership, NodeId, Refusal, Span};
use catamaran::raft::{Append, Effect, Envelope, Group, Message, RoleName};

use super::disk::Item;

pub(crate) fn span(span: &Span) -> String {
    let (first, last) = (span.first, span.last());
    if first == last {
        format!("{first:?}.{:?}", span.term)
    } else {
        format!("{first:?}-{last}.{:?}", span.term)
    }
}

pub(crate) fn message(from: NodeId, envelope: &Envelope) -> String {
    let Envelope { peer, term, message, .. } = envelope;
    let yes = |granted: &bool| if *granted { "yes" } else { "no" };
    let text = match message {
        Message::PreVote { last } => format!("pre-vote {term:?} last {last:?}"),
        Message::PreVoteReply { granted } => format!("pre-vote-reply {term:?} {}", yes(granted)),
        Message::Vote { last } => format!("vote {term:?} last {last:?}"),
        Message::VoteReply { granted } => format!("vote-reply {term:?} {}", yes(granted)),
        Message::Heartbeat { commit, round } => {
            format!("heartbeat {term:?} commit {commit} round {round}")
        }
        Message::HeartbeatReply { round } => format!("heartbeat-reply {term:?} round {round}"),
        Message::Probe { prev, commit } => format!("probe {term:?} prev {prev:?} commit {commit}"),
        Message::Accepted { matched } => format!("accepted {term:?} match {matched}"),
        Message::Rejected { prev, hint } => format!("rejected {term:?} prev {prev} hint {hint:?}"),
        Message::Snapshot { last, membership: m } => {
            format!("snapshot {term:?} last {last:?} {}", membership(m))
        }
    };
    format!("{from:?} -> {peer:?} {text}")
}

pub(crate) fn append(from: NodeId, to: NodeId, append: &Append) -> String {
    let Append { term, prev, commit, batch, membership: m, .. } = append;
    let batch = item(batch.span, m.as_ref());
    format!("{from:?} -> {to:?} append {term:?} prev {prev:?} [{batch}] commit {commit}")
}

fn item(of: Span, m: Option<&Membership>) -> String {
    m.map_or_else(|| span(&of), |m| format!("{} {}", span(&of), membership(m)))
}

pub(crate) fn membership(membership: &Membership) -> String {
    let list = |name: &str, members: &[Member]| {
        let nodes: Vec<String> = members.iter().map(|m| format!("{:?}", m.node)).collect();
        if nodes.is_empty() { String::new() } else { format!(" {name} {}", nodes.join(" ")) }
    };
    let text = list("voters", &membership.voters)
        + &list("outgoing", &membership.outgoing)
        + &list("learners", &membership.learners);
    text.trim_start().to_owned()
}

pub(crate) fn items(items: &[Item]) -> String {
    let mut text = String::new();
    let mut batches = Vec::new();
    for one in items {
        match one {
            Item::Hard(hard) => {
                text += &format!(" {:?}", hard.term);
                if let Some(vote) = hard.vote {
                    text += &format!(" vote {vote:?}");
                }
            }
            Item::Batch(of, _, _, m) => batches.push(item(*of, m.as_ref())),
            Item::Reset { last, keep_tail, .. } => {
                text += &format!(" reset {last:?}");
                text += if *keep_tail { " keeping the tail" } else { "" };
            }
        }
    }
    if !batches.is_empty() {
        text += &format!(" [{}]", batches.join(" "));
    }
    text
}

/// What an effect shows; `None` if something else shows it.
pub(crate) fn effect(node: NodeId, effect: &Effect) -> Option<String> {
    let text = match effect {
        Effect::Send(envelope) => return Some(message(node, envelope)),
        Effect::HardStateDirty { .. } => return None, // The write shows it.
        Effect::BecameLeader { term, .. } => format!("leads {term:?}"),
        Effect::SteppedDown { .. } => "steps down".to_owned(),
        Effect::LeaderChanged { leader: Some(leader), .. } => format!("follows {leader:?}"),
        Effect::LeaderChanged { leader: None, .. } => "follows nobody".to_owned(),
        Effect::Truncated { from, .. } => format!("truncate from {from}"),
        Effect::Committed { commit, .. } => format!("commit {commit}"),
        Effect::Installed { last, keep_tail, .. } => {
            format!("install {last:?}{}", if *keep_tail { ", tail kept" } else { ", log dropped" })
        }
        Effect::ReadReady { token, index } => format!("read r{} ready at {index}", token.0),
        Effect::ReadFailed { token, refusal } => {
            let hint = if let Refusal::NotLeader { hint: Some(hint) } = refusal {
                format!("{hint:?} may lead")
            } else {
                refusal.to_string()
            };
            format!("read r{} failed: {hint}", token.0)
        }
    };
    Some(format!("{node:?} {text}"))
}

pub(crate) fn status(node: NodeId, group: &Group) -> String {
    let role = match group.role() {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    };
    let mut text = format!(
        "{node:?} {role} {:?} last {:?} durable {} commit {}",
        group.term(),
        group.last(),
        group.durable(),
        group.commit(),
    );
    if group.base().index > LogIndex::BEFORE_FIRST {
        text += &format!(" base {:?}", group.base());
    }
    if group.role() == RoleName::Leader {
        for member in group.membership().members() {
            if let Some(peer) = group.peer(member.node) {
                let (matched, next) = (peer.matched, peer.next);
                text +=
                    &format!(" | {:?} {:?} match {matched} next {next}", member.node, peer.phase);
                text += if peer.amnesiac { " amnesiac" } else { "" };
            }
        }
    } else {
        match group.leader() {
            Some(leader) => text += &format!(" | of {leader:?}"),
            None => text += " | of nobody",
        }
    }
    text
}
