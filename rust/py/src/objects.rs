//! The objects of events, bytes, texts and lists, made with the calls of `CPython` that fill them in place, and without its collector.
//!
//! What its `unsafe` rests on, apart from hints to the processor, which rest on nothing: the interpreter is attached, of which `py` is the
//! proof, and a pointer that a call gives is owned by a `Bound` before anything else is done.
#![expect(
    unsafe_code,
    reason = "the calls of CPython that fill an object in place take pointers"
)]

use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use streamcore::Sink;

/// A text of which is known that it is ASCII.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ascii<'a>(&'a [u8]);

impl<'a> Ascii<'a> {
    #[inline]
    pub(crate) fn of(text: &'a [u8]) -> Option<Self> {
        text.is_ascii().then_some(Self(text))
    }
}

/// The garbage collector is off until this is dropped, if it was on. Meanwhile nobody else may turn it on or off, so no Python code may run;
/// making dicts, texts, numbers and lists runs none.
pub(crate) struct CollectorPause<'py> {
    /// The interpreter is attached as long as this lives.
    _attached: Python<'py>,
    was_on: bool,
}

impl<'py> CollectorPause<'py> {
    #[inline]
    pub(crate) fn begin(py: Python<'py>) -> Self {
        // SAFETY: the interpreter is attached. It sets a flag and gives what it was.
        let was_on = unsafe { ffi::PyGC_Disable() } != 0;
        Self {
            _attached: py,
            was_on,
        }
    }
}

impl Drop for CollectorPause<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.was_on {
            // SAFETY: the interpreter is attached. It sets a flag; the collector runs when the next container is made, not now.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

/// An item that a dict is to have.
pub(crate) type Item = (Py<PyString>, Value);

/// A value that a dict is to have.
pub(crate) enum Value {
    /// Always this one.
    Always(Py<PyAny>),
    /// A text or a number, which to let go of runs no Python code.
    Plain,
    /// The list or the dict in it.
    Inner,
}

/// Whether a dict has these items and no others, in this order, and this inner value: the same objects.
#[inline]
pub(crate) fn has_items(
    dict: &Bound<'_, PyDict>,
    items: &[Item],
    inner: Option<&Bound<'_, PyAny>>,
) -> bool {
    let inner = inner.map_or(std::ptr::null_mut(), Bound::as_ptr);
    let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    dict.len() == items.len()
        && items.iter().all(|(expected, kind)| {
            // SAFETY: the dict is valid, and nothing changes it meanwhile, since no Python code runs here. Key and value, which it keeps,
            // are valid where 1 is returned; they are compared, and asked for their types.
            unsafe {
                ffi::PyDict_Next(dict.as_ptr(), &raw mut at, &raw mut key, &raw mut value) == 1
                    && key == expected.as_ptr()
                    && match kind {
                        Value::Always(always) => value == always.as_ptr(),
                        Value::Inner => value == inner,
                        Value::Plain => {
                            ffi::PyUnicode_CheckExact(value) != 0
                                || ffi::PyFloat_CheckExact(value) != 0
                                || ffi::PyLong_CheckExact(value) != 0
                        }
                    }
            }
        })
}

/// How many references there are to an object.
pub(crate) fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: the object is valid.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

fn size(length: usize) -> ffi::Py_ssize_t {
    ffi::Py_ssize_t::try_from(length).expect("nothing in memory is larger than half of it")
}

/// A text in UTF-8 as a `str`. None, here and below, where there is no memory: the error is set, see [`made`].
#[inline]
pub(crate) fn text<'py>(py: Python<'py>, text: &[u8]) -> Option<Bound<'py, PyString>> {
    match Ascii::of(text) {
        Some(ascii) => join(py, [ascii]),
        None => decoded(py, text),
    }
}

/// What was made, or the error that is set. It is asked for as late as this, since an error is several words, which to hand on by value
/// for each text would take longer than a pointer.
#[inline]
pub(crate) fn made<'py, T>(
    py: Python<'py>,
    object: Option<Bound<'py, T>>,
) -> PyResult<Bound<'py, T>> {
    object.ok_or_else(|| PyErr::fetch(py))
}

/// The same for one that need not be ASCII.
pub(crate) fn decoded<'py>(py: Python<'py>, text: &[u8]) -> Option<Bound<'py, PyString>> {
    // SAFETY: the call reads `text.len()` bytes, and gives a new `str`, or null where there is no memory or they are not UTF-8.
    unsafe {
        let made = ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), size(text.len()));
        Some(Bound::from_owned_ptr_or_opt(py, made)?.cast_into_unchecked())
    }
}

/// An `int`.
#[inline]
pub(crate) fn int(py: Python<'_>, value: i64) -> Option<Bound<'_, PyAny>> {
    // SAFETY: the call gives a new reference, or null where there is no memory.
    unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyLong_FromLongLong(value)) }
}

/// A `float`.
#[inline]
pub(crate) fn float(py: Python<'_>, value: f64) -> Option<Bound<'_, PyAny>> {
    // SAFETY: the call gives a new reference, or null where there is no memory.
    unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyFloat_FromDouble(value)) }
}

/// So many bytes of what comes next are fetched before they are read. Where there are more, the processor sees by itself that it goes on.
const READ_AHEAD: usize = 512;
/// Memory is fetched so many bytes before it is written: the event that used it before has left the nearest caches.
const WRITTEN_AHEAD: usize = 4 << 10;

/// Memory that is written once, from its beginning to its end.
pub(crate) struct Unwritten<'a> {
    rest: &'a mut [MaybeUninit<u8>],
    /// How many bytes of it, at the end, have not been asked for.
    far: usize,
}

