//! Base64 in the standard alphabet with padding, with the vector instructions that the machine has.

use base64::Engine as _;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use base64::engine::general_purpose::STANDARD;

/// The codec of payloads and keys.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) static STANDARD: std::sync::LazyLock<base64::engine::Simd> =
    std::sync::LazyLock::new(|| {
        base64::engine::Simd::standard(base64::engine::general_purpose::PAD)
    });

/// Appends the base64 of some bytes.
pub(crate) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written, Ok(out.len() - start));
}

/// Decodes a text into memory that is used again. None if it is not base64, and no word on where.
pub(crate) fn decode<'m>(text: &[u8], memory: &'m mut Vec<u8>) -> Option<&'m [u8]> {
    let room = base64::decoded_len_estimate(text.len()) + BLOCK;
    if memory.len() < room {
        memory.resize(room, 0);
    }
    #[cfg(target_arch = "x86_64")]
    if let fearless_simd::Level::Avx512(simd) = fearless_simd::Level::new()
        && text.len() >= BLOCK
    {
        let length = avx512::decode(simd, text, memory)?;
        return Some(&memory[..length]);
    }
    let length = STANDARD.decode_slice(text, memory).ok()?;
    Some(&memory[..length])
}

/// So many characters are decoded at a time, and so many bytes are written, of which the last quarter has no meaning.
const BLOCK: usize = 64;

/// For processors that have AVX-512 as Ice Lake has it, in a third of the time of [`STANDARD`], which knows AVX2: a table of 128 entries
/// stands in two registers, and one instruction looks up 64 characters in it.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_movepi8_mask, _mm512_or_si512,
        _mm512_permutex2var_epi8, _mm512_permutexvar_epi8, _mm512_set1_epi32, _mm512_setzero_si512,
    };

    use fearless_simd::prelude::*;
    use fearless_simd::{kernel, u8x64};

    use super::BLOCK;

    /// What each character of ASCII stands for; the upper bit for one that stands for nothing.
    const VALUES: [[u8; 64]; 2] = {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut values = [[0x80; 64]; 2];
        let mut value = 0;
        while value < 64 {
            let character = alphabet[value as usize] as usize;
            values[character / 64][character % 64] = value;
            value += 1;
        }
        values
    };

    /// Of each four bytes the lower three, the highest of them first.
    const ORDER: [u8; 64] = {
        let mut order = [0; 64];
        let mut at = 0;
        while at < 48 {
            order[at as usize] = at / 3 * 4 + 2 - at % 3;
            at += 1;
        }
        order
    };

    kernel!(
        /// Decodes a text of a block or more, into memory that has room for another block, and gives how many bytes it has.
        #[inline(never)]
        pub(super) fn decode(simd: Avx512, text: &[u8], out: &mut [u8]) -> Option<usize> {
            if !text.len().is_multiple_of(4) {
                return None;
            }
            // The last block ends where the text ends. What it has in common with the one before it is decoded twice.
            let (blocks, _) = text[..text.len() - 1].as_chunks::<BLOCK>();
            let mut last = *text.last_chunk::<BLOCK>()?;
            let mut padding = 0;
            for character in last.iter_mut().rev().take(2) {
                if *character != b'=' {
                    break;
                }
                *character = b'A';
                padding += 1;
            }
            let [low, high] = VALUES.map(|values| u8x64::from_slice(simd, &values).into());
            let order = u8x64::from_slice(simd, &ORDER).into();
            let mut wrong = _mm512_setzero_si512();
            let mut decode = |block: &[u8; BLOCK], out: &mut [u8; BLOCK]| {
                let characters = u8x64::from_slice(simd, block).into();
                let values = _mm512_permutex2var_epi8(low, characters, high);
                wrong = _mm512_or_si512(wrong, _mm512_or_si512(characters, values));
                // From four times six bits to two times twelve, then to 24.
                let pairs = _mm512_maddubs_epi16(values, _mm512_set1_epi32(0x0140_0140));
                let quads = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x0001_1000));
                let bytes: u8x64<_> = _mm512_permutexvar_epi8(order, quads).simd_into(simd);
                bytes.store_slice(out);
            };
            let mut rest = &mut *out;
            for block in blocks {
                decode(block, rest.first_chunk_mut()?);
                rest = &mut rest[BLOCK / 4 * 3..];
            }
            let start = (text.len() - BLOCK) / 4 * 3;
            decode(&last, out[start..].first_chunk_mut()?);
            let end = text.len() / 4 * 3;
            let length = end - padding;
            // What a last character has more than the bytes need must be zero.
            let is_exact = out[length..end].iter().all(|byte| *byte == 0);
            (_mm512_movepi8_mask(wrong) == 0 && is_exact).then_some(length)
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each length, with one character at each place changed to something else.
    #[test]
    fn texts_are_decoded_as_the_codec_of_one_character_at_a_time_does() {
        use base64::engine::general_purpose::STANDARD as PLAIN;

        let mut memory = Vec::new();
        for length in 0..220 {
            let bytes: Vec<u8> = (0..length)
                .map(|at: u8| at.wrapping_mul(89) ^ length)
                .collect();
            let text = PLAIN.encode(&bytes).into_bytes();
            assert_eq!(decode(&text, &mut memory), Some(&*bytes));
            for end in 0..text.len() {
                let expected = PLAIN.decode(&text[..end]).ok();
                assert_eq!(decode(&text[..end], &mut memory), expected.as_deref());
            }
            for at in 0..text.len() {
                let mut text = text.clone();
                for other in [
                    b'=', b'+', b'/', b'_', b'A', b'B', b'Q', 0, b' ', b'\n', 0x7f, 0x80, 0xff,
                ] {
                    text[at] = other;
                    let expected = PLAIN.decode(&text).ok();
                    let found = decode(&text, &mut memory);
                    assert_eq!(found, expected.as_deref(), "{other} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn each_character_has_its_value_wherever_it_stands() {
        use base64::engine::general_purpose::STANDARD as PLAIN;

        let mut memory = Vec::new();
        for character in 0..=255 {
            for at in 0..128 {
                let mut text = [b'k'; 128];
                text[at] = character;
                let expected = PLAIN.decode(text).ok();
                assert_eq!(
                    decode(&text, &mut memory),
                    expected.as_deref(),
                    "{character} at {at}"
                );
            }
        }
    }
}
