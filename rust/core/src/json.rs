//! A scanner over JSON text that finds where values stand and builds nothing.
//!
//! It checks all of RFC 8259 but the range of numbers, and refuses half surrogate pairs, which no UTF-8 text can hold. Nesting is
//! bounded, nothing recurses and nothing is allocated. Every byte is looked at once.
//!
//! The *canonical form* of a string escapes `"`, `\` and control characters (`\b \f \n \r \t`, otherwise `\u00xx`) and leaves all
//! else raw. A string without a backslash is in canonical form already, which is why strings can be copied as slices.

use std::borrow::Cow;

use crate::error::PageError;

/// How deep arrays and objects may be nested: one bit of a `u128` each.
pub(crate) const DEPTH_MAX: usize = 128;

type Result<T> = std::result::Result<T, PageError>;

/// A string literal: where the text between its quotes stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Whether it has a backslash.
    pub(crate) escaped: bool,
}

/// Reads one JSON text from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Neither white space nor a backslash has been read since this was last set; for [`Self::copy`].
    is_canonical: bool,
    /// Half surrogate pairs are let pass; [`Self::value`] still refuses the strings that have one.
    is_lenient: bool,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            at: 0,
            is_canonical: true,
            is_lenient: false,
        }
    }

    /// A scanner for texts of others, which may hold half surrogate pairs.
    pub(crate) fn lenient(text: &'a str) -> Self {
        Self {
            is_lenient: true,
            ..Self::new(text)
        }
    }

    /// How far it has read.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// What a literal means.
    #[inline]
    pub(crate) fn value(&self, literal: Text) -> Result<Cow<'a, str>> {
        if literal.escaped {
            return self.unescaped(literal).map(Cow::Owned);
        }
        Ok(Cow::Borrowed(&self.text[literal.start..literal.end]))
    }

    #[cold]
    fn unescaped(&self, literal: Text) -> Result<String> {
        let mut out = String::with_capacity(literal.end - literal.start);
        self.unescape(literal, |run, character| {
            out.push_str(run);
            out.extend(character);
        })?;
        Ok(out)
    }

    /// Append the canonical form of a literal.
    pub(crate) fn write_canonical(&self, literal: Text, out: &mut String) -> Result<()> {
        self.unescape(literal, |run, character| {
            out.push_str(run);
            if let Some(character) = character {
                write_character(character, out);
            }
        })
    }

    /// Append a literal in canonical form, with its quotes.
    pub(crate) fn write_string(&self, literal: Text, out: &mut String) -> Result<()> {
        out.push('"');
        if literal.escaped {
            self.write_canonical(literal, out)?;
        } else {
            out.push_str(self.raw(literal));
        }
        out.push('"');
        Ok(())
    }

    /// Read a value with `read` and append its text, without white space and with its strings in canonical form.
    #[inline]
    pub(crate) fn copy<T>(
        &mut self,
        out: &mut String,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (_, start) = self.peek("a value")?;
        self.is_canonical = true;
        let value = read(self)?;
        if self.is_canonical {
            out.push_str(&self.text[start..self.at]);
        } else {
            self.rewrite(start, out)?;
        }
        Ok(value)
    }

    /// Append the value that began at `start` and has been read.
    #[cold]
    fn rewrite(&self, start: usize, out: &mut String) -> Result<()> {
        let mut again = Scanner::new(self.text);
        again.at = start;
        while again.at < self.at {
            let byte = self.bytes[again.at];
            match byte {
                b'"' => {
                    let literal = again.string("a string")?;
                    self.write_string(literal, out)?;
                }
                b' ' | b'\n' | b'\r' | b'\t' => again.at += 1,
                _ => {
                    // Outside of strings there is nothing but ASCII.
                    out.push(char::from(byte));
                    again.at += 1;
                }
            }
        }
        Ok(())
    }

    fn raw(&self, literal: Text) -> &'a str {
        &self.text[literal.start..literal.end]
    }

    /// Call `part` with each stretch that has no backslash and the character that the escape after it means.
    fn unescape(&self, literal: Text, mut part: impl FnMut(&str, Option<char>)) -> Result<()> {
        let mut start = literal.start;
        while let Some(length) = self.text[start..literal.end].find('\\') {
            let (character, next) = escape(self.bytes, start + length)?;
            part(&self.text[start..start + length], Some(character));
            start = next;
        }
        part(&self.text[start..literal.end], None);
        Ok(())
    }

    /// Skip white space and look at the byte after it; its offset is the second part.
    #[inline]
    pub(crate) fn peek(&mut self, expected: &'static str) -> Result<(u8, usize)> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok((byte, self.at));
            }
            self.is_canonical = false;
            self.at += 1;
        }
        Err(self.truncated(expected))
    }

    /// Read a string literal where one must stand.
    #[inline]
    pub(crate) fn string(&mut self, expected: &'static str) -> Result<Text> {
        let (byte, offset) = self.peek(expected)?;
        if byte != b'"' {
            return Err(unexpected(offset, byte, expected));
        }
        let start = offset + 1;
        let end = special(self.bytes, start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Text {
                start,
                end,
                escaped: false,
            });
        }
        self.string_with_escapes(start, end)
    }

    /// The rest of a string, from the first byte that is not plain.
    #[cold]
    fn string_with_escapes(&mut self, start: usize, mut at: usize) -> Result<Text> {
        loop {
            match self.bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') if self.is_lenient => at = escape_end(self.bytes, at)?,
                Some(b'\\') => at = escape(self.bytes, at)?.1,
                Some(&found) => return Err(PageError::ControlCharacter { offset: at, found }),
                None => return Err(self.truncated("the end of a string")),
            }
            at = special(self.bytes, at);
        }
        self.at = at + 1;
        self.is_canonical = false;
        Ok(Text {
            start,
            end: at,
            escaped: true,
        })
    }

    /// Read a number where one must stand.
    #[inline]
    pub(crate) fn number(&mut self, expected: &'static str) -> Result<Number<'a>> {
        let (byte, start) = self.peek(expected)?;
        let negative = byte == b'-';
        if negative {
            self.at += 1;
        } else if !byte.is_ascii_digit() {
            return Err(unexpected(start, byte, expected));
        }
        let mut mantissa = 0;
        let mut digits = 1;
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            digits = self.digits(&mut mantissa)?;
        }
        let mut exponent = 0;
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            let places = self.digits(&mut mantissa)?;
            digits += places;
            exponent = -i64::try_from(places).unwrap_or(i64::MAX);
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            let sign = self.bytes.get(self.at).copied();
            if let Some(b'+' | b'-') = sign {
                self.at += 1;
            }
            let mut power = 0;
            // More digits than fit stand for a power that is as good as the largest one.
            if self.digits(&mut power)? > DIGITS_EXACT {
                power = u64::MAX;
            }
            let power = i64::try_from(power).unwrap_or(i64::MAX);
            exponent = exponent.saturating_add(if sign == Some(b'-') { -power } else { power });
        }
        Ok(Number {
            text: &self.text[start..self.at],
            negative,
            mantissa,
            digits,
            exponent,
        })
    }

    /// Read digits, at least one, and add them to a value. Gives how many there are.
    #[inline]
    fn digits(&mut self, value: &mut u64) -> Result<usize> {
        let start = self.at;
        while let Some(&byte) = self.bytes.get(self.at)
            && byte.is_ascii_digit()
        {
            *value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        if self.at > start {
            return Ok(self.at - start);
        }
        match self.bytes.get(start) {
            Some(&found) => Err(unexpected(start, found, "a digit")),
            None => Err(self.truncated("a digit")),
        }
    }

    /// Read `null` if it stands here.
    pub(crate) fn null(&mut self) -> Result<bool> {
        let is_null = self.peek("a value")?.0 == b'n';
        if is_null {
            self.word("null")?;
        }
        Ok(is_null)
    }

    /// Read `true`, `false` or `null`.
    pub(crate) fn word(&mut self, word: &'static str) -> Result<()> {
        for expected in word.bytes() {
            match self.bytes.get(self.at) {
                Some(&found) if found == expected => self.at += 1,
                Some(&found) => return Err(unexpected(self.at, found, word)),
                None => return Err(self.truncated(word)),
            }
        }
        Ok(())
    }

    /// Read an object; `member` is called with each name and must read its value. Gives the offset of the opening brace.
    #[inline]
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Text) -> Result<()>,
    ) -> Result<usize> {
        let start = self.open(b'{', "an object")?;
        if self.peek("a name or }")?.0 == b'}' {
            self.at += 1;
            return Ok(start);
        }
        loop {
            let name = self.string("a name in quotes")?;
            self.open(b':', ": after a name")?;
            member(self, name)?;
            if !self.goes_on(b'}', ", or }")? {
                return Ok(start);
            }
        }
    }

    /// Read an array; `element` must read each of its values.
    #[inline]
    pub(crate) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.open(b'[', "an array")?;
        if self.peek("a value or ]")?.0 == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.goes_on(b']', ", or ]")? {
                return Ok(());
            }
        }
    }

    #[inline]
    fn open(&mut self, byte: u8, expected: &'static str) -> Result<usize> {
        let (found, offset) = self.peek(expected)?;
        if found != byte {
            return Err(unexpected(offset, found, expected));
        }
        self.at += 1;
        Ok(offset)
    }

    /// Read the opening byte of an object or an array, and the closing one if nothing stands between them. False then.
    #[inline]
    pub(crate) fn opens(&mut self, open: u8, close: u8) -> Result<bool> {
        self.open(open, "an object or an array")?;
        let is_empty = self.peek("a value or the end")?.0 == close;
        self.at += usize::from(is_empty);
        Ok(!is_empty)
    }

    /// Read a comma (true) or the closing byte (false).
    #[inline]
    pub(crate) fn goes_on(&mut self, close: u8, expected: &'static str) -> Result<bool> {
        let (found, offset) = self.peek(expected)?;
        if found != b',' && found != close {
            return Err(unexpected(offset, found, expected));
        }
        self.at += 1;
        Ok(found == b',')
    }

    /// Read past one value of any type.
    ///
    /// This is where most of the time of reading goes. So the place is kept in a variable, not in `self`, and what is rare is done by
    /// the functions that read values.
    pub(crate) fn skip(&mut self) -> Result<()> {
        let bytes = self.bytes;
        // Bit i tells whether level i is an object; the loop replaces recursion.
        let mut objects = 0_u128;
        let mut depth = 0;
        let mut is_name = false;
        let mut blanks = 0;
        let mut at = self.at;
        loop {
            at = skip_blanks(bytes, at, &mut blanks);
            match bytes.get(at) {
                Some(b'"') => {
                    let end = special(bytes, at + 1);
                    if bytes.get(end) == Some(&b'"') {
                        at = end + 1;
                    } else {
                        at = self.after(at, |scanner| scanner.string("a string").map(drop))?;
                    }
                    if is_name {
                        at = skip_blanks(bytes, at, &mut blanks);
                        if bytes.get(at) != Some(&b':') {
                            return self
                                .after(at, |scanner| scanner.open(b':', ": after a name").map(drop))
                                .map(drop);
                        }
                        at += 1;
                        is_name = false;
                        continue;
                    }
                }
                Some(_) if is_name => {
                    return self
                        .after(at, |scanner| scanner.string("a name in quotes").map(drop))
                        .map(drop);
                }
                Some(&byte @ (b'-' | b'0'..=b'9')) => {
                    let whole = at + usize::from(byte == b'-');
                    let mut end = skip_digits(bytes, whole);
                    let mut is_plain = end == whole + 1 || end > whole && bytes[whole] != b'0';
                    if bytes.get(end) == Some(&b'.') {
                        let fraction = end + 1;
                        end = skip_digits(bytes, fraction);
                        is_plain &= end > fraction;
                    }
                    if is_plain && !matches!(bytes.get(end), Some(b'e' | b'E')) {
                        at = end;
                    } else {
                        at = self.after(at, |scanner| scanner.number("a number").map(drop))?;
                    }
                }
                Some(&byte @ (b'{' | b'[')) => {
                    if depth == DEPTH_MAX {
                        return Err(PageError::TooDeep {
                            offset: at,
                            max: DEPTH_MAX,
                        });
                    }
                    let is_object = byte == b'{';
                    let close = if is_object { b'}' } else { b']' };
                    at = skip_blanks(bytes, at + 1, &mut blanks);
                    if bytes.get(at) == Some(&close) {
                        at += 1;
                    } else {
                        objects = objects << 1 | u128::from(is_object);
                        depth += 1;
                        is_name = is_object;
                        continue;
                    }
                }
                Some(b't') => at = self.after(at, |scanner| scanner.word("true"))?,
                Some(b'f') => at = self.after(at, |scanner| scanner.word("false"))?,
                Some(b'n') => at = self.after(at, |scanner| scanner.word("null"))?,
                Some(&found) => return Err(unexpected(at, found, "a value")),
                None => return Err(self.truncated("a value")),
            }
            // A value has ended: close what ends with it, or go on to the next one.
            loop {
                if depth == 0 {
                    self.is_canonical &= blanks == 0;
                    self.at = at;
                    return Ok(());
                }
                at = skip_blanks(bytes, at, &mut blanks);
                let is_object = objects & 1 == 1;
                let close = if is_object { b'}' } else { b']' };
                match bytes.get(at) {
                    Some(b',') => {
                        at += 1;
                        is_name = is_object;
                        break;
                    }
                    Some(&byte) if byte == close => at += 1,
                    _ => {
                        let expected = if is_object { ", or }" } else { ", or ]" };
                        return self
                            .after(at, |scanner| scanner.goes_on(close, expected).map(drop))
                            .map(drop);
                    }
                }
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    /// Read what stands at `at` with `read`, and give where the text goes on.
    fn after(&mut self, at: usize, read: impl FnOnce(&mut Self) -> Result<()>) -> Result<usize> {
        self.at = at;
        read(self)?;
        Ok(self.at)
    }

    /// Read a name and the colon after it.
    #[inline]
    pub(crate) fn name(&mut self) -> Result<Text> {
        let name = self.string("a name in quotes")?;
        self.open(b':', ": after a name")?;
        Ok(name)
    }

    /// Check that nothing but white space follows.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.peek("the end") {
            Ok((_, offset)) => Err(PageError::TrailingBytes { offset }),
            Err(_) => Ok(()),
        }
    }

    #[cold]
    fn truncated(&self, expected: &'static str) -> PageError {
        PageError::Truncated {
            offset: self.bytes.len(),
            expected,
        }
    }
}

