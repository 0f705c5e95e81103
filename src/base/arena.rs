//! The block arena: aligned memory taken once at boot, carved into blocks, lent out by count.
//!
//! One per shard. Apart because the device, the peers' sockets, tailers and embedders all point
//! into the same bytes, and because this is the only `unsafe` of the pure rooms. It is plain
//! memory: `runtime` registers it with its ring, `sim` does not, both use the same types.
//!
//! Does not: wait, grow, or know what a block means. "Full" is an answer ([`Arena::take`]).
//!
//! ```text
//! region  | extent 0 | extent 1 | ...            one allocation, 2 MiB aligned
//! extent  | block | block |  free  ^bump         1 MiB by default, freed as a whole
//! ```
//!
//! A [`BlockBuf`] is a range that nobody else can see and that may be written; [`BlockBuf::freeze`]
//! turns it into a [`Slice`], which may be cloned and sent to other threads and is never written
//! again. An extent is free when no `BlockBuf` and no `Slice` points into it.

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::Arc;

/// Alignment of every block: the largest logical sector of the devices we support (`O_DIRECT`).
pub const BLOCK_ALIGN_BYTES: usize = 4096;
/// Alignment of the region, so that the kernel can back it with huge pages.
const REGION_ALIGN_BYTES: usize = 2 << 20;

/// The whole allocation. One per arena; freed when the last slice anywhere is dropped.
struct Region {
    /// The first aligned byte of it.
    start: NonNull<u8>,
    /// Usable bytes from there on.
    bytes: usize,
    allocation: NonNull<u8>,
    layout: Layout,
}

#[expect(unsafe_code, reason = "a raw allocation shared by disjoint ranges")]
// SAFETY: the region is only an address range; who may read or write which part of it is decided
// by the uniqueness of `BlockBuf` and the immutability of `Slice`, not by the thread.
unsafe impl Send for Region {}
#[expect(unsafe_code, reason = "a raw allocation shared by disjoint ranges")]
// SAFETY: as for `Send`.
unsafe impl Sync for Region {}

impl Region {
    fn new(bytes: usize) -> Self {
        assert!(bytes > 0, "an arena holds at least one extent");
        // Aligned by hand: asked for the alignment, the system's allocator writes the zeros itself
        // and so touches every page; without it the kernel's fresh pages are taken as they are.
        let layout = Layout::from_size_align(bytes + REGION_ALIGN_BYTES, 16);
        let layout = layout.expect("a sane arena size");
        #[expect(unsafe_code, reason = "aligned memory that std's containers cannot give")]
        // SAFETY: the layout has a size above zero.
        let allocation = unsafe { alloc_zeroed(layout) };
        let Some(allocation) = NonNull::new(allocation) else { handle_alloc_error(layout) };
        let skipped = allocation.align_offset(REGION_ALIGN_BYTES);
        assert!(skipped <= REGION_ALIGN_BYTES, "{skipped} bytes to the next aligned one");
        #[expect(unsafe_code, reason = "the first aligned address of the allocation")]
        // SAFETY: at most the alignment further, and the allocation is larger by that much.
        let start = unsafe { allocation.add(skipped) };
        Self { start, bytes, allocation, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "returns what `new` allocated")]
        // SAFETY: allocated in `new` with this very layout, and nobody holds a pointer any more:
        // each `BlockBuf` and `Slice` holds a count on its extent, each extent one on the region.
        unsafe {
            dealloc(self.allocation.as_ptr(), self.layout);
        }
    }
}

/// A part of the region that is freed as a whole. Its reference count is the lending count.
struct Extent {
    region: Arc<Region>,
    /// Offset of the extent in the region.
    start: usize,
}

