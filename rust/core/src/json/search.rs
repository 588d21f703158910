//! Finds where strings, numbers and white space end, sixteen bytes at a time or more.

use fearless_simd::{Level, Simd, dispatch, i8x64, prelude::*};
use wide::{i8x16, u8x16};

/// How many bytes are asked at once whether one of them is special.
const BLOCK: usize = 64;

/// Where the string that begins at `start` ends, if nothing is escaped in it: its closing quote.
///
/// Most strings are short, so it begins with one word, which tells the place at once: how long a string is cannot be guessed, and a
/// branch for each few bytes would be guessed wrong too often. All that follows waits for the place, so it comes from the quotes alone;
/// that nothing special stands before is looked at beside.
#[inline]
pub(super) fn plain_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    if let Some(word) = bytes.get(start..).and_then(<[u8]>::first_chunk) {
        let word = u8x16::new(*word);
        let quotes = word.simd_eq(u8x16::splat(b'"')).to_bitmask();
        let others = word.simd_le(u8x16::splat(0x1f)) | word.simd_eq(u8x16::splat(b'\\'));
        let place = quotes.trailing_zeros();
        if place < others.to_bitmask().trailing_zeros() {
            return Some(start + place as usize);
        }
    }
    plain_string_end_far(bytes, start)
}

/// The same for other strings.
#[inline(never)]
fn plain_string_end_far(bytes: &[u8], start: usize) -> Option<usize> {
    let mut end = start;
    if let Some(words) = bytes.get(start..).and_then(<[u8]>::first_chunk::<32>) {
        let (words, _) = words.as_chunks();
        let [low, high] = [0, 1].map(|word| marks(&words[word]).to_bitmask());
        end += (low | high << 16).trailing_zeros() as usize;
        if end < start + 32 {
            return (bytes.get(end) == Some(&b'"')).then_some(end);
        }
    }
    let end = special(bytes, end);
    (bytes.get(end) == Some(&b'"')).then_some(end)
}

/// The first special byte from `start` on, that is a quote, a backslash or a control character; the length if there is none.
///
/// It looks at a few words and two blocks of four, of which is only asked whether they have one; what is longer is looked at with the
/// widest vectors that the machine has, which are slow to begin.
#[inline]
pub(super) fn special(bytes: &[u8], start: usize) -> usize {
    let mut rest = &bytes[start..];
    loop {
        for _ in 0..4 {
            let Some((word, after)) = rest.split_first_chunk() else {
                let others = rest.iter().take_while(|byte| !is_special(**byte));
                return bytes.len() - rest.len() + others.count();
            };
            let found = marks(word).to_bitmask();
            if found != 0 {
                return bytes.len() - rest.len() + found.trailing_zeros() as usize;
            }
            rest = after;
        }
        let mut blocks = 0;
        while let Some((block, after)) = rest.split_first_chunk::<BLOCK>() {
            if blocks == 2 {
                rest = &rest[plain_bytes(rest)..];
                break;
            }
            let (words, _) = block.as_chunks();
            let [a, b, c, d] = [0, 1, 2, 3].map(|word| marks(&words[word]));
            if (a | b | c | d).any() {
                break;
            }
            rest = after;
            blocks += 1;
        }
    }
}

/// Marks the special bytes of a word.
#[inline]
fn marks(word: &[u8; 16]) -> i8x16 {
    let bytes = i8x16::new(word.map(u8::cast_signed));
    let [changed, end, backslash] = COMPARISON.map(i8x16::splat);
    (bytes ^ changed).simd_lt(end) | bytes.simd_eq(backslash)
}

/// How many bytes of a text's whole blocks stand before the first one that [`marks`] would mark.
fn plain_bytes(text: &[u8]) -> usize {
    dispatch!(Level::new(), simd => plain_bytes_with(simd, text))
}

#[expect(
    clippy::inline_always,
    reason = "only what is inlined has the vectors of `dispatch`"
)]
#[inline(always)]
fn plain_bytes_with<S: Simd>(simd: S, text: &[u8]) -> usize {
    let [changed, end, backslash] = COMPARISON.map(|byte| i8x64::splat(simd, byte));
    let (blocks, _) = text.as_chunks::<BLOCK>();
    for (index, block) in blocks.iter().enumerate() {
        let bytes: i8x64<S> = block.map(u8::cast_signed).simd_into(simd);
        let marks = (bytes ^ changed).simd_lt(end) | bytes.simd_eq(backslash);
        if marks.any_true() {
            return index * BLOCK + marks.to_bitmask().trailing_zeros() as usize;
        }
    }
    blocks.len() * BLOCK
}

/// What the bits of a byte are changed by, what the special ones are less than then, and the backslash.
///
/// Changing bit 1 puts the quote, 0x22, right after the control characters, so that one comparison finds them all. It is one of numbers
/// with a sign, of which those that are not ASCII are the smallest; changing bit 7 too makes them the largest.
const COMPARISON: [i8; 3] = [
    0x82_u8.cast_signed(),
    0xa1_u8.cast_signed(),
    b'\\'.cast_signed(),
];

