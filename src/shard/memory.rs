//! Who may have how much of the arena. The two thresholds stand side by side because they must
//! agree: eviction that stopped where a read back may not begin would leave a lagging peer, or a
//! reader, waiting for ever.
//!
//! ```text
//! free extents   0 ....... 1/8 ........ 3/16 ........ 1/4 ..............
//! blocks of the log   take whatever is free
//! received frames          | need more than this
//! read back                            | needs more than this
//! eviction                                           | ends here, and one above "read back"
//! ```
//!
//! Rounding makes all four equal in a small arena, so the last is a maximum. Does not: evict
//! (`apply`) or read (`fetch`).

use crate::base::{Arena, BlockBuf};
use crate::model::limits::ARENA_FREE_PERCENT_MIN;

/// Free extents that a read back leaves alone. What is read back stays until its receiver has
/// room; it leaves more than what is received does ([`Arena::take_spare`]), or two nodes full of
/// what they want to send each other would wait for ever.
fn kept_from_read_backs(extents: usize) -> usize {
    extents * 3 / 16
}

/// Free extents at which eviction ends.
fn wanted_free(extents: usize) -> usize {
    (extents * ARENA_FREE_PERCENT_MIN / 100).max(kept_from_read_backs(extents) + 1)
}

/// Whether what can be read back should be let go of.
pub(super) fn is_low(arena: &mut Arena) -> bool {
    arena.free_extents() < wanted_free(arena.extents())
}

/// Memory to read `bytes` back from the device for `owner`, if there is enough for everything else.
pub(super) fn take_for_read_back(
    arena: &mut Arena,
    bytes: usize,
    owner: usize,
) -> Option<BlockBuf> {
    if arena.free_extents() <= kept_from_read_backs(arena.extents()) {
        None
    } else {
        arena.take_apart(bytes, owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::arena::BLOCK_ALIGN_BYTES;

    #[test]
    fn after_eviction_a_read_back_can_start_whatever_the_size_of_the_arena() {
        for extents in 2..=64 {
            for carved in [0, BLOCK_ALIGN_BYTES, 2 * BLOCK_ALIGN_BYTES] {
                let bytes = 2 * BLOCK_ALIGN_BYTES;
                let mut arena = Arena::new(extents, bytes);
                let mut cached: Vec<_> = (0..extents)
                    .map(|_| arena.take(bytes).expect("a fresh arena").freeze(bytes))
                    .collect();
                assert!(is_low(&mut arena), "{extents} extents, all in use");
                // The log goes on being written into what was freed first.
                cached.remove(0);
                let block = (carved > 0).then(|| arena.take(carved).expect("freed just now"));
                while is_low(&mut arena) && !cached.is_empty() {
                    cached.remove(0);
                }
                let read = take_for_read_back(&mut arena, bytes, 0);
                assert!(read.is_some() || cached.is_empty(), "{extents} extents, {carved} carved");
                assert!(read.is_some() || extents == 2, "{extents} extents, {carved} carved");
                drop(block);
            }
        }
    }

    #[test]
    fn large_arenas_evict_a_quarter() {
        assert_eq!((kept_from_read_backs(64), wanted_free(64)), (12, 16));
        assert_eq!([6, 7, 11].map(wanted_free), [2, 2, 3], "where percentages met");
    }
}
