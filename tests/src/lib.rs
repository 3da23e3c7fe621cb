//! The worlds that black-box tests and benchmarks run in.
pub mod text;
