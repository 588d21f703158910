//! One answer of a source: the records in order, as slices of the text they came in, and what stood around them.
//!
//! A page keeps the body and 40 bytes per record: where the key, the sequence number and the data stand, the arrival time and the
//! hash of the key. Texts are in the canonical form of a JSON string, so an event is made of slices: a string with a backslash is
//! re-encoded once when the page is read, all others stay where they are. Records that are handed over one by one are written into the
//! same form by [`PageBuilder`], so both ways give the same bytes. Reading allocates per page, never per record.
//!
//! Records of `DynamoDB` Streams are written in the form of the event when the page is read, see `decode::dynamodb`. Their key span is
//! what stands before the region in the event, and their data span is what stands behind it.
//!
//! A page knows nothing of shards, batches or mappings.

mod aggregates;
mod builder;
mod record;
mod text;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;

use crate::decode;
use crate::error::{PageError, PositionError};
use crate::position::{
    Position, SEQUENCE_DIGITS_MAX, SequenceNumber, compare_sequences, write_successor,
};

pub use aggregates::Deaggregated;
pub use builder::PageBuilder;
pub use record::{Record, RecordBytes};
use text::Text;

/// The most bytes of text that a page holds: 4 GiB less 1 MiB, so that sums of a record's sizes fit in 32 bits.
pub const PAGE_BYTES_MAX: usize = (u32::MAX - (1 << 20)) as usize;
/// The most UTF-8 bytes that a partition key has. Kinesis itself allows 256 characters.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Arrival times are at most this many milliseconds before or after the epoch, about 273,000 years.
pub const ARRIVAL_MS_MAX: i64 = 8_640_000_000_000_000;

/// Which API a body is an answer of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `GetRecords` of Kinesis Data Streams.
    #[default]
    Kinesis,
    /// `GetRecords` of Amazon `DynamoDB` Streams.
    DynamoDb,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kinesis => "Kinesis Data Streams",
            Self::DynamoDb => "DynamoDB Streams",
        })
    }
}

/// What stands around the records of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trailer {
    /// `NextShardIterator`; none at the end of a closed shard.
    pub next_iterator: Option<String>,
    /// `MillisBehindLatest`: how far the page is from the tip, 0 at the tip.
    pub millis_behind: Option<i64>,
    /// `ChildShards`, which the last page of a closed shard has.
    pub child_shards: Vec<ChildShard>,
    /// `ContinuationSequenceNumber`, which an event of `SubscribeToShard` has: where the next subscription goes on.
    pub continuation: Option<String>,
}

/// A shard that follows one that has ended, as the last page of that one names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildShard {
    /// Its id.
    pub shard_id: String,
    /// The ids of the shards it follows: one after a split, two after a merge.
    pub parent_shards: Vec<String>,
}

/// A stretch of the page's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    start: u32,
    bytes: u32,
}

impl Span {
    /// A stretch of a text that [`check_size`] has let pass.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a page's text is below 4 GiB"
    )]
    pub(crate) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= PAGE_BYTES_MAX);
        Self {
            start: start as u32,
            bytes: (end - start) as u32,
        }
    }

    #[inline]
    pub(crate) fn of(self, body: &[u8]) -> &[u8] {
        let start = self.start as usize;
        &body[start..start + self.bytes as usize]
    }

    /// The same as text. That costs a look at it; copying and comparing do not need that.
    pub(crate) fn text(self, body: &[u8]) -> &str {
        str::from_utf8(self.of(body)).expect("the text of a page is UTF-8")
    }
}

/// One record: where its parts stand in the page's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    arrival_ms: i64,
    key_hash: u64,
    key_start: u32,
    sequence_start: u32,
    data: Span,
    /// Bytes of the key's canonical form (24 bits) and, above them, digits of the sequence number (8 bits; 0: not assigned yet).
    lengths: u32,
    sub: u32,
}

/// What a page takes for a record beside its text.
pub(crate) const ENTRY_BYTES: usize = size_of::<Entry>();
const _: () = assert!(ENTRY_BYTES == 40);
// The canonical form has at most six bytes for one.
const _: () = assert!(KEY_BYTES_MAX * 6 < 1 << 24 && SEQUENCE_DIGITS_MAX < 1 << 8);

