//! The scenarios: files of cases, each a scenario with what the engine does written below every command.
//!
//! ```text
//! == what the case shows
//! > shard batch=4 retries=2
//! > offer 1..4
//! 4 taken in
//! ```
//!
//! A line with `>` is a command, lines without are what it must print, `#` begins a remark.

pub(crate) mod player;
mod script;
mod truth;

use player::{Player, Seen, Way};

/// One case of a file: its title, and its lines.
struct Case<'a> {
    title: &'a str,
    lines: Vec<&'a str>,
}

impl Case<'_> {
    fn commands(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| line.strip_prefix("> "))
    }

    fn keys(&self) -> Vec<String> {
        let offers = self
            .commands()
            .filter_map(|command| command.strip_prefix("offer "));
        offers
            .flat_map(|offer| {
                script::records(
                    &offer
                        .split_whitespace()
                        .filter(|word| !word.contains('='))
                        .collect::<Vec<_>>(),
                    0,
                )
            })
            .map(|record| record.key)
            .collect()
    }

    /// Plays the case and gives it back with what was printed.
    fn play(&self, way: Way) -> (String, Player) {
        let mut player = Player::new(way, self.keys());
        let mut text = format!("== {}\n", self.title);
        for line in &self.lines {
            if line.starts_with('#') {
                text.push_str(line);
                text.push('\n');
            } else if let Some(command) = line.strip_prefix("> ") {
                text.push_str(line);
                text.push('\n');
                text.push_str(&player.play(command));
            }
        }
        (text, player)
    }

    /// Whether what happens in a lane is told apart from all others by the scenario itself.
    fn stands_alone(&self) -> bool {
        let alone = ["shard", "offer", "function", "run", "at", "confirm"];
        let timed = [
            "age=",
            "retention=",
            "until=",
            "max=",
            "budget=",
            "quiet",
            "payload=",
            "tumbling=",
            "above",
        ];
        let lanes = self.commands().any(|command| command.contains("factor="));
        self.commands().all(|command| {
            let name = command.split_whitespace().next().unwrap_or_default();
            let one_key = lanes || name != "offer" || !command.contains(':');
            alone.contains(&name) && one_key && !timed.iter().any(|word| command.contains(word))
        })
    }
}

/// What of all lanes but those of added keys, in the order of each lane.
fn by_key(seen: &[Seen]) -> Vec<(&str, &str)> {
    let mut all: Vec<_> = seen
        .iter()
        .map(|seen| (seen.key.as_str(), seen.what.as_str()))
        .collect();
    all.sort_by_key(|(key, _)| *key);
    all
}

fn check_other_ways(case: &Case<'_>, seen: &[Seen]) {
    let (_, split) = case.play(Way::SplitOffers);
    if !split.refused {
        let lines = |seen: &[Seen]| {
            seen.iter()
                .map(|seen| seen.line.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            lines(seen),
            lines(&split.seen),
            "{}: two pages or one make no difference",
            case.title
        );
    }
    if case.stands_alone() {
        let (_, other) = case.play(Way::OtherLanes);
        assert_eq!(
            by_key(seen),
            by_key(&other.seen),
            "{}: other lanes make no difference",
            case.title
        );
    }
}

/// Plays every case of a file in every way, and compares. With `STREAMCORE_BLESS=1` the file is written anew.
pub(crate) fn check(name: &str) {
    let path = format!("{}/tests/data/scenarios/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut cases: Vec<Case<'_>> = Vec::new();
    let mut head = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("== ") {
            cases.push(Case {
                title,
                lines: Vec::new(),
            });
        } else if let Some(case) = cases.last_mut() {
            case.lines.push(line);
        } else {
            head.push_str(line);
            head.push('\n');
        }
    }
    assert!(!cases.is_empty(), "{name} has no case");
    let mut all = vec![head.trim_end().to_owned()];
    for case in &cases {
        let (written, player) = case.play(Way::AsWritten);
        check_other_ways(case, &player.seen);
        all.push(written.trim_end().to_owned());
    }
    let played = all.join("\n\n") + "\n";
    if std::env::var_os("STREAMCORE_BLESS").is_some() {
        std::fs::write(&path, played).unwrap();
        return;
    }
    let differs = text
        .lines()
        .zip(played.lines())
        .position(|(written, played)| written != played);
    if text != played {
        let at = differs.unwrap_or_else(|| text.lines().count().min(played.lines().count()));
        let line = |text: &str| text.lines().nth(at).unwrap_or("(nothing)").to_owned();
        panic!(
            "{path}:{}\n  expected: {}\n  got:      {}\nSTREAMCORE_BLESS=1 writes it anew",
            at + 1,
            line(&text),
            line(&played)
        );
    }
}
