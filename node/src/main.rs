//! The `ipdc` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    share_arenas();
    ipdc_node::cli::main()
}

/// glibc gives each thread a heap of its own, up to eight a core, and threads that block come and go:
/// fresh pages again and again. With two heaps a word count takes 4 % less CPU.
fn share_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: sets a number in the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
