//! The tests of `src/arrow.rs` as a program of their own: the binding itself cannot be run without an interpreter.
//!
//! `make sanitize` runs them under `AddressSanitizer`, which finds what is freed twice, used after it was freed, or never freed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::read;

#[path = "../src/arrow.rs"]
mod arrow;

use arrow::{ArrowArray, ArrowArrayStream, ArrowSchema, Column, Field, Kind};

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

const FIELDS: &[Field] = &[
    Field {
        name: c"name",
        kind: Kind::Utf8,
    },
    Field {
        name: c"at",
        kind: Kind::Timestamp,
    },
    Field {
        name: c"data",
        kind: Kind::Binary,
    },
];

fn table() -> ArrowArray {
    let strings = |bytes: &[u8], offsets: [i32; 3]| Column::Strings {
        offsets: offsets.to_vec(),
        bytes: bytes.to_vec(),
    };
    ArrowArray::of(
        2,
        vec![
            strings(b"annbob", [0, 3, 6]),
            Column::Timestamps(vec![1, 2]),
            strings(b"\xff", [0, 0, 1]),
        ],
    )
}

/// What a consumer does to take a struct over.
fn moved<T>(from: &mut T, forget: impl FnOnce(&mut T)) -> T {
    // SAFETY: the original is never dropped as an owner again: `forget` takes its `release` away.
    let taken = unsafe { read(from) };
    forget(from);
    taken
}

/// The value of a column of strings, read as a consumer reads it.
fn string(array: &ArrowArray, column: usize, index: usize) -> Vec<u8> {
    // SAFETY: the layout of the specification, of columns that `table` has made.
    unsafe {
        let child = &**array.children.add(column);
        let offsets = (*child.buffers.add(1)).cast::<i32>();
        let at = |index| usize::try_from(*offsets.add(index)).expect("an offset");
        let bytes = (*child.buffers.add(2)).cast::<u8>();
        std::slice::from_raw_parts(bytes.add(at(index)), at(index + 1) - at(index)).to_vec()
    }
}

/// Run, and check that all memory is free again.
fn frees_all(work: impl Fn()) {
    let before = held_bytes();
    work();
    assert_eq!(held_bytes(), before);
}

#[test]
fn what_nobody_takes_is_freed() {
    frees_all(|| {
        drop(ArrowSchema::of(FIELDS));
        drop(table());
        drop(ArrowArrayStream::of(FIELDS, table()));
    });
}

#[test]
fn what_is_moved_is_read_and_released_at_its_new_place_and_not_again() {
    frees_all(|| {
        let mut capsule = Box::new(table());
        let mut mine = moved(&mut *capsule, |old| old.release = None);
        drop(capsule);
        assert_eq!((mine.length, mine.n_children, mine.n_buffers), (2, 3, 1));
        assert_eq!(
            [
                string(&mine, 0, 0),
                string(&mine, 0, 1),
                string(&mine, 2, 1)
            ],
            [&b"ann"[..], b"bob", b"\xff"]
        );
        let release = mine.release.expect("it is not released");
        // SAFETY: as the specification has it.
        unsafe { release(&raw mut mine) };
        assert!(mine.release.is_none());
    });
    frees_all(|| {
        let mut capsule = ArrowSchema::of(FIELDS);
        let mine = moved(&mut capsule, |old| old.release = None);
        drop(capsule);
        // SAFETY: the layout of the specification.
        let (name, format) = unsafe {
            let child = &**mine.children.add(1);
            (CStr::from_ptr(child.name), CStr::from_ptr(child.format))
        };
        assert_eq!((name, format), (c"at", c"tsm:UTC"));
    });
}

#[test]
fn a_child_that_is_moved_outlives_the_others() {
    frees_all(|| {
        let array = table();
        // SAFETY: the layout of the specification; a child may be moved as the whole may.
        let child = moved(unsafe { &mut **array.children.add(1) }, |old| {
            old.release = None;
        });
        drop(array);
        // SAFETY: the layout of the specification.
        let at = unsafe { std::slice::from_raw_parts((*child.buffers.add(1)).cast::<i64>(), 2) };
        assert_eq!(at, [1, 2]);
    });
}

#[test]
fn a_stream_gives_its_schema_as_often_as_asked_and_its_array_once() {
    frees_all(|| {
        let mut capsule = ArrowArrayStream::of(FIELDS, table());
        let mut stream = moved(&mut capsule, |old| old.release = None);
        drop(capsule);
        let (schema, next) = (
            stream.get_schema.expect("set"),
            stream.get_next.expect("set"),
        );
        for _ in 0..2 {
            let mut out = MaybeUninit::uninit();
            // SAFETY: as the specification has it; after a return of 0 the place holds a struct.
            let got = unsafe {
                assert_eq!(schema(&raw mut stream, out.as_mut_ptr()), 0);
                out.assume_init()
            };
            assert_eq!(got.n_children, 3);
        }
        let mut arrays = [const { MaybeUninit::uninit() }; 3].map(|mut out| {
            // SAFETY: as the specification has it; after a return of 0 the place holds a struct.
            unsafe {
                assert_eq!(next(&raw mut stream, out.as_mut_ptr()), 0);
                out.assume_init()
            }
        });
        drop(stream);
        assert_eq!(string(&arrays[0], 0, 1), b"bob");
        assert!(arrays[1..].iter_mut().all(|array| array.release.is_none()));
    });
}

#[test]
fn a_table_without_records_has_its_columns() {
    frees_all(|| {
        let none = || Column::Strings {
            offsets: vec![0],
            bytes: Vec::new(),
        };
        let array = ArrowArray::of(0, vec![none(), Column::Timestamps(Vec::new()), none()]);
        assert_eq!((array.length, array.n_children), (0, 3));
    });
}
