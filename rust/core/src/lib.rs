//! streamcore core
#![forbid(unsafe_code)]

mod decode;
mod error;
mod event;
mod json;
mod lanes;
mod page;
mod position;

pub use error::{PageError, PositionError};
pub use event::{ENVELOPE_BYTES, EventIdentity, EventTemplate};
pub use lanes::{KeyAttribute, KeyError, KeyType, LANE_FUNCTION_VERSION, dynamodb_key_bytes, key_hash, lane};
pub use page::{
    ARRIVAL_MS_MAX, ChildShard, Format, KEY_BYTES_MAX, PAGE_BYTES_MAX, Page, PageBuilder, Record, Trailer,
};
pub use position::{Position, SEQUENCE_DIGITS_MAX, SequenceNumber};
