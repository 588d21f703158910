//! Opening and closing tumbling windows, and keeping their state. Owns invariant I7.
//!
//! A shard with a window has one lane, and the window belongs to it. The closing call is a batch without records, so that retries, age
//! and discards are those of every batch. State changes in the same step as the completion of the records that made it, and the
//! checkpoint has the state that belongs to the lane's mark.

use std::sync::Arc;

use super::Shard;
use crate::batch::{around_bytes, state_bytes_max};
use crate::buffer::to_usize;
use crate::config::StreamClock;
use crate::error::UsageError;
use crate::event::bounds_bytes;
use crate::records::Records;
use crate::retry::{Fate, Work};
use crate::stats::{LaneState, WindowStats};
use crate::trace::Event;
use crate::window::{
    Boundary, Bounds, EMPTY_STATE, ReturnedState, Window, WindowPhase, WindowState,
};

/// Whether a window's closing call is next.
enum Due {
    No,
    Now,
    At(i64),
}

impl Shard {
    /// Where batches must end.
    pub(super) fn boundary(&self) -> Option<Boundary> {
        let size_ms = self.mapping().tumbling_window_ms;
        if size_ms == 0 {
            return None;
        }
        let constant_bytes = self.info.template.window_constant_bytes();
        let (mut current, mut floor_ms, mut state_bytes) = (None, i64::MIN, EMPTY_STATE.len());
        if let Some(window) = &self.window {
            match window.phase {
                WindowPhase::Closed => floor_ms = window.end_ms,
                WindowPhase::Open | WindowPhase::EndsEarly => {
                    current = Some(bounds(window));
                    state_bytes = window.state.len();
                }
                WindowPhase::Restarted => current = Some(bounds(window)),
            }
        }
        let state_bytes = u32::try_from(state_bytes).unwrap_or(u32::MAX);
        Some(Boundary {
            size_ms,
            current,
            floor_ms,
            current_bytes: current.map_or(0, |current| {
                (constant_bytes + bounds_bytes(current)).saturating_add(state_bytes)
            }),
            constant_bytes,
        })
    }

    pub(super) fn has_open_window(&self) -> bool {
        self.window.as_ref().is_some_and(|window| {
            matches!(window.phase, WindowPhase::Open | WindowPhase::EndsEarly)
        })
    }

    /// The source may have more than it has said.
    pub(super) fn leave_tip(&mut self) {
        self.tip_since = None;
        // Without a tip no time is waited for, so that none is needed here.
        self.refresh_window(i64::MIN);
    }

    /// Looks again whether the window of a lane without records is to close.
    pub(super) fn refresh_window(&mut self, now: i64) {
        let lane = &self.lanes[0];
        if self.window.is_some() && lane.work.is_none() && lane.queue.front().is_none() {
            self.refresh(0, now);
        }
    }

    /// What a lane that has no batch in work does because of its window; None where the window changes nothing.
    pub(super) fn window_wait(&self, index: usize, now: i64) -> Option<LaneState> {
        match self.closing_due(index, now) {
            Due::No => None,
            Due::Now => Some(LaneState::Ready),
            Due::At(at) => Some(LaneState::Waiting(at)),
        }
    }

    pub(super) fn closes_window(&self, index: usize, now: i64) -> bool {
        matches!(self.closing_due(index, now), Due::Now)
    }

    /// A window closes when the next record arrived behind its end, with the shard, when its mapping has windows no more, or after the
    /// source has been at its tip for long enough.
    fn closing_due(&self, index: usize, now: i64) -> Due {
        let Some(window) = self.window.as_ref().filter(|_| index == 0) else {
            return Due::No;
        };
        match window.phase {
            WindowPhase::Closed | WindowPhase::Restarted => return Due::No,
            WindowPhase::EndsEarly => return Due::Now,
            WindowPhase::Open => {}
        }
        if self.mapping().tumbling_window_ms == 0 {
            return Due::Now;
        }
        if let Some(front) = self.lanes[0].queue.front() {
            let slot = self.buffer.slot(front.slot);
            let arrival_ms = slot.leaf.page.arrival_ms(to_usize(slot.index(front.start)));
            return if arrival_ms >= window.end_ms {
                Due::Now
            } else {
                Due::No
            };
        }
        if self.closed {
            return Due::Now;
        }
        let wall = self.info.config.clock == StreamClock::Wall;
        let Some(since) = self.tip_since.filter(|_| wall) else {
            return Due::No;
        };
        let quiet_since = since.max(window.end_ms).max(self.last_records_at);
        let at = quiet_since.saturating_add(self.info.config.window_grace_ms);
        if at > now {
            Due::At(at)
        } else if self.fetching {
            // The answer under way may hold records of the window.
            Due::No
        } else {
            Due::Now
        }
    }

