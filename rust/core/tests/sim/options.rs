//! What one seed is about: the mapping, the stream and how much of each fault, drawn anew for each seed.
//!
//! Each fault is left out in a part of the seeds (swarm testing: Groce et al. 2012), so that no fault hides what another would show.

use std::sync::Arc;

use streamcore::{FilterCriteria, MappingConfig, StreamClock};

use super::log::Entry;
use super::rng::Rng;

/// The first instant.
pub(crate) const BEGIN_MS: i64 = 1_700_000_000_000;

/// Rates are in per mille of opportunities.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) mapping: MappingConfig,
    pub(crate) retention_ms: Option<i64>,
    pub(crate) clock: StreamClock,
    pub(crate) sync_checkpoints: bool,
    pub(crate) budget_bytes: usize,

    pub(crate) records: usize,
    pub(crate) keys: u64,
    /// Bytes of most payloads.
    pub(crate) payload: i64,
    /// Mean time between two records.
    pub(crate) spacing_ms: i64,
    pub(crate) page_max: usize,
    /// Steps with faults, before the world becomes kind.
    pub(crate) steps: u64,

    pub(crate) poison_records: u32,
    pub(crate) poison_key: Option<u64>,
    pub(crate) oversized: u32,
    /// Records that are in one aggregate with the record before.
    pub(crate) aggregated: u32,
    pub(crate) raise: u32,
    pub(crate) partial: u32,
    pub(crate) throttle: u32,
    pub(crate) too_large: u32,
    pub(crate) misuse: u32,
    pub(crate) crash: u32,
    pub(crate) save_fails: u32,
    pub(crate) save_unconfirmed: u32,
    pub(crate) save_late: u32,
    pub(crate) reread: u32,
    pub(crate) short_read: u32,
    pub(crate) empty_page: u32,
    pub(crate) fetch_fails: u32,
    pub(crate) unasked: u32,
    pub(crate) slow_confirm: u32,
    pub(crate) give_up: u32,
    pub(crate) pause: u32,
    pub(crate) jump: u32,
    /// Mappings that have a filter.
    pub(crate) filters: u32,
    /// Whether mappings have tumbling windows, most of them.
    pub(crate) windows: bool,
    pub(crate) window_grace_ms: i64,
    /// Answers whose state ends the window.
    pub(crate) ends_early: u32,
    /// Pages that are not from the tip.
    pub(crate) behind: u32,
    /// The weight of finishing a batch among the steps: low where functions are slow.
    pub(crate) finish_weight: u64,
    /// What a step of relief moves: so little that it takes many steps, or all there is.
    pub(crate) relief_step_bytes: Option<u64>,
    /// One invocation at a time does not come back as long as there are faults.
    pub(crate) hangs: bool,
}

fn rate(rng: &mut Rng, max: i64) -> u32 {
    if rng.chance(350) {
        0
    } else {
        u32::try_from(rng.small(1, max)).unwrap()
    }
}

fn mapping(rng: &mut Rng) -> MappingConfig {
    let whole = |value: i64| u32::try_from(value).unwrap();
    MappingConfig {
        batch_size: whole(rng.small(1, 60)),
        batching_window_ms: if rng.chance(700) {
            0
        } else {
            rng.range(1, 20) * 1_000
        },
        parallelization_factor: u8::try_from(rng.range(1, 10)).unwrap(),
        retry_attempts_max: if rng.chance(300) {
            None
        } else {
            Some(whole(rng.small(0, 4)))
        },
        record_age_max_ms: if rng.chance(700) {
            None
        } else {
            Some(rng.range(60, 200) * 1_000)
        },
        bisect_batch_on_function_error: rng.chance(500),
        report_batch_item_failures: rng.chance(500),
        ..MappingConfig::default()
    }
}