impl Entry {
    #[inline]
    pub(crate) fn new(
        key: Span,
        sequence: Span,
        data: Span,
        arrival_ms: i64,
        key_hash: u64,
    ) -> Self {
        Self {
            arrival_ms,
            key_hash,
            key_start: key.start,
            sequence_start: sequence.start,
            data,
            lengths: sequence.bytes << 24 | key.bytes,
            sub: 0,
        }
    }

    fn key(&self) -> Span {
        Span {
            start: self.key_start,
            bytes: self.lengths & 0x00ff_ffff,
        }
    }

    pub(crate) fn sequence(&self) -> Span {
        Span {
            start: self.sequence_start,
            bytes: self.lengths >> 24,
        }
    }

    fn set_sequence(&mut self, sequence: Span) {
        self.sequence_start = sequence.start;
        self.lengths = sequence.bytes << 24 | self.lengths & 0x00ff_ffff;
    }

    fn is_unassigned(&self) -> bool {
        self.lengths >> 24 == 0
    }
}

/// Check that a page's text may have a size.
#[inline]
pub(crate) fn check_size(offset: usize, bytes: usize) -> Result<(), PageError> {
    if bytes <= PAGE_BYTES_MAX {
        return Ok(());
    }
    Err(PageError::TooLarge {
        offset,
        bytes,
        max: PAGE_BYTES_MAX,
    })
}

/// Check an arrival time.
pub(crate) fn check_arrival(
    offset: usize,
    field: &'static str,
    arrival_ms: i64,
) -> Result<(), PageError> {
    if (-ARRIVAL_MS_MAX..=ARRIVAL_MS_MAX).contains(&arrival_ms) {
        return Ok(());
    }
    Err(PageError::OutOfRange { offset, field })
}

/// One answer of a source.
///
/// # Examples
///
/// ```
/// use streamcore::{Format, Page};
///
/// let body = br#"{"Records": [{"SequenceNumber": "21269319989900637946712965403778482371",
///     "ApproximateArrivalTimestamp": 1.545084650987E9, "Data": "SGVsbG8=", "PartitionKey": "caf\u00e9"}],
///     "MillisBehindLatest": 12, "NextShardIterator": "AAAA"}"#;
/// let page = Page::parse(body.to_vec(), Format::Kinesis)?;
/// let record = page.record(0);
/// assert_eq!(record.key(), "café");
/// assert_eq!(record.arrival_ms(), 1_545_084_650_987);
/// assert_eq!(record.payload()?, b"Hello");
/// assert_eq!(page.trailer().millis_behind, Some(12));
/// # Ok::<(), streamcore::PageError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Page {
    body: Text,
    entries: Vec<Entry>,
    trailer: Trailer,
    format: Format,
    /// Each position is above the one before it.
    ascending: bool,
    /// A record has no sequence number yet.
    unassigned: bool,
}

impl Page {
    /// A page of these records. Their order is looked at here, where their text was read or written just now.
    fn new(body: Text, entries: Vec<Entry>, trailer: Trailer, format: Format) -> Self {
        let mut page = Self {
            body,
            entries,
            trailer,
            format,
            ascending: false,
            unassigned: false,
        };
        page.look_at_order();
        page
    }

    fn look_at_order(&mut self) {
        self.unassigned = self.entries.iter().any(Entry::is_unassigned);
        self.ascending = self
            .entries
            .is_sorted_by(|a, b| self.compare_entries(a, b).is_lt());
    }

    fn compare_entries(&self, a: &Entry, b: &Entry) -> Ordering {
        let [first, second] = [a, b].map(|entry| entry.sequence().of(&self.body));
        compare_sequences(first, second).then(a.sub.cmp(&b.sub))
    }

    /// Read the body of an answer as it came from the wire. The page keeps it and copies nothing, unless a string of it has a backslash.
    ///
    /// Unknown fields are skipped. The last one of fields of the same name counts, but each must have the right type. `Records` must
    /// be there, and in each record the partition key, sequence number, data and arrival time; everything else may be missing or
    /// null. The data must be a string; whether it is base64 is looked at by [`Record::payload`]. An arrival time is epoch seconds
    /// in any form of a JSON number, rounded to the nearest millisecond.
    ///
    /// A record of `DynamoDB` Streams must have `eventName` and `dynamodb`, and that one `Keys`, `SequenceNumber` and
    /// `ApproximateCreationDateTime`, of which the fraction of a second is dropped, as Lambda does. A record without `eventID`, which
    /// AWS always sends and some emulators do not, gets 32 hexadecimal digits made from its sequence number, the same ones each time.
    ///
    /// # Errors
    ///
    /// [`PageError`] says what is wrong with the body and where.
    pub fn parse(body: impl Into<Bytes>, format: Format) -> Result<Self, PageError> {
        Self::parse_with(body, format, |_| {})
    }