/// One shard's block memory. Not shared: only its [`Slice`]s travel.
pub struct Arena {
    region: Arc<Region>,
    extents: Vec<Arc<Extent>>,
    extent_bytes: usize,
    /// The extent that is being carved, and how much of it is gone.
    current: Option<(usize, usize)>,
    /// The same for each owner of [`Arena::take_apart`]. Free again as soon as nothing points into
    /// it.
    apart: Vec<Option<(usize, usize)>>,
    /// For whom an extent was carved by [`Arena::take_apart`] when it was last carved.
    owners: Vec<Option<usize>>,
    /// Where the search for the next free extent starts; round robin keeps caches honest.
    cursor: usize,
}

impl Arena {
    /// Takes `extents` extents of `extent_bytes` each from the system, zeroed.
    ///
    /// # Panics
    /// If either is zero or `extent_bytes` is not a multiple of [`BLOCK_ALIGN_BYTES`], and if the
    /// system has no memory: both happen at boot only.
    pub fn new(extents: usize, extent_bytes: usize) -> Self {
        assert!(extent_bytes.is_multiple_of(BLOCK_ALIGN_BYTES), "{extent_bytes} is not aligned");
        let region = Arc::new(Region::new(extents * extent_bytes));
        let owners = vec![None; extents];
        let extents = (0..extents)
            .map(|i| Arc::new(Extent { region: Arc::clone(&region), start: i * extent_bytes }))
            .collect();
        Self { region, extents, extent_bytes, current: None, apart: Vec::new(), owners, cursor: 0 }
    }

    /// Bytes of one extent, and so the largest block.
    pub fn extent_bytes(&self) -> usize {
        self.extent_bytes
    }

    /// Number of extents.
    pub fn extents(&self) -> usize {
        self.extents.len()
    }

    /// Start and length of the whole region, for registering it with a ring. The address stays
    /// valid while the arena or any slice of it lives.
    pub fn region(&self) -> (*const u8, usize) {
        (self.region.start.as_ptr().cast_const(), self.region.bytes)
    }

    /// Takes a block of `bytes` (rounded up to the alignment), or `None` if every extent is lent.
    ///
    /// The contents are whatever was there before. Costs O(1), O(extents) when one is used up.
    pub fn take(&mut self, bytes: usize) -> Option<BlockBuf> {
        let bytes = bytes.next_multiple_of(BLOCK_ALIGN_BYTES);
        assert!(bytes <= self.extent_bytes, "{bytes} exceeds an extent of {}", self.extent_bytes);
        let (extent, used) = match self.current {
            Some((extent, used)) if used + bytes <= self.extent_bytes => (extent, used),
            _ => {
                self.current = None;
                (self.find_free()?, 0)
            }
        };
        self.current = Some((extent, used + bytes));
        Some(BlockBuf { extent: Arc::clone(&self.extents[extent]), start: used, len: bytes })
    }

    /// Like [`Arena::take`], for whoever can wait: leaves an eighth of the extents to the log's own
    /// blocks. Without it everything lent could be waiting for a block that finds no memory.
    pub fn take_spare(&mut self, bytes: usize) -> Option<BlockBuf> {
        if self.free_extents() <= self.extents.len() / 8 { None } else { self.take(bytes) }
    }

    /// Like [`Arena::take_spare`], for what is let go of long before the blocks that are carved at
    /// the same time: carved from an extent of its own. Between the blocks it would leave holes that
    /// come free only with the last of them, and a few small blocks would keep a whole arena.
    /// Owners, small numbers, share no extent, so that [`Arena::lent_apart`] can tell what each holds.
    pub fn take_apart(&mut self, bytes: usize, owner: usize) -> Option<BlockBuf> {
        let bytes = bytes.next_multiple_of(BLOCK_ALIGN_BYTES);
        assert!(bytes <= self.extent_bytes, "{bytes} exceeds an extent of {}", self.extent_bytes);
        if self.free_extents() <= self.extents.len() / 8 {
            return None;
        }
        let (extent, used) = match self.apart.get(owner).copied().flatten() {
            Some((extent, used)) if used + bytes <= self.extent_bytes => (extent, used),
            _ => (self.find_free()?, 0),
        };
        if self.apart.len() <= owner {
            self.apart.resize(owner + 1, None);
        }
        self.apart[owner] = Some((extent, used + bytes));
        self.owners[extent] = Some(owner);
        Some(BlockBuf { extent: Arc::clone(&self.extents[extent]), start: used, len: bytes })
    }

