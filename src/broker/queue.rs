//! Queue groups as users see them: create, receive, ack, nack, extend, release, seek. Decisions are `group::lease`'s, writing is storage's.
//!
//! Grants enter the log without being waited for; everything that settles a record is answered only when durable.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use onelog_storage::submission::{NewEvent, Submission, Ticket};
use onelog_storage::types::Offset;

use super::dead_letter::{self, Letter};
use super::error::{BrokerError, LeaseError, Result};
use super::event::{BrokerEvent, StateKey, StoredGroup};
use super::group::lease::{self, Grant, LeaseRequest, LeaseToken, NackDecision, Offer};
use super::group::{GroupPartition, QueueGroup, QueueState};
use super::topic::{Topic, check_name};
use super::types::{
    BATCH_RECORDS_MAX, DELAY_MS_MAX, Delivery, Failure, GroupCounts, GroupInfo, GroupSettings, LeaseId, NAME_BYTES_MAX, Ordering, Outcomes,
    ReceiveRequest, Record, SeekTo, Settled,
};
use super::{Broker, Inner};

/// Bytes of records one receive collects per partition.
const RECEIVE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Visibility a group or request may ask for.
const VISIBILITY_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// Unsettled records a group may hold per partition.
const IN_FLIGHT_LIMIT: u32 = 1_000_000;

impl Broker {
    /// Creates the group, or answers with the existing one when its settings are the same.
    pub async fn create_group(&self, topic: &str, group: &str, settings: GroupSettings) -> Result<GroupInfo> {
        self.inner.check_open()?;
        check_name("group", group)?;
        check_settings(&settings)?;
        let topic = self.inner.topic(topic)?;
        let created = self.inner.create_group(&topic, group, settings.clone()).await?;
        if *created.settings() != settings {
            return Err(BrokerError::GroupExists { topic: topic.name.to_string(), group: group.to_owned() });
        }
        self.inner.describe(&topic, &created)
    }

    /// Changes the settings of a group; what is leased already keeps its deadline.
    pub async fn alter_group(&self, topic: &str, group: &str, settings: GroupSettings) -> Result<GroupInfo> {
        self.inner.check_open()?;
        check_settings(&settings)?;
        let _control = self.inner.control.lock().await;
        let topic = self.inner.topic(topic)?;
        let group = topic.group(group)?;
        let old = group.settings();
        if (settings.ordering == Ordering::Key) != (old.ordering == Ordering::Key) {
            let why = "cannot change to or from `key` while the group exists; delete and create it".to_owned();
            return Err(BrokerError::InvalidSetting { setting: "ordering", why });
        }
        let stored = StoredGroup { settings: settings.clone(), ..group.stored() };
        self.inner.write_events([BrokerEvent::GroupSet(stored)]).await?;
        group.set_settings(settings);
        // With fewer deliveries allowed, what waits to be delivered again may have had its last.
        self.inner.timer.note(self.inner.timer.now(), &group);
        self.inner.mark(StateKey::Group(group.id));
        group.bell.notify(usize::MAX);
        self.inner.describe(&topic, &group)
    }

    pub async fn delete_group(&self, topic: &str, group: &str) -> Result<()> {
        self.inner.check_open()?;
        let _control = self.inner.control.lock().await;
        let topic = self.inner.topic(topic)?;
        let group = topic.group(group)?;
        self.inner.write_events([BrokerEvent::GroupDeleted(group.id)]).await?;
        topic.groups.write().remove(&*group.name);
        group.deleted.store(true, Relaxed);
        group.bell.notify(usize::MAX);
        self.inner.forget_group(&group);
        Ok(())
    }

    pub fn group(&self, topic: &str, group: &str) -> Result<GroupInfo> {
        let topic = self.inner.topic(topic)?;
        let group = topic.group(group)?;
        self.inner.describe(&topic, &group)
    }

    /// Queue groups, of one topic or of all.
    pub fn groups(&self, topic: Option<&str>) -> Result<Vec<GroupInfo>> {
        let topics = match topic {
            Some(name) => vec![self.inner.topic(name)?],
            None => self.inner.topics.read().values().cloned().collect(),
        };
        let mut infos = Vec::new();
        for topic in topics {
            for group in super::groups_of(&topic) {
                infos.push(self.inner.describe(&topic, &group)?);
            }
        }
        Ok(infos)
    }

