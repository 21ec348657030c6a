//! The rules: what may be delivered, and what a member's answer does. Nothing here changes anything.
//!
//! Owns the commands and their decisions. A decision holds the event to write and apply, and what the caller has to do besides:
//! deliver records, move one to the dead letter topic, tell a member that it came too late.
//!
//! A lease that has expired stays valid until the record is granted again: the work is done, so its ack, nack or extension is
//! accepted. A deadline is reached at its very instant.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use onelog_storage::types::{Offset, TimestampMs};

use super::{
    LeaseError, LeaseEvent, LeaseSettings, LeaseToken, Leased, OpenRecord, Ordering, PartitionQueue, REASON_BYTES_MAX, REASON_EXPIRED,
    Ranges, Status, distance,
};

/// What can be delivered now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be delivered again, lowest first.
    pub redeliver: Vec<Offset>,
    /// Fresh records that may be taken besides, read from the cursor on.
    pub fresh_max: usize,
}

/// A record that exists and may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub offset: Offset,
    /// Hash of the record's key. Only looked at for fresh records in groups ordered by key; `None` for a record without a key.
    pub key_hash: Option<u64>,
}

/// A wish for leases, after [`PartitionQueue::plan`] and after the records were read.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    pub member: &'a Arc<str>,
    pub visibility_ms: u64,
    /// Greater than any token granted before; as many are used as leases are granted.
    pub first_token: LeaseToken,
    /// Lowest first.
    pub offers: &'a [Offer],
    /// Behind the last record looked at. Fresh offsets below that are not offered are absent and get skipped. Anything up to the
    /// cursor means that no fresh record was looked at.
    pub scanned_to: Offset,
    pub wall: TimestampMs,
}

/// A lease to hand to its member once the event is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub offset: Offset,
    pub token: LeaseToken,
    /// 1 for the first delivery.
    pub attempt: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseDecision {
    /// `None` when nothing changes.
    pub event: Option<LeaseEvent>,
    pub grants: Vec<Grant>,
    /// Offers parked because their key is busy. With too few grants and some of these, planning again may find more.
    pub parked: usize,
}

/// One item of a request that changes nothing, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Counts the items of the request.
    pub index: usize,
    pub error: LeaseError,
}

/// Outcome of a request with many items: those not refused are in the event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchDecision {
    pub event: Option<LeaseEvent>,
    pub refused: Vec<Refusal>,
}

/// A member's word that it failed.
#[derive(Clone, Copy, Debug)]
pub struct Nack<'a> {
    pub offset: Offset,
    pub token: LeaseToken,
    /// `None`: as the group's backoff says.
    pub delay_ms: Option<u64>,
    /// Cut after [`REASON_BYTES_MAX`].
    pub reason: &'a str,
    /// Trying again is pointless.
    pub permanent: bool,
    pub wall: TimestampMs,
    /// Any number, for the jitter.
    pub random: u64,
}

/// What goes into the dead letter beside the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub offset: Offset,
    pub attempts: u32,
    pub reason: Box<str>,
    pub first_failure: TimestampMs,
    pub last_failure: TimestampMs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NackDecision {
    Retry {
        event: LeaseEvent,
        delay_ms: u64,
    },
    /// The event must be in the same commit as the record in the dead letter topic.
    Dead {
        event: LeaseEvent,
        letter: DeadLetter,
    },
}

/// Records that ran out of attempts without a word from their member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepDecision {
    /// Must be in the same commit as the records in the dead letter topic.
    pub event: Option<LeaseEvent>,
    pub letters: Vec<DeadLetter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartDecision {
    pub event: LeaseEvent,
    /// Records the group had not settled.
    pub lost: u64,
}

impl PartitionQueue {
    /// What may be delivered at `now`, at most `max` records in all.
    #[must_use]
    pub fn plan(&self, settings: &LeaseSettings, now: Duration, max: usize) -> Plan {
        let expired = self.due(now).filter(|(_, record)| matches!(record.status, Status::Leased { .. })).count();
        let in_flight = self.indexes.leased - expired;
        let budget = max.min((settings.in_flight_max as usize).saturating_sub(in_flight));
        let (redeliver, fresh_allowed) = match settings.ordering {
            Ordering::Partition if in_flight > 0 => (Vec::new(), false),
            Ordering::Partition => self.open_prefix(settings, now, budget),
            Ordering::None | Ordering::Key => (self.lowest_deliverable(settings, now, budget), true),
        };
        let room = (settings.open_max as usize).saturating_sub(self.open.len());
        let fresh_max = if fresh_allowed { (budget - redeliver.len()).min(room) } else { 0 };
        Plan { redeliver, fresh_max }
    }

