//! Filters in a shard: what they let pass is handed out as ever, and what they do not is complete at once.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::unnecessary_wraps,
    reason = "filters are written as a mapping has them"
)]

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use streamcore::{
    Checkpoint, CheckpointKey, Engine, FilterCriteria, Format, MappingConfig, MappingIdentity,
    Outcome, Page, PageBuilder, Position, ShardConfig, Taken, Task, key_hash, lane,
};

/// Filters that let these keys pass.
fn keys(keys: &str) -> Option<Arc<FilterCriteria>> {
    let keys: Vec<String> = keys.chars().map(|key| format!("\"{key}\"")).collect();
    let pattern = format!(r#"{{"partitionKey": [{}]}}"#, keys.join(","));
    Some(Arc::new(FilterCriteria::new(&[pattern]).unwrap()))
}

fn data(pattern: &str) -> Option<Arc<FilterCriteria>> {
    let pattern = format!(r#"{{"data": {pattern}}}"#);
    Some(Arc::new(FilterCriteria::new(&[pattern]).unwrap()))
}

fn config(filter: Option<Arc<FilterCriteria>>, factor: u8) -> ShardConfig {
    let key = CheckpointKey {
        mapping_uuid: "mapping".into(),
        stream_identity: "stream".into(),
        shard_id: "shardId-0".into(),
    };
    let identity = MappingIdentity {
        event_source_arn: "arn:aws:kinesis:us-east-1:123456789012:stream/orders".into(),
        function_arn: "arn:aws:lambda:us-east-1:123456789012:function:bill".into(),
        execution_role_arn: "arn:aws:iam::123456789012:role/bill".into(),
        aws_region: "us-east-1".into(),
    };
    let mapping = MappingConfig {
        batch_size: 1,
        parallelization_factor: factor,
        filter,
        ..MappingConfig::default()
    };
    ShardConfig::new(key, identity, mapping)
}

/// Records 1, 2, ... of one key each.
fn page(first: usize, keys: &str) -> Page {
    let mut builder = PageBuilder::new();
    for (number, key) in (first..).zip(keys.chars()) {
        let number = number.to_string();
        builder
            .push(&key.to_string(), b"{}", 0, Some(&number))
            .unwrap();
    }
    builder.finish()
}

fn payloads(payloads: &[&[u8]]) -> Page {
    let mut builder = PageBuilder::new();
    for (number, payload) in (1..).zip(payloads) {
        builder
            .push("key", payload, 1_500, Some(&i32::to_string(&number)))
            .unwrap();
    }
    builder.finish()
}

struct Run {
    engine: Engine,
    shard: u32,
    now: i64,
}

impl Run {
    fn new(config: ShardConfig, checkpoint: Option<Checkpoint>) -> Self {
        let mut engine = Engine::default();
        let shard = engine.add_shard(config, checkpoint).unwrap();
        Self {
            engine,
            shard,
            now: 0,
        }
    }

    fn offer(&mut self, page: Page) -> (u32, u32, u32) {
        let offered = self.engine.offer(self.shard, page, None, self.now).unwrap();
        self.engine.check_invariants();
        (offered.records, offered.complete, offered.filtered)
    }

    /// Hands out until there is nothing more; records that `fails` says fail stay. Gives the sequence numbers that succeeded.
    fn run(&mut self, mut fails: impl FnMut(&str) -> bool) -> Vec<String> {
        let mut seen = Vec::new();
        while let Taken::Task(Task::Run(batch)) = self.engine.take(self.now) {
            let number = batch.records().first().unwrap().sequence().to_owned();
            let outcome = if fails(&number) {
                Outcome::Failure(Box::default())
            } else {
                seen.push(number);
                Outcome::Success
            };
            self.engine
                .finish(batch.ticket(), outcome, None, self.now)
                .unwrap();
            self.engine.check_invariants();
        }
        seen
    }

    fn watermark(&mut self) -> Option<String> {
        let stats = self.engine.stats(self.shard).unwrap();
        Some(stats.watermark?.sequence.as_str().to_owned())
    }

    fn saved(&mut self) -> Checkpoint {
        let snapshot = self.engine.checkpoint(self.shard).unwrap().unwrap();
        Checkpoint::decode(&snapshot.checkpoint.encode()).unwrap()
    }
}

#[test]
fn what_is_filtered_out_is_complete_when_it_is_taken_in() {
    let mut run = Run::new(config(keys("a"), 1), None);
    assert_eq!(run.offer(page(1, "bbb")), (3, 0, 3));
    assert_eq!(run.watermark().unwrap(), "3");
    assert_eq!(run.saved().watermark.unwrap().sequence.as_str(), "3");
    assert_eq!(run.offer(page(4, "babab")), (5, 0, 3));
    assert_eq!(run.watermark().unwrap(), "4");
    assert_eq!(run.run(|number| number == "7"), ["5"]);
    assert_eq!(run.watermark().unwrap(), "6");
    run.now = 1_000_000;
    assert_eq!(run.run(|_| false), ["7"]);
    assert_eq!(run.watermark().unwrap(), "8");
    let stats = run.engine.stats(run.shard).unwrap();
    assert_eq!((stats.held_bytes, stats.counters.filtered), (0, 6));
}

#[test]
fn a_shard_of_which_everything_is_filtered_out_ends() {
    let mut run = Run::new(config(keys("a"), 3), None);
    run.offer(page(1, "bcd"));
    run.engine.close(run.shard, 0).unwrap();
    let checkpoint = run.saved();
    assert!(checkpoint.ended);
    assert_eq!(checkpoint.watermark.unwrap().sequence.as_str(), "3");
}

#[test]
fn duplicates_and_what_is_complete_are_not_counted_as_filtered_out() {
    let mut run = Run::new(config(keys("a"), 1), None);
    run.offer(page(1, "ab"));
    let offered = run
        .engine
        .offer(run.shard, page(1, "abb"), None, 0)
        .unwrap();
    assert_eq!(
        (offered.records, offered.duplicates, offered.filtered),
        (1, 2, 1)
    );
    run.run(|_| false);
    let checkpoint = run.saved();
    let mut again = Run::new(config(keys("a"), 1), Some(checkpoint));
    assert_eq!(again.offer(page(1, "abbb")), (1, 0, 1));
}

#[test]
fn after_a_restart_what_lies_above_the_marks_is_judged_anew() {
    // Factor 2: a and c share lane 1, b has lane 0. Record 1 is stuck, so the watermark stays.
    let mut run = Run::new(config(keys("ab"), 2), None);
    assert_eq!(run.offer(page(1, "abcbcac")), (7, 0, 3));
    assert_eq!(run.run(|number| number == "1"), ["2", "4"]);
    let checkpoint = run.saved();
    assert_eq!(checkpoint.watermark, None);

    // The same filters: the same records.
    let mut same = Run::new(config(keys("ab"), 2), Some(checkpoint.clone()));
    assert_eq!(same.offer(page(1, "abcbcac")), (7, 2, 3));
    assert_eq!(same.run(|_| false), ["1", "6"]);
    assert_eq!(same.watermark().unwrap(), "7");

    // Other filters: what was filtered out and is not below a mark may run now, in order of the log.
    let mut other = Run::new(config(keys("ac"), 2), Some(checkpoint));
    assert_eq!(other.offer(page(1, "abcbcac")), (7, 2, 0));
    assert_eq!(other.run(|_| false), ["1", "3", "5", "6", "7"]);
}

#[test]
fn what_a_mark_covers_stays_complete_under_other_filters() {
    let mut run = Run::new(config(keys("a"), 1), None);
    run.offer(page(1, "ba"));
    assert_eq!(run.run(|_| false), ["2"]);
    let checkpoint = run.saved();
    let mut other = Run::new(config(None, 1), Some(checkpoint));
    assert_eq!(other.offer(page(1, "ba")), (0, 0, 0));
}

#[test]
fn an_update_judges_what_is_taken_in_after_it() {
    let mut run = Run::new(config(keys("a"), 1), None);
    run.offer(page(1, "aba"));
    run.engine.pause(run.shard).unwrap();
    let mapping = config(keys("b"), 2).mapping;
    run.engine.update(run.shard, mapping, 0).unwrap();
    run.engine.resume(run.shard, 0).unwrap();
    assert_eq!(run.offer(page(4, "aba")), (3, 0, 2));
    assert_eq!(run.run(|_| false), ["1", "3", "5"]);
    assert_eq!(run.watermark().unwrap(), "6");
}

#[test]
fn a_page_may_be_judged_outside_of_the_engine() {
    let mut run = Run::new(config(keys("a"), 1), None);
    let sieve = run.engine.sieve(run.shard).unwrap().unwrap();
    run.offer(page(1, "ab"));
    let page = Arc::new(page(1, "abab"));
    let sifted = sieve.sift(&page);
    let offered = run
        .engine
        .offer_sifted(run.shard, page, Some(sifted), None, 0)
        .unwrap();
    assert_eq!(
        (offered.duplicates, offered.records, offered.filtered),
        (2, 2, 1)
    );
    assert_eq!(run.run(|_| false), ["1", "3"]);
}

fn passes(filter: Option<Arc<FilterCriteria>>, page: Page) -> Vec<String> {
    let mut run = Run::new(config(filter, 1), None);
    run.offer(page);
    run.run(|_| false)
}

#[test]
fn data_that_is_not_json_matches_no_pattern_on_data() {
    let texts: [&[u8]; 10] = [
        br#"{"a": 1}"#,
        b"plain",
        b"",
        br#"{"a": 1"#,
        br#"{"a": 1}}"#,
        b"{\"a\": 1, \"b\": \"\xff\"}",
        br#"[{"a": 1}]"#,
        br#"{"a": 1, "b": "\ud800"}"#,
        b" \n{\"a\":1}\t",
        b"7",
    ];
    assert_eq!(
        passes(data(r#"{"a": [1]}"#), payloads(&texts)),
        ["1", "7", "8", "9"]
    );
    // It is there that JSON without the field matches, and what is not JSON does not.
    assert_eq!(
        passes(data(r#"{"c": [{"exists": false}]}"#), payloads(&texts)),
        ["1", "7", "8", "9", "10"]
    );
    let all = passes(keys("k"), payloads(&texts));
    assert!(all.is_empty());
    let key = FilterCriteria::new(&[r#"{"partitionKey": ["key"]}"#]).unwrap();
    assert_eq!(
        passes(Some(Arc::new(key)), payloads(&texts)).len(),
        texts.len()
    );
    let none = FilterCriteria::new(&[] as &[&str]).unwrap();
    assert_eq!(
        passes(Some(Arc::new(none)), payloads(&texts)).len(),
        texts.len(),
        "an empty list of filters is none"
    );
    // What speaks of data does not match; the other alternative does.
    let either = r#"{"$or": [{"data": {"a": [1]}}, {"sequenceNumber": ["2"]}]}"#;
    let either = FilterCriteria::new(&[either]).unwrap();
    assert_eq!(
        passes(Some(Arc::new(either)), payloads(&texts)),
        ["1", "2", "7", "8", "9"]
    );
}

#[test]
fn data_nested_too_deeply_is_no_json() {
    let deep = |depth: usize| {
        [
            b"{\"a\": 1, \"b\": ".as_slice(),
            &vec![b'['; depth],
            &vec![b']'; depth],
            b"}",
        ]
        .concat()
    };
    // The object is one level, and how deep it may be is the same where a pattern looks and where it does not.
    let (in_bounds, too_deep) = (deep(127), deep(128));
    for pattern in [
        r#"{"a": [1]}"#,
        r#"{"a": [1], "b": [{"exists": false}]}"#,
        r#"{"a": [1], "b": {"c": [{"exists": false}]}}"#,
    ] {
        assert_eq!(
            passes(data(pattern), payloads(&[&in_bounds, &too_deep])),
            ["1"],
            "{pattern}"
        );
    }
}

#[test]
fn a_pattern_sees_what_the_event_says_beside_the_data() {
    for pattern in [
        r#"{"partitionKey": ["key"], "sequenceNumber": ["1"], "kinesisSchemaVersion": ["1.0"]}"#,
        r#"{"approximateArrivalTimestamp": [{"numeric": ["=", 1.5]}]}"#,
        r#"{"eventSource": ["aws:kinesis"], "eventName": ["aws:kinesis:record"], "eventVersion": ["1.0"]}"#,
        r#"{"eventID": ["shardId-0:1"], "awsRegion": [{"prefix": "us-"}]}"#,
        r#"{"eventSourceARN": [{"suffix": "/orders"}], "invokeIdentityArn": [{"suffix": "/bill"}]}"#,
        r#"{"kinesis": [{"exists": false}], "data": {"b": [{"exists": false}]}}"#,
    ] {
        let filter = Some(Arc::new(FilterCriteria::new(&[pattern]).unwrap()));
        assert_eq!(passes(filter, payloads(&[b"{}"])), ["1"], "{pattern}");
    }
}

#[test]
fn a_pattern_sees_a_record_of_dynamodb_as_the_event_has_it() {
    let body = br#"{"Records": [{"eventID": "e1", "eventName": "REMOVE", "userIdentity": {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"},
        "dynamodb": {"ApproximateCreationDateTime": 1.479499740E9, "Keys": {"Id": {"N": "101"}}, "OldImage": {"Age": {"N": "20"}, "Tags": {"SS": ["a", "b"]}},
        "SequenceNumber": "13021600000000001596893679", "SizeBytes": 26, "StreamViewType": "OLD_IMAGE"}}]}"#;
    let check = |pattern: &str, expected: bool| {
        let mut config = config(Some(Arc::new(FilterCriteria::new(&[pattern]).unwrap())), 1);
        config.format = Format::DynamoDb;
        let mut run = Run::new(config, None);
        run.offer(Page::parse(body.to_vec(), Format::DynamoDb).unwrap());
        assert_eq!(run.run(|_| false).len(), usize::from(expected), "{pattern}");
    };
    check(
        r#"{"eventName": ["REMOVE"], "eventID": ["e1"], "eventVersion": ["1.1"], "eventSource": ["aws:dynamodb"]}"#,
        true,
    );
    check(
        r#"{"userIdentity": {"type": ["Service"], "principalId": ["dynamodb.amazonaws.com"]}}"#,
        true,
    );
    check(r#"{"userIdentity": {"Type": ["Service"]}}"#, false);
    check(
        r#"{"awsRegion": ["us-east-1"], "eventSourceARN": [{"prefix": "arn:"}]}"#,
        true,
    );
    check(
        r#"{"dynamodb": {"OldImage": {"Age": {"N": ["20"]}, "Tags": {"SS": ["b"]}}}}"#,
        true,
    );
    check(
        r#"{"dynamodb": {"OldImage": {"Age": {"N": [{"numeric": [">", 10]}]}}}}"#,
        false,
    );
    check(
        r#"{"dynamodb": {"ApproximateCreationDateTime": [{"numeric": [">", 1479499739]}]}}"#,
        true,
    );
    check(
        r#"{"dynamodb": {"NewImage": {"Age": {"N": [{"exists": false}]}}}, "nothing": [{"exists": false}]}"#,
        true,
    );
    check(r#"{"eventName": ["INSERT"]}"#, false);
}

/// What one step of a random life does.
#[derive(Debug, Clone)]
enum Step {
    Offer(String),
    Work(Vec<bool>),
    Restart { keys: String, factor: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        "[a-f]{1,12}".prop_map(Step::Offer),
        vec(any::<bool>(), 1..10).prop_map(Step::Work),
        ("[a-f]{0,4}", 1..=4_u8).prop_map(|(keys, factor)| Step::Restart {
            keys: keys + "a",
            factor
        }),
    ]
}

/// Texts that are JSON, and others that nearly are.
fn nearly_json() -> impl Strategy<Value = String> {
    let tokens = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\n",
        "\"a\"",
        "\"a\":",
        "\"\\u00e9\\n\"",
        "\"\\x\"",
        "\"",
        "0",
        "-0",
        "01",
        "-",
        "1.",
        "1.5e3",
        "1e",
        "12.5",
        "12345678901234567.25",
        "true",
        "false",
        "null",
        "nul",
        "\"a text of more than sixteen bytes, é\"",
        "\t",
        "\u{b}",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        (-1e6..1e6).prop_map(|number: f64| number.to_string()),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "[a-z é]{0,80}".prop_map(|text| format!("\"{text}\"")),
        Just(r#""\"\\\u0041\/""#.to_owned()),
    ];
    let blank = || prop::sample::select(vec!["", "", "", " ", "\n  "]);
    let json = leaf.prop_recursive(4, 40, 5, move |inner| {
        let array = (vec((blank(), inner.clone(), blank()), 0..5), blank()).prop_map(
            |(elements, blank)| {
                let elements: Vec<String> = elements
                    .iter()
                    .map(|(a, element, b)| format!("{a}{element}{b}"))
                    .collect();
                format!("[{blank}{}]", elements.join(","))
            },
        );
        let object = (vec(("[a-z]{0,20}", blank(), inner, blank()), 0..5), blank()).prop_map(
            |(members, blank)| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(name, a, value, b)| format!("{a}\"{name}\"{b}:{a}{value}{b}"))
                    .collect();
                format!("{{{blank}{}}}", members.join(","))
            },
        );
        prop_oneof![array, object]
    });
    let damaged = (
        json.clone(),
        any::<prop::sample::Index>(),
        0_usize..3,
        tokens.clone(),
    )
        .prop_map(|(text, index, removed, token)| {
            let characters: Vec<char> = text.chars().collect();
            let at = index.index(characters.len());
            let rest = &characters[(at + removed).min(characters.len())..];
            characters[..at]
                .iter()
                .copied()
                .chain(token.chars())
                .chain(rest.iter().copied())
                .collect()
        });
    prop_oneof![
        2 => json,
        3 => damaged,
        1 => vec(tokens, 0..12).prop_map(|tokens| tokens.concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn what_no_pattern_asks_for_is_json_all_the_same(text in nearly_json()) {
        let filter = FilterCriteria::new(&[r#"{"other": [{"exists": false}]}"#]).unwrap();
        for event in [format!(r#"{{"it":{text}}}"#), format!(r#"{{"it":[{text},{text}],"and":{text}}}"#), format!(r#"{{"it":{{"a":{text}, "b" : {text} }} }}"#)] {
            let model = serde_json::from_str::<serde_json::Value>(&event);
            prop_assert_eq!(filter.matches(&event).is_ok(), model.is_ok(), "{}", event);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Of data that are plain ASCII the ends of strings are known before they are read; of others they are looked for.
    #[test]
    fn data_are_json_or_match_nothing(text in nearly_json()) {
        let plain = text.replace(['\n', '\t'], " ").replace('é', "e").replace(r"\u00e9", "e").replace('\\', "");
        let texts: Vec<String> = [text, plain]
            .iter()
            .flat_map(|text| [
                text.clone(),
                format!(r#"{{"it":{text},"and":[{text},{text}],"k":"v"}}"#),
                format!(r#"{{ "k" : "v" , "it" :{{"a":{text}, "b" : {text} }} }}"#),
                format!(r#"{{"k":"v","far":{{"a text of more than sixteen bytes":"and another one that is longer than that"}},"it":{text}}}"#),
            ])
            .collect();
        let bytes: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        let json: Vec<String> = (1..)
            .zip(&texts)
            .filter(|(_, text)| serde_json::from_str::<serde_json::Value>(text).is_ok())
            .map(|(number, _)| i32::to_string(&number))
            .collect();
        let absent = passes(data(r#"{"other": [{"exists": false}]}"#), payloads(&bytes));
        prop_assert_eq!(&absent, &json, "{:?}", &texts);
        let found = passes(data(r#"{"k": ["v"]}"#), payloads(&bytes));
        let with_k: Vec<&String> = json.iter().filter(|number| *number != "1" && *number != "5").collect();
        prop_assert_eq!(found.iter().filter(|number| *number != "1" && *number != "5").collect::<Vec<_>>(), with_k, "{:?}", &texts);
    }
}

proptest! {
    /// Through restarts under other filters and factors: nothing that passes is lost, the first successes of a key are in order, and the
    /// watermark waits for nothing that is filtered out.
    #[test]
    fn nothing_that_passes_is_lost(steps in vec(step(), 1..40)) {
        let mut log = String::new();
        let mut filter = "abc".to_owned();
        let mut run = Run::new(config(keys(&filter), 2), None);
        // For each record, whether it passed when it was last taken in, and whether it has succeeded.
        let mut passed: Vec<bool> = Vec::new();
        let mut done: Vec<bool> = Vec::new();
        let mut offered = 0;
        let finish = vec![Step::Restart { keys: "abcdef".into(), factor: 3 }, Step::Work(vec![true; 200])];
        for step in steps.into_iter().chain(finish) {
            match step {
                Step::Offer(more) => {
                    run.offer(page(log.len() + 1, &more));
                    log.push_str(&more);
                    passed.extend(more.chars().map(|key| filter.contains(key)));
                    done.resize(log.len(), false);
                    offered = log.len();
                }
                Step::Work(outcomes) => {
                    for success in outcomes {
                        let Taken::Task(Task::Run(batch)) = run.engine.take(run.now) else { break };
                        let index = batch.records().first().unwrap().sequence().parse::<usize>().unwrap() - 1;
                        prop_assert!(passed[index], "record {} was filtered out", index + 1);
                        let key = &log[index..=index];
                        for earlier in 0..index {
                            prop_assert!(
                                &log[earlier..=earlier] != key || done[earlier] || !passed[earlier],
                                "record {} before {}", index + 1, earlier + 1
                            );
                        }
                        let outcome = if success { Outcome::Success } else { Outcome::Failure(Box::default()) };
                        done[index] |= success;
                        run.engine.finish(batch.ticket(), outcome, None, run.now).unwrap();
                        run.engine.check_invariants();
                        run.now += 100_000;
                    }
                }
                Step::Restart { keys: new, factor } => {
                    let saved = run.engine.checkpoint(run.shard).unwrap().map(|snapshot| snapshot.checkpoint);
                    let Some(checkpoint) = saved else { continue };
                    let from = checkpoint.watermark.as_ref().map_or(0, |position| position.sequence.as_str().parse().unwrap());
                    let number = |position: &Position| position.sequence.as_str().parse::<usize>().unwrap();
                    let marks: Vec<Vec<usize>> = checkpoint
                        .tags()
                        .map(|tag| tag.marks.iter().map(|mark| mark.as_ref().map_or(0, number)).collect())
                        .collect();
                    filter = new;
                    run = Run { now: run.now, ..Run::new(config(keys(&filter), factor), Some(checkpoint)) };
                    if from < log.len() {
                        run.offer(page(from + 1, &log[from..]));
                    }
                    for index in from..log.len() {
                        // What lies below a mark of its lane stays complete; the rest is judged anew.
                        let hash = key_hash(&log.as_bytes()[index..=index]);
                        let number: usize = index + 1;
                        let is_known = marks.iter().any(|marks| {
                            let factor = u8::try_from(marks.len()).unwrap();
                            marks[usize::from(lane(hash, factor))] >= number
                        });
                        passed[index] = !is_known && filter.contains(&log[index..=index]);
                    }
                }
            }
            let first = (0..offered).find(|index| passed[*index] && !done[*index]).unwrap_or(offered);
            let watermark: usize = run.watermark().map_or(0, |text| text.parse().unwrap());
            prop_assert!(watermark <= first, "the watermark {watermark} is past record {}", first + 1);
        }
        prop_assert_eq!(run.watermark().map_or(0, |text| text.parse().unwrap()), log.len());
    }
}