    /// Leases records. Creates the group with default settings when it does not exist. Empty when `wait` passed.
    ///
    /// Can be given up at any time: a future that is dropped before it is done has leased nothing.
    pub async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivery>> {
        self.inner.check_open()?;
        check_receive(&request)?;
        let topic = self.inner.topic(&request.topic)?;
        let existing = topic.groups.read().get(&request.group).cloned();
        let group = match existing {
            Some(group) => group,
            None => {
                check_name("group", &request.group)?;
                self.inner.create_group(&topic, &request.group, GroupSettings::default()).await?
            }
        };
        let deadline = self.inner.timer.now() + request.wait;
        let member: Arc<str> = request.member.as_str().into();
        loop {
            let (fresh, back, closed) = (group.fresh(), group.bell.listen(), self.inner.closed.listen());
            self.inner.check_open()?;
            // A lease that cannot get into the log would be forgotten with its attempt.
            self.inner.store.check_writable()?;
            if group.is_deleted() {
                return Err(BrokerError::GroupNotFound { topic: request.topic, group: request.group });
            }
            let now = self.inner.timer.now();
            group.saw(&member, now);
            let (deliveries, left_some) = self.inner.lease(&topic, &group, &member, &request).await?;
            if left_some {
                group.wake_next();
            }
            if !deliveries.is_empty() || now >= deadline {
                return Ok(deliveries);
            }
            tokio::select! {
                () = fresh => {}
                () = back => {}
                () = closed => return Err(BrokerError::Closing),
                () = self.inner.timer.sleep_until(deadline) => {}
            }
        }
    }

    pub async fn ack(&self, topic: &str, group: &str, leases: &[LeaseId]) -> Result<Outcomes> {
        let counted = |queue: &mut QueueState, now: Duration, group: &QueueGroup, offset: Offset| {
            group.counters.acked.fetch_add(1, Relaxed);
            if let Some(since) = queue.granted.remove(&offset) {
                group.counters.processing.record(now.saturating_sub(since));
            }
        };
        self.inner.settle(topic, group, leases, Settled::Acked, |queue, items| queue.decide_ack(items), counted).await
    }

    pub async fn extend(&self, topic: &str, group: &str, leases: &[LeaseId], visibility_ms: u64) -> Result<Outcomes> {
        if !(1..=VISIBILITY_MS_MAX).contains(&visibility_ms) {
            return Err(BrokerError::InvalidRequest(format!("visibility_ms must be 1 to {VISIBILITY_MS_MAX}")));
        }
        let decide = |queue: &lease::PartitionQueue, items: &[_]| queue.decide_extend(items, visibility_ms);
        self.inner.settle(topic, group, leases, Settled::Extended { visibility_ms }, decide, |_, _, _, _| {}).await
    }

    /// Gives leases back at once without counting the attempt (graceful stop of a consumer).
    pub async fn release(&self, topic: &str, group: &str, leases: &[LeaseId]) -> Result<Outcomes> {
        let decide = |queue: &lease::PartitionQueue, items: &[_]| queue.decide_release(items);
        let forget = |queue: &mut QueueState, _: Duration, _: &QueueGroup, offset: Offset| {
            queue.granted.remove(&offset);
        };
        self.inner.settle(topic, group, leases, Settled::Deferred { delay_ms: 0 }, decide, forget).await
    }

    pub async fn nack(&self, topic: &str, group: &str, failures: &[Failure]) -> Result<Outcomes> {
        self.inner.check_open()?;
        let topic = self.inner.topic(topic)?;
        let group = topic.group(group)?;
        let mut by_partition: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, failure) in failures.iter().enumerate() {
            let lease = failure.lease.ok_or_else(|| BrokerError::InvalidRequest(format!("failure {index} names no lease")))?;
            if failure.delay_ms.is_some_and(|delay| delay > DELAY_MS_MAX) {
                return Err(BrokerError::InvalidRequest(format!("failure {index}: delay_ms is at most {DELAY_MS_MAX}")));
            }
            by_partition.entry(lease.partition).or_default().push(index);
        }
        let mut outcomes: Outcomes = vec![Err(LeaseError::Unknown); failures.len()];
        for (number, indexes) in by_partition {
            if topic.partition(number).is_ok() {
                self.inner.nack_partition(&topic, &group, number, failures, &indexes, &mut outcomes).await?;
            }
        }
        group.bell.notify(usize::MAX);
        Ok(outcomes)
    }

    /// Moves a queue group; leases are void afterwards. `partition: None` moves all.
    pub async fn seek_group(&self, topic: &str, group: &str, partition: Option<u32>, place: SeekTo) -> Result<()> {
        self.inner.check_open()?;
        let topic = self.inner.topic(topic)?;
        let group = topic.group(group)?;
        let all = 0..u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX);
        let numbers: Vec<u32> = partition.map_or_else(|| all.collect(), |number| vec![number]);
        let goals: Result<Vec<(u32, Offset)>> =
            numbers.into_iter().map(|number| Ok((number, self.inner.resolve(&topic, number, place)?))).collect();
        let mut tickets = Vec::new();
        for (number, to) in goals? {
            let partition = self.inner.group_partition(&topic, &group, number);
            let mut state = partition.state.lock();
            let event = state.queue.decide_seek(to);
            let event = state.commit(group.id, number, event, self.inner.timer.now())?;
            state.granted.clear();
            tickets.push((Arc::clone(&partition), self.inner.submit_events([event])));
        }
        self.inner.settle_tickets(tickets).await?;
        group.bell.notify(usize::MAX);
        Ok(())
    }
}

