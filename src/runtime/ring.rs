//! The device ring: block writes and reads of one shard through a raw io_uring.
//!
//! Apart because almost all `unsafe` of this room is here, and because the executor's own rings
//! cannot do what a log needs (`RWF_DSYNC`, registered memory and files). One per shard, made and
//! used on the shard's own thread only. The executor is woken through an eventfd.
//!
//! A write is durable when its completion reports its full length: each carries `RWF_DSYNC`
//! (I-02). A short or interrupted one is continued, which is sound because blocks of a log never
//! overlap (D10); any other fault poisons the ring: nothing is submitted any more, so nothing can
//! be written beyond the hole (I-03, I-04). Buffers belong to the ring until their completion
//! arrives, however long that takes (I-05, I-07).
//!
//! Does not: know segments, LSNs or directories (`disk` does), retry a flush, or time out.

use core::marker::PhantomData;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::base::{Arena, BlockBuf, Slice};
use crate::model::limits::DEVICE_ALIGN_BYTES;
use crate::shard::IoFault;

/// Submission queue entries. The completion queue is four times as long, so it cannot overflow:
/// [`OPERATIONS_MAX`] is half of it.
const ENTRIES: u32 = 64;
/// Operations the ring holds at once; what exceeds it waits here.
const OPERATIONS_MAX: usize = 128;
/// Reads the device holds at once; a long catch-up must not stand before a write.
const READS_IN_FLIGHT_MAX: usize = 8;
/// Files that can be attached at once.
pub(super) const FILES_MAX: u32 = 64;
/// A write that the kernel sends back this often (EINTR, EAGAIN) is a fault after all.
const ATTEMPTS_MAX: u32 = 1000;

/// Where an attached file stands in the ring's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileSlot(pub(super) u32);

/// Whether memory and files are registered with the kernel, which saves it the pinning of pages
/// and the counting of references at every operation. Durability does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) buffers: bool,
    pub(super) files: bool,
}

/// The end of one operation, with the number its owner gave it.
#[derive(Debug)]
pub(super) enum Completion {
    /// A write; `Ok` means durable to its last byte.
    Write { number: u64, file: FileSlot, result: Result<(), IoFault> },
    /// A read; the buffer comes back either way.
    Read { number: u64, file: FileSlot, buf: BlockBuf, result: Result<(), IoFault> },
}

#[derive(Debug)]
enum Memory {
    Write(Slice),
    Read(BlockBuf),
}

/// One operation, owned by the ring from `write` or `read` to its completion.
#[derive(Debug)]
struct Operation {
    number: u64,
    file: FileSlot,
    offset: u64,
    memory: Memory,
    /// Bytes that earlier completions of this operation reported.
    done: usize,
    attempts: u32,
}

/// See the module's documentation.
pub(super) struct Ring {
    ring: IoUring,
    eventfd: OwnedFd,
    registered: Registered,
    files: Vec<RawFd>,
    /// By user data. `None` slots are free.
    operations: Vec<Option<Operation>>,
    free: Vec<usize>,
    waiting_writes: VecDeque<Operation>,
    waiting_reads: VecDeque<Operation>,
    reads_in_flight: usize,
    /// Set by the first failed write, for ever.
    poisoned: bool,
    /// `IORING_SETUP_SINGLE_ISSUER`: the ring belongs to the thread that made it.
    _thread: PhantomData<*const ()>,
}

