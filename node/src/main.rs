//! The `ipdc` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    ipdc_node::heap::set_up();
    ipdc_node::cli::main()
}