type Tickets = Vec<(Arc<GroupPartition>, Ticket)>;

impl Inner {
    /// The group, made when it is new.
    pub(super) async fn create_group(&self, topic: &Arc<Topic>, name: &str, settings: GroupSettings) -> Result<Arc<QueueGroup>> {
        let _control = self.control.lock().await;
        if topic.deleted.load(Relaxed) {
            return Err(BrokerError::TopicNotFound { topic: topic.name.to_string() });
        }
        if let Some(found) = topic.groups.read().get(name) {
            return Ok(Arc::clone(found));
        }
        let numbers = 0..u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX);
        let origins: Result<Vec<Offset>> = numbers.map(|number| self.resolve_start(topic, number, settings.start)).collect();
        let origins = origins?;
        let id = {
            let mut ids = self.ids.lock();
            ids.group += 1;
            ids.group
        };
        let stored = StoredGroup { id, topic: topic.id, name: name.to_owned(), created_ms: self.clock.wall().0, settings };
        let group = Arc::new(QueueGroup::new(&stored, &topic.name));
        let mut events = vec![BrokerEvent::GroupSet(stored), BrokerEvent::Ids(*self.ids.lock())];
        for (number, origin) in (0..).zip(&origins) {
            let partition = group.partition(number, |_| *origin);
            events.push(BrokerEvent::Queue(partition.state.lock().stored(id, number, self.timer.now())));
        }
        self.write_events(events).await?;
        self.mark(StateKey::Ids);
        self.mark(StateKey::Group(id));
        topic.partitions().iter().for_each(|partition| group.listen_to(partition));
        topic.groups.write().insert(name.to_owned(), Arc::clone(&group));
        Ok(group)
    }

    /// Where a new group starts; an offset outside what is stored means its nearer end.
    fn resolve_start(&self, topic: &Topic, number: u32, start: SeekTo) -> Result<Offset> {
        let partition = topic.partition(number)?;
        match start {
            SeekTo::Offset(offset) => Ok(Offset(offset.clamp(partition.log_start().0, partition.high_watermark().0))),
            other => self.resolve(topic, number, other),
        }
    }

    /// State on a partition that was added after the group was created starts at its beginning.
    fn group_partition(&self, topic: &Topic, group: &QueueGroup, number: u32) -> Arc<GroupPartition> {
        group.partition(number, |new| topic.partition(new).map_or(Offset(0), |partition| partition.log_start()))
    }

    pub(super) fn forget_group(&self, group: &QueueGroup) {
        self.mark(StateKey::Group(group.id));
        for partition in group.partitions() {
            self.mark(StateKey::Queue(group.id, partition.number));
        }
    }

    fn describe(&self, topic: &Topic, group: &QueueGroup) -> Result<GroupInfo> {
        let now = self.timer.now();
        let mut counts = GroupCounts::default();
        for (stored, number) in topic.partitions().iter().zip(0..) {
            let partition = self.group_partition(topic, group, number);
            let part = partition.state.lock().queue.counts(now, stored.high_watermark(), stored.log_start());
            counts.ready += part.ready + part.parked;
            counts.leased += part.leased;
            counts.deferred += part.deferred;
            counts.acked += part.acked;
            counts.dead += part.dead;
            counts.skipped += part.skipped;
        }
        Ok(GroupInfo {
            topic: topic.name.to_string(),
            group: group.name.to_string(),
            settings: (*group.settings()).clone(),
            created_ms: group.created_ms,
            counts,
            members: group.members(now),
        })
    }

    fn submit_events(&self, events: impl IntoIterator<Item = NewEvent>) -> Ticket {
        self.store.submit(Submission { events: events.into_iter().collect(), urgent: true, ..Submission::default() })
    }

    /// Waits until all of it is durable. What failed to reach the log is remembered, so that the state is written whole next time.
    async fn settle_tickets(&self, tickets: Tickets) -> Result<()> {
        let mut outcome = Ok(());
        for (partition, ticket) in tickets {
            if let Err(error) = ticket.await {
                partition.state.lock().unlogged = true;
                outcome = Err(error.into());
            } else if let Err(error) = self.tell_whole_state(&partition).await {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Writes the state whole when an earlier event of it was lost: an ack on top of a grant that the log does not know would
    /// be forgotten by the next start.
    async fn tell_whole_state(&self, partition: &GroupPartition) -> Result<()> {
        let ticket = {
            let mut state = partition.state.lock();
            if !state.notice_lost() {
                return Ok(());
            }
            state.unlogged = false;
            let stored = state.stored(partition.group, partition.number, self.timer.now());
            self.submit_events([BrokerEvent::Queue(stored).encode()?])
        };
        ticket.await.map(drop).map_err(|error| {
            partition.state.lock().unlogged = true;
            error.into()
        })
    }

    /// One round over the partitions. Says too whether it may have left some for others.
    async fn lease(
        &self,
        topic: &Arc<Topic>,
        group: &Arc<QueueGroup>,
        member: &Arc<str>,
        request: &ReceiveRequest,
    ) -> Result<(Vec<Delivery>, bool)> {
        let settings = group.settings();
        let wish = Wish {
            member,
            lease_settings: QueueGroup::lease_settings(&settings),
            visibility_ms: request.visibility_ms.unwrap_or(settings.visibility_ms),
        };
        let count = topic.partitions().len() as u64;
        let first = group.turn.fetch_add(1, Relaxed);
        let most = request.records_max.min(BATCH_RECORDS_MAX);
        let mut deliveries = Vec::new();
        let mut left_some = false;
        let mut failed = None;
        for step in 0..count {
            if deliveries.len() >= most {
                break;
            }
            let number = u32::try_from((first + step) % count).unwrap_or(0);
            let room = most - deliveries.len();
            match self.lease_partition(topic, group, number, &wish, room, &mut deliveries).await {
                Ok(left) => left_some |= left,
                // Damage to one partition holds up no other, and what is leased already must reach its member; the failure shows
                // again in a later round.
                Err(error) => {
                    tracing::warn!(topic = %topic.name, partition = number, %error, "receiving from a partition failed");
                    failed = Some(error);
                }
            }
        }
        if let Some(error) = failed.filter(|_| deliveries.is_empty()) {
            return Err(error);
        }
        left_some |= deliveries.len() >= most;
        Ok((deliveries, left_some))
    }

    async fn lease_partition(
        &self,
        topic: &Arc<Topic>,
        group: &Arc<QueueGroup>,
        number: u32,
        wish: &Wish<'_>,
        room: usize,
        out: &mut Vec<Delivery>,
    ) -> Result<bool> {
        let partition = self.group_partition(topic, group, number);
        // With leases in hand nothing is waited for: a receive that is given up takes them with it.
        let _turn = match out.is_empty() {
            true => partition.receiving.lock().await,
            false => match partition.receiving.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(false),
            },
        };
        let before = out.len();
        let mut left_some = false;
        // With key ordering a first look may only park records; a second one goes past them.
        while out.len() - before < room {
            let Some(found) = self.plan_and_read(topic, group, &partition, wish, room - (out.len() - before))? else { break };
            left_some = found.left_some;
            if !self.grant(topic, group, &partition, wish, found, out)? {
                break;
            }
        }
        Ok(left_some)
    }

    /// What could be delivered now, read from the log. `None` when there is nothing.
    fn plan_and_read(
        &self,
        topic: &Topic,
        group: &QueueGroup,
        partition: &GroupPartition,
        wish: &Wish<'_>,
        room: usize,
    ) -> Result<Option<Found>> {
        let stored = topic.partition(partition.number)?;
        let (start, end) = (stored.log_start(), stored.high_watermark());
        let (plan, cursor) = {
            let mut state = partition.state.lock();
            if let Some(advance) = state.queue.decide_advance_start(start) {
                let event = state.commit(group.id, partition.number, advance.event, self.timer.now())?;
                state.let_go(self.submit_events([event]));
            }
            (state.queue.plan(&wish.lease_settings, self.timer.now(), room), state.queue.cursor())
        };
        let mut found = Found { records: Vec::new(), absent: Vec::new(), scanned_to: cursor, left_some: false, passed_over: false };
        for offset in plan.redeliver {
            match self.read(topic, partition.number, &stored, offset, 1, 1).map(|mut records| records.pop()) {
                Ok(Some(record)) if record.offset == offset.0 => found.records.push(record),
                Ok(_) | Err(BrokerError::RecordsLost { .. }) => found.absent.push(offset),
                Err(error) => return Err(error),
            }
        }
        if plan.fresh_max > 0 && cursor < end {
            let fresh = match self.read(topic, partition.number, &stored, cursor, plan.fresh_max, RECEIVE_BYTES_MAX) {
                Err(BrokerError::RecordsLost { from, to, .. }) => {
                    tracing::warn!(topic = %topic.name, group = %group.name, partition = partition.number, from, to, "skipping records lost to damage");
                    found.scanned_to = Offset(to);
                    Vec::new()
                }
                fresh => fresh?,
            };
            found.scanned_to = fresh.last().map_or(found.scanned_to, |record| Offset(record.offset + 1));
            found.left_some = found.scanned_to < end;
            let read = fresh.len();
            let before = found.records.len();
            found.records.extend(fresh.into_iter().filter(|record| !dead_letter::is_for_another(record, &group.name)));
            found.passed_over = found.records.len() - before < read;
        }
        let nothing = found.records.is_empty() && found.absent.is_empty() && found.scanned_to == cursor;
        Ok((!nothing).then_some(found))
    }

    /// Leases what was found. True when looking again may find more.
    fn grant(
        &self,
        topic: &Topic,
        group: &Arc<QueueGroup>,
        partition: &GroupPartition,
        wish: &Wish<'_>,
        found: Found,
        out: &mut Vec<Delivery>,
    ) -> Result<bool> {
        let keyed = wish.lease_settings.ordering == lease::Ordering::Key;
        let hash = |record: &Record| record.key.as_ref().filter(|_| keyed).map(|key| KEY_HASHER.with(|hasher| hasher.hash_one(key)));
        let offers: Vec<Offer> =
            found.records.iter().map(|record| Offer { offset: Offset(record.offset), key_hash: hash(record) }).collect();
        let now = self.timer.now();
        let request = LeaseRequest {
            member: wish.member,
            visibility_ms: wish.visibility_ms,
            first_token: LeaseToken(self.tokens(offers.len())),
            offers: &offers,
            scanned_to: found.scanned_to,
            wall: self.clock.wall(),
        };
        let mut state = partition.state.lock();
        if let Some(skip) = state.queue.decide_skip(&found.absent, Offset(0)) {
            let event = state.commit(group.id, partition.number, skip, now)?;
            state.let_go(self.submit_events([event]));
        }
        // Refused when an ack or expiry came between planning and here: plan again.
        let Ok(decision) = state.queue.decide_lease(&wish.lease_settings, &request, now) else { return Ok(true) };
        let Some(event) = decision.event else { return Ok(false) };
        let event = state.commit(group.id, partition.number, event, now)?;
        for grant in &decision.grants {
            state.granted.insert(grant.offset, now);
        }
        state.let_go(self.submit_events([event]));
        drop(state);
        self.timer.note(now + Duration::from_millis(wish.visibility_ms), group);
        let again = decision.grants.len() < offers.len() || offers.is_empty() || found.passed_over;
        deliver(topic, partition.number, wish, decision.grants, found.records, group, out);
        Ok(again)
    }

    /// Acks, extends or releases: decides per partition, writes one event each, and waits for all of them.
    async fn settle(
        &self,
        topic: &str,
        group: &str,
        leases: &[LeaseId],
        done: Settled,
        decide: impl Fn(&lease::PartitionQueue, &[(Offset, LeaseToken)]) -> lease::BatchDecision,
        note: impl Fn(&mut QueueState, Duration, &QueueGroup, Offset),
    ) -> Result<Outcomes> {
        self.check_open()?;
        let topic = self.topic(topic)?;
        let group = topic.group(group)?;
        let now = self.timer.now();
        let mut outcomes: Outcomes = vec![Ok(done); leases.len()];
        let mut by_partition: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, lease) in leases.iter().enumerate() {
            by_partition.entry(lease.partition).or_default().push(index);
        }
        let settings = group.settings();
        let mut frees_others = settings.ordering != Ordering::None || matches!(done, Settled::Deferred { .. });
        let mut tickets = Tickets::new();
        for (number, indexes) in by_partition {
            if topic.partition(number).is_err() {
                indexes.iter().for_each(|index| outcomes[*index] = Err(LeaseError::Unknown));
                continue;
            }
            let items: Vec<_> = indexes.iter().map(|index| (Offset(leases[*index].offset), LeaseToken(leases[*index].token))).collect();
            let partition = self.group_partition(&topic, &group, number);
            let mut state = partition.state.lock();
            let decision = decide(&state.queue, &items);
            for refusal in decision.refused {
                outcomes[indexes[refusal.index]] = refused(refusal.error, done);
            }
            let Some(event) = decision.event else { continue };
            frees_others |= state.queue.is_full(&QueueGroup::lease_settings(&settings));
            let members = holders(&state.queue, &items);
            let event = state.commit(group.id, number, event, now)?;
            for (at, (offset, _)) in items.iter().enumerate() {
                if outcomes[indexes[at]].is_ok() {
                    note(&mut state, now, &group, *offset);
                }
            }
            let ticket = self.submit_events([event]);
            let next = state.queue.next_deadline(now);
            drop(state);
            members.iter().for_each(|member| group.saw(member, now));
            if let Some(at) = next.filter(|_| matches!(done, Settled::Extended { .. })) {
                self.timer.note(at, &group);
            }
            tickets.push((partition, ticket));
        }
        if frees_others {
            // What waited behind these records may be delivered now. Rung before waiting: this call may be given up.
            group.bell.notify(usize::MAX);
        }
        self.settle_tickets(tickets).await?;
        Ok(outcomes)
    }

    async fn nack_partition(
        &self,
        topic: &Arc<Topic>,
        group: &Arc<QueueGroup>,
        number: u32,
        failures: &[Failure],
        indexes: &[usize],
        outcomes: &mut Outcomes,
    ) -> Result<()> {
        let partition = self.group_partition(topic, group, number);
        let mut rest = indexes;
        while !rest.is_empty() {
            let doomed = doomed_by(&partition, &QueueGroup::lease_settings(&group.settings()), failures, rest);
            let offsets: Vec<Offset> = doomed.iter().map(|(_, offset)| *offset).collect();
            let (records, read) = self.records_for_letters(topic, group, number, &offsets).await?;
            // The first whose letter does not fit this commit begins the next.
            let (now, later) = rest.split_at(doomed.get(read).map_or(rest.len(), |(at, _)| *at));
            if let Some(submitted) = self.nack_now(topic, group, &partition, failures, now, &records, outcomes)? {
                self.settle_letters(partition.clone(), submitted).await?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Waits until the dead letters are durable. Those that were refused, by a full disk, are not dead: nothing may be lost.
    pub(super) async fn settle_letters(&self, partition: Arc<GroupPartition>, submitted: Buried) -> Result<()> {
        let outcome = submitted.ticket.await;
        if outcome.is_err() {
            let mut state = partition.state.lock();
            state.unlogged = true;
            state.changed = true;
            state.queue.bring_back(submitted.buried);
        }
        Ok(outcome.map(drop)?)
    }

    /// Decides and hands over under one lock. `records` are those that may become dead letters.
    #[expect(clippy::too_many_arguments, reason = "one step of one caller")]
    fn nack_now(
        &self,
        topic: &Arc<Topic>,
        group: &Arc<QueueGroup>,
        partition: &GroupPartition,
        failures: &[Failure],
        indexes: &[usize],
        records: &HashMap<Offset, Record>,
        outcomes: &mut Outcomes,
    ) -> Result<Option<Buried>> {
        let settings = QueueGroup::lease_settings(&group.settings());
        let now = self.timer.now();
        let (mut events, mut letters, mut buried) = (Vec::new(), Vec::new(), Vec::new());
        let mut state = partition.state.lock();
        for &index in indexes {
            let failure = &failures[index];
            let Some(lease) = failure.lease else { continue };
            let nack = lease::Nack {
                offset: Offset(lease.offset),
                token: LeaseToken(lease.token),
                delay_ms: failure.delay_ms,
                reason: &failure.reason,
                permanent: failure.permanent,
                wall: self.clock.wall(),
                random: RandomState::new().hash_one(index),
            };
            let member = holders(&state.queue, &[(nack.offset, nack.token)]).pop().unwrap_or_default();
            let (event, outcome) = match state.queue.decide_nack(&settings, &nack) {
                Err(error) => {
                    outcomes[index] = refused(error, Settled::DeadLettered);
                    continue;
                }
                Ok(NackDecision::Retry { event, delay_ms }) => {
                    self.timer.note(now + Duration::from_millis(delay_ms), group);
                    (event, Settled::Deferred { delay_ms })
                }
                Ok(NackDecision::Dead { event, letter }) => {
                    buried.extend(state.queue.get(nack.offset).cloned().map(|record| (nack.offset, record)));
                    letters.push(Letter { letter, member: member.clone(), record: records.get(&nack.offset).cloned() });
                    (event, Settled::DeadLettered)
                }
            };
            state.granted.remove(&nack.offset);
            group.saw(&member, now);
            group.counters.nacked.fetch_add(1, Relaxed);
            events.push(state.commit(group.id, partition.number, event, now)?);
            outcomes[index] = Ok(outcome);
        }
        if events.is_empty() {
            return Ok(None);
        }
        let ticket = self.submit_letters(topic, group, partition.number, events, letters)?;
        Ok(Some(Buried { ticket, buried }))
    }

    /// Records that are about to become dead letters, and the topic to take them: as many as fit one commit, and how many of
    /// `offsets` those are. At least one, when there is one.
    pub(super) async fn records_for_letters(
        &self,
        topic: &Arc<Topic>,
        group: &QueueGroup,
        number: u32,
        offsets: &[Offset],
    ) -> Result<(HashMap<Offset, Record>, usize)> {
        let mut records = HashMap::new();
        if offsets.is_empty() {
            return Ok((records, 0));
        }
        self.ensure_dead_letter_topic(topic, group).await?;
        let stored = topic.partition(number)?;
        let mut bytes = 0;
        for (read, &offset) in offsets.iter().enumerate() {
            if offset < stored.log_start() || offset >= stored.high_watermark() {
                continue;
            }
            let found = match self.read(topic, number, &stored, offset, 1, 1) {
                Err(BrokerError::RecordsLost { .. }) => None,
                found => found?.pop(),
            };
            let Some(record) = found.filter(|record| record.offset == offset.0) else { continue };
            bytes += dead_letter::letter_bytes(&record);
            if bytes > self.batch_bytes_max && read > 0 {
                return Ok((records, read));
            }
            records.insert(offset, record);
        }
        Ok((records, offsets.len()))
    }

    /// Lease events and the dead letters they speak of, in one submission. Called under the partition's lock.
    pub(super) fn submit_letters(
        &self,
        topic: &Topic,
        group: &QueueGroup,
        number: u32,
        events: Vec<NewEvent>,
        letters: Vec<Letter>,
    ) -> Result<Ticket> {
        group.counters.dead_lettered.fetch_add(letters.len() as u64, Relaxed);
        let mut submission = match letters.is_empty() {
            true => Submission::default(),
            false => {
                let target = self.topic(&group.dead_letter_topic())?;
                let records = letters.into_iter().map(|letter| letter.to_record(topic, group, number, &target)).collect();
                self.prepare(&smallvec::smallvec![super::produce::Run { topic: target, records }], None)?.0
            }
        };
        submission.events = events.into();
        submission.urgent = true;
        submission.durability = onelog_storage::types::Durability::Sync;
        Ok(self.store.submit(submission))
    }
}

/// Records handed over as dead letters, with what they were before.
pub(super) struct Buried {
    pub ticket: Ticket,
    pub buried: Vec<(Offset, lease::OpenRecord)>,
}

/// Which of the failures at `indexes` end in dead letters: place in `indexes`, and offset.
fn doomed_by(partition: &GroupPartition, settings: &lease::LeaseSettings, failures: &[Failure], indexes: &[usize]) -> Vec<(usize, Offset)> {
    let state = partition.state.lock();
    let dies = |failure: &Failure, lease: LeaseId| {
        // A stale lease changes nothing, so nothing is to be prepared for it either.
        let held = state
            .queue
            .get(Offset(lease.offset))
            .filter(|record| matches!(record.status, lease::Status::Leased { token, .. } if token == LeaseToken(lease.token)));
        held.is_some_and(|record| failure.permanent || (settings.max_deliveries != 0 && record.attempts >= settings.max_deliveries))
    };
    let doomed = indexes.iter().enumerate().filter_map(|(at, index)| {
        let failure = &failures[*index];
        let lease = failure.lease?;
        dies(failure, lease).then_some((at, Offset(lease.offset)))
    });
    doomed.collect()
}

/// What a receiver wants.
struct Wish<'a> {
    member: &'a Arc<str>,
    lease_settings: lease::LeaseSettings,
    visibility_ms: u64,
}

/// Records that could be delivered.
struct Found {
    records: Vec<Record>,
    /// Planned for redelivery, but no longer in the log.
    absent: Vec<Offset>,
    /// Behind the last fresh record looked at.
    scanned_to: Offset,
    /// There are fresh records behind those.
    left_some: bool,
    /// Some of what was read is for other groups: behind it there may be more than what was planned.
    passed_over: bool,
}

thread_local! {
    /// Key hashes are compared within one run and within the state of one group; recovered ones come from the log.
    static KEY_HASHER: FixedHasher = const { FixedHasher };
}

/// Hashes a key the same way in every run: recovered leases must block the same keys.
struct FixedHasher;

impl FixedHasher {
    fn hash_one(&self, key: &[u8]) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in key {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash
    }
}

fn deliver(
    topic: &Topic,
    number: u32,
    wish: &Wish<'_>,
    grants: Vec<Grant>,
    records: Vec<Record>,
    group: &QueueGroup,
    out: &mut Vec<Delivery>,
) {
    debug_assert!(records.iter().all(|record| record.topic == topic.name));
    let mut records = records.into_iter();
    for grant in grants {
        // Grants come in the order of the offers; those in between were parked.
        let Some(record) = records.find(|record| record.offset == grant.offset.0) else { continue };
        group.counters.delivered.fetch_add(1, Relaxed);
        if grant.attempt > 1 {
            group.counters.redelivered.fetch_add(1, Relaxed);
        }
        let lease = LeaseId { partition: number, offset: grant.offset.0, token: grant.token.0 };
        out.push(Delivery { record, lease, attempt: grant.attempt, visibility_ms: wish.visibility_ms });
    }
}

/// Members that hold the given leases.
fn holders(queue: &lease::PartitionQueue, items: &[(Offset, LeaseToken)]) -> Vec<Arc<str>> {
    let mut members: Vec<Arc<str>> = Vec::new();
    for (offset, _) in items {
        if let Some(lease::Status::Leased { member, .. }) = queue.get(*offset).map(|record| &record.status)
            && members.last() != Some(member)
        {
            members.push(Arc::clone(member));
        }
    }
    members
}

fn refused(error: lease::LeaseError, done: Settled) -> Result<Settled, LeaseError> {
    match error {
        lease::LeaseError::Stale { .. } => Err(LeaseError::Stale),
        // Named twice in one request: the first mention did it.
        lease::LeaseError::Repeated { .. } => Ok(done),
        lease::LeaseError::Settled { .. }
        | lease::LeaseError::NotLeased { .. }
        | lease::LeaseError::NotDeliverable { .. }
        | lease::LeaseError::OutOfOrder { .. }
        | lease::LeaseError::TokenReused { .. } => Err(LeaseError::Unknown),
    }
}

fn check_receive(request: &ReceiveRequest) -> Result<()> {
    let refuse = |why: String| Err(BrokerError::InvalidRequest(why));
    if request.records_max == 0 {
        return refuse("ask for at least one record".into());
    }
    if request.member.is_empty() || request.member.len() > NAME_BYTES_MAX {
        return refuse(format!("a member's name has 1 to {NAME_BYTES_MAX} bytes"));
    }
    match request.visibility_ms {
        Some(ms) if !(1..=VISIBILITY_MS_MAX).contains(&ms) => refuse(format!("visibility_ms must be 1 to {VISIBILITY_MS_MAX}")),
        _ => Ok(()),
    }
}

fn check_settings(settings: &GroupSettings) -> Result<()> {
    let refuse = |setting, why: String| Err(BrokerError::InvalidSetting { setting, why });
    let retry = &settings.retry;
    if !(1..=VISIBILITY_MS_MAX).contains(&settings.visibility_ms) {
        return refuse("visibility_ms", format!("must be 1 to {VISIBILITY_MS_MAX}"));
    }
    if retry.initial_ms > DELAY_MS_MAX || retry.cap_ms > DELAY_MS_MAX {
        return refuse("retry", format!("initial_ms and cap_ms are at most {DELAY_MS_MAX}"));
    }
    if !(1.0..=1_000.0).contains(&retry.multiplier) || !(0.0..=1.0).contains(&retry.jitter) {
        return refuse("retry", "multiplier must be 1 to 1000, jitter 0 to 1".into());
    }
    if !(1..=IN_FLIGHT_LIMIT).contains(&settings.in_flight_max) {
        return refuse("in_flight_max", format!("must be 1 to {IN_FLIGHT_LIMIT}"));
    }
    match &settings.dead_letter_topic {
        Some(name) => check_name("topic", name),
        None => Ok(()),
    }
}