    /// Whether so much is in flight or open that no fresh record may be delivered until something is settled.
    #[must_use]
    pub fn is_full(&self, settings: &LeaseSettings) -> bool {
        self.indexes.leased >= settings.in_flight_max as usize || self.open.len() >= settings.open_max as usize
    }

    fn lowest_deliverable(&self, settings: &LeaseSettings, now: Duration, max: usize) -> Vec<Offset> {
        if max == 0 {
            return Vec::new();
        }
        let ready = self.indexes.ready.iter().take(max).copied();
        let due = self.due(now).filter(|(_, record)| deliverable(record, settings, now)).map(|(offset, _)| offset);
        let mut offsets: Vec<Offset> = ready.chain(due).collect();
        if offsets.len() > max {
            offsets.select_nth_unstable(max);
            offsets.truncate(max);
        }
        offsets.sort_unstable();
        offsets
    }

    /// The deliverable records up to the first that is not; and whether that was all.
    fn open_prefix(&self, settings: &LeaseSettings, now: Duration, max: usize) -> (Vec<Offset>, bool) {
        let prefix = self.open.iter().take(max).take_while(|(_, record)| deliverable(record, settings, now));
        let offsets: Vec<Offset> = prefix.map(|(offset, _)| *offset).collect();
        let all = offsets.len() == self.open.len();
        (offsets, all)
    }

    /// Grants the offers, in their order.
    ///
    /// # Errors
    /// The offers are not what [`Self::plan`] allowed, or the tokens are not new. A record that has vanished since it was
    /// delivered must be skipped ([`Self::decide_skip`]), not left out, in a group ordered by partition.
    pub fn decide_lease(&self, settings: &LeaseSettings, request: &LeaseRequest<'_>, now: Duration) -> Result<LeaseDecision, LeaseError> {
        self.check_offers(settings, request, now)?;
        let mut seen = HashSet::new();
        let mut token = request.first_token;
        let mut grants = Vec::with_capacity(request.offers.len());
        let (mut key_hashes, mut parked) = (Vec::new(), Vec::new());
        for offer in request.offers {
            let fresh = offer.offset >= self.cursor;
            if let Some(key_hash) = offer.key_hash.filter(|_| fresh && settings.ordering == Ordering::Key) {
                if self.indexes.busy_keys.contains(&key_hash) || !seen.insert(key_hash) {
                    parked.push((offer.offset, key_hash));
                    continue;
                }
                key_hashes.push((offer.offset, key_hash));
            }
            let known = if fresh { None } else { self.open.get(&offer.offset) };
            let attempt = known.map_or(1, OpenRecord::next_attempt);
            grants.push(Grant { offset: offer.offset, token, attempt });
            token = LeaseToken(token.0.saturating_add(1));
        }
        let parked_count = parked.len();
        let event = self.lease_event(request, &grants, key_hashes, parked);
        Ok(LeaseDecision { event, grants, parked: parked_count })
    }

    fn lease_event(
        &self,
        request: &LeaseRequest<'_>,
        grants: &[Grant],
        key_hashes: Vec<(Offset, u64)>,
        parked: Vec<(Offset, u64)>,
    ) -> Option<LeaseEvent> {
        if grants.is_empty() && parked.is_empty() {
            return self.decide_skip(&[], request.scanned_to);
        }
        Some(LeaseEvent::Leased(Leased {
            offsets: grants.iter().map(|grant| grant.offset).collect(),
            first_token: request.first_token,
            member: Arc::clone(request.member),
            visibility_ms: request.visibility_ms,
            wall: request.wall,
            cursor_after: self.cursor.max(request.scanned_to),
            key_hashes,
            parked,
        }))
    }

