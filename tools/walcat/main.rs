//! walcat
fn main() {}
