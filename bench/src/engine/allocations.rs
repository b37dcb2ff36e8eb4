//! How often code asks for memory.
//!
//! The system's allocator, and in front of it one load of a flag that is off but for the moments in
//! which somebody counts: no other measurement notices it.

#![allow(unsafe_code)] // `GlobalAlloc` can't be implemented without.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether somebody counts.
static ON: AtomicBool = AtomicBool::new(false);
/// Requests for memory while somebody did, those for more of it among them.
static COUNTED: AtomicU64 = AtomicU64::new(0);

struct Counting;

impl Counting {
    #[inline]
    fn count() {
        if ON.load(Ordering::Relaxed) {
            COUNTED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: each call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller promises what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// How often `work`, and any other thread meanwhile, asks for memory; and what `work` says.
pub(super) fn of<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = COUNTED.load(Ordering::Relaxed);
    ON.store(true, Ordering::Relaxed);
    let said = work();
    ON.store(false, Ordering::Relaxed);
    (COUNTED.load(Ordering::Relaxed) - before, said)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    #[test]
    fn what_is_asked_for_is_counted() {
        // Other tests may ask for memory meanwhile: never fewer.
        let (counted, sum) = super::of(|| (0..5u64).map(|i| *black_box(Box::new(i))).sum::<u64>());
        assert!(counted >= 5 && sum == 10);
    }
}
