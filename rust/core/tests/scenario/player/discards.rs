//! What is given up, and its confirmation.

use streamcore::{Confirmation, Discard, Finished};

use super::super::script::{list, numbers, range, seconds};
use super::{Player, Seen};

impl Player {
    pub(super) fn give_up(&mut self, finished: &Finished, confirm: bool) {
        for discard in &finished.discards {
            let numbers = numbers(discard.records());
            self.truth.discard(&numbers);
            self.discards.push((discard.id(), numbers));
            let nth = self.discards.len();
            self.unconfirmed.insert(nth);
            self.say_discard(discard, nth);
            if confirm {
                self.confirm_one(nth, Confirmation::Delivered);
            }
        }
    }

    pub(super) fn say_discard(&mut self, discard: &Discard, nth: usize) {
        let shown = self.shown(&self.discards[nth - 1].1);
        let request = self.request(discard.request_id());
        let answer = discard.response().map_or_else(
            || "no response".into(),
            |response| {
                format!(
                    "functionError={}",
                    response.function_error.as_deref().unwrap_or("null")
                )
            },
        );
        let what = format!(
            "discard {} {} count={} batchSize={} {answer}",
            list(&shown),
            discard.condition().as_str(),
            discard.approximate_invoke_count(),
            discard.len(),
        );
        let line = format!("{} d{nth} {request} {what}", seconds(self.now));
        if shown.is_empty() && !discard.is_empty() {
            return;
        }
        self.say(&line);
        let key = discard
            .records()
            .first()
            .map_or_else(|| "a".into(), |first| first.key().into_owned());
        self.seen.push(Seen { line, key, what });
    }

    /// `confirm d1..d3 [given-up]`, or `confirm all`
    pub(super) fn confirm(&mut self, words: &[&str]) {
        let how = if words.contains(&"given-up") {
            Confirmation::GivenUp
        } else {
            Confirmation::Delivered
        };
        let wanted: Vec<usize> = if words[0] == "all" {
            self.unconfirmed.iter().copied().collect()
        } else {
            range(&words[0].replace('d', ""))
                .map(|nth| usize::try_from(nth).unwrap())
                .collect()
        };
        for nth in wanted {
            self.confirm_one(nth, how);
        }
    }

    pub(super) fn confirm_one(&mut self, nth: usize, how: Confirmation) {
        let (id, numbers) = self.discards[nth - 1].clone();
        if self.engine.confirm(id, how) {
            assert!(self.unconfirmed.remove(&nth), "a discard is confirmed once");
            self.truth.confirm(&numbers);
        } else {
            assert!(
                !self.unconfirmed.contains(&nth),
                "d{nth} waits for its confirmation"
            );
            self.say("not waited for");
        }
    }
}
