//! What can be wrong with what is handed to the core. Messages are for people; the fields carry the facts.

use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::lanes::KeyError;
use crate::page::Format;

/// Why a text is not a sequence number.
///
/// # Examples
///
/// ```
/// use streamcore::{PositionError, SequenceNumber};
///
/// assert_eq!(SequenceNumber::parse(""), Err(PositionError::Empty));
/// assert_eq!(SequenceNumber::parse("49x"), Err(PositionError::NotADigit { index: 2, found: 'x' }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PositionError {
    /// There is no digit at all.
    #[error("a sequence number has at least one digit, this one is empty")]
    Empty,
    /// A character that is no decimal digit.
    #[error("a sequence number is decimal digits only, found {found:?} at index {index}")]
    NotADigit {
        /// Byte index in the text.
        index: usize,
        /// The character there.
        found: char,
    },
    /// More digits than a sequence number can have.
    #[error("a sequence number has at most {max} digits, this one has {digits}")]
    TooLong {
        /// Digits in the text.
        digits: usize,
        /// The most that are allowed.
        max: usize,
    },
    /// The largest sequence number has no successor.
    #[error("no sequence number follows one of {max} nines")]
    NoSuccessor {
        /// The most digits that are allowed.
        max: usize,
    },
}

/// Why something is not a page.
///
/// Every variant has an offset: the byte in the body at which reading stopped. For records handed over one by one it is the
/// index of the record, and for [`Record::payload`](crate::Record::payload) the byte in the record's base64 text.
///
/// # Examples
///
/// ```
/// use streamcore::{Format, Page, PageError};
///
/// let error = Page::parse(br#"{"Records": 7}"#.to_vec(), Format::Kinesis).unwrap_err();
/// assert_eq!(error.offset(), 12);
/// assert_eq!(error.to_string(), "at byte 12: Records must be an array, found a number");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PageError {
    /// The page would be larger than offsets can address.
    #[error("at {offset}: the page would hold {bytes} bytes, at most {max} are possible")]
    TooLarge {
        /// Where the limit was met.
        offset: usize,
        /// The size that was asked for.
        bytes: usize,
        /// The most that is possible.
        max: usize,
    },
    /// The body is not UTF-8.
    #[error("at byte {offset}: the body is not UTF-8")]
    NotUtf8 {
        /// The first byte that is wrong.
        offset: usize,
    },
    /// The body ends in the middle of something.
    #[error("at byte {offset}: the body ends too early, {expected} should follow")]
    Truncated {
        /// The length of the body.
        offset: usize,
        /// What would be right.
        expected: &'static str,
    },
    /// A byte that JSON does not allow there.
    #[error("at byte {offset}: expected {expected}, found {:?}", char::from(*.found))]
    Unexpected {
        /// Where it stands.
        offset: usize,
        /// The byte.
        found: u8,
        /// What would be right.
        expected: &'static str,
    },
    /// A control character inside a string; JSON wants it escaped.
    #[error(
        "at byte {offset}: the control character U+{found:04X} must be escaped inside a string"
    )]
    ControlCharacter {
        /// Where it stands.
        offset: usize,
        /// The byte.
        found: u8,
    },
    /// A backslash that begins no escape of JSON.
    #[error(
        "at byte {offset}: a backslash must begin one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX"
    )]
    BadEscape {
        /// Where the backslash stands.
        offset: usize,
    },
    /// Half of a surrogate pair, which is no character.
    #[error(
        "at byte {offset}: \\u{found:04X} is half of a surrogate pair, its other half is missing"
    )]
    LoneSurrogate {
        /// Where the backslash stands.
        offset: usize,
        /// The half that is there.
        found: u16,
    },
    /// Arrays and objects inside each other, deeper than any answer of a stream.
    #[error("at byte {offset}: arrays and objects may be nested {max} deep at most")]
    TooDeep {
        /// Where the one that is too deep begins.
        offset: usize,
        /// The deepest that is read.
        max: usize,
    },
    /// Something other than white space follows the answer.
    #[error("at byte {offset}: nothing may follow the body's closing brace")]
    TrailingBytes {
        /// Where it stands.
        offset: usize,
    },
    /// A field with a value of another type than the API's.
    #[error("at byte {offset}: {field} must be {expected}, found {found}")]
    WrongType {
        /// Where the value begins.
        offset: usize,
        /// The field's name in the API.
        field: &'static str,
        /// The type it must have.
        expected: &'static str,
        /// The type it has.
        found: &'static str,
    },
    /// A field that the API always sends is not there.
    #[error("at byte {offset}: the object that begins here has no {field}")]
    MissingField {
        /// Where the object begins.
        offset: usize,
        /// The field's name in the API.
        field: &'static str,
    },
    /// A sequence number that is none.
    #[error("at {offset}: {reason}")]
    BadSequenceNumber {
        /// Where it stands.
        offset: usize,
        /// What is wrong with it.
        reason: PositionError,
    },
    /// A number that is too large or too small for its field.
    #[error("at {offset}: {field} is out of range")]
    OutOfRange {
        /// Where it stands.
        offset: usize,
        /// The field's name in the API.
        field: &'static str,
    },
    /// A partition key that is too long.
    #[error("at {offset}: the partition key has {bytes} bytes, at most {max} are possible")]
    KeyTooLong {
        /// Where it stands.
        offset: usize,
        /// Its UTF-8 bytes.
        bytes: usize,
        /// The most that is possible.
        max: usize,
    },
    /// A payload that is not base64 in the standard alphabet with padding.
    #[error("at byte {offset} of the data: not base64 in the standard alphabet with padding")]
    BadBase64 {
        /// The byte in the base64 text.
        offset: usize,
    },
    /// The key of an item is not one that a table can have.
    #[error("at byte {offset}: an item's key is attributes of type S, N or B{}", because(.reason.as_ref()))]
    BadKey {
        /// Where it stands.
        offset: usize,
        /// What is wrong with a value; None where there is no attribute, or one of another type.
        reason: Option<KeyError>,
    },
}

