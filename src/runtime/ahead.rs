//! Reading a log from its device as fast as the device gives it: large reads, several at once.
//!
//! Recovery asks for one range after the other and nothing else happens on its thread meanwhile;
//! what it will ask for next is known. So a few threads of its own read on from there while it
//! verifies what it has. Apart from `recover` because this is about devices only. Does not: know
//! blocks, read beyond a segment, hold more than [`CHUNKS`] chunks, or outlive the recovery.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use crate::base::{Arena, BlockBuf};
use crate::wal::RECOVERY_READ_BYTES;

/// Reads the device holds at once: enough for the ones we know to stream.
const READERS: usize = 3;
/// Chunks of memory: one for each read, one that waits, one that is being looked at.
const CHUNKS: usize = READERS + 2;

struct Order {
    file: Arc<File>,
    offset: u64,
    buf: BlockBuf,
    bytes: usize,
}

struct Reader {
    orders: SyncSender<Order>,
    answers: Receiver<(BlockBuf, io::Result<()>)>,
}

/// A chunk on its way. Chunk `n` of all belongs to reader `n` modulo their number, so answers need
/// no names.
struct Ahead {
    offset: u64,
    bytes: usize,
    reader: usize,
}

/// One per recovery, on the stack of its thread.
pub(super) struct ReadAhead {
    readers: Vec<Reader>,
    next_reader: usize,
    free: Vec<BlockBuf>,
    /// Consecutive parts of `file`, oldest first.
    ahead: VecDeque<Ahead>,
    file: Option<Arc<File>>,
    file_bytes: u64,
    /// What was handed out last.
    current: Option<BlockBuf>,
    /// For reads that are no chunk: the first block of a file, and blocks across chunks.
    odd: Option<BlockBuf>,
}

impl ReadAhead {
    /// Starts the threads, which end when this is dropped.
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> Self {
        let chunk = usize::try_from(RECOVERY_READ_BYTES).expect("1 MiB");
        let mut arena = Arena::new(CHUNKS, chunk);
        let free = (0..CHUNKS).map(|_| arena.take(chunk).expect("an extent each")).collect();
        let readers = (0..READERS)
            .map(|_| {
                let (orders, inbox) = sync_channel::<Order>(CHUNKS);
                let (outbox, answers) = sync_channel(CHUNKS);
                scope.spawn(move || {
                    for Order { file, offset, mut buf, bytes } in inbox {
                        let outcome = file.read_exact_at(&mut buf[..bytes], offset);
                        if outbox.send((buf, outcome)).is_err() {
                            return;
                        }
                    }
                });
                Reader { orders, answers }
            })
            .collect();
        Self {
            readers,
            next_reader: 0,
            free,
            ahead: VecDeque::new(),
            file: None,
            file_bytes: 0,
            current: None,
            odd: None,
        }
    }

    /// Reads come from `file` from now on.
    pub(super) fn change_file(&mut self, file: File, file_bytes: u64) {
        self.forget();
        self.file = Some(Arc::new(file));
        self.file_bytes = file_bytes;
    }

    /// The `bytes` from `offset` of the file.
    pub(super) fn read(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        self.free.extend(self.current.take());
        if chunk_at(offset, self.file_bytes) != bytes {
            self.forget();
            return self.read_odd(offset, bytes);
        }
        if self.ahead.front().is_none_or(|front| front.offset != offset) {
            self.forget();
            self.order(offset);
        }
        while let Some(last) = self.ahead.back()
            && self.ahead.len() <= READERS
            && last.offset + (last.bytes as u64) < self.file_bytes
            && !self.free.is_empty()
        {
            let next = last.offset + last.bytes as u64;
            self.order(next);
        }
        let front = self.ahead.pop_front().expect("ordered just now, if not before");
        let (buf, outcome) = self.answer(front.reader);
        let buf = self.current.insert(buf);
        outcome.map(|()| &buf[..bytes])
    }

    fn order(&mut self, offset: u64) {
        let file = Arc::clone(self.file.as_ref().expect("a file was named"));
        let buf = self.free.pop().expect("chunks are counted");
        let (bytes, reader) = (chunk_at(offset, self.file_bytes), self.next_reader);
        self.next_reader = (reader + 1) % READERS;
        let order = Order { file, offset, buf, bytes };
        assert!(self.readers[reader].orders.send(order).is_ok(), "readers outlive this");
        self.ahead.push_back(Ahead { offset, bytes, reader });
    }

    fn answer(&mut self, reader: usize) -> (BlockBuf, io::Result<()>) {
        self.readers[reader].answers.recv().expect("a reader answers each order")
    }

    /// Waits for what is on its way and lets it go.
    fn forget(&mut self) {
        while let Some(ahead) = self.ahead.pop_front() {
            let (buf, _) = self.answer(ahead.reader);
            self.free.push(buf);
        }
        self.free.extend(self.current.take());
    }

    fn read_odd(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        if self.odd.as_ref().is_none_or(|buf| buf.len() < bytes) {
            self.odd = Arena::new(1, bytes).take(bytes);
        }
        let buf = self.odd.as_mut().expect("a new arena has its one block");
        let file = self.file.as_ref().expect("a file was named");
        file.read_exact_at(&mut buf[..bytes], offset)?;
        Ok(&buf[..bytes])
    }
}

/// The chunk that begins at `offset`: to the next multiple of the chunk size or the file's end.
fn chunk_at(offset: u64, file_bytes: u64) -> usize {
    let end = (offset / RECOVERY_READ_BYTES + 1) * RECOVERY_READ_BYTES;
    usize::try_from(end.min(file_bytes).saturating_sub(offset)).expect("at most 1 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_asking_gives_the_bytes_of_the_file() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let path = temp.path().join("file");
        let content: Vec<u8> = (0..9_437_184_u32 + 8192)
            .map(|at| (at / 4096).to_le_bytes()[at as usize % 2])
            .collect();
        std::fs::write(&path, &content).unwrap();
        let length = content.len();
        std::thread::scope(|scope| {
            let mut reads = ReadAhead::start(scope);
            for _ in 0..2 {
                reads.change_file(File::open(&path).unwrap(), length as u64);
                assert!(reads.read(0, 4096).unwrap() == &content[..4096]);
                // In chunks from the beginning, then from the middle, then something odd.
                for first in [0, 3 << 20, (5 << 20) + 4096, 0] {
                    let mut at: usize = first;
                    while at < length {
                        let bytes = chunk_at(at as u64, length as u64);
                        let found = reads.read(at as u64, bytes).unwrap();
                        assert!(found == &content[at..at + bytes], "at {at}");
                        at += bytes;
                    }
                    let odd = reads.read(4096, 1_503_232).unwrap();
                    assert!(odd == &content[4096..1_507_328]);
                }
            }
            let error = reads.read(length as u64 - 4096, 8192).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        });
    }
}