#[cold]
fn unexpected(offset: usize, found: u8, expected: &'static str) -> PageError {
    PageError::Unexpected {
        offset,
        found,
        expected,
    }
}

/// How the type of the value that begins with a byte is called; none if no value begins so.
pub(crate) fn kind(byte: u8) -> Option<&'static str> {
    Some(match byte {
        b'"' => "a string",
        b'-' | b'0'..=b'9' => "a number",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        b'{' => "an object",
        b'[' => "an array",
        _ => return None,
    })
}

/// The first quote, backslash or control character from `start` on; the length if there is none.
///
/// Most strings are short, so it begins with a word of sixteen bytes, which tells the place at once: how long a string is cannot be
/// guessed, and a branch for each eight bytes would be guessed wrong too often.
#[inline]
fn special(bytes: &[u8], start: usize) -> usize {
    if let Some(word) = bytes.get(start..).and_then(<[u8]>::first_chunk) {
        let marks = special_in_word(u128::from_le_bytes(*word));
        if marks != 0 {
            return start + (marks.trailing_zeros() / 8) as usize;
        }
    }
    special_far(bytes, start)
}

/// The same for longer strings: a few words, then blocks, which only tell whether there is one.
#[inline(never)]
fn special_far(bytes: &[u8], start: usize) -> usize {
    let mut rest = &bytes[start..];
    loop {
        for _ in 0..4 {
            let Some((word, after)) = rest.split_first_chunk() else {
                let plain = rest.iter().take_while(|byte| !is_special(**byte)).count();
                return bytes.len() - rest.len() + plain;
            };
            let marks = special_in_word(u128::from_le_bytes(*word));
            if marks != 0 {
                return bytes.len() - rest.len() + (marks.trailing_zeros() / 8) as usize;
            }
            rest = after;
        }
        while let Some((block, after)) = rest.split_first_chunk::<64>() {
            // Without an early exit, so that the compiler makes vector code of it.
            let has_special = block
                .iter()
                .fold(false, |has, byte| has | is_special(*byte));
            if has_special {
                break;
            }
            rest = after;
        }
    }
}

