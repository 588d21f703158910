//! What a buffer takes, as the allocator counts it: full, and behind a lane that is stuck. It measures no time.
//!
//! `cargo bench --bench memory` prints a table. The bars are 1.1 times the bytes that came and 48 bytes a record, and 1.3 times those of
//! the records alive behind a stuck lane and 48 bytes a record.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

#[path = "memory/held.rs"]
mod held;

use held::{Counting, Form, Held, Scenario, Stuck};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn row(what: &str, scenario: &Scenario, held: &Held) {
    println!(
        "| {what} | {:?} | {} | {} | {} | {} | {} | {} | {} | {:.2} |",
        scenario.form,
        scenario.payload_bytes,
        scenario.page_records,
        scenario.pages_ahead,
        scenario.lanes,
        scenario.batch_size,
        held.records,
        held.bytes,
        held.ratio()
    );
}

fn main() {
    println!(
        "| buffer | form | payload | page | pages ahead | lanes | batch | records alive | bytes held | times the text |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let usual = Scenario {
        form: Form::Body,
        records: 1_000_000,
        page_records: 1_000,
        payload_bytes: 100,
        lanes: 10,
        batch_size: 1_000,
        pages_ahead: 1,
    };
    for form in [Form::Body, Form::Records] {
        for (payload_bytes, records) in [(10, 1_000_000), (100, 1_000_000), (1_000, 200_000)] {
            let scenario = Scenario {
                form,
                records,
                payload_bytes,
                ..usual
            };
            row("full", &scenario, &scenario.full());
        }
        for (stuck, name) in [
            (Stuck::InFlight, "a lane in flight"),
            (Stuck::Retried, "a lane retried"),
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
                row(name, &scenario, &scenario.behind(stuck));
            }
        }
    }
}
