//! From the text of a pattern to its alternatives: sets of fields that must all match.
//!
//! `$or` and a field that may be absent or have a value are resolved here, so that what runs for each record has no choice left in it.

use crate::error::PageError;
use crate::filter::value::{Bound, Decimal, Test};
use crate::json::{DEPTH_MAX, Scanner};

/// A pattern with more alternatives than this is refused.
pub(crate) const ALTERNATIVES_MAX: usize = 1024;

/// Names that no field inside of `$or` may have: those of operators.
const RESERVED: [&str; 24] = [
    "exactly",
    "equals-ignore-case",
    "prefix",
    "suffix",
    "anything-but",
    "exists",
    "wildcard",
    "numeric",
    "cidr",
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "regex",
    "not-wildcard",
    "not-equals-ignore-case",
    "date-after",
    "date-on-or-after",
    "date-before",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
    "ip-address-not-in-range",
];

/// What is wrong with a pattern.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) offset: usize,
    pub(crate) what: String,
}

impl From<PageError> for Fault {
    fn from(error: PageError) -> Self {
        // The place is told beside it.
        let text = error.to_string();
        let what = text.split_once(": ").map_or(&*text, |(_, what)| what);
        Self {
            offset: error.offset(),
            what: format!("it is not JSON: {what}"),
        }
    }
}

type Result<T> = std::result::Result<T, Fault>;

/// What a field must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    Absent,
    OneOf(Vec<Test>),
}

/// Fields that must all match, each with the names that lead to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alternative {
    pub(crate) fields: Vec<(Vec<String>, Need)>,
}

impl Alternative {
    /// Adds a field; one that is there already is replaced.
    fn put(&mut self, path: &[String], need: Need) {
        match self.fields.iter_mut().find(|(other, _)| other == path) {
            Some((_, old)) => *old = need,
            None => self.fields.push((path.to_vec(), need)),
        }
    }
}

/// A pattern as it is written.
enum Field {
    Object(Object),
    Or(Vec<Object>),
    Values { tests: Vec<Test>, absent: bool },
}

type Object = Vec<(String, Field)>;

/// Reads a pattern.
pub(crate) fn parse(text: &str) -> Result<Vec<Alternative>> {
    let mut parser = Parser {
        scanner: Scanner::new(text.as_bytes()),
        depth: 0,
    };
    let object = parser.object(false)?;
    parser.scanner.end()?;
    let mut alternatives = vec![Alternative::default()];
    expand(&object, &mut Vec::new(), &mut alternatives)?;
    Ok(alternatives)
}

/// Adds an object's fields to each of the alternatives so far.
fn expand(
    object: &Object,
    path: &mut Vec<String>,
    alternatives: &mut Vec<Alternative>,
) -> Result<()> {
    for (name, field) in object {
        match field {
            Field::Object(object) => {
                path.push(name.clone());
                expand(object, path, alternatives)?;
                path.pop();
            }
            Field::Or(objects) => {
                let mut all = Vec::new();
                for object in objects {
                    let mut own = alternatives.clone();
                    expand(object, path, &mut own)?;
                    all.append(&mut own);
                    check_count(all.len())?;
                }
                *alternatives = all;
            }
            Field::Values { tests, absent } => {
                path.push(name.clone());
                let count = alternatives.len();
                if *absent && !tests.is_empty() {
                    check_count(2 * count)?;
                    alternatives.extend_from_within(..);
                }
                for (index, alternative) in alternatives.iter_mut().enumerate() {
                    let need = if *absent && index < count {
                        Need::Absent
                    } else {
                        Need::OneOf(tests.clone())
                    };
                    alternative.put(path, need);
                }
                path.pop();
            }
        }
    }
    Ok(())
}

fn check_count(count: usize) -> Result<()> {
    if count <= ALTERNATIVES_MAX {
        return Ok(());
    }
    Err(Fault {
        offset: 0,
        what: format!("its alternatives have more than {ALTERNATIVES_MAX} combinations"),
    })
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    depth: usize,
}

