//! The `ipdc` binary.

use std::process::ExitCode;

use ipdc_node::{containers, rental, runtime};

fn main() -> ExitCode {
    ipdc_node::heap::set_up();
    let asked = runtime::compile_if_asked().or_else(runtime::launch_if_asked);
    let asked = asked.or_else(containers::keep_if_asked).or_else(rental::connect_if_asked);
    asked.unwrap_or_else(ipdc_node::cli::main)
}
