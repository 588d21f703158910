//! Numbers, exactly as they are written.

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

/// A number cannot be an integer of 64 bits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

/// A number as it stands in the text. Nothing of it is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number<'a> {
    pub(super) text: &'a [u8],
    pub(super) negative: bool,
    /// All digits before the exponent as one integer; meaningless if there are more than [`DIGITS_EXACT`].
    pub(super) mantissa: u64,
    pub(super) digits: usize,
    /// The power of ten by which to multiply the mantissa.
    pub(super) exponent: i64,
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
        let exponent = self.exponent.saturating_add(scale);
        let power = usize::try_from(exponent.unsigned_abs()).ok();
        let value = match power.and_then(|power| POWERS_OF_TEN.get(power)) {
            Some(&power) if self.digits <= DIGITS_EXACT => {
                if exponent < 0 {
                    (self.mantissa + power / 2) / power
                } else {
                    self.mantissa.checked_mul(power).ok_or(OutOfRange)?
                }
            }
            _ => self.scaled_by_digits(scale)?,
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
        let count = i64::try_from(self.digits).unwrap_or(i64::MAX);
        let mut before_point = self.exponent.saturating_add(scale).saturating_add(count);
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
