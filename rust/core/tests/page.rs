//! Pages against an obvious model: a body is made at random, `serde_json` says what it means, and the page must say the same.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod speller;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use streamcore::{
    ARRIVAL_MS_MAX, ChildShard, Format, KEY_BYTES_MAX, Page, PageBuilder, PageError, PositionError,
    SequenceNumber, key_hash,
};

use speller::{Speller, assert_refused_where_cut_off, damage, parse_damaged};

/// What a record is made of, and how its body spells it.
#[derive(Debug, Clone)]
struct Source {
    key: String,
    payload: Vec<u8>,
    arrival_ms: i64,
    sequence: String,
}

fn source() -> impl Strategy<Value = Source> {
    let key = prop_oneof![
        "[a-z0-9-]{0,20}",
        "[\\PC\"\\\\/\u{0}-\u{1f}😀é]{0,12}",
        "[ -~]{60,200}",
    ];
    let arrival = prop_oneof![
        1_400_000_000_000..2_000_000_000_000_i64,
        -5_000..5_000_i64,
        -ARRIVAL_MS_MAX..=ARRIVAL_MS_MAX
    ];
    (key, vec(any::<u8>(), 0..200), arrival, "[1-9][0-9]{0,60}").prop_map(
        |(key, payload, arrival_ms, sequence)| Source {
            key,
            payload,
            arrival_ms,
            sequence,
        },
    )
}

#[derive(Debug, Clone)]
struct Body {
    text: String,
    sources: Vec<Source>,
}

fn body(records: std::ops::Range<usize>) -> impl Strategy<Value = Body> {
    let child = ("[a-zA-Z\"0-9-]{1,20}", vec("[a-z\\\\0-9]{1,9}", 0..3));
    let trailer = (
        option::of("[ -~é]{0,30}"),
        option::of(any::<i32>()),
        option::of(vec(child, 0..3)),
    );
    (vec(source(), records), trailer, vec(any::<u8>(), 64..256)).prop_map(
        |(sources, trailer, choices)| {
            let mut speller = Speller { choices, next: 0 };
            let records: Vec<String> = sources
                .iter()
                .map(|source| {
                    let members = vec![
                        ("PartitionKey", speller.string(&source.key)),
                        ("SequenceNumber", speller.string(&source.sequence)),
                        ("Data", speller.string(&STANDARD.encode(&source.payload))),
                        (
                            "ApproximateArrivalTimestamp",
                            speller.seconds(source.arrival_ms),
                        ),
                    ];
                    speller.object(members)
                })
                .collect();
            let mut members = vec![("Records", speller.array(&records))];
            let (iterator, millis, children) = trailer;
            members
                .extend(iterator.map(|iterator| ("NextShardIterator", speller.string(&iterator))));
            members.extend(millis.map(|millis| ("MillisBehindLatest", millis.to_string())));
            if let Some(children) = children {
                let children: Vec<String> = children
                    .iter()
                    .map(|(id, parents)| {
                        let parents: Vec<String> = parents
                            .iter()
                            .map(|parent| speller.string(parent))
                            .collect();
                        let members = vec![
                            ("ShardId", speller.string(id)),
                            ("ParentShards", speller.array(&parents)),
                        ];
                        speller.object(members)
                    })
                    .collect();
                members.push(("ChildShards", speller.array(&children)));
            }
            let text = format!(
                "{}{}{}",
                speller.space(),
                speller.object(members),
                speller.space()
            );
            Body { text, sources }
        },
    )
}

fn parse(text: &str) -> Result<Page, PageError> {
    Page::parse(text.as_bytes().to_vec(), Format::Kinesis)
}

fn build(sources: &[Source]) -> Page {
    let mut builder = PageBuilder::new();
    for source in sources {
        builder
            .push(
                &source.key,
                &source.payload,
                source.arrival_ms,
                Some(&source.sequence),
            )
            .unwrap();
    }
    builder.finish()
}

fn assert_records_are(page: &Page, sources: &[Source]) {
    assert_eq!(page.len(), sources.len());
    for (record, source) in page.records().zip(sources) {
        assert_eq!(record.key(), source.key);
        assert_eq!(record.sequence(), source.sequence);
        assert_eq!(record.arrival_ms(), source.arrival_ms);
        assert_eq!(record.payload().unwrap(), source.payload);
        assert_eq!(record.data_base64(), STANDARD.encode(&source.payload));
        assert_eq!(record.key_hash(), key_hash(source.key.as_bytes()));
        assert_eq!(record.sub(), 0);
        let key: String = serde_json::from_str(&format!("\"{}\"", record.key_json())).unwrap();
        assert_eq!(key, source.key);
    }
}

