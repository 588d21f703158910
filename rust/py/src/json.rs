//! From the JSON text of an event to Python objects, as `json.loads` makes them.
//!
//! The text is the core's own: valid, without white space, nested no deeper than the core lets pass. So nothing is checked again, and a
//! text that is not like that is a bug, which panics. A name that comes again is the same `str` object.

use std::borrow::Cow;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString};

/// Places for names: enough for the attributes of a few tables, few enough to be made anew for each event.
const NAMES: usize = 64;

/// The value that a text of the core means.
pub(crate) fn loads<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    let mut walk = Walk {
        py,
        text,
        at: 0,
        names: [const { None }; NAMES],
    };
    walk.value()
}

struct Walk<'py, 'a> {
    py: Python<'py>,
    text: &'a str,
    at: usize,
    /// Names seen, each in the one place that its text says; a newer one takes the place of an older one.
    names: [Option<(&'a str, Bound<'py, PyString>)>; NAMES],
}

impl<'py, 'a> Walk<'py, 'a> {
    fn byte(&self) -> u8 {
        self.text.as_bytes()[self.at]
    }

    /// Whether the next byte is this one; then it is passed.
    fn passes(&mut self, byte: u8) -> bool {
        // A branch, since rustc 1.95 at opt-level 2 makes wrong code of the shorter `self.at += usize::from(is)`; the tests see it.
        if self.byte() != byte {
            return false;
        }
        self.at += 1;
        true
    }

    fn value(&mut self) -> PyResult<Bound<'py, PyAny>> {
        match self.byte() {
            b'"' => {
                let text = self.string();
                Ok(PyString::new(self.py, &text).into_any())
            }
            b'{' => self.object(),
            b'[' => self.array(),
            b't' => Ok(self.word("true", PyBool::new(self.py, true).to_owned().into_any())),
            b'f' => Ok(self.word("false", PyBool::new(self.py, false).to_owned().into_any())),
            b'n' => Ok(self.word("null", self.py.None().into_bound(self.py))),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str, value: Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        self.at += word.len();
        value
    }

    fn object(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let object = PyDict::new(self.py);
        self.at += 1;
        if self.passes(b'}') {
            return Ok(object.into_any());
        }
        loop {
            let name = self.name();
            self.at += 1;
            let value = self.value()?;
            object.set_item(name, value)?;
            if !self.passes(b',') {
                self.at += 1;
                return Ok(object.into_any());
            }
        }
    }

    fn array(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let array = PyList::empty(self.py);
        self.at += 1;
        if self.passes(b']') {
            return Ok(array.into_any());
        }
        loop {
            array.append(self.value()?)?;
            if !self.passes(b',') {
                self.at += 1;
                return Ok(array.into_any());
            }
        }
    }

    fn name(&mut self) -> Bound<'py, PyString> {
        let text = match self.string() {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => return PyString::new(self.py, &text),
        };
        let bytes = text.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        let (first, last) = ends.map_or((0, 0), |(first, last)| (*first, *last));
        let place = (usize::from(first) * 31 + usize::from(last) * 7 + bytes.len()) % NAMES;
        match &self.names[place] {
            Some((known, name)) if *known == text => name.clone(),
            _ => {
                let name = PyString::new(self.py, text);
                self.names[place] = Some((text, name.clone()));
                name
            }
        }
    }

    /// The text of the string literal that stands here; it is passed.
    fn string(&mut self) -> Cow<'a, str> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut end = start;
        while !matches!(bytes[end], b'"' | b'\\') {
            end += 1;
        }
        if bytes[end] == b'"' {
            self.at = end + 1;
            return Cow::Borrowed(&self.text[start..end]);
        }
        Cow::Owned(self.unescaped(start))
    }

    /// The text of a string literal with escapes: those of the canonical form, `\" \\ \b \f \n \r \t \u00xx`.
    #[cold]
    fn unescaped(&mut self, start: usize) -> String {
        let mut out = String::new();
        let mut characters = self.text[start..].char_indices();
        loop {
            let (offset, character) = characters.next().expect("the end of a string");
            match character {
                '"' => {
                    self.at = start + offset + 1;
                    return out;
                }
                '\\' => {
                    let (_, escape) = characters.next().expect("an escape");
                    out.push(match escape {
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'u' => {
                            let digits = characters.by_ref().take(4);
                            let code = digits.fold(0, |code, (_, digit)| {
                                code << 4 | digit.to_digit(16).expect("a hexadecimal digit")
                            });
                            char::from_u32(code).expect("a control character")
                        }
                        itself => itself,
                    });
                }
                plain => out.push(plain),
            }
        }
    }

    /// An int if the number is written as one, else a float.
    fn number(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let rest = &self.text.as_bytes()[self.at..];
        let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
        let length = rest.iter().position(is_end).unwrap_or(rest.len());
        let text = &self.text[self.at..self.at + length];
        self.at += length;
        if text.contains(['.', 'e', 'E']) {
            let number: f64 = text.parse().expect("a number");
            return Ok(PyFloat::new(self.py, number).into_any());
        }
        match text.parse::<i64>() {
            Ok(number) => Ok(PyInt::new(self.py, number).into_any()),
            Err(_) => self.py.get_type::<PyInt>().call1((text,)),
        }
    }
}