    fn check_offers(&self, settings: &LeaseSettings, request: &LeaseRequest<'_>, now: Duration) -> Result<(), LeaseError> {
        let last_token = request.first_token.0.checked_add(request.offers.len() as u64);
        if !request.offers.is_empty() && (request.first_token <= self.last_token || last_token.is_none()) {
            return Err(LeaseError::TokenReused { token: request.first_token });
        }
        for (at, offer) in request.offers.iter().enumerate() {
            let offset = offer.offset;
            let rises = at == 0 || request.offers.get(at - 1).is_some_and(|before| before.offset < offset);
            let fresh = offset >= self.cursor;
            if !rises || (fresh && offset >= request.scanned_to) {
                return Err(LeaseError::OutOfOrder { offset });
            }
            if !fresh && !self.open.get(&offset).is_some_and(|record| deliverable(record, settings, now)) {
                return Err(LeaseError::NotDeliverable { offset });
            }
        }
        if settings.ordering == Ordering::Partition { self.check_in_order(request, now) } else { Ok(()) }
    }

    /// Whether nothing is in flight and the offers begin with the lowest open record and leave none out.
    fn check_in_order(&self, request: &LeaseRequest<'_>, now: Duration) -> Result<(), LeaseError> {
        let Some(first) = request.offers.first() else { return Ok(()) };
        if self.due(now).filter(|(_, record)| matches!(record.status, Status::Leased { .. })).count() < self.indexes.leased {
            return Err(LeaseError::NotDeliverable { offset: first.offset });
        }
        let mut open = self.open.keys();
        match request.offers.iter().find(|offer| open.next().is_some_and(|expected| *expected != offer.offset)) {
            Some(offer) => Err(LeaseError::NotDeliverable { offset: offer.offset }),
            None => Ok(()),
        }
    }

    /// Settles what is done. Acks wait for their commit; each range of them costs a few bytes in it.
    #[must_use]
    pub fn decide_ack(&self, items: &[(Offset, LeaseToken)]) -> BatchDecision {
        self.decide_batch(items, |offsets| LeaseEvent::Acked { offsets })
    }

    /// Gives records back at once, without a failure and without counting the attempt: the work was never begun.
    #[must_use]
    pub fn decide_release(&self, items: &[(Offset, LeaseToken)]) -> BatchDecision {
        self.decide_batch(items, |offsets| LeaseEvent::Released { offsets })
    }

    /// Lets the leases last `visibility_ms` from now.
    #[must_use]
    pub fn decide_extend(&self, items: &[(Offset, LeaseToken)], visibility_ms: u64) -> BatchDecision {
        self.decide_batch(items, |offsets| LeaseEvent::Extended { offsets, visibility_ms })
    }

    fn decide_batch(&self, items: &[(Offset, LeaseToken)], event: impl FnOnce(Ranges) -> LeaseEvent) -> BatchDecision {
        let mut refused = Vec::new();
        let mut accepted: Vec<(Offset, usize)> = Vec::with_capacity(items.len());
        for (index, (offset, token)) in items.iter().enumerate() {
            match self.held(*offset, *token) {
                Ok(_) => accepted.push((*offset, index)),
                Err(error) => refused.push(Refusal { index, error }),
            }
        }
        accepted.sort_unstable();
        let (mut offsets, mut last) = (Ranges::default(), None);
        for (offset, index) in accepted {
            if last.replace(offset) == Some(offset) {
                refused.push(Refusal { index, error: LeaseError::Repeated { offset } });
            } else {
                offsets.push(offset);
            }
        }
        refused.sort_unstable_by_key(|refusal| refusal.index);
        BatchDecision { event: (!offsets.is_empty()).then(|| event(offsets)), refused }
    }

    /// The record leased under `token`, expired or not.
    fn held(&self, offset: Offset, token: LeaseToken) -> Result<&OpenRecord, LeaseError> {
        match self.open.get(&offset) {
            Some(record) => match &record.status {
                Status::Leased { token: valid, .. } if *valid == token => Ok(record),
                Status::Leased { .. } => Err(LeaseError::Stale { offset }),
                _ => Err(LeaseError::NotLeased { offset }),
            },
            None if offset < self.cursor => Err(LeaseError::Settled { offset }),
            None => Err(LeaseError::NotLeased { offset }),
        }
    }

