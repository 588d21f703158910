//! The body of a `GetRecords` answer of `DynamoDB` Streams (Amazon `DynamoDB` API reference, `streams_GetRecords`).
//!
//! An event repeats the `dynamodb` object of the record as it came, but for `ApproximateCreationDateTime`, which Lambda gives in whole
//! seconds. So the text of a page is written here in the form of the event, and the body is dropped: for each record a head (the ids,
//! up to where the region stands) and the data (from behind the region to the end of the `dynamodb` object). White space is left out
//! and strings with a backslash are written in canonical form; everything else stays as it came, unknown members and their order too.

use std::borrow::Cow;
use std::io::Write;

use xxhash_rust::xxh3::xxh3_128;

use crate::decode::{Decoded, check_utf8, integer, literal, missing, nullable, string, typed};
use crate::error::PageError;
use crate::json::{Scanner, Text, unescape_canonical};
use crate::lanes::{KeyAttribute, KeyType, key_hash, write_key_bytes};
use crate::page::{Entry, Span, check_arrival, check_size};
use crate::position::check_sequence;

type Result<T> = std::result::Result<T, PageError>;

/// What stands before the `dynamodb` object in the data of a record: it closes the region.
pub(crate) const DATA_PREFIX: &[u8] = br#"","dynamodb":"#;
/// What a head begins with, in front of the literal that is the id.
const ID: &[u8] = br#"{"eventID":"#;
/// What stands between the id and the name.
const NAME: &[u8] = br#","eventName":"#;
/// The most bytes of a record's head: its length has 24 bits.
const HEAD_BYTES_MAX: usize = (1 << 24) - 1;

/// Find the records; the text of the page is `canonical` alone.
pub(crate) fn decode(body: &[u8]) -> Result<Decoded> {
    check_utf8(body, 0)?;
    let mut records = Records::default();
    records.out.reserve(body.len());
    let mut decoded = Decoded::default();
    let mut has_records = false;
    let mut scanner = Scanner::new(body);
    let start = scanner.object(|scanner, name| match &*scanner.value_bytes(name)? {
        b"Records" => {
            has_records = true;
            decoded.entries.clear();
            records.out.clear();
            typed(scanner, b'[', "Records", "an array")?;
            scanner.array(|scanner| {
                decoded.entries.push(records.record(scanner)?);
                Ok(())
            })
        }
        b"NextShardIterator" => {
            decoded.trailer.next_iterator =
                nullable(scanner, |scanner| string(scanner, "NextShardIterator"))?;
            Ok(())
        }
        _ => scanner.skip(),
    })?;
    scanner.end()?;
    if !has_records {
        return Err(missing(start, "Records"));
    }
    decoded.canonical = records.out;
    Ok(decoded)
}

/// The `eventID` and the `eventName` of a head.
pub(crate) fn id_and_name(head: &[u8]) -> (Cow<'_, str>, Cow<'_, str>) {
    let (id, behind) = leading_literal(&head[ID.len()..]);
    let (name, _) = leading_literal(&behind[NAME.len()..]);
    (id, name)
}

/// The text of the literal in canonical form that a text begins with, and what stands behind it.
fn leading_literal(text: &[u8]) -> (Cow<'_, str>, &[u8]) {
    let mut end = 1;
    while text[end] != b'"' {
        end += if text[end] == b'\\' { 2 } else { 1 };
    }
    (unescape_canonical(&text[1..end]), &text[end + 1..])
}

/// A key attribute as it stands in the body.
type Attribute<'a> = (Cow<'a, str>, KeyType, Cow<'a, str>);

/// Writes the text of the page. The two vectors are used for each record anew, so that none allocates.
#[derive(Default)]
struct Records<'a> {
    out: Vec<u8>,
    attributes: Vec<Attribute<'a>>,
    key_bytes: Vec<u8>,
}

/// What the `dynamodb` object of a record says.
struct Change {
    data: Span,
    sequence: Span,
    arrival_ms: i64,
    key_hash: u64,
}

