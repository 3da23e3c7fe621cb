//! The heap that all rooms share: how the C library keeps it, and that it gives memory back.
//!
//! Blocks of a megabyte and pieces of all sizes come and go, on threads that come and go. As glibc is
//! set, each thread has a heap of its own, and what is freed in one's middle stays with the process:
//! a sort that used 140 MB at a time had 590. So there are few heaps, large pieces lie apart from
//! them, and once a second what is free is given back. With another C library nothing here does anything.

use std::time::Duration;

/// What may stay free in the heaps. Giving it back and getting fresh pages costs more than it is worth.
const KEPT: usize = 32 << 20;

/// The part of a node's memory that [`KEPT`] may be: a small one keeps less.
const KEPT_PART: u64 = 16;

/// How often the heaps are looked at, which takes 20 µs in an idle node and 300 in a busy one. Giving 64 MB
/// back takes 10 ms.
const PAUSE: Duration = Duration::from_secs(1);

/// Sets the heaps up. To be called once, before there is another thread.
pub fn set_up() {
    heaps::set_up();
}

/// Gives memory back while the node lives, on a machine where it may use `memory` bytes.
pub async fn watch(memory: u64) {
    let kept = usize::try_from(memory / KEPT_PART).unwrap_or(KEPT).min(KEPT);
    loop {
        tokio::time::sleep(PAUSE).await;
        if heaps::free() > kept {
            // If it fails, the next round does the same.
            let _ = tokio::task::spawn_blocking(heaps::give_back).await;
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
mod heaps {
    /// How many there are. With more, threads wait for each other less and more lies about free; two
    /// take 10 % less CPU in a word count than one for each thread.
    const HEAPS: libc::c_int = 2;

    /// Larger pieces are mapped apart, and so gone once they are freed: what a sort collects, but no block
    /// and no combiner's table, whose pages serve the next task.
    const MAPPED_FROM: libc::c_int = 16 << 20;

    pub(super) fn set_up() {
        let kept = libc::c_int::try_from(super::KEPT).unwrap_or(libc::c_int::MAX);
        // SAFETY: these set numbers in the allocator.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, HEAPS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, kept);
        }
    }

    /// Bytes that lie free.
    pub(super) fn free() -> usize {
        // SAFETY: it reads the allocator's own numbers, under its locks.
        unsafe { libc::mallinfo2() }.fordblks
    }

    pub(super) fn give_back() {
        // SAFETY: only what is free is given back.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Another C library keeps its heap as it does.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod heaps {
    pub(super) fn set_up() {}

    pub(super) fn free() -> usize {
        0
    }

    pub(super) fn give_back() {}
}