    /// A record again later, or a dead letter when that is pointless or was the last attempt.
    ///
    /// # Errors
    /// The token is not that of the record's lease.
    pub fn decide_nack(&self, settings: &LeaseSettings, nack: &Nack<'_>) -> Result<NackDecision, LeaseError> {
        let record = self.held(nack.offset, nack.token)?;
        let reason = cut(nack.reason);
        if nack.permanent || settings.exhausted(record.attempts) {
            let letter = dead_letter(nack.offset, record, reason, nack.wall);
            let event = LeaseEvent::DeadLettered { offsets: std::iter::once(nack.offset).collect() };
            return Ok(NackDecision::Dead { event, letter });
        }
        let delay_ms = nack.delay_ms.unwrap_or_else(|| settings.retry.delay_ms(record.attempts, nack.random));
        let event = LeaseEvent::Deferred { offset: nack.offset, delay_ms, reason: reason.into(), wall: nack.wall };
        Ok(NackDecision::Retry { event, delay_ms })
    }

    /// The due records that have no attempt left, at most `max` of them.
    ///
    /// Other expired leases need no sweep: they are simply delivered again.
    #[must_use]
    pub fn decide_sweep(&self, settings: &LeaseSettings, now: Duration, wall: TimestampMs, max: usize) -> SweepDecision {
        let exhausted = self.due(now).filter(|(_, record)| settings.exhausted(record.attempts)).take(max);
        let mut letters: Vec<DeadLetter> = exhausted.map(|(offset, record)| unattended_letter(offset, record, wall)).collect();
        letters.sort_unstable_by_key(|letter| letter.offset);
        let offsets: Ranges = letters.iter().map(|letter| letter.offset).collect();
        let event = (!offsets.is_empty()).then_some(LeaseEvent::DeadLettered { offsets });
        SweepDecision { event, letters }
    }

    /// Settles without delivery what turned out to be absent: those of `offsets` that are open, in whatever state, and all from
    /// the cursor to `scanned_to`. `None` when that is nothing.
    #[must_use]
    pub fn decide_skip(&self, offsets: &[Offset], scanned_to: Offset) -> Option<LeaseEvent> {
        let mut open: Vec<Offset> = offsets.iter().copied().filter(|offset| self.open.contains_key(offset)).collect();
        open.sort_unstable();
        open.dedup();
        let cursor_after = self.cursor.max(scanned_to);
        let changes = !open.is_empty() || cursor_after > self.cursor;
        changes.then(|| LeaseEvent::Skipped { offsets: open.into_iter().collect(), cursor_after })
    }

    /// Drops all below `to`, which retention has removed. `None` when the group is past it.
    #[must_use]
    pub fn decide_advance_start(&self, to: Offset) -> Option<StartDecision> {
        let lost = self.open.range(..to).count() as u64 + distance(self.cursor, to);
        (lost > 0).then_some(StartDecision { event: LeaseEvent::StartAdvanced { to }, lost })
    }

    /// Begins anew at `to`, in either direction. Leases are void, counts and attempts start over.
    #[must_use]
    pub const fn decide_seek(&self, to: Offset) -> LeaseEvent {
        LeaseEvent::Seeked { to }
    }
}

/// Whether an open record may be leased now, its place in the order aside.
fn deliverable(record: &OpenRecord, settings: &LeaseSettings, now: Duration) -> bool {
    match record.status {
        Status::Ready { .. } => true,
        Status::Parked => false,
        Status::Leased { deadline: due, .. } | Status::Deferred { until: due } => due <= now && !settings.exhausted(record.attempts),
    }
}

fn dead_letter(offset: Offset, record: &OpenRecord, reason: &str, wall: TimestampMs) -> DeadLetter {
    let first_failure = record.failures.as_ref().map_or(wall, |failures| failures.first);
    DeadLetter { offset, attempts: record.attempts, reason: reason.into(), first_failure, last_failure: wall }
}

/// The letter of a record nobody answered for: its lease expired, or the group's limit was lowered while it was deferred.
fn unattended_letter(offset: Offset, record: &OpenRecord, wall: TimestampMs) -> DeadLetter {
    match (&record.status, &record.failures) {
        (Status::Deferred { .. }, Some(failures)) => dead_letter(offset, record, &failures.reason, failures.last),
        _ => dead_letter(offset, record, REASON_EXPIRED, wall),
    }
}

fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default()
}
