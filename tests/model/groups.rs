//! Queue groups in the model: what a receive, ack, nack, extension or release does to a world, and who dies.

use onelog::broker::{GroupCounts, LeaseId};
use onelog::{Delivery, Failure, LeaseError, Ordering, ReceiveRequest, Settled, TopicSettings};

use crate::queue::{Due, Group, Held, Look, Obituary, Queue, backoff, exhausted, same_outcome};
use crate::rig::Answer;
use crate::world::{Letter, Outcome, Part, REDRIVE_GROUP, Rec, Refused, Topic, World, judge, record_of};

/// Dead letters are kept for thirty days, and are as large as any record.
const LETTERS_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

impl World {
    pub fn receive(&mut self, request: &ReceiveRequest, answer: Option<&Answer>) -> Outcome {
        if let Err("group not found") = self.group(&request.topic, &request.group).map(drop) {
            let topic = self.topics.get_mut(&request.topic).ok_or("no topic")?;
            let queues = topic.parts.iter().map(|part| Queue::new(part.start)).collect();
            topic.groups.insert(request.group.clone(), Group { settings: onelog::GroupSettings::default(), queues });
        }
        let deliveries = match (self.topic(&request.topic).map(drop), answer) {
            (_, None) => return Ok(()),
            (Ok(()), Some(Answer::Delivered(deliveries))) => deliveries,
            (Ok(()), Some(got)) => return Err(format!("{request:?} was answered {got:?}")),
            (Err(refused), got) => return judge(request, &Err(refused), got),
        };
        if deliveries.len() > request.records_max {
            return Err(format!("{} records were asked for, {} given", request.records_max, deliveries.len()));
        }
        let (now, wall) = (self.now, self.wall);
        let mut token = self.token;
        let topic = self.topics.get_mut(&request.topic).ok_or("no topic")?;
        let full = deliveries.len() == request.records_max;
        let group = topic.groups.get_mut(&request.group).ok_or("no group")?;
        for delivery in deliveries {
            if delivery.lease.token <= token {
                return Err(format!("P8: the token of {} is not above {token}", delivery.lease));
            }
            token = delivery.lease.token;
        }
        for (number, (queue, part)) in (0..).zip(group.queues.iter_mut().zip(&topic.parts)) {
            let mine: Vec<&Delivery> = deliveries.iter().filter(|delivery| delivery.lease.partition == number).collect();
            let look = Look {
                settings: &group.settings,
                group: &request.group,
                member: &request.member,
                records: &part.records,
                start: part.start,
                now,
                wall,
                visibility_ms: request.visibility_ms.unwrap_or(group.settings.visibility_ms),
            };
            if !full || !mine.is_empty() {
                queue.advance_start(part.start);
            }
            received(queue, part, &mine, &look, self.token, full).map_err(|wrong| format!("{wrong} ({}/{number})", request.topic))?;
        }
        self.token = token;
        Ok(())
    }

    /// A lease and its queue, or the refusal of the whole call.
    fn leased(&mut self, topic: &str, group: &str, lease: &LeaseId) -> Result<Option<(&mut Queue, i64)>, Refused> {
        let topic = self.topic(topic)?;
        let start = topic.parts.get(lease.partition as usize).map_or(0, |part| part.start);
        let group = topic.groups.get_mut(group).ok_or("group not found")?;
        Ok(group.queues.get_mut(lease.partition as usize).map(|queue| (queue, start)))
    }

    pub fn ack(&mut self, topic: &str, group: &str, leases: &[LeaseId], answer: Option<&Answer>) -> Outcome {
        // Decided together: a lease that is named twice is acked twice.
        let mut expected = Vec::new();
        for lease in leases {
            match self.leased(topic, group, lease) {
                Err(refused) => return judge(lease, &Err(refused), answer),
                Ok(None) => expected.push((Err(LeaseError::Unknown), false)),
                Ok(Some((queue, start))) => {
                    expected.push((queue.held(lease.offset, lease.token).map(|_| Settled::Acked), lease.offset < start));
                }
            }
        }
        for ((at, lease), (outcome, gone)) in leases.iter().enumerate().zip(expected) {
            let outcome = agreed(&format!("P9: the ack of {lease}"), outcome, gone, at, answer)?;
            if let (Ok(Some((queue, _))), Some(outcome)) = (self.leased(topic, group, lease), outcome) {
                queue.settle(lease.offset, if outcome.is_ok() { Held::Acked } else { Held::Skipped });
            }
        }
        Ok(())
    }

