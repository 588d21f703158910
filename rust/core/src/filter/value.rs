//! Tests of one JSON value that is neither an object nor an array, on the text as it stands.

use std::borrow::Cow;
use std::cmp::Ordering;

/// A value of an event, as its text says it.
#[derive(Debug)]
pub(crate) enum Scalar<'a> {
    Null,
    True,
    False,
    /// The text of the number.
    Number(&'a str),
    /// What the string means; None for a string with half a surrogate pair, which equals no text.
    Text(Option<Cow<'a, str>>),
}

/// What a pattern asks of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    Exists,
    Null,
    True,
    False,
    /// A number of this very text: 300, 300.0 and 3.0e2 differ.
    Number(Box<str>),
    Text(Box<str>),
    /// For each character its lower and its upper case.
    IgnoreCase(Box<[(Box<str>, Box<str>)]>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Numeric {
        low: Option<Bound>,
        high: Option<Bound>,
    },
    AnythingButTexts(Box<[Box<str>]>),
    AnythingButNumbers(Box<[Box<str>]>),
}

/// One end of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) number: Decimal<Box<str>>,
    /// Whether the number itself is inside.
    pub(crate) inclusive: bool,
}

impl Test {
    pub(crate) fn ignore_case(text: &str) -> Self {
        let cases = |character: char| {
            let lower: String = character.to_lowercase().collect();
            let upper: String = character.to_uppercase().collect();
            (lower.into(), upper.into())
        };
        Self::IgnoreCase(text.chars().map(cases).collect())
    }

    #[inline]
    pub(crate) fn matches(&self, value: &Scalar<'_>) -> bool {
        match (self, value) {
            (Self::Number(wanted), Scalar::Number(text)) => **wanted == **text,
            (Self::Numeric { low, high }, Scalar::Number(text)) => {
                let number = Decimal::of(text);
                let keeps = |bound: &Option<Bound>, outside: Ordering| {
                    bound.as_ref().is_none_or(|bound| {
                        let order = number.compare(&bound.number);
                        order != outside && (bound.inclusive || order != Ordering::Equal)
                    })
                };
                keeps(low, Ordering::Less) && keeps(high, Ordering::Greater)
            }
            (Self::Text(wanted), Scalar::Text(Some(text))) => **wanted == **text,
            (Self::Prefix(start), Scalar::Text(Some(text))) => text.starts_with(&**start),
            (Self::Suffix(end), Scalar::Text(Some(text))) => text.ends_with(&**end),
            (Self::IgnoreCase(cases), Scalar::Text(Some(text))) => {
                let rest = cases.iter().try_fold(&**text, |rest, (lower, upper)| {
                    rest.strip_prefix(&**lower)
                        .or_else(|| rest.strip_prefix(&**upper))
                });
                rest.is_some_and(str::is_empty)
            }
            (Self::AnythingButTexts(others), Scalar::Text(Some(text))) => {
                others.iter().all(|other| **other != **text)
            }
            (Self::AnythingButNumbers(others), Scalar::Number(text)) => {
                others.iter().all(|other| **other != **text)
            }
            // For anything-but a value of another type is something else.
            (Self::Exists | Self::AnythingButTexts(_) | Self::AnythingButNumbers(_), _)
            | (Self::Null, Scalar::Null)
            | (Self::True, Scalar::True)
            | (Self::False, Scalar::False) => true,
            _ => false,
        }
    }
}

/// A decimal number: 0.d1d2d3... times ten to the power of `point`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal<T> {
    negative: bool,
    /// From the first digit that is not 0 to the last one, perhaps with the point between them; empty for zero.
    digits: T,
    point: i64,
}

