//! Bodies of answers in every form that JSON allows.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use streamcore::{Format, Page, PageError};

/// Spells JSON in as many ways as there are, driven by random bytes.
pub(crate) struct Speller {
    pub(crate) choices: Vec<u8>,
    pub(crate) next: usize,
}

impl Speller {
    pub(crate) fn choose(&mut self, among: usize) -> usize {
        self.next += 1;
        usize::from(self.choices[self.next % self.choices.len()]) % among
    }

    pub(crate) fn space(&mut self) -> &'static str {
        ["", "", "", " ", "\n\t", "\r\n  "][self.choose(6)]
    }

    pub(crate) fn string(&mut self, text: &str) -> String {
        let mut out = String::from("\"");
        for character in text.chars() {
            let must = matches!(character, '"' | '\\' | '\0'..='\u{1f}');
            match (self.choose(12), character) {
                (0..6, '"' | '\\') => out.extend(['\\', character]),
                (0, '/') => out.push_str("\\/"),
                (1..6, '\n') => out.push_str("\\n"),
                (1..6, '\u{8}') => out.push_str("\\b"),
                (0, _) => character
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|unit| write!(out, "\\u{unit:04x}").unwrap()),
                (_, _) if must => write!(out, "\\u{:04X}", u32::from(character)).unwrap(),
                _ => out.push(character),
            }
        }
        out.push('"');
        out
    }

    /// Milliseconds as a number of seconds.
    pub(crate) fn seconds(&mut self, ms: i64) -> String {
        let sign = if ms < 0 { "-" } else { "" };
        let (whole, part) = (ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000);
        match self.choose(5) {
            0 => format!("{sign}{whole}.{part:03}"),
            1 => format!("{sign}{whole}.{part:03}00000000000000000000004"),
            2 => format!("{sign}{}E-3", ms.unsigned_abs()),
            3 => format!("{sign}{}.0e-03", ms.unsigned_abs()),
            _ => {
                let digits = ms.unsigned_abs().to_string();
                let power = i64::try_from(digits.len()).unwrap() - 4;
                format!("{sign}{}.{}0E{power}", &digits[..1], &digits[1..])
            }
        }
    }

    /// An object of these members, in some order, with strangers between them and an earlier value for some.
    pub(crate) fn object(&mut self, members: Vec<(&str, String)>) -> String {
        const STRANGERS: [&str; 5] = [
            r#"{"a":[1,{"b":[]}],"c":{}}"#,
            "-0.5e+7",
            r#"["\ud83d\ude00"]"#,
            "true",
            "null",
        ];
        let mut ordered: Vec<(String, String)> = Vec::new();
        for (name, value) in members {
            let at = self.choose(ordered.len() + 1);
            let name = if self.choose(8) == 0 {
                self.string(name)
            } else {
                format!("\"{name}\"")
            };
            ordered.insert(at, (name.clone(), value.clone()));
            if self.choose(6) == 0 {
                // The first of two members of one name does not count.
                let earlier = match value.as_bytes()[0] {
                    b'"' => "\"5\"".into(),
                    b'[' => "[]".into(),
                    b'0'..=b'9' | b'-' => "4".into(),
                    _ => value,
                };
                let before = self.choose(at + 1);
                ordered.insert(before, (name, earlier));
            }
        }
        if self.choose(2) == 0 {
            let at = self.choose(ordered.len() + 1);
            let stranger = STRANGERS[self.choose(5)];
            ordered.insert(at, (r#""EncryptionType\n""#.into(), stranger.into()));
        }
        let mut out = String::from("{");
        for (nth, (name, value)) in ordered.iter().enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            write!(
                out,
                "{comma}{}{name}{}:{}{value}{}",
                self.space(),
                self.space(),
                self.space(),
                self.space()
            )
            .unwrap();
        }
        out + "}"
    }

    pub(crate) fn array(&mut self, elements: &[String]) -> String {
        let mut out = format!("[{}", self.space());
        for (nth, element) in elements.iter().enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            write!(out, "{comma}{}{element}{}", self.space(), self.space()).unwrap();
        }
        out + "]"
    }
}

/// Whatever a body is cut off after, that is what is wrong with it.
pub(crate) fn assert_refused_where_cut_off(body: &str, format: Format) {
    let text = body.trim_end().as_bytes();
    for length in 0..text.len() {
        let error = Page::parse(text[..length].to_vec(), format).unwrap_err();
        let is_expected = match error {
            PageError::Truncated { offset, .. } => offset == length,
            // Cut in the middle of a character.
            PageError::NotUtf8 { offset } => offset < length && length - offset < 4,
            // Cut inside a number, before all of the exponent that makes it small.
            PageError::OutOfRange { offset, .. } => text[offset..length]
                .iter()
                .all(|byte| b"-.0123456789eE".contains(byte)),
            _ => false,
        };
        assert!(is_expected, "{error:?} at {length}");
    }
}

/// Bytes that take the place of others.
pub(crate) type Damage = Vec<(Index, u8)>;

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    vec((any::<Index>(), any::<u8>()), 1..4)
}

/// Parses a damaged body: a page only where it still is JSON, else an error that says where.
pub(crate) fn parse_damaged(body: String, damage: Damage, format: Format) -> Option<Page> {
    let mut bytes = body.into_bytes();
    for (index, byte) in damage {
        let at = index.index(bytes.len());
        bytes[at] = byte;
    }
    let model = serde_json::from_slice::<serde_json::Value>(&bytes);
    match Page::parse(bytes.clone(), format) {
        Ok(page) => {
            assert!(model.is_ok(), "serde_json: {}", model.unwrap_err());
            Some(page)
        }
        Err(error) => {
            assert!(error.offset() <= bytes.len() && !error.to_string().is_empty());
            None
        }
    }
}
