//! Text tables: what is done to a shard, and everything that comes of it.
//!
//! Each file in `tests/data/tables` is a list of blocks: commands, a line `----`, and the output, ended by an empty line. The commands are
//! told in `table/script.rs`. `STREAMCORE_REWRITE=1` writes the output anew; read the difference before you keep it.
//!
//! A file may name twists in its first line. It is then run once more for each of them, and must give the same output:
//! `split` brings every page in two halves, `crowd` runs another busy shard beside, `lanes` adds nine busy lanes, and `restart` stores a
//! checkpoint and begins anew from it whenever a run has come to rest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "table/script.rs"]
mod script;

use std::fmt::Write;
use std::path::Path;

use script::{Script, Twist};

/// The commands of each block, comments included.
fn blocks(text: &str) -> Vec<Vec<String>> {
    let parts = text.split("\n\n").filter(|part| !part.trim().is_empty());
    let commands = parts.map(|part| part.split("\n----").next().unwrap_or_default());
    commands
        .map(|commands| {
            commands
                .trim_matches('\n')
                .lines()
                .map(str::to_owned)
                .collect()
        })
        .collect()
}

fn twists(text: &str) -> Vec<Twist> {
    let first = text.lines().next().unwrap_or_default();
    let names = first.strip_prefix("# twists:").unwrap_or_default();
    names.split_whitespace().map(Twist::named).collect()
}

fn run(path: &Path, twist: Twist) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let mut script = Script::new(twist);
    let mut result = String::new();
    for block in blocks(&text) {
        let mut output = String::new();
        for command in &block {
            script.command(command, &mut output);
        }
        let commands = block.join("\n");
        if block.iter().all(|line| line.starts_with('#')) {
            writeln!(result, "{commands}\n").unwrap();
        } else {
            writeln!(result, "{commands}\n----\n{output}").unwrap();
        }
    }
    result.truncate(result.trim_end().len());
    result.push('\n');
    result
}

/// The first line that differs, for the message.
fn difference(expected: &str, got: &str) -> String {
    let mut lines = expected.lines().zip(got.lines()).zip(1..);
    match lines.find(|((expected, got), _)| expected != got) {
        Some(((expected, got), line)) => {
            format!("line {line}:\n  expected {expected:?}\n  got      {got:?}")
        }
        None => "one is longer than the other".to_owned(),
    }
}

#[test]
fn every_table_gives_its_output() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tables");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "the tables are there");
    let mut wrong = String::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let got = run(&path, Twist::None);
        if got != text {
            if std::env::var_os("STREAMCORE_REWRITE").is_some() {
                std::fs::write(&path, &got).unwrap();
            } else {
                writeln!(wrong, "{}, {}\n", path.display(), difference(&text, &got)).unwrap();
            }
        }
        for twist in twists(&text) {
            let twisted = run(&path, twist);
            if twisted != got {
                writeln!(
                    wrong,
                    "{} with {twist:?}, {}\n",
                    path.display(),
                    difference(&got, &twisted)
                )
                .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
