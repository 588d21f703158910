//! Numbers, exactly as they are written.

use super::search::others_than_digits;

/// Digits that a `u64` always holds, whatever they are.
pub(super) const DIGITS_EXACT: usize = 18;

const POWERS_OF_TEN: [u64; DIGITS_EXACT + 1] = {
    let mut powers = [1; DIGITS_EXACT + 1];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = powers[index - 1] * 10;
        index += 1;
    }
    powers
};

/// A number without its sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    /// All digits as one integer; meaningless if there are more than [`DIGITS_EXACT`].
    pub(super) mantissa: u64,
    pub(super) digits: usize,
    /// The power of ten by which to multiply the mantissa.
    pub(super) exponent: i64,
}

impl Decimal {
    /// What a text begins with, and how many of its bytes that is. None for what is wrong, and for what does not end in these bytes.
    ///
    /// The digits are moved to the end of the word, and put together there to pairs, fours and eights at once.
    #[expect(
        clippy::inline_always,
        reason = "so that what it gives is not written to memory and read again"
    )]
    #[inline(always)]
    pub(super) fn of_word(word: &[u8; 16]) -> Option<(Self, usize)> {
        let mut others = others_than_digits(word);
        let whole = others.trailing_zeros();
        let mut digits = u128::from_le_bytes(*word);
        let mut places = 0;
        if others == 0 || whole == 0 || whole > 1 && word[0] == b'0' {
            return None;
        }
        if word[whole as usize] == b'.' {
            others &= others - 1;
            places = others.trailing_zeros() - whole - 1;
            if others == 0 || places == 0 {
                return None;
            }
            let before_point = (1 << (8 * whole)) - 1;
            digits = digits & before_point | digits >> 8 & !before_point;
        }
        let count = whole + places;
        let digits = digits << (128 - 8 * count);
        let [high, low] = [digits, digits >> 64].map(eight_digits);
        let decimal = Self {
            mantissa: high * 100_000_000 + low,
            digits: count as usize,
            exponent: -i64::from(places),
        };
        Some((decimal, others.trailing_zeros() as usize))
    }

    /// It times ten to the power of `scale`, rounded to the nearest integer, halves up. None if that takes more than integers of 64 bits.
    #[inline]
    fn scaled(&self, scale: i64) -> std::result::Result<Option<u64>, OutOfRange> {
        let exponent = self.exponent.saturating_add(scale);
        let power = usize::try_from(exponent.unsigned_abs()).ok();
        let power = power.and_then(|power| POWERS_OF_TEN.get(power));
        match power.filter(|_| self.digits <= DIGITS_EXACT) {
            None => Ok(None),
            Some(power) if exponent < 0 => Ok(Some((self.mantissa + power / 2) / power)),
            Some(power) => self
                .mantissa
                .checked_mul(*power)
                .map(Some)
                .ok_or(OutOfRange),
        }
    }
}

/// The number at a place times ten to the power of `scale`, rounded as [`Number::scaled`] does, and where it ends. None for one that has
/// a sign, or more than fifteen digits, or a long exponent, and for what is wrong or at the end of the text.
#[expect(
    clippy::inline_always,
    reason = "so that what it reads is not written to memory and read again"
)]
#[inline(always)]
pub(crate) fn short_number(text: &[u8], at: usize, scale: i64) -> Option<(i64, usize)> {
    let (mut decimal, bytes) = Decimal::of_word(text.get(at..)?.first_chunk()?)?;
    let mut end = at + bytes;
    if let [b'e' | b'E', power, next] = *text.get(end..)?.first_chunk()? {
        if !power.is_ascii_digit() || next.is_ascii_digit() {
            return None;
        }
        decimal.exponent += i64::from(power - b'0');
        end += 2;
    }
    let value = decimal.scaled(scale).ok()??;
    Some((i64::try_from(value).ok()?, end))
}