    pub fn extend(&mut self, topic: &str, group: &str, lease: &LeaseId, ms: u64, answer: Option<&Answer>) -> Outcome {
        let now = self.now;
        self.change(topic, group, lease, Settled::Extended { visibility_ms: ms }, answer, |held| {
            if let Held::Leased { due, .. } = held {
                *due = Due::after(now, ms);
            }
        })
    }

    pub fn release(&mut self, topic: &str, group: &str, lease: &LeaseId, answer: Option<&Answer>) -> Outcome {
        self.change(topic, group, lease, Settled::Deferred { delay_ms: 0 }, answer, |held| *held = Held::Released)
    }

    fn change(
        &mut self,
        topic: &str,
        group: &str,
        lease: &LeaseId,
        done: Settled,
        answer: Option<&Answer>,
        how: impl FnOnce(&mut Held),
    ) -> Outcome {
        let (queue, start) = match self.leased(topic, group, lease) {
            Err(refused) => return judge(lease, &Err(refused), answer),
            Ok(None) => return agreed(&lease.to_string(), Err(LeaseError::Unknown), false, 0, answer).map(drop),
            Ok(Some(found)) => found,
        };
        let expected = queue.held(lease.offset, lease.token).map(|_| done);
        match agreed(&lease.to_string(), expected, lease.offset < start, 0, answer)? {
            Some(Ok(_)) => {
                if let Some(state) = queue.states.get_mut(&lease.offset) {
                    how(&mut state.held);
                }
            }
            Some(Err(_)) => queue.settle(lease.offset, Held::Skipped),
            None => {}
        }
        Ok(())
    }

    pub fn nack(&mut self, topic: &str, group: &str, failure: &Failure, answer: Option<&Answer>) -> Outcome {
        let Some(lease) = failure.lease else { return Ok(()) };
        let (now, wall) = (self.now, self.wall);
        let settings = self.topics.get(topic).and_then(|topic| topic.groups.get(group)).map(|group| group.settings.clone());
        let (queue, start) = match self.leased(topic, group, &lease) {
            Err(refused) => return judge(failure, &Err(refused), answer),
            Ok(None) => return agreed(&lease.to_string(), Err(LeaseError::Unknown), false, 0, answer).map(drop),
            Ok(Some(found)) => found,
        };
        let settings = settings.unwrap_or_default();
        let gone = lease.offset < start;
        let state = match queue.held(lease.offset, lease.token) {
            Ok(state) => state,
            Err(refused) => return agreed(&lease.to_string(), Err(refused), gone, 0, answer).map(drop),
        };
        let member = if let Held::Leased { member, .. } = &state.held { member.clone() } else { String::new() };
        if gone && outcome_at(answer, 0).is_some_and(|outcome| outcome == Err(LeaseError::Unknown)) {
            queue.settle(lease.offset, Held::Skipped);
            return Ok(());
        }
        if failure.permanent || exhausted(&settings, state.attempts) {
            let first_failure_ms = state.first_failure_ms.unwrap_or(wall);
            let obituary =
                Obituary { reason: failure.reason.clone(), attempts: state.attempts, member, first_failure_ms, last_failure_ms: wall };
            agreed(&lease.to_string(), Ok(Settled::DeadLettered), false, 0, answer)?;
            let letter = self.letter(topic, group, (lease.partition, lease.offset), obituary);
            self.bury(letter);
            return Ok(());
        }
        let (shortest, longest) = failure.delay_ms.map_or_else(|| backoff(&settings, state.attempts), |delay| (delay, delay));
        let due = match outcome_at(answer, 0) {
            None => Due { lo: now + shortest, hi: now + longest, span: longest },
            Some(Ok(Settled::Deferred { delay_ms })) if (shortest..=longest).contains(&delay_ms) => Due::after(now, delay_ms),
            Some(got) => return Err(format!("P13: {lease} failed and should wait {shortest} to {longest} ms; the answer is {got:?}")),
        };
        state.first_failure_ms.get_or_insert(wall);
        state.last_failure_ms = wall;
        state.reason.clone_from(&failure.reason);
        state.held = Held::Deferred { due };
        Ok(())
    }

