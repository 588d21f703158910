//! Where the strings of a text end: looked for one by one, or known from a list of all quotes.
//!
//! When each end is looked for from the beginning of its string, all that follows waits for it. With the list the processor reads ahead of
//! where it is, as the places of the quotes come from nothing that was read before.

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, i8x64, u8x64};

use crate::json::search::plain_string_end;

/// Tells where strings end.
pub(crate) trait Ends: Copy {
    /// The closing quote of the string that begins at `open`; None if none begins there, or not one that is plain.
    fn close(&mut self, bytes: &[u8], open: usize) -> Option<usize>;

    /// Takes the last closing quote back: its string is to be read again.
    fn reopen(&mut self);
}

/// Looks for each end from the beginning of its string.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search;

impl Ends for Search {
    #[inline]
    fn close(&mut self, bytes: &[u8], open: usize) -> Option<usize> {
        if bytes.get(open) == Some(&b'"') {
            return plain_string_end(bytes, open + 1);
        }
        None
    }

    #[inline]
    fn reopen(&mut self) {}
}

/// All strings of a text that is plain: it has nothing but ASCII, no backslash and no control character, so each of its quotes begins or
/// ends a string. They have to be read one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quotes<'q> {
    /// The first and the last one of each string.
    strings: &'q [[u32; 2]],
    next: usize,
}

impl<'q> Quotes<'q> {
    /// Finds them, and puts them into memory that is used again; None for another text.
    pub(crate) fn of(text: &[u8], memory: &'q mut Vec<u32>) -> Option<Self> {
        Self::of_level(Level::new(), text, memory)
    }

    fn of_level(level: Level, text: &[u8], memory: &'q mut Vec<u32>) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let (blocks, rest) = text.as_chunks();
        let mut last = [b' '; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        let count = match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => avx512::write(simd, blocks, &last, memory),
            _ => dispatch!(level, simd => write(simd, blocks, &last, memory)),
        }?;
        Some(Self {
            strings: memory[..count].as_chunks().0,
            next: 0,
        })
    }
}

impl Ends for Quotes<'_> {
    #[inline]
    fn close(&mut self, _: &[u8], open: usize) -> Option<usize> {
        let &[begins, ends] = self.strings.get(self.next)?;
        if begins as usize != open {
            return None;
        }
        self.next += 1;
        Some(ends as usize)
    }

    #[inline]
    fn reopen(&mut self) {
        self.next -= 1;
    }
}

/// So many bytes are looked at together.
const BLOCK: usize = 64;

/// Writes the places of all quotes into a list, and gives how many they are; None if the text is not plain.
#[expect(
    clippy::inline_always,
    reason = "it takes the instructions that its caller may use"
)]
#[inline(always)]
fn write<S: Simd>(
    simd: S,
    blocks: &[[u8; BLOCK]],
    last: &[u8; BLOCK],
    places: &mut Vec<u32>,
) -> Option<usize> {
    let mut count = 0;
    for (block, base) in blocks.iter().chain([last]).zip((0..).step_by(BLOCK)) {
        let bytes: i8x64<_> = u8x64::from_slice(simd, block).bitcast();
        let others = bytes.simd_lt(b' '.cast_signed()) | bytes.simd_eq(b'\\'.cast_signed());
        if others.any_true() {
            return None;
        }
        let mut quotes = bytes.simd_eq(b'"'.cast_signed()).to_bitmask();
        if quotes == 0 {
            continue;
        }
        let found = quotes.count_ones() as usize;
        let mut place = || {
            let place = base + quotes.trailing_zeros();
            quotes &= quotes.wrapping_sub(1);
            place
        };
        // Eight in any case: how many there are cannot be guessed, and a branch for each would be guessed wrong too often.
        let (eight, more) = room(places, count).split_at_mut(8);
        eight.fill_with(&mut place);
        if let Some(more) = more.get_mut(..found.saturating_sub(8)) {
            more.fill_with(place);
        }
        count += found;
    }
    Some(count)
}

/// The places behind the first `count` ones, as many as a block may have.
#[inline]
fn room(places: &mut Vec<u32>, count: usize) -> &mut [u32] {
    if places.len() < count + BLOCK {
        more(places);
    }
    &mut places[count..count + BLOCK]
}

#[cold]
fn more(places: &mut Vec<u32>) {
    places.resize(places.len() + 1024, 0);
}