/// Where the next byte stands that is no white space. Counts what is passed.
#[inline]
fn skip_blanks(bytes: &[u8], mut at: usize, blanks: &mut usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
        *blanks += 1;
    }
    at
}

#[inline]
fn skip_digits(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        const ONES: u64 = u64::MAX / 255;
        let digits = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'0'));
        let others = (((digits & (ONES * 0x7f)) + ONES * 0x76) | digits) & (ONES * 0x80);
        if others != 0 {
            return at + (others.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// A word whose lowest set bit is the high bit of the first special byte; 0 if there is none.
///
/// `x - 0x01..` sets the high bit of a zero byte, and of bytes after it at worst, never before (Hacker's Delight, 6-1).
#[inline]
fn special_in_word(word: u128) -> u128 {
    const ONES: u128 = u128::MAX / 255;
    let below = |word: u128, limit: u8| word.wrapping_sub(ONES * u128::from(limit)) & !word;
    let quote_or_control = below(word ^ (ONES * 2), 0x21);
    let backslash = below(word ^ (ONES * u128::from(b'\\')), 1);
    (quote_or_control | backslash) & (ONES * 0x80)
}

/// Changing bit 1 puts the quote, 0x22, right after the control characters, so that one comparison finds them all.
#[inline]
fn is_special(byte: u8) -> bool {
    let is_quote_or_control = byte ^ 2 <= 0x20;
    is_quote_or_control || byte == b'\\'
}

/// The character that the escape at `at` means, and where the text goes on.
fn escape(bytes: &[u8], at: usize) -> Result<(char, usize)> {
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
fn escape_end(bytes: &[u8], at: usize) -> Result<usize> {
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

/// Append a text in canonical form, without quotes.
pub(crate) fn write_escaped(text: &str, out: &mut String) {
    let mut start = 0;
    loop {
        let at = special(text.as_bytes(), start);
        out.push_str(&text[start..at]);
        let Some(&byte) = text.as_bytes().get(at) else {
            return;
        };
        write_character(char::from(byte), out);
        start = at + 1;
    }
}

fn write_character(character: char, out: &mut String) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        control @ '\0'..='\u{1f}' => {
            let code = control as usize;
            out.push_str("\\u00");
            out.push(HEX[code >> 4]);
            out.push(HEX[code & 15]);
        }
        plain => out.push(plain),
    }
}

/// What a text in canonical form means.
pub(crate) fn unescape_canonical(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let literal = Text {
        start: 0,
        end: text.len(),
        escaped: true,
    };
    match Scanner::new(text).value(literal) {
        Ok(value) => value,
        Err(error) => unreachable!("a page holds canonical text only: {error}"),
    }
}

/// Digits that a `u64` always holds, whatever they are.
const DIGITS_EXACT: usize = 18;

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
    text: &'a str,
    negative: bool,
    /// All digits before the exponent as one integer; meaningless if there are more than [`DIGITS_EXACT`].
    mantissa: u64,
    digits: usize,
    /// The power of ten by which to multiply the mantissa.
    exponent: i64,
}

impl<'a> Number<'a> {
    /// The number as it is written.
    #[inline]
    pub(crate) fn text(&self) -> &'a str {
        self.text
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
        let mantissa = self.text.trim_start_matches('-');
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