    // ---- Dying -------------------------------------------------------------------------------------------------------------

    /// The dead letter of a record.
    pub fn letter(&self, topic: &str, group: &str, (partition, offset): (u32, i64), obituary: Obituary) -> Letter {
        let part = &self.topics[topic].parts[partition as usize];
        let mut record = part.records[usize::try_from(offset).unwrap()].clone();
        record.headers.retain(|header| &*header.name != REDRIVE_GROUP);
        let origin = (topic.to_owned(), partition, offset);
        Letter { origin, group: group.to_owned(), obituary, record, record_gone: offset < part.start }
    }

    /// The record is dead, and its letter is somewhere in the dead-letter topic.
    pub fn bury(&mut self, letter: Letter) {
        let (origin, partition, offset) = letter.origin.clone();
        let partitions = u32::try_from(self.topics[&origin].parts.len()).unwrap();
        // Refused when it is there.
        let _ = self.create_topic(&format!("{origin}.dlq"), &letters_settings(partitions));
        if let Ok(group) = self.group(&origin, &letter.group) {
            group.queues[partition as usize].settle(offset, Held::Dead);
        }
        self.pending.push(letter);
    }

    /// The letters of all records whose last attempt may be over, or surely is.
    pub fn overdue(&self, surely: bool) -> Vec<Letter> {
        let mut letters = Vec::new();
        for (name, topic) in &self.topics {
            for (group_name, group) in &topic.groups {
                for (partition, (queue, part)) in (0..).zip(group.queues.iter().zip(&topic.parts)) {
                    for offset in queue.states.keys().copied() {
                        if !queue.sweepable(offset, &group.settings, self.now, surely) || (surely && offset < part.start) {
                            continue;
                        }
                        let Some(obituary) = queue.obituary(offset, self.wall) else { continue };
                        letters.push(self.letter(name, group_name, (partition, offset), obituary));
                    }
                }
            }
        }
        letters
    }

    /// After the process has ended, in whatever way: time begins anew for the next one.
    pub fn restart(&mut self, token: u64) {
        self.doomed = self.overdue(false);
        self.dlq_maybe = true;
        self.trim_is_done = false;
        self.token = self.token.max(token);
        // An opening is stamped later than everything before it.
        self.stamp = (self.wall, self.wall.max(self.stamp.1 + 1));
        let now = std::mem::take(&mut self.now);
        for topic in self.topics.values_mut() {
            let Topic { parts, groups, .. } = topic;
            for group in groups.values_mut() {
                for (queue, part) in group.queues.iter_mut().zip(parts.iter()) {
                    queue.restart(now, part.start);
                }
            }
        }
    }
}

pub fn letters_settings(partitions: u32) -> TopicSettings {
    TopicSettings {
        partitions,
        retention_ms: Some(LETTERS_KEPT_MS),
        record_bytes_max: onelog::broker::RECORD_BYTES_LIMIT,
        ..TopicSettings::default()
    }
}

fn outcome_at(answer: Option<&Answer>, at: usize) -> Option<Result<Settled, LeaseError>> {
    match answer {
        Some(Answer::Outcomes(outcomes)) => outcomes.get(at).copied(),
        Some(_) => Some(Err(LeaseError::Unknown)),
        None => None,
    }
}

/// What became of one lease, if anything: the answer where it is right. Of a record that retention took either is.
fn agreed(
    what: &str,
    expected: Result<Settled, LeaseError>,
    gone: bool,
    at: usize,
    answer: Option<&Answer>,
) -> Result<Option<Result<Settled, LeaseError>>, String> {
    if let Some(Answer::Failed(error)) = answer {
        return Err(format!("{what} failed: {error}"));
    }
    let Some(got) = outcome_at(answer, at) else { return Ok(expected.is_ok().then_some(expected)) };
    if gone && got == Err(LeaseError::Unknown) {
        return Ok(expected.is_ok().then_some(got));
    }
    same_outcome(what, &expected, &got)?;
    Ok(expected.is_ok().then_some(expected))
}