    /// Extents that were carved apart for `owner` and that something points into yet. O(extents).
    pub fn lent_apart(&mut self, owner: usize) -> usize {
        let extents = self.extents.iter_mut().zip(&self.owners);
        extents
            .filter(|(_, of)| **of == Some(owner))
            .filter_map(|(extent, _)| Arc::get_mut(extent).is_none().then_some(()))
            .count()
    }

    /// Freezes the first `used` bytes of `buf` and takes back what follows them, if nothing was
    /// carved after `buf`.
    pub fn close(&mut self, buf: BlockBuf, used: usize) -> Slice {
        let kept = used.next_multiple_of(BLOCK_ALIGN_BYTES);
        self.give_back(&buf, kept);
        buf.freeze(used)
    }

    /// Takes `buf` back unused.
    pub fn cancel(&mut self, buf: BlockBuf) {
        self.give_back(&buf, 0);
        drop(buf);
    }

    fn give_back(&mut self, buf: &BlockBuf, kept: usize) {
        assert!(kept <= buf.len, "{kept} of {} bytes kept", buf.len);
        if let Some((extent, used)) = &mut self.current
            && Arc::ptr_eq(&self.extents[*extent], &buf.extent)
            && *used == buf.start + buf.len
        {
            *used = buf.start + kept;
        }
    }

    /// Extents that nothing points into, the one being carved not counted. O(extents).
    pub fn free_extents(&mut self) -> usize {
        let current = self.current.map(|(extent, _)| extent);
        (0..self.extents.len())
            .filter(|i| Some(*i) != current && Arc::get_mut(&mut self.extents[*i]).is_some())
            .count()
    }

    /// Whether nothing points into it. Then it is as at first, but for its bytes, and may serve
    /// another owner.
    pub fn reclaim(&mut self) -> bool {
        let unlent = self.extents.iter_mut().all(|extent| Arc::get_mut(extent).is_some());
        if unlent {
            (self.current, self.cursor) = (None, 0);
            self.apart.fill(None);
            self.owners.fill(None);
        }
        unlent
    }

    fn find_free(&mut self) -> Option<usize> {
        let extents = self.extents.len();
        let carved = self.current.map(|(extent, _)| extent);
        for step in 0..extents {
            let i = (self.cursor + step) % extents;
            if Some(i) == carved {
                continue;
            }
            // `get_mut` and not `strong_count`: it synchronises with the drop on another thread,
            // so the last reader's reads come before our writes.
            if Arc::get_mut(&mut self.extents[i]).is_some() {
                self.cursor = (i + 1) % extents;
                for apart in &mut self.apart {
                    *apart = apart.filter(|(extent, _)| *extent != i);
                }
                self.owners[i] = None;
                return Some(i);
            }
        }
        None
    }
}

/// A block that is being filled: a range of the arena that nobody else can see.
pub struct BlockBuf {
    extent: Arc<Extent>,
    start: usize,
    len: usize,
}

impl BlockBuf {
    /// Splits off the first `at` bytes; `self` keeps the rest. Both stay writable.
    ///
    /// # Panics
    /// If `at` is beyond the end.
    #[must_use]
    pub fn split_to(&mut self, at: usize) -> Self {
        assert!(at <= self.len, "{at} of {} bytes", self.len);
        let front = Self { extent: Arc::clone(&self.extent), start: self.start, len: at };
        self.start += at;
        self.len -= at;
        front
    }

    /// Ends the writing: the first `used` bytes become readable by anyone, for ever unchanged.
    pub fn freeze(self, used: usize) -> Slice {
        assert!(used <= self.len, "{used} of {} bytes", self.len);
        Slice { extent: self.extent, start: self.start, len: used }
    }

