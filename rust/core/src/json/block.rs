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
