//! Matches returned messages to publishes: pure bookkeeping.
//!
//! A return carries no tag. The broker sends it before the confirm of its own publish, and `lapin` attaches the oldest
//! pending return to *whichever* confirm is settled next. Judging each publish by its own confirm alone reported up to
//! a tenth of the unroutable publishes as enqueued. Two facts make the matching exact:
//!
//! - A return identifies its message, and returns arrive in the order of the publishes: it belongs to the oldest
//!   publish of the same address and identity that has none yet.
//! - A confirm that carried *no* return was settled when no return was pending: every earlier return has been handed
//!   out. So its outcome, and those of all confirms seen in earlier rounds, can be reported. A confirm that did carry a
//!   return is held back until one without a return follows, or nothing is outstanding.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::outgoing::{Outgoing, Returned};
use crate::tracing;

/// Publishes handed to `lapin` and not settled yet.
pub(super) struct Window<R> {
    /// The number of the first entry.
    first: u64,
    entries: VecDeque<Entry<R>>,
    bytes: usize,
    /// Entries without a confirm.
    outstanding: usize,
    /// Confirmed entries whose outcome is not certain yet.
    held: Vec<u64>,
}

/// One publish.
pub(super) struct Entry<R> {
    pub(super) outgoing: Arc<Outgoing>,
    /// The waiting caller; `None` once it has the outcome, or gave up.
    pub(super) request: Option<R>,
    /// False if not even the first byte can have been sent.
    pub(super) was_written: bool,
    /// The confirm, once it has arrived.
    taken: Option<bool>,
    /// True once the caller has been answered.
    is_reported: bool,
}

/// The outcome of a publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    Refused,
    Unroutable(String),
}

/// A confirm as `lapin` delivers it.
pub(super) struct Confirm {
    pub(super) number: u64,
    pub(super) taken: bool,
    pub(super) returned: Option<Box<Returned>>,
}