    fn pointer(&self) -> NonNull<u8> {
        pointer(&self.extent, self.start)
    }
}

fn pointer(extent: &Extent, start: usize) -> NonNull<u8> {
    #[expect(unsafe_code, reason = "address of a range of the region")]
    // SAFETY: the arena only makes ranges inside their extent, and extents inside the region.
    unsafe {
        extent.region.start.add(extent.start + start)
    }
}

impl Deref for BlockBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "a range of the region as a slice")]
        // SAFETY: inside the region, initialised (zeroed at first), and the range is only ours.
        unsafe {
            core::slice::from_raw_parts(self.pointer().as_ptr(), self.len)
        }
    }
}

impl core::ops::DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "a range of the region as a slice")]
        // SAFETY: as for `deref`; ranges of two `BlockBuf`s never overlap, no `Slice` covers a
        // range before `freeze` has consumed its `BlockBuf`, and `&mut self` excludes readers.
        unsafe {
            core::slice::from_raw_parts_mut(self.pointer().as_ptr(), self.len)
        }
    }
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuf({} bytes)", self.len)
    }
}

/// Bytes of the arena that nobody writes any more. Cloning costs one atomic increment.
#[derive(Clone)]
pub struct Slice {
    extent: Arc<Extent>,
    start: usize,
    len: usize,
}

impl Slice {
    /// A part of this slice, sharing its memory.
    ///
    /// # Panics
    /// If the range is not inside the slice.
    #[must_use]
    pub fn slice(&self, range: core::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        Self {
            extent: Arc::clone(&self.extent),
            start: self.start + range.start,
            len: range.end - range.start,
        }
    }

    /// Offset of the first byte in the arena's region, for writes from a registered buffer.
    pub fn region_offset(&self) -> usize {
        self.extent.start + self.start
    }