/// The same for processors that have AVX-512 as Ice Lake has it: one instruction writes the places of all bits of a block.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m128i, _mm512_add_epi32, _mm512_castsi512_si128, _mm512_cmpeq_epi8_mask,
        _mm512_cmplt_epi8_mask, _mm512_cvtepu8_epi32, _mm512_extracti32x4_epi32,
        _mm512_maskz_compress_epi8, _mm512_set1_epi8, _mm512_set1_epi32,
    };

    use fearless_simd::prelude::*;
    use fearless_simd::{kernel, u8x64, u32x16};

    use super::{BLOCK, room};

    /// The place of each byte in its block.
    const NUMBERS: [u8; BLOCK] = {
        let mut numbers = [0; BLOCK];
        let mut at = 0;
        while at < 64 {
            numbers[at as usize] = at;
            at += 1;
        }
        numbers
    };

    kernel!(
        #[inline(never)]
        pub(super) fn write(
            simd: Avx512,
            blocks: &[[u8; BLOCK]],
            last: &[u8; BLOCK],
            places: &mut Vec<u32>,
        ) -> Option<usize> {
            let numbers = u8x64::from_slice(simd, &NUMBERS).into();
            let splat = |byte: u8| _mm512_set1_epi8(byte.cast_signed());
            let (space, backslash, quote) = (splat(b' '), splat(b'\\'), splat(b'"'));
            let mut count = 0;
            for (block, base) in blocks.iter().chain([last]).zip((0..).step_by(BLOCK)) {
                let bytes = u8x64::from_slice(simd, block).into();
                let others = _mm512_cmplt_epi8_mask(bytes, space);
                if others | _mm512_cmpeq_epi8_mask(bytes, backslash) != 0 {
                    return None;
                }
                let quotes = _mm512_cmpeq_epi8_mask(bytes, quote);
                let found = _mm512_maskz_compress_epi8(quotes, numbers);
                let (sixteens, _) = room(places, count).as_chunks_mut::<16>();
                let write = |places: &mut [u32; 16], sixteen: __m128i| {
                    let wide = _mm512_cvtepu8_epi32(sixteen);
                    let sum = _mm512_add_epi32(wide, _mm512_set1_epi32(base));
                    let sum: u32x16<_> = sum.simd_into(simd);
                    sum.store_slice(places);
                };
                write(&mut sixteens[0], _mm512_castsi512_si128(found));
                if quotes.count_ones() > 16 {
                    write(&mut sixteens[1], _mm512_extracti32x4_epi32::<1>(found));
                    write(&mut sixteens[2], _mm512_extracti32x4_epi32::<2>(found));
                    write(&mut sixteens[3], _mm512_extracti32x4_epi32::<3>(found));
                }
                count += quotes.count_ones() as usize;
            }
            Some(count)
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that this machine has.
    fn levels() -> Vec<Level> {
        let level = Level::new();
        #[cfg(target_arch = "x86_64")]
        let lower = [
            level.as_sse2().map(Level::Sse2),
            level.as_sse4_2().map(Level::Sse4_2),
            level.as_avx2().map(Level::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let lower: [Option<Level>; 0] = [];
        lower.into_iter().flatten().chain([level]).collect()
    }

    #[test]
    fn quotes_are_found_wherever_they_stand() {
        for level in levels() {
            let mut memory = Vec::new();
            for length in 0..300 {
                for step in [1, 2, 3, 5, 7, 64, 301] {
                    let text: Vec<u8> = (0..length)
                        .map(|at| if at % step == 0 { b'"' } else { b'~' })
                        .collect();
                    let places: Vec<u32> = (0..length).step_by(step as usize).collect();
                    let quotes = Quotes::of_level(level, &text, &mut memory).expect("it is plain");
                    assert_eq!(quotes.strings.as_flattened(), &places[..places.len() & !1]);
                    let open = places.first().map_or(0, |place| *place as usize);
                    let close = places.get(1).map(|place| *place as usize);
                    assert_eq!({ quotes }.close(&text, open), close);
                    assert_eq!({ quotes }.close(&text, open + 1), None);
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_not_plain_has_no_list() {
        for level in levels() {
            let mut memory = Vec::new();
            for length in [1, 15, 63, 64, 65, 130] {
                for at in 0..length {
                    for (byte, is_plain) in [
                        (b'\\', false),
                        (0x1f, false),
                        (b'\n', false),
                        (0x80, false),
                        (0xff, false),
                        (b' ', true),
                        (b'!', true),
                        (0x7f, true),
                    ] {
                        let mut text = vec![b'"'; length];
                        text[at] = byte;
                        let quotes = Quotes::of_level(level, &text, &mut memory);
                        assert_eq!(quotes.is_some(), is_plain, "{byte} at {at} of {length}");
                    }
                }
            }
        }
    }
}
