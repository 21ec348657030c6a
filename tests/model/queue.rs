//! A queue group of the model: one state per record, changed in the plainest way, and the rules of delivery said once more.
//!
//! Allowed differences stand in [`Due`]: after a restart durations begin anew, so a deadline is known as an interval only.

use std::collections::BTreeMap;

use onelog::{Delivery, GroupSettings, LeaseError, Ordering, Settled};

use crate::world::Rec;

/// A monotonic time, milliseconds: not before `lo`, at the latest at `hi`. They are equal unless there was a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub lo: u64,
    pub hi: u64,
    /// The whole duration: what a restart may begin anew.
    pub span: u64,
}

impl Due {
    pub const fn after(now: u64, ms: u64) -> Self {
        Self { lo: now + ms, hi: now + ms, span: ms }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Leased {
        token: u64,
        member: String,
        due: Due,
    },
    Deferred {
        due: Due,
    },
    /// Given back without counting its attempt.
    Released,
    Acked,
    Dead,
    Skipped,
}

/// What a group knows of one record it has delivered or passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub held: Held,
    pub attempts: u32,
    pub first_failure_ms: Option<i64>,
    pub last_failure_ms: i64,
    pub reason: String,
}

/// A group on one partition. A record without a state is fresh.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Queue {
    pub origin: i64,
    /// A later origin that is as right: nothing was written about this partition before a restart.
    pub origin_max: i64,
    pub states: BTreeMap<i64, State>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub settings: GroupSettings,
    pub queues: Vec<Queue>,
}

/// Why a record is in the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obituary {
    pub reason: String,
    pub attempts: u32,
    pub member: String,
    pub first_failure_ms: i64,
    pub last_failure_ms: i64,
}

pub const fn exhausted(settings: &GroupSettings, attempts: u32) -> bool {
    settings.max_deliveries != 0 && attempts >= settings.max_deliveries
}

impl State {
    const fn settled(&self) -> bool {
        matches!(self.held, Held::Acked | Held::Dead | Held::Skipped)
    }

    fn fail(&mut self, wall: i64, reason: &str) {
        self.first_failure_ms.get_or_insert(wall);
        self.last_failure_ms = wall;
        reason.clone_into(&mut self.reason);
    }
}

impl Queue {
    pub fn new(origin: i64) -> Self {
        Self { origin, origin_max: origin, states: BTreeMap::new() }
    }

    pub fn settled(&self, offset: i64) -> bool {
        offset < self.origin || self.states.get(&offset).is_some_and(State::settled)
    }

    /// Whether a record may be delivered now (`surely` false), or must be (`surely` true), its place in the order aside.
    pub fn deliverable(&self, offset: i64, settings: &GroupSettings, now: u64, surely: bool) -> bool {
        let Some(state) = self.states.get(&offset) else { return true };
        match &state.held {
            Held::Released => true,
            Held::Leased { due, .. } | Held::Deferred { due } => {
                (if surely { due.hi } else { due.lo }) <= now && !exhausted(settings, state.attempts)
            }
            Held::Acked | Held::Dead | Held::Skipped => false,
        }
    }

    /// Whether its last attempt may be over without a word from its member.
    pub fn sweepable(&self, offset: i64, settings: &GroupSettings, now: u64, surely: bool) -> bool {
        self.states.get(&offset).is_some_and(|state| match &state.held {
            Held::Leased { due, .. } | Held::Deferred { due } => {
                (if surely { due.hi } else { due.lo }) <= now && exhausted(settings, state.attempts)
            }
            _ => false,
        })
    }

    /// What the letter of a record says that died without a word.
    pub fn obituary(&self, offset: i64, wall: i64) -> Option<Obituary> {
        let state = self.states.get(&offset)?;
        let (reason, member, last) = match &state.held {
            Held::Leased { member, .. } => ("lease expired".to_owned(), member.clone(), wall),
            Held::Deferred { .. } => (state.reason.clone(), String::new(), state.last_failure_ms),
            _ => return None,
        };
        let first = state.first_failure_ms.unwrap_or(last);
        Some(Obituary { reason, attempts: state.attempts, member, first_failure_ms: first, last_failure_ms: last })
    }

    pub fn settle(&mut self, offset: i64, how: Held) {
        let fresh = State { held: Held::Skipped, attempts: 0, first_failure_ms: None, last_failure_ms: 0, reason: String::new() };
        self.states.entry(offset).or_insert(fresh).held = how;
    }

    /// P10: the state leased under `token`, or the refusal it deserves.
    pub fn held(&mut self, offset: i64, token: u64) -> Result<&mut State, LeaseError> {
        match self.states.get_mut(&offset) {
            Some(state) => match &state.held {
                Held::Leased { token: valid, .. } if *valid == token => Ok(state),
                Held::Leased { .. } => Err(LeaseError::Stale),
                _ => Err(LeaseError::Unknown),
            },
            None => Err(LeaseError::Unknown),
        }
    }

    /// Whether an unsettled record before `offset` holds it back.
    fn blocked(&self, offset: i64, ordering: Ordering, records: &[Rec], group: &str, start: i64) -> bool {
        let from = self.origin.max(start);
        let open = |at: &i64| !self.settled(*at) && !self.passed_over(*at, records, group);
        match ordering {
            Ordering::None => false,
            Ordering::Key => {
                let Some(key) = &records[offset as usize].key else { return false };
                (from..offset).filter(open).any(|at| records[at as usize].key.as_ref() == Some(key))
            }
            Ordering::Partition => false,
        }
    }

    /// A fresh record that was sent back to another group.
    pub fn passed_over(&self, offset: i64, records: &[Rec], group: &str) -> bool {
        !self.states.contains_key(&offset) && records[offset as usize].is_for_another(group)
    }

