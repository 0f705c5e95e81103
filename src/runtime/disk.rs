//! The log device of one shard: which segment files are open, and the ring that moves blocks.
//!
//! Apart from `ring`, which knows nothing of segments, and from `segments`, which blocks. Carries
//! out the shard's `Write`, `Read`, `PrepareSegment` and `RemoveSegment`, and turns what comes
//! back into inputs. Does not: decide where a block goes or when a segment is dead.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::datadir::mark_begun;
use super::inbox::Inbox;
use super::message::Message;
use super::ring::{Completion, FILES_MAX, FileSlot, Registered, Ring};
use super::segments::{self, Access, Preparation, fault_of};
use super::tape::{self, Act};
use super::watchdog::OldestWrite;
use super::worker::Worker;
use crate::base::{Arena, BlockBuf, Slice};
use crate::model::WriteSeq;
use crate::shard::{Input, Inputs, IoFault, ReadSeq};
use crate::wal::{BlockHeader, BlockRole, SegmentNo};

/// What a shard's device needs to know.
pub(super) struct DiskSetup {
    pub(super) directory: PathBuf,
    pub(super) access: Access,
    pub(super) segment_bytes: u64,
    /// The mark to make before the first block that is no opening, if it is not there yet.
    pub(super) begin: Option<PathBuf>,
    /// Makes and removes files.
    pub(super) worker: Worker,
    /// Read by the watchdog.
    pub(super) oldest_write: Arc<OldestWrite>,
    /// Where the worker's answers go.
    pub(super) inbox: Arc<Inbox<Message>>,
}

struct Open {
    slot: FileSlot,
    /// Kept open for the ring.
    _file: File,
    /// Operations that have not ended.
    in_use: u32,
    /// When it was last used, in operations started.
    used_at: u64,
}

/// A read that the shard wants.
pub(super) struct WantedRead {
    pub(super) read: ReadSeq,
    pub(super) segment: SegmentNo,
    pub(super) offset: u64,
    pub(super) buf: BlockBuf,
}

/// One per shard.
pub(super) struct Disk {
    setup: DiskSetup,
    ring: Ring,
    open: BTreeMap<SegmentNo, Open>,
    free: Vec<FileSlot>,
    /// By slot, for completions.
    segment_of: Vec<SegmentNo>,
    operations: u64,
    /// Writes at the device, in the order in which they were started.
    writes: VecDeque<WriteSeq>,
    /// Bytes of log written since the start, for the worker, which makes way for them.
    log_bytes: Arc<AtomicU64>,
    /// Reads for which no slot was free.
    waiting: VecDeque<WantedRead>,
    /// Reused by `reap`.
    done: Vec<Completion>,
}

impl Disk {
    /// Makes the ring over `arena`. No file is opened yet.
    pub(super) fn new(setup: DiskSetup, arena: &Arena) -> io::Result<Self> {
        Ok(Self {
            setup,
            ring: Ring::new(arena)?,
            open: BTreeMap::new(),
            free: (0..FILES_MAX).rev().map(FileSlot).collect(),
            segment_of: vec![SegmentNo::default(); FILES_MAX as usize],
            operations: 0,
            writes: VecDeque::new(),
            log_bytes: Arc::default(),
            waiting: VecDeque::new(),
            done: Vec::new(),
        })
    }

    /// What the kernel let the ring register.
    pub(super) fn registered(&self) -> Registered {
        self.ring.registered()
    }

    /// See [`Ring::wake_descriptor`].
    pub(super) fn wake_descriptor(&self) -> io::Result<OwnedFd> {
        self.ring.wake_descriptor()
    }

    /// Starts a durable block write at the next [`Disk::submit`].
    ///
    /// # Errors
    /// If the segment cannot be opened, or the mark of a begun log cannot be made. Either ends the
    /// shard: the write's completion will never come.
    pub(super) fn write(
        &mut self,
        write: WriteSeq,
        segment: SegmentNo,
        offset: u64,
        block: Slice,
    ) -> io::Result<()> {
        self.begin_before(&block)?;
        // A log writes to two segments at most and reads hold at most eight, so one of the 64
        // slots can always be freed.
        let slot = self.slot(segment)?.ok_or_else(|| io::Error::other("no file slot is free"))?;
        tape::record(|| Act::Write {
            path: self.setup.directory.join(segment.file_name()),
            number: write.get(),
            offset,
            bytes: block.to_vec(),
        });
        self.log_bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
        self.ring.write(write.get(), slot, offset, block);
        self.writes.push_back(write);
        self.note_oldest();
        Ok(())
    }