impl<R> Window<R> {
    pub(super) fn new() -> Self {
        Self { first: 0, entries: VecDeque::new(), bytes: 0, outstanding: 0, held: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a publish and numbers it.
    pub(super) fn push(&mut self, outgoing: Arc<Outgoing>, request: R) -> u64 {
        self.bytes += outgoing.body().len();
        self.outstanding += 1;
        self.entries.push_back(Entry {
            outgoing,
            request: Some(request),
            was_written: true,
            taken: None,
            is_reported: false,
        });
        self.first + self.entries.len() as u64 - 1
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Entry<R>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry<R>> {
        self.entries.iter_mut()
    }

    /// Takes all confirms that have arrived, and passes each outcome that is certain to `report`.
    pub(super) fn confirmed(
        &mut self,
        round: Vec<Confirm>,
        mut report: impl FnMut(Arc<Outgoing>, R, Outcome),
    ) {
        let mut clean = Vec::new();
        let mut unclean = Vec::new();
        let mut returned = Vec::new();
        for Confirm { number, taken, returned: message } in round {
            if let Some(entry) = self.get_mut(number)
                && entry.taken.replace(taken).is_none()
            {
                self.outstanding -= 1;
            }
            match message {
                None => clean.push(number),
                Some(message) => {
                    unclean.push(number);
                    returned.push(message);
                }
            }
        }
        // Before any outcome is reported: a confirm and its return may arrive in one round, in any order.
        for message in returned {
            self.attribute(message, &mut report);
        }
        let mut certain = if clean.is_empty() { Vec::new() } else { mem::take(&mut self.held) };
        certain.append(&mut clean);
        self.held.append(&mut unclean);
        if self.outstanding == 0 {
            certain.append(&mut self.held);
        }
        for number in certain {
            self.settle(number, &mut report);
        }
        while self.entries.front().is_some_and(|entry| entry.is_reported && entry.taken.is_some()) {
            let entry = self.entries.pop_front().expect("there is a front");
            self.bytes -= entry.outgoing.body().len();
            self.first += 1;
        }
    }

    fn attribute(&mut self, message: Box<Returned>, report: &mut impl FnMut(Arc<Outgoing>, R, Outcome)) {
        let guilty = self
            .entries
            .iter_mut()
            .find(|entry| !entry.is_reported && entry.outgoing.is_returned_as(&message));
        match guilty {
            Some(entry) => {
                entry.is_reported = true;
                if let Some(request) = entry.request.take() {
                    report(Arc::clone(&entry.outgoing), request, Outcome::Unroutable(message.reason));
                }
            }
            None => tracing::warn!(
                exchange = message.exchange,
                routing_key = message.routing_key,
                "the broker returned a message that was not published here"
            ),
        }
    }

    fn settle(&mut self, number: u64, report: &mut impl FnMut(Arc<Outgoing>, R, Outcome)) {
        let Some(entry) = self.get_mut(number) else { return };
        if let (false, Some(taken)) = (entry.is_reported, entry.taken) {
            entry.is_reported = true;
            if let Some(request) = entry.request.take() {
                let outcome = if taken { Outcome::Taken } else { Outcome::Refused };
                report(Arc::clone(&entry.outgoing), request, outcome);
            }
        }
    }

    /// Returns the unreported publishes of a lost channel in order, and starts over.
    pub(super) fn take(&mut self) -> Vec<Entry<R>> {
        self.first += self.entries.len() as u64;
        self.bytes = 0;
        self.outstanding = 0;
        self.held.clear();
        self.entries.drain(..).filter(|entry| entry.request.is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(id: &str) -> Arc<Outgoing> {
        let message = crate::message::Message {
            headers: crate::message::Headers::for_task("t", id),
            ..Default::default()
        };
        Arc::new(Outgoing::new("", "nowhere", message, true).expect("short names"))
    }

    fn returned(id: &str) -> Option<Box<Returned>> {
        Some(Box::new(Returned {
            exchange: String::new(),
            routing_key: "nowhere".into(),
            id: Some(id.into()),
            body: Vec::new(),
            reason: "NO_ROUTE".into(),
        }))
    }

    fn round(window: &mut Window<u32>, confirms: Vec<(u64, Option<Box<Returned>>)>) -> Vec<(u32, bool)> {
        let confirms = confirms
            .into_iter()
            .map(|(number, returned)| Confirm { number, taken: true, returned })
            .collect();
        let mut reported = Vec::new();
        window.confirmed(confirms, |_, who, outcome| reported.push((who, outcome == Outcome::Taken)));
        reported.sort_unstable();
        reported
    }

    #[test]
    fn a_return_on_a_wrong_confirm_reaches_the_right_caller() {
        let mut window = Window::new();
        let numbers: Vec<u64> = (0..3).map(|n| window.push(outgoing(&n.to_string()), n)).collect();
        // The return of 1 came with the confirm of 0; its own confirm looks as if it had been enqueued.
        assert_eq!(
            round(&mut window, vec![(numbers[0], returned("1")), (numbers[1], None)]),
            [(0, true), (1, false)].into_iter().filter(|(n, _)| *n == 1).collect::<Vec<_>>()
        );
        assert_eq!(round(&mut window, vec![(numbers[2], None)]), [(0, true), (2, true)]);
        assert!(window.is_empty() && window.bytes() == 0);
    }

    #[test]
    fn a_confirm_that_carried_a_return_waits_for_its_own() {
        let mut window = Window::new();
        let numbers: Vec<u64> = (0..3).map(|n| window.push(outgoing(&n.to_string()), n)).collect();
        // 0 and 1 were both returned. The confirm of 1 carries the return of 0; that of 1 is still waiting.
        assert_eq!(round(&mut window, vec![(numbers[1], returned("0"))]), [(0, false)]);
        assert_eq!(round(&mut window, vec![(numbers[2], returned("1"))]), [(1, false)]);
        assert_eq!(round(&mut window, vec![(numbers[0], None)]), [(2, true)]);
    }

    #[test]
    fn the_last_of_all_need_not_wait() {
        let mut window = Window::new();
        let number = window.push(outgoing("a"), 7);
        assert_eq!(round(&mut window, vec![(number, returned("a"))]), [(7, false)]);
        let number = window.push(outgoing("b"), 8);
        assert_eq!(round(&mut window, vec![(number, None)]), [(8, true)]);
    }

    #[test]
    fn equal_messages_are_returned_in_order() {
        let mut window = Window::new();
        let first = window.push(outgoing("same"), 1);
        let second = window.push(outgoing("same"), 2);
        let third = window.push(outgoing("c"), 3);
        assert_eq!(round(&mut window, vec![(second, returned("same"))]), [(1, false)]);
        assert_eq!(round(&mut window, vec![(first, None)]), [(2, true)]);
        assert_eq!(round(&mut window, vec![(third, None)]), [(3, true)]);
    }

    /// No outcome is wrong, whatever the order in which confirms are settled and seen: a model of the broker and of
    /// what `lapin` does with returns.
    #[test]
    fn outcomes_are_right_in_any_order_of_confirms() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count: u32 = random.u32(1..40);
            let lost: Vec<bool> = (0..count).map(|_| random.u8(0..4) == 0).collect();
            let mut window = Window::new();
            let numbers: Vec<u64> = (0..count).map(|n| window.push(outgoing(&n.to_string()), n)).collect();
            let mut reported = vec![None; count as usize];
            let (mut published, mut waiting) = (0, VecDeque::new());
            let mut unconfirmed: Vec<u32> = Vec::new();
            let mut seen = Vec::new();
            while reported.iter().any(Option::is_none) {
                match random.u8(0..3) {
                    0 if published < count => {
                        if lost[published as usize] {
                            waiting.push_back(published);
                        }
                        unconfirmed.push(published);
                        published += 1;
                    }
                    1 if !unconfirmed.is_empty() => {
                        let n = unconfirmed.swap_remove(random.usize(0..unconfirmed.len()));
                        let message = waiting.pop_front().and_then(|n: u32| returned(&n.to_string()));
                        seen.push((numbers[n as usize], message));
                    }
                    _ => {
                        random.shuffle(&mut seen);
                        for (n, taken) in round(&mut window, mem::take(&mut seen)) {
                            assert_eq!(taken, !lost[n as usize], "seed {seed}, message {n}");
                            assert!(reported[n as usize].replace(taken).is_none(), "reported twice");
                        }
                    }
                }
            }
            // Confirms may still arrive for publishes that were settled by their return.
            while let Some(n) = unconfirmed.pop() {
                assert!(round(&mut window, vec![(numbers[n as usize], None)]).is_empty());
            }
            assert!(window.is_empty(), "seed {seed}");
        }
    }
}
