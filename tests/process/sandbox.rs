//! A kernel that forbids io_uring, as containers' default profiles do: one clear line, exit code 3.
//!
//! Apart because it takes a system call filter, and `unsafe`, to make such a kernel.
#![expect(unsafe_code, reason = "a filter is installed between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt as _;

use super::nodes::Cluster;

/// Refuses `io_uring_setup` with EPERM for this process and its children, for ever.
fn forbid_io_uring() -> io::Result<()> {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS, of the call's number
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let call = u32::try_from(libc::SYS_io_uring_setup).expect("call numbers are small");
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).expect("positive");
    let mut filter = [
        libc::sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: call },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: refused },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: both calls take numbers and one pointer to a program that lives until they return;
    // they touch nothing else of this process.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn a_kernel_that_forbids_io_uring_is_named() {
    let mut cluster = Cluster::new(1);
    cluster.start_with(1, |command| {
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(forbid_io_uring) };
    });
    let status = cluster.wait_end(1);
    let log = cluster.tail(1);
    assert_eq!(status.code(), Some(3), "{log}");
    let line = log.lines().find(|line| line.starts_with("error: ")).expect("an error line");
    assert!(line.contains("io_uring"), "{line}");
    // Nothing was lost by trying.
    cluster.start(1);
    cluster.leader();
}
