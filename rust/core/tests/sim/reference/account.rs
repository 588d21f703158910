//! The engine's account against the reference: the trace, discards and confirmations.

use streamcore::{Batch, Discard, DiscardId, Event};

use super::{Expected, Reference};

impl Reference {
    /// Compares what a call put into the trace. Returns the records of the batch that it handed out, and whether bytes limited it.
    pub(crate) fn compare(
        &mut self,
        trace: &[Event],
        batch: Option<&Batch>,
        whole: bool,
        now: i64,
    ) -> Option<(Vec<usize>, bool)> {
        let mut handed_out = None;
        self.turned = None;
        for event in trace {
            match event {
                Event::HandedOut { .. } | Event::Closing { .. } => {
                    handed_out = Some(self.handed_out(batch.unwrap(), whole, now));
                }
                Event::Oversized {
                    lane,
                    sequence,
                    attempts,
                } => match self.expect(*lane, now) {
                    Expected::Oversized(own, first) => {
                        assert_eq!(*attempts, own, "I5: attempts with a record too large");
                        assert_eq!(
                            first.map_or("", |first| &self.log.entries[first].sequence),
                            sequence,
                            "the record too large is the first of its lane"
                        );
                    }
                    other => panic!("lane {lane} must tell {other:?}, not {event}"),
                },
                Event::Expired { lane, records } => match self.expect(*lane, now) {
                    Expected::Expired(own) => assert_eq!(
                        usize::try_from(*records).unwrap(),
                        own,
                        "records that expire"
                    ),
                    other => panic!("lane {lane} must tell {other:?}, not {event}"),
                },
                Event::Discarded {
                    lane,
                    condition,
                    first,
                    last,
                    records,
                    invoke_count,
                } => {
                    let Expected::Discard(own) = self.expect(*lane, now) else {
                        panic!("lane {lane} must not give up anything: {event}")
                    };
                    assert_eq!(*condition, own.condition, "why records are given up");
                    assert_eq!(*first, self.log.entries[own.records[0]].sequence);
                    assert_eq!(
                        *last,
                        self.log.entries[*own.records.last().unwrap()].sequence
                    );
                    assert_eq!(usize::try_from(*records).unwrap(), own.records.len());
                    assert_eq!(
                        *invoke_count, own.invoke_count,
                        "I5: a discard carries the exact count"
                    );
                    self.next_number += 1;
                    self.unconfirmed
                        .insert(self.next_number, (usize::from(*lane), own.first));
                    self.announced.push_back((self.next_number, own));
                }
                Event::ClosingDiscarded {
                    condition,
                    invoke_count,
                    ..
                } => {
                    let Expected::Discard(own) = self.expect(0, now) else {
                        panic!("lane 0 must not give up a closing call: {event}")
                    };
                    assert!(own.records.is_empty());
                    assert_eq!(*condition, own.condition, "why a closing call is given up");
                    assert_eq!(
                        *invoke_count, own.invoke_count,
                        "I5: a discard carries the exact count"
                    );
                    self.next_number += 1;
                    self.unconfirmed.insert(self.next_number, (0, own.first));
                    self.announced.push_back((self.next_number, own));
                }
                Event::Compacted { .. } => self.compacted = self.taken_in,
                _ => {}
            }
        }
        for (index, lane) in self.lanes.iter().enumerate() {
            assert!(
                lane.expected.is_empty(),
                "lane {index} has not told {:?}",
                lane.expected
            );
        }
        handed_out
    }

    pub(super) fn expect(&mut self, lane: u8, now: i64) -> Expected {
        let index = usize::from(lane);
        if self.lanes[index].expected.is_empty() {
            assert!(
                !self.lanes[index].in_flight,
                "I4: lane {lane} has a batch in flight"
            );
            self.turned = self.lanes[index]
                .pending
                .front()
                .map(|first| (index, *first));
            self.turn_to(index, now);
        }
        let expected = self.lanes[index].expected.pop_front();
        expected.unwrap_or_else(|| panic!("lane {lane} has nothing to tell but its next batch"))
    }

    /// A discard was handed over, in the order in which they were told.
    pub(crate) fn discard(&mut self, discard: &Discard) {
        let (number, own) = self
            .announced
            .pop_front()
            .expect("each discard is told in the trace first");
        let records: Vec<usize> = discard
            .records()
            .iter()
            .map(|record| self.log.find(record.sequence(), record.sub()))
            .collect();
        assert_eq!(records, own.records);
        Self::compare_window(discard.window(), own.window.as_ref());
        assert_eq!(discard.condition(), own.condition);
        assert_eq!(discard.approximate_invoke_count(), own.invoke_count);
        assert_eq!(
            discard.response(),
            own.response.as_ref(),
            "what the function's service said last"
        );
        if let Some(request_id) = own.request_id {
            assert_eq!(
                discard.request_id(),
                request_id,
                "the request id of the last attempt"
            );
        }
        for record in discard.records().iter() {
            let entry = &self.log.entries[self.log.find(record.sequence(), record.sub())];
            assert_eq!(
                (record.key(), record.arrival_ms()),
                (entry.key.as_str().into(), entry.arrival_ms)
            );
        }
        assert!(
            self.ids.insert(discard.id(), number).is_none(),
            "a discard has an id of its own"
        );
    }

    pub(crate) fn discards_handed_over(&self) -> bool {
        self.announced.is_empty()
    }

    pub(crate) fn confirmed(&mut self, id: DiscardId) -> bool {
        let Some(number) = self.ids.remove(&id) else {
            return false;
        };
        self.changes += 1;
        self.unconfirmed.remove(&number).is_some()
    }
}