proptest! {
    /// Two decoders are used, a fast one and one that says where the data is wrong.
    #[test]
    fn what_is_base64_is_what_the_other_decoder_says(data in "[A-Da-d0-3/+=]{0,12}|[A-Za-z0-9/+]{40,48}={0,2}") {
        let body = format!(
            r#"{{"Records":[{{"SequenceNumber":"1","ApproximateArrivalTimestamp":1,"Data":"{data}","PartitionKey":"k"}}]}}"#
        );
        let page = parse(&body).unwrap();
        prop_assert_eq!(page.record(0).payload().ok(), STANDARD.decode(&data).ok());
    }

    #[test]
    fn a_body_means_what_serde_json_says(body in body(0..8)) {
        let page = parse(&body.text).unwrap();
        let model: serde_json::Value = serde_json::from_str(&body.text).unwrap();
        let records = model["Records"].as_array().unwrap();
        prop_assert_eq!(page.len(), records.len());
        prop_assert_eq!(page.is_empty(), records.is_empty());
        for (record, model) in page.records().zip(records) {
            prop_assert_eq!(record.key(), model["PartitionKey"].as_str().unwrap());
            prop_assert_eq!(record.sequence(), model["SequenceNumber"].as_str().unwrap());
            prop_assert_eq!(record.data_base64(), model["Data"].as_str().unwrap());
        }
        assert_records_are(&page, &body.sources);
        let trailer = page.trailer();
        prop_assert_eq!(trailer.next_iterator.as_deref(), model["NextShardIterator"].as_str());
        prop_assert_eq!(trailer.millis_behind, model["MillisBehindLatest"].as_i64());
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let children: Vec<ChildShard> = model["ChildShards"].as_array().into_iter().flatten().map(|child| ChildShard {
            shard_id: text(&child["ShardId"]),
            parent_shards: child["ParentShards"].as_array().unwrap().iter().map(text).collect(),
        }).collect();
        prop_assert_eq!(&trailer.child_shards, &children);
    }

    #[test]
    fn records_handed_over_are_the_records_of_a_body(body in body(0..8)) {
        let (parsed, built) = (parse(&body.text).unwrap(), build(&body.sources));
        assert_records_are(&built, &body.sources);
        for (parsed, built) in parsed.records().zip(built.records()) {
            prop_assert_eq!(parsed.key_json(), built.key_json());
            prop_assert_eq!(parsed.event_bytes(), built.event_bytes());
        }
    }

    #[test]
    fn a_body_that_is_cut_off_is_refused(body in body(0..3)) {
        assert_refused_where_cut_off(&body.text, Format::Kinesis);
    }

    #[test]
    fn a_damaged_body_never_panics(body in body(1..4), damage in damage()) {
        if let Some(page) = parse_damaged(body.text, damage, Format::Kinesis) {
            page.records().for_each(|record| { let _ = (record.key(), record.payload(), record.event_bytes()); });
        }
    }

    #[test]
    fn any_bytes_at_all_never_panic(bytes in vec(prop_oneof![any::<u8>(), prop::sample::select(br#"{}[]",:\u0-1eE."#.to_vec())], 0..60)) {
        if let Err(error) = Page::parse(bytes.clone(), Format::Kinesis) {
            prop_assert!(error.offset() <= bytes.len());
        }
    }

    #[test]
    fn a_compacted_page_has_the_live_records(body in body(1..10), live in vec(any::<prop::sample::Index>(), 0..10)) {
        let page = parse(&body.text).unwrap();
        let live: Vec<usize> = live.iter().map(|index| index.index(page.len())).collect();
        let indices: Vec<u32> = live.iter().map(|index| u32::try_from(*index).unwrap()).collect();
        let small = page.compact(&indices);
        let sources: Vec<Source> = live.iter().map(|index| body.sources[*index].clone()).collect();
        assert_records_are(&small, &sources);
        prop_assert_eq!(small.held_bytes(), build(&sources).held_bytes());
    }

    #[test]
    fn records_without_a_number_follow_the_highest_one_before(given in vec(option::of(0_u64..1_000), 0..12), after in option::of(0_u64..1_000)) {
        let mut builder = PageBuilder::new();
        for number in &given {
            builder.push("k", b"x", 0, number.map(|number| number.to_string()).as_deref()).unwrap();
        }
        let mut page = builder.finish();
        prop_assert_eq!(page.has_unassigned(), given.contains(&None));
        let after_number = after.map(|after| SequenceNumber::parse(&after.to_string()).unwrap());
        page.assign_sequences(after_number.as_ref()).unwrap();
        prop_assert!(!page.has_unassigned());
        let mut highest = after.unwrap_or(0);
        for (record, given) in page.records().zip(&given) {
            let number = given.unwrap_or(highest + 1);
            highest = highest.max(number);
            prop_assert_eq!(record.sequence(), number.to_string());
            prop_assert_eq!(record.key(), "k");
            prop_assert_eq!(record.payload().unwrap(), b"x");
        }
    }
}

/// A body with one record, of which one field has another value; none leaves the field out.
fn body_with(field: &str, value: Option<&str>) -> String {
    let fields = [
        ("PartitionKey", "\"k\""),
        ("SequenceNumber", "\"49\""),
        ("Data", "\"QQ==\""),
        ("ApproximateArrivalTimestamp", "1.5"),
    ];
    let fields: Vec<String> = fields
        .iter()
        .filter_map(|(name, plain)| {
            if *name == field {
                value.map(|value| format!("\"{name}\":{value}"))
            } else {
                Some(format!("\"{name}\":{plain}"))
            }
        })
        .collect();
    format!("{{\"Records\":[{{{}}}]}}", fields.join(","))
}

fn refused(text: &str) -> PageError {
    parse(text).expect_err(text)
}

#[test]
fn a_missing_field_is_named() {
    for field in [
        "PartitionKey",
        "SequenceNumber",
        "Data",
        "ApproximateArrivalTimestamp",
    ] {
        assert_eq!(
            refused(&body_with(field, None)),
            PageError::MissingField { offset: 12, field }
        );
    }
    assert_eq!(
        refused(" {}"),
        PageError::MissingField {
            offset: 1,
            field: "Records"
        }
    );
    for (field, body) in [
        ("ShardId", r#"{"ChildShards":[{"ParentShards":[]}]}"#),
        ("ParentShards", r#"{"ChildShards":[{"ShardId":"s"}]}"#),
    ] {
        assert_eq!(refused(body), PageError::MissingField { offset: 16, field });
    }
}

#[test]
fn a_value_of_another_type_is_named() {
    let at_value = |body: &str, value: &str| body.find(value).unwrap();
    for (value, found) in [
        ("1", "a number"),
        ("null", "null"),
        ("[]", "an array"),
        ("{}", "an object"),
        ("true", "a boolean"),
    ] {
        for field in ["PartitionKey", "SequenceNumber", "Data"] {
            let body = body_with(field, Some(value));
            let offset = at_value(&body, &format!(":{value}")) + 1;
            assert_eq!(
                refused(&body),
                PageError::WrongType {
                    offset,
                    field,
                    expected: "a string",
                    found
                }
            );
        }
    }
    let field = "ApproximateArrivalTimestamp";
    let body = body_with(field, Some("\"1.5\""));
    let offset = at_value(&body, "\"1.5\"");
    assert_eq!(
        refused(&body),
        PageError::WrongType {
            offset,
            field,
            expected: "a number",
            found: "a string"
        }
    );
    for (body, field, expected, found) in [
        (r#"{"Records":null}"#, "Records", "an array", "null"),
        (r#"{"Records":[7]}"#, "a record", "an object", "a number"),
        (
            r#"{"NextShardIterator":7}"#,
            "NextShardIterator",
            "a string",
            "a number",
        ),
        (
            r#"{"MillisBehindLatest":"7"}"#,
            "MillisBehindLatest",
            "a number",
            "a string",
        ),
        (
            r#"{"ChildShards":{}}"#,
            "ChildShards",
            "an array",
            "an object",
        ),
    ] {
        assert!(
            matches!(refused(body), PageError::WrongType { field: f, expected: e, found: g, .. } if (f, e, g) == (field, expected, found)),
            "{body}: {:?}",
            refused(body)
        );
    }
}

#[test]
fn a_trailer_may_be_missing_or_null() {
    for body in [
        r#"{"Records":[]}"#,
        r#"{"Records":[],"NextShardIterator":null,"MillisBehindLatest":null,"ChildShards":null}"#,
    ] {
        assert_eq!(
            parse(body).unwrap().trailer(),
            &streamcore::Trailer::default()
        );
    }
}

#[test]
fn a_sequence_number_is_checked() {
    for (value, reason) in [
        ("", PositionError::Empty),
        (
            "12x",
            PositionError::NotADigit {
                index: 2,
                found: 'x',
            },
        ),
        (
            &"1".repeat(130),
            PositionError::TooLong {
                digits: 130,
                max: 129,
            },
        ),
    ] {
        let body = body_with("SequenceNumber", Some(&format!("\"{value}\"")));
        let offset = body.find("SequenceNumber\":\"").unwrap() + 17;
        assert_eq!(
            refused(&body),
            PageError::BadSequenceNumber { offset, reason }
        );
    }
}

#[test]
fn arrival_times_are_exact_to_the_millisecond() {
    let long = format!("1.{}5", "0".repeat(5_000));
    for (text, ms) in [
        ("0", 0),
        ("-0", 0),
        ("1.543279474287E9", 1_543_279_474_287),
        ("1543279474.2874999999999999999999", 1_543_279_474_287),
        ("1543279474.2875", 1_543_279_474_288),
        ("-1.0005", -1_001),
        ("0.0004999999999999999999999999", 0),
        ("0.0005", 1),
        ("5e-4", 1),
        ("4e-4", 0),
        ("1e-999999999999999999999999", 0),
        ("0e999999999999999999999999", 0),
        ("1e12", 1_000_000_000_000_000),
        ("8640000000000", 8_640_000_000_000_000),
        ("-8.64E+12", -8_640_000_000_000_000),
        ("000.1", i64::MAX),
        (long.as_str(), 1_000),
    ] {
        let body = body_with("ApproximateArrivalTimestamp", Some(text));
        if ms == i64::MAX {
            assert!(
                matches!(refused(&body), PageError::Unexpected { .. }),
                "{text}"
            );
        } else {
            assert_eq!(
                parse(&body).expect(text).record(0).arrival_ms(),
                ms,
                "{text}"
            );
        }
    }
    for text in [
        "8640000000000.001",
        "1e13",
        "-1e18",
        "1e999999999999999999999999",
        "123456789012345678901234567890",
    ] {
        let body = body_with("ApproximateArrivalTimestamp", Some(text));
        let field = "ApproximateArrivalTimestamp";
        assert_eq!(
            refused(&body),
            PageError::OutOfRange {
                offset: body.find(text).unwrap(),
                field
            },
            "{text}"
        );
    }
}

#[test]
fn text_that_is_not_json_is_refused_where_it_stands() {
    let key = |value: &str| body_with("PartitionKey", Some(value));
    let start = key("\"").find(":\"").unwrap() + 1;
    for (value, error) in [
        (
            "\"\\ud83d\"",
            PageError::LoneSurrogate {
                offset: start + 1,
                found: 0xd83d,
            },
        ),
        (
            "\"\\ude00\"",
            PageError::LoneSurrogate {
                offset: start + 1,
                found: 0xde00,
            },
        ),
        (
            "\"\\ud83d\\u0041\"",
            PageError::LoneSurrogate {
                offset: start + 1,
                found: 0xd83d,
            },
        ),
        ("\"a\\x\"", PageError::BadEscape { offset: start + 2 }),
        ("\"\\u12g4\"", PageError::BadEscape { offset: start + 1 }),
        (
            "\"a\nb\"",
            PageError::ControlCharacter {
                offset: start + 2,
                found: b'\n',
            },
        ),
        (
            "\"\\n\u{1}\"",
            PageError::ControlCharacter {
                offset: start + 3,
                found: 1,
            },
        ),
    ] {
        assert_eq!(refused(&key(value)), error, "{value}");
        // The same in a field that nobody reads.
        let stranger = format!("{{\"Stranger\":{value},\"Records\":[]}}");
        let shifted = refused(&stranger).offset() + start - 12;
        assert_eq!(shifted, error.offset(), "{value}");
    }
    assert_eq!(
        refused("{\"Records\":[]} x"),
        PageError::TrailingBytes { offset: 15 }
    );
    for (text, offset) in [
        ("[]", 0),
        ("{\"Records\":[],}", 14),
        ("{\"Records\":[]]", 13),
        ("{\"a\":01}", 6),
        ("{\"a\":tru}", 8),
        ("{\"a\":+1}", 5),
        ("{a:1}", 1),
        ("{\"a\" 1}", 5),
    ] {
        assert!(
            matches!(refused(text), PageError::Unexpected { offset: at, .. } if at == offset),
            "{text}: {:?}",
            refused(text)
        );
    }
    let bytes = [b"{\"Records\":[],\"a\":\"".as_slice(), b"\xff\"}"].concat();
    assert_eq!(
        Page::parse(bytes, Format::Kinesis).unwrap_err(),
        PageError::NotUtf8 { offset: 19 }
    );
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        format!(
            "{{\"a\":{}{},\"Records\":[]}}",
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    assert!(parse(&nested(128)).is_ok());
    assert_eq!(
        refused(&nested(129)),
        PageError::TooDeep {
            offset: 5 + 128,
            max: 128
        }
    );
    assert!(matches!(
        refused(&"{\"a\":[".repeat(1_000_000)),
        PageError::TooDeep { .. }
    ));
}

#[test]
fn a_key_has_at_most_65535_bytes() {
    for (character, bytes) in [("k", 1), ("é", 2), ("\\u0001", 1), ("\\ud83d\\ude00", 4)] {
        let body = |count: usize| {
            body_with(
                "PartitionKey",
                Some(&format!("\"{}\"", character.repeat(count))),
            )
        };
        let most = KEY_BYTES_MAX / bytes;
        assert_eq!(
            parse(&body(most)).unwrap().record(0).key().len(),
            most * bytes
        );
        let error = refused(&body(most + 1));
        assert!(
            matches!(error, PageError::KeyTooLong { bytes: found, max: KEY_BYTES_MAX, .. } if found == (most + 1) * bytes)
        );
    }
}

#[test]
fn sizes_beyond_32_bits_are_refused_without_being_read() {
    // The pages of these zeros are never touched, so they cost no memory.
    let huge = vec![0; 1 << 32];
    let mut builder = PageBuilder::new();
    let error = builder.push("k", &huge, 0, None).unwrap_err();
    assert!(
        matches!(error, PageError::TooLarge { offset: 0, .. }),
        "{error}"
    );
    let error = Page::parse(huge, Format::Kinesis).unwrap_err();
    assert!(
        matches!(
            error,
            PageError::TooLarge {
                offset: 0,
                bytes: 0x1_0000_0000,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(builder.finish().len(), 0);
}

#[test]
fn a_record_that_is_refused_leaves_the_builder_as_it_was() {
    let mut builder = PageBuilder::new();
    builder.push("k", b"1", 5, Some("7")).unwrap();
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    for (key, arrival_ms, sequence) in [
        (long.as_str(), 0, None),
        ("k", ARRIVAL_MS_MAX + 1, None),
        ("k", i64::MIN, None),
        ("k", 0, Some("x")),
    ] {
        assert_eq!(
            builder
                .push(key, b"2", arrival_ms, sequence)
                .unwrap_err()
                .offset(),
            1
        );
    }
    builder.push("l", b"3", 6, Some("8")).unwrap();
    let page = builder.finish();
    let keys: Vec<_> = page
        .records()
        .map(|record| (record.key().into_owned(), record.sequence().to_owned()))
        .collect();
    assert_eq!(keys, [("k".into(), "7".into()), ("l".into(), "8".into())]);
}

#[test]
fn after_the_last_number_nothing_is_assigned() {
    let mut builder = PageBuilder::new();
    builder.push("k", b"", 0, None).unwrap();
    builder.push("k", b"", 0, Some(&"9".repeat(129))).unwrap();
    builder.push("k", b"", 0, None).unwrap();
    let mut page = builder.finish();
    assert_eq!(
        page.assign_sequences(None),
        Err(PositionError::NoSuccessor { max: 129 })
    );
    assert!(page.has_unassigned());
    assert_eq!(page.record(0).sequence(), "");
    assert_eq!(page.record(1).sequence(), "9".repeat(129));
    assert_eq!(page.record(2).sequence(), "");
}

#[test]
fn data_that_is_no_base64_is_kept_but_not_decoded() {
    for (data, offset) in [("Q*==", 1), ("QQ=", 3), ("Q\\u0022==", 1), ("QR==", 1)] {
        let page = parse(&body_with("Data", Some(&format!("\"{data}\"")))).unwrap();
        assert_eq!(
            page.record(0).payload(),
            Err(PageError::BadBase64 { offset }),
            "{data}"
        );
        let mut out = b"kept".to_vec();
        assert!(page.record(0).payload_into(&mut out).is_err());
        assert_eq!(out, b"kept");
    }
    let page = parse(&body_with("Data", Some("\"\\/\\u002B8=\""))).unwrap();
    assert_eq!(page.record(0).data_base64(), "/+8=");
}

/// A number that is lower than what was taken in before is a duplicate; the record behind it that has none is new.
#[test]
fn assigned_numbers_never_fall_behind_what_is_known() {
    let mut builder = PageBuilder::new();
    for sequence in [None, Some("70"), None] {
        builder.push("k", b"", 0, sequence).unwrap();
    }
    let mut page = builder.finish();
    page.assign_sequences(Some(&SequenceNumber::parse("72").unwrap()))
        .unwrap();
    let numbers: Vec<_> = page.records().map(|record| record.sequence()).collect();
    assert_eq!(numbers, ["73", "70", "74"]);
}
