//! The system calls that std does not wrap: epoll, signals, free space, precise sleeping.
//!
//! All `unsafe` of this program is here, each block with the reason it holds. Does not own the
//! sockets it watches and decides nothing.
#![expect(unsafe_code, reason = "system calls that std does not wrap")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Events taken in one call; more wait for the next.
const EVENTS_MAX: usize = 256;

/// What is wanted of a socket besides its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Tell when there is something to read, or the other end is gone.
    Input,
    /// Also tell when there is room to write.
    InputAndRoom,
}

/// One socket that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// The number it was registered under.
    pub(crate) key: usize,
    /// There is something to read, an end or an error included.
    pub(crate) input: bool,
    /// There is room to write.
    pub(crate) room: bool,
}

/// One epoll instance. Level-triggered: what was not taken is told again.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Poll {
    /// A new one, with nothing registered.
    ///
    /// # Errors
    /// Whatever the kernel says, for example that no file descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; a non-negative result is a descriptor that nobody else owns.
        let epoll = unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX] })
    }

    /// Watches `socket` under `key` until it is closed.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(crate) fn add(&self, socket: &impl AsRawFd, key: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, key, Interest::Input)
    }

    /// Changes what is wanted of a watched socket.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(crate) fn set(
        &self,
        socket: &impl AsRawFd,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, key, interest)
    }

    fn control(
        &self,
        operation: libc::c_int,
        socket: &impl AsRawFd,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        let flags = match interest {
            Interest::Input => libc::EPOLLIN,
            Interest::InputAndRoom => libc::EPOLLIN | libc::EPOLLOUT,
        };
        let events = u32::try_from(flags).expect("the flags are small positive numbers");
        let mut event = libc::epoll_event { events, u64: key as u64 };
        // SAFETY: `event` lives through the call, which only reads it.
        check(unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), operation, socket.as_raw_fd(), &raw mut event)
        })?;
        Ok(())
    }

    /// Waits until something is ready or `timeout` has passed; fills `ready`.
    ///
    /// # Errors
    /// Whatever the kernel says; being interrupted by a signal is not an error but nothing ready.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
        };
        let room = libc::c_int::try_from(self.events.len()).expect("EVENTS_MAX is small");
        // SAFETY: `events` has room for `room` entries and `timeout` lives through the call; a
        // null signal mask changes nothing.
        let found = check(unsafe {
            libc::epoll_pwait2(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                room,
                &raw const timeout,
                std::ptr::null(),
            )
        });
        let found = match found {
            Ok(found) => usize::try_from(found).expect("checked: not negative"),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let room = u32::try_from(libc::EPOLLOUT).expect("a small positive number");
        ready.extend(self.events[..found].iter().map(|event| {
            let (events, key) = (event.events, event.u64);
            Ready {
                key: usize::try_from(key).expect("registered from a usize"),
                input: events & !room != 0,
                room: events & room != 0,
            }
        }));
        Ok(())
    }
}

/// Lets this thread's waits end when they should: by default the kernel may add 50 microseconds
/// to save wake-ups, which would show in every latency of an open loop.
pub(crate) fn sleep_precisely() {
    // SAFETY: takes numbers only and changes nothing but this thread's timer slack.
    let _ = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000 as libc::c_ulong, 0, 0, 0) };
}

/// Bytes an ordinary user may still write below `dir`.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
    // SAFETY: all-zero bytes are a valid `statvfs`, a structure of plain numbers.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers live through the call; the path ends with a zero byte.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    (result == 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

/// Lets this process, and what it starts, have `wanted` open files if that is permitted: beyond the
/// hard limit it takes root. Tells how many it may have now.
pub(crate) fn raise_open_files(wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer lives through the call, which fills the structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    for most in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let raised = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: the pointer lives through the call, which only reads.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return most;
        }
    }
    limit.rlim_cur
}

/// Whether a signal asked us to stop.
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_signal: libc::c_int) {
    // A second one while the first is being obeyed means that somebody is in a hurry.
    if STOP.swap(true, Ordering::Relaxed) {
        // SAFETY: `_exit` is safe to call in a signal handler and does not return. The children
        // see their input end and remove what is theirs.
        unsafe { libc::_exit(130) }
    }
}

/// From now on the first Ctrl-C or SIGTERM only sets what [`stopped`] tells, so that the cluster is
/// stopped and its files are removed.
pub(crate) fn remember_signals() {
    let handler = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic or ends the process, both allowed there.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Whether somebody wants us to stop.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn this_directory_has_room() {
        assert!(free_bytes(Path::new(".")).is_some());
        assert_eq!(free_bytes(Path::new("/does/not/exist")), None);
    }

    #[test]
    fn a_socket_with_input_is_told_and_a_quiet_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let mut speaker = TcpStream::connect(address).expect("loopback");
        let (hearer, _) = listener.accept().expect("loopback");
        let mut poll = Poll::new().expect("epoll");
        poll.add(&hearer, 7).expect("registered");
        let mut ready = Vec::new();
        poll.wait(Duration::from_millis(1), &mut ready).expect("waits");
        assert_eq!(ready, []);
        speaker.write_all(b"x").expect("sent");
        poll.wait(Duration::from_secs(5), &mut ready).expect("waits");
        assert_eq!(ready, [Ready { key: 7, input: true, room: false }]);
        poll.set(&hearer, 7, Interest::InputAndRoom).expect("changed");
        poll.wait(Duration::from_secs(5), &mut ready).expect("waits");
        assert_eq!(ready, [Ready { key: 7, input: true, room: true }]);
    }
}
