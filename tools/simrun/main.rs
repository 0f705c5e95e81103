//! simrun
fn main() {}