impl Ring {
    /// Makes a ring over the memory of `arena`. Registers what the kernel lets us register.
    ///
    /// # Errors
    /// If io_uring is refused.
    pub(super) fn new(arena: &Arena) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_cqsize(ENTRIES * 4)
            .dontfork()
            .build(ENTRIES)
            .or_else(|error| older_kernel(&error).unwrap_or(Err(error)))?;
        // Blocking and not EFD_NONBLOCK: the executor awaits an ordinary read of it.
        let eventfd = eventfd()?;
        ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        let (start, bytes) = arena.region();
        advise_huge_pages(start, bytes);
        let iovec = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: bytes };
        #[expect(unsafe_code, reason = "registers memory with the kernel")]
        // SAFETY: the region lives as long as any slice of it. Pages of a dropped arena stay
        // pinned by the kernel until the ring is gone, and nobody uses them through it: every
        // operation holds the slice or buffer it names.
        let buffers = unsafe { ring.submitter().register_buffers(&[iovec]) }.is_ok();
        let files = ring.submitter().register_files_sparse(FILES_MAX).is_ok();
        // One worker each is enough for the rare operation that the kernel cannot start inline.
        // Refused by old kernels, and then merely unbounded.
        let _ = ring.submitter().register_iowq_max_workers(&mut [1, 1]);
        Ok(Self {
            ring,
            eventfd,
            registered: Registered { buffers, files },
            files: vec![-1; FILES_MAX as usize],
            operations: (0..OPERATIONS_MAX).map(|_| None).collect(),
            free: (0..OPERATIONS_MAX).rev().collect(),
            waiting_writes: VecDeque::new(),
            waiting_reads: VecDeque::new(),
            reads_in_flight: 0,
            poisoned: false,
            _thread: PhantomData,
        })
    }

    /// What the kernel let us register.
    pub(super) fn registered(&self) -> Registered {
        self.registered
    }

    /// A descriptor whose 8-byte read completes when there is something to reap.
    pub(super) fn wake_descriptor(&self) -> io::Result<OwnedFd> {
        self.eventfd.try_clone()
    }

    /// Makes `file` usable as `slot`. The caller keeps it open until after [`Ring::detach`].
    pub(super) fn attach(&mut self, slot: FileSlot, file: RawFd) -> io::Result<()> {
        assert!(self.files[slot.0 as usize] == -1, "{slot:?} is taken");
        if self.registered.files {
            self.ring.submitter().register_files_update(slot.0, &[file])?;
        }
        self.files[slot.0 as usize] = file;
        Ok(())
    }

    /// Forgets the file of `slot`. The owner has seen every operation on it end.
    pub(super) fn detach(&mut self, slot: FileSlot) -> io::Result<()> {
        let busy = |operation: &Operation| operation.file == slot;
        assert!(!self.operations.iter().flatten().any(busy), "{slot:?} is in use");
        self.files[slot.0 as usize] = -1;
        if self.registered.files {
            self.ring.submitter().register_files_update(slot.0, &[-1])?;
        }
        Ok(())
    }

    /// Starts the durable write of `block` at `offset`, at the next [`Ring::submit`].
    pub(super) fn write(&mut self, number: u64, file: FileSlot, offset: u64, block: Slice) {
        assert!(block.len().is_multiple_of(DEVICE_ALIGN_BYTES) && !block.is_empty());
        assert!(offset.is_multiple_of(DEVICE_ALIGN_BYTES as u64), "{offset}");
        let memory = Memory::Write(block);
        let operation = Operation { number, file, offset, memory, done: 0, attempts: 0 };
        self.waiting_writes.push_back(operation);
    }

    /// Starts filling `buf` from `offset`, at the next [`Ring::submit`].
    pub(super) fn read(&mut self, number: u64, file: FileSlot, offset: u64, buf: BlockBuf) {
        assert!(buf.len().is_multiple_of(DEVICE_ALIGN_BYTES) && !buf.is_empty());
        assert!(offset.is_multiple_of(DEVICE_ALIGN_BYTES as u64), "{offset}");
        let memory = Memory::Read(buf);
        let operation = Operation { number, file, offset, memory, done: 0, attempts: 0 };
        self.waiting_reads.push_back(operation);
    }

    /// Hands everything that waits to the kernel, writes first, as far as there is room.
    ///
    /// # Errors
    /// If the kernel refuses the ring itself; the shard cannot go on then.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        while !self.poisoned
            && let Some(operation) = self.waiting_writes.pop_front()
        {
            if let Err(operation) = self.start(operation) {
                self.waiting_writes.push_front(operation);
                break;
            }
        }
        while !self.poisoned
            && self.waiting_writes.is_empty()
            && self.reads_in_flight < READS_IN_FLIGHT_MAX
            && let Some(operation) = self.waiting_reads.pop_front()
        {
            if let Err(operation) = self.start(operation) {
                self.waiting_reads.push_front(operation);
                break;
            }
            self.reads_in_flight += 1;
        }
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // What was not taken stays in the queue and goes with the next call.
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Hands over what waits and blocks until something has ended: for a thread that has nothing
    /// else to do.
    ///
    /// # Errors
    /// If the kernel refuses the ring itself.
    pub(super) fn submit_and_block(&mut self) -> io::Result<()> {
        self.submit()?;
        if self.free.len() == OPERATIONS_MAX {
            return Ok(());
        }
        match self.ring.submit_and_wait(1) {
            Err(error) if !is_transient(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Moves every completion that has arrived to `done`. Costs a memory load when there is none.
    pub(super) fn reap(&mut self, done: &mut Vec<Completion>) {
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
            let at = usize::try_from(entry.user_data()).expect("we made it from an index");
            let operation = self.operations[at].take().expect("one completion per operation");
            self.free.push(at);
            if matches!(operation.memory, Memory::Read(_)) {
                self.reads_in_flight -= 1;
            }
            self.finish(operation, &entry, done);
        }
    }

    /// Whether [`Ring::reap`] would find something. Costs a memory load.
    pub(super) fn has_done(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Operations that have not ended. Those that a poisoned ring will never start do not count.
    pub(super) fn outstanding(&self) -> usize {
        let waiting = self.waiting_writes.len() + self.waiting_reads.len();
        OPERATIONS_MAX - self.free.len() + if self.poisoned { 0 } else { waiting }
    }

    /// Puts `operation` into the submission queue, or gives it back if there is no room.
    fn start(&mut self, operation: Operation) -> Result<(), Operation> {
        let Some(at) = self.free.pop() else { return Err(operation) };
        let entry = self.entry(&operation, at);
        #[expect(unsafe_code, reason = "the kernel will use the memory the entry names")]
        // SAFETY: the slice or buffer is owned by `operation`, which is kept in `operations`
        // until the completion arrives, and `Drop` waits for it; nobody else writes it: a slice
        // is immutable and a `BlockBuf` has one owner. The file is open: `detach` asserts.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.free.push(at);
            return Err(operation);
        }
        self.operations[at] = Some(operation);
        Ok(())
    }

    fn entry(&self, operation: &Operation, at: usize) -> squeue::Entry {
        let slot = operation.file.0;
        let file = self.files[slot as usize];
        assert!(file != -1, "{:?} is not attached", operation.file);
        let rest = |bytes: &[u8]| {
            (bytes[operation.done..].as_ptr(), u32::try_from(bytes.len() - operation.done))
        };
        let offset = operation.offset + operation.done as u64;
        let Registered { buffers, files } = self.registered;
        // Six shapes of the same two operations; the library has a type for each descriptor kind.
        let entry = match &operation.memory {
            Memory::Write(slice) => {
                let (start, len) = rest(slice);
                let len = len.expect("a block is at most a few MiB");
                match (buffers, files) {
                    (true, true) => opcode::WriteFixed::new(types::Fixed(slot), start, len, 0)
                        .offset(offset)
                        .rw_flags(libc::RWF_DSYNC)
                        .build(),
                    (true, false) => opcode::WriteFixed::new(types::Fd(file), start, len, 0)
                        .offset(offset)
                        .rw_flags(libc::RWF_DSYNC)
                        .build(),
                    (false, true) => opcode::Write::new(types::Fixed(slot), start, len)
                        .offset(offset)
                        .rw_flags(libc::RWF_DSYNC)
                        .build(),
                    (false, false) => opcode::Write::new(types::Fd(file), start, len)
                        .offset(offset)
                        .rw_flags(libc::RWF_DSYNC)
                        .build(),
                }
            }
            Memory::Read(buf) => {
                let (start, len) = rest(buf);
                let len = len.expect("a block is at most a few MiB");
                let start = start.cast_mut();
                if files {
                    opcode::Read::new(types::Fixed(slot), start, len).offset(offset).build()
                } else {
                    opcode::Read::new(types::Fd(file), start, len).offset(offset).build()
                }
            }
        };
        entry.user_data(at as u64)
    }

    /// Decides what a completion means: done, to be continued, or a fault.
    fn finish(
        &mut self,
        mut operation: Operation,
        entry: &cqueue::Entry,
        done: &mut Vec<Completion>,
    ) {
        let asked = match &operation.memory {
            Memory::Write(slice) => slice.len(),
            Memory::Read(buf) => buf.len(),
        } - operation.done;
        operation.attempts += 1;
        let result = match verdict(entry.result(), asked) {
            Verdict::Done => Ok(()),
            Verdict::Continue(bytes) if operation.attempts < ATTEMPTS_MAX => {
                operation.done += bytes;
                // Goes first, so that what was submitted later does not overtake it for good.
                match operation.memory {
                    Memory::Write(_) => self.waiting_writes.push_front(operation),
                    Memory::Read(_) => self.waiting_reads.push_front(operation),
                }
                return;
            }
            Verdict::Continue(_) => Err(IoFault::Failed { errno: libc::EAGAIN }),
            Verdict::Fault(fault) => Err(fault),
        };
        let Operation { number, file, memory, .. } = operation;
        done.push(match memory {
            Memory::Write(_) => {
                self.poisoned |= result.is_err();
                Completion::Write { number, file, result }
            }
            Memory::Read(buf) => Completion::Read { number, file, buf, result },
        });
    }
}

impl Drop for Ring {
    /// Waits for the kernel to let go of the memory and the files (I-05).
    fn drop(&mut self) {
        self.poisoned = true;
        let mut done = Vec::new();
        while self.free.len() < OPERATIONS_MAX {
            match self.ring.submit_and_wait(1) {
                Ok(_) => self.reap(&mut done),
                Err(error) if is_transient(&error) => {}
                // The kernel may still write into the buffers: keeping them beats guessing.
                Err(_) => {
                    core::mem::forget(core::mem::take(&mut self.operations));
                    return;
                }
            }
        }
    }
}

/// What the result of one completion says about an operation that asked for `asked` bytes.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    /// So many bytes are done; ask for the rest.
    Continue(usize),
    Fault(IoFault),
}

