//! sim: being built.
