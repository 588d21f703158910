//! Events against a model made by `serde_json`, and their sizes to the byte.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use streamcore::{
    ARRIVAL_MS_MAX, ENVELOPE_BYTES, EventIdentity, EventTemplate, Format, Page, PageBuilder, Record,
};

fn identity() -> impl Strategy<Value = EventIdentity> {
    [
        "[a-z0-9\"\\\\é-]{0,20}",
        "[ -~]{0,40}",
        "\\PC{0,9}",
        "[a-z\n0-9-]{1,12}",
    ]
    .prop_map(
        |[shard_id, event_source_arn, invoke_identity_arn, aws_region]| EventIdentity {
            shard_id,
            event_source_arn,
            invoke_identity_arn,
            aws_region,
        },
    )
}

fn arrival() -> impl Strategy<Value = i64> {
    let scale = prop::sample::select(vec![1_i64, 10, 100, 1_000, 1_000_000]);
    (
        prop_oneof![
            -3_000..3_000_i64,
            0..2_000_000_000_000_i64,
            -ARRIVAL_MS_MAX..=ARRIVAL_MS_MAX
        ],
        scale,
    )
        .prop_map(|(ms, scale)| ms / scale * scale)
}

fn page() -> impl Strategy<Value = Page> {
    let key = prop_oneof!["[a-z0-9]{0,12}", "[\\PC\"\\\\/\u{0}-\u{1f}😀é\u{7f}]{0,9}"];
    vec(
        (key, vec(any::<u8>(), 0..64), arrival(), "[0-9]{1,129}"),
        1..6,
    )
    .prop_map(|records| {
        let mut builder = PageBuilder::new();
        for (key, payload, arrival_ms, sequence) in records {
            builder
                .push(&key, &payload, arrival_ms, Some(&sequence))
                .unwrap();
        }
        builder.finish()
    })
}

/// Seconds as the event shows them, made from decimal text alone.
fn seconds(ms: i64) -> Value {
    let digits = format!("{:04}", ms.unsigned_abs());
    let (whole, part) = digits.split_at(digits.len() - 3);
    let text = format!("{}{whole}.{part}", if ms < 0 { "-" } else { "" });
    let text = text.trim_end_matches('0').trim_end_matches('.');
    Value::Number(text.parse().unwrap())
}

fn model(identity: &EventIdentity, record: Record<'_>) -> Value {
    json!({
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": record.key(),
            "sequenceNumber": record.sequence(),
            "data": STANDARD.encode(record.payload().unwrap()),
            "approximateArrivalTimestamp": seconds(record.arrival_ms()),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": format!("{}:{}", identity.shard_id, record.sequence()),
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": identity.invoke_identity_arn,
        "awsRegion": identity.aws_region,
        "eventSourceARN": identity.event_source_arn,
    })
}

proptest! {
    #[test]
    fn an_event_is_the_models_text_byte_for_byte(identity in identity(), pages in vec(page(), 0..3), picks in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..8)) {
        let template = EventTemplate::new(&identity, Format::Kinesis);
        let picks: Vec<(&Page, u32)> = picks
            .iter()
            .filter(|_| !pages.is_empty())
            .map(|(page, index)| {
                let page = &pages[page.index(pages.len())];
                (page, u32::try_from(index.index(page.len())).unwrap())
            })
            .collect();
        let mut event = b"before".to_vec();
        template.write(&mut event, picks.iter().copied());
        let event = std::str::from_utf8(&event).unwrap().strip_prefix("before").unwrap();

        let records: Vec<Value> = picks.iter().map(|(page, index)| model(&identity, page.record(*index as usize))).collect();
        // Members keep their order here, so the text shows the order of the keys too.
        prop_assert_eq!(event, json!({ "Records": records }).to_string());

        let sizes: u32 = picks.iter().map(|(page, index)| template.record_bytes() + page.record(*index as usize).event_bytes()).sum();
        let commas = u32::try_from(picks.len().saturating_sub(1)).unwrap();
        prop_assert_eq!(event.len(), (ENVELOPE_BYTES + sizes + commas) as usize);
    }
}

#[test]
fn arrival_times_have_no_trailing_zeros() {
    let identity = EventIdentity {
        shard_id: "s".into(),
        event_source_arn: "a".into(),
        invoke_identity_arn: "i".into(),
        aws_region: "r".into(),
    };
    let template = EventTemplate::new(&identity, Format::Kinesis);
    for (ms, text) in [
        (0, "0"),
        (1, "0.001"),
        (-1, "-0.001"),
        (-500, "-0.5"),
        (-2_000, "-2"),
        (1_789_809_307_300, "1789809307.3"),
        (1_789_809_305_953, "1789809305.953"),
        (1_789_809_305_050, "1789809305.05"),
        (ARRIVAL_MS_MAX, "8640000000000"),
        (-ARRIVAL_MS_MAX, "-8640000000000"),
    ] {
        let mut builder = PageBuilder::new();
        builder.push("k", b"", ms, Some("1")).unwrap();
        let mut event = Vec::new();
        template.write(&mut event, [(&builder.finish(), 0)]);
        let event = String::from_utf8(event).unwrap();
        assert!(
            event.contains(&format!("\"approximateArrivalTimestamp\":{text}}},")),
            "{event}"
        );
    }
}
