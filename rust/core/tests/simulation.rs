//! A seeded simulation of one shard: faults, crashes and restarts against a reference that knows every invariant by its number.
//!
//! `STREAMCORE_SEEDS=n` runs n seeds instead of 20,000. `STREAMCORE_SEED=n` replays seed n and prints its trace.
//! What is simulated, and which planted bugs it finds, is told in `sim/README.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a failing seed is told to the person who runs it"
)]

mod sim;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use sim::reach::Reach;
use sim::world::{Report, World};

/// Seeds of an ordinary run.
const SEEDS: u64 = 20_000;
/// Each fault and each kind of trace event is hit at least so often, in a run of at least [`SEEDS`] seeds.
const HITS_MIN: u64 = 100;
/// One seed in so many is run twice, to compare the traces.
const TWICE_EVERY: u64 = 16;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a whole number, not {text:?}")),
    )
}

fn run_seed(seed: u64, hash: bool) -> Report {
    World::new(seed, hash, false).run()
}

/// The seeds `first, first + step, ..` below the lowest one that failed, which it keeps up to date.
fn run_share(first: u64, step: usize, seeds: u64, failed: &AtomicU64) -> (Reach, Vec<Report>) {
    let mut reach = Reach::default();
    let mut reports = Vec::new();
    for seed in (first..seeds).step_by(step) {
        if seed > failed.load(Ordering::Relaxed) {
            break;
        }
        let twice = seed.is_multiple_of(TWICE_EVERY);
        let report = catch_unwind(AssertUnwindSafe(|| {
            let report = run_seed(seed, twice);
            if twice {
                assert_eq!(
                    report.hash,
                    run_seed(seed, true).hash,
                    "I13: the same seed gives the same trace"
                );
            }
            report
        }));
        let Ok(report) = report else {
            failed.fetch_min(seed, Ordering::Relaxed);
            break;
        };
        reach.add(&report.reach);
        reports.push(report);
    }
    (reach, reports)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[test]
fn every_invariant_holds_under_faults() {
    if let Some(seed) = number("STREAMCORE_SEED") {
        let report = World::new(seed, true, true).run();
        println!(
            "seed {seed} holds: {} steps, {} faults, trace {:016x}",
            report.steps, report.faults, report.hash
        );
        return;
    }
    let seeds = number("STREAMCORE_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(2);
    let failed = AtomicU64::new(u64::MAX);
    let shares: Vec<_> = std::thread::scope(|scope| {
        let firsts = 0..u64::try_from(threads).unwrap();
        let failed = &failed;
        let running: Vec<_> = firsts
            .map(|first| scope.spawn(move || run_share(first, threads, seeds, failed)))
            .collect();
        running
            .into_iter()
            .map(|share| share.join().unwrap())
            .collect()
    });
    let failed = failed.into_inner();
    if failed < u64::MAX {
        eprintln!("\nSeed {failed} fails, and is the first that does. Replay it with its trace:");
        eprintln!(
            "  STREAMCORE_SEED={failed} cargo test -p streamcore --test simulation -- --nocapture"
        );
        panic!("seed {failed} fails, see the message above");
    }
    let mut reach = Reach::default();
    let mut reports = Vec::new();
    for (own, mut list) in shares {
        reach.add(&own);
        reports.append(&mut list);
    }
    println!(
        "{} seeds, median of {} steps and {} faults a seed, {} simulated hours",
        reports.len(),
        median(reports.iter().map(|report| report.steps).collect()),
        median(reports.iter().map(|report| report.faults).collect()),
        reports
            .iter()
            .map(|report| report.simulated_ms)
            .sum::<i64>()
            / 3_600_000,
    );
    println!("{reach}");
    if seeds >= SEEDS {
        let rare = reach.below(HITS_MIN);
        assert!(
            rare.is_empty(),
            "these were hit less than {HITS_MIN} times: {rare:?}"
        );
    }
}
