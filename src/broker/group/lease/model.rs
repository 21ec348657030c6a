//! Random operations on a queue and on a naive model of it: every offset with its state, every question answered by looking at all.
//!
//! After each step both must agree, and the promises must hold: one lease at a time under rising tokens (P8), acked is final (P9),
//! stale tokens change nothing (P10), the counts add up and attempts never decrease (P12), nothing before its time (P13), and a
//! snapshot with the events after it equals a full replay (P17).

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::ms;
use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Spot {
    Fresh,
    Leased {
        token: u64,
        deadline: u64,
    },
    Deferred {
        until: u64,
    },
    /// Ready, or parked when an earlier record of its key is unsettled.
    Idle {
        uncounted: bool,
    },
    Acked,
    Dead,
    Skipped,
}

#[derive(Clone, Debug)]
struct Cell {
    spot: Spot,
    attempts: u32,
    key: Option<u64>,
    exists: bool,
}

impl Cell {
    fn unsettled(&self) -> bool {
        !matches!(self.spot, Spot::Acked | Spot::Dead | Spot::Skipped)
    }

    fn exhausted(&self, max: u32) -> bool {
        max != 0 && self.attempts >= max
    }

    fn due(&self, now: u64) -> bool {
        matches!(self.spot, Spot::Leased { deadline: at, .. } | Spot::Deferred { until: at } if at <= now)
    }

    fn in_flight(&self, now: u64) -> bool {
        matches!(self.spot, Spot::Leased { .. }) && !self.due(now)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Produce { records: Vec<(Option<u64>, bool)> },
    Lease { max: usize, visibility_ms: u64, scan_less: usize },
    Ack { picks: Vec<(usize, Whose)> },
    Release { pick: usize, whose: Whose },
    Extend { pick: usize, whose: Whose, visibility_ms: u64 },
    Nack { pick: usize, whose: Whose, delay_ms: Option<u64>, permanent: bool },
    Pass { by_ms: u64 },
    Sweep { max: usize },
    Vanish { pick: usize },
    AdvanceStart { by: usize },
    Seek { pick: usize },
    Checkpoint,
}

/// Whose token is shown.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Right,
    Older,
    Later,
}

fn op() -> impl Strategy<Value = Op> {
    let whose = || prop_oneof![6 => Just(Whose::Right), 1 => Just(Whose::Older), 1 => Just(Whose::Later)];
    let record = (proptest::option::weighted(0.7, 0..3_u64), proptest::bool::weighted(0.8));
    let pick = || 0..1_000_usize;
    prop_oneof![
        4 => vec(record, 1..5).prop_map(|records| Op::Produce { records }),
        8 => (0..6_usize, 1..50_u64, 0..2_usize)
            .prop_map(|(max, visibility_ms, scan_less)| Op::Lease { max, visibility_ms, scan_less }),
        6 => vec((pick(), whose()), 1..4).prop_map(|picks| Op::Ack { picks }),
        2 => (pick(), whose()).prop_map(|(pick, whose)| Op::Release { pick, whose }),
        2 => (pick(), whose(), 0..50_u64).prop_map(|(pick, whose, visibility_ms)| Op::Extend { pick, whose, visibility_ms }),
        5 => (pick(), whose(), proptest::option::of(0..40_u64), proptest::bool::weighted(0.15))
            .prop_map(|(pick, whose, delay_ms, permanent)| Op::Nack { pick, whose, delay_ms, permanent }),
        5 => (0..40_u64).prop_map(|by_ms| Op::Pass { by_ms }),
        2 => (0..4_usize).prop_map(|max| Op::Sweep { max }),
        1 => pick().prop_map(|pick| Op::Vanish { pick }),
        1 => (0..4_usize).prop_map(|by| Op::AdvanceStart { by }),
        1 => pick().prop_map(|pick| Op::Seek { pick }),
        1 => Just(Op::Checkpoint),
    ]
}

