//! Ctrl-C and SIGTERM: remembered, so that the cluster is stopped and its files are removed.
#![expect(unsafe_code, reason = "std has no signal handlers")]

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_signal: libc::c_int) {
    // A second one while the first is being obeyed means that somebody is in a hurry.
    if STOP.swap(true, Ordering::Relaxed) {
        // SAFETY: `_exit` is safe to call in a signal handler and does not return. The children
        // see their input end and remove what is theirs.
        unsafe { libc::_exit(130) }
    }
}

/// From now on, the first interrupt only sets what [`stopped`] tells.
pub(crate) fn install() {
    let handler = remember as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic or ends the process, both allowed there.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Whether somebody wants us to stop.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}
