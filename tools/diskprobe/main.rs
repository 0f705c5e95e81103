//! diskprobe
fn main() {}