    /// True if `next` begins where this ends, so that one device write can carry both.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.extent, &next.extent) && self.start + self.len == next.start
    }

    /// This slice and `next` as one.
    ///
    /// # Panics
    /// If `next` does not follow directly in memory.
    #[must_use]
    pub fn joined(&self, next: &Self) -> Self {
        assert!(self.is_followed_by(next), "only neighbours can be joined");
        Self { extent: Arc::clone(&self.extent), start: self.start, len: self.len + next.len }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "a range of the region as a slice")]
        // SAFETY: inside the region, and nobody writes it: its `BlockBuf` was consumed, and the
        // arena hands the extent out again only when this count is gone.
        unsafe {
            core::slice::from_raw_parts(pointer(&self.extent, self.start).as_ptr(), self.len)
        }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_carved_one_after_the_other_and_the_rest_is_given_back() {
        let mut arena = Arena::new(1, 16 << 10);
        let buf = arena.take(16 << 10).expect("empty");
        let first = arena.close(buf, 100);
        let buf = arena.take(8 << 10).expect("12 KiB are left");
        let second = arena.close(buf, 8 << 10);
        assert_eq!((first.region_offset(), second.region_offset()), (0, 4096));
        assert!(arena.take(8 << 10).is_none(), "only 4 KiB are left");
    }

    #[test]
    fn an_extent_is_free_only_when_its_last_slice_is_dropped() {
        let mut arena = Arena::new(2, 4096);
        let a = arena.take(4096).expect("two extents").freeze(10);
        let part = a.slice(2..4);
        let b = arena.take(4096).expect("one extent");
        assert!(arena.take(4096).is_none());
        drop(a);
        assert!(arena.take(4096).is_none(), "a part of it is still lent");
        drop(part);
        assert!(arena.take(4096).is_some());
        drop(b);
    }

    #[test]
    fn the_region_is_aligned_zeroed_and_reclaimed_when_nothing_is_lent() {
        let mut arena = Arena::new(3, 8192);
        let (start, bytes) = arena.region();
        assert_eq!((start.align_offset(REGION_ALIGN_BYTES), bytes), (0, 3 * 8192));
        assert!(arena.reclaim());
        let block = arena.take(8192).expect("empty");
        assert!(block.iter().all(|byte| *byte == 0));
        assert!(!arena.reclaim());
        drop(block);
        assert!(arena.reclaim());
        let again = arena.take(4096).expect("empty").freeze(1);
        assert_eq!(again.region_offset(), 0, "it begins where a new one begins");
    }

    #[test]
    fn what_is_taken_apart_leaves_no_holes_between_blocks() {
        let mut arena = Arena::new(16, 16384);
        let mut blocks = Vec::new();
        for _ in 0..8 {
            blocks.push(arena.take(4096).expect("room").freeze(4096));
            drop(arena.take_apart(16384, 0).expect("room"));
            drop(arena.take_apart(12288, 0).expect("room"));
        }
        // Eight blocks of a quarter of an extent: one extent is full, the other is being carved.
        assert_eq!(arena.free_extents(), 14);
        // An extent that was carved for reads and is free serves blocks, and is not carved on.
        let all: Vec<_> = core::iter::from_fn(|| arena.take(16384)).collect();
        assert_eq!((all.len(), arena.free_extents()), (14, 0));
        assert!(arena.take_apart(4096, 0).is_none());
    }

    #[test]
    fn what_each_owner_holds_apart_is_known_until_its_last_slice_goes() {
        let mut arena = Arena::new(16, 16384);
        let mut take = |owner, bytes| arena.take_apart(bytes, owner).expect("room").freeze(bytes);
        let (a, b, other) = (take(1, 4096), take(1, 4096), take(2, 16384));
        let large = take(1, 16384);
        assert_eq!([0, 1, 2].map(|owner| arena.lent_apart(owner)), [0, 2, 1]);
        drop(a);
        assert_eq!(arena.lent_apart(1), 2, "a neighbour of the same owner is lent yet");
        drop((b, large));
        assert_eq!([1, 2].map(|owner| arena.lent_apart(owner)), [0, 1]);
        // Carved for the log meanwhile, an extent is its former owner's no more.
        let blocks: Vec<_> = core::iter::from_fn(|| arena.take(16384)).collect();
        assert_eq!((blocks.len(), arena.lent_apart(1), arena.lent_apart(2)), (15, 0, 1));
        drop(other);
    }

    #[test]
    fn whoever_can_wait_leaves_memory_for_the_log() {
        let mut arena = Arena::new(16, 4096);
        let lent: Vec<_> = core::iter::from_fn(|| arena.take_spare(4096)).collect();
        assert_eq!(lent.len(), 14);
        let kept = (arena.take(4096).expect("left"), arena.take(4096).expect("left"));
        assert!(arena.take(4096).is_none());
        drop(kept);
    }

    #[test]
    fn split_halves_are_disjoint() {
        let mut arena = Arena::new(1, 8192);
        let mut back = arena.take(8192).expect("empty");
        let mut front = back.split_to(4096);
        front.fill(1);
        back.fill(2);
        let (front, back) = (front.freeze(4096), back.freeze(4096));
        assert!(front.iter().all(|b| *b == 1) && back.iter().all(|b| *b == 2));
        assert!(front.is_followed_by(&back));
        assert_eq!(front.joined(&back).len(), 8192);
    }

    #[test]
    fn a_slice_outlives_its_arena_on_another_thread() {
        let mut arena = Arena::new(1, 4096);
        let mut buf = arena.take(4096).expect("empty");
        buf[..5].copy_from_slice(b"hello");
        let lent = bytes::Bytes::from_owner(arena.close(buf, 5));
        drop(arena);
        let seen = std::thread::scope(|s| s.spawn(|| lent.to_vec()).join().expect("no panic"));
        assert_eq!(seen, b"hello");
    }
}
