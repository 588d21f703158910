//! Alternatives compiled into one tree of names, and its run over an event: one pass over the text, no value built.
//!
//! Each alternative is a bit. A node says which alternatives have a value of theirs at it or below it, and the run of a value at the node
//! gives those of them that it matches. An object combines its fields with "and". An array combines its elements with "or": so all that
//! an alternative wants inside of an array is found in one element, as in AWS's Event Ruler.
//!
//! `{"exists": false}` is a *probe*: a bit that a value at its node sets. It travels up to the node at which it is judged, see
//! [`Machine::new`], and takes its alternative away there.

use crate::error::PageError;
use crate::filter::pattern::{Alternative, Need};
use crate::filter::value::{Scalar, Test};
use crate::json::{DEPTH_MAX, Ends, Scanner};

type Result<T> = std::result::Result<T, PageError>;

/// Alternatives of one machine.
const ALTERNATIVES_MAX: usize = 64;
/// Probes of one machine. A single alternative of 4,096 characters has less.
const PROBES_MAX: usize = 128;

/// At most 64 alternatives, to be run together.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The first one is the root.
    nodes: Vec<Node>,
    all: u64,
    probes: usize,
}

/// A name of the patterns; by its place in `nodes`.
pub(crate) type NodeId = usize;

#[derive(Debug, Default)]
struct Node {
    children: Vec<Child>,
    /// A bit for the length of each child's name, of the lengths modulo 64.
    lengths: u64,
    /// What is asked of a value here, and by whom.
    tests: Vec<(Test, u64)>,
    /// Alternatives that want a value here.
    wanted_here: u64,
    /// Alternatives that want a value below.
    wanted_below: u64,
    /// Probes that a value here sets.
    probes: u128,
    /// Probes that are judged here, and what each takes away.
    judged: Vec<(u128, u64)>,
}

#[derive(Debug)]
struct Child {
    name: Box<str>,
    node: NodeId,
    /// Alternatives that speak of it, also only to want it absent.
    mentioned: u64,
}

/// What a run of a value gives.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    matched: u64,
    probes: u128,
}

impl Machine {
    /// Compiles as many alternatives as go into one machine, and takes them out.
    ///
    /// As in Event Ruler, the fields of an alternative are gone through in the order of their names. `{"exists": false}` is judged inside
    /// of the array elements that the fields before it have chosen: at the deepest node that one of those is below of, too.
    pub(crate) fn new(alternatives: &mut Vec<Alternative>) -> Self {
        let mut machine = Self {
            nodes: vec![Node::default()],
            all: 0,
            probes: 0,
        };
        for place in 0..ALTERNATIVES_MAX {
            let absent = |alternative: &Alternative| {
                let fields = alternative.fields.iter();
                fields.filter(|(_, need)| *need == Need::Absent).count()
            };
            match alternatives.last() {
                Some(next) if place == 0 || machine.probes + absent(next) <= PROBES_MAX => {}
                _ => break,
            }
            if let Some(alternative) = alternatives.pop() {
                machine.add(alternative, 1 << place);
            }
        }
        for node in &mut machine.nodes {
            node.children
                .sort_by(|left, right| left.name.cmp(&right.name));
            let lengths = node.children.iter().map(|child| child.name.len());
            node.lengths = lengths.fold(0, |lengths, length| lengths | 1 << (length % 64));
        }
        machine
    }

    fn add(&mut self, mut alternative: Alternative, bit: u64) {
        let fields = &mut alternative.fields;
        fields.sort_by_cached_key(|(path, _)| path.join(".").encode_utf16().collect::<Vec<_>>());
        let is_below =
            |deep: &[String], path: &[String]| deep.len() > path.len() && deep.starts_with(path);
        let wanted: Vec<&[String]> = fields
            .iter()
            .filter(|(_, need)| *need != Need::Absent)
            .map(|(path, _)| &**path)
            .collect();
        // A value is not an object too: it matches nothing.
        if wanted
            .iter()
            .any(|path| wanted.iter().any(|deep| is_below(deep, path)))
        {
            return;
        }
        self.all |= bit;
        let mut before: Vec<&[String]> = Vec::new();
        for (path, need) in &*fields {
            let node = self.walk(path, bit);
            match need {
                Need::OneOf(tests) => {
                    self.want(path, bit);
                    for test in tests {
                        self.test(node, test, bit);
                    }
                    before.push(path);
                }
                Need::Absent => {
                    let common = |other: &[String]| {
                        let same = path
                            .iter()
                            .zip(other)
                            .take_while(|(name, other)| name == other);
                        same.count().min(path.len() - 1).min(other.len() - 1)
                    };
                    let depth = before.iter().map(|other| common(other)).max().unwrap_or(0);
                    let judge = self.walk(&path[..depth], bit);
                    let probe = self.probe(judge, bit);
                    self.nodes[node].probes |= probe;
                }
            }
        }
    }

