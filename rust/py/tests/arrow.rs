//! The tests of `src/arrow.rs` as a program of their own: the binding itself cannot be run without an interpreter.
//!
//! `make sanitize` runs them under `AddressSanitizer`, which finds what is freed twice, used after it was freed, or never freed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[path = "../src/arrow.rs"]
mod arrow;

/// The system's allocator, counting the bytes that each thread holds.
struct Counted;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

fn held_bytes() -> isize {
    HELD.get()
}

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + layout.size().cast_signed());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size().cast_signed());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;
