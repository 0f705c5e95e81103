//! The ring on a real file, and its verdicts on results that a real device rarely gives.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::*;

const BLOCK: usize = DEVICE_ALIGN_BYTES;

/// Submits and waits until `count` operations have ended.
fn wait(ring: &mut Ring, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    while done.len() < count {
        ring.submit().unwrap();
        let mut count = [0; 8];
        if done.is_empty() {
            let file = std::fs::File::from(ring.wake_descriptor().unwrap());
            io::Read::read_exact(&mut &file, &mut count).unwrap();
        }
        ring.reap(&mut done);
    }
    done
}

fn block(arena: &mut Arena, fill: u8, blocks: usize) -> Slice {
    let mut buf = arena.take(blocks * BLOCK).expect("the arena has room");
    buf.fill(fill);
    let len = buf.len();
    buf.freeze(len)
}

fn file(directory: &std::path::Path) -> std::fs::File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT)
        .open(directory.join("file"))
        .expect("the temporary directory must be on a file system with O_DIRECT");
    file.set_len(1 << 20).unwrap();
    file
}

#[test]
fn writes_are_read_back_with_and_without_registration() {
    for registered in [true, false] {
        let temp = tempfile::tempdir_in(".").unwrap();
        let file = file(temp.path());
        let mut arena = Arena::new(4, 64 << 10);
        let mut ring = Ring::new(&arena).unwrap();
        if !registered {
            ring.registered = Registered { buffers: false, files: false };
        }
        let slot = FileSlot(3);
        ring.attach(slot, file.as_raw_fd()).unwrap();
        for number in 0..4 {
            let fill = u8::try_from(number).unwrap() + 1;
            ring.write(number, slot, number * 8192, block(&mut arena, fill, 2));
        }
        let mut numbers: Vec<u64> = wait(&mut ring, 4)
            .into_iter()
            .map(|completion| match completion {
                Completion::Write { number, result: Ok(()), .. } => number,
                other => panic!("{other:?}"),
            })
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3]);

        ring.read(9, slot, 8192, arena.take(8192).unwrap());
        match wait(&mut ring, 1).pop() {
            Some(Completion::Read { number: 9, buf, result: Ok(()), .. }) => {
                assert!(buf.iter().all(|byte| *byte == 2));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(ring.outstanding(), 0);
        if registered {
            ring.detach(slot).unwrap();
        }
    }
}

#[test]
fn more_operations_than_the_ring_holds_all_end() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let file = file(temp.path());
    let mut arena = Arena::new(2, 1 << 20);
    let mut ring = Ring::new(&arena).unwrap();
    ring.attach(FileSlot(0), file.as_raw_fd()).unwrap();
    let count = OPERATIONS_MAX + 50;
    for number in 0..count as u64 {
        ring.write(number, FileSlot(0), number % 64 * 4096, block(&mut arena, 7, 1));
    }
    assert_eq!(wait(&mut ring, count).len(), count);
}

#[test]
fn a_read_beyond_the_end_comes_back_short_with_its_buffer() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let file = file(temp.path());
    let mut arena = Arena::new(1, 64 << 10);
    let mut ring = Ring::new(&arena).unwrap();
    ring.attach(FileSlot(0), file.as_raw_fd()).unwrap();
    ring.read(1, FileSlot(0), 1 << 20, arena.take(4096).unwrap());
    match wait(&mut ring, 1).pop() {
        Some(Completion::Read { buf, result: Err(IoFault::Short), .. }) => {
            assert_eq!(buf.len(), 4096);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn after_a_failed_write_nothing_more_is_written() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let good = file(temp.path());
    let read_only = OpenOptions::new().read(true).open(temp.path().join("file")).unwrap();
    let mut arena = Arena::new(1, 64 << 10);
    let mut ring = Ring::new(&arena).unwrap();
    ring.attach(FileSlot(0), read_only.as_raw_fd()).unwrap();
    ring.attach(FileSlot(1), good.as_raw_fd()).unwrap();
    ring.write(1, FileSlot(0), 0, block(&mut arena, 1, 1));
    match wait(&mut ring, 1).pop() {
        Some(Completion::Write { number: 1, result: Err(IoFault::Failed { errno }), .. }) => {
            assert_eq!(errno, libc::EBADF);
        }
        other => panic!("{other:?}"),
    }
    ring.write(2, FileSlot(1), 4096, block(&mut arena, 2, 1));
    ring.submit().unwrap();
    drop(ring);
    let mut found = [0; 1];
    let buffered = std::fs::File::open(temp.path().join("file")).unwrap();
    buffered.read_exact_at(&mut found, 4096).unwrap();
    assert_eq!(found, [0]);
}

/// I-05: the memory of a write is the kernel's until its completion comes. Whoever lets go of the
/// ring lets go of the memory too, so the ring must not be gone before all have ended.
#[test]
fn a_ring_that_is_dropped_waits_for_what_the_device_has() {
    let temp = tempfile::tempdir_in(".").unwrap();
    let file = file(temp.path());
    let mut arena = Arena::new(1, 1 << 20);
    let mut ring = Ring::new(&arena).unwrap();
    ring.attach(FileSlot(0), file.as_raw_fd()).unwrap();
    let slices: Vec<Slice> = (1..=16).map(|fill| block(&mut arena, fill, 16)).collect();
    for (at, slice) in (0..).zip(&slices) {
        ring.write(at, FileSlot(0), at * 16 * BLOCK as u64, slice.clone());
    }
    ring.submit().unwrap();
    drop(ring);
    let buffered = std::fs::File::open(temp.path().join("file")).unwrap();
    for (at, slice) in (0..).zip(&slices) {
        let mut found = vec![0; slice.len()];
        buffered.read_exact_at(&mut found, at * 16 * BLOCK as u64).unwrap();
        assert!(found == **slice, "write {at} had not ended");
    }
}

#[test]
fn a_part_is_continued_and_a_fault_is_named() {
    assert_eq!(verdict(8192, 8192), Verdict::Done);
    assert_eq!(verdict(4096, 8192), Verdict::Continue(4096));
    assert_eq!(verdict(-libc::EINTR, 8192), Verdict::Continue(0));
    assert_eq!(verdict(-libc::EAGAIN, 8192), Verdict::Continue(0));
    assert_eq!(verdict(100, 8192), Verdict::Fault(IoFault::Short));
    assert_eq!(verdict(0, 8192), Verdict::Fault(IoFault::Short));
    assert_eq!(verdict(-libc::ENOSPC, 8192), Verdict::Fault(IoFault::NoSpace));
    assert_eq!(verdict(-libc::EIO, 8192), Verdict::Fault(IoFault::Failed { errno: libc::EIO }));
}