/// A filter by the partition key or by the payload; none in some mappings.
fn filter(rng: &mut Rng, keys: u64, filters: u32) -> Option<Arc<FilterCriteria>> {
    if !rng.chance(filters) {
        return None;
    }
    let pattern = if rng.chance(500) {
        let passing = (0..keys).filter(|_| rng.chance(600)).chain([keys]);
        let passing: Vec<String> = passing.map(|key| format!(r#""key-{key}""#)).collect();
        format!(r#"{{"partitionKey": [{}]}}"#, passing.join(", "))
    } else {
        format!(
            r#"{{"data": {{"n": [{{"numeric": ["<", {}]}}]}}}}"#,
            rng.below(10)
        )
    };
    Some(Arc::new(FilterCriteria::new(&[pattern]).unwrap()))
}

/// Whether the filter of a mapping lets a record pass, read from its pattern anew.
pub(crate) fn passes(mapping: &MappingConfig, entry: &Entry) -> bool {
    let Some(filter) = &mapping.filter else {
        return true;
    };
    let pattern = &filter.patterns()[0];
    match pattern.strip_prefix(r#"{"data": {"n": [{"numeric": ["<", "#) {
        Some(limit) => entry
            .n
            .is_some_and(|n| limit.starts_with(|limit| u32::from(limit) > u32::from(b'0') + n)),
        None => pattern.contains(&format!(r#""{}""#, entry.key)),
    }
}

/// Gives a mapping a tumbling window, or leaves it without one.
fn tumbling(rng: &mut Rng, mapping: &mut MappingConfig) {
    mapping.parallelization_factor = 1;
    if rng.chance(850) {
        mapping.tumbling_window_ms = rng.pick(&[1_000, 7_000, 30_000, 120_000, 900_000]);
    }
}

impl Options {
    /// Another mapping for the same stream.
    pub(crate) fn another_mapping(&self, rng: &mut Rng) -> MappingConfig {
        let mut mapping = mapping(rng);
        if self.filters > 0 {
            mapping.filter = filter(rng, self.keys, self.filters);
        }
        if self.windows {
            tumbling(rng, &mut mapping);
        }
        mapping.payload_bytes_max = self.mapping.payload_bytes_max;
        self.let_end(&mut mapping);
        mapping
    }

    /// A record too large for an invocation, or refused as such, blocks its lane until attempts or age end it; one of them must.
    fn let_end(&self, mapping: &mut MappingConfig) {
        let aged = self.retention_ms.is_some() || mapping.record_age_max_ms.is_some();
        if self.oversized + self.too_large > 0 && !(aged && self.clock == StreamClock::Wall) {
            mapping.retry_attempts_max = mapping.retry_attempts_max.or(Some(2));
        }
    }

    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut mapping = mapping(rng);
        // A few seeds hold much, so that pages are worth compacting; most hold little, so that they are fast.
        let heavy = rng.chance(40);
        let oversized = if rng.chance(700) {
            0
        } else {
            u32::try_from(rng.range(5, 60)).unwrap()
        };
        if oversized > 0 || rng.chance(250) {
            mapping.payload_bytes_max = u32::try_from(rng.range(1_400, 4_000)).unwrap();
        }
        let poison = rng.chance(600);
        let keys = u64::try_from(rng.small(1, 40)).unwrap();
        let mut own = Self {
            retention_ms: if rng.chance(750) {
                None
            } else {
                Some(rng.range(40, 250) * 1_000)
            },
            clock: if rng.chance(800) {
                StreamClock::Wall
            } else {
                StreamClock::Replay
            },
            sync_checkpoints: rng.chance(120),
            budget_bytes: if rng.chance(750) {
                1 << 28
            } else {
                usize::try_from(rng.range(2_000, 16_000)).unwrap()
            },
            records: usize::try_from(if heavy {
                rng.range(300, 500)
            } else {
                rng.small(50, 400)
            })
            .unwrap(),
            keys,
            payload: if heavy { 150 } else { rng.range(0, 40) },
            spacing_ms: rng.pick(&[0, 1, 20, 300, 1_500, 20_000]),
            page_max: usize::try_from(if heavy { 200 } else { rng.small(1, 80) }).unwrap(),
            steps: u64::try_from(rng.range(150, 500)).unwrap(),
            poison_records: if poison { rate(rng, 80) } else { 0 },
            poison_key: (poison && rng.chance(250)).then(|| rng.below(keys)),
            oversized,
            aggregated: if rng.chance(500) {
                0
            } else {
                u32::try_from(rng.range(100, 900)).unwrap()
            },
            raise: rate(rng, 300),
            partial: rate(rng, 200),
            throttle: rate(rng, 200),
            too_large: 0,
            misuse: rate(rng, 60),
            crash: rate(rng, 30),
            save_fails: rate(rng, 250),
            save_unconfirmed: rate(rng, 250),
            save_late: rate(rng, 250),
            reread: rate(rng, 250),
            short_read: rate(rng, 300),
            empty_page: rate(rng, 200),
            fetch_fails: rate(rng, 200),
            unasked: rate(rng, 100),
            slow_confirm: rate(rng, 900),
            give_up: rate(rng, 300),
            pause: rate(rng, 30),
            jump: rate(rng, 60),
            filters: 0,
            windows: false,
            window_grace_ms: 0,
            ends_early: 0,
            behind: 0,
            finish_weight: u64::try_from(rng.range(4, 30)).unwrap(),
            relief_step_bytes: None,
            hangs: false,
            mapping: mapping.clone(),
        };
        // Drawn last, so that all else of a seed is as it was before this fault was there.
        own.too_large = rate(rng, 150);
        own.filters = if rng.chance(700) { 0 } else { 800 };
        mapping.filter = filter(rng, own.keys, own.filters);
        if own.filters > 0 && own.aggregated > 0 {
            // Of an aggregate that the watermark has passed, the last ones may have been filtered out, and then be forgotten with their
            // page. A source that gives it again has them judged anew, which does no harm and is not modelled.
            own.reread = 0;
        }
        // Drawn apart, so that seeds without windows are as they were before there were any.
        let mut apart = rng.clone();
        own.windows = own.filters == 0 && apart.chance(250);
        if own.windows {
            own.window_grace_ms = apart.pick(&[0, 500, 20_000, 120_000]);
            own.ends_early = rate(&mut apart, 200);
            own.behind = rate(&mut apart, 400);
            tumbling(&mut apart, &mut mapping);
        }
        // A batch that hangs is of interest where much is held behind it.
        if heavy && apart.chance(700) {
            own.hangs = true;
            own.finish_weight = 60;
        }
        own.relief_step_bytes =
            (heavy && apart.chance(500)).then(|| apart.pick(&[300, 1_000, 4_000, 16_000]));
        own.let_end(&mut mapping);
        own.mapping = mapping;
        own
    }
}
