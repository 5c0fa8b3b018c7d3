//! libc's heap, for a process that lives long and holds little.

/// Lets memory that was freed go back to the kernel, also after something large was once held: glibc otherwise learns
/// from the first large block that such blocks are kept, up to 64 MiB of them. Elsewhere nothing is done.
///
/// For the beginning of a process: other threads must not be allocating meanwhile.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        const M_TRIM_THRESHOLD: i32 = -1;
        const M_MMAP_THRESHOLD: i32 = -3;
        const KEPT: i32 = 128 << 10;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        for parameter in [M_MMAP_THRESHOLD, M_TRIM_THRESHOLD] {
            // SAFETY: two numbers (mallopt(3)), under the heap's own lock. A value that is refused changes nothing.
            let _ = unsafe { mallopt(parameter, KEPT) };
        }
    }
}

/// Gives the kernel back what is free now, also in the middle of the heap.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(keep: usize) -> i32;
        }
        // SAFETY: a number (malloc_trim(3)), under the heap's own lock. Only memory that nobody has is given back.
        let _ = unsafe { malloc_trim(0) };
    }
}