fn settings() -> impl Strategy<Value = LeaseSettings> {
    let ordering = prop_oneof![Just(Ordering::None), Just(Ordering::Key), Just(Ordering::Partition)];
    let retry = Backoff { initial_ms: 5, multiplier_permille: 2_000, cap_ms: 30, jitter_permille: 200 };
    (ordering, 0..4_u32, 1..8_u32, 1..12_u32).prop_map(move |(ordering, max_deliveries, in_flight_max, open_max)| LeaseSettings {
        visibility_ms: 30,
        max_deliveries,
        retry,
        ordering,
        in_flight_max,
        open_max,
    })
}

/// The queue under test, the model beside it and the log of what was decided.
struct Run {
    settings: LeaseSettings,
    queue: PartitionQueue,
    now: u64,
    cells: BTreeMap<i64, Cell>,
    origin: i64,
    cursor: i64,
    log_start: i64,
    next_token: u64,
    log: Vec<(LeaseEvent, u64)>,
    checkpoint: (Snapshot, u64, usize),
}

impl Run {
    fn new(settings: LeaseSettings) -> Self {
        let queue = PartitionQueue::new(Offset(0));
        let checkpoint = (queue.to_snapshot(ms(0)), 0, 0);
        let (cells, log) = (BTreeMap::new(), Vec::new());
        Self { settings, queue, now: 0, cells, origin: 0, cursor: 0, log_start: 0, next_token: 1, log, checkpoint }
    }

    fn high_watermark(&self) -> i64 {
        self.cells.len() as i64
    }

    fn at(&self) -> Duration {
        ms(self.now)
    }

    fn wall(&self) -> TimestampMs {
        TimestampMs(self.now as i64)
    }

    fn apply(&mut self, event: Option<LeaseEvent>) {
        if let Some(event) = event {
            self.queue.apply(&event, self.at());
            self.log.push((event, self.now));
        }
    }

    /// What the model remembers of the group: nothing below the origin, nothing before it was looked at.
    fn known(&self) -> impl DoubleEndedIterator<Item = (i64, &Cell)> {
        self.cells.range(self.origin..self.cursor.max(self.origin)).map(|(offset, cell)| (*offset, cell))
    }

    fn open(&self) -> impl DoubleEndedIterator<Item = (i64, &Cell)> {
        self.known().filter(|(_, cell)| cell.unsettled())
    }

    fn is_parked(&self, offset: i64, cell: &Cell) -> bool {
        let behind = |key| self.open().any(|(other, cell)| other < offset && cell.key == Some(key));
        self.settings.ordering == Ordering::Key && cell.key.is_some_and(behind)
    }

    fn is_deliverable(&self, offset: i64, cell: &Cell) -> bool {
        match cell.spot {
            Spot::Idle { .. } => !self.is_parked(offset, cell),
            Spot::Leased { .. } | Spot::Deferred { .. } => cell.due(self.now) && !cell.exhausted(self.settings.max_deliveries),
            _ => false,
        }
    }