impl<'a> Records<'a> {
    fn record(&mut self, scanner: &mut Scanner<'a>) -> Result<Entry> {
        let (mut id, mut event_name, mut identity, mut change) = (None, None, None, None);
        typed(scanner, b'{', "a record", "an object")?;
        let start = scanner.object(|scanner, name| {
            match &*scanner.value_bytes(name)? {
                b"eventID" => id = nullable(scanner, |scanner| literal(scanner, "eventID"))?,
                b"eventName" => event_name = Some(literal(scanner, "eventName")?),
                b"dynamodb" => change = Some(self.change(scanner)?),
                b"userIdentity" => identity = nullable(scanner, user_identity)?,
                _ => scanner.skip()?,
            }
            Ok(())
        })?;
        let event_name = event_name.ok_or_else(|| missing(start, "eventName"))?;
        let change = change.ok_or_else(|| missing(start, "dynamodb"))?;

        let head = self.out.len();
        self.out.extend_from_slice(ID);
        match id {
            Some(id) => scanner.write_string(id, &mut self.out)?,
            None => self.write_made_id(change.sequence),
        }
        let out = &mut self.out;
        out.extend_from_slice(NAME);
        scanner.write_string(event_name, out)?;
        out.extend_from_slice(br#","eventVersion":"1.1","eventSource":"aws:dynamodb""#);
        if let Some((kind, principal)) = identity {
            // Lambda's events have lower camel keys here, unlike the stream's own records.
            out.extend_from_slice(br#","userIdentity":{"type":"#);
            scanner.write_string(kind, out)?;
            out.extend_from_slice(br#","principalId":"#);
            scanner.write_string(principal, out)?;
            out.push(b'}');
        }
        out.extend_from_slice(br#","awsRegion":""#);
        check_size(start, out.len())?;
        let bytes = out.len() - head;
        if bytes > HEAD_BYTES_MAX {
            return Err(PageError::TooLarge {
                offset: start,
                bytes,
                max: HEAD_BYTES_MAX,
            });
        }
        Ok(Entry::new(
            Span::new(head, out.len()),
            change.sequence,
            change.data,
            change.arrival_ms,
            change.key_hash,
        ))
    }

    /// The id of a record that came without one: the same for the same sequence number.
    #[cold]
    fn write_made_id(&mut self, sequence: Span) {
        let id = xxh3_128(sequence.of(&self.out));
        let _ = write!(self.out, "\"{id:032x}\"");
    }

    /// The `dynamodb` object, written member by member in the order in which they came.
    fn change(&mut self, scanner: &mut Scanner<'a>) -> Result<Change> {
        let data = self.out.len();
        self.out.extend_from_slice(DATA_PREFIX);
        self.out.push(b'{');
        let (mut hash, mut sequence, mut arrival) = (None, None, None);
        let mut comma = false;
        typed(scanner, b'{', "dynamodb", "an object")?;
        let start = scanner.object(|scanner, name| {
            if std::mem::replace(&mut comma, true) {
                self.out.push(b',');
            }
            scanner.write_string(name, &mut self.out)?;
            self.out.push(b':');
            match &*scanner.value_bytes(name)? {
                b"ApproximateCreationDateTime" => {
                    const FIELD: &str = "ApproximateCreationDateTime";
                    let (_, offset) = scanner.peek("a number")?;
                    let arrival_ms = integer(scanner, FIELD, 3)?;
                    check_arrival(offset, FIELD, arrival_ms)?;
                    let seconds = arrival_ms.div_euclid(1000);
                    let mut digits = itoa::Buffer::new();
                    self.out
                        .extend_from_slice(digits.format(seconds).as_bytes());
                    arrival = Some(seconds * 1000);
                }
                b"SequenceNumber" => {
                    let text = literal(scanner, "SequenceNumber")?;
                    let digits = scanner.value(text)?;
                    check_sequence(&digits).map_err(|reason| PageError::BadSequenceNumber {
                        offset: text.start,
                        reason,
                    })?;
                    self.out.push(b'"');
                    let at = self.out.len();
                    self.out.extend_from_slice(digits.as_bytes());
                    check_size(text.start, self.out.len())?;
                    sequence = Some(Span::new(at, self.out.len()));
                    self.out.push(b'"');
                }
                b"Keys" => {
                    let (attributes, key_bytes) = (&mut self.attributes, &mut self.key_bytes);
                    hash = Some(scanner.copy(&mut self.out, |scanner| {
                        hash_of_keys(scanner, attributes, key_bytes)
                    })?);
                }
                _ => scanner.copy(&mut self.out, Scanner::skip)?,
            }
            Ok(())
        })?;
        self.out.push(b'}');
        check_size(start, self.out.len())?;
        Ok(Change {
            data: Span::new(data, self.out.len()),
            sequence: sequence.ok_or_else(|| missing(start, "SequenceNumber"))?,
            arrival_ms: arrival.ok_or_else(|| missing(start, "ApproximateCreationDateTime"))?,
            key_hash: hash.ok_or_else(|| missing(start, "Keys"))?,
        })
    }
}

/// The hash of an item's key, from `{"Id":{"N":"101"},...}`.
fn hash_of_keys<'a>(
    scanner: &mut Scanner<'a>,
    attributes: &mut Vec<Attribute<'a>>,
    key_bytes: &mut Vec<u8>,
) -> Result<u64> {
    attributes.clear();
    typed(scanner, b'{', "Keys", "an object")?;
    let start = scanner.object(|scanner, name| {
        let name = scanner.value(name)?;
        let (kind, value) = key_value(scanner)?;
        // The last one of members of the same name counts.
        attributes.retain(|(other, ..)| *other != name);
        attributes.push((name, kind, value));
        Ok(())
    })?;
    if attributes.is_empty() {
        return Err(bad_key(start));
    }
    attributes.sort_unstable_by(|(name, ..), (other, ..)| name.cmp(other));
    key_bytes.clear();
    for (name, kind, value) in &*attributes {
        let attribute = KeyAttribute {
            name,
            kind: *kind,
            value,
        };
        write_key_bytes(attribute, key_bytes).map_err(|reason| PageError::BadKey {
            offset: start,
            reason: Some(reason),
        })?;
    }
    Ok(key_hash(key_bytes))
}

/// `{"N":"101"}`.
fn key_value<'a>(scanner: &mut Scanner<'a>) -> Result<(KeyType, Cow<'a, str>)> {
    let mut typed_value = None;
    typed(scanner, b'{', "a key attribute", "an object")?;
    let start = scanner.object(|scanner, kind| {
        let at = kind.start;
        let kind = match &*scanner.value_bytes(kind)? {
            b"S" => KeyType::S,
            b"N" => KeyType::N,
            b"B" => KeyType::B,
            _ => return Err(bad_key(at)),
        };
        let value = literal(scanner, "a key attribute")?;
        typed_value = Some((kind, scanner.value(value)?));
        Ok(())
    })?;
    typed_value.ok_or_else(|| bad_key(start))
}

#[cold]
fn bad_key(offset: usize) -> PageError {
    PageError::BadKey {
        offset,
        reason: None,
    }
}

/// `{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service"}`: who deleted the item, when it was not a caller.
fn user_identity(scanner: &mut Scanner<'_>) -> Result<(Text, Text)> {
    let (mut kind, mut principal) = (None, None);
    typed(scanner, b'{', "userIdentity", "an object")?;
    let start = scanner.object(|scanner, name| {
        match &*scanner.value_bytes(name)? {
            b"Type" | b"type" => kind = Some(literal(scanner, "Type")?),
            b"PrincipalId" | b"principalId" => principal = Some(literal(scanner, "PrincipalId")?),
            _ => scanner.skip()?,
        }
        Ok(())
    })?;
    Ok((
        kind.ok_or_else(|| missing(start, "Type"))?,
        principal.ok_or_else(|| missing(start, "PrincipalId"))?,
    ))
}
