//! Where the strings of a text end: looked for one by one, or known from a list of all quotes.
//!
//! When each end is looked for from the beginning of its string, all that follows waits for it. With the list the processor reads ahead of
//! where it is, as the places of the quotes come from nothing that was read before.

use wide::i8x16;

use crate::json::search::plain_string_end;

/// Tells where strings end.
pub(crate) trait Ends: Copy {
    /// The closing quote of the string that begins at `open`; None if none begins there, or not one that is plain.
    fn close(&mut self, bytes: &[u8], open: usize) -> Option<usize>;
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
    #[inline(never)]
    pub(crate) fn of(text: &[u8], memory: &'q mut Vec<u32>) -> Option<Self> {
        u32::try_from(text.len()).ok()?;
        let mut count = 0;
        let mut base = 0;
        let (blocks, rest) = text.as_chunks();
        let mut last = [b' '; 64];
        last[..rest.len()].copy_from_slice(rest);
        for block in blocks.iter().chain([&last]) {
            let quotes = quotes(block)?;
            if quotes != 0 {
                count = write(quotes, base, memory, count);
            }
            base += 64;
        }
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
}

/// The quotes of a block as bits; None if the block is not plain.
#[inline]
fn quotes(block: &[u8; 64]) -> Option<u64> {
    let (words, _) = block.as_chunks::<16>();
    let words = [0, 1, 2, 3].map(|word| i8x16::new(words[word].map(u8::cast_signed)));
    let splat = |byte: u8| i8x16::splat(byte.cast_signed());
    let [a, b, c, d] = words.map(|word| word.simd_lt(splat(b' ')) | word.simd_eq(splat(b'\\')));
    if (a | b | c | d).any() {
        return None;
    }
    let [a, b, c, d] = words.map(|word| u64::from(word.simd_eq(splat(b'"')).to_bitmask()));
    Some(a | b << 16 | c << 32 | d << 48)
}

/// Writes the places of the bits of a block, which begins at `base`, behind the first `count` places of a list. Gives how many it has then.
#[inline]
fn write(mut bits: u64, base: u32, places: &mut Vec<u32>, count: usize) -> usize {
    if places.len() < count + 64 {
        more(places);
    }
    let after = count + bits.count_ones() as usize;
    let mut place = || {
        let place = base + bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        place
    };
    let Some(out) = places[count..].first_chunk_mut::<64>() else {
        return count;
    };
    // Eight in any case: how many there are cannot be guessed, and a branch for each would be guessed wrong too often.
    let (eight, more) = out.split_at_mut(8);
    eight.fill_with(&mut place);
    if let Some(more) = more.get_mut(..(after - count).saturating_sub(8)) {
        more.fill_with(place);
    }
    after
}

#[cold]
fn more(places: &mut Vec<u32>) {
    places.resize(places.len() + 1024, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_found_wherever_they_stand() {
        let mut memory = Vec::new();
        for length in 0..300 {
            for step in [1, 2, 3, 5, 7, 64, 301] {
                let text: Vec<u8> = (0..length)
                    .map(|at| if at % step == 0 { b'"' } else { b'~' })
                    .collect();
                let places: Vec<u32> = (0..length).step_by(step as usize).collect();
                let quotes = Quotes::of(&text, &mut memory).expect("it is plain");
                assert_eq!(quotes.strings.as_flattened(), &places[..places.len() & !1]);
                let open = places.first().map_or(0, |place| *place as usize);
                let close = places.get(1).map(|place| *place as usize);
                assert_eq!({ quotes }.close(&text, open), close);
                assert_eq!({ quotes }.close(&text, open + 1), None);
            }
        }
    }

    #[test]
    fn a_text_that_is_not_plain_has_no_list() {
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
                    let quotes = Quotes::of(&text, &mut memory);
                    assert_eq!(quotes.is_some(), is_plain, "{byte} at {at} of {length}");
                }
            }
        }
    }
}
