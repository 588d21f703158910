//! From the body of a `GetRecords` answer to the event: reading (with the key hashes) and writing, per record.
//!
//! `cargo bench -p streamcore --bench page`; divide by [`RECORDS`] for the time of a record. The figures to compare with are those of
//! `orjson.loads` on the same body.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use streamcore::{ENVELOPE_BYTES, EventIdentity, EventTemplate, Format, Page, PageBuilder};

const RECORDS: u32 = 1_000;

/// A body as Kinesis sends it, with payloads of a size and keys like those of a fleet of devices.
fn body(payload_bytes: usize) -> String {
    let mut builder = PageBuilder::new();
    for index in 0..RECORDS {
        let key = format!("device-{:06}", index * 7_919 % 1_000);
        let payload: Vec<u8> = (0..payload_bytes)
            .map(|byte| u8::try_from((byte * 31 + index as usize * 17) % 251).expect("below 251"))
            .collect();
        let sequence = format!("49590338271490256608559692538361571095921575989136{index:06}");
        let arrival_ms = 1_545_084_650_000 + i64::from(index) * 7;
        builder
            .push(&key, &payload, arrival_ms, Some(&sequence))
            .expect("a record");
    }
    let page = builder.finish();
    let records: Vec<String> = page
        .records()
        .map(|record| {
            format!(
                r#"{{"ApproximateArrivalTimestamp":{}.{:03},"Data":"{}","PartitionKey":"{}","SequenceNumber":"{}"}}"#,
                record.arrival_ms() / 1000,
                record.arrival_ms() % 1000,
                record.data_base64(),
                record.key_json(),
                record.sequence(),
            )
        })
        .collect();
    format!(
        r#"{{"MillisBehindLatest":0,"NextShardIterator":"AAAAAAAAAAE","Records":[{}]}}"#,
        records.join(",")
    )
}

fn template() -> EventTemplate {
    EventTemplate::new(&EventIdentity {
        shard_id: "shardId-000000000006".into(),
        event_source_arn: "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream".into(),
        invoke_identity_arn: "arn:aws:iam::123456789012:role/lambda-role".into(),
        aws_region: "us-east-2".into(),
    })
}

fn page(criterion: &mut Criterion) {
    let template = template();
    for payload_bytes in [100, 1_024] {
        let body = body(payload_bytes).into_bytes();
        if let Some(folder) = std::env::var_os("PAGE_BODIES") {
            let path =
                std::path::Path::new(&folder).join(format!("get_records_{payload_bytes}.json"));
            std::fs::write(path, &body).expect("a folder to write bodies to");
        }
        let mut group = criterion.benchmark_group(format!("page/{payload_bytes}B"));
        group.throughput(Throughput::Elements(RECORDS.into()));
        group.bench_function("parse", |bencher| {
            bencher.iter_batched(
                || body.clone(),
                |body| Page::parse(body, Format::Kinesis).expect("a page"),
                BatchSize::PerIteration,
            );
        });
        let parsed = Page::parse(body.clone(), Format::Kinesis).expect("a page");
        let size = |page: &Page| -> u32 {
            let records: u32 = page
                .records()
                .map(|record| template.record_bytes() + record.event_bytes() + 1)
                .sum();
            ENVELOPE_BYTES + records - 1
        };
        let write = |page: &Page| {
            let mut event = Vec::with_capacity(size(page) as usize);
            template.write(&mut event, (0..RECORDS).map(|index| (page, index)));
            event
        };
        group.bench_function("event", |bencher| {
            bencher.iter(|| write(black_box(&parsed)));
        });
        group.bench_function("parse and event", |bencher| {
            bencher.iter_batched(
                || body.clone(),
                |body| {
                    let page = Page::parse(body, Format::Kinesis).expect("a page");
                    let event = write(&page);
                    (page, event)
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, page);
criterion_main!(benches);
