//! What a buffer takes, as the allocator counts it: full, and behind a lane that is stuck; and how long the engine is locked meanwhile.
//!
//! The bars (P8) are 1.1 times the bytes that came and 48 bytes a record, and 1.3 times those of the records alive behind a stuck lane and 48
//! bytes a record. `cargo bench --bench memory` prints a line of JSON for each buffer, with what is held, 48 bytes a record left out, in
//! parts of those bytes, and one for the longest call of the engine while several lanes hang.

#![expect(clippy::print_stdout, reason = "the lines are what it is for")]

#[path = "memory/held.rs"]
mod held;

use std::time::{Duration, Instant};

use held::{Counting, Form, Held, Scenario, Stuck};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often the time of each call is taken.
const RUNS: usize = 5;

/// Prints a measurement, as `measure.py` reads them.
fn print(what: &str, bar: f64, scenario: &Scenario, held: &Held) {
    let Scenario {
        form,
        page_records,
        payload_bytes,
        lanes,
        batch_size,
        pages_ahead,
        ..
    } = scenario;
    let form = match form {
        Form::Body => "bodies",
        Form::Records => "records",
    };
    println!(
        "{{\"part\": \"P8\", \"name\": \"{what}: {form} of {page_records} x {payload_bytes} B, {pages_ahead} ahead, {lanes} lanes, \
         batches of {batch_size}\", \"value\": {:.3}, \"unit\": \"of the live bytes\", \"bar\": {bar}}}",
        held.ratio()
    );
}

/// Prints how long the engine was locked at the longest while records moved. Each run makes the same calls; of each call the quickest
/// counts, since a run may be interrupted anywhere.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn print_longest_step(scenario: &Scenario) {
    let Scenario {
        stuck_lanes,
        lanes,
        batch_size,
        records,
        ..
    } = scenario;
    let began = Instant::now();
    let runs = (0..RUNS).map(|_| scenario.behind(Stuck::InFlight, || began.elapsed()).1);
    let quickest = runs.reduce(|quickest, run| {
        assert_eq!(quickest.len(), run.len(), "each run makes the same calls");
        quickest
            .into_iter()
            .zip(run)
            .map(|(a, b)| a.min(b))
            .collect()
    });
    let longest = quickest.into_iter().flatten().max().unwrap_or_default();
    println!(
        "{{\"part\": \"P8\", \"name\": \"longest step: {stuck_lanes} of {lanes} lanes in flight, {records} records, \
         batches of {batch_size}\", \"value\": {:.3}, \"unit\": \"ms\"}}",
        longest.as_secs_f64() * 1_000.0
    );
}

fn main() {
    let usual = Scenario {
        form: Form::Body,
        records: 1_000_000,
        page_records: 1_000,
        payload_bytes: 100,
        lanes: 10,
        stuck_lanes: 1,
        batch_size: 1_000,
        pages_ahead: 1,
    };
    for (lanes, stuck_lanes, batch_size, pages_ahead) in [
        (2, 1, 100, 1),
        (2, 1, 10_000, 1_000),
        (10, 1, 10_000, 1_000),
        (10, 5, 10_000, 1_000),
    ] {
        print_longest_step(&Scenario {
            lanes,
            stuck_lanes,
            batch_size,
            pages_ahead,
            ..usual
        });
    }
    for form in [Form::Body, Form::Records] {
        for (payload_bytes, records) in [(10, 1_000_000), (100, 1_000_000), (1_000, 200_000)] {
            let scenario = Scenario {
                form,
                records,
                payload_bytes,
                ..usual
            };
            print("full", 1.1, &scenario, &scenario.full());
        }
        for (stuck, name) in [
            (Stuck::InFlight, "behind a lane in flight"),
            (Stuck::Retried, "behind a lane retried"),
            (Stuck::Failed, "behind a lane that hung and failed"),
        ] {
            for (lanes, batch_size, page_records, pages_ahead) in [
                (10, 100, 1_000, 1),
                (10, 100, 10_000, 1),
                (10, 100, 10, 1),
                (2, 100, 1_000, 1),
                (10, 100, 1_000, 1_000),
                (10, 1_000, 1_000, 1_000),
                (10, 10_000, 1_000, 1_000),
            ] {
                let scenario = Scenario {
                    form,
                    page_records,
                    lanes,
                    batch_size,
                    pages_ahead,
                    ..usual
                };
                let (held, _) = scenario.behind(stuck, || Duration::ZERO);
                print(name, 1.3, &scenario, &held);
            }
        }
    }
}
