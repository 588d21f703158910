//! What the models have in common: an engine with one shard, pages of written records, and what comes out.

mod batches;
mod budget;
mod checkpoints;
mod failures;
mod fairness;
mod relief;
mod usage;

use streamcore::{
    Batch, CheckpointKey, Confirmation, Engine, Finished, MappingConfig, MappingIdentity, Page,
    PageBuilder, Records, ShardConfig,
};

/// A record as a model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    number: u64,
    key: u8,
    bytes: usize,
}

impl Written {
    fn key(&self) -> String {
        format!("key-{}", self.key)
    }

    fn lane(&self, factor: u8) -> usize {
        streamcore::lane(streamcore::key_hash(self.key().as_bytes()), factor).into()
    }
}

/// Records numbered from 1, with these keys and one byte each.
fn written(keys: &[u8]) -> Vec<Written> {
    keys.iter()
        .zip(1..)
        .map(|(key, number)| Written {
            number,
            key: *key,
            bytes: 1,
        })
        .collect()
}

fn page(records: &[Written]) -> Page {
    let mut builder = PageBuilder::new();
    for record in records {
        builder
            .push(
                &record.key(),
                &vec![7; record.bytes],
                0,
                Some(&record.number.to_string()),
            )
            .unwrap();
    }
    builder.finish()
}

fn shard_config(mapping: &str, shard: &str, config: MappingConfig) -> ShardConfig {
    let key = CheckpointKey {
        mapping_uuid: mapping.into(),
        stream_identity: "stream".into(),
        shard_id: shard.into(),
    };
    let identity = MappingIdentity {
        event_source_arn: "arn:aws:kinesis:us-east-1:123456789012:stream/orders".into(),
        ..MappingIdentity::default()
    };
    ShardConfig::new(key, identity, config)
}

fn engine_with(config: MappingConfig) -> (Engine, u32) {
    let mut engine = Engine::default();
    let shard = engine
        .add_shard(shard_config("mapping", "shard", config), None)
        .unwrap();
    (engine, shard)
}

fn numbers(records: &Records) -> Vec<u64> {
    records
        .iter()
        .map(|record| record.sequence().parse().unwrap())
        .collect()
}

fn batch_numbers(batch: &Batch) -> Vec<u64> {
    numbers(&batch.records())
}

/// Confirms what was given up, and gives the records back.
fn confirm_all(engine: &mut Engine, finished: &Finished) -> Vec<u64> {
    let mut all = Vec::new();
    for discard in &finished.discards {
        assert!(engine.confirm(discard.id(), Confirmation::Delivered));
        all.extend(numbers(discard.records()));
    }
    all
}
