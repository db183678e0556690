//! Tracks which deliveries of a channel are settled, and which acks to write: pure bookkeeping.
//!
//! Delivery tags of a channel count up by one. Acks are coalesced: the settled deliveries at the front need a single
//! `multiple` ack. Those behind a task that is still running are acked one by one, after a short delay.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::connection::amqp::subscription::Ack;
use crate::message::Message;

/// Identifies a message. A retry of the same task is a different message, and so is another call with the same id,
/// since senders choose ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) id: Box<str>,
    retries: u32,
    /// A hash of the task and its body.
    content: u64,
}

impl Identity {
    /// Returns `None` for a message without a task id: it may be one of many that are alike.
    pub(super) fn of(message: &Message) -> Option<Self> {
        let headers = &message.headers;
        let id = headers.id()?.into();
        let mut content = DefaultHasher::new();
        (headers.task(), &message.body).hash(&mut content);
        Some(Self { id, retries: headers.retries(), content: content.finish() })
    }

    #[cfg(test)]
    pub(super) fn test(id: &str, retries: u32) -> Self {
        Self { id: id.into(), retries, content: 0 }
    }
}

/// The deliveries of one channel.
#[derive(Default)]
pub(super) struct Ledger {
    /// Tags up to this one are settled, and their acks were taken.
    acked: u64,
    slots: VecDeque<Entry>,
    /// How many are done but behind one that is still out.
    held: usize,
    /// Handed out and not settled.
    out: usize,
}

