//! A scanner over JSON text that finds where values stand and builds nothing.
//!
//! It checks all of RFC 8259 but the range of numbers, and refuses half surrogate pairs, which no UTF-8 text can hold. Nesting is
//! bounded, nothing recurses and nothing is allocated. Every byte is looked at once.
//!
//! The *canonical form* of a string escapes `"`, `\` and control characters (`\b \f \n \r \t`, otherwise `\u00xx`) and leaves all
//! else raw. A string without a backslash is in canonical form already, which is why strings can be copied as slices.

mod block;
mod escapes;
mod number;
mod quotes;
mod search;

use std::borrow::Cow;

use crate::error::PageError;
use crate::json::escapes::{escape, escape_end, write_character};
use crate::json::number::{DIGITS_EXACT, Decimal};
use crate::json::search::{plain_number_end, skip_blanks, special};

pub(crate) use crate::json::block::{Digits, ascii_end};
pub(crate) use crate::json::escapes::{escaped, write_escaped};
pub(crate) use crate::json::number::{Number, OutOfRange, short_number};
pub(crate) use crate::json::quotes::{Ends, Quotes, Search};

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
///
/// Outside of strings only ASCII is let pass. Whether what stands in strings is UTF-8 is looked at where a string is read as text, so
/// whoever keeps slices of the text has to know that all of it is.
#[derive(Debug)]
pub(crate) struct Scanner<'a, E = Search> {
    bytes: &'a [u8],
    at: usize,
    ends: E,
    /// Neither white space nor a backslash has been read since this was last set; for [`Self::copy`].
    is_canonical: bool,
    /// Half surrogate pairs are let pass; [`Self::value`] still refuses the strings that have one.
    is_lenient: bool,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            ends: Search,
            is_canonical: true,
            is_lenient: false,
        }
    }

    /// A scanner for texts of others, which may hold half surrogate pairs.
    pub(crate) fn lenient(bytes: &'a [u8]) -> Self {
        Self {
            is_lenient: true,
            ..Self::new(bytes)
        }
    }
}

impl<'a, E: Ends> Scanner<'a, E> {
    /// The same with another way to find where strings end.
    pub(crate) fn with_ends<F: Ends>(self, ends: F) -> Scanner<'a, F> {
        Scanner {
            bytes: self.bytes,
            at: self.at,
            ends,
            is_canonical: self.is_canonical,
            is_lenient: self.is_lenient,
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
        self.text(literal.start, literal.end).map(Cow::Borrowed)
    }

