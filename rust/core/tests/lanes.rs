//! The lane function against vectors that never change: a change here is version 2.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::collection::vec;
use proptest::prelude::*;
use streamcore::{
    KeyAttribute, KeyError, KeyType, LANE_FUNCTION_VERSION, PageBuilder, dynamodb_key_bytes,
    key_hash, lane,
};

const VECTORS: &str = include_str!("data/lane_v1.txt");
const CHANGED: &str = "the lane function has changed: a change here is version 2, stored checkpoints carry the version";

/// `id:N=1.0` and the like, as the vectors write key attributes.
fn attribute(text: &str) -> KeyAttribute<'_> {
    let (name, rest) = text.split_once(':').expect("name:type=value");
    let (kind, value) = rest.split_once('=').expect("type=value");
    let kind = match kind {
        "S" => KeyType::S,
        "N" => KeyType::N,
        "B" => KeyType::B,
        other => panic!("no key type {other}"),
    };
    KeyAttribute { name, kind, value }
}

#[test]
fn lanes_are_those_of_version_1() {
    assert_eq!(LANE_FUNCTION_VERSION, 1, "{CHANGED}");
    let mut kinds = [0, 0];
    for line in VECTORS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (source, expected) = line.split_once(" -> ").expect("key -> hash lanes");
        let hash = match source.split_once(' ').expect("format and key") {
            ("kinesis", key) => {
                kinds[0] += 1;
                let key: String = serde_json::from_str(key).expect("a string");
                let mut builder = PageBuilder::new();
                builder.push(&key, b"", 0, None).unwrap();
                assert_eq!(
                    builder.finish().record(0).key_hash(),
                    key_hash(key.as_bytes())
                );
                key_hash(key.as_bytes())
            }
            ("dynamodb", key) => {
                kinds[1] += 1;
                let attributes: Vec<KeyAttribute<'_>> = key.split(' ').map(attribute).collect();
                key_hash(&dynamodb_key_bytes(&attributes).unwrap())
            }
            (other, _) => panic!("no format {other}"),
        };
        let lanes: Vec<String> = (1..=10)
            .map(|factor| lane(hash, factor).to_string())
            .collect();
        assert_eq!(
            format!("{hash:016x} {}", lanes.join(",")),
            expected,
            "{source}: {CHANGED}"
        );
    }
    assert!(kinds[0] >= 10 && kinds[1] >= 10, "{kinds:?}");
}

fn number_bytes(value: &str) -> Result<Vec<u8>, KeyError> {
    dynamodb_key_bytes(&[KeyAttribute {
        name: "id",
        kind: KeyType::N,
        value,
    }])
}

#[test]
fn equal_numbers_have_equal_bytes() {
    for same in [
        ["1", "1.0", "10E-1", "+1", "0.1e1", "0001.000", "1E0", "1."],
        ["0", "-0", "0.000", "-0.0E5", "+0", "0e-9", "00", ".0"],
        [
            "-12.5", "-1.25E1", "-125e-1", "-012.50", "-0.125E2", "-1250E-2", "-12.5E+0", "-12.500",
        ],
        [
            "1000", "1E3", "1e+3", "10E2", "1000.0", "0.001E6", "+1000", "01000",
        ],
        [
            "0.001", "1E-3", "0.1e-2", "10e-4", "0.00100", ".001", "+0.001", "00.001",
        ],
    ] {
        let first = number_bytes(same[0]).unwrap();
        assert!(
            first.ends_with(same[0].as_bytes()),
            "the first one is the plain form: {}",
            same[0]
        );
        for other in same {
            assert_eq!(number_bytes(other).unwrap(), first, "{other}");
        }
    }
}

#[test]
fn what_is_no_number_or_no_base64_is_refused() {
    for value in [
        "",
        "-",
        "x",
        "1x",
        "1e",
        "1e9999",
        "1e99999999999999999999",
        "--1",
        "1.2.3",
        ".",
    ] {
        let expected = KeyError::BadNumber {
            name: "id".into(),
            value: value.into(),
        };
        assert_eq!(number_bytes(value), Err(expected), "{value}");
    }
    let binary = [KeyAttribute {
        name: "id",
        kind: KeyType::B,
        value: "Q",
    }];
    assert_eq!(
        dynamodb_key_bytes(&binary),
        Err(KeyError::BadBase64 { name: "id".into() })
    );
}

proptest! {
    #[test]
    fn numbers_have_equal_bytes_exactly_if_they_are_equal(a in -2_000_i64..2_000, b in -2_000_i64..2_000, shift in 0_usize..6) {
        let a_shifted = format!("{a}{}E-{shift}", "0".repeat(shift));
        prop_assert_eq!(number_bytes(&a_shifted).unwrap() == number_bytes(&b.to_string()).unwrap(), a == b);
        prop_assert_eq!(number_bytes(&format!("{a}e-3")).unwrap() == number_bytes(&format!("{b}E-03")).unwrap(), a == b);
    }

    #[test]
    fn the_order_of_attributes_does_not_count_but_their_borders_do(names in prop::sample::subsequence(vec!["a", "ab", "b", "sk"], 2), values in vec("[a-c]{0,3}", 2)) {
        let attribute = |index: usize| KeyAttribute { name: names[index], kind: KeyType::S, value: &values[index] };
        let bytes = dynamodb_key_bytes(&[attribute(0), attribute(1)]).unwrap();
        prop_assert_eq!(&dynamodb_key_bytes(&[attribute(1), attribute(0)]).unwrap(), &bytes);
        let joined = [values[0].as_str(), &values[1]].concat();
        let moved = [KeyAttribute { name: names[0], kind: KeyType::S, value: &joined }, KeyAttribute { name: names[1], kind: KeyType::S, value: "" }];
        prop_assert_eq!(dynamodb_key_bytes(&moved).unwrap() == bytes, values[1].is_empty());
    }

    #[test]
    fn a_lane_is_below_the_factor_and_rises_with_the_hash(a in any::<u64>(), b in any::<u64>(), factor in 1_u8..=10) {
        prop_assert!(lane(a.max(b), factor) < factor);
        prop_assert!(lane(a.min(b), factor) <= lane(a.max(b), factor));
    }
}
