//! The allocator, and how long it keeps what was freed.

/// Milliseconds that memory which was freed stays with the process: the next batch or task wants as much again, and pages
/// that were given back have to be cleared first. With mimalloc's own second, that is a tenth of the time of a job.
const KEPT_MS: std::ffi::c_long = 10_000;

/// The same for a process whose limit is below [`ROOMY_BYTES`]: what is kept there is missed elsewhere.
const KEPT_TIGHT_MS: std::ffi::c_long = 10;

/// From here on, the headroom of a limit bears what is kept.
const ROOMY_BYTES: u64 = 1 << 30;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps what is freed for as long as a process may that is limited to `limit` bytes. `MIMALLOC_PURGE_DELAY` in the
/// environment goes before it.
pub fn keep_freed_memory(limit: u64) {
    /// `mi_option_purge_delay`, which libmimalloc-sys does not name; the same number in versions 2 and 3.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    let delay = if limit < ROOMY_BYTES { KEPT_TIGHT_MS } else { KEPT_MS };
    #[expect(
        unsafe_code,
        reason = "a foreign function; it stores a number and may be called at any time"
    )]
    unsafe {
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, delay);
    }
}