impl Parser<'_> {
    fn fault<T>(&mut self, what: &str) -> Result<T> {
        Err(Fault {
            offset: self.scanner.offset(),
            what: what.into(),
        })
    }

    fn first_byte(&mut self) -> Result<u8> {
        Ok(self.scanner.peek("a value")?.0)
    }

    /// An object of fields, at least one. Of fields of the same name the last one counts.
    fn object(&mut self, in_or: bool) -> Result<Object> {
        if self.first_byte()? != b'{' {
            return self.fault("a pattern must be an object");
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fault("it is nested too deeply");
        }
        let mut object = Object::new();
        let mut more = self.scanner.opens(b'{', b'}')?;
        while more {
            let name = self.scanner.name()?;
            let name = self.scanner.value(name)?.into_owned();
            if in_or && RESERVED.contains(&name.as_str()) {
                return self.fault("a field inside of $or must not be named as an operator");
            }
            let field = match (name.as_str(), self.first_byte()?) {
                ("$or", _) => Field::Or(self.alternatives()?),
                (_, b'{') => Field::Object(self.object(in_or)?),
                (_, b'[') => self.values()?,
                _ => return self.fault("the value of a field must be an object or a list"),
            };
            object.retain(|(other, _)| *other != name);
            object.push((name, field));
            more = self.scanner.goes_on(b'}', ", or }")?;
        }
        if object.is_empty() {
            return self.fault("an object must have a field");
        }
        self.depth -= 1;
        Ok(object)
    }

    /// What stands in `$or`: two or more objects.
    fn alternatives(&mut self) -> Result<Vec<Object>> {
        if self.first_byte()? != b'[' {
            return self.fault("$or must be a list");
        }
        let mut objects = Vec::new();
        let mut more = self.scanner.opens(b'[', b']')?;
        while more {
            objects.push(self.object(true)?);
            more = self.scanner.goes_on(b']', ", or ]")?;
        }
        if objects.len() < 2 {
            return self.fault("$or must have two objects or more");
        }
        Ok(objects)
    }

    /// A list of values and operators, of which one must match.
    fn values(&mut self) -> Result<Field> {
        let (mut tests, mut absent) = (Vec::new(), false);
        let mut more = self.scanner.opens(b'[', b']')?;
        if !more {
            return self.fault("a list must have a value");
        }
        while more {
            match self.first_byte()? {
                b'{' => match self.operator()? {
                    Some(test) => tests.push(test),
                    None => absent = true,
                },
                b'[' => {
                    return self
                        .fault("a list must hold texts, numbers, true, false, null or operators");
                }
                b'"' => tests.push(Test::Text(self.text()?)),
                b't' => tests.push(self.word("true", Test::True)?),
                b'f' => tests.push(self.word("false", Test::False)?),
                b'n' => tests.push(self.word("null", Test::Null)?),
                _ => tests.push(Test::Number(self.number()?)),
            }
            more = self.scanner.goes_on(b']', ", or ]")?;
        }
        Ok(Field::Values { tests, absent })
    }

    fn word(&mut self, word: &'static str, test: Test) -> Result<Test> {
        self.scanner.word(word)?;
        Ok(test)
    }

    fn text(&mut self) -> Result<Box<str>> {
        let text = self.scanner.string("a text")?;
        Ok(self.scanner.value(text)?.into())
    }

    fn number(&mut self) -> Result<Box<str>> {
        Ok(self.scanner.number("a number")?.text().into())
    }

    /// `{"prefix": "us-"}`; None for `{"exists": false}`.
    fn operator(&mut self) -> Result<Option<Test>> {
        if !self.scanner.opens(b'{', b'}')? {
            return self.fault("an operator must have a name");
        }
        let name = self.scanner.name()?;
        let name = self.scanner.value(name)?.into_owned();
        let test = match name.as_str() {
            "exists" => match self.first_byte()? {
                b't' => Some(self.word("true", Test::Exists)?),
                b'f' => {
                    self.scanner.word("false")?;
                    None
                }
                _ => return self.fault("exists must be true or false"),
            },
            "prefix" => Some(Test::Prefix(self.text_of("prefix must be a text")?)),
            "suffix" => Some(Test::Suffix(self.text_of("suffix must be a text")?)),
            "equals-ignore-case" => Some(Test::ignore_case(
                &self.text_of("equals-ignore-case must be a text")?,
            )),
            "numeric" => Some(self.numeric()?),
            "anything-but" => Some(self.anything_but()?),
            _ => {
                return self.fault(
                    "the operators are prefix, suffix, equals-ignore-case, anything-but, numeric and exists",
                );
            }
        };
        if self.scanner.goes_on(b'}', "}")? {
            return self.fault("an object in a list must have one operator");
        }
        Ok(test)
    }

    fn text_of(&mut self, expected: &str) -> Result<Box<str>> {
        if self.first_byte()? != b'"' {
            return self.fault(expected);
        }
        self.text()
    }

    /// `["=", 5]`, `[">", 0]`, `[">", 0, "<=", 5]`.
    fn numeric(&mut self) -> Result<Test> {
        const FORM: &str = r#"numeric must be a list such as ["=", 5], [">", 0] or [">", 0, "<=", 5], the lower number first"#;
        if self.first_byte()? != b'[' || !self.scanner.opens(b'[', b']')? {
            return self.fault(FORM);
        }
        let (mut low, mut high) = (None, None);
        loop {
            let comparison = self.text_of(FORM)?;
            if !self.scanner.goes_on(b']', ", or ]")?
                || !matches!(self.first_byte()?, b'-' | b'0'..=b'9')
            {
                return self.fault(FORM);
            }
            let bound = Bound {
                number: Decimal::of(&self.number()?).kept(),
                inclusive: comparison.ends_with('='),
            };
            let is_last = !self.scanner.goes_on(b']', ", or ]")?;
            match &*comparison {
                "=" if low.is_none() && is_last => {
                    return Ok(Test::Numeric {
                        low: Some(bound.clone()),
                        high: Some(bound),
                    });
                }
                ">" | ">=" if low.is_none() => low = Some(bound),
                "<" | "<=" if is_last => high = Some(bound),
                _ => return self.fault(FORM),
            }
            if is_last {
                break;
            }
        }
        if let (Some(low), Some(high)) = (&low, &high)
            && low.number.compare(&high.number).is_ge()
        {
            return self.fault("the lower number of numeric must be less than the upper one");
        }
        Ok(Test::Numeric { low, high })
    }

    /// One text or number, or a list of either.
    fn anything_but(&mut self) -> Result<Test> {
        const FORM: &str =
            "anything-but must be a text, a number, or a list of texts or of numbers";
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        let mut one = |parser: &mut Self| -> Result<()> {
            match parser.first_byte()? {
                b'"' => texts.push(parser.text()?),
                b'-' | b'0'..=b'9' => numbers.push(parser.number()?),
                _ => return parser.fault(FORM),
            }
            Ok(())
        };
        if self.first_byte()? == b'[' {
            let mut more = self.scanner.opens(b'[', b']')?;
            while more {
                one(self)?;
                more = self.scanner.goes_on(b']', ", or ]")?;
            }
        } else {
            one(self)?;
        }
        match (texts.is_empty(), numbers.is_empty()) {
            (false, true) => Ok(Test::AnythingButTexts(texts.into())),
            (true, false) => Ok(Test::AnythingButNumbers(numbers.into())),
            _ => self.fault(FORM),
        }
    }
}