    /// The window of the top frame's event.
    pub(super) fn window_of(&self, index: usize) -> Option<Window> {
        let work = self.lanes[index].work.as_ref()?;
        let closing = work.top()?.closing.is_some();
        let at = if closing {
            Arc::clone(self.window.as_ref()?)
        } else {
            let bounds = work.window?;
            match &self.window {
                Some(window) if is_current(window, bounds) => Arc::clone(window),
                _ => Arc::new(fresh(bounds)),
            }
        };
        Some(Window {
            at,
            is_final: closing,
        })
    }

    /// The function is about to see records: their window is open from now on.
    pub(super) fn open_window(&mut self, index: usize) {
        let Some(bounds) = self.record_window(index) else {
            return;
        };
        if let Some(window) = &self.window {
            if is_current(window, bounds) {
                return;
            }
            assert!(
                matches!(window.phase, WindowPhase::Closed | WindowPhase::Restarted),
                "I7: a window is closed before the next one is opened"
            );
            assert!(
                window.end_ms < bounds.end_ms
                    || window.phase == WindowPhase::Restarted && window.end_ms == bounds.end_ms,
                "I7: a window is not opened again"
            );
        }
        self.window = Some(Arc::new(fresh(bounds)));
        self.note(|| Event::WindowOpened {
            start_ms: bounds.start_ms,
            end_ms: bounds.end_ms,
        });
    }

    /// The window of the records of the top frame.
    fn record_window(&self, index: usize) -> Option<Bounds> {
        let work = self.lanes[index].work.as_ref()?;
        work.window
            .filter(|_| work.top().is_some_and(|top| top.closing.is_none()))
    }

    /// Whether a returned state can be taken.
    pub(super) fn check_returned(
        &self,
        index: usize,
        returned: &ReturnedState,
    ) -> Result<(), UsageError> {
        let window = self.window_of(index).ok_or(UsageError::NoWindow)?;
        let bytes = returned.state.len();
        let max = state_bytes_max(&self.info, window.start_ms(), window.end_ms());
        if bytes > max && !window.is_final() {
            return Err(UsageError::StateTooLarge { bytes, max });
        }
        Ok(())
    }

    /// Records of the top frame are complete: the state that their function returned takes the place of the old one.
    pub(super) fn keep_state(&mut self, index: usize, returned: Option<ReturnedState>) {
        let Some(returned) = returned else {
            return;
        };
        let Some(bounds) = self.record_window(index) else {
            return;
        };
        self.window = Some(Arc::new(WindowState {
            start_ms: bounds.start_ms,
            end_ms: bounds.end_ms,
            phase: if returned.ends_window {
                WindowPhase::EndsEarly
            } else {
                WindowPhase::Open
            },
            state: returned.state,
        }));
    }

    /// Puts the closing call of a window that ends early before what is left of its batch.
    pub(super) fn end_early(&mut self, index: usize, now: i64) {
        let ends = self.window.as_ref().is_some_and(|window| {
            window.phase == WindowPhase::EndsEarly && self.record_window(index).is_some()
        });
        if ends {
            let (serial, due) = (self.serial(), self.stream_now(now));
            self.work(index).push_closing(serial, due);
        }
    }