impl<'a> Decimal<&'a str> {
    /// Of a number as JSON writes it.
    pub(crate) fn of(text: &'a str) -> Self {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text),
        };
        // Byte by byte: numbers are short.
        let place = |text: &str, is: fn(u8) -> bool| text.bytes().position(is);
        let end = place(unsigned, |byte| byte | 0x20 == b'e').unwrap_or(unsigned.len());
        let mantissa = &unsigned[..end];
        let whole = place(mantissa, |byte| byte == b'.').unwrap_or(end);
        let counts = |byte| byte != b'0' && byte != b'.';
        let first = place(mantissa, counts).unwrap_or(end);
        let length = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let point = if first < whole {
            length(whole - first)
        } else {
            -length((first - whole).saturating_sub(1))
        };
        let last = mantissa.bytes().rposition(counts);
        let digits = &mantissa[first..last.map_or(first, |last| last + 1)];
        let exponent = match unsigned.get(end + 1..) {
            None => 0,
            Some(exponent) => {
                // More digits than fit stand for a power that is as good as the largest one.
                let far = if exponent.starts_with('-') {
                    i64::MIN / 2
                } else {
                    i64::MAX / 2
                };
                let exponent = exponent.parse().unwrap_or(far);
                exponent.clamp(i64::MIN / 2, i64::MAX / 2)
            }
        };
        Self {
            negative: negative && !digits.is_empty(),
            digits,
            point: point.saturating_add(exponent),
        }
    }

    /// The same number, to be kept.
    pub(crate) fn kept(self) -> Decimal<Box<str>> {
        Decimal {
            negative: self.negative,
            digits: self.digits.into(),
            point: self.point,
        }
    }
}

impl<T: AsRef<str>> Decimal<T> {
    fn sign(&self) -> i8 {
        match (self.digits.as_ref().is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// The order of two numbers, exact for any number of digits.
    pub(crate) fn compare<U: AsRef<str>>(&self, other: &Decimal<U>) -> Ordering {
        let sign = self.sign();
        let order = sign.cmp(&other.sign());
        if order.is_ne() || sign == 0 {
            return order;
        }
        let is_digit = |byte: &u8| *byte != b'.';
        let magnitude = self.point.cmp(&other.point).then_with(|| {
            // Neither ends in zeros, so a longer one with the same beginning is larger.
            let digits = self.digits.as_ref().bytes().filter(is_digit);
            digits.cmp(other.digits.as_ref().bytes().filter(is_digit))
        });
        if sign < 0 {
            magnitude.reverse()
        } else {
            magnitude
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_exactly() {
        let ascending = [
            "-1e400",
            "-300.5",
            "-3e2",
            "-0.001",
            "0",
            "1e-400",
            "0.1",
            "0.10000000000000000000000000000000001",
            "1",
            "1.5",
            "9.99",
            "10",
            "10.01",
            "1e2",
            "123456789012345678901234567890",
            "123456789012345678901234567891",
            "1e400",
            "1e99999999999999999999",
        ];
        for (left, text) in ascending.iter().enumerate() {
            for (right, other) in ascending.iter().enumerate() {
                assert_eq!(
                    Decimal::of(text).compare(&Decimal::of(other).kept()),
                    left.cmp(&right),
                    "{text} and {other}"
                );
            }
        }
        for same in [
            ["300", "3.0e2"],
            ["300", "300.00"],
            ["0", "-0.0"],
            ["0e7", "0"],
            ["0.5", "5e-1"],
            ["0.05", "0.0500E+0"],
            ["100", "1E+2"],
            ["120", "0.00012e6"],
            ["0", "0e-99999999999999999999"],
        ] {
            assert_eq!(
                Decimal::of(same[0]).compare(&Decimal::of(same[1])),
                Ordering::Equal,
                "{same:?}"
            );
        }
    }

    #[test]
    fn case_is_ignored_character_by_character() {
        let test = Test::ignore_case("Straße ⱥ");
        let said = |text: &'static str| Scalar::Text(Some(text.into()));
        assert!(test.matches(&said("sTRAße Ⱥ")));
        assert!(test.matches(&said("STRASSE Ⱥ")));
        assert!(!test.matches(&said("STRASSE ȺA")));
        assert!(!test.matches(&said("STRASSE")));
    }
}