fn because(reason: Option<&KeyError>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

impl PageError {
    /// Where it is: the byte in the body, or the index of the record that was handed over.
    #[must_use]
    pub fn offset(&self) -> usize {
        match *self {
            Self::TooLarge { offset, .. }
            | Self::NotUtf8 { offset }
            | Self::Truncated { offset, .. }
            | Self::Unexpected { offset, .. }
            | Self::ControlCharacter { offset, .. }
            | Self::BadEscape { offset }
            | Self::LoneSurrogate { offset, .. }
            | Self::TooDeep { offset, .. }
            | Self::TrailingBytes { offset }
            | Self::WrongType { offset, .. }
            | Self::MissingField { offset, .. }
            | Self::BadSequenceNumber { offset, .. }
            | Self::OutOfRange { offset, .. }
            | Self::KeyTooLong { offset, .. }
            | Self::BadBase64 { offset }
            | Self::BadKey { offset, .. } => offset,
        }
    }
}

/// A call that the life cycle does not allow. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UsageError {
    /// No shard has this handle any more, or ever had.
    #[error("there is no shard {shard}")]
    NoShard {
        /// The handle.
        shard: u32,
    },
    /// The mapping already has a shard of this name.
    #[error("the mapping already has a shard {shard_id:?}")]
    ShardExists {
        /// The shard's name.
        shard_id: String,
    },
    /// The batch was finished before, or the ticket was never given out.
    #[error(
        "the batch of this ticket is not in flight: it was finished before, or never handed out"
    )]
    NotInFlight,
    /// A partial outcome names a record that the batch does not have.
    #[error("record {index} of a batch of {records} records cannot have failed")]
    NoSuchRecord {
        /// The index of the outcome.
        index: u32,
        /// Records of the batch.
        records: u32,
    },
    /// Window state was given for a mapping without tumbling windows.
    #[error("window state was given, and the mapping has no tumbling window")]
    NoWindow,
    /// A window's closing call could not hold this state.
    #[error("window state of {bytes} bytes was given, and the closing call can hold {max}")]
    StateTooLarge {
        /// Bytes given.
        bytes: usize,
        /// The most that is possible.
        max: usize,
    },
    /// The page is an answer of another API than the shard's.
    #[error("a page of {found} was offered to a shard of {expected}")]
    OtherFormat {
        /// What the shard's events are made for.
        expected: Format,
        /// What the page is.
        found: Format,
    },
    /// A page came after the end of the shard.
    #[error("the shard is closed, and a page with records was offered")]
    Closed,
    /// Sequence numbers cannot grow further.
    #[error("no sequence number follows {after}")]
    NoSuccessor {
        /// The largest number.
        after: String,
    },
    /// Batches are in flight or discards unconfirmed.
    #[error(
        "{in_flight} batches are in flight and {unconfirmed} discards unconfirmed; pause or drain the shard first"
    )]
    Busy {
        /// Batches in flight.
        in_flight: usize,
        /// Discards not confirmed.
        unconfirmed: usize,
    },
    /// A parameter is outside its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint cannot be restored.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