    /// The closing call is done or given up.
    pub(super) fn close_window(&mut self) {
        let window = self.window.as_ref().expect("I7: what closes was open");
        let early = window.phase == WindowPhase::EndsEarly;
        let (start_ms, end_ms) = (window.start_ms, window.end_ms);
        self.window = Some(Arc::new(WindowState {
            start_ms,
            end_ms,
            phase: if early {
                WindowPhase::Restarted
            } else {
                WindowPhase::Closed
            },
            state: Vec::new(),
        }));
        if early {
            self.counters.windows_ended_early += 1;
        } else {
            self.counters.windows_closed += 1;
        }
        self.note(|| Event::WindowClosed {
            start_ms,
            end_ms,
            early,
        });
    }

    /// State that has grown since the batch was cut may leave no room for all of its records: cuts the top frame to what fits. True if it
    /// was changed.
    pub(super) fn split_to_fit(&mut self, index: usize) -> bool {
        let Some(window) = self.window_of(index) else {
            return false;
        };
        if self.top(index).fate == Fate::Oversized {
            return false;
        }
        let work = self.lanes[index].work.as_ref();
        let runs = work.into_iter().flat_map(Work::top_runs);
        let records = Records::of(&self.buffer, runs);
        let max = to_usize(self.mapping().payload_bytes_max);
        if records.event_bytes(&self.info.template, Some(&window)) <= max {
            return false;
        }
        if records.len <= 1 {
            if let Some(top) = self.work(index).top_mut() {
                top.fate = Fate::Oversized;
            }
            return true;
        }
        let fitting = self.fitting(&records, &window, max).max(1);
        self.split(index, fitting, records.len);
        true
    }

    /// How many of the first records fit into an event with this window.
    fn fitting(&self, records: &Records, window: &Window, max: usize) -> u32 {
        let mut bytes = around_bytes(&self.info.template, Some(window));
        let constant = to_usize(self.info.template.record_bytes());
        let mut count = 0;
        for record in records.iter() {
            bytes += constant + to_usize(record.event_bytes()) + usize::from(count > 0);
            if bytes > max {
                break;
            }
            count += 1;
        }
        count
    }

    pub(super) fn window_stats(&self) -> Option<WindowStats> {
        let window = self.window.as_ref()?;
        Some(WindowStats {
            start_ms: window.start_ms,
            end_ms: window.end_ms,
            phase: window.phase,
            state_bytes: window.state.len(),
            closing: self.is_closing_window(),
        })
    }

    /// Whether a closing call is due, under way or tried again.
    pub(super) fn is_closing_window(&self) -> bool {
        let lane = &self.lanes[0];
        self.window.is_some()
            && lane.work.as_ref().map_or(
                self.heads[0].state == LaneState::Ready && lane.queue.front().is_none(),
                |work| work.top().is_some_and(|top| top.closing.is_some()),
            )
    }

    /// I7, as far as one moment shows it.
    pub(super) fn check_window(&self) {
        if self.mapping().tumbling_window_ms > 0 {
            assert_eq!(self.lanes.len(), 1, "I7: a shard with windows has one lane");
        }
        let closing = self.lanes.iter().any(|lane| {
            let top = lane.work.as_ref().and_then(Work::top);
            top.is_some_and(|top| top.closing.is_some())
        });
        assert!(
            !closing || self.has_open_window(),
            "I7: what is closed is an open window"
        );
        let stored = self.lanes[0].marks.window();
        if self.unconfirmed.is_empty()
            && let (Some(stored), Some(live)) = (stored, &self.window)
        {
            assert!(
                stored.end_ms <= live.end_ms,
                "I7: the checkpoint's window is not ahead of the function's"
            );
        }
    }
}

fn bounds(window: &WindowState) -> Bounds {
    Bounds {
        start_ms: window.start_ms,
        end_ms: window.end_ms,
    }
}

fn fresh(bounds: Bounds) -> WindowState {
    WindowState {
        start_ms: bounds.start_ms,
        end_ms: bounds.end_ms,
        phase: WindowPhase::Open,
        state: EMPTY_STATE.to_vec(),
    }
}

/// Whether this is the window that the function knows, so that its state goes on.
fn is_current(window: &WindowState, bounds: Bounds) -> bool {
    let open = matches!(window.phase, WindowPhase::Open | WindowPhase::EndsEarly);
    open && window.end_ms == bounds.end_ms
}