    fn expected_plan(&self, max: usize) -> Plan {
        let in_flight = self.open().filter(|(_, cell)| cell.in_flight(self.now)).count();
        let budget = max.min((self.settings.in_flight_max as usize).saturating_sub(in_flight));
        let in_order = self.settings.ordering == Ordering::Partition;
        let deliverable = |(offset, cell): &(i64, &Cell)| self.is_deliverable(*offset, cell);
        let redeliver: Vec<i64> = match in_order {
            true if in_flight > 0 => vec![],
            true => self.open().take_while(deliverable).map(|(offset, _)| offset).take(budget).collect(),
            false => self.open().filter(deliverable).map(|(offset, _)| offset).take(budget).collect(),
        };
        let open = self.open().count();
        let fresh_allowed = !in_order || redeliver.len() == open;
        let room = (self.settings.open_max as usize).saturating_sub(open);
        let fresh_max = if fresh_allowed { room.min(budget - redeliver.len()) } else { 0 };
        Plan { redeliver: redeliver.into_iter().map(Offset).collect(), fresh_max }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Produce { records } => {
                for (key, exists) in records {
                    let cell = Cell { spot: Spot::Fresh, attempts: 0, key: *key, exists: *exists };
                    self.cells.insert(self.high_watermark(), cell);
                }
            }
            Op::Lease { max, visibility_ms, scan_less } => self.lease(*max, *visibility_ms, *scan_less),
            Op::Ack { picks } => self.ack(picks),
            Op::Release { pick, whose } => self.release(*pick, *whose),
            Op::Extend { pick, whose, visibility_ms } => self.extend(*pick, *whose, *visibility_ms),
            Op::Nack { pick, whose, delay_ms, permanent } => self.nack(*pick, *whose, *delay_ms, *permanent),
            Op::Pass { by_ms } => self.now += by_ms,
            Op::Sweep { max } => self.sweep(*max),
            Op::Vanish { pick } => self.vanish(*pick),
            Op::AdvanceStart { by } => self.advance_start(*by),
            Op::Seek { pick } => self.seek(*pick),
            Op::Checkpoint => self.checkpoint = (self.queue.to_snapshot(self.at()), self.now, self.log.len()),
        }
    }

    fn lease(&mut self, max: usize, visibility_ms: u64, scan_less: usize) {
        let plan = self.queue.plan(&self.settings, self.at(), max);
        assert_eq!(plan, self.expected_plan(max));
        let mut offers: Vec<i64> = plan.redeliver.iter().map(|offset| offset.0).collect();
        let from = self.cursor.max(self.log_start);
        let scan_end = (from + plan.fresh_max.saturating_sub(scan_less) as i64).min(self.high_watermark()).max(self.cursor);
        offers.extend((from..scan_end).filter(|offset| self.cells[offset].exists));
        let offer = |offset: &i64| Offer { offset: Offset(*offset), key_hash: self.cells[offset].key };
        let request = LeaseRequest {
            member: &Arc::from("member"),
            visibility_ms,
            first_token: LeaseToken(self.next_token),
            offers: &offers.iter().map(offer).collect::<Vec<_>>(),
            scanned_to: Offset(scan_end),
            wall: self.wall(),
        };
        let decision = self.queue.decide_lease(&self.settings, &request, self.at()).expect("the plan was followed");
        self.apply(decision.event);
        for offset in self.cursor..scan_end {
            let spot = if offers.contains(&offset) { Spot::Idle { uncounted: false } } else { Spot::Skipped };
            self.cells.get_mut(&offset).unwrap().spot = spot;
        }
        self.cursor = scan_end;
        for grant in &decision.grants {
            self.granted(grant, visibility_ms);
        }
        let granted: Vec<i64> = decision.grants.iter().map(|grant| grant.offset.0).collect();
        assert!(offers.iter().filter(|offset| !granted.contains(offset)).all(|offset| self.is_parked(*offset, &self.cells[offset])));
        if self.settings.ordering == Ordering::Partition {
            assert!(granted.is_empty() || self.open().map(|(offset, _)| offset).take(granted.len()).eq(granted), "not a prefix");
        }
    }

    fn granted(&mut self, grant: &Grant, visibility_ms: u64) {
        let offset = grant.offset.0;
        assert_eq!(grant.token, LeaseToken(self.next_token), "tokens rise one by one");
        self.next_token += 1;
        let cell = &self.cells[&offset];
        assert!(self.is_deliverable(offset, cell), "{offset} was delivered in state {:?}", cell.spot);
        let attempts = if cell.spot == (Spot::Idle { uncounted: true }) { cell.attempts } else { cell.attempts + 1 };
        assert_eq!(grant.attempt, attempts);
        let cell = self.cells.get_mut(&offset).unwrap();
        cell.attempts = attempts;
        cell.spot = Spot::Leased { token: grant.token.0, deadline: self.now + visibility_ms };
    }

    /// An offset, mostly one that is leased, the token to show for it and whether it is the right one.
    fn pick(&self, pick: usize, whose: Whose) -> (i64, LeaseToken, bool) {
        let leased: Vec<i64> = self.open().filter(|(_, cell)| matches!(cell.spot, Spot::Leased { .. })).map(|(offset, _)| offset).collect();
        let offset = match leased.get(pick % (leased.len() + 1)) {
            Some(offset) => *offset,
            None => self.origin + (pick as i64 % (self.high_watermark() - self.origin + 2).max(1)),
        };
        let valid = match self.cells.get(&offset).map(|cell| cell.spot) {
            Some(Spot::Leased { token, .. }) if offset < self.cursor => Some(token),
            _ => None,
        };
        let token = match whose {
            Whose::Right => valid.unwrap_or(1),
            Whose::Older => valid.unwrap_or(1).saturating_sub(1),
            Whose::Later => self.next_token,
        };
        (offset, LeaseToken(token), valid == Some(token))
    }

    fn expected_refusal(&self, offset: i64) -> LeaseError {
        let at = Offset(offset);
        match self.cells.get(&offset).map(|cell| cell.spot) {
            _ if offset >= self.cursor => LeaseError::NotLeased { offset: at },
            Some(Spot::Leased { .. }) => LeaseError::Stale { offset: at },
            Some(Spot::Acked | Spot::Dead | Spot::Skipped) => LeaseError::Settled { offset: at },
            _ => LeaseError::NotLeased { offset: at },
        }
    }

    fn ack(&mut self, picks: &[(usize, Whose)]) {
        let mut items = Vec::new();
        let (mut refused, mut accepted) = (Vec::new(), Vec::new());
        for (index, (pick, whose)) in picks.iter().enumerate() {
            let (offset, token, valid) = self.pick(*pick, *whose);
            items.push((Offset(offset), token));
            match valid {
                true if accepted.contains(&offset) => {
                    refused.push(Refusal { index, error: LeaseError::Repeated { offset: Offset(offset) } })
                }
                true => accepted.push(offset),
                false => refused.push(Refusal { index, error: self.expected_refusal(offset) }),
            }
        }
        let decision = self.queue.decide_ack(&items);
        assert_eq!((decision.event.is_some(), decision.refused), (!accepted.is_empty(), refused));
        self.apply(decision.event);
        accepted.iter().for_each(|offset| self.cells.get_mut(offset).unwrap().spot = Spot::Acked);
    }

    fn release(&mut self, pick: usize, whose: Whose) {
        let (offset, token, valid) = self.pick(pick, whose);
        let decision = self.queue.decide_release(&[(Offset(offset), token)]);
        assert_eq!(decision.event.is_some(), valid);
        self.apply(decision.event);
        if valid {
            self.cells.get_mut(&offset).unwrap().spot = Spot::Idle { uncounted: true };
        }
    }

    fn extend(&mut self, pick: usize, whose: Whose, visibility_ms: u64) {
        let (offset, token, valid) = self.pick(pick, whose);
        let decision = self.queue.decide_extend(&[(Offset(offset), token)], visibility_ms);
        assert_eq!(decision.event.is_some(), valid);
        self.apply(decision.event);
        if valid {
            self.cells.get_mut(&offset).unwrap().spot = Spot::Leased { token: token.0, deadline: self.now + visibility_ms };
        }
    }

    fn nack(&mut self, pick: usize, whose: Whose, delay_ms: Option<u64>, permanent: bool) {
        let (offset, token, valid) = self.pick(pick, whose);
        let nack = Nack { offset: Offset(offset), token, delay_ms, reason: "no", permanent, wall: self.wall(), random: pick as u64 };
        let decision = self.queue.decide_nack(&self.settings, &nack);
        let dies = valid && (permanent || self.cells[&offset].exhausted(self.settings.max_deliveries));
        match decision {
            Err(error) => assert!(!valid && error == self.expected_refusal(offset)),
            Ok(NackDecision::Dead { event, letter }) => {
                assert!(dies);
                assert_eq!((letter.offset.0, letter.attempts), (offset, self.cells[&offset].attempts));
                self.apply(Some(event));
                self.cells.get_mut(&offset).unwrap().spot = Spot::Dead;
            }
            Ok(NackDecision::Retry { event, delay_ms: chosen }) => {
                assert!(valid && !dies);
                assert_eq!(chosen, delay_ms.unwrap_or(chosen));
                self.apply(Some(event));
                self.cells.get_mut(&offset).unwrap().spot = Spot::Deferred { until: self.now + chosen };
            }
        }
    }

    fn sweep(&mut self, max: usize) {
        let limit = self.settings.max_deliveries;
        let expected: Vec<i64> =
            self.open().filter(|(_, cell)| cell.due(self.now) && cell.exhausted(limit)).map(|(offset, _)| offset).collect();
        let decision = self.queue.decide_sweep(&self.settings, self.at(), self.wall(), max);
        let swept: Vec<i64> = decision.letters.iter().map(|letter| letter.offset.0).collect();
        assert_eq!(swept.len(), expected.len().min(max));
        assert!(swept.is_sorted() && swept.iter().all(|offset| expected.contains(offset)));
        assert_eq!(decision.event.is_some(), !swept.is_empty());
        self.apply(decision.event);
        swept.iter().for_each(|offset| self.cells.get_mut(offset).unwrap().spot = Spot::Dead);
    }

    /// Compaction takes an open record.
    fn vanish(&mut self, pick: usize) {
        let open: Vec<i64> = self.open().map(|(offset, _)| offset).collect();
        if !open.is_empty() {
            let offset = open[pick % open.len()];
            let event = self.queue.decide_skip(&[Offset(offset)], Offset(0));
            assert!(event.is_some());
            self.apply(event);
            self.cells.get_mut(&offset).unwrap().spot = Spot::Skipped;
        }
    }

    fn advance_start(&mut self, by: usize) {
        let to = (self.log_start + by as i64).min(self.high_watermark());
        self.log_start = to;
        let lost: Vec<i64> =
            self.cells.range(self.origin..to.max(self.origin)).filter(|(_, cell)| cell.unsettled()).map(|(at, _)| *at).collect();
        let decision = self.queue.decide_advance_start(Offset(to));
        assert_eq!(decision.as_ref().map_or(0, |decision| decision.lost), lost.len() as u64);
        self.apply(decision.map(|decision| decision.event));
        lost.iter().for_each(|offset| self.cells.get_mut(offset).unwrap().spot = Spot::Skipped);
        self.cursor = self.cursor.max(to);
    }

    fn seek(&mut self, pick: usize) {
        let span = self.high_watermark() - self.log_start + 1;
        let to = self.log_start + pick as i64 % span;
        self.apply(Some(self.queue.decide_seek(Offset(to))));
        for cell in self.cells.values_mut() {
            cell.spot = Spot::Fresh;
            cell.attempts = 0;
        }
        (self.origin, self.cursor) = (to, to);
    }

    // ---- What must hold after each step ----------------------------------------------------------------------------------

    fn check(&self) {
        self.check_records();
        self.check_counts();
        let deadline = |(_, cell): (i64, &Cell)| match cell.spot {
            Spot::Leased { deadline: at, .. } | Spot::Deferred { until: at } if at > self.now => Some(ms(at)),
            _ => None,
        };
        assert_eq!(self.queue.next_deadline(self.at()), self.open().filter_map(deadline).min());
        assert_eq!(self.queue.cursor(), Offset(self.cursor));
        assert_eq!(self.queue.start().0, self.open().next().map_or(self.cursor, |(offset, _)| offset));
    }

    fn check_records(&self) {
        let ours: Vec<_> = self.queue.open().map(|(offset, record)| (offset.0, record.attempts, record.status.clone())).collect();
        let status = |offset, cell: &Cell| match cell.spot {
            Spot::Leased { token, deadline } => {
                Status::Leased { token: LeaseToken(token), member: Arc::from("member"), deadline: ms(deadline) }
            }
            Spot::Deferred { until } => Status::Deferred { until: ms(until) },
            _ if self.is_parked(offset, cell) => Status::Parked,
            Spot::Idle { uncounted } => Status::Ready { uncounted },
            other => panic!("{offset} is open and {other:?}"),
        };
        let theirs: Vec<_> = self.open().map(|(offset, cell)| (offset, cell.attempts, status(offset, cell))).collect();
        assert_eq!(ours, theirs);
    }

    fn check_counts(&self) {
        let counts = self.queue.counts(self.at(), Offset(self.high_watermark()), Offset(self.log_start));
        let number = |what: &dyn Fn(&Cell) -> bool| self.known().filter(|(_, cell)| what(cell)).count() as u64;
        assert_eq!(counts.acked, number(&|cell| cell.spot == Spot::Acked));
        assert_eq!(counts.dead, number(&|cell| cell.spot == Spot::Dead));
        assert_eq!(counts.skipped, number(&|cell| cell.spot == Spot::Skipped));
        assert_eq!(counts.leased, number(&|cell| cell.in_flight(self.now)));
        assert_eq!(counts.parked, self.open().filter(|(offset, cell)| self.is_parked(*offset, cell)).count() as u64);
        let all = (self.high_watermark() - self.origin) as u64;
        assert_eq!(counts.ready + counts.leased + counts.deferred + counts.parked + counts.acked + counts.dead + counts.skipped, all);
        assert_eq!(counts.settled, counts.acked + counts.dead + counts.skipped);
    }

    fn check_replay(&self) {
        let mut replayed = PartitionQueue::new(Offset(0));
        self.log.iter().for_each(|(event, at)| replayed.apply(event, ms(*at)));
        assert_eq!(replayed, self.queue, "the log tells another story");
        let (snapshot, at, tail) = &self.checkpoint;
        let mut restored = PartitionQueue::from_snapshot(snapshot, ms(*at));
        self.log[*tail..].iter().for_each(|(event, at)| restored.apply(event, ms(*at)));
        // A deadline that had passed is one that passes at the snapshot: compared by what remains, and by what follows from it.
        let (restored, whole) = (restored.to_snapshot(self.at()), self.queue.to_snapshot(self.at()));
        assert_eq!(restored, whole, "snapshot and tail differ from the full replay");
    }

    /// After a restart all durations begin anew: whatever was waiting waits at least as long as was left.
    fn check_restart(&self, restarted_at: u64) {
        let (snapshot, _, tail) = &self.checkpoint;
        let mut restarted = PartitionQueue::from_snapshot(snapshot, ms(restarted_at));
        self.log[*tail..].iter().for_each(|(event, _)| restarted.apply(event, ms(restarted_at)));
        let left = |queue: &PartitionQueue, now: u64| -> Vec<(Offset, u32, Option<Duration>)> {
            let until = |status: &Status| match status {
                Status::Leased { deadline: at, .. } | Status::Deferred { until: at } => Some(at.saturating_sub(ms(now))),
                _ => None,
            };
            queue.open().map(|(offset, record)| (offset, record.attempts, until(&record.status))).collect()
        };
        let (before, after) = (left(&self.queue, self.now), left(&restarted, restarted_at));
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.0, before.1, before.2.is_some()), (after.0, after.1, after.2.is_some()));
            assert!(after.2 >= before.2, "offset {} would be delivered before its time", before.0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_queue_is_the_model(settings in settings(), ops in vec(op(), 1..60), restarted_at in 0..10_000_u64) {
        let mut run = Run::new(settings);
        for op in &ops {
            let attempts: Vec<(Offset, u32)> = run.queue.open().map(|(offset, record)| (offset, record.attempts)).collect();
            run.step(op);
            run.check();
            if !matches!(op, Op::Seek { .. }) {
                let grew = |(offset, before): &(Offset, u32)| run.queue.get(*offset).is_none_or(|record| record.attempts >= *before);
                prop_assert!(attempts.iter().all(grew), "attempts decreased");
            }
        }
        run.check_replay();
        run.check_restart(restarted_at);
    }
}
