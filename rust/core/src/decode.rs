//! From the body of a source's answer to the spans of its records, one module per API.

pub(crate) mod kinesis;

use crate::page::{Entry, Trailer};

/// What a decoder finds in a body.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// Spans of the records; offsets at or beyond the body's length are into `canonical`.
    pub(crate) entries: Vec<Entry>,
    /// The canonical form of the strings that have a backslash in the body. It is to be appended to the body.
    pub(crate) canonical: String,
    pub(crate) trailer: Trailer,
}
