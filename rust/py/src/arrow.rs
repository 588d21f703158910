//! A table in the Arrow C data interface (<https://arrow.apache.org/docs/format/CDataInterface.html> and `CStreamInterface.html`): three
//! structs that hand the buffers of Rust over to whoever reads them, in the same process and without a copy.
//!
//! The structs are those of the specification, which are frozen. Of its types there are the few that a batch of records needs. A consumer
//! moves a struct by copying its bytes and setting `release` of the original to null, and may do so with each child by itself; so nothing
//! here relies on where a struct stands, and every release looks only at what `private_data` says.
//!
//! Beside `objects` this is the one module with `unsafe`. What all of it rests on: the pointers in a struct point into the `private_data` of
//! the same struct, which `release` frees, once.
#![expect(
    unsafe_code,
    reason = "the C data interface is made of pointers and callbacks"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

/// A column's name and type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: &'static CStr,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Utf8,
    Binary,
    /// Milliseconds since the epoch, UTC.
    Timestamp,
}

impl Kind {
    /// As the specification writes types ("Data type description -- format strings").
    fn format(self) -> &'static CStr {
        match self {
            Self::Utf8 => c"u",
            Self::Binary => c"z",
            Self::Timestamp => c"tsm:UTC",
        }
    }
}

/// The values of a column; none is missing.
#[derive(Debug)]
pub(crate) enum Column {
    Timestamps(Vec<i64>),
    /// Of `Utf8` and `Binary`: value `i` is `bytes[offsets[i]..offsets[i + 1]]`.
    Strings {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
    },
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ArrowSchema {
    pub(crate) format: *const c_char,
    pub(crate) name: *const c_char,
    pub(crate) metadata: *const c_char,
    pub(crate) flags: i64,
    pub(crate) n_children: i64,
    pub(crate) children: *mut *mut Self,
    pub(crate) dictionary: *mut Self,
    pub(crate) release: Option<unsafe extern "C" fn(*mut Self)>,
    pub(crate) private_data: *mut c_void,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ArrowArray {
    pub(crate) length: i64,
    pub(crate) null_count: i64,
    pub(crate) offset: i64,
    pub(crate) n_buffers: i64,
    pub(crate) n_children: i64,
    pub(crate) buffers: *mut *const c_void,
    pub(crate) children: *mut *mut Self,
    pub(crate) dictionary: *mut Self,
    pub(crate) release: Option<unsafe extern "C" fn(*mut Self)>,
    pub(crate) private_data: *mut c_void,
}

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ArrowArrayStream {
    pub(crate) get_schema: Option<unsafe extern "C" fn(*mut Self, *mut ArrowSchema) -> c_int>,
    pub(crate) get_next: Option<unsafe extern "C" fn(*mut Self, *mut ArrowArray) -> c_int>,
    pub(crate) get_last_error: Option<unsafe extern "C" fn(*mut Self) -> *const c_char>,
    pub(crate) release: Option<unsafe extern "C" fn(*mut Self)>,
    pub(crate) private_data: *mut c_void,
}

/// Structs of their own, as the `children` of another one.
struct Children<T>(Vec<*mut T>);

impl<T> Children<T> {
    fn new(children: impl IntoIterator<Item = T>) -> Self {
        let boxed = children.into_iter().map(Box::new);
        Self(boxed.map(Box::into_raw).collect())
    }

    fn len(&self) -> i64 {
        i64::try_from(self.0.len()).expect("a vector's length fits")
    }
}

impl<T> Drop for Children<T> {
    fn drop(&mut self) {
        for child in self.0.drain(..) {
            // SAFETY: the pointer is of `Box::into_raw` in `new`, and is taken out here, the one place that frees it. A child that a
            // consumer has moved away has no `release` any more, so that dropping it frees the place where it stood and nothing else.
            drop(unsafe { Box::from_raw(child) });
        }
    }
}

/// What an [`ArrowArray`] points to.
struct Held {
    buffers: Vec<*const c_void>,
    children: Children<ArrowArray>,
    /// The memory of `buffers`: a vector's own does not move with the vector, and nobody changes these.
    _column: Option<Column>,
}

/// What an [`ArrowArrayStream`] has still to give.
struct Rest {
    fields: &'static [Field],
    array: Option<ArrowArray>,
}

impl ArrowSchema {
    /// A struct of these fields, which is what a record batch is.
    pub(crate) fn of(fields: &[Field]) -> Self {
        let children = fields
            .iter()
            .map(|field| Self::new(field.kind.format(), field.name, Children::new([])));
        Self::new(c"+s", c"", Children::new(children))
    }

    fn new(format: &'static CStr, name: &'static CStr, children: Children<Self>) -> Self {
        let mut children = Box::new(children);
        Self {
            format: format.as_ptr(),
            name: name.as_ptr(),
            metadata: null(),
            flags: 0, // not nullable
            n_children: children.len(),
            children: children.0.as_mut_ptr(),
            dictionary: null_mut(),
            release: Some(release_schema),
            private_data: Box::into_raw(children).cast(),
        }
    }
}

impl ArrowArray {
    /// A record batch of these columns, each of `rows` values.
    pub(crate) fn of(rows: usize, columns: Vec<Column>) -> Self {
        let children = columns.into_iter().map(|column| {
            let mut buffers = vec![null()]; // no value is missing, so there is no bitmap of those that are
            match &column {
                Column::Timestamps(values) => {
                    assert_eq!(values.len(), rows);
                    buffers.push(values.as_ptr().cast());
                }
                Column::Strings { offsets, bytes } => {
                    assert_eq!(offsets.len(), rows + 1);
                    let end = offsets.last().map(|end| usize::try_from(*end));
                    assert_eq!(end, Some(Ok(bytes.len())));
                    buffers.push(offsets.as_ptr().cast());
                    buffers.push(bytes.as_ptr().cast());
                }
            }
            Self::new(rows, buffers, Children::new([]), Some(column))
        });
        Self::new(rows, vec![null()], Children::new(children), None)
    }

    fn new(
        rows: usize,
        buffers: Vec<*const c_void>,
        children: Children<Self>,
        column: Option<Column>,
    ) -> Self {
        let mut held = Box::new(Held {
            buffers,
            children,
            _column: column,
        });
        Self {
            length: i64::try_from(rows).expect("a vector's length fits"),
            null_count: 0,
            offset: 0,
            n_buffers: i64::try_from(held.buffers.len()).expect("a vector's length fits"),
            n_children: held.children.len(),
            buffers: held.buffers.as_mut_ptr(),
            children: held.children.0.as_mut_ptr(),
            dictionary: null_mut(),
            release: Some(release_array),
            private_data: Box::into_raw(held).cast(),
        }
    }

    /// What says that a stream is at its end.
    fn released() -> Self {
        Self {
            length: 0,
            null_count: 0,
            offset: 0,
            n_buffers: 0,
            n_children: 0,
            buffers: null_mut(),
            children: null_mut(),
            dictionary: null_mut(),
            release: None,
            private_data: null_mut(),
        }
    }
}

impl ArrowArrayStream {
    /// A stream of one record batch.
    pub(crate) fn of(fields: &'static [Field], array: ArrowArray) -> Self {
        let array = Some(array);
        Self {
            get_schema: Some(get_schema),
            get_next: Some(get_next),
            get_last_error: Some(get_last_error),
            release: Some(release_stream),
            private_data: Box::into_raw(Box::new(Rest { fields, array })).cast(),
        }
    }
}

/// Release what nobody has taken over, as a capsule does that was not used.
macro_rules! released_when_dropped {
    ($($interface:ty),*) => {$(
        impl Drop for $interface {
            fn drop(&mut self) {
                if let Some(release) = self.release {
                    // SAFETY: `release` is the one that was set beside `private_data`; being there it has not been called, and what is
                    // dropped is not used again.
                    unsafe { release(self) };
                }
            }
        }

        // SAFETY: each owns what it points to, alone, and that is memory which any thread may read and free.
        unsafe impl Send for $interface {}
    )*};
}

released_when_dropped!(ArrowSchema, ArrowArray, ArrowArrayStream);

/// # Safety
///
/// As the specification has it: `schema` is one of [`ArrowSchema::new`] that is not released, at whatever place.
unsafe extern "C" fn release_schema(schema: *mut ArrowSchema) {
    // SAFETY: the caller's promise.
    let schema = unsafe { &mut *schema };
    schema.release = None;
    // SAFETY: it is the box of `ArrowSchema::new`; that `release` was set says that it has not been freed.
    drop(unsafe { Box::from_raw(schema.private_data.cast::<Children<ArrowSchema>>()) });
}

/// # Safety
///
/// As the specification has it: `array` is one of [`ArrowArray::new`] that is not released, at whatever place.
unsafe extern "C" fn release_array(array: *mut ArrowArray) {
    // SAFETY: the caller's promise.
    let array = unsafe { &mut *array };
    array.release = None;
    // SAFETY: it is the box of `ArrowArray::new`; that `release` was set says that it has not been freed.
    drop(unsafe { Box::from_raw(array.private_data.cast::<Held>()) });
}

/// # Safety
///
/// As the specification has it: `stream` is one of [`ArrowArrayStream::of`] that is not released, at whatever place, and no other thread
/// uses it.
unsafe extern "C" fn release_stream(stream: *mut ArrowArrayStream) {
    // SAFETY: the caller's promise.
    let stream = unsafe { &mut *stream };
    stream.release = None;
    // SAFETY: it is the box of `ArrowArrayStream::of`; that `release` was set says that it has not been freed.
    drop(unsafe { Box::from_raw(stream.private_data.cast::<Rest>()) });
}

/// # Safety
///
/// As `release_stream`; `out` is a place for a struct, whose content does not count.
unsafe extern "C" fn get_schema(stream: *mut ArrowArrayStream, out: *mut ArrowSchema) -> c_int {
    // SAFETY: the caller's promise; the box of `ArrowArrayStream::of` is there until the stream is released.
    let rest = unsafe { &*(*stream).private_data.cast::<Rest>() };
    // SAFETY: the caller's promise. `write` does not drop what stood there.
    unsafe { out.write(ArrowSchema::of(rest.fields)) };
    0
}

/// # Safety
///
/// As `release_stream`; `out` is a place for a struct, whose content does not count.
unsafe extern "C" fn get_next(stream: *mut ArrowArrayStream, out: *mut ArrowArray) -> c_int {
    // SAFETY: the caller's promise; the box of `ArrowArrayStream::of` is there until the stream is released.
    let rest = unsafe { &mut *(*stream).private_data.cast::<Rest>() };
    let array = rest.array.take().unwrap_or_else(ArrowArray::released);
    // SAFETY: the caller's promise. `write` does not drop what stood there.
    unsafe { out.write(array) };
    0
}

/// No call fails.
unsafe extern "C" fn get_last_error(_: *mut ArrowArrayStream) -> *const c_char {
    null()
}