impl<'a> Unwritten<'a> {
    fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        Self {
            far: memory.len(),
            rest: memory,
        }
    }
}

impl Sink for Unwritten<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let (now, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        now.write_copy_of_slice(bytes);
        self.rest = rest;
    }

    #[inline]
    fn announce(&mut self, bytes: &[u8]) {
        fetch_ahead(&bytes[..bytes.len().min(READ_AHEAD)]);
        let begin = self.rest.len().saturating_sub(self.far);
        let end = self.rest.len().min(WRITTEN_AHEAD);
        if begin < end {
            let next = &self.rest[begin..end];
            fetch_lines(next.as_ptr().cast(), next.len());
            self.far = self.rest.len() - end;
        }
    }
}

/// A `bytes` of this length, written where it stays. `PyBytes::new_with` would fill it with zeros first, which for a large event is half
/// as much again as writing it.
pub(crate) fn bytes(
    py: Python<'_>,
    length: usize,
    write: impl FnOnce(&mut Unwritten<'_>),
) -> PyResult<Bound<'_, PyBytes>> {
    // SAFETY: `PyBytes_FromStringAndSize` gives a `bytes` that nobody else has, or null where there is no memory. Its `length`
    // bytes at `PyBytes_AsString` are not initialized, and nobody reads them: they are written through `MaybeUninit`.
    let (made, memory) = unsafe {
        let made = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size(length));
        let made = Bound::from_owned_ptr_or_err(py, made)?;
        let start = ffi::PyBytes_AsString(made.as_ptr()).cast::<MaybeUninit<u8>>();
        let memory = std::slice::from_raw_parts_mut(start, length);
        (made.cast_into_unchecked(), memory)
    };
    let mut unwritten = Unwritten::new(memory);
    write(&mut unwritten);
    // Nobody may see what has not been written.
    assert!(
        unwritten.rest.is_empty(),
        "an event has as many bytes as it says"
    );
    Ok(made)
}

/// Has the processor fetch what will be read soon, the beginning where it is long: the caches hold more than one record.
#[inline]
pub(crate) fn fetch_ahead(bytes: &[u8]) {
    const BYTES_MAX: usize = 128 << 10;
    fetch_lines(bytes.as_ptr(), bytes.len().min(BYTES_MAX));
}

#[inline]
fn fetch_lines(start: *const u8, length: usize) {
    /// What a processor fetches at once.
    const LINE_BYTES: usize = 64;
    for line in (0..length).step_by(LINE_BYTES) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: it is a hint, which reads nothing and may name any address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, line);
    }
}

/// Texts in ASCII as one `str`.
#[cfg(not(feature = "abi3"))]
#[inline]
pub(crate) fn join<'py, const N: usize>(
    py: Python<'py>,
    parts: [Ascii<'_>; N],
) -> Option<Bound<'py, PyString>> {
    let length: usize = parts.iter().map(|part| part.0.len()).sum();
    // Of texts so short CPython has one for all.
    if length < 2 {
        return decoded(py, &parts.map(|part| part.0).concat());
    }
    // SAFETY: `PyUnicode_New` gives a `str` that nobody else has, or null where there is no memory. Until it is returned its characters
    // may be written. For a largest character of 127 they are `length` bytes at `PyUnicode_DATA`; the parts are ASCII, have
    // that many bytes together, and do not overlap with what was made just now.
    unsafe {
        let joined = Bound::from_owned_ptr_or_opt(py, ffi::PyUnicode_New(size(length), 127))?;
        let mut to = ffi::PyUnicode_DATA(joined.as_ptr()).cast::<u8>();
        for Ascii(part) in parts {
            to.copy_from_nonoverlapping(part.as_ptr(), part.len());
            to = to.add(part.len());
        }
        Some(joined.cast_into_unchecked())
    }
}

/// The same with the stable ABI, which lets nobody write into a `str`.
#[cfg(feature = "abi3")]
pub(crate) fn join<'py, const N: usize>(
    py: Python<'py>,
    parts: [Ascii<'_>; N],
) -> Option<Bound<'py, PyString>> {
    match parts[..] {
        [part] => decoded(py, part.0),
        _ => decoded(py, &parts.map(|part| part.0).concat()),
    }
}

/// A list of `length` dicts, made one after the other; so many items there must be.
#[inline]
pub(crate) fn list<'py, T>(
    py: Python<'py>,
    length: usize,
    items: impl Iterator<Item = T>,
    mut make: impl FnMut(T) -> PyResult<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyList>> {
    // SAFETY: `PyList_New` gives a list, or null where there is no memory. Its places are empty, which visiting and dropping it allow,
    // but not reading it. Making a dict may run the collector and with it any Python code, which could find the list in
    // `gc.get_objects()`; so the collector does not know of it until every place is filled. A list that it does not know may be dropped.
    let list: Bound<'py, PyList> = unsafe {
        let list = Bound::from_owned_ptr_or_err(py, ffi::PyList_New(size(length)))?;
        ffi::PyObject_GC_UnTrack(list.as_ptr().cast());
        list.cast_into_unchecked()
    };
    let mut filled = 0;
    for (index, item) in (0..length).zip(items) {
        let dict = make(item)?.into_ptr();
        // SAFETY: it takes over the reference that `into_ptr` gave up, in any case, and looks itself whether there is such a place.
        if unsafe { ffi::PyList_SetItem(list.as_ptr(), size(index), dict) } != 0 {
            return Err(PyErr::fetch(py));
        }
        filled += 1;
    }
    assert_eq!(filled, length, "a batch has as many records as it says");
    // SAFETY: the list is valid, every place of it is filled, and it was untracked above.
    unsafe { ffi::PyObject_GC_Track(list.as_ptr().cast()) };
    Ok(list)
}
