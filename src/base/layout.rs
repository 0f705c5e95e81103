//! Little-endian integers at fixed offsets, for the encoders and decoders of wire and disk.
//!
//! Apart so that each format module reads like its table in `docs/`. The callers check lengths
//! first: an offset outside the slice is our own mistake and panics.

/// The byte at `at`.
pub fn get_u8(bytes: &[u8], at: usize) -> u8 {
    bytes[at]
}

/// The u16 at `at`.
pub fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// The u32 at `at`.
pub fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// The u64 at `at`.
pub fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The `N` bytes at `at`.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has N bytes")
}

/// Writes `value` at `at`.
pub fn put_u8(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
}

/// Writes `value` at `at`.
pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` at `at`.
pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` at `at`.
pub fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` at `at`.
pub fn put_array(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// `value` rounded up to a multiple of `to`, a power of two.
pub const fn round_up(value: usize, to: usize) -> usize {
    assert!(to.is_power_of_two());
    (value + to - 1) & !(to - 1)
}
