//! Which lane a record goes to: lane function v1.
//!
//! A lane is the high bits of the xxh3-64 hash of the record's key bytes, times `ParallelizationFactor`. Checkpoints hold one mark
//! per lane, so the function never changes; another one would be version 2. It does not know records or pages.

use base64::Engine as _;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::codec::STANDARD;

/// The version of the functions in this module. Checkpoints carry it.
pub const LANE_FUNCTION_VERSION: u16 = 1;

/// Powers of ten that a number in a key may have; Amazon `DynamoDB` itself allows -130 to 125.
const EXPONENT_MAX: i64 = 1_000;

/// The hash of a record's key bytes.
///
/// For Kinesis the key bytes are those of the partition key; for `DynamoDB` see [`dynamodb_key_bytes`].
///
/// # Examples
///
/// ```
/// assert_eq!(streamcore::key_hash(b""), 0x2d06_8005_38d3_94c2);
/// ```
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The lane of a key hash: 0 up to `parallelization_factor`, exclusive.
///
/// # Examples
///
/// ```
/// assert_eq!(streamcore::lane(0, 10), 0);
/// assert_eq!(streamcore::lane(u64::MAX, 10), 9);
/// assert_eq!(streamcore::lane(u64::MAX / 2, 10), 4);
/// ```
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the product is below the factor, which is a u8"
)]
pub fn lane(key_hash: u64, parallelization_factor: u8) -> u8 {
    ((u128::from(key_hash) * u128::from(parallelization_factor)) >> 64) as u8
}

/// The types that a key attribute of an item can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// A string.
    S,
    /// A number, as decimal text.
    N,
    /// Binary, as base64 text.
    B,
}

impl KeyType {
    /// The type's name in the `DynamoDB` API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S => "S",
            Self::N => "N",
            Self::B => "B",
        }
    }
}

/// One key attribute of an item, as a stream record's `Keys` holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyAttribute<'a> {
    /// The attribute's name.
    pub name: &'a str,
    /// Its type.
    pub kind: KeyType,
    /// Its value, as the text in the record.
    pub value: &'a str,
}

/// Why a key attribute has no key bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A number attribute whose value is no number, or one that no table can hold.
    #[error("the key attribute {name:?} holds {value:?}, which is not a number of DynamoDB")]
    BadNumber {
        /// The attribute's name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A binary attribute whose value is not base64 in the standard alphabet with padding.
    #[error("the key attribute {name:?} is not base64 in the standard alphabet with padding")]
    BadBase64 {
        /// The attribute's name.
        name: String,
    },
    /// A name or value longer than a length of 32 bits can say.
    #[error("the key attribute {name:?} is longer than 4294967295 bytes")]
    TooLong {
        /// The attribute's name.
        name: String,
    },
}

/// The key bytes of an item of `DynamoDB`: its key attributes sorted by name, each as name, type and value, each of these after
/// its length as 32 bits, little end first.
///
/// Numbers that are equal give equal bytes: they are written without plus sign, exponent, leading zeros and trailing zeros after the
/// point. Binary values are decoded.
///
/// # Errors
///
/// [`KeyError`] if a number is no number or has an exponent beyond 1,000, or a binary value is not base64.
///
/// # Examples
///
/// ```
/// use streamcore::{KeyAttribute, KeyType, dynamodb_key_bytes};
///
/// let key = |value| dynamodb_key_bytes(&[KeyAttribute { name: "id", kind: KeyType::N, value }]);
/// assert_eq!(key("1.0")?, b"\x02\0\0\0id\x01\0\0\0N\x01\0\0\x001");
/// assert_eq!(key("10E-1")?, key("+1")?);
/// # Ok::<(), streamcore::KeyError>(())
/// ```
pub fn dynamodb_key_bytes(attributes: &[KeyAttribute<'_>]) -> Result<Vec<u8>, KeyError> {
    let mut sorted = attributes.to_vec();
    sorted.sort_by_key(|attribute| attribute.name);
    let mut out = Vec::new();
    for attribute in sorted {
        write_key_bytes(attribute, &mut out)?;
    }
    Ok(out)
}

/// Append what one key attribute adds to the key bytes.
pub(crate) fn write_key_bytes(
    KeyAttribute { name, kind, value }: KeyAttribute<'_>,
    out: &mut Vec<u8>,
) -> Result<(), KeyError> {
    let mut push = |part: &[u8]| -> Result<(), KeyError> {
        let length =
            u32::try_from(part.len()).map_err(|_| KeyError::TooLong { name: name.into() })?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(part);
        Ok(())
    };
    push(name.as_bytes())?;
    push(kind.as_str().as_bytes())?;
    match kind {
        KeyType::S => push(value.as_bytes()),
        KeyType::N if is_plain_integer(value) => push(value.as_bytes()),
        KeyType::N => {
            let plain = plain_number(value).ok_or_else(|| KeyError::BadNumber {
                name: name.into(),
                value: value.into(),
            })?;
            push(plain.as_bytes())
        }
        KeyType::B => {
            let bytes = STANDARD
                .decode(value)
                .map_err(|_| KeyError::BadBase64 { name: name.into() })?;
            push(&bytes)
        }
    }
}

/// Whether a number is in its one plain form already, as nearly all numbers in keys are.
fn is_plain_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    matches!(digits.first(), Some(b'1'..=b'9')) && digits.iter().all(u8::is_ascii_digit)
}

/// A decimal number in its one plain form; none if the text is no number.
fn plain_number(text: &str) -> Option<String> {
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [whole, fraction].concat();
    if digits.is_empty()
        || !digits.bytes().all(|digit| digit.is_ascii_digit())
        || exponent.abs() > EXPONENT_MAX
    {
        return None;
    }
    // The value is 0.digits times ten to the power of `point`.
    let mut point = i64::try_from(whole.len()).ok()? + exponent;
    digits.truncate(digits.trim_end_matches('0').len());
    let zeros = digits.len() - digits.trim_start_matches('0').len();
    digits.drain(..zeros);
    point -= i64::try_from(zeros).ok()?;
    if digits.is_empty() {
        return Some("0".into());
    }
    let places = usize::try_from(point.unsigned_abs()).ok()?;
    let magnitude = if point <= 0 {
        format!("0.{}{digits}", "0".repeat(places))
    } else if places >= digits.len() {
        format!("{digits}{}", "0".repeat(places - digits.len()))
    } else {
        format!("{}.{}", &digits[..places], &digits[places..])
    };
    Some(format!("{sign}{magnitude}"))
}