    /// The node of a path; made where there is none.
    fn walk(&mut self, path: &[String], bit: u64) -> NodeId {
        let mut node = 0;
        for name in path {
            let known = self.nodes[node]
                .children
                .iter_mut()
                .find(|child| *child.name == **name);
            node = if let Some(child) = known {
                child.mentioned |= bit;
                child.node
            } else {
                let fresh = self.nodes.len();
                self.nodes[node].children.push(Child {
                    name: name.as_str().into(),
                    node: fresh,
                    mentioned: bit,
                });
                self.nodes.push(Node::default());
                fresh
            };
        }
        node
    }

    fn want(&mut self, path: &[String], bit: u64) {
        for depth in 0..path.len() {
            let above = self.walk(&path[..depth], bit);
            self.nodes[above].wanted_below |= bit;
        }
        let node = self.walk(path, bit);
        self.nodes[node].wanted_here |= bit;
    }

    fn test(&mut self, node: NodeId, test: &Test, bit: u64) {
        let tests = &mut self.nodes[node].tests;
        match tests.iter_mut().find(|(known, _)| known == test) {
            Some((_, mask)) => *mask |= bit,
            None => tests.push((test.clone(), bit)),
        }
    }

    /// The probe that an alternative has judged at a node.
    fn probe(&mut self, judge: NodeId, bit: u64) -> u128 {
        let judged = &mut self.nodes[judge].judged;
        if let Some((probe, _)) = judged.iter().find(|(_, mask)| *mask == bit) {
            return *probe;
        }
        let probe = 1 << self.probes;
        self.probes += 1;
        judged.push((probe, bit));
        probe
    }

    /// Whether an alternative mentions a name at the root.
    pub(crate) fn root_has(&self, name: &str) -> bool {
        self.nodes[0].place(name.as_bytes()).is_some()
    }

    /// Whether an alternative tests the value of a name at the root, or its absence.
    pub(crate) fn wants_value_of(&self, name: &str) -> bool {
        let root = &self.nodes[0];
        let place = root.place(name.as_bytes());
        place.is_some_and(|place| self.nodes[root.children[place].node].is_leaf())
    }
}

impl Node {
    #[inline]
    fn place(&self, name: &[u8]) -> Option<usize> {
        // Most names are others, and most of those have other lengths.
        if self.lengths >> (name.len() % 64) & 1 == 0 {
            return None;
        }
        self.place_of_length(name)
    }

    fn place_of_length(&self, name: &[u8]) -> Option<usize> {
        if self.children.len() <= 8 {
            let mut children = self.children.iter();
            // Before a call compares the rest.
            return children.position(|child| {
                let known = child.name.as_bytes();
                known.len() == name.len() && known.first() == name.first() && known == name
            });
        }
        self.children
            .binary_search_by(|child| child.name.as_bytes().cmp(name))
            .ok()
    }

    fn wanted(&self) -> u64 {
        self.wanted_here | self.wanted_below
    }

    fn is_leaf(&self) -> bool {
        self.wanted_here != 0 || self.probes != 0
    }
}

/// A run of a machine over one event.
pub(crate) struct Run<'a> {
    machine: &'a Machine,
    /// Of the objects that are being read: what each child has given. Kept for its memory.
    outcomes: &'a mut Vec<Outcome>,
    depth: usize,
}

impl<'a> Run<'a> {
    pub(crate) fn new(machine: &'a Machine, outcomes: &'a mut Vec<Outcome>) -> Self {
        outcomes.clear();
        Self {
            machine,
            outcomes,
            depth: 0,
        }
    }

    /// Runs an event that is given member by member, and says whether it is accepted.
    ///
    /// `member` gives the outcome of each name at the root, or None where there is no telling: then no alternative that mentions it
    /// accepts the event.
    pub(crate) fn event(
        mut self,
        mut member: impl FnMut(&mut Self, &str, NodeId) -> Option<Outcome>,
    ) -> bool {
        let machine = self.machine;
        let mut lost = 0;
        self.open(0);
        for (place, child) in machine.nodes[0].children.iter().enumerate() {
            match member(&mut self, &child.name, child.node) {
                Some(outcome) => self.outcomes[place] = outcome,
                None => lost |= child.mentioned,
            }
        }
        self.close(0, 0).matched & !lost != 0
    }

