//! Escapes in strings, read and written.

use crate::error::PageError;
use crate::json::Result;
use crate::json::search::special;

/// The character that the escape at `at` means, and where the text goes on.
pub(super) fn escape(bytes: &[u8], at: usize) -> Result<(char, usize)> {
    let simple = match bytes.get(at + 1) {
        Some(b'u') => return unicode_escape(bytes, at),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(&byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
        Some(_) => return Err(PageError::BadEscape { offset: at }),
        None => {
            return Err(PageError::Truncated {
                offset: bytes.len(),
                expected: "the rest of an escape",
            });
        }
    };
    Ok((simple, at + 2))
}

/// Where the text goes on after the escape at `at`, whatever character it means.
#[cold]
pub(super) fn escape_end(bytes: &[u8], at: usize) -> Result<usize> {
    if bytes.get(at + 1) == Some(&b'u') {
        code_unit(bytes, at)?;
        return Ok(at + 6);
    }
    Ok(escape(bytes, at)?.1)
}

fn unicode_escape(bytes: &[u8], at: usize) -> Result<(char, usize)> {
    let first = code_unit(bytes, at)?;
    let lone = PageError::LoneSurrogate {
        offset: at,
        found: first,
    };
    match first {
        0xd800..=0xdbff if bytes[at + 6..].starts_with(br"\u") => {
            let units = [first, code_unit(bytes, at + 6)?];
            match char::decode_utf16(units).next() {
                Some(Ok(character)) => Ok((character, at + 12)),
                _ => Err(lone),
            }
        }
        // A body that ends inside the pair is cut off, it is not a half pair.
        0xd800..=0xdbff if br"\u".starts_with(&bytes[at + 6..]) => Err(PageError::Truncated {
            offset: bytes.len(),
            expected: "the other half of a surrogate pair",
        }),
        unit => match char::from_u32(u32::from(unit)) {
            Some(character) => Ok((character, at + 6)),
            None => Err(lone),
        },
    }
}

/// The four hexadecimal digits of the `\u` at `at`.
fn code_unit(bytes: &[u8], at: usize) -> Result<u16> {
    let mut unit = 0;
    for index in at + 2..at + 6 {
        let digit = match bytes.get(index) {
            Some(&byte @ b'0'..=b'9') => byte - b'0',
            Some(&byte @ b'a'..=b'f') => byte - b'a' + 10,
            Some(&byte @ b'A'..=b'F') => byte - b'A' + 10,
            Some(_) => return Err(PageError::BadEscape { offset: at }),
            None => {
                return Err(PageError::Truncated {
                    offset: bytes.len(),
                    expected: "four hexadecimal digits",
                });
            }
        };
        unit = unit << 4 | u16::from(digit);
    }
    Ok(unit)
}

/// A text in canonical form, without quotes.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    write_escaped(text, &mut out);
    String::from_utf8(out).expect("escapes are ASCII")
}

/// Append a text in canonical form, without quotes.
pub(crate) fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let text = text.as_bytes();
    let mut start = 0;
    loop {
        let at = special(text, start);
        out.extend_from_slice(&text[start..at]);
        let Some(&byte) = text.get(at) else {
            return;
        };
        write_character(char::from(byte), out);
        start = at + 1;
    }
}

pub(super) fn write_character(character: char, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        control @ '\0'..='\u{1f}' => {
            let code = control as usize;
            out.extend_from_slice(b"\\u00");
            out.extend([HEX[code >> 4], HEX[code & 15]]);
        }
        plain => out.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}
