//! The body of a `GetRecords` answer of `DynamoDB` Streams (Amazon `DynamoDB` API reference, `streams_GetRecords`).
//!
//! An event repeats the `dynamodb` object of the record as it came, but for `ApproximateCreationDateTime`, which Lambda gives in whole
//! seconds. So the text of a page is written here in the form of the event, and the body is dropped: for each record a head (the ids,
//! up to where the region stands) and the data (from behind the region to the end of the `dynamodb` object). Strings with a backslash
//! are written in canonical form, everything else as it came.

use std::borrow::Cow;

use crate::decode::{Decoded, integer, literal, missing, string, typed};
use crate::error::PageError;
use crate::json::{Scanner, Text};
use crate::lanes::{KeyAttribute, KeyType, dynamodb_key_bytes, key_hash};
use crate::page::{Entry, Span, check_arrival, check_size};
use crate::position::check_sequence;

type Result<T> = std::result::Result<T, PageError>;

/// What stands before the `dynamodb` object in the data of a record: it closes the region.
pub(crate) const DATA_PREFIX: &str = r#"","dynamodb":"#;

/// Find the records; the text of the page is `canonical` alone.
pub(crate) fn decode(body: &str) -> Result<Decoded> {
    let mut decoded = Decoded::default();
    decoded.canonical.reserve(body.len());
    let mut has_records = false;
    let mut scanner = Scanner::new(body);
    let start = scanner.object(|scanner, name| match &*scanner.value(name)? {
        "Records" => {
            has_records = true;
            decoded.entries.clear();
            decoded.canonical.clear();
            typed(scanner, b'[', "Records", "an array")?;
            scanner.array(|scanner| {
                let entry = record(scanner, &mut decoded.canonical)?;
                decoded.entries.push(entry);
                Ok(())
            })
        }
        "NextShardIterator" => {
            decoded.trailer.next_iterator = if scanner.null()? {
                None
            } else {
                Some(string(scanner, "NextShardIterator")?)
            };
            Ok(())
        }
        _ => scanner.skip(),
    })?;
    scanner.end()?;
    if !has_records {
        return Err(missing(start, "Records"));
    }
    Ok(decoded)
}

/// What the `dynamodb` object of a record says.
struct Change {
    /// Where the data stands in the text of the page.
    data: (usize, usize),
    sequence: (usize, usize),
    arrival_ms: i64,
    key_hash: u64,
}

