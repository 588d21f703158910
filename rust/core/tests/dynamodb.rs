//! Pages of `DynamoDB` Streams against an obvious model: bodies are made at random, `serde_json` says what they mean, and the events
//! must say the same, byte for byte.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod speller;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use streamcore::{
    CheckpointKey, ENVELOPE_BYTES, Engine, EventIdentity, EventTemplate, Format, KeyAttribute,
    KeyType, MappingConfig, MappingIdentity, Outcome, Page, PageBuilder, PageError, ShardConfig,
    Taken, Task, UsageError, dynamodb_key_bytes, key_hash,
};

use speller::{Speller, assert_refused_where_cut_off, damage, parse_damaged};

const ARN: &str = "arn:aws:dynamodb:us-east-1:123456789012:table/T/stream/2026-01-01T00:00:00.000";

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{0,20}",
        "[\\PC\"\\\\/\u{0}-\u{1f}😀é]{0,12}",
        "[ -~]{60,200}",
    ]
}

fn number() -> impl Strategy<Value = String> {
    "-?[0-9]{1,38}(\\.[0-9]{1,5})?(E[+-]?[0-9]{1,2})?"
}

fn binary() -> impl Strategy<Value = String> {
    vec(any::<u8>(), 0..24).prop_map(|bytes| STANDARD.encode(bytes))
}

fn key_attribute() -> impl Strategy<Value = Value> {
    prop_oneof![
        text().prop_map(|text| json!({ "S": text })),
        number().prop_map(|text| json!({ "N": text })),
        binary().prop_map(|text| json!({ "B": text })),
    ]
}

/// An attribute of any type that an item can have.
fn attribute() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        key_attribute(),
        any::<bool>().prop_map(|value| json!({ "BOOL": value })),
        Just(json!({ "NULL": true })),
        vec(text(), 1..4).prop_map(|set| json!({ "SS": set })),
        vec(number(), 1..4).prop_map(|set| json!({ "NS": set })),
        vec(binary(), 1..4).prop_map(|set| json!({ "BS": set })),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|list| json!({ "L": list })),
            btree_map(text(), inner, 0..4).prop_map(|map| json!({ "M": Map::from_iter(map) })),
        ]
    })
}

fn image() -> impl Strategy<Value = Option<Value>> {
    option::of(btree_map(text(), attribute(), 0..6).prop_map(|item| Map::from_iter(item).into()))
}