    /// Runs an event that is one JSON text, an object, and says whether it is accepted.
    pub(crate) fn text(mut self, scanner: &mut Scanner<'_>) -> Result<bool> {
        let (found, offset) = scanner.peek("an object")?;
        if found != b'{' {
            return Err(PageError::Unexpected {
                offset,
                found,
                expected: "an object",
            });
        }
        self.open(0);
        self.members(scanner, 0, 0)?;
        Ok(self.close(0, 0).matched != 0)
    }

    /// Makes room for what a node's children give, as if none were there.
    fn open(&mut self, node: NodeId) -> usize {
        let base = self.outcomes.len();
        let children = self.machine.nodes[node].children.len();
        self.outcomes.resize(base + children, Outcome::default());
        base
    }

    /// Combines what a node's children have given.
    fn close(&self, node: NodeId, base: usize) -> Outcome {
        let machine = self.machine;
        let here = &machine.nodes[node];
        let mut matched = if node == 0 {
            machine.all
        } else {
            here.wanted_below
        };
        let mut probes = 0;
        for (child, outcome) in here.children.iter().zip(&self.outcomes[base..]) {
            matched &= outcome.matched | !machine.nodes[child.node].wanted();
            probes |= outcome.probes;
        }
        for (probe, mask) in &here.judged {
            if probes & probe != 0 {
                matched &= !mask;
                probes &= !probe;
            }
        }
        Outcome { matched, probes }
    }

    /// Reads a value of any type.
    pub(crate) fn value<E: Ends>(
        &mut self,
        scanner: &mut Scanner<'_, E>,
        node: NodeId,
    ) -> Result<Outcome> {
        let here = &self.machine.nodes[node];
        let (byte, offset) = scanner.peek("a value")?;
        match byte {
            b'{' if here.children.is_empty() => {
                scanner.skip_inside(self.depth).map(|()| Outcome::default())
            }
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(PageError::TooDeep {
                        offset,
                        max: DEPTH_MAX,
                    });
                }
                let outcome = if byte == b'{' {
                    let base = self.open(node);
                    self.members(scanner, node, base)?;
                    let outcome = self.close(node, base);
                    self.outcomes.truncate(base);
                    outcome
                } else {
                    self.elements(scanner, node)?
                };
                self.depth -= 1;
                Ok(outcome)
            }
            _ if !here.is_leaf() => scanner.skip().map(|()| Outcome::default()),
            b'"' => {
                let text = scanner.string("a string")?;
                // What has half a surrogate pair is no text that a pattern could name.
                Ok(self.scalar(node, &Scalar::Text(scanner.value(text).ok())))
            }
            b't' => scanner
                .word("true")
                .map(|()| self.scalar(node, &Scalar::True)),
            b'f' => scanner
                .word("false")
                .map(|()| self.scalar(node, &Scalar::False)),
            b'n' => scanner
                .word("null")
                .map(|()| self.scalar(node, &Scalar::Null)),
            _ => {
                let number = scanner.number("a value")?;
                Ok(self.scalar(node, &Scalar::Number(number.text())))
            }
        }
    }

    /// Reads an object. Of members of the same name the last one counts, as for a function that parses the text.
    fn members<E: Ends>(
        &mut self,
        scanner: &mut Scanner<'_, E>,
        node: NodeId,
        base: usize,
    ) -> Result<()> {
        let here = &self.machine.nodes[node];
        let mut more = scanner.opens(b'{', b'}')?;
        while more {
            let name = scanner.name()?;
            let place = if name.escaped {
                let name = scanner.value_bytes(name).ok();
                name.and_then(|name| here.place(&name))
            } else {
                here.place(scanner.raw(name))
            };
            match place {
                Some(place) => {
                    self.outcomes[base + place] = self.value(scanner, here.children[place].node)?;
                }
                None => scanner.skip_inside(self.depth)?,
            }
            more = scanner.goes_on(b'}', ", or }")?;
        }
        Ok(())
    }

    fn elements<E: Ends>(&mut self, scanner: &mut Scanner<'_, E>, node: NodeId) -> Result<Outcome> {
        let mut all = Outcome::default();
        let mut more = scanner.opens(b'[', b']')?;
        while more {
            let outcome = self.value(scanner, node)?;
            all.matched |= outcome.matched;
            all.probes |= outcome.probes;
            more = scanner.goes_on(b']', ", or ]")?;
        }
        Ok(all)
    }

    /// Tests a value that is neither an object nor an array.
    #[inline]
    pub(crate) fn scalar(&self, node: NodeId, value: &Scalar<'_>) -> Outcome {
        let here = &self.machine.nodes[node];
        let tests = here.tests.iter();
        let matched = tests
            .filter(|(test, _)| test.matches(value))
            .fold(0, |matched, (_, mask)| matched | mask);
        Outcome {
            matched,
            probes: here.probes,
        }
    }
}
