//! reply: outcomes become client frames, in request order per connection and group.
//!
//! Refusals at the door may overtake replies that still wait for a commit; correlation ids match
//! them. Does not: decide anything; every outcome was noted by an earlier stage.

use super::Shard;
use super::effects::{Effect, Effects};
use super::{Draining, slot::Waiting};
use crate::model::LogIndex;
use crate::wire::client::{AppendReply, encode_append_reply, encode_doubt, encode_refusal};

impl Shard {
    /// The reply stage: one send per client connection with something to hear.
    pub(super) fn reply(&mut self, fx: &mut Effects) {
        self.answer_committed();
        self.answer_refused();
        self.answer_questions();
        self.clients.flush(fx);
        if self.draining == Draining::Asked && self.is_settled() && self.store.is_idle() {
            mark!(O02_DRAINED);
            self.draining = Draining::Done;
            fx.push(Effect::Drained);
        }
    }

    fn answer_committed(&mut self) {
        let mut committed = core::mem::take(&mut self.replies.committed);
        for at in committed.drain(..) {
            let commit: LogIndex = self.slots[at].raft.commit();
            while let Some(waiting) = self.slots[at].waiting.front()
                && (waiting.span.last() <= commit || planted!(C06_ANSWERED_BEFORE_COMMIT))
            {
                let Waiting { origin, span, bytes } =
                    self.slots[at].waiting.pop_front().expect("looked at it just now");
                mark!(C04_APPEND_ANSWERED);
                self.replies.uncommitted_bytes -=
                    if planted!(F04_BUDGET_LEAKS) { 0 } else { bytes };
                self.counters.append_done += 1;
                let group = self.slots[at].id;
                let reply = AppendReply { first: span.first, term: span.term, commit };
                self.clients.answer(origin, |out| {
                    encode_append_reply(out, origin.correlation, group, &reply);
                });
            }
        }
        self.replies.committed = committed;
    }

    fn answer_refused(&mut self) {
        for (group, origin, refusal) in self.replies.refused.drain(..) {
            self.clients.answer(origin, |out| {
                encode_refusal(out, origin.correlation, group, refusal);
            });
        }
        for (group, waiting, doubt) in self.replies.doubtful.drain(..) {
            self.counters.append_unknown += 1;
            let origin = waiting.origin;
            self.clients.answer(origin, |out| {
                encode_doubt(out, origin.correlation, group, doubt);
            });
        }
    }
}