fn record(scanner: &mut Scanner<'_>, out: &mut String) -> Result<Entry> {
    let (mut id, mut event_name, mut identity, mut change) = (None, None, None, None);
    typed(scanner, b'{', "a record", "an object")?;
    let start = scanner.object(|scanner, name| {
        match &*scanner.value(name)? {
            "eventID" => id = Some(literal(scanner, "eventID")?),
            "eventName" => event_name = Some(literal(scanner, "eventName")?),
            "dynamodb" => change = Some(self::change(scanner, out)?),
            "userIdentity" => {
                identity = if scanner.null()? {
                    None
                } else {
                    Some(user_identity(scanner)?)
                };
            }
            _ => scanner.skip()?,
        }
        Ok(())
    })?;
    let id = id.ok_or_else(|| missing(start, "eventID"))?;
    let event_name = event_name.ok_or_else(|| missing(start, "eventName"))?;
    let change: Change = change.ok_or_else(|| missing(start, "dynamodb"))?;

    let head = out.len();
    out.push_str(r#"{"eventID":"#);
    scanner.write_string(id, out)?;
    out.push_str(r#","eventName":"#);
    scanner.write_string(event_name, out)?;
    out.push_str(r#","eventVersion":"1.1","eventSource":"aws:dynamodb""#);
    if let Some((kind, principal)) = identity {
        // Lambda's events have lower camel keys here, unlike the stream's own records.
        out.push_str(r#","userIdentity":{"type":"#);
        scanner.write_string(kind, out)?;
        out.push_str(r#","principalId":"#);
        scanner.write_string(principal, out)?;
        out.push('}');
    }
    out.push_str(r#","awsRegion":""#);
    check_size(start, out.len())?;
    if out.len() - head >= 1 << 24 {
        return Err(PageError::TooLarge {
            offset: start,
            bytes: out.len() - head,
            max: (1 << 24) - 1,
        });
    }
    Ok(Entry::new(
        Span::new(head, out.len()),
        Span::new(change.sequence.0, change.sequence.1),
        Span::new(change.data.0, change.data.1),
        change.arrival_ms,
        change.key_hash,
    ))
}

/// The `dynamodb` object, written member by member in the order in which they came.
fn change(scanner: &mut Scanner<'_>, out: &mut String) -> Result<Change> {
    let data = out.len();
    out.push_str(DATA_PREFIX);
    out.push('{');
    let (mut hash, mut sequence, mut arrival) = (None, None, None);
    let mut first = true;
    typed(scanner, b'{', "dynamodb", "an object")?;
    let start = scanner.object(|scanner, name| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        scanner.write_string(name, out)?;
        out.push(':');
        let (_, value) = scanner.peek("a value")?;
        match &*scanner.value(name)? {
            "ApproximateCreationDateTime" => {
                let arrival_ms = integer(scanner, "ApproximateCreationDateTime", 3)?;
                check_arrival(value, arrival_ms)?;
                let seconds = arrival_ms.div_euclid(1000);
                out.push_str(itoa::Buffer::new().format(seconds));
                arrival = Some(seconds * 1000);
            }
            "SequenceNumber" => {
                let text = literal(scanner, "SequenceNumber")?;
                check_sequence(&scanner.value(text)?).map_err(|reason| {
                    PageError::BadSequenceNumber {
                        offset: text.start,
                        reason,
                    }
                })?;
                out.push('"');
                let at = out.len();
                out.push_str(&scanner.value(text)?);
                sequence = Some((at, out.len()));
                out.push('"');
            }
            "Keys" => {
                hash = Some(keys(scanner)?);
                scanner.write_since(value, out)?;
            }
            _ => {
                scanner.skip()?;
                scanner.write_since(value, out)?;
            }
        }
        Ok(())
    })?;
    out.push('}');
    check_size(start, out.len())?;
    Ok(Change {
        data: (data, out.len()),
        sequence: sequence.ok_or_else(|| missing(start, "SequenceNumber"))?,
        arrival_ms: arrival.ok_or_else(|| missing(start, "ApproximateCreationDateTime"))?,
        key_hash: hash.ok_or_else(|| missing(start, "Keys"))?,
    })
}

/// The hash of an item's key, from `{"Id":{"N":"101"},...}`.
fn keys(scanner: &mut Scanner<'_>) -> Result<u64> {
    let mut attributes: Vec<(Cow<'_, str>, KeyType, Cow<'_, str>)> = Vec::with_capacity(2);
    typed(scanner, b'{', "Keys", "an object")?;
    let start = scanner.object(|scanner, name| {
        let attribute = scanner.value(name)?;
        typed(scanner, b'{', "a key attribute", "an object")?;
        let mut typed_value = None;
        let at = scanner.object(|scanner, kind| {
            let (_, offset) = scanner.peek("a value")?;
            let kind = match &*scanner.value(kind)? {
                "S" => KeyType::S,
                "N" => KeyType::N,
                "B" => KeyType::B,
                _ => {
                    return Err(PageError::BadKey {
                        offset,
                        reason: None,
                    });
                }
            };
            let value = literal(scanner, "a key attribute")?;
            typed_value = Some((kind, scanner.value(value)?));
            Ok(())
        })?;
        let (kind, value) = typed_value.ok_or(PageError::BadKey {
            offset: at,
            reason: None,
        })?;
        attributes.push((attribute, kind, value));
        Ok(())
    })?;
    let attributes: Vec<_> = attributes
        .iter()
        .map(|(name, kind, value)| KeyAttribute {
            name,
            kind: *kind,
            value,
        })
        .collect();
    let bytes = dynamodb_key_bytes(&attributes).map_err(|reason| PageError::BadKey {
        offset: start,
        reason: Some(reason),
    })?;
    Ok(key_hash(&bytes))
}

/// `{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service"}`: who deleted the item, when it was not a caller.
fn user_identity(scanner: &mut Scanner<'_>) -> Result<(Text, Text)> {
    let (mut kind, mut principal) = (None, None);
    typed(scanner, b'{', "userIdentity", "an object")?;
    let start = scanner.object(|scanner, name| {
        match &*scanner.value(name)? {
            "Type" | "type" => kind = Some(literal(scanner, "Type")?),
            "PrincipalId" | "principalId" => principal = Some(literal(scanner, "PrincipalId")?),
            _ => scanner.skip()?,
        }
        Ok(())
    })?;
    Ok((
        kind.ok_or_else(|| missing(start, "Type"))?,
        principal.ok_or_else(|| missing(start, "PrincipalId"))?,
    ))
}
