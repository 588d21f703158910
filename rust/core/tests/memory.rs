//! What a buffer takes, as the allocator counts it. `benches/memory.rs` measures the same with a million records.

#[path = "../../../benches/memory/held.rs"]
mod held;

use std::time::Duration;

use held::{Counting, Form, Scenario, Stuck};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const USUAL: Scenario = Scenario {
    form: Form::Body,
    records: 10_000,
    page_records: 100,
    payload_bytes: 100,
    lanes: 10,
    stuck_lanes: 1,
    batch_size: 10,
    pages_ahead: 1,
};

/// At most 1.1 times the bytes that came and 48 bytes a record.
#[test]
fn a_full_buffer_takes_little_more_than_its_pages() {
    for form in [Form::Body, Form::Records] {
        for payload_bytes in [10, 100, 1_000] {
            let scenario = Scenario {
                form,
                payload_bytes,
                ..USUAL
            };
            let held = scenario.full();
            assert_eq!(held.records, 10_000);
            assert!(held.ratio() <= 1.1, "{scenario:?}: {held:?}");
        }
    }
}

/// At most 1.3 times the text of the records that are alive and 48 bytes a record, whatever keeps the lane from going on.
#[test]
fn a_stuck_lane_keeps_little_more_than_its_own_records() {
    for (stuck, form, lanes, page_records, records, pages_ahead, batch_size) in [
        (Stuck::InFlight, Form::Body, 10, 100, 30_000, 1, 10),
        (Stuck::InFlight, Form::Records, 3, 100, 10_000, 1, 10),
        (Stuck::InFlight, Form::Body, 10, 10, 60_000, 1, 10),
        // The batch that hangs has records of a hundred pages, or of all.
        (Stuck::InFlight, Form::Body, 10, 100, 30_000, 300, 1_000),
        (Stuck::InFlight, Form::Records, 10, 100, 30_000, 300, 1_000),
        (Stuck::Retried, Form::Body, 10, 100, 30_000, 1, 10),
        (Stuck::Retried, Form::Records, 10, 20, 20_000, 1, 10),
        (Stuck::Failed, Form::Body, 10, 100, 30_000, 300, 10_000),
        (Stuck::Failed, Form::Records, 10, 100, 30_000, 300, 1_000),
    ] {
        let scenario = Scenario {
            form,
            records,
            page_records,
            lanes,
            batch_size,
            pages_ahead,
            ..USUAL
        };
        let (held, _) = scenario.behind(stuck, || Duration::ZERO);
        let share = usize::try_from(records).expect("small") / usize::from(lanes);
        assert!((share / 2..share * 2).contains(&held.records), "{held:?}");
        assert!(held.ratio() <= 1.3, "{stuck:?}, {scenario:?}: {held:?}");
    }
}
