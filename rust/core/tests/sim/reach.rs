//! What a run has reached: how often each fault and each kind of trace event came.

use std::fmt;

use streamcore::Event;

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident: $($variant:ident),* $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($variant),* }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];
        }
    };
}

kinds! {
    /// What the world does to the engine.
    Fault: Raised, PoisonRaised, PartialWithProgress, PartialWithoutProgress, PoisonPartial, Throttle, TooLarge, RecordTooLarge, Hung, WrongPartialIndex,
    FinishedTwice, MadeUpTicket, WindowStateGiven, UpdateWhileBusy, UpdateOutOfRange, ConfirmedTwice, StaleTicket,
    Crash, CrashDuringSave, CrashWithBatchesInFlight, CrashAfterUnseenSuccess, RestartWithOtherFactor,
    RestartWithoutCheckpoint, DamagedCheckpointRefused, SaveFailed, SaveUnconfirmed, SaveLate, DiscardConfirmedLate,
    DiscardConfirmedOutOfOrder, DiscardGivenUp, ReRead, ShortRead, EmptyPage, FetchFailed, FetchLate, OfferedUnasked,
    OfferRefused, NoRoomToFetch, Paused, Drained, UpdatedLive, UpdatedFactor, TimeJump,
    BatchFullByBytes, SyncHeldBack, FilteredOut, AllFilteredOut, FilteredWithAggregates, UpdatedFilter, RestartWithOtherFilter,
    WindowEndedEarly, WindowIdle, ClosingFailed, BehindTip, UpdatedWindow, RestartWithOtherWindow,
}

kinds! {
    /// What the engine tells of itself.
    Kind: Offered, HandedOut, Succeeded, Failed, Throttled, TooLarge, Oversized, Split, Parked, Discarded, Expired, Confirmed, Saved,
    Compacted, CompactedInFlight, Closed, Ended, Paused, Resumed, Draining, Updated,
    WindowOpened, Closing, ClosingDiscarded, WindowClosed,
}

fn kind(event: &Event) -> Kind {
    match event {
        Event::Offered { .. } => Kind::Offered,
        Event::HandedOut { .. } => Kind::HandedOut,
        Event::Succeeded { .. } => Kind::Succeeded,
        Event::Failed { .. } => Kind::Failed,
        Event::Throttled { .. } => Kind::Throttled,
        Event::TooLarge { .. } => Kind::TooLarge,
        Event::Oversized { .. } => Kind::Oversized,
        Event::Split { .. } => Kind::Split,
        Event::Parked { .. } => Kind::Parked,
        Event::Discarded { .. } => Kind::Discarded,
        Event::Expired { .. } => Kind::Expired,
        Event::Confirmed { .. } => Kind::Confirmed,
        Event::Saved { .. } => Kind::Saved,
        Event::Compacted {
            in_flight: true, ..
        } => Kind::CompactedInFlight,
        Event::Compacted { .. } => Kind::Compacted,
        Event::Closed => Kind::Closed,
        Event::Ended => Kind::Ended,
        Event::Paused => Kind::Paused,
        Event::Resumed => Kind::Resumed,
        Event::Draining => Kind::Draining,
        Event::Updated { .. } => Kind::Updated,
        Event::WindowOpened { .. } => Kind::WindowOpened,
        Event::Closing { .. } => Kind::Closing,
        Event::ClosingDiscarded { .. } => Kind::ClosingDiscarded,
        Event::WindowClosed { .. } => Kind::WindowClosed,
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Reach {
    faults: Vec<u64>,
    events: Vec<u64>,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            faults: vec![0; Fault::ALL.len()],
            events: vec![0; Kind::ALL.len()],
        }
    }
}

impl Reach {
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    pub(crate) fn event(&mut self, event: &Event) {
        self.events[kind(event) as usize] += 1;
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults.iter().sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (own, other) in self.faults.iter_mut().zip(&other.faults) {
            *own += other;
        }
        for (own, other) in self.events.iter_mut().zip(&other.events) {
            *own += other;
        }
    }

    fn rows(&self) -> impl Iterator<Item = (String, u64)> {
        let faults = Fault::ALL
            .iter()
            .zip(&self.faults)
            .map(|(fault, hits)| (format!("fault {fault:?}"), *hits));
        let events = Kind::ALL
            .iter()
            .zip(&self.events)
            .map(|(kind, hits)| (format!("event {kind:?}"), *hits));
        faults.chain(events)
    }

    /// What was hit less than `hits` times.
    pub(crate) fn below(&self, hits: u64) -> Vec<(String, u64)> {
        self.rows().filter(|(_, own)| *own < hits).collect()
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows()
            .try_for_each(|(name, hits)| writeln!(f, "{hits:>10}  {name}"))
    }
}
