//! SIGTERM and SIGINT, as a thread that waits for them.
//!
//! Blocked in every thread of the process and waited for in one, so that no handler ever runs in
//! the middle of something. Must be set up before any other thread starts.

use std::io;
use std::thread;

/// Calls `on_signal` each time SIGTERM or SIGINT arrives.
///
/// # Errors
/// If the thread cannot be started.
pub fn on_termination(on_signal: impl Fn() + Send + 'static) -> io::Result<()> {
    let signals = termination_signals();
    #[expect(unsafe_code, reason = "std has no signal masks")]
    // SAFETY: the set is initialised; the old mask is not asked for.
    let status = unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, core::ptr::null_mut())
    };
    if status != 0 {
        return Err(io::Error::from_raw_os_error(status));
    }
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            let mut signal = 0;
            #[expect(unsafe_code, reason = "std cannot wait for a signal")]
            // SAFETY: both pointers are to live values of ours.
            let status = unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
            if status == 0 {
                on_signal();
            }
        }
    })?;
    Ok(())
}

fn termination_signals() -> libc::sigset_t {
    #[expect(unsafe_code, reason = "std has no signal sets")]
    // SAFETY: sigemptyset initialises the set, and the other calls name valid signals.
    unsafe {
        let mut signals = core::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGTERM);
        libc::sigaddset(&raw mut signals, libc::SIGINT);
        signals
    }
}
