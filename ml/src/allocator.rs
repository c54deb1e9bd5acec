//! What the C library does with memory that libtorch frees.
//!
//! A step allocates and frees the same tensors as the step before. By default glibc gives most of
//! their memory back to the system each time, and the next step has it cleared again, page by
//! page: about four percent of a training step. So freed memory is kept while a job runs and given
//! back after it. Elsewhere than under glibc nothing is changed.
#![expect(unsafe_code, reason = "the C library has no other way to be told")]

/// From how many bytes on a tensor gets a mapping of its own, which always is given back: the
/// largest value to which glibc's own adaption goes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 32 << 20;
/// Freed bytes at the end of the heap that are kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 1 << 30;
/// Bytes by which the heap grows at least.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GROWTH_BYTES: libc::c_int = 64 << 20;

/// Keeps freed memory from now on. To be called once, before much is allocated.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        (libc::M_TOP_PAD, GROWTH_BYTES),
    ] {
        // SAFETY: sets a number inside the allocator, under its own lock; every value is allowed,
        // and one that it does not take is ignored.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Gives freed memory back to the system.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: only unmaps what is free, under the allocator's own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}
