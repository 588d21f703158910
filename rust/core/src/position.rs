//! Where a record stands in its shard: a sequence number, and an index inside an aggregate.
//!
//! Sequence numbers are decimal text with gaps between them. They are compared as integers, and kept and sent back as the text
//! that came.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::PositionError;

/// The most digits that a sequence number has (Kinesis API reference: `0|([1-9]\d{0,128})`).
pub const SEQUENCE_DIGITS_MAX: usize = 129;

/// A sequence number: 1 to 129 decimal digits, kept as the text that came.
///
/// Order, equality and hash go by the integer value, so leading zeros do not count. Clones share the text.
///
/// # Examples
///
/// ```
/// use streamcore::SequenceNumber;
///
/// let nine = SequenceNumber::parse("9")?;
/// let ten = SequenceNumber::parse("0010")?;
/// assert!(nine < ten);
/// assert_eq!(ten, SequenceNumber::parse("10")?);
/// assert_eq!(ten.as_str(), "0010");
/// # Ok::<(), streamcore::PositionError>(())
/// ```
#[derive(Clone)]
pub struct SequenceNumber(Arc<[u8]>);

impl SequenceNumber {
    /// Take a text as a sequence number.
    ///
    /// # Errors
    ///
    /// [`PositionError`] if it is empty, longer than 129 characters, or holds anything but the digits 0 to 9.
    pub fn parse(text: &str) -> Result<Self, PositionError> {
        check_sequence(text)?;
        Ok(Self(text.as_bytes().into()))
    }

    /// The text, as it came.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("digits are ASCII")
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The sequence number whose value is one more, or none after 129 nines.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamcore::SequenceNumber;
    ///
    /// let next = SequenceNumber::parse("1999")?.successor();
    /// assert_eq!(next.as_ref().map(SequenceNumber::as_str), Some("2000"));
    /// assert!(SequenceNumber::parse(&"9".repeat(129))?.successor().is_none());
    /// # Ok::<(), streamcore::PositionError>(())
    /// ```
    #[must_use]
    pub fn successor(&self) -> Option<Self> {
        let mut next = String::with_capacity(self.0.len() + 1);
        write_successor(self.as_str(), &mut next);
        (next.len() <= SEQUENCE_DIGITS_MAX).then(|| Self(next.into_bytes().into()))
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SequenceNumber({})", self.as_str())
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SequenceNumber {}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_sequences(&self.0, &other.0)
    }
}

impl Hash for SequenceNumber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        without_leading_zeros(&self.0).hash(state);
    }
}

/// The place of a record in its shard.
///
/// # Examples
///
/// ```
/// use streamcore::{Position, SequenceNumber};
///
/// let outer = SequenceNumber::parse("7")?;
/// let first = Position { sequence: outer.clone(), sub: 0 };
/// let second = Position { sequence: outer, sub: 1 };
/// assert!(first < second);
/// # Ok::<(), streamcore::PositionError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The sequence number of the stream's record.
    pub sequence: SequenceNumber,
    /// The index inside an aggregate; 0 for a plain record.
    pub sub: u32,
}

impl Position {
    /// The position of a page's record.
    pub(crate) fn new(digits: &[u8], sub: u32) -> Self {
        debug_assert!(is_sequence(digits));
        let sequence = SequenceNumber(digits.into());
        Self { sequence, sub }
    }

    /// Puts the position of a page's record here: into the old one's memory, where nobody shares that and it has the size. Else
    /// it is what `same` gives, where that gives one.
    pub(crate) fn put(
        place: &mut Option<Self>,
        digits: &[u8],
        sub: u32,
        same: impl FnOnce() -> Option<Self>,
    ) {
        if let Some(Self { sequence, sub: own }) = place
            && let Some(text) = Arc::get_mut(&mut sequence.0)
            && text.len() == digits.len()
        {
            text.copy_from_slice(digits);
            *own = sub;
        } else {
            let own = same().unwrap_or_else(|| Self::new(digits, sub));
            debug_assert_eq!(own, Self::new(digits, sub));
            *place = Some(own);
        }
    }
}

