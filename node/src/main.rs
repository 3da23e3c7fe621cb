//! The `ipdc` binary.

fn main() {}