    /// Starts a read at the next [`Disk::submit`]; a segment that is gone is an answer.
    pub(super) fn read(&mut self, wanted: WantedRead, inputs: &mut Inputs) {
        match self.slot(wanted.segment) {
            Ok(Some(slot)) => {
                self.ring.read(wanted.read.0, slot, wanted.offset, wanted.buf);
            }
            Ok(None) => self.waiting.push_back(wanted),
            Err(error) => {
                let WantedRead { read, buf, .. } = wanted;
                let result = Err(fault_of(&error));
                inputs.push(Input::ReadDone { read, buf, result });
            }
        }
    }

    /// Hands what was started to the kernel.
    ///
    /// # Errors
    /// If the ring itself fails.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.ring.submit()
    }

    /// Turns what has ended into inputs.
    ///
    /// # Errors
    /// If the ring itself fails.
    pub(super) fn reap(&mut self, inputs: &mut Inputs) -> io::Result<()> {
        let mut done = core::mem::take(&mut self.done);
        self.ring.reap(&mut done);
        if done.is_empty() {
            self.done = done;
            return Ok(());
        }
        for completion in done.drain(..) {
            let input = match completion {
                Completion::Write { number, file, result } => {
                    self.release(file);
                    let write = WriteSeq::new(number);
                    if result.is_ok() {
                        let segment = self.segment_of[file.0 as usize];
                        let path = || self.setup.directory.join(segment.file_name());
                        tape::record(|| Act::WriteDone { path: path(), number });
                    }
                    // At most as many as the window has: the oldest is usually the first.
                    self.writes.retain(|started| *started != write);
                    match result {
                        Ok(()) => Input::WriteDone { write },
                        Err(fault) => Input::WriteFailed { write, fault },
                    }
                }
                Completion::Read { number, file, buf, result } => {
                    self.release(file);
                    Input::ReadDone { read: ReadSeq(number), buf, result }
                }
            };
            inputs.push(input);
        }
        self.done = done;
        self.note_oldest();
        for _ in 0..self.waiting.len() {
            let Some(wanted) = self.waiting.pop_front() else { break };
            self.read(wanted, inputs);
        }
        // Continued operations and reads that waited for a place.
        self.ring.submit()
    }

    /// See [`Ring::has_done`].
    pub(super) fn has_done(&mut self) -> bool {
        self.ring.has_done()
    }

    fn note_oldest(&self) {
        self.setup.oldest_write.set(self.writes.front().copied());
    }

    /// Whether nothing is at the device.
    pub(super) fn is_idle(&self) -> bool {
        self.ring.outstanding() == 0 && self.waiting.is_empty()
    }

    /// Has a segment file made off the write path; the answer comes through the inbox.
    pub(super) fn prepare(
        &mut self,
        segment: SegmentNo,
        recycle: Option<SegmentNo>,
        inputs: &mut Inputs,
    ) {
        if let Some(dead) = recycle {
            self.forget(dead);
        }
        let preparation = Preparation {
            directory: self.setup.directory.clone(),
            access: self.setup.access,
            segment,
            recycle,
            segment_bytes: self.setup.segment_bytes,
            log_bytes: Arc::clone(&self.log_bytes),
            stopping: self.setup.worker.stopping(),
        };
        let inbox = Arc::clone(&self.setup.inbox);
        let job = move || {
            let mut message = Message::Prepared { segment, result: preparation.run() };
            // A busy inbox drains; one that stays full belongs to a shard that has stopped.
            while let Err(back) = inbox.push(message)
                && !preparation.stopping.is_set()
            {
                message = back;
                std::thread::yield_now();
            }
        };
        if self.setup.worker.submit(job).is_err() {
            let fault = IoFault::Failed { errno: libc::EAGAIN };
            inputs.push(Input::SegmentFailed { segment, fault });
        }
    }

    /// Takes in what the worker made. The file is already open, so the first write to it does
    /// not wait for a directory lookup.
    pub(super) fn on_prepared(
        &mut self,
        segment: SegmentNo,
        result: Result<File, IoFault>,
        inputs: &mut Inputs,
    ) {
        let attached = result.and_then(|file| {
            self.attach(segment, file).map(drop).map_err(|error| fault_of(&error))
        });
        inputs.push(match attached {
            Ok(()) => Input::SegmentReady { segment },
            Err(fault) => Input::SegmentFailed { segment, fault },
        });
    }

    /// Has the file of a dead segment removed. If that fails the file stays until the next start
    /// and is harmless: what it holds is recognisably old.
    pub(super) fn remove(&mut self, segment: SegmentNo) {
        self.forget(segment);
        let directory = self.setup.directory.clone();
        let _ = self.setup.worker.submit(move || {
            let _ = segments::remove(&directory, segment);
        });
    }

    /// The slot of an open segment, opening it if need be. `None` if all are in use.
    fn slot(&mut self, segment: SegmentNo) -> io::Result<Option<FileSlot>> {
        if !self.open.contains_key(&segment) {
            if self.free.is_empty() && !self.close_least_used()? {
                return Ok(None);
            }
            let file = segments::open(&self.setup.directory, segment, self.setup.access)?;
            if !self.attach(segment, file)? {
                return Ok(None);
            }
        }
        let open = self.open.get_mut(&segment).expect("just opened");
        self.operations += 1;
        open.used_at = self.operations;
        open.in_use += 1;
        Ok(Some(open.slot))
    }

    /// Gives `file` a slot, if one can be had.
    fn attach(&mut self, segment: SegmentNo, file: File) -> io::Result<bool> {
        if self.open.contains_key(&segment) {
            return Ok(true);
        }
        if self.free.is_empty() && !self.close_least_used()? {
            return Ok(false);
        }
        let slot = *self.free.last().expect("one was freed");
        self.ring.attach(slot, file.as_raw_fd())?;
        // Only now: a file that the kernel does not take must not cost a slot.
        self.free.pop();
        self.segment_of[slot.0 as usize] = segment;
        let used_at = self.operations;
        self.open.insert(segment, Open { slot, _file: file, in_use: 0, used_at });
        Ok(true)
    }

    fn close_least_used(&mut self) -> io::Result<bool> {
        let idle = self.open.iter().filter(|(_, open)| open.in_use == 0);
        let Some(segment) = idle.min_by_key(|(_, open)| open.used_at).map(|(segment, _)| *segment)
        else {
            return Ok(false);
        };
        self.close(segment)?;
        Ok(true)
    }

    /// Closes a dead segment now, unless the device still has something to do with it; then it is
    /// closed when its slot is wanted.
    fn forget(&mut self, segment: SegmentNo) {
        if self.open.get(&segment).is_some_and(|open| open.in_use == 0) {
            // A kernel that refuses to forget a file only keeps it open for longer.
            let _ = self.close(segment);
        }
    }

    fn close(&mut self, segment: SegmentNo) -> io::Result<()> {
        let Some(open) = self.open.remove(&segment) else { return Ok(()) };
        self.free.push(open.slot);
        self.ring.detach(open.slot)
    }

    fn release(&mut self, slot: FileSlot) {
        let segment = self.segment_of[slot.0 as usize];
        let open = self.open.get_mut(&segment).expect("closed only when nobody uses it");
        open.in_use -= 1;
    }

    /// Nothing but the first opening is issued before that is durable (W-08), and nobody hears of
    /// anything before that either. So from the first other block on an empty log is a loss
    /// (W-17), and until then it is a beginning that a crash may have cut off anywhere. Blocks
    /// the shard, once in the life of a data directory.
    fn begin_before(&mut self, block: &Slice) -> io::Result<()> {
        let Some(path) = &self.setup.begin else { return Ok(()) };
        let opens =
            BlockHeader::decode(block).is_ok_and(|head| head.stamp.role == BlockRole::SegmentOpen);
        if !opens {
            mark_begun(path)?;
            self.setup.begin = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::task::{Context, Waker};

    use super::*;
    use crate::wal::{BlockBuilder, Lsn, Record, SegmentOpen, Stamp, Void};

    const SEGMENT_BYTES: u64 = 256 << 10;

    struct Device {
        _temp: tempfile::TempDir,
        disk: Disk,
        arena: Arena,
        inputs: Inputs,
    }

    impl Device {
        fn new() -> Self {
            let temp = tempfile::tempdir_in(".").unwrap();
            let setup = DiskSetup {
                directory: temp.path().to_owned(),
                access: Access::Direct,
                segment_bytes: SEGMENT_BYTES,
                begin: Some(temp.path().join("shard-00.begun")),
                worker: Worker::start("test").unwrap().worker(),
                oldest_write: Arc::default(),
                inbox: Arc::new(Inbox::new()),
            };
            let arena = Arena::new(4, 64 << 10);
            let disk = Disk::new(setup, &arena).unwrap();
            Self { _temp: temp, disk, arena, inputs: Inputs::default() }
        }

        fn prepare(&mut self, segment: u64, recycle: Option<u64>) {
            self.disk.prepare(SegmentNo(segment), recycle.map(SegmentNo), &mut self.inputs);
            let mut messages = VecDeque::new();
            let mut context = Context::from_waker(Waker::noop());
            while self.disk.setup.inbox.poll_take(&mut context, &mut messages).is_pending() {
                std::thread::yield_now();
            }
            for message in messages {
                match message {
                    Message::Prepared { segment, result } => {
                        self.disk.on_prepared(segment, result, &mut self.inputs);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }

        fn write(&mut self, write: u64, segment: u64, fill: u8) {
            let mut buf = self.arena.take(4096).unwrap();
            buf.fill(fill);
            let block = buf.freeze(4096);
            self.disk.write(WriteSeq::new(write), SegmentNo(segment), 4096, block).unwrap();
        }

        fn write_opening(&mut self, write: u64, segment: u64) {
            let mut builder = BlockBuilder::new(self.arena.take(4096).unwrap());
            let open = SegmentOpen {
                part: 0,
                parts: 2,
                window_bytes: 0,
                segment_bytes: SEGMENT_BYTES,
                void: Void::default(),
                oldest: SegmentNo(0),
            };
            builder.push_record(&Record::SegmentOpen(open)).unwrap();
            let role = BlockRole::SegmentOpen;
            let stamp = Stamp { identity_tag: 0, lsn: Lsn::ZERO, durable_lsn: Lsn::ZERO, role };
            let block = builder.close(stamp).buf.freeze(4096);
            self.disk.write(WriteSeq::new(write), SegmentNo(segment), 4096, block).unwrap();
        }

        fn read(&mut self, read: u64, segment: u64) {
            let buf = self.arena.take(4096).unwrap();
            let (read, segment) = (ReadSeq(read), SegmentNo(segment));
            let wanted = WantedRead { read, segment, offset: 4096, buf };
            self.disk.read(wanted, &mut self.inputs);
        }

        fn settle(&mut self) -> Vec<String> {
            self.disk.submit().unwrap();
            while !self.disk.is_idle() {
                self.disk.reap(&mut self.inputs).unwrap();
                std::thread::yield_now();
            }
            let seen = |input: Input| match input {
                Input::ReadDone { read, buf, result } => {
                    format!("read {} of {}: {result:?}", read.0, buf[0])
                }
                other => format!("{other:?}"),
            };
            self.inputs.queue.drain(..).map(seen).collect()
        }
    }

    #[test]
    fn a_block_goes_out_and_comes_back_and_the_log_has_begun() {
        let mut device = Device::new();
        device.prepare(1, None);
        let mark = device.disk.setup.begin.clone().unwrap();
        device.write_opening(1, 1);
        let seen = device.settle();
        assert_eq!(seen, ["SegmentReady { segment: SegmentNo(1) }", "WriteDone { write: w1 }"]);
        // W-17: an opening may have further blocks, and a crash between them loses nothing.
        assert!(!mark.exists(), "the opening alone is a beginning");
        device.write(2, 1, 9);
        assert!(mark.exists(), "before the block can be durable");
        assert_eq!(device.settle(), ["WriteDone { write: w2 }"]);
        device.read(1, 1);
        assert_eq!(device.settle(), ["read 1 of 9: Ok(())"]);
        // A recycled file keeps its old bytes; a segment that never was is an answer.
        device.prepare(2, Some(1));
        device.read(2, 2);
        device.read(3, 1);
        let seen = device.settle();
        assert!(seen[1].contains("read 3") && seen[1].contains("errno: 2"), "{seen:?}");
        assert_eq!(seen[2], "read 2 of 9: Ok(())");
    }

    #[test]
    fn a_file_that_the_kernel_does_not_take_costs_no_slot() {
        let mut device = Device::new();
        // A mere path cannot be registered; more of them than there are slots.
        let path_only = || {
            let mut options = std::fs::OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_PATH);
            options.read(true).open(".").unwrap()
        };
        assert!(device.disk.registered().files, "the kernel registers files");
        for segment in 0..u64::from(FILES_MAX) + 1 {
            let refused = device.disk.attach(SegmentNo(segment), path_only());
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EBADF));
        }
        device.prepare(1, None);
        device.write(1, 1, 9);
        let seen = device.settle();
        assert_eq!(seen, ["SegmentReady { segment: SegmentNo(1) }", "WriteDone { write: w1 }"]);
    }

    #[test]
    fn more_segments_than_slots_are_opened_in_turn() {
        let mut device = Device::new();
        let count = u64::from(FILES_MAX) + 3;
        for segment in 0..count {
            device.prepare(segment, None);
            device.write(segment + 1, segment, u8::try_from(segment).unwrap());
            device.settle();
        }
        for segment in 0..count {
            device.read(segment, segment);
            assert_eq!(device.settle(), [format!("read {segment} of {segment}: Ok(())")]);
        }
    }
}
