//! From the body of a source's answer to the spans of its records, one module per API.

pub(crate) mod dynamodb;
pub(crate) mod kinesis;
pub(crate) mod kpl;

use crate::error::PageError;
use crate::json::{self, Scanner, Text};
use crate::page::{Entry, Trailer};

type Result<T> = std::result::Result<T, PageError>;

/// What a decoder finds in a body.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// Spans of the records, in the text of the page.
    pub(crate) entries: Vec<Entry>,
    /// Of Kinesis: the canonical form of the strings that have a backslash, to be appended to the body. Of `DynamoDB` Streams: the
    /// text of the page, which takes the place of the body.
    pub(crate) canonical: Vec<u8>,
    pub(crate) trailer: Trailer,
    /// Each sequence number was seen to be above the one before it, while their text was at hand. If not, they may still be.
    pub(crate) ascending: bool,
}

/// Look whether a text is UTF-8; `offset` is where it begins in the body.
pub(crate) fn check_utf8(text: &[u8], offset: usize) -> Result<()> {
    match simdutf8::compat::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(PageError::NotUtf8 {
            offset: offset + error.valid_up_to(),
        }),
    }
}

pub(crate) fn literal(scanner: &mut Scanner<'_>, field: &'static str) -> Result<Text> {
    typed(scanner, b'"', field, "a string")?;
    scanner.string("a string")
}

pub(crate) fn string(scanner: &mut Scanner<'_>, field: &'static str) -> Result<String> {
    let literal = literal(scanner, field)?;
    Ok(scanner.value(literal)?.into_owned())
}

/// What `read` reads, or None where `null` stands.
pub(crate) fn nullable<'a, T>(
    scanner: &mut Scanner<'a>,
    read: impl FnOnce(&mut Scanner<'a>) -> Result<T>,
) -> Result<Option<T>> {
    if scanner.null()? {
        return Ok(None);
    }
    read(scanner).map(Some)
}

/// A number times ten to the power of `scale`.
pub(crate) fn integer(scanner: &mut Scanner<'_>, field: &'static str, scale: i64) -> Result<i64> {
    let (byte, offset) = scanner.peek("a number")?;
    if byte != b'-' && !byte.is_ascii_digit() {
        return Err(wrong_type(byte, offset, field, "a number"));
    }
    let number = scanner.number("a number")?;
    number
        .scaled(scale)
        .map_err(|json::OutOfRange| PageError::OutOfRange { offset, field })
}

/// Check the type of the next value by its first byte.
#[inline]
pub(crate) fn typed(
    scanner: &mut Scanner<'_>,
    first: u8,
    field: &'static str,
    expected: &'static str,
) -> Result<()> {
    let (byte, offset) = scanner.peek(expected)?;
    if byte == first {
        return Ok(());
    }
    Err(wrong_type(byte, offset, field, expected))
}

#[cold]
fn wrong_type(byte: u8, offset: usize, field: &'static str, expected: &'static str) -> PageError {
    match json::kind(byte) {
        Some(found) => PageError::WrongType {
            offset,
            field,
            expected,
            found,
        },
        None => PageError::Unexpected {
            offset,
            found: byte,
            expected,
        },
    }
}

#[cold]
pub(crate) fn missing(offset: usize, field: &'static str) -> PageError {
    PageError::MissingField { offset, field }
}