/// Compare two texts of digits by their integer value.
pub(crate) fn compare_sequences(a: &[u8], b: &[u8]) -> Ordering {
    if a.len() == b.len() {
        return a.cmp(b);
    }
    let (a, b) = (without_leading_zeros(a), without_leading_zeros(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Whether a text is a sequence number.
pub(crate) fn is_sequence(bytes: &[u8]) -> bool {
    // One pass without an early exit: the compiler turns it into vector code.
    let wrong = bytes
        .iter()
        .fold(false, |wrong, byte| wrong | !byte.is_ascii_digit());
    !wrong && !bytes.is_empty() && bytes.len() <= SEQUENCE_DIGITS_MAX
}

/// Say why a text is no sequence number, if it is none.
pub(crate) fn check_sequence(text: &str) -> Result<(), PositionError> {
    if is_sequence(text.as_bytes()) {
        return Ok(());
    }
    Err(wrong_sequence(text))
}

#[cold]
fn wrong_sequence(text: &str) -> PositionError {
    match text
        .char_indices()
        .find(|(_, found)| !found.is_ascii_digit())
    {
        Some((index, found)) => PositionError::NotADigit { index, found },
        None if text.is_empty() => PositionError::Empty,
        None => PositionError::TooLong {
            digits: text.len(),
            max: SEQUENCE_DIGITS_MAX,
        },
    }
}

/// Append the successor of a text of digits; it is as long as the text, or one digit longer after nines only.
pub(crate) fn write_successor(digits: &str, out: &mut String) {
    let kept = digits.trim_end_matches('9');
    match kept.as_bytes().split_last() {
        Some((last, head)) => {
            out.push_str(&kept[..head.len()]);
            out.push(char::from(last + 1));
        }
        None => out.push('1'),
    }
    out.extend(std::iter::repeat_n('0', digits.len() - kept.len()));
}

fn without_leading_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::BuildHasher;

    fn number(text: &str) -> SequenceNumber {
        SequenceNumber::parse(text).unwrap()
    }

    proptest! {
        #[test]
        fn order_equality_and_hash_go_by_value(a in any::<u128>(), b in any::<u128>(), near in 0_u128..3, zeros in 0_usize..40) {
            for b in [b, a.saturating_add(near)] {
                let left = number(&format!("{}{a}", "0".repeat(zeros)));
                let right = number(&b.to_string());
                prop_assert_eq!(left.cmp(&right), a.cmp(&b));
                prop_assert_eq!(left == right, a == b);
                let hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
                prop_assert!(a != b || hasher.hash_one(&left) == hasher.hash_one(&right));
            }
        }

        #[test]
        fn the_successor_is_one_more(value in 0_u128..u128::MAX) {
            let next = number(&value.to_string()).successor().unwrap();
            prop_assert_eq!(next.as_str(), (value + 1).to_string());
        }
    }

    #[test]
    fn a_position_is_written_over_but_not_where_it_is_shared() {
        let mut place = None;
        Position::put(&mut place, b"17", 0, || None);
        let kept = place.clone();
        for (digits, sub) in [("18", 1), ("19", 0), ("100", 2)] {
            Position::put(&mut place, digits.as_bytes(), sub, || None);
            let sequence = number(digits);
            assert_eq!(place, Some(Position { sequence, sub }));
        }
        let sequence = number("17");
        assert_eq!(kept, Some(Position { sequence, sub: 0 }));
    }

    #[test]
    fn a_text_that_is_no_number_is_refused() {
        assert_eq!(SequenceNumber::parse(""), Err(PositionError::Empty));
        for (text, index, found) in [
            ("-1", 0, '-'),
            ("1 ", 1, ' '),
            ("1.0", 1, '.'),
            ("12ä", 2, 'ä'),
            ("٣", 0, '٣'),
        ] {
            assert_eq!(
                SequenceNumber::parse(text),
                Err(PositionError::NotADigit { index, found })
            );
        }
        assert!(SequenceNumber::parse(&"9".repeat(129)).is_ok());
        assert_eq!(
            SequenceNumber::parse(&"0".repeat(130)),
            Err(PositionError::TooLong {
                digits: 130,
                max: 129
            })
        );
    }

    #[test]
    fn the_successor_of_nines_is_longer_until_the_limit() {
        assert_eq!(number("999").successor().unwrap().as_str(), "1000");
        assert_eq!(number("0099").successor().unwrap().as_str(), "0100");
        assert!(number(&"9".repeat(129)).successor().is_none());
    }
}
