//! What is found in sixty-four bytes at once. Whoever inlines these functions says with which vectors, see `fearless_simd::dispatch`.
#![expect(
    clippy::inline_always,
    reason = "only what is inlined has the vectors of `dispatch`"
)]

use fearless_simd::{i8x64, prelude::*, u8x64};

const BYTES: usize = 64;

/// The closing quote of the string of ASCII without escapes that goes on at `start`; None if it is another.
#[inline(always)]
pub(crate) fn ascii_end<S: Simd>(simd: S, text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let bytes: i8x64<S> = block(simd, text, at).bitcast();
        // Changing bit 1 puts the quote, 0x22, right after the control characters, and what is not ASCII is negative.
        let marks = (bytes ^ 0b10).simd_lt(0x21) | bytes.simd_eq(b'\\'.cast_signed());
        if marks.any_true() {
            let end = at + marks.to_bitmask().trailing_zeros() as usize;
            return (text.get(end) == Some(&b'"')).then_some(end);
        }
        at += BYTES;
    }
}

/// The bytes from a place on; zeros where there are no more.
#[inline(always)]
fn block<S: Simd>(simd: S, text: &[u8], at: usize) -> u8x64<S> {
    match text.get(at..).and_then(<[u8]>::first_chunk::<BYTES>) {
        Some(bytes) => u8x64::from_slice(simd, bytes),
        None => u8x64::from_slice(simd, &last(text, at)),
    }
}

#[cold]
fn last(text: &[u8], at: usize) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let rest = text.get(at..).unwrap_or_default();
    bytes[..rest.len()].copy_from_slice(rest);
    bytes
}

/// Some digits, one to sixty-three.
#[derive(Clone, Copy)]
pub(crate) struct Digits<S: Simd> {
    /// They, and what stands behind them.
    block: u8x64<S>,
    pub(crate) count: usize,
}

impl<S: Simd> Digits<S> {
    /// None at all, which are below no others.
    #[inline(always)]
    pub(crate) fn none(simd: S) -> Self {
        Self {
            block: u8x64::splat(simd, 0),
            count: 0,
        }
    }

    /// Those that stand at a place. None if there is none, or there are more.
    #[inline(always)]
    pub(crate) fn at(simd: S, text: &[u8], at: usize) -> Option<Self> {
        let block = block(simd, text, at);
        let others = (block - b'0').simd_ge(10).to_bitmask();
        // So many as Kinesis's sequence numbers have: what follows need not wait for how many they are.
        let usual = 56;
        if others << (BYTES - 1 - usual) == 1 << (BYTES - 1) {
            return Some(Self {
                block,
                count: usual,
            });
        }
        let count = others.trailing_zeros() as usize;
        (1..BYTES).contains(&count).then_some(Self { block, count })
    }

    /// Whether they are as many as others, and below them.
    #[inline(always)]
    pub(crate) fn are_below(self, others: Self) -> bool {
        let below = self.block.simd_lt(others.block).to_bitmask();
        let above = others.block.simd_lt(self.block).to_bitmask();
        let first = below.trailing_zeros();
        self.count == others.count
            && (first as usize) < self.count
            && first < above.trailing_zeros()
    }
}

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};

    use super::*;

    fn is_special(byte: u8) -> bool {
        matches!(byte, b'"' | b'\\' | 0..=0x1f | 0x80..)
    }

    #[test]
    fn the_end_of_a_string_is_found_wherever_it_stands() {
        for length in [0, 1, 15, 63, 64, 65, 127, 128, 129, 200] {
            let mut text = b" ~aZ/+=!#[]".repeat(20);
            text.truncate(length);
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let before = std::mem::replace(&mut text[at], byte);
                    for start in [0, at / 2, at] {
                        let end = dispatch!(Level::new(), simd => ascii_end(simd, &text, start));
                        assert_eq!(end, (byte == b'"').then_some(at), "{byte} at {at}");
                    }
                    text[at] = before;
                }
            }
            let others = text.iter().filter(|byte| is_special(**byte));
            assert_eq!(others.count(), 0);
            for start in 0..=length + 1 {
                let end = dispatch!(Level::new(), simd => ascii_end(simd, &text, start));
                assert_eq!(end, None, "from {start} of {length}");
            }
        }
    }

    fn below(a: &str, b: &str) -> Option<bool> {
        dispatch!(Level::new(), simd => {
            let [a, b] = [a, b].map(|text| Digits::at(simd, text.as_bytes(), 0));
            Some(a?.are_below(b?))
        })
    }

    #[test]
    fn digits_are_counted_and_compared_as_far_as_they_go() {
        for count in 0..140 {
            for behind in ["", "\"", "x", "/", ":", "\0"] {
                let text = format!("{}{behind}", "0123456789".repeat(14).split_at(count).0);
                let found = dispatch!(Level::new(), simd => {
                    Digits::at(simd, text.as_bytes(), 0).map(|digits| digits.count)
                });
                assert_eq!(found, (1..64).contains(&count).then_some(count), "{text}");
            }
        }
        for count in [1, 2, 20, 55, 56, 57, 63] {
            let number = |at: usize, digit: char| -> String {
                let digits = (0..count).map(|place| if place == at { digit } else { '4' });
                digits.collect()
            };
            for at in 0..count {
                for (a, b) in [('3', '4'), ('4', '5'), ('4', '4'), ('5', '4')] {
                    for (behind_a, behind_b) in [("\"", "\""), ("\"a", "\"b"), ("\"b", "\"a")] {
                        let a_text = number(at, a) + behind_a;
                        let b_text = number(at, b) + behind_b;
                        assert_eq!(below(&a_text, &b_text), Some(a < b), "{a_text} {b_text}");
                    }
                }
            }
            assert_eq!(
                below(&number(0, '1'), &("9".repeat(count) + "9")),
                (count < 63).then_some(false)
            );
        }
        let none = dispatch!(Level::new(), simd => {
            let one = Digits::at(simd, b"1", 0);
            one.is_some_and(|one| Digits::none(simd).are_below(one))
        });
        assert!(!none);
    }
}