/// The lower eight bytes as a number of eight digits, of which the first one is the lowest byte. Zero bytes are zeros too.
#[inline]
fn eight_digits(digits: u128) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let ones = digits as u64 & 0x0f0f_0f0f_0f0f_0f0f;
    let twos = ones.wrapping_mul((10 << 8) + 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = twos.wrapping_mul((100 << 16) + 1) >> 16 & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul((10_000 << 32) + 1) >> 32
}

/// A number cannot be an integer of 64 bits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

/// A number as it stands in the text. Nothing of it is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number<'a> {
    pub(super) text: &'a [u8],
    pub(super) negative: bool,
    /// With the exponent.
    pub(super) decimal: Decimal,
}

impl<'a> Number<'a> {
    /// The number as it is written.
    #[inline]
    pub(crate) fn text(&self) -> &'a str {
        str::from_utf8(self.text).expect("a number is written in ASCII")
    }

    /// The number times ten to the power of `scale`, rounded to the nearest integer, halves away from zero. There is no floating
    /// point in it, so it is exact.
    #[inline]
    pub(crate) fn scaled(&self, scale: i64) -> std::result::Result<i64, OutOfRange> {
        let value = match self.decimal.scaled(scale)? {
            Some(value) => value,
            None => self.scaled_by_digits(scale)?,
        };
        let value = i64::try_from(value).map_err(|_| OutOfRange)?;
        Ok(if self.negative { -value } else { value })
    }

    /// The same without the sign, for numbers of any length.
    #[cold]
    fn scaled_by_digits(&self, scale: i64) -> std::result::Result<u64, OutOfRange> {
        let mantissa = self.text().trim_start_matches('-');
        let mantissa = mantissa.split(['e', 'E']).next().unwrap_or_default();
        let mut digits = mantissa
            .bytes()
            .filter(u8::is_ascii_digit)
            .map(|digit| u64::from(digit - b'0'));
        // How many digits, counted from the first one, stand before the point of the result.
        let Decimal {
            digits: count,
            exponent,
            ..
        } = self.decimal;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut before_point = exponent.saturating_add(scale).saturating_add(count);
        let mut value = 0_u64;
        while before_point > 0 {
            let digit = match digits.next() {
                None if value == 0 => return Ok(0),
                digit => digit.unwrap_or(0),
            };
            value = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(digit))
                .ok_or(OutOfRange)?;
            before_point -= 1;
        }
        let rounds_up = before_point == 0 && digits.next().is_some_and(|digit| digit >= 5);
        value.checked_add(u64::from(rounds_up)).ok_or(OutOfRange)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crate::json::Scanner;

    #[test]
    fn digits_are_the_same_in_one_piece_and_one_by_one() {
        let mut numbers = 0;
        let wholes = [
            "",
            "0",
            "7",
            "00",
            "01",
            "10",
            "98765432",
            "1700000000",
            "987654321098765",
        ];
        for whole in wholes {
            for fraction in [
                "",
                ".",
                ".0",
                ".5",
                ".007",
                ".1234",
                ".545084650987",
                ".00000000000012",
                ".123456789012345678",
            ] {
                for exponent in ["", "e", "E9", "e-12", "x"] {
                    let text = format!("{whole}{fraction}{exponent}");
                    // At the end of the text there is no word to be read.
                    let padded = format!("{text}{}", " ".repeat(16));
                    let read = |text: &str| {
                        let mut scanner = Scanner::new(text.as_bytes());
                        let number = scanner.number("a number").ok()?;
                        let parts = (
                            number.decimal.mantissa,
                            number.decimal.digits,
                            number.decimal.exponent,
                        );
                        Some((number.text().to_owned(), parts, scanner.offset()))
                    };
                    assert_eq!(read(&text), read(&padded), "{text}");
                    if let Some((read, (mantissa, ..), _)) = read(&padded) {
                        let digits = read.split(['e', 'E']).next().unwrap().replace('.', "");
                        assert_eq!(mantissa, digits.parse().unwrap_or(mantissa), "{text}");
                        numbers += 1;
                    }
                }
            }
        }
        assert!(numbers > 150, "{numbers}");
    }
}
