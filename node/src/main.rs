//! The `ipdc` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    ipdc_node::heap::set_up();
    ipdc_node::runtime::compile_if_asked().unwrap_or_else(ipdc_node::cli::main)
}
