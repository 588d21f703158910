//! One record of a page, and what can be read from it.

use std::borrow::Cow;

use base64::DecodeError;
use base64::Engine as _;

use super::{Entry, Format, Page};
use crate::codec::{self, STANDARD};
use crate::decode;
use crate::error::PageError;
use crate::event;
use crate::json;

/// One record of a page. Copying it copies two references.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub(super) page: &'a Page,
    pub(super) entry: &'a Entry,
}

/// Texts of a record as bytes, see [`Record::as_bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordBytes<'a> {
    /// See [`Record::key_json`].
    pub key_json: &'a [u8],
    /// See [`Record::sequence`].
    pub sequence: &'a [u8],
    /// See [`Record::data_base64`].
    pub data_base64: &'a [u8],
}

impl<'a> Record<'a> {
    /// The partition key; empty for a record of `DynamoDB` Streams. Borrowed unless it has a quote, a backslash or a control
    /// character.
    #[must_use]
    pub fn key(&self) -> Cow<'a, str> {
        match self.page.format {
            Format::Kinesis => json::unescape_canonical(self.entry.key().of(&self.page.body)),
            Format::DynamoDb => Cow::Borrowed(""),
        }
    }

    /// The partition key in the canonical form of a JSON string, without the quotes.
    #[must_use]
    pub fn key_json(&self) -> &'a str {
        match self.page.format {
            Format::Kinesis => self.entry.key().text(&self.page.body),
            Format::DynamoDb => "",
        }
    }

    /// The hash of the key, from which [`lane`](crate::lane) makes the lane.
    #[must_use]
    pub fn key_hash(&self) -> u64 {
        self.entry.key_hash
    }

    /// The sequence number, as it came; empty while the record has none.
    #[must_use]
    pub fn sequence(&self) -> &'a str {
        self.entry.sequence().text(&self.page.body)
    }

    /// The index inside an aggregate; 0 for a plain record.
    #[must_use]
    pub fn sub(&self) -> u32 {
        self.entry.sub
    }

    /// The arrival time, in milliseconds since the epoch.
    #[must_use]
    pub fn arrival_ms(&self) -> i64 {
        self.entry.arrival_ms
    }

    /// The `dynamodb` object of a record of `DynamoDB` Streams as JSON, as events have it; None for a record of Kinesis.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::{Format, Page};
    ///
    /// let body = br#"{"Records": [{"eventID": "7de3041dd709b024af6f29e4fa13d34c", "eventName": "REMOVE", "dynamodb": {
    ///     "ApproximateCreationDateTime": 1.479499740E9, "Keys": {"Id": {"N": "101"}},
    ///     "SequenceNumber": "13021600000000001596893679", "SizeBytes": 26, "StreamViewType": "KEYS_ONLY"}}]}"#;
    /// let page = Page::parse(body.to_vec(), Format::DynamoDb)?;
    /// assert_eq!(
    ///     page.record(0).dynamodb_json(),
    ///     Some(concat!(
    ///         r#"{"ApproximateCreationDateTime":1479499740,"Keys":{"Id":{"N":"101"}},"#,
    ///         r#""SequenceNumber":"13021600000000001596893679","SizeBytes":26,"StreamViewType":"KEYS_ONLY"}"#,
    ///     ))
    /// );
    /// # Ok::<(), streamcore::PageError>(())
    /// ```
    #[must_use]
    pub fn dynamodb_json(&self) -> Option<&'a str> {
        let object = self.dynamodb_object()?;
        Some(str::from_utf8(object).expect("the text of a page is UTF-8"))
    }

    pub(crate) fn dynamodb_object(&self) -> Option<&'a [u8]> {
        match self.page.format {
            Format::Kinesis => None,
            Format::DynamoDb => self
                .dynamodb_data()
                .get(decode::dynamodb::DATA_PREFIX.len()..),
        }
    }

    /// The `eventID` and the `eventName` of a record of `DynamoDB` Streams; None for a record of Kinesis.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::{Format, Page};
    ///
    /// let body = br#"{"Records": [{"eventID": "7de3041dd709b024af6f29e4fa13d34c", "eventName": "REMOVE", "dynamodb": {
    ///     "ApproximateCreationDateTime": 1.479499740E9, "Keys": {"Id": {"N": "101"}},
    ///     "SequenceNumber": "13021600000000001596893679", "SizeBytes": 26, "StreamViewType": "KEYS_ONLY"}}]}"#;
    /// let page = Page::parse(body.to_vec(), Format::DynamoDb)?;
    /// let (id, name) = page.record(0).dynamodb_event().expect("it is such a record");
    /// assert_eq!((&*id, &*name), ("7de3041dd709b024af6f29e4fa13d34c", "REMOVE"));
    /// # Ok::<(), streamcore::PageError>(())
    /// ```
    #[must_use]
    pub fn dynamodb_event(&self) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
        match self.page.format {
            Format::Kinesis => None,
            Format::DynamoDb => Some(decode::dynamodb::id_and_name(self.dynamodb_head())),
        }
    }

    /// What stands before the region in the event of a record of `DynamoDB` Streams.
    pub(crate) fn dynamodb_head(&self) -> &'a [u8] {
        self.entry.key().of(&self.page.body)
    }

    /// What stands behind it.
    pub(crate) fn dynamodb_data(&self) -> &'a [u8] {
        self.entry.data.of(&self.page.body)
    }

    /// The data with what stands behind them: there AWS writes the key and the sequence number.
    #[inline]
    pub(crate) fn data_and_behind(&self) -> &'a [u8] {
        // Names, quotes and commas between them.
        const BETWEEN: usize = 48;
        let texts = [self.entry.data, self.entry.key(), self.entry.sequence()];
        let bytes = texts
            .iter()
            .fold(BETWEEN, |sum, text| sum + text.bytes as usize);
        let (body, start) = (&*self.page.body, self.entry.data.start as usize);
        &body[start..body.len().min(start + bytes)]
    }

    /// The data of either API as they stand in the page.
    pub(crate) fn data_text(&self) -> &'a [u8] {
        self.entry.data.of(&self.page.body)
    }

    /// The data in the canonical form of a JSON string, without the quotes; empty for a record of `DynamoDB` Streams. For data that
    /// is base64 this is the base64 text.
    #[must_use]
    pub fn data_base64(&self) -> &'a str {
        match self.page.format {
            Format::Kinesis => self.entry.data.text(&self.page.body),
            Format::DynamoDb => "",
        }
    }

    /// The key, the sequence number and the data as bytes. [`Self::key_json`], [`Self::sequence`] and [`Self::data_base64`] look at
    /// each byte, to give a text; whoever copies or compares need not.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::PageBuilder;
    ///
    /// let mut builder = PageBuilder::new();
    /// builder.push("a", b"Hello", 0, Some("7"))?;
    /// let page = builder.finish();
    /// let texts = page.record(0).as_bytes();
    /// assert_eq!((texts.key_json, texts.sequence, texts.data_base64), (&b"a"[..], &b"7"[..], &b"SGVsbG8="[..]));
    /// # Ok::<(), streamcore::PageError>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> RecordBytes<'a> {
        let body = &*self.page.body;
        let (key_json, data_base64) = match self.page.format {
            Format::Kinesis => (self.entry.key().of(body), self.entry.data.of(body)),
            Format::DynamoDb => (&[][..], &[][..]),
        };
        RecordBytes {
            key_json,
            sequence: self.entry.sequence().of(body),
            data_base64,
        }
    }

    /// The decoded data; for a record of `DynamoDB` Streams the JSON text of its `dynamodb` object.
    ///
    /// # Errors
    ///
    /// [`PageError::BadBase64`] if the data is not base64 in the standard alphabet with padding.
    pub fn payload(&self) -> Result<Vec<u8>, PageError> {
        let mut out = Vec::new();
        self.payload_into(&mut out)?;
        Ok(out)
    }

    /// Append the decoded data.
    ///
    /// # Errors
    ///
    /// [`PageError::BadBase64`] as [`payload`](Self::payload); nothing is appended then.
    pub fn payload_into(&self, out: &mut Vec<u8>) -> Result<(), PageError> {
        if let Some(object) = self.dynamodb_object() {
            out.extend_from_slice(object);
            return Ok(());
        }
        let length = out.len();
        STANDARD
            .decode_vec(self.as_bytes().data_base64, out)
            .map_err(|error| {
                out.truncate(length);
                bad_base64(&error, self.as_bytes().data_base64.len())
            })
    }

    /// The decoded data of a record of Kinesis, in memory that is used again; None if it is not base64.
    pub(crate) fn payload_in<'m>(&self, memory: &'m mut Vec<u8>) -> Option<&'m [u8]> {
        codec::decode(self.data_text(), memory)
    }

    /// The bytes that the record adds to an event beside the constant parts, which
    /// [`EventTemplate::record_bytes`](crate::EventTemplate::record_bytes) counts.
    #[must_use]
    pub fn event_bytes(&self) -> u32 {
        match self.page.format {
            Format::Kinesis => {
                let sequence = self.entry.sequence().bytes;
                self.entry.key().bytes
                    + 2 * sequence
                    + self.entry.data.bytes
                    + event::seconds_bytes(self.entry.arrival_ms)
            }
            Format::DynamoDb => self.entry.key().bytes + self.entry.data.bytes,
        }
    }
}

#[cold]
fn bad_base64(error: &DecodeError, length: usize) -> PageError {
    let offset = match *error {
        DecodeError::InvalidByte(offset, _) | DecodeError::InvalidLastSymbol { offset, .. } => {
            offset
        }
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => length,
    };
    PageError::BadBase64 { offset }
}
