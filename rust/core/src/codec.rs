//! Base64 in the standard alphabet with padding, with the vector instructions that the machine has.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use base64::engine::general_purpose::STANDARD;

/// The codec of payloads and keys.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) static STANDARD: std::sync::LazyLock<base64::engine::Simd> =
    std::sync::LazyLock::new(|| {
        base64::engine::Simd::standard(base64::engine::general_purpose::PAD)
    });
