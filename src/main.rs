//! catamaran
fn main() {}
