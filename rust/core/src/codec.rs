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