    /// The same, with a call for parts of a body of Kinesis some time before they are read: a large body is far from the processor, and a
    /// hint to fetch it is not to be had in safe code.
    ///
    /// # Errors
    ///
    /// See [`Self::parse`].
    pub fn parse_with(
        body: impl Into<Bytes>,
        format: Format,
        fetch_ahead: impl FnMut(&[u8]),
    ) -> Result<Self, PageError> {
        let body = body.into();
        check_size(0, body.len())?;
        let mut decoded = match format {
            Format::Kinesis => decode::kinesis::decode(&body, fetch_ahead)?,
            Format::DynamoDb => decode::dynamodb::decode(&body)?,
        };
        let text = if format == Format::DynamoDb {
            decoded.canonical.shrink_to_fit();
            decoded.canonical.into()
        } else if decoded.canonical.is_empty() {
            Text::Shared(body)
        } else {
            [&*body, &*decoded.canonical].concat().into()
        };
        decoded.entries.shrink_to_fit();
        let mut page = Self {
            body: text,
            entries: decoded.entries,
            trailer: decoded.trailer,
            format,
            ascending: decoded.ascending,
            unassigned: false,
        };
        if !page.ascending {
            page.look_at_order();
        }
        Ok(page)
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Which API the page is an answer of.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// What stood around the records.
    #[must_use]
    pub fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    /// The memory that the page takes, in bytes: what it costs of a budget.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let child_shards = self.trailer.child_shards.iter().map(|child| {
            let parents = child
                .parent_shards
                .iter()
                .map(String::capacity)
                .sum::<usize>();
            size_of::<ChildShard>()
                + child.shard_id.capacity()
                + child.parent_shards.capacity() * size_of::<String>()
                + parents
        });
        size_of::<Self>()
            + self.body.held_bytes()
            + self.entries.capacity() * ENTRY_BYTES
            + self
                .trailer
                .next_iterator
                .as_ref()
                .map_or(0, String::capacity)
            + self
                .trailer
                .continuation
                .as_ref()
                .map_or(0, String::capacity)
            + child_shards.sum::<usize>()
    }

    /// The record at an index.
    ///
    /// # Panics
    ///
    /// If there is no such record.
    #[must_use]
    pub fn record(&self, index: usize) -> Record<'_> {
        Record {
            page: self,
            entry: &self.entries[index],
        }
    }

    /// The records in order.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::PageBuilder;
    ///
    /// let mut builder = PageBuilder::new();
    /// builder.push("a", b"1", 0, Some("7"))?;
    /// builder.push("b", b"2", 0, Some("8"))?;
    /// let keys: Vec<_> = builder.finish().records().map(|record| record.key().into_owned()).collect();
    /// assert_eq!(keys, ["a", "b"]);
    /// # Ok::<(), streamcore::PageError>(())
    /// ```
    #[must_use]
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.entries
            .iter()
            .map(|entry| Record { page: self, entry })
    }

    /// The hash of the key of the record at an index.
    pub(crate) fn key_hash(&self, index: usize) -> u64 {
        self.entries[index].key_hash
    }

    /// The arrival time of the record at an index.
    pub(crate) fn arrival_ms(&self, index: usize) -> i64 {
        self.entries[index].arrival_ms
    }

    /// The sequence number of the record at an index; empty while it has none.
    pub(crate) fn sequence(&self, index: usize) -> &[u8] {
        self.entries[index].sequence().of(&self.body)
    }

    /// The index of the record at an index inside its aggregate.
    pub(crate) fn sub(&self, index: usize) -> u32 {
        self.entries[index].sub
    }

    /// The index of the first record of the page that has the same sequence number as the one at an index. The page's positions must grow.
    pub(crate) fn begin_of_aggregate(&self, index: usize) -> usize {
        if self.entries[index].sub == 0 {
            return index;
        }
        let own = self.sequence(index);
        self.entries[..index].partition_point(|entry| {
            compare_sequences(entry.sequence().of(&self.body), own).is_lt()
        })
    }

    /// What the record at an index adds to an event beside the constant parts.
    pub(crate) fn event_bytes(&self, index: usize) -> u32 {
        self.record(index).event_bytes()
    }

    /// What each record adds to an event beside the constant parts.
    pub(crate) fn all_event_bytes(&self) -> impl Iterator<Item = u32> {
        self.records().map(|record| record.event_bytes())
    }

    /// The position of the record at an index.
    ///
    /// # Panics
    ///
    /// If the record has no sequence number yet.
    pub(crate) fn position(&self, index: usize) -> Position {
        let entry = &self.entries[index];
        let digits = entry.sequence().of(&self.body);
        assert!(!digits.is_empty(), "record {index} has no position");
        Position::new(digits, entry.sub)
    }

    /// Whether a record has no sequence number yet. Only pages of [`PageBuilder`] can have such records.
    #[must_use]
    pub fn has_unassigned(&self) -> bool {
        self.unassigned
    }

    /// Whether every record has a sequence number, and each position is above the one before it.
    pub(crate) fn is_ascending(&self) -> bool {
        self.ascending && !self.unassigned
    }

    /// Give each record without a sequence number the successor of the highest one before it, which for the first is `after`, or 0.
    ///
    /// # Errors
    ///
    /// [`PositionError::NoSuccessor`] after a number of 129 nines; the page is unchanged then.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::{PageBuilder, SequenceNumber};
    ///
    /// let mut builder = PageBuilder::new();
    /// builder.push("a", b"1", 0, None).unwrap();
    /// builder.push("a", b"2", 0, Some("70")).unwrap();
    /// builder.push("a", b"3", 0, None).unwrap();
    /// let mut page = builder.finish();
    /// page.assign_sequences(Some(&SequenceNumber::parse("41")?))?;
    /// let numbers: Vec<_> = page.records().map(|record| record.sequence().to_owned()).collect();
    /// assert_eq!(numbers, ["42", "70", "71"]);
    /// # Ok::<(), streamcore::PositionError>(())
    /// ```
    pub fn assign_sequences(
        &mut self,
        after: Option<&SequenceNumber>,
    ) -> Result<(), PositionError> {
        let body_bytes = self.body.len();
        let result = self.try_assign_sequences(after);
        if result.is_err() {
            for entry in &mut self.entries {
                if entry.sequence_start as usize >= body_bytes {
                    entry.set_sequence(Span::new(0, 0));
                }
            }
            self.body.to_mut().truncate(body_bytes);
        }
        self.look_at_order();
        result
    }

    fn try_assign_sequences(
        &mut self,
        after: Option<&SequenceNumber>,
    ) -> Result<(), PositionError> {
        let mut previous = after.map_or_else(|| "0".to_owned(), |after| after.as_str().to_owned());
        let mut next = String::new();
        for entry in &mut self.entries {
            if !entry.is_unassigned() {
                let own = entry.sequence().text(&self.body);
                // A number that was taken in before is a duplicate; what follows it is not, and must not look like one.
                if compare_sequences(own.as_bytes(), previous.as_bytes()).is_gt() {
                    previous.clear();
                    previous.push_str(own);
                }
                continue;
            }
            next.clear();
            write_successor(&previous, &mut next);
            if next.len() > SEQUENCE_DIGITS_MAX {
                return Err(PositionError::NoSuccessor {
                    max: SEQUENCE_DIGITS_MAX,
                });
            }
            let start = self.body.len();
            self.body.to_mut().extend_from_slice(next.as_bytes());
            entry.set_sequence(Span::new(start, self.body.len()));
            std::mem::swap(&mut previous, &mut next);
        }
        Ok(())
    }

    /// A page with only the records at these indices, in this order, and no byte more than they need. The trailer is empty.
    ///
    /// # Panics
    ///
    /// If there is no record at an index, or if the records together have more than [`PAGE_BYTES_MAX`] bytes, which takes an index
    /// that occurs twice.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::PageBuilder;
    ///
    /// let mut builder = PageBuilder::new();
    /// builder.push("a", &[0; 1_000], 0, Some("7"))?;
    /// builder.push("b", b"2", 0, Some("8"))?;
    /// let page = builder.finish();
    /// let small = page.compact(&[1]);
    /// assert_eq!(small.record(0).key(), "b");
    /// assert!(small.held_bytes() + 1_000 < page.held_bytes());
    /// # Ok::<(), streamcore::PageError>(())
    /// ```
    #[must_use]
    pub fn compact(&self, live: &[u32]) -> Self {
        let mut page = Self::gather(live.iter().map(|index| (self, *index)));
        page.format = self.format;
        page
    }

    /// A page with only the records that arrived at an instant or later; None where all did. The trailer is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::PageBuilder;
    ///
    /// let mut builder = PageBuilder::new();
    /// builder.push("a", b"1", 1_000, Some("7"))?;
    /// builder.push("b", b"2", 2_000, Some("8"))?;
    /// let page = builder.finish();
    /// assert_eq!(page.arrived_since(2_000).unwrap().record(0).key(), "b");
    /// assert!(page.arrived_since(1_000).is_none());
    /// # Ok::<(), streamcore::PageError>(())
    /// ```
    #[must_use]
    pub fn arrived_since(&self, instant_ms: i64) -> Option<Self> {
        let arrived: Vec<u32> = (0_u32..)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.arrival_ms >= instant_ms)
            .map(|(index, _)| index)
            .collect();
        (arrived.len() < self.len()).then(|| self.compact(&arrived))
    }

    /// A fresh page with only the records up to and including a sequence number. The trailer is empty.
    ///
    /// The page's sequence numbers must grow. The last one kept may be any: there need not be a record that has it.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::{PageBuilder, SequenceNumber};
    ///
    /// let mut builder = PageBuilder::new();
    /// builder.push("a", b"1", 1_000, Some("9"))?;
    /// builder.push("b", b"2", 2_000, Some("11"))?;
    /// let page = builder.finish();
    /// assert_eq!(page.up_to(&SequenceNumber::parse("10")?).len(), 1);
    /// assert_eq!(page.up_to(&SequenceNumber::parse("11")?).len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn up_to(&self, last: &SequenceNumber) -> Self {
        let kept = self.entries.partition_point(|entry| {
            let sequence = entry.sequence().of(&self.body);
            compare_sequences(sequence, last.as_str().as_bytes()).is_le()
        });
        let kept: Vec<u32> = (0_u32..).take(kept).collect();
        self.compact(&kept)
    }

    /// A fresh page with these records of any pages of one format, in this order.
    pub(crate) fn gather<'a>(records: impl Iterator<Item = (&'a Self, u32)>) -> Self {
        let moved: Vec<(&Self, &Entry)> = records
            .map(|(page, index)| (page, &page.entries[index as usize]))
            .collect();
        // Records of an aggregate share their sequence number and keys, here as in the page that they come from: written out for each
        // record, they could take many times the memory.
        let mut moved_spans: HashMap<(*const Self, Span), Span> = HashMap::new();
        let own_bytes = |entry: &Entry| match entry.sub {
            0 => {
                entry.key().bytes as usize
                    + entry.sequence().bytes as usize
                    + entry.data.bytes as usize
            }
            _ => entry.data.bytes as usize,
        };
        let capacity = moved.iter().map(|(_, entry)| own_bytes(entry)).sum();
        let mut body = Vec::with_capacity(capacity);
        let mut entries = Vec::with_capacity(moved.len());
        for (page, entry) in &moved {
            let mut append = |span: Span, shares: bool| {
                let from = (std::ptr::from_ref(*page), span);
                if let Some(known) = shares.then(|| moved_spans.get(&from)).flatten() {
                    return *known;
                }
                let start = body.len();
                assert!(
                    start + span.bytes as usize <= PAGE_BYTES_MAX,
                    "the records have more bytes than a page holds"
                );
                body.extend_from_slice(span.of(&page.body));
                let own = Span::new(start, body.len());
                if shares {
                    moved_spans.insert(from, own);
                }
                own
            };
            let shares = entry.sub > 0;
            let (key, sequence, data) = (
                append(entry.key(), shares),
                append(entry.sequence(), shares),
                append(entry.data, false),
            );
            entries.push(Entry {
                sub: entry.sub,
                ..Entry::new(key, sequence, data, entry.arrival_ms, entry.key_hash)
            });
        }
        body.shrink_to_fit();
        let format = moved
            .first()
            .map_or(Format::Kinesis, |(page, _)| page.format);
        Self::new(body.into(), entries, Trailer::default(), format)
    }
}
