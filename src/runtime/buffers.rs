//! Receive buffers of one shard: taken when bytes arrive, given back when nothing is in them.
//!
//! An idle connection holds none. What was received goes on as `Bytes` that share the buffer, and
//! the buffer is used again once they are all gone, so a busy shard allocates nothing per read
//! but the small owner of the shared bytes. Does not: read sockets.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// What one read takes at most.
pub(super) const RECEIVE_BYTES_MAX: usize = 64 << 10;

/// How much a connection is offered to read at once. A fast one is offered more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// What every connection starts with.
    Small,
    /// Measured: better tail latency than 256 KiB at the same rate.
    Large,
}

impl Size {
    const fn bytes(self) -> usize {
        match self {
            Self::Small => 2 << 10,
            Self::Large => RECEIVE_BYTES_MAX,
        }
    }

    /// The size to offer after a read of `bytes`: a full small buffer asks for a large one, and a
    /// large one that got less than a small one holds is given up.
    pub(super) const fn after(self, bytes: usize) -> Self {
        match self {
            Self::Small if bytes == Self::Small.bytes() => Self::Large,
            Self::Large if bytes < Self::Small.bytes() / 2 => Self::Small,
            Self::Small | Self::Large => self,
        }
    }
}

/// Buffers kept for use again: at most 4 MiB of large ones.
const KEPT_MAX: usize = 64;

#[derive(Default)]
struct Shelf {
    /// Whole and ours alone.
    ready: Vec<BytesMut>,
    /// Still shared with what was received into them, the oldest first.
    lent: VecDeque<BytesMut>,
}

/// One per shard.
#[derive(Default)]
pub(super) struct Buffers {
    small: Shelf,
    large: Shelf,
}

impl Buffers {
    /// A buffer whose length is what may be received into it.
    pub(super) fn take(&mut self, size: Size) -> BytesMut {
        let bytes = size.bytes();
        let shelf = self.shelf(size);
        if let Some(buffer) = shelf.ready.pop() {
            return buffer;
        }
        // Only the oldest is tried: if its bytes are still in use, so are most of the others'.
        if let Some(mut buffer) = shelf.lent.pop_front() {
            if buffer.try_reclaim(bytes) {
                #[expect(unsafe_code, reason = "saves clearing 64 KiB before each read")]
                // SAFETY: the capacity is at least `bytes`, and every buffer here was made by
                // `zeroed` and only ever written, so all of it is initialised.
                unsafe {
                    buffer.set_len(bytes);
                }
                return buffer;
            }
            shelf.lent.push_back(buffer);
        }
        BytesMut::zeroed(bytes)
    }

    /// Gives `buffer` back, of which the first `filled` bytes were received; returns those.
    pub(super) fn give_back(&mut self, size: Size, mut buffer: BytesMut, filled: usize) -> Bytes {
        let shelf = self.shelf(size);
        if filled == 0 {
            if shelf.ready.len() < KEPT_MAX {
                shelf.ready.push(buffer);
            }
            return Bytes::new();
        }
        let received = buffer.split_to(filled).freeze();
        if shelf.lent.len() < KEPT_MAX {
            buffer.clear();
            shelf.lent.push_back(buffer);
        }
        received
    }

    fn shelf(&mut self, size: Size) -> &mut Shelf {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_what_it_held_is_gone() {
        let mut buffers = Buffers::default();
        let mut buffer = buffers.take(Size::Large);
        let start = buffer.as_ptr();
        buffer[..3].copy_from_slice(b"abc");
        let received = buffers.give_back(Size::Large, buffer, 3);
        let other = buffers.take(Size::Large);
        assert_ne!(other.as_ptr(), start, "the first is still lent");
        assert_eq!(&received[..], b"abc");
        drop(received);
        let again = buffers.take(Size::Large);
        assert_eq!((again.as_ptr(), again.len()), (start, 64 << 10));
        assert!(buffers.give_back(Size::Large, again, 0).is_empty());
        assert_eq!(buffers.take(Size::Large).as_ptr(), start);
    }

    #[test]
    fn connections_that_fill_their_buffer_get_a_larger_one_and_slow_ones_give_it_up() {
        assert_eq!(Size::Small.after(2047), Size::Small);
        assert_eq!(Size::Small.after(2048), Size::Large);
        assert_eq!(Size::Large.after(2048), Size::Large);
        assert_eq!(Size::Large.after(100), Size::Small);
    }
}