#[inline]
fn is_special(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f)
}

/// Where the next byte stands that is no white space.
#[inline(never)]
pub(super) fn skip_blanks(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Where a number without an exponent ends; None for what is no such number, and for one that cannot be told so quickly. It begins with
/// a digit or a sign.
#[inline]
pub(super) fn plain_number_end<const ANY: bool>(bytes: &[u8], start: usize) -> Option<usize> {
    let word = bytes.get(start..)?.first_chunk()?;
    // As for strings, the end does not wait for what the bytes are: a sign is let pass, and looked at beside.
    let others = others_than_digits(word) & !1;
    let digits = others.trailing_zeros() as usize;
    if ANY {
        let sign = usize::from(bytes[start] == b'-');
        if digits <= sign || bytes[start + sign] == b'0' && digits > sign + 1 {
            return None;
        }
    }
    let mut end = start + digits;
    let mut next = *word.get(digits)?;
    if next == b'.' {
        let others = others & (others - 1);
        if others == 0 {
            end = digits_end(bytes, start + word.len());
            (end > start + digits + 1).then_some(())?;
        } else {
            let all = others.trailing_zeros() as usize;
            (all > digits + 1).then_some(())?;
            end = start + all;
        }
        next = *bytes.get(end)?;
    }
    (next | 0x20 != b'e').then_some(end)
}

/// Where the next byte stands that is no digit.
fn skip_digits(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// The same for the rest of a long number, whose length cannot be guessed: one more word tells it at once.
#[inline]
fn digits_end(bytes: &[u8], at: usize) -> usize {
    if let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let others = others_than_digits(word);
        if others != 0 {
            return at + others.trailing_zeros() as usize;
        }
    }
    skip_digits(bytes, at)
}

/// A bit for each byte that is no digit.
#[inline]
pub(super) fn others_than_digits(word: &[u8; 16]) -> u32 {
    let digits = u8x16::new(*word) - u8x16::splat(b'0');
    digits.simd_ge(u8x16::splat(10)).to_bitmask()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_special_byte_is_found_wherever_it_stands() {
        for length in (0..200).chain([255, 256, 257, 319, 320, 400]) {
            let plain = "é~ aZ/".repeat(80).into_bytes();
            let mut text = plain[..length].to_vec();
            for start in 0..=length {
                assert_eq!(special(&text, start), length);
                assert_eq!(plain_string_end(&text, start), None);
            }
            for at in 0..length {
                for byte in [b'"', b'\\', b'\0', b'\n', 0x1f] {
                    text[at] = byte;
                    for start in [0, at / 2, at] {
                        assert_eq!(special(&text, start), at, "{byte} at {at} of {length}");
                        let end = (byte == b'"').then_some(at);
                        assert_eq!(plain_string_end(&text, start), end, "{byte} at {at}");
                    }
                }
                text[at] = plain[at];
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vectors_of_every_width_find_the_same() {
        let level = Level::new();
        for at in 0..256 {
            for byte in 0..=u8::MAX {
                let mut text = [b'a'; 256];
                text[at] = byte;
                let plain = if is_special(byte) { at } else { 256 };
                let found = [
                    level.as_sse2().map(|simd| plain_bytes_with(simd, &text)),
                    level.as_sse4_2().map(|simd| plain_bytes_with(simd, &text)),
                    level.as_avx2().map(|simd| plain_bytes_with(simd, &text)),
                    level.as_avx512().map(|simd| plain_bytes_with(simd, &text)),
                ];
                assert_eq!(found[0], Some(plain), "{byte} at {at}");
                assert!(
                    found.iter().flatten().all(|found| *found == plain),
                    "{byte} at {at}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn the_end_of_a_plain_number_is_never_told_wrongly() {
        for whole in [
            "",
            "0",
            "7",
            "00",
            "01",
            "10",
            "123456789012345",
            "1234567890123456",
            "12345678901234567",
        ] {
            for fraction in [
                "",
                ".",
                ".0",
                ".5",
                ".25",
                ".0123456789012345",
                ".1234567890123456789",
            ] {
                for exponent in ["", "e5", "E-2", "e", ","] {
                    for sign in ["", "-"] {
                        let number = format!("{sign}{whole}{fraction}");
                        if !number.starts_with(|first: char| first == '-' || first.is_ascii_digit())
                        {
                            continue; // nobody asks for where that ends
                        }
                        let is_number = !whole.is_empty()
                            && (whole.len() == 1 || !whole.starts_with('0'))
                            && fraction != "."
                            && !exponent.to_ascii_lowercase().starts_with('e');
                        for rest in ["", "}", ", 1234567890123456"] {
                            let text = format!("{number}{exponent}{rest}");
                            let end = plain_number_end::<true>(text.as_bytes(), 0);
                            if is_number
                                && sign.len() + whole.len() < 16
                                && text.len() > number.len() + 16
                            {
                                assert_eq!(end, Some(number.len()), "{text}");
                            } else {
                                assert!(
                                    end.is_none_or(|end| is_number && end == number.len()),
                                    "{text}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
