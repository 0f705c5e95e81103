//! wire: being built.