    /// The same as bytes: names are compared with others, and need not be looked at.
    #[inline]
    pub(crate) fn value_bytes(&self, literal: Text) -> Result<Cow<'a, [u8]>> {
        if literal.escaped {
            let value = self.unescaped(literal)?;
            return Ok(Cow::Owned(value.into_bytes()));
        }
        Ok(Cow::Borrowed(self.raw(literal)))
    }

    /// A stretch as text.
    #[inline]
    fn text(&self, start: usize, end: usize) -> Result<&'a str> {
        str::from_utf8(&self.bytes[start..end]).map_err(|error| PageError::NotUtf8 {
            offset: start + error.valid_up_to(),
        })
    }

    #[cold]
    fn unescaped(&self, literal: Text) -> Result<String> {
        let mut out = String::with_capacity(literal.end - literal.start);
        let mut start = literal.start;
        while let Some((backslash, character, next)) = self.escape_from(start, literal.end)? {
            out.push_str(self.text(start, backslash)?);
            out.push(character);
            start = next;
        }
        out.push_str(self.text(start, literal.end)?);
        Ok(out)
    }

    /// Append the canonical form of a literal.
    pub(crate) fn write_canonical(&self, literal: Text, out: &mut Vec<u8>) -> Result<()> {
        let mut start = literal.start;
        while let Some((backslash, character, next)) = self.escape_from(start, literal.end)? {
            out.extend_from_slice(&self.bytes[start..backslash]);
            write_character(character, out);
            start = next;
        }
        out.extend_from_slice(&self.bytes[start..literal.end]);
        Ok(())
    }

    /// The first escape between two places: where it stands, what it means and where the text goes on.
    fn escape_from(&self, start: usize, end: usize) -> Result<Option<(usize, char, usize)>> {
        let mut bytes = self.bytes[start..end].iter();
        let Some(length) = bytes.position(|byte| *byte == b'\\') else {
            return Ok(None);
        };
        let (character, next) = escape(self.bytes, start + length)?;
        Ok(Some((start + length, character, next)))
    }

    /// Append a literal in canonical form, with its quotes.
    pub(crate) fn write_string(&self, literal: Text, out: &mut Vec<u8>) -> Result<()> {
        out.push(b'"');
        if literal.escaped {
            self.write_canonical(literal, out)?;
        } else {
            out.extend_from_slice(self.raw(literal));
        }
        out.push(b'"');
        Ok(())
    }

    /// Read a value with `read` and append its text, without white space and with its strings in canonical form.
    #[inline]
    pub(crate) fn copy<T>(
        &mut self,
        out: &mut Vec<u8>,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (_, start) = self.peek("a value")?;
        self.is_canonical = true;
        let value = read(self)?;
        if self.is_canonical {
            out.extend_from_slice(&self.bytes[start..self.at]);
        } else {
            self.rewrite(start, out)?;
        }
        Ok(value)
    }

    /// Append the value that began at `start` and has been read.
    #[cold]
    fn rewrite(&self, start: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut again = Self { at: start, ..*self };
        while again.at < self.at {
            let byte = self.bytes[again.at];
            match byte {
                b'"' => {
                    let literal = again.string("a string")?;
                    self.write_string(literal, out)?;
                }
                b' ' | b'\n' | b'\r' | b'\t' => again.at += 1,
                _ => {
                    out.push(byte);
                    again.at += 1;
                }
            }
        }
        Ok(())
    }

    /// What stands between the quotes of a literal.
    #[inline]
    pub(crate) fn raw(&self, literal: Text) -> &'a [u8] {
        &self.bytes[literal.start..literal.end]
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
        if let Some(end) = self.ends.close(self.bytes, offset) {
            self.at = end + 1;
            return Ok(Text {
                start,
                end,
                escaped: false,
            });
        }
        self.string_with_escapes(start)
    }

    /// The rest of a string that is not plain.
    #[cold]
    fn string_with_escapes(&mut self, start: usize) -> Result<Text> {
        let mut at = special(self.bytes, start);
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
    #[expect(
        clippy::inline_always,
        reason = "what it gives is large, and few callers need all of it"
    )]
    #[inline(always)]
    pub(crate) fn number(&mut self, expected: &'static str) -> Result<Number<'a>> {
        let (byte, start) = self.peek(expected)?;
        let negative = byte == b'-';
        if negative {
            self.at += 1;
        } else if !byte.is_ascii_digit() {
            return Err(unexpected(start, byte, expected));
        }
        let mut decimal = self.decimal()?;
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            decimal.exponent = decimal.exponent.saturating_add(self.power()?);
        }
        Ok(Number {
            text: &self.bytes[start..self.at],
            negative,
            decimal,
        })
    }

    /// Read a number from behind its sign to its exponent.
    #[inline]
    fn decimal(&mut self) -> Result<Decimal> {
        let word = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk);
        if let Some((decimal, bytes)) = word.and_then(Decimal::of_word) {
            self.at += bytes;
            return Ok(decimal);
        }
        self.long_decimal()
    }

    /// The same for one that is long, or at the end of the text, or wrong.
    #[cold]
    fn long_decimal(&mut self) -> Result<Decimal> {
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
        Ok(Decimal {
            mantissa,
            digits,
            exponent,
        })
    }

    /// Read the exponent of a number.
    #[inline(never)]
    fn power(&mut self) -> Result<i64> {
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
        Ok(if sign == Some(b'-') { -power } else { power })
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
    #[inline]
    pub(crate) fn skip(&mut self) -> Result<()> {
        self.skip_inside(0)
    }

    /// The same for a value inside of `above` arrays and objects, which count for how deep it may be.
    #[expect(
        clippy::inline_always,
        reason = "most values are strings, which are skipped without a call"
    )]
    #[inline(always)]
    pub(crate) fn skip_inside(&mut self, above: usize) -> Result<()> {
        if let Some(end) = self.ends.close(self.bytes, self.at) {
            self.at = end + 1;
            return Ok(());
        }
        self.skip_any(above)
    }

    /// The same, whatever its type.
    ///
    /// This is where most of the time of reading goes. So what it keeps is in variables, not in `self`, and what is rare is done by the
    /// functions that read values.
    fn skip_any(&mut self, above: usize) -> Result<()> {
        let bytes = self.bytes;
        let deepest = DEPTH_MAX - above;
        // What closes each of the levels around, and the innermost one. The loop replaces recursion.
        let mut closings = [0; DEPTH_MAX];
        let mut close = 0;
        let mut depth = 0;
        let mut at = self.at;
        loop {
            if let Some(end) = self.ends.close(bytes, at) {
                at = end + 1;
            } else {
                match bytes.get(at) {
                    Some(b'"') => {
                        at = self.after(at, |scanner| scanner.string("a string").map(drop))?;
                    }
                    Some(b'1'..=b'9') => {
                        at = match plain_number_end::<false>(bytes, at) {
                            Some(end) => end,
                            None => self.number_end(bytes, at)?,
                        }
                    }
                    Some(b'-' | b'0') => at = self.number_end(bytes, at)?,
                    Some(&byte @ (b'{' | b'[')) => {
                        if depth == deepest {
                            return Err(PageError::TooDeep {
                                offset: at,
                                max: DEPTH_MAX,
                            });
                        }
                        closings[depth] = close;
                        depth += 1;
                        close = closing(byte);
                        at = self.past_blanks(bytes, at + 1);
                        if bytes.get(at) != Some(&close) {
                            if byte == b'{' {
                                at = self.name_end(bytes, at)?;
                            }
                            continue;
                        }
                    }
                    Some(b't') => at = self.word_end(bytes, at, "true")?,
                    Some(b'f') => at = self.word_end(bytes, at, "false")?,
                    Some(b'n') => at = self.word_end(bytes, at, "null")?,
                    Some(b' ' | b'\n' | b'\r' | b'\t') => {
                        at = self.past_blanks(bytes, at);
                        continue;
                    }
                    Some(&found) => return Err(unexpected(at, found, "a value")),
                    None => return Err(self.truncated("a value")),
                }
            }
            if depth == 0 {
                self.at = at;
                return Ok(());
            }
            // A value has ended: close what ends with it, or go on to the next one.
            loop {
                match bytes.get(at) {
                    Some(b',') => {
                        at += 1;
                        if close == b'}' {
                            at = self.name_end(bytes, at)?;
                        }
                        break;
                    }
                    Some(&byte) if byte == close => {
                        at += 1;
                        depth -= 1;
                        close = closings[depth];
                        if depth == 0 {
                            self.at = at;
                            return Ok(());
                        }
                    }
                    Some(b' ' | b'\n' | b'\r' | b'\t') => at = self.past_blanks(bytes, at),
                    _ => {
                        let expected = if close == b'}' { ", or }" } else { ", or ]" };
                        return self
                            .after(at, |scanner| scanner.goes_on(close, expected).map(drop))
                            .map(drop);
                    }
                }
            }
        }
    }

    /// Where the number that begins at `at` ends.
    #[inline(never)]
    fn number_end(&mut self, bytes: &[u8], at: usize) -> Result<usize> {
        match plain_number_end::<true>(bytes, at) {
            Some(end) => Ok(end),
            None => self.after(at, |scanner| scanner.number("a number").map(drop)),
        }
    }

    /// Where the value of a member begins, whose name begins at `at`; blanks perhaps before either.
    #[inline]
    fn name_end(&mut self, bytes: &[u8], at: usize) -> Result<usize> {
        match self.plain_name_end(bytes, at) {
            Some(end) => Ok(end),
            None => self.name_end_far(bytes, at),
        }
    }

    /// The same if nothing is escaped in the name and nothing stands between.
    #[inline]
    fn plain_name_end(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let end = self.ends.close(bytes, at)?;
        if bytes.get(end + 1) == Some(&b':') {
            return Some(end + 2);
        }
        self.ends.reopen();
        None
    }

    #[inline(never)]
    fn name_end_far(&mut self, bytes: &[u8], at: usize) -> Result<usize> {
        let at = self.past_blanks(bytes, at);
        match self.plain_name_end(bytes, at) {
            Some(end) => Ok(end),
            None => self.after(at, |scanner| scanner.name_apart().map(drop)),
        }
    }

    #[inline]
    fn word_end(&mut self, bytes: &[u8], at: usize, word: &'static str) -> Result<usize> {
        if bytes[at..].starts_with(word.as_bytes()) {
            return Ok(at + word.len());
        }
        self.after(at, |scanner| scanner.word(word))
    }

    /// Where the next byte stands that is no white space.
    #[inline]
    fn past_blanks(&mut self, bytes: &[u8], at: usize) -> usize {
        if bytes.get(at).is_some_and(|byte| *byte > b' ') {
            return at;
        }
        let next = skip_blanks(bytes, at);
        self.is_canonical &= next == at;
        next
    }

    /// Read what stands at `at` with `read`, and give where the text goes on.
    #[cold]
    fn after(&mut self, at: usize, read: impl FnOnce(&mut Self) -> Result<()>) -> Result<usize> {
        self.at = at;
        read(self)?;
        Ok(self.at)
    }

    /// Read a name and the colon after it.
    #[inline]
    pub(crate) fn name(&mut self) -> Result<Text> {
        let start = self.at + 1;
        if let Some(end) = self.plain_name_end(self.bytes, self.at) {
            self.at = end;
            return Ok(Text {
                start,
                end: end - 2,
                escaped: false,
            });
        }
        self.name_apart()
    }

    /// The same where something stands between, or a name has escapes.
    #[cold]
    fn name_apart(&mut self) -> Result<Text> {
        let name = self.string("a name in quotes")?;
        self.open(b':', ": after a name")?;
        Ok(name)
    }

    /// Read the rest of a string without escapes, from behind its opening quote.
    pub(crate) fn plain_text_rest(&mut self) -> Option<Text> {
        let start = self.at;
        let end = special(self.bytes, start);
        if self.bytes.get(end) != Some(&b'"') {
            return None;
        }
        self.text(start, end).ok()?;
        self.at = end + 1;
        Some(Text {
            start,
            end,
            escaped: false,
        })
    }

    /// Go on at another place.
    pub(crate) fn go_to(&mut self, offset: usize) {
        self.at = offset;
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

/// What closes what a byte opens, an object or an array.
#[inline]
fn closing(open: u8) -> u8 {
    open + 2
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

/// What a text in canonical form means.
pub(crate) fn unescape_canonical(text: &[u8]) -> Cow<'_, str> {
    let literal = Text {
        start: 0,
        end: text.len(),
        escaped: text.contains(&b'\\'),
    };
    match Scanner::new(text).value(literal) {
        Ok(value) => value,
        Err(error) => unreachable!("a page holds canonical text only: {error}"),
    }
}
