//! CRC32C, the one checksum of wire and disk.
//!
//! Apart so that the polynomial and the library behind it are named once.

/// A CRC32C (Castagnoli) value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checksum(u32);

impl Checksum {
    /// The checksum of no bytes.
    pub const EMPTY: Self = Self(0);

    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32c::crc32c(bytes))
    }

    /// The checksum of the bytes seen so far followed by `bytes`.
    #[must_use]
    pub fn then(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// From its four bytes on wire or disk.
    pub const fn from_u32(value: u32) -> Self {
        Self(value)
    }

    /// For its four bytes on wire or disk.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_is_castagnoli() {
        // RFC 3720 B.4 and every CRC32C catalogue: "123456789".
        assert_eq!(Checksum::of(b"123456789").as_u32(), 0xe306_9283);
    }

    #[test]
    fn parts_make_the_whole() {
        assert_eq!(Checksum::EMPTY.then(b"1234").then(b"56789"), Checksum::of(b"123456789"));
    }
}