fn verdict(result: i32, asked: usize) -> Verdict {
    let Ok(bytes) = usize::try_from(result) else {
        return match -result {
            libc::EINTR | libc::EAGAIN => Verdict::Continue(0),
            libc::ENOSPC | libc::EDQUOT => Verdict::Fault(IoFault::NoSpace),
            errno => Verdict::Fault(IoFault::Failed { errno }),
        };
    };
    if bytes == asked {
        Verdict::Done
    } else if bytes > 0 && bytes < asked && bytes.is_multiple_of(DEVICE_ALIGN_BYTES) {
        Verdict::Continue(bytes)
    } else {
        // Nothing, or a part that O_DIRECT cannot go on from.
        Verdict::Fault(IoFault::Short)
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// `SINGLE_ISSUER` needs Linux 6.0 and `COOP_TASKRUN` 5.19; both are only faster.
fn older_kernel(error: &io::Error) -> Option<io::Result<IoUring>> {
    (error.raw_os_error() == Some(libc::EINVAL))
        .then(|| IoUring::builder().setup_cqsize(ENTRIES * 4).dontfork().build(ENTRIES))
}

fn eventfd() -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "std has no eventfd")]
    // SAFETY: no memory is involved; the descriptor is ours alone.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Huge pages for the arena: a tenth more throughput at saturation where the kernel has them.
fn advise_huge_pages(start: *const u8, bytes: usize) {
    #[expect(unsafe_code, reason = "advice about a mapping of ours")]
    // SAFETY: MADV_HUGEPAGE changes no contents; the range is the arena's own allocation. Refusal
    // is harmless and so ignored.
    let _ = unsafe { libc::madvise(start.cast_mut().cast(), bytes, libc::MADV_HUGEPAGE) };
}

/// Finds out whether this process may use io_uring at all, before the executor, which would end
/// the process without a word of ours.
pub(super) fn probe() -> io::Result<()> {
    IoUring::new(8).map(drop)
}

#[cfg(test)]
mod tests;