/// What one partition gave.
fn received(queue: &mut Queue, part: &Part, mine: &[&Delivery], look: &Look<'_>, highest: u64, full: bool) -> Outcome {
    let given: Vec<i64> = mine.iter().map(|delivery| delivery.lease.offset).collect();
    if !mine.is_empty() && queue.busy(look) {
        return Err("P7: earlier records of the partition are still with a member".into());
    }
    if let Some(offset) = queue.overtaken(&given, look) {
        return Err(format!("P7: {given:?} were delivered before {offset}, which is not settled"));
    }
    for delivery in mine {
        let offset = delivery.lease.offset;
        let known = usize::try_from(offset).ok().and_then(|at| part.records.get(at)).filter(|_| offset >= part.start);
        let record = &delivery.record;
        let got = Rec {
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.clone(),
            timestamp_ms: record.timestamp_ms,
        };
        if known != Some(&got) {
            return Err(format!("P2: {offset} was delivered as {got:?}, and is {known:?}"));
        }
        queue.deliver(delivery, look, highest)?;
    }
    match queue.withheld(&given, look, full) {
        Some(offset) => Err(format!("P7/P11: {offset} should have been delivered besides {given:?}: {:?}", queue.states.get(&offset))),
        None => Ok(()),
    }
}

impl Queue {
    /// What retention took is passed over.
    pub fn advance_start(&mut self, start: i64) {
        for (_, state) in self.states.range_mut(..start) {
            if !matches!(state.held, Held::Acked | Held::Dead) {
                state.held = Held::Skipped;
            }
        }
    }

    /// P12: adds this partition's records to the counts, to the lowest and the highest that each may be.
    pub fn count(&self, part: &Part, (name, group): (&str, &Group), now: u64, low: &mut GroupCounts, high: &mut GroupCounts) {
        for offset in self.origin..part.end() {
            let (mut ready, mut leased, mut deferred, mut skipped) = (false, false, false, false);
            match self.states.get(&offset).map(|state| &state.held) {
                None if offset < self.origin_max => {
                    high.skipped += 1;
                    continue;
                }
                // Behind a busy key it may have been looked at before retention took it.
                None if offset < part.start => (ready, skipped) = (group.settings.ordering == Ordering::Key, true),
                None => (ready, skipped) = (true, self.passed_over(offset, &part.records, name)),
                Some(Held::Acked) => {
                    low.acked += 1;
                    high.acked += 1;
                    continue;
                }
                Some(Held::Dead) => {
                    low.dead += 1;
                    high.dead += 1;
                    continue;
                }
                Some(Held::Skipped) => skipped = true,
                Some(Held::Released) => ready = true,
                Some(Held::Leased { due, .. }) => (ready, leased) = (due.lo <= now, due.hi > now),
                Some(Held::Deferred { due }) => (ready, deferred) = (due.lo <= now, due.hi > now),
            }
            skipped |= offset < part.start;
            let only = u8::from(ready) + u8::from(leased) + u8::from(deferred) + u8::from(skipped) == 1;
            for (may, low, high) in [
                (ready, &mut low.ready, &mut high.ready),
                (leased, &mut low.leased, &mut high.leased),
                (deferred, &mut low.deferred, &mut high.deferred),
                (skipped, &mut low.skipped, &mut high.skipped),
            ] {
                *high += u64::from(may);
                *low += u64::from(may && only);
            }
        }
    }
}

/// A record as it comes back.
pub fn rec_of(record: &onelog::Record) -> Rec {
    let onelog::Record { key, value, headers, timestamp_ms, .. } = record.clone();
    record_of(&onelog::NewRecord { key, value, headers, timestamp_ms: Some(timestamp_ms), ..Default::default() }, 0)
}
