//! Positions in a shard's endless log and how they map to segment files.

use core::fmt;

use crate::model::limits::{BLOCK_BYTES_MAX, DEVICE_ALIGN_BYTES, SEGMENT_BYTES};

/// Byte position in a shard's endless log of blocks. Never reused: a block is valid only at its
/// own LSN, so what a recycled segment still holds is recognisably old (W-02, W-11).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The beginning of the log.
    pub const ZERO: Self = Self(0);

    /// From its number on disk.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Its number on disk.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `bytes` further on.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    /// Bytes from `earlier` to here.
    ///
    /// # Panics
    /// If `earlier` lies after `self`.
    pub fn bytes_since(self, earlier: Self) -> u64 {
        assert!(earlier <= self, "{earlier:?} lies after {self:?}");
        self.0 - earlier.0
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A segment file: LSN divided by the segment size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u64);

impl SegmentNo {
    /// The segment after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Its file name: `wal-segment-00042.log`. More digits when it takes more.
    pub fn file_name(self) -> String {
        format!("wal-segment-{:05}.log", self.0)
    }

    /// The segment with this file name.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("wal-segment-")?.strip_suffix(".log")?;
        let number = Self(digits.parse().ok()?);
        (number.file_name() == name).then_some(number)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "1 MiB, and `try_from` is not const")]
const BLOCK_BYTES_MAX_U32: u32 = BLOCK_BYTES_MAX as u32;

/// Sizes that are fixed while a data directory lives, except in the simulator, where small ones
/// make rare things common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// The largest block.
    pub block_bytes_max: u32,
    /// Bytes that may be in flight at the device at once: the window W of rule W-05.
    pub in_flight_bytes_max: u64,
    /// Block writes that may be in flight at once.
    pub writes_in_flight_max: u32,
}

impl Geometry {
    /// What production uses: four blocks of the largest size in flight.
    pub const PRODUCTION: Self = Self {
        segment_bytes: SEGMENT_BYTES,
        block_bytes_max: BLOCK_BYTES_MAX_U32,
        in_flight_bytes_max: 4 * BLOCK_BYTES_MAX as u64,
        writes_in_flight_max: 4,
    };

    /// Asserts the relations between the sizes.
    pub fn check(&self) {
        let align = DEVICE_ALIGN_BYTES as u64;
        assert!(self.segment_bytes.is_multiple_of(align));
        assert!(u64::from(self.block_bytes_max).is_multiple_of(align));
        assert!(u64::from(self.block_bytes_max) * 2 <= self.segment_bytes);
        assert!(self.in_flight_bytes_max >= u64::from(self.block_bytes_max));
        assert!(self.in_flight_bytes_max < self.segment_bytes, "W must fit into one segment");
        assert!(self.writes_in_flight_max > 0);
    }

    /// The segment that holds `lsn`.
    pub fn segment_of(&self, lsn: Lsn) -> SegmentNo {
        SegmentNo(lsn.get() / self.segment_bytes)
    }

    /// Where `lsn` lies in its segment.
    pub fn offset_of(&self, lsn: Lsn) -> u64 {
        lsn.get() % self.segment_bytes
    }

    /// The first position of `segment`.
    pub fn start_of(&self, segment: SegmentNo) -> Lsn {
        Lsn::new(segment.0 * self.segment_bytes)
    }
}
