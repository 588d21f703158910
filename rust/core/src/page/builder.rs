//! Records that are handed over one by one, written into the form of a page.

use super::{Entry, Format, KEY_BYTES_MAX, Page, Span, Trailer, check_arrival, check_size};
use crate::codec::encode;
use crate::error::PageError;
use crate::json::write_escaped;
use crate::lanes::key_hash;
use crate::position::{SEQUENCE_DIGITS_MAX, check_sequence};

/// Makes a page of records that do not come as the body of an answer.
///
/// # Examples
///
/// ```
/// use streamcore::PageBuilder;
///
/// let mut builder = PageBuilder::new();
/// builder.push("sensor-1", b"21.5", 1_545_084_650_987, Some("4959"))?;
/// builder.push("sensor-2", b"19.0", 1_545_084_651_000, None)?;
/// let page = builder.finish();
/// assert_eq!(page.len(), 2);
/// assert_eq!(page.record(0).data_base64(), "MjEuNQ==");
/// assert!(page.has_unassigned());
/// # Ok::<(), streamcore::PageError>(())
/// ```
#[derive(Debug, Default)]
pub struct PageBuilder {
    body: Vec<u8>,
    entries: Vec<Entry>,
}

impl PageBuilder {
    /// A builder without records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a record.
    ///
    /// A record without a sequence number gets one when the shard takes the page in, see [`Page::assign_sequences`].
    ///
    /// # Errors
    ///
    /// [`PageError`] if the key, the arrival time or the sequence number is out of its range, or if the page would be larger than
    /// [`PAGE_BYTES_MAX`](crate::PAGE_BYTES_MAX). Its offset is the index of the record. The builder is unchanged then.
    pub fn push(
        &mut self,
        key: &str,
        payload: &[u8],
        arrival_ms: i64,
        sequence: Option<&str>,
    ) -> Result<(), PageError> {
        let index = self.entries.len();
        if key.len() > KEY_BYTES_MAX {
            return Err(PageError::KeyTooLong {
                offset: index,
                bytes: key.len(),
                max: KEY_BYTES_MAX,
            });
        }
        check_arrival(index, "ApproximateArrivalTimestamp", arrival_ms)?;
        if let Some(sequence) = sequence {
            check_sequence(sequence).map_err(|reason| PageError::BadSequenceNumber {
                offset: index,
                reason,
            })?;
        }
        // The most that the record can take, with room for the sequence numbers that are assigned later.
        let data_bytes = payload.len().div_ceil(3).saturating_mul(4);
        let rest = self.body.len() + key.len() * 6 + (index + 1) * SEQUENCE_DIGITS_MAX;
        check_size(index, data_bytes.saturating_add(rest))?;

        let start = self.body.len();
        write_escaped(key, &mut self.body);
        let sequence_start = self.body.len();
        self.body
            .extend_from_slice(sequence.unwrap_or_default().as_bytes());
        let data_start = self.body.len();
        encode(payload, &mut self.body);
        self.entries.push(Entry::new(
            Span::new(start, sequence_start),
            Span::new(sequence_start, data_start),
            Span::new(data_start, self.body.len()),
            arrival_ms,
            key_hash(key.as_bytes()),
        ));
        Ok(())
    }

    /// The page of the records pushed so far, with an empty trailer.
    #[must_use]
    pub fn finish(self) -> Page {
        let Self {
            mut body,
            mut entries,
        } = self;
        body.shrink_to_fit();
        entries.shrink_to_fit();
        Page::new(body.into(), entries, Trailer::default(), Format::Kinesis)
    }
}