struct Entry {
    state: TagState,
    identity: Option<Identity>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TagState {
    Out,
    /// To be acked.
    Done,
    /// Acked or requeued.
    Gone,
}

impl Ledger {
    /// Records a delivery.
    pub(super) fn delivered(&mut self, tag: u64, identity: Option<Identity>) {
        debug_assert_eq!(tag, self.acked + self.slots.len() as u64 + 1, "tags count up by one");
        self.slots.push_back(Entry { state: TagState::Out, identity });
        self.out += 1;
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Entry> {
        let index = usize::try_from(tag.checked_sub(self.acked + 1)?).ok()?;
        self.slots.get_mut(index).filter(|slot| slot.state == TagState::Out)
    }

    /// Sets the identity of a parked copy, once the run that it waited for has ended.
    pub(super) fn identify(&mut self, tag: u64, identity: Identity) {
        if let Some(slot) = self.slot(tag) {
            slot.identity = Some(identity);
        }
    }

    /// Marks a delivery as done. Returns `false` if the tag is not out.
    pub(super) fn done(&mut self, tag: u64) -> bool {
        let Some(slot) = self.slot(tag) else { return false };
        slot.state = TagState::Done;
        self.out -= 1;
        self.held += 1;
        true
    }

    /// Marks a delivery as done that was replaced by another message with the same identity. The replacement must run,
    /// so this one is not remembered as done. Returns `false` if the tag is not out.
    pub(super) fn replaced(&mut self, tag: u64) -> bool {
        if let Some(slot) = self.slot(tag) {
            slot.identity = None;
        }
        self.done(tag)
    }

    /// Marks a delivery as requeued. Returns `false` if the tag is not out.
    pub(super) fn requeued(&mut self, tag: u64) -> bool {
        let Some(slot) = self.slot(tag) else { return false };
        slot.state = TagState::Gone;
        // It will be redelivered, and must run then.
        slot.identity = None;
        self.out -= 1;
        true
    }

    /// Handed out and not settled.
    pub(super) fn out(&self) -> usize {
        self.out
    }

    /// How many are done but whose acks have not been taken yet.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes the ack for the settled front, and passes each message that it settles to `settled`.
    pub(super) fn take_prefix(&mut self, mut settled: impl FnMut(Identity)) -> Option<Ack> {
        let mut last = None;
        let mut count = 0;
        while self.slots.front().is_some_and(|slot| slot.state != TagState::Out) {
            let slot = self.slots.pop_front().expect("there is a front");
            self.acked += 1;
            if slot.state == TagState::Done {
                last = Some(self.acked);
                count += 1;
            }
            slot.identity.into_iter().for_each(&mut settled);
        }
        self.held -= count;
        last.map(|tag| Ack { tag, multiple: count > 1 })
    }

    /// Takes single acks for deliveries that are done behind others that are not.
    pub(super) fn take_rest(&mut self) -> Vec<Ack> {
        if self.held == 0 {
            return Vec::new();
        }
        self.held = 0;
        let first = self.acked + 1;
        self.slots
            .iter_mut()
            .zip(first..)
            .filter(|(slot, _)| slot.state == TagState::Done)
            .map(|(slot, tag)| {
                slot.state = TagState::Gone;
                Ack { tag, multiple: false }
            })
            .collect()
    }

    /// Empties the ledger of a lost channel. Returns the messages that were out, by tag, and those that were done but
    /// whose acks may not have arrived.
    pub(super) fn take_all(&mut self) -> (Vec<(u64, Identity)>, Vec<Identity>) {
        let first = self.acked + 1;
        let (mut out, mut done) = (Vec::new(), Vec::new());
        for (slot, tag) in self.slots.drain(..).zip(first..) {
            match (slot.identity, slot.state) {
                (Some(identity), TagState::Out) => out.push((tag, identity)),
                (Some(identity), TagState::Done | TagState::Gone) => done.push(identity),
                (None, _) => {}
            }
        }
        *self = Self::default();
        (out, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    fn ledger(count: u64) -> Ledger {
        let mut ledger = Ledger::default();
        (1..=count).for_each(|tag| ledger.delivered(tag, None));
        ledger
    }

    #[test]
    fn the_settled_beginning_is_acked_at_once() {
        let mut ledger = ledger(5);
        assert_eq!(ledger.take_prefix(drop), None);
        for tag in [2, 3, 1] {
            assert!(ledger.done(tag));
        }
        assert_eq!(ledger.take_prefix(drop), Some(Ack { tag: 3, multiple: true }));
        assert!(ledger.done(5));
        assert_eq!(ledger.take_prefix(drop), None);
        assert_eq!((ledger.held(), ledger.out()), (1, 1));
        assert_eq!(ledger.take_rest(), [Ack { tag: 5, multiple: false }]);
        assert!(ledger.done(4));
        assert_eq!(ledger.take_prefix(drop), Some(Ack { tag: 4, multiple: false }));
        assert_eq!((ledger.held(), ledger.out(), ledger.slots.len()), (0, 0, 0));
    }

    #[test]
    fn what_was_given_back_is_never_named_by_an_ack() {
        let mut ledger = ledger(3);
        assert!(ledger.done(1) && ledger.requeued(2) && ledger.requeued(3));
        assert_eq!(ledger.take_prefix(drop), Some(Ack { tag: 1, multiple: false }));
        assert_eq!(ledger.take_prefix(drop), None);
        assert!(ledger.slots.is_empty());
    }

    #[test]
    fn what_was_replaced_is_acked_and_not_remembered() {
        let identity = |id: &str| Some(Identity::test(id, 0));
        let mut ledger = Ledger::default();
        ledger.delivered(1, identity("a"));
        ledger.delivered(2, identity("b"));
        assert!(ledger.replaced(1) && ledger.done(2));
        let mut settled = Vec::new();
        assert_eq!(
            ledger.take_prefix(|identity| settled.push(identity)),
            Some(Ack { tag: 2, multiple: true })
        );
        assert_eq!(settled, identity("b").into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_copy_that_settles_for_its_message_is_remembered_when_its_ack_is_lost() {
        let identity = |id: &str| Identity::test(id, 0);
        let mut ledger = ledger(3);
        ledger.identify(1, identity("a"));
        ledger.identify(2, identity("b"));
        assert!(ledger.done(2));
        assert_eq!(ledger.take_all(), (vec![(1, identity("a"))], vec![identity("b")]));
    }

    #[test]
    fn two_calls_under_one_id_are_two_messages() {
        let message = |task: &str, retries: u32, body: &'static str| {
            let mut headers = Headers::for_task(task, "id-1");
            headers.set("retries", retries);
            Message { headers, body: body.into(), ..Message::default() }
        };
        let one = Identity::of(&message("t", 0, "[[1],{},{}]"));
        assert!(one.is_some());
        assert_eq!(one, Identity::of(&message("t", 0, "[[1],{},{}]")));
        for other in
            [message("t", 0, "[[2],{},{}]"), message("u", 0, "[[1],{},{}]"), message("t", 1, "[[1],{},{}]")]
        {
            assert_ne!(one, Identity::of(&other));
        }
        assert_eq!(Identity::of(&Message::default()), None);
    }

    #[test]
    fn a_tag_is_settled_once() {
        let mut ledger = ledger(2);
        assert!(ledger.done(2) && !ledger.done(2) && !ledger.requeued(2));
        assert!(!ledger.done(0) && !ledger.done(3));
        assert!(ledger.requeued(1) && !ledger.done(1));
    }

    /// In any order of verdicts, each done tag is acked exactly once, and no tag is acked that is out or requeued.
    #[test]
    fn every_done_tag_is_acked_once() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut ledger = Ledger::default();
            let mut state = vec!['-'];
            let mut next = 1;
            for _ in 0..200 {
                let out: Vec<usize> = (1..state.len()).filter(|tag| state[*tag] == 'o').collect();
                match random.u8(0..5) {
                    0 | 1 => {
                        ledger.delivered(next, None);
                        state.push('o');
                        next += 1;
                    }
                    2 if !out.is_empty() => {
                        let tag = out[random.usize(0..out.len())];
                        assert!(ledger.done(tag as u64));
                        state[tag] = 'd';
                    }
                    3 if !out.is_empty() => {
                        let tag = out[random.usize(0..out.len())];
                        assert!(ledger.requeued(tag as u64));
                        state[tag] = 'g';
                    }
                    _ => {
                        let acks: Vec<Ack> = ledger.take_prefix(drop).into_iter().collect();
                        let acks = if random.bool() { acks } else { [acks, ledger.take_rest()].concat() };
                        for ack in acks {
                            assert_eq!(state[ack.tag as usize], 'd');
                            let first = if ack.multiple { 1 } else { ack.tag as usize };
                            for state in &mut state[first..=ack.tag as usize] {
                                assert_ne!(*state, 'o', "seed {seed}: acked a running one");
                                if *state == 'd' {
                                    *state = 'a';
                                }
                            }
                        }
                    }
                }
            }
            ledger.take_prefix(|_| {}).into_iter().for_each(|ack| state[ack.tag as usize] = 'a');
            let rest = ledger.take_rest();
            assert!(rest.iter().all(|ack| state[ack.tag as usize] == 'd'));
            assert_eq!(ledger.held(), 0);
        }
    }
}
