//! Looking on for a moment instead of sleeping at once.
//!
//! With little load, falling asleep and being woken costs an append more than its device does. So
//! while a write or a peer's acknowledgement is outstanding, a shard may look for it itself for a
//! while, giving its core to whoever else wants it between two looks. Off unless it is configured:
//! the price is processor time. Does not: receive anything; a socket that has something ends the
//! look, and the executor goes on as ever.

use std::os::fd::RawFd;

/// With more connections than this, a look costs what it saves.
const WATCHED_MAX: usize = 64;

/// Descriptors to look at. One per shard, reused.
#[derive(Default)]
pub(super) struct Watched {
    list: Vec<libc::pollfd>,
}

impl Watched {
    /// Starts over with none.
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// One more to look at.
    pub(super) fn add(&mut self, descriptor: RawFd) {
        self.list.push(libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 });
    }

    /// Whether they are few enough.
    pub(super) fn is_affordable(&self) -> bool {
        self.list.len() <= WATCHED_MAX
    }

    /// Whether one of them has something to read, or has ended. If not, others may use the core
    /// before this returns.
    pub(super) fn look(&mut self) -> bool {
        let count = self.list.len() as libc::nfds_t;
        #[expect(unsafe_code, reason = "std has neither poll(2) nor a look without waiting")]
        // SAFETY: the list is ours and as long as we say; sched_yield touches no memory. Closed
        // descriptors are an answer of poll(2) and no fault.
        unsafe {
            if libc::poll(self.list.as_mut_ptr(), count, 0) != 0 {
                return true;
            }
            libc::sched_yield();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_look_sees_what_has_come_and_does_not_take_it() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let mut watched = Watched::default();
        watched.add(there.as_raw_fd());
        assert!(watched.is_affordable());
        assert!(!watched.look());
        here.write_all(b"x").unwrap();
        assert!(watched.look() && watched.look());
        drop(here);
        assert!(watched.look());
        (0..WATCHED_MAX).for_each(|_| watched.add(there.as_raw_fd()));
        assert!(!watched.is_affordable());
        watched.clear();
        assert!(watched.is_affordable() && !watched.look());
    }
}
