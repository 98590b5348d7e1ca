//! An allocator that counts what each thread holds, to measure how much memory a folder makes the
//! library allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn taken(bytes: usize) {
    HELD.set(HELD.get().saturating_add(bytes));
    PEAK.set(PEAK.get().max(HELD.get()));
}

fn freed(bytes: usize) {
    // Memory allocated by another thread may be freed here.
    HELD.set(HELD.get().saturating_sub(bytes));
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator unchanged. The counters have no
// destructor and are initialized at compile time, so accessing them neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller upholds the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        freed(layout.size());
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both allocations may exist for a moment.
        taken(new_size);
        freed(layout.size());
        // SAFETY: the caller upholds the contract of `realloc`.
        unsafe { System.realloc(memory, layout, new_size) }
    }
}

/// The result of `run`, and the maximum that this thread allocated during it.
pub(crate) fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = run();
    (result, PEAK.get() - before)
}

#[test]
fn the_peak_is_what_was_held_at_once() {
    let (_, small) = peak(|| {
        for _ in 0..10 {
            std::hint::black_box(vec![1u8; 1000]);
        }
    });
    assert!((1000..4000).contains(&small), "{small}");
    let (_, large) = peak(|| std::hint::black_box(vec![0u8; 1 << 20]).len());
    assert!((1 << 20..(1 << 20) + 4000).contains(&large), "{large}");
}