    /// P7, P8, P9, P12, P13: one delivery, against what is known of its record. `highest` is the greatest token ever given out.
    pub fn deliver(&mut self, delivery: &Delivery, look: &Look<'_>, highest: u64) -> Result<(), String> {
        let offset = delivery.lease.offset;
        let at = format!("{}/{offset}", delivery.lease.partition);
        if delivery.lease.token <= highest {
            return Err(format!("P8: the token {} of {at} is not above {highest}", delivery.lease.token));
        }
        if self.settled(offset) {
            return Err(format!("P9: {at} is settled as {:?} and was delivered again", self.states.get(&offset)));
        }
        if self.passed_over(offset, look.records, look.group) {
            return Err(format!("{at} was sent back to another group than {}", look.group));
        }
        if !self.deliverable(offset, look.settings, look.now, false) {
            return Err(format!("P8/P13: {at} is not to be delivered at {}: {:?}", look.now, self.states.get(&offset)));
        }
        if self.blocked(offset, look.settings.ordering, look.records, look.group, look.start) {
            return Err(format!("P7: an earlier record of the key of {at} is not settled"));
        }
        let known = self.states.remove(&offset);
        let mut state =
            known.unwrap_or(State { held: Held::Skipped, attempts: 0, first_failure_ms: None, last_failure_ms: 0, reason: String::new() });
        match state.held {
            Held::Released => {}
            Held::Leased { .. } => {
                state.fail(look.wall, "lease expired");
                state.attempts += 1;
            }
            _ => state.attempts += 1,
        }
        if delivery.attempt != state.attempts {
            return Err(format!("P12: {at} is attempt {}, not {}", state.attempts, delivery.attempt));
        }
        if delivery.visibility_ms != look.visibility_ms {
            return Err(format!("{at} is leased for {} ms, not {}", delivery.visibility_ms, look.visibility_ms));
        }
        let due = Due::after(look.now, look.visibility_ms);
        state.held = Held::Leased { token: delivery.lease.token, member: look.member.to_owned(), due };
        self.states.insert(offset, state);
        Ok(())
    }

    /// Before deliveries: whether any may come from this partition at all, when it is ordered as a whole.
    pub fn busy(&self, look: &Look<'_>) -> bool {
        look.settings.ordering == Ordering::Partition
            && self.states.values().any(|state| matches!(&state.held, Held::Leased { due, .. } if due.lo > look.now))
    }

    /// P7, P11: the records that should have been delivered besides `given`, which are leased by now.
    pub fn withheld(&self, given: &[i64], look: &Look<'_>, full: bool) -> Option<i64> {
        let until = if full { given.iter().copied().max().unwrap_or(0) } else { i64::try_from(look.records.len()).unwrap_or(0) };
        let leased_before =
            |state: &State, offset: &i64| !given.contains(offset) && matches!(&state.held, Held::Leased { due, .. } if due.hi > look.now);
        if look.settings.ordering == Ordering::Partition && self.states.iter().any(|(offset, state)| leased_before(state, offset)) {
            return None;
        }
        for offset in self.origin_max.max(look.start)..until {
            if given.contains(&offset) || self.settled(offset) || self.passed_over(offset, look.records, look.group) {
                continue;
            }
            let blocked = self.blocked(offset, look.settings.ordering, look.records, look.group, look.start);
            if self.deliverable(offset, look.settings, look.now, true) && !blocked {
                return Some(offset);
            }
            if look.settings.ordering == Ordering::Partition {
                return None;
            }
        }
        None
    }

    /// P7: with order per partition what was given is the front of what is unsettled.
    pub fn overtaken(&self, given: &[i64], look: &Look<'_>) -> Option<i64> {
        let last = given.iter().copied().max()?;
        if look.settings.ordering != Ordering::Partition {
            return None;
        }
        let open = |offset: &i64| !self.settled(*offset) && !self.passed_over(*offset, look.records, look.group);
        (self.origin.max(look.start)..last).filter(open).find(|offset| !given.contains(offset))
    }

    /// Durations begin anew: no deadline is earlier, and none later than its whole span.
    pub fn restart(&mut self, now: u64, log_start: i64) {
        if self.states.is_empty() {
            self.origin_max = self.origin_max.max(log_start);
        }
        for state in self.states.values_mut() {
            if let Held::Leased { due, .. } | Held::Deferred { due } = &mut state.held {
                let rest = due.hi.saturating_sub(now).max(due.span);
                *due = Due { lo: due.lo.saturating_sub(now), hi: rest, span: rest };
            }
        }
    }
}

/// What a receive looked at.
pub struct Look<'a> {
    pub settings: &'a GroupSettings,
    pub group: &'a str,
    pub member: &'a str,
    pub records: &'a [Rec],
    pub start: i64,
    pub now: u64,
    pub wall: i64,
    pub visibility_ms: u64,
}

/// How long a failed attempt has to wait: shortest and longest.
pub fn backoff(settings: &GroupSettings, attempts: u32) -> (u64, u64) {
    let mut delay = settings.retry.initial_ms as f64;
    for _ in 1..attempts {
        delay *= settings.retry.multiplier;
    }
    let longest = (delay as u64).min(settings.retry.cap_ms);
    ((longest as f64 * (1.0 - settings.retry.jitter)) as u64, longest)
}

/// P10 and the outcome of one settled lease.
pub fn same_outcome(what: &str, expected: &Result<Settled, LeaseError>, got: &Result<Settled, LeaseError>) -> Result<(), String> {
    let named = if expected.is_err() { "P10" } else { "P9" };
    if expected == got { Ok(()) } else { Err(format!("{named}: {what} should have been answered {expected:?}, was {got:?}")) }
}