fn record() -> impl Strategy<Value = Value> {
    let identity = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => Just(Some(json!({"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}))),
        1 => Just(Some(json!({"Other": 1, "type": "Service\n", "principalId": "\u{e9}\""}))),
    ];
    (
        option::weighted(0.8, prop_oneof!["[0-9a-f]{32}", text()]),
        prop::sample::select(vec!["INSERT", "MODIFY", "REMOVE"]),
        (identity, "[1-9][0-9]{20,39}", -5_000_000..2_000_000_000_000_i64),
        btree_map(text(), key_attribute(), 1..3),
        (image(), image()),
        any::<u32>(),
    )
        .prop_map(|(id, name, (identity, sequence, arrival_ms), keys, (new, old), size)| {
            let seconds = format!("{arrival_ms}E-3");
            let mut change = json!({
                "ApproximateCreationDateTime": serde_json::from_str::<Value>(&seconds).unwrap(),
                "Keys": Map::from_iter(keys),
                "SequenceNumber": sequence,
                "SizeBytes": size,
                "StreamViewType": "NEW_AND_OLD_IMAGES",
            });
            let members = change.as_object_mut().unwrap();
            members.extend(new.map(|image| ("NewImage".into(), image)));
            members.extend(old.map(|image| ("OldImage".into(), image)));
            let mut record = json!({"awsRegion": "us-west-2", "dynamodb": change, "eventName": name,
                "eventSource": "aws:dynamodb", "eventVersion": "1.1"});
            let members = record.as_object_mut().unwrap();
            members.extend(id.map(|id| ("eventID".into(), id.into())));
            members.extend(identity.map(|identity| ("userIdentity".into(), identity)));
            record
        })
}

/// Spells a value with white space and escapes wherever JSON allows them, and members in any order.
fn spell(value: &Value, speller: &mut Speller) -> String {
    match value {
        Value::String(text) => speller.string(text),
        Value::Array(elements) => {
            let elements: Vec<String> = elements
                .iter()
                .map(|element| spell(element, speller))
                .collect();
            speller.array(&elements)
        }
        Value::Object(members) => {
            let mut ordered: Vec<(&String, &Value)> = Vec::new();
            for member in members {
                ordered.insert(speller.choose(ordered.len() + 1), member);
            }
            let mut out = String::from("{");
            for (nth, (name, value)) in ordered.into_iter().enumerate() {
                out += if nth > 0 { "," } else { "" };
                out += speller.space();
                out += &speller.string(name);
                out += speller.space();
                out.push(':');
                out += speller.space();
                out += &spell(value, speller);
                out += speller.space();
            }
            out + "}"
        }
        other => other.to_string(),
    }
}

#[derive(Debug, Clone)]
struct Body {
    /// With white space, escapes and any order of members.
    text: String,
    /// What `serde_json` reads in it.
    model: Value,
}

fn body(records: std::ops::Range<usize>) -> impl Strategy<Value = Body> {
    (
        vec(record(), records),
        option::of(option::of(text())),
        vec(any::<u8>(), 64..256),
    )
        .prop_map(|(records, iterator, choices)| {
            let mut body = json!({ "Records": records });
            let members = body.as_object_mut().unwrap();
            members.extend(iterator.map(|iterator| ("NextShardIterator".into(), json!(iterator))));
            let text = spell(&body, &mut Speller { choices, next: 0 });
            let model = serde_json::from_str(&text).unwrap();
            Body { text, model }
        })
}

fn identity() -> EventIdentity {
    EventIdentity {
        shard_id: "shardId-00000001".into(),
        event_source_arn: format!("{ARN}\"é\\"),
        invoke_identity_arn: "arn:aws:iam::123456789012:role/role".into(),
        aws_region: "eu-\"\n1".into(),
    }
}

fn parse(text: &str) -> Result<Page, PageError> {
    Page::parse(text.as_bytes().to_vec(), Format::DynamoDb)
}

fn event(template: &EventTemplate, page: &Page) -> String {
    let mut out = Vec::new();
    let count = u32::try_from(page.len()).unwrap();
    template.write(&mut out, (0..count).map(|index| (page, index)));
    String::from_utf8(out).unwrap()
}

/// The number of the model, which is so many thousandths, as milliseconds.
fn arrival_ms(model: &Value) -> i64 {
    let number = model["dynamodb"]["ApproximateCreationDateTime"].to_string();
    number.split(['e', 'E']).next().unwrap().parse().unwrap()
}

/// What Lambda makes of a record of the stream.
fn model_of_event(identity: &EventIdentity, record: &Value, made_id: &Value) -> Value {
    let mut change = record["dynamodb"].clone();
    change["ApproximateCreationDateTime"] = json!(arrival_ms(record).div_euclid(1000));
    let mut out = json!({
        "eventID": record.get("eventID").unwrap_or(made_id),
        "eventName": record["eventName"],
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
    });
    if let Some(Value::Object(by)) = record.get("userIdentity") {
        let either = |upper, lower| by.get(upper).or(by.get(lower)).unwrap().clone();
        out["userIdentity"] = json!({"type": either("Type", "type"), "principalId": either("PrincipalId", "principalId")});
    }
    out["awsRegion"] = json!(identity.aws_region);
    out["dynamodb"] = change;
    out["eventSourceARN"] = json!(identity.event_source_arn);
    out
}

fn model_of_key_hash(record: &Value) -> u64 {
    let attributes: Vec<KeyAttribute<'_>> = record["dynamodb"]["Keys"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, typed)| {
            let (kind, value) = typed.as_object().unwrap().iter().next().unwrap();
            let kind = match kind.as_str() {
                "S" => KeyType::S,
                "N" => KeyType::N,
                _ => KeyType::B,
            };
            KeyAttribute {
                name,
                kind,
                value: value.as_str().unwrap(),
            }
        })
        .collect();
    key_hash(&dynamodb_key_bytes(&attributes).unwrap())
}

/// The `eventID` that the page's event has for a record.
fn id_in_event(event: &str, index: usize) -> Value {
    serde_json::from_str::<Value>(event).unwrap()["Records"][index]["eventID"].clone()
}

proptest! {
    #[test]
    fn an_event_is_the_models_text_byte_for_byte(body in body(0..6)) {
        let page = parse(&body.text).unwrap();
        let identity = identity();
        let template = EventTemplate::new(&identity, Format::DynamoDb);
        let event = event(&template, &page);
        let models = body.model["Records"].as_array().unwrap();
        prop_assert_eq!(page.len(), models.len());
        let records: Vec<Value> = models.iter().enumerate()
            .map(|(index, model)| model_of_event(&identity, model, &id_in_event(&event, index)))
            .collect();
        // Members keep their order here, so the text shows the order of the keys too.
        prop_assert_eq!(&event, &json!({ "Records": records }).to_string());

        let sizes: u32 = page.records().map(|record| template.record_bytes() + record.event_bytes()).sum();
        let commas = u32::try_from(page.len().saturating_sub(1)).unwrap();
        prop_assert_eq!(event.len(), (ENVELOPE_BYTES + sizes + commas) as usize);
        prop_assert_eq!(page.trailer().next_iterator.as_deref(), body.model["NextShardIterator"].as_str());
        prop_assert_eq!(page.trailer().millis_behind, None);
    }

    #[test]
    fn records_say_what_serde_json_says(body in body(0..6)) {
        let page = parse(&body.text).unwrap();
        for (record, model) in page.records().zip(body.model["Records"].as_array().unwrap()) {
            prop_assert_eq!(record.sequence(), model["dynamodb"]["SequenceNumber"].as_str().unwrap());
            prop_assert_eq!(record.arrival_ms(), arrival_ms(model).div_euclid(1000) * 1000);
            prop_assert_eq!(record.key_hash(), model_of_key_hash(model));
            let change: Value = serde_json::from_str(record.dynamodb_json().unwrap()).unwrap();
            prop_assert_eq!(&change["Keys"], &model["dynamodb"]["Keys"]);
            prop_assert_eq!(record.payload().unwrap(), record.dynamodb_json().unwrap().as_bytes());
            prop_assert_eq!((record.key(), record.data_base64()), ("".into(), ""));
        }
    }

    #[test]
    fn a_compact_page_gives_the_same_events(body in body(1..6), picks in vec(any::<prop::sample::Index>(), 0..6)) {
        let page = parse(&body.text).unwrap();
        let template = EventTemplate::new(&identity(), Format::DynamoDb);
        let live: Vec<u32> = picks.iter().map(|index| u32::try_from(index.index(page.len())).unwrap()).collect();
        let small = page.compact(&live);
        let mut expected = Vec::new();
        template.write(&mut expected, live.iter().map(|index| (&page, *index)));
        prop_assert_eq!(event(&template, &small).into_bytes(), expected);
        for (small, index) in small.records().zip(&live) {
            let record = page.record(*index as usize);
            prop_assert_eq!(
                (small.sequence(), small.arrival_ms(), small.key_hash(), small.event_bytes()),
                (record.sequence(), record.arrival_ms(), record.key_hash(), record.event_bytes())
            );
        }
    }

    #[test]
    fn forms_of_the_time_and_what_stands_around_the_change_do_not_matter(records in vec(record(), 1..4), choices in vec(any::<u8>(), 64..256)) {
        let template = EventTemplate::new(&identity(), Format::DynamoDb);
        let mut speller = Speller { choices, next: 0 };
        let plain = json!({ "Records": records }).to_string();
        let spelled: Vec<String> = records.iter().map(|record| {
            // Strangers stand between the members, and earlier members of the same name, which do not count.
            let mut changes = record.as_object().unwrap().clone();
            let change = changes.remove("dynamodb").unwrap();
            let time = format!("\"ApproximateCreationDateTime\":{}", change["ApproximateCreationDateTime"]);
            let same_time = format!("\"ApproximateCreationDateTime\":{}", speller.seconds(arrival_ms(record)));
            let change = change.to_string().replacen(&time, &same_time, 1);
            let rest: Vec<(String, String)> = changes.iter().map(|(name, value)| (name.clone(), spell(value, &mut speller))).collect();
            let mut members: Vec<(&str, String)> = rest.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            members.push(("dynamodb", change));
            speller.object(members)
        }).collect();
        let spelled = format!(r#"{{"Records":{}}}"#, speller.array(&spelled));
        prop_assert_eq!(event(&template, &parse(&spelled).unwrap()), event(&template, &parse(&plain).unwrap()));
    }

    #[test]
    fn a_body_that_is_cut_off_is_refused(body in body(0..2)) {
        assert_refused_where_cut_off(&body.text, Format::DynamoDb);
    }

    #[test]
    fn a_damaged_body_never_panics(body in body(1..4), damage in damage()) {
        if let Some(page) = parse_damaged(body.text, damage, Format::DynamoDb) {
            let event = event(&EventTemplate::new(&identity(), Format::DynamoDb), &page);
            prop_assert!(serde_json::from_str::<Value>(&event).is_ok(), "{event}");
        }
    }
}

/// A body of one record; what is given takes the place of its `Keys`.
fn body_of_keys(keys: &Value) -> String {
    json!({"Records": [{"eventID": "1", "eventName": "INSERT", "dynamodb": {
        "ApproximateCreationDateTime": 1_479_499_740, "Keys": keys, "SequenceNumber": "400000000000000499660"}}]})
    .to_string()
}

#[test]
fn key_hashes_are_those_of_lane_function_version_1() {
    let mut vectors = 0;
    for line in include_str!("data/lane_v1.txt").lines() {
        let Some(line) = line.strip_prefix("dynamodb ") else {
            continue;
        };
        vectors += 1;
        let (key, expected) = line.split_once(" -> ").unwrap();
        let keys: Map<String, Value> = key
            .split(' ')
            .map(|attribute| {
                let (name, rest) = attribute.split_once(':').unwrap();
                let (kind, value) = rest.split_once('=').unwrap();
                (name.to_owned(), json!({ kind: value }))
            })
            .collect();
        let page = parse(&body_of_keys(&keys.into())).unwrap();
        let hash = format!("{:016x}", page.record(0).key_hash());
        assert_eq!(hash, expected[..16], "{line}");
    }
    assert!(vectors >= 20, "{vectors}");
}

#[test]
fn a_deletion_by_time_to_live_says_so_in_lower_camel_case() {
    // The record of the DynamoDB developer guide, "Working with items that have an expired TTL".
    let body = r#"{"Records":[{"awsRegion":"us-east-1","dynamodb":{"ApproximateCreationDateTime":1.571424645E9,
        "Keys":{"pk":{"S":"a"}},"OldImage":{"pk":{"S":"a"}},"SequenceNumber":"400000000000000499660","SizeBytes":41,
        "StreamViewType":"NEW_AND_OLD_IMAGES"},"eventID":"c4ca4238a0b923820dcc509a6f75849b","eventName":"REMOVE",
        "eventSource":"aws:dynamodb","eventVersion":"1.1",
        "userIdentity":{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service"}}]}"#;
    let template = EventTemplate::new(
        &EventIdentity {
            event_source_arn: ARN.into(),
            aws_region: "us-east-1".into(),
            ..identity()
        },
        Format::DynamoDb,
    );
    assert_eq!(
        event(&template, &parse(body).unwrap()),
        concat!(
            r#"{"Records":[{"eventID":"c4ca4238a0b923820dcc509a6f75849b","eventName":"REMOVE","eventVersion":"1.1","#,
            r#""eventSource":"aws:dynamodb","userIdentity":{"type":"Service","principalId":"dynamodb.amazonaws.com"},"#,
            r#""awsRegion":"us-east-1","dynamodb":{"ApproximateCreationDateTime":1571424645,"Keys":{"pk":{"S":"a"}},"#,
            r#""OldImage":{"pk":{"S":"a"}},"SequenceNumber":"400000000000000499660","SizeBytes":41,"#,
            r#""StreamViewType":"NEW_AND_OLD_IMAGES"},"#,
            r#""eventSourceARN":"arn:aws:dynamodb:us-east-1:123456789012:table/T/stream/2026-01-01T00:00:00.000"}]}"#,
        )
    );
}

#[test]
fn a_record_without_an_id_gets_one_from_its_sequence_number() {
    let template = EventTemplate::new(&identity(), Format::DynamoDb);
    let id = |id: &str, sequence: &str| {
        let body = format!(
            r#"{{"Records":[{{{id}"eventName":"INSERT","dynamodb":{{"ApproximateCreationDateTime":1,"Keys":{{"k":{{"S":"v"}}}},"SequenceNumber":"{sequence}"}}}}]}}"#
        );
        id_in_event(&event(&template, &parse(&body).unwrap()), 0)
    };
    let made = id("", "17");
    let is_hexadecimal = |text: &str| {
        text.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    assert!(
        made.as_str()
            .is_some_and(|id| id.len() == 32 && is_hexadecimal(id)),
        "{made}"
    );
    assert_eq!(id(r#""eventID":null,"#, "17"), made);
    assert_ne!(id("", "18"), made);
    assert_eq!(id(r#""eventID":"","#, "17"), "");
}

#[test]
fn what_is_wrong_with_a_body_is_said() {
    let record = |change: &str| {
        format!(r#"{{"Records":[{{"eventID":"1","eventName":"INSERT","dynamodb":{change}}}]}}"#)
    };
    let keys = |keys: Value| body_of_keys(&keys);
    let number = r#""ApproximateCreationDateTime":1,"#;
    for (body, message) in [
        (
            r#"{"NextShardIterator":null}"#.into(),
            "at byte 0: the object that begins here has no Records",
        ),
        (
            r#"{"Records":[{"eventID":"1","dynamodb":{}}]}"#.into(),
            "at byte 38: the object that begins here has no SequenceNumber",
        ),
        (
            record(r#"{"SequenceNumber":"1"}"#),
            "at byte 59: the object that begins here has no ApproximateCreationDateTime",
        ),
        (
            record(&format!(r#"{{{number}"SequenceNumber":"1"}}"#)),
            "at byte 59: the object that begins here has no Keys",
        ),
        (
            record(r#"{"SequenceNumber":1}"#),
            "at byte 77: SequenceNumber must be a string, found a number",
        ),
        (
            record(r#"{"SequenceNumber":"x"}"#),
            "at 78: a sequence number is decimal digits only, found 'x' at index 0",
        ),
        (
            record(r#"{"ApproximateCreationDateTime":"2026"}"#),
            "at byte 90: ApproximateCreationDateTime must be a number, found a string",
        ),
        (
            record(r#"{"ApproximateCreationDateTime":1e15}"#),
            "at 90: ApproximateCreationDateTime is out of range",
        ),
        (
            r#"{"Records":[{"eventID":"1"}]}"#.into(),
            "at byte 12: the object that begins here has no eventName",
        ),
        (
            r#"{"Records":[{"eventName":"INSERT"}]}"#.into(),
            "at byte 12: the object that begins here has no dynamodb",
        ),
        (
            keys(json!({})),
            "at byte 108: an item's key is attributes of type S, N or B",
        ),
        (
            keys(json!({"k": {}})),
            "at byte 113: an item's key is attributes of type S, N or B",
        ),
        (
            keys(json!({"k": {"BOOL": true}})),
            "at byte 115: an item's key is attributes of type S, N or B",
        ),
        (
            keys(json!({"k": {"N": "1.x"}})),
            "at byte 108: an item's key is attributes of type S, N or B: the key attribute \"k\" holds \"1.x\", which is not a number of DynamoDB",
        ),
        (
            keys(json!({"k": {"S": 7}})),
            "at byte 118: a key attribute must be a string, found a number",
        ),
    ] {
        assert_eq!(parse(&body).unwrap_err().to_string(), message, "{body}");
    }
}

#[test]
fn a_shard_takes_pages_of_its_own_format_and_discards_tell_whole_seconds() {
    let key = CheckpointKey {
        mapping_uuid: "m".into(),
        stream_identity: "s".into(),
        shard_id: "shardId-1".into(),
    };
    let names = MappingIdentity {
        event_source_arn: ARN.into(),
        ..MappingIdentity::default()
    };
    let mapping = MappingConfig {
        retry_attempts_max: Some(0),
        ..MappingConfig::default()
    };
    let mut engine = Engine::default();
    let config = ShardConfig {
        format: Format::DynamoDb,
        ..ShardConfig::new(key, names, mapping)
    };
    let shard = engine.add_shard(config, None).unwrap();
    let mut kinesis = PageBuilder::new();
    kinesis.push("k", b"", 0, Some("1")).unwrap();
    engine.wants(shard, 0).unwrap();
    let refused = engine.offer(shard, kinesis.finish(), None, 0).unwrap_err();
    assert_eq!(
        refused,
        UsageError::OtherFormat {
            expected: Format::DynamoDb,
            found: Format::Kinesis
        }
    );
    assert_eq!(
        refused.to_string(),
        "a page of Kinesis Data Streams was offered to a shard of DynamoDB Streams"
    );

    let page = parse(&body_of_keys(&json!({"Id": {"N": "101"}}))).unwrap();
    engine.offer(shard, page, None, 0).unwrap();
    let Taken::Task(Task::Run(batch)) = engine.take(1_479_499_741_000) else {
        panic!("a batch")
    };
    assert_eq!(batch.json().len(), batch.json_bytes());
    let outcome = Outcome::Failure(Box::default());
    let finished = engine
        .finish(batch.ticket(), outcome, None, 1_479_499_741_000)
        .unwrap();
    let record: Value = serde_json::from_str(&finished.discards[0].invocation_record()).unwrap();
    assert_eq!(
        record["DDBStreamBatchInfo"].to_string(),
        json!({
            "shardId": "shardId-1",
            "startSequenceNumber": "400000000000000499660",
            "endSequenceNumber": "400000000000000499660",
            "approximateArrivalOfFirstRecord": "2016-11-18T20:09:00Z",
            "approximateArrivalOfLastRecord": "2016-11-18T20:09:00Z",
            "batchSize": 1,
            "streamArn": ARN,
        })
        .to_string()
    );
}
