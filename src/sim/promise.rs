//! The oracle over what leaves a node: everything that is said was made durable first.
//!
//! Apart because it reads the control frames as the network sees them, and the mirror of the
//! device, and nothing in between: a vote, a term or an acknowledgement that runs ahead of its
//! write is found at the very message, not by the election it may one day spoil (H-01, I-01).

use super::mirror::Mirror;
use super::verdict::{Check, fail};
use crate::model::NodeId;
use crate::raft::{Envelope, Message};

/// `node` sends `envelope` while `mirror` is what its device holds for certain.
pub(super) fn check_sent(node: NodeId, envelope: &Envelope, mirror: &Mirror) -> Check {
    let group = envelope.group;
    let nothing = super::mirror::Replica::default();
    let durable = mirror.replica(group).unwrap_or(&nothing);
    let state = durable.state;
    if needs_durable_term(&envelope.message) && state.term < envelope.term {
        fail!(HardState, "{node:?} {group:?} sends {envelope:?}, durable is {state:?}");
    }
    let promised = promised_to(node, envelope);
    if promised.is_some() && state.term == envelope.term && state.vote != promised {
        fail!(HardState, "{node:?} {group:?} sends {envelope:?}, durable is {state:?}");
    }
    if let Message::Accepted { matched } = envelope.message
        && durable.last() < matched
    {
        let last = durable.last();
        fail!(AckDiscipline, "{node:?} {group:?} accepts {matched:?}, durable is {last:?}");
    }
    Ok(())
}

/// Whom the message says this node votes for.
fn promised_to(node: NodeId, envelope: &Envelope) -> Option<NodeId> {
    match envelope.message {
        Message::Vote { .. } => Some(node),
        Message::VoteReply { granted: true } => Some(envelope.peer),
        Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::VoteReply { granted: false }
        | Message::Heartbeat { .. }
        | Message::HeartbeatReply { .. }
        | Message::Probe { .. }
        | Message::Accepted { .. }
        | Message::Rejected { .. }
        | Message::Snapshot { .. } => None,
    }
}

/// A pre-vote names a term that nobody has entered, and so does a yes to it (thesis 9.6).
fn needs_durable_term(message: &Message) -> bool {
    !matches!(message, Message::PreVote { .. } | Message::PreVoteReply { granted: true })
}
