//! Each rule of the leases by example.

use super::*;

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A queue with a hand to move the time and a counter for tokens. All it decides it applies.
#[derive(Clone)]
struct Desk {
    queue: PartitionQueue,
    settings: LeaseSettings,
    now: Duration,
    next_token: u64,
}

impl Desk {
    fn new(settings: LeaseSettings) -> Self {
        Self { queue: PartitionQueue::new(Offset(0)), settings, now: ms(1_000), next_token: 1 }
    }

    fn wall(&self) -> TimestampMs {
        TimestampMs(self.now.as_millis() as i64)
    }

    fn apply(&mut self, event: Option<LeaseEvent>) {
        if let Some(event) = event {
            self.queue.apply(&event, self.now);
        }
    }

    fn offer(&mut self, offers: &[(i64, Option<u64>)], scanned_to: i64) -> Result<LeaseDecision, LeaseError> {
        let offers: Vec<Offer> = offers.iter().map(|(offset, key_hash)| Offer { offset: Offset(*offset), key_hash: *key_hash }).collect();
        let request = LeaseRequest {
            member: &Arc::from("m"),
            visibility_ms: self.settings.visibility_ms,
            first_token: LeaseToken(self.next_token),
            offers: &offers,
            scanned_to: Offset(scanned_to),
            wall: self.wall(),
        };
        let decision = self.queue.decide_lease(&self.settings, &request, self.now)?;
        self.next_token += decision.grants.len() as u64;
        self.apply(decision.event.clone());
        Ok(decision)
    }

    /// Leases these offsets and answers with their tokens.
    fn lease(&mut self, offsets: &[i64]) -> Vec<LeaseToken> {
        let offers: Vec<_> = offsets.iter().map(|offset| (*offset, None)).collect();
        let end = offsets.iter().max().map_or(0, |last| last + 1);
        self.offer(&offers, end).unwrap().grants.iter().map(|grant| grant.token).collect()
    }

    fn ack(&mut self, offset: i64, token: LeaseToken) -> Result<(), LeaseError> {
        let decision = self.queue.decide_ack(&[(Offset(offset), token)]);
        self.apply(decision.event);
        decision.refused.first().map_or(Ok(()), |refusal| Err(refusal.error))
    }

    fn release(&mut self, offset: i64, token: LeaseToken) {
        let decision = self.queue.decide_release(&[(Offset(offset), token)]);
        assert_eq!(decision.refused, []);
        self.apply(decision.event);
    }

    fn nack(&mut self, offset: i64, token: LeaseToken, delay_ms: Option<u64>, permanent: bool) -> Result<NackDecision, LeaseError> {
        let nack = Nack {
            offset: Offset(offset),
            token,
            delay_ms,
            reason: &format!("at {:?}", self.now),
            permanent,
            wall: self.wall(),
            random: 0,
        };
        let decision = self.queue.decide_nack(&self.settings, &nack)?;
        match &decision {
            NackDecision::Retry { event, .. } | NackDecision::Dead { event, .. } => self.queue.apply(event, self.now),
        }
        Ok(decision)
    }

    fn plan(&self, max: usize) -> (Vec<i64>, usize) {
        let plan = self.queue.plan(&self.settings, self.now, max);
        (plan.redeliver.iter().map(|offset| offset.0).collect(), plan.fresh_max)
    }

    fn pass(&mut self, passing_ms: u64) {
        self.now += ms(passing_ms);
    }

    fn attempts(&self, offset: i64) -> Option<u32> {
        self.queue.get(Offset(offset)).map(|record| record.attempts)
    }
}

fn desk() -> Desk {
    Desk::new(LeaseSettings::default())
}

fn ordered(ordering: Ordering) -> Desk {
    Desk::new(LeaseSettings { ordering, ..LeaseSettings::default() })
}

#[test]
fn fresh_records_are_leased_in_offset_order_with_rising_tokens() {
    let mut desk = desk();
    assert_eq!(desk.plan(3), (vec![], 3));
    let grants = desk.offer(&[(0, None), (1, None), (2, None)], 3).unwrap().grants;
    let expected = [(0, 1), (1, 2), (2, 3)].map(|(offset, token)| Grant { offset: Offset(offset), token: LeaseToken(token), attempt: 1 });
    assert_eq!(grants, expected);
    assert_eq!((desk.queue.start(), desk.queue.cursor(), desk.queue.last_token()), (Offset(0), Offset(3), LeaseToken(3)));
    assert_eq!(desk.plan(3), (vec![], 3));
}

#[test]
fn acked_is_final_and_the_start_moves_over_settled_records_only() {
    let mut desk = desk();
    let tokens = desk.lease(&[0, 1, 2]);
    desk.ack(1, tokens[1]).unwrap();
    assert_eq!(desk.queue.start(), Offset(0));
    desk.ack(0, tokens[0]).unwrap();
    assert_eq!(desk.queue.start(), Offset(2));
    assert_eq!(desk.ack(1, tokens[1]), Err(LeaseError::Settled { offset: Offset(1) }));
    desk.ack(2, tokens[2]).unwrap();
    desk.pass(1_000_000);
    assert_eq!((desk.queue.start(), desk.plan(5)), (Offset(3), (vec![], 5)));
}

#[test]
fn one_request_may_be_partly_refused_and_names_each_item() {
    let mut desk = desk();
    let tokens = desk.lease(&[0, 1, 2, 3]);
    desk.ack(0, tokens[0]).unwrap();
    desk.nack(1, tokens[1], Some(5_000), false).unwrap();
    let items = [(3, tokens[3]), (0, tokens[0]), (1, tokens[1]), (2, LeaseToken(99)), (3, tokens[3]), (2, tokens[2]), (7, LeaseToken(1))]
        .map(|(offset, token)| (Offset(offset), token));
    let decision = desk.queue.decide_ack(&items);
    assert_eq!(decision.event, Some(LeaseEvent::Acked { offsets: [Offset(2), Offset(3)].into_iter().collect() }));
    let refused: Vec<_> = decision.refused.iter().map(|refusal| (refusal.index, refusal.error)).collect();
    let expected = [
        (1, LeaseError::Settled { offset: Offset(0) }),
        (2, LeaseError::NotLeased { offset: Offset(1) }),
        (3, LeaseError::Stale { offset: Offset(2) }),
        (4, LeaseError::Repeated { offset: Offset(3) }),
        (6, LeaseError::NotLeased { offset: Offset(7) }),
    ];
    assert_eq!(refused, expected);
}

#[test]
fn an_expired_lease_is_good_until_the_record_is_leased_again() {
    let mut desk = desk();
    let old = desk.lease(&[0, 1]);
    desk.pass(29_999);
    assert_eq!(desk.plan(5), (vec![], 5));
    desk.pass(1);
    assert_eq!(desk.plan(5), (vec![0, 1], 3));
    desk.ack(0, old[0]).unwrap();
    let again = desk.clone().offer(&[(1, None)], 0).unwrap();
    assert!(matches!(again.event, Some(LeaseEvent::Leased(Leased { cursor_after: Offset(2), .. }))), "the cursor never goes back");
    let new = desk.lease(&[1]);
    assert_eq!(desk.attempts(1), Some(2));
    let failures = desk.queue.get(Offset(1)).unwrap().failures.clone().unwrap();
    assert_eq!((&*failures.reason, failures.first), (REASON_EXPIRED, TimestampMs(31_000)));
    assert_eq!(desk.ack(1, old[1]), Err(LeaseError::Stale { offset: Offset(1) }));
    assert!(desk.nack(1, old[1], None, true).is_err());
    desk.ack(1, new[0]).unwrap();
}

#[test]
fn a_failed_record_waits_for_its_backoff_and_dies_after_its_last_attempt() {
    let mut desk = Desk::new(LeaseSettings { max_deliveries: 3, ..LeaseSettings::default() });
    let mut delays = Vec::new();
    for _ in 0..2 {
        let token = desk.lease(&[0])[0];
        let Ok(NackDecision::Retry { delay_ms, .. }) = desk.nack(0, token, None, false) else { panic!("not retried") };
        assert_eq!(desk.nack(0, token, None, false), Err(LeaseError::NotLeased { offset: Offset(0) }));
        desk.pass(delay_ms - 1);
        assert_eq!(desk.plan(1).0, [0; 0]);
        desk.pass(1);
        assert_eq!(desk.plan(1).0, [0]);
        delays.push(delay_ms);
    }
    assert_eq!(delays, [1_000, 2_000]);
    let failures = desk.queue.get(Offset(0)).unwrap().failures.clone().unwrap();
    assert_eq!(*failures, Failures { first: TimestampMs(1_000), last: TimestampMs(2_000), reason: "at 2s".into() });
    let token = desk.lease(&[0])[0];
    let Ok(NackDecision::Dead { letter, .. }) = desk.nack(0, token, Some(1), false) else { panic!("not dead") };
    let (first_failure, last_failure) = (TimestampMs(1_000), TimestampMs(4_000));
    assert_eq!(letter, DeadLetter { offset: Offset(0), attempts: 3, reason: "at 4s".into(), first_failure, last_failure });
    assert_eq!(desk.ack(0, token), Err(LeaseError::Settled { offset: Offset(0) }));
    assert_eq!(desk.queue.counts(desk.now, Offset(1), Offset(0)).dead, 1);
}

#[test]
fn a_permanent_failure_dies_at_once_and_without_a_limit_nothing_else_does() {
    let mut desk = Desk::new(LeaseSettings { max_deliveries: 0, ..LeaseSettings::default() });
    for _ in 0..50 {
        let token = desk.lease(&[0])[0];
        assert!(matches!(desk.nack(0, token, Some(0), false), Ok(NackDecision::Retry { delay_ms: 0, .. })));
    }
    let token = desk.lease(&[0])[0];
    let Ok(NackDecision::Dead { letter, .. }) = desk.nack(0, token, None, true) else { panic!("not dead") };
    assert_eq!(letter.attempts, 51);
}

#[test]
fn a_released_record_is_ready_at_once_and_its_attempt_not_counted() {
    let mut desk = Desk::new(LeaseSettings { max_deliveries: 1, ..LeaseSettings::default() });
    for _ in 0..3 {
        let token = desk.lease(&[0])[0];
        assert_eq!(desk.attempts(0), Some(1));
        desk.release(0, token);
        assert_eq!((desk.plan(1), desk.ack(0, token)), ((vec![0], 0), Err(LeaseError::NotLeased { offset: Offset(0) })));
    }
    let token = desk.lease(&[0])[0];
    desk.pass(30_000);
    assert_eq!(desk.plan(1).0, [0; 0], "its only attempt is used up");
    desk.release(0, token);
    assert_eq!(desk.plan(1).0, [0]);
}

#[test]
fn an_extended_lease_lasts_from_the_extension_on() {
    let mut desk = desk();
    let token = desk.lease(&[0])[0];
    desk.pass(30_000);
    let decision = desk.queue.decide_extend(&[(Offset(0), token)], 500);
    desk.apply(decision.event);
    assert_eq!(desk.plan(1).0, [0; 0]);
    assert_eq!(desk.queue.next_deadline(desk.now), Some(desk.now + ms(500)));
    desk.pass(500);
    assert_eq!(desk.plan(1).0, [0]);
    let stale = desk.queue.decide_extend(&[(Offset(0), LeaseToken(9))], 500);
    assert_eq!((stale.event, stale.refused.len()), (None, 1));
}

#[test]
fn sweeping_takes_only_due_records_without_attempts_left() {
    let mut desk = Desk::new(LeaseSettings { max_deliveries: 2, ..LeaseSettings::default() });
    desk.lease(&[0, 1, 2]);
    desk.pass(30_000);
    let sweep = |desk: &Desk, max| desk.queue.decide_sweep(&desk.settings, desk.now, desk.wall(), max);
    assert_eq!(sweep(&desk, 10), SweepDecision::default());
    desk.lease(&[0, 2]);
    desk.pass(29_999);
    assert_eq!(sweep(&desk, 10), SweepDecision::default());
    desk.pass(1);
    assert_eq!(desk.plan(5).0, [1]);
    let token = desk.queue.open().next().map(|(_, record)| record.status.clone());
    let Some(Status::Leased { token, .. }) = token else { panic!("not leased") };
    let extended = desk.queue.decide_extend(&[(Offset(0), token)], 1);
    desk.apply(extended.event);
    desk.pass(1);
    let decision = sweep(&desk, 10);
    let letters: Vec<_> = decision.letters.iter().map(|letter| (letter.offset.0, letter.attempts, &*letter.reason)).collect();
    assert_eq!(letters, [(0, 2, REASON_EXPIRED), (2, 2, REASON_EXPIRED)]);
    assert_eq!((decision.letters[0].first_failure, decision.letters[0].last_failure), (TimestampMs(31_000), TimestampMs(61_001)));
    assert_eq!(sweep(&desk, 1).letters.len(), 1);
    desk.apply(decision.event);
    assert_eq!((desk.queue.start(), desk.queue.open().count()), (Offset(1), 1));
}

#[test]
fn lowering_the_limit_kills_what_is_deferred_beyond_it() {
    let mut desk = desk();
    let token = desk.lease(&[0])[0];
    desk.nack(0, token, Some(10), false).unwrap();
    desk.settings.max_deliveries = 1;
    desk.pass(10);
    assert_eq!(desk.plan(1).0, [0; 0]);
    let letters = desk.queue.decide_sweep(&desk.settings, desk.now, desk.wall(), 10).letters;
    assert_eq!((&*letters[0].reason, letters[0].last_failure), ("at 1s", TimestampMs(1_000)));
}

#[test]
fn a_burial_that_failed_is_undone() {
    let mut desk = ordered(Ordering::Key);
    let grants = desk.offer(&[(0, Some(7)), (1, Some(7)), (2, Some(8))], 3).unwrap().grants;
    let before = desk.queue.clone();
    let buried: Vec<_> = [0, 2].map(|offset| (Offset(offset), desk.queue.get(Offset(offset)).unwrap().clone())).into();
    for grant in &grants {
        desk.nack(grant.offset.0, grant.token, None, true).unwrap();
    }
    assert_eq!((desk.plan(9).0, desk.queue.counts(desk.now, Offset(3), Offset(0)).dead), (vec![1], 2));

    let mut undone = desk.clone();
    let next = undone.offer(&[(1, None)], 0).unwrap().grants[0];
    undone.queue.bring_back(buried.clone());
    assert_eq!(undone.queue.get(Offset(0)).unwrap().status, Status::Parked, "its key is busy with 1");
    assert_eq!(undone.queue.get(Offset(2)), before.get(Offset(2)), "as it was");
    assert_eq!(undone.queue.counts(undone.now, Offset(3), Offset(0)).dead, 0);
    undone.ack(1, next.token).unwrap();
    assert_eq!(undone.plan(9).0, [0], "0 comes again behind 1");

    // After a seek the offsets mean nothing any more.
    desk.apply(Some(desk.queue.decide_seek(Offset(3))));
    let sought = desk.queue.clone();
    desk.queue.bring_back(buried);
    assert_eq!(desk.queue, sought);
}

#[test]
fn absent_records_are_settled_without_delivery() {
    let mut desk = desk();
    desk.offer(&[(2, None), (4, None)], 7).unwrap();
    let counts = desk.queue.counts(desk.now, Offset(10), Offset(0));
    assert_eq!((counts.skipped, counts.leased, counts.ready), (5, 2, 3));
    assert_eq!(desk.offer(&[], 9).unwrap().event, Some(LeaseEvent::Skipped { offsets: Ranges::default(), cursor_after: Offset(9) }));
    assert_eq!(desk.offer(&[], 9).unwrap().event, None);
    let gone = desk.queue.decide_skip(&[Offset(4), Offset(3), Offset(2), Offset(4)], Offset(0));
    let offsets = [Offset(2), Offset(4)].into_iter().collect();
    assert_eq!(gone, Some(LeaseEvent::Skipped { offsets, cursor_after: Offset(9) }));
    let gone = desk.queue.decide_skip(&[Offset(4)], Offset(0));
    desk.apply(gone);
    let counts = desk.queue.counts(desk.now, Offset(10), Offset(0));
    assert_eq!((counts.skipped, counts.leased, counts.ready, desk.queue.cursor()), (8, 1, 1, Offset(9)));
    assert_eq!(desk.queue.decide_skip(&[Offset(4)], Offset(9)), None);
}

#[test]
fn with_key_order_a_key_has_one_record_in_flight_and_the_rest_follow_in_order() {
    let mut desk = ordered(Ordering::Key);
    let (red, blue) = (Some(1), Some(2));
    let decision = desk.offer(&[(0, red), (1, red), (2, None), (3, blue), (4, red), (5, None)], 6).unwrap();
    let granted: Vec<_> = decision.grants.iter().map(|grant| grant.offset.0).collect();
    assert_eq!((granted, decision.parked), (vec![0, 2, 3, 5], 2));
    assert_eq!(desk.plan(9).0, [0; 0]);
    assert_eq!(desk.offer(&[(1, None)], 0), Err(LeaseError::NotDeliverable { offset: Offset(1) }));

    desk.nack(0, decision.grants[0].token, Some(100), false).unwrap();
    assert_eq!(desk.plan(9).0, [0; 0], "a deferred record keeps its key");
    desk.pass(100);
    let token = desk.lease(&[0])[0];
    assert_eq!(desk.offer(&[(6, red)], 7).unwrap().parked, 1);
    desk.ack(0, token).unwrap();
    assert_eq!(desk.plan(9).0, [1]);

    let token = desk.lease(&[1])[0];
    assert_eq!(desk.attempts(1), Some(1));
    desk.nack(1, token, None, true).unwrap();
    assert_eq!(desk.plan(9).0, [4], "a dead letter lets its key go on");
    assert_eq!(desk.queue.counts(desk.now, Offset(7), Offset(0)).parked, 1);
    let skip = desk.queue.decide_skip(&[Offset(6)], Offset(0));
    desk.apply(skip);
    let token = desk.lease(&[4])[0];
    desk.ack(4, token).unwrap();
    assert_eq!(desk.offer(&[(7, red)], 8).unwrap().grants.len(), 1, "the key is free again");
}

#[test]
fn with_partition_order_one_batch_is_in_flight_and_the_next_begins_at_the_lowest() {
    let mut desk = ordered(Ordering::Partition);
    let tokens = desk.lease(&[0, 1, 2]);
    assert_eq!(desk.plan(9), (vec![], 0));
    assert_eq!(desk.offer(&[(3, None)], 4), Err(LeaseError::NotDeliverable { offset: Offset(3) }));
    desk.nack(0, tokens[0], Some(100), false).unwrap();
    desk.release(1, tokens[1]);
    let mut other = desk.clone();
    other.pass(100);
    assert_eq!(other.plan(9), (vec![], 0), "the last of the batch is still in flight");
    assert_eq!(other.offer(&[(0, None), (1, None)], 0), Err(LeaseError::NotDeliverable { offset: Offset(0) }));
    desk.ack(2, tokens[2]).unwrap();
    assert_eq!(desk.plan(9), (vec![], 0), "the deferred record holds back the others");
    assert_eq!(desk.offer(&[(1, None)], 0), Err(LeaseError::NotDeliverable { offset: Offset(1) }));
    desk.pass(100);
    assert_eq!(desk.plan(1), (vec![0], 0));
    assert_eq!(desk.plan(9), (vec![0, 1], 7));
    assert_eq!(desk.offer(&[(0, None), (3, None)], 4), Err(LeaseError::NotDeliverable { offset: Offset(3) }));
    assert_eq!(desk.offer(&[(0, None), (1, None), (3, None)], 4).unwrap().grants.len(), 3);
}

#[test]
fn limits_hold_back_fresh_records() {
    let settings = LeaseSettings { in_flight_max: 3, open_max: 4, max_deliveries: 0, ..LeaseSettings::default() };
    let mut desk = Desk::new(settings);
    let tokens = desk.lease(&[0, 1]);
    assert_eq!(desk.plan(10), (vec![], 1), "three in flight");
    tokens.iter().zip([0, 1]).for_each(|(token, offset)| drop(desk.nack(offset, *token, Some(60_000), false)));
    assert_eq!(desk.plan(10), (vec![], 2), "four open");
    desk.lease(&[2, 3]);
    desk.pass(30_000);
    assert_eq!(desk.plan(10), (vec![2, 3], 0));
    assert_eq!(desk.plan(1), (vec![2], 0));
    assert_eq!(desk.plan(0), (vec![], 0));
    desk.pass(30_000);
    assert_eq!(desk.plan(10), (vec![0, 1, 2], 0), "lowest first, whatever was due first");
}

#[test]
fn what_plan_does_not_allow_is_refused() {
    let mut desk = desk();
    let token = desk.lease(&[0, 1])[0];
    desk.ack(0, token).unwrap();
    type Offers = [(i64, Option<u64>)];
    let cases: [(&Offers, i64, LeaseError); 5] = [
        (&[(1, None)], 2, LeaseError::NotDeliverable { offset: Offset(1) }),
        (&[(0, None)], 2, LeaseError::NotDeliverable { offset: Offset(0) }),
        (&[(3, None), (2, None)], 4, LeaseError::OutOfOrder { offset: Offset(2) }),
        (&[(3, None), (3, None)], 4, LeaseError::OutOfOrder { offset: Offset(3) }),
        (&[(3, None)], 3, LeaseError::OutOfOrder { offset: Offset(3) }),
    ];
    for (offers, scanned_to, error) in cases {
        assert_eq!(desk.offer(offers, scanned_to), Err(error), "{offers:?}");
    }
    for token in [2, u64::MAX] {
        desk.next_token = token;
        assert_eq!(desk.offer(&[(2, None)], 3), Err(LeaseError::TokenReused { token: LeaseToken(token) }));
    }
}

#[test]
fn next_deadline_never_names_a_moment_that_has_come() {
    let mut desk = desk();
    assert_eq!(desk.queue.next_deadline(desk.now), None);
    let tokens = desk.lease(&[0, 1]);
    desk.nack(0, tokens[0], Some(100), false).unwrap();
    assert_eq!(desk.queue.next_deadline(desk.now), Some(ms(1_100)));
    desk.pass(100);
    assert_eq!(desk.queue.next_deadline(desk.now), Some(ms(31_000)));
    desk.pass(30_000);
    assert_eq!(desk.queue.next_deadline(desk.now), None);
}

#[test]
fn retention_settles_all_below_and_reports_what_was_lost() {
    let mut desk = ordered(Ordering::Key);
    let key = Some(7);
    let grants = desk.offer(&[(0, key), (1, key), (2, key), (3, None)], 4).unwrap().grants;
    assert_eq!(desk.queue.decide_advance_start(Offset(0)), None);
    let decision = desk.queue.decide_advance_start(Offset(2)).unwrap();
    assert_eq!(decision.lost, 2);
    desk.apply(Some(decision.event));
    assert_eq!(desk.plan(9).0, [2], "the key goes on behind what was lost");
    assert_eq!(desk.ack(0, grants[0].token), Err(LeaseError::Settled { offset: Offset(0) }));
    let decision = desk.queue.decide_advance_start(Offset(10)).unwrap();
    assert_eq!(decision.lost, 8);
    desk.apply(Some(decision.event));
    let counts = desk.queue.counts(desk.now, Offset(10), Offset(10));
    assert_eq!((counts.skipped, counts.settled, desk.queue.cursor()), (10, 10, Offset(10)));
    assert_eq!(desk.offer(&[(10, key)], 11).unwrap().grants.len(), 1);
}

#[test]
fn records_removed_before_the_group_noticed_count_as_skipped_not_ready() {
    let counts = PartitionQueue::new(Offset(5)).counts(ms(0), Offset(20), Offset(15));
    assert_eq!((counts.ready, counts.skipped, counts.settled), (5, 10, 10));
    let ahead = PartitionQueue::new(Offset(30)).counts(ms(0), Offset(20), Offset(0));
    assert_eq!(ahead, Counts::default());
}

#[test]
fn seeking_voids_leases_and_counts_but_not_tokens() {
    let mut desk = desk();
    let old = desk.lease(&[0, 1]);
    desk.ack(0, old[0]).unwrap();
    let seek = desk.queue.decide_seek(Offset(0));
    desk.apply(Some(seek));
    assert_eq!(desk.queue.last_token(), old[1]);
    assert_eq!(desk.ack(1, old[1]), Err(LeaseError::NotLeased { offset: Offset(1) }));
    assert_eq!(desk.queue.counts(desk.now, Offset(2), Offset(0)), Counts { ready: 2, ..Counts::default() });
    desk.lease(&[0, 1]);
    assert_eq!(desk.ack(1, old[1]), Err(LeaseError::Stale { offset: Offset(1) }));
    assert_eq!(desk.attempts(1), Some(1));
}

#[test]
fn counts_tell_due_from_waiting() {
    let mut desk = ordered(Ordering::Key);
    let grants = desk.offer(&[(0, Some(1)), (1, Some(1)), (2, None), (3, None), (4, None)], 5).unwrap().grants;
    desk.nack(2, grants[1].token, Some(100), false).unwrap();
    desk.release(3, grants[2].token);
    desk.ack(4, grants[3].token).unwrap();
    let counts = |desk: &Desk| {
        let counts = desk.queue.counts(desk.now, Offset(10), Offset(0));
        (counts.ready, counts.leased, counts.deferred, counts.parked, counts.settled)
    };
    assert_eq!(counts(&desk), (6, 1, 1, 1, 1));
    desk.pass(100);
    assert_eq!(counts(&desk), (7, 1, 0, 1, 1));
    desk.pass(29_900);
    assert_eq!(counts(&desk), (8, 0, 0, 1, 1));
}

#[test]
fn a_snapshot_keeps_what_remains_of_each_deadline() {
    let mut desk = ordered(Ordering::Key);
    let grants = desk.offer(&[(0, Some(1)), (1, Some(1)), (2, None), (3, None), (8, None), (9, None)], 12).unwrap().grants;
    desk.nack(2, grants[1].token, Some(5_000), false).unwrap();
    desk.release(3, grants[2].token);
    desk.ack(9, grants[4].token).unwrap();
    desk.pass(1_500);
    let snapshot = desk.queue.to_snapshot(desk.now);
    let text = serde_json::to_string(&snapshot).unwrap();
    assert!(text.contains(r#""members":["m"]"#), "each member once: {text}");
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(PartitionQueue::from_snapshot(&snapshot, desk.now), desk.queue);

    let restarted = PartitionQueue::from_snapshot(&snapshot, ms(7));
    assert_eq!(restarted.next_deadline(ms(7)), Some(ms(7 + 3_500)));
    let between = desk.queue.to_snapshot(desk.now + Duration::from_nanos(1));
    assert_eq!(PartitionQueue::from_snapshot(&between, ms(0)).next_deadline(ms(0)), Some(ms(3_500)), "rounded up, never early");
}

#[test]
fn events_survive_their_encoding() {
    let offsets: Ranges = [1, 2, 3, 7, 9, 10].map(Offset).into_iter().collect();
    assert_eq!(offsets.ranges().iter().map(|range| (range.start.0, range.len)).collect::<Vec<_>>(), [(1, 3), (7, 1), (9, 2)]);
    let leased = Leased {
        offsets: offsets.clone(),
        first_token: LeaseToken(5),
        member: Arc::from("worker-1"),
        visibility_ms: 30_000,
        wall: TimestampMs(1),
        cursor_after: Offset(12),
        key_hashes: vec![(Offset(9), 77)],
        parked: vec![(Offset(11), 77)],
    };
    let deferred = LeaseEvent::Deferred { offset: Offset(3), delay_ms: 9, reason: "why".into(), wall: TimestampMs(-1) };
    for event in [LeaseEvent::Leased(leased), LeaseEvent::Extended { offsets, visibility_ms: 1 }, deferred] {
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<LeaseEvent>(&text).unwrap(), event);
    }
}

#[test]
fn events_that_do_not_fit_the_state_change_nothing() {
    let everything: Ranges =
        serde_json::from_str(r#"[{"start":-5,"len":4294967295},{"start":9223372036854775807,"len":4294967295}]"#).unwrap();
    let mut queue = PartitionQueue::new(Offset(3));
    let deferred = LeaseEvent::Deferred { offset: Offset(1), delay_ms: u64::MAX, reason: "".into(), wall: TimestampMs(0) };
    let offsets = everything;
    for event in [
        LeaseEvent::Acked { offsets: offsets.clone() },
        LeaseEvent::Released { offsets },
        LeaseEvent::StartAdvanced { to: Offset(1) },
        deferred,
    ] {
        queue.apply(&event, Duration::MAX);
    }
    assert_eq!(queue, PartitionQueue::new(Offset(3)));
}

#[test]
fn backoff_doubles_up_to_its_cap_and_jitter_only_shortens() {
    let backoff = Backoff::default();
    let delays: Vec<u64> = [1, 2, 3, 6, 7, 8, u32::MAX].iter().map(|attempt| backoff.delay_ms(*attempt, 0)).collect();
    assert_eq!(delays, [1_000, 2_000, 4_000, 32_000, 60_000, 60_000, 60_000]);
    assert_eq!(backoff.delay_ms(0, 0), 1_000);
    let shortest = (0..2_000).map(|random| backoff.delay_ms(1, random)).min();
    assert_eq!(shortest, Some(900));
    let wild = Backoff { initial_ms: u64::MAX, multiplier_permille: u32::MAX, cap_ms: u64::MAX, jitter_permille: u32::MAX };
    assert!([1, 2, u32::MAX].iter().all(|attempt| wild.delay_ms(*attempt, 0) == u64::MAX));
    assert_eq!(wild.delay_ms(1, u64::MAX), 0);
    assert_eq!((0..100).filter(|random| Backoff { initial_ms: 9, ..wild }.delay_ms(1, *random) > 9).count(), 0);
    assert_eq!(Backoff { initial_ms: 0, ..wild }.delay_ms(u32::MAX, 3), 0);
}

#[test]
fn long_reasons_are_cut_between_characters() {
    let mut desk = desk();
    let token = desk.lease(&[0])[0];
    let reason = format!("a{}", "\u{e9}".repeat(REASON_BYTES_MAX));
    let nack = Nack { offset: Offset(0), token, delay_ms: None, reason: &reason, permanent: true, wall: TimestampMs(0), random: 0 };
    let Ok(NackDecision::Dead { letter, .. }) = desk.queue.decide_nack(&desk.settings, &nack) else { panic!("not dead") };
    assert_eq!(letter.reason.len(), REASON_BYTES_MAX - 1);
}

#[test]
fn settings_take_their_defaults_and_refuse_what_they_do_not_know() {
    let settings: LeaseSettings = serde_json::from_str(r#"{"ordering":"key","retry":{"cap_ms":5}}"#).unwrap();
    assert_eq!((settings.ordering, settings.retry.cap_ms, settings.retry.initial_ms), (Ordering::Key, 5, 1_000));
    assert_eq!((settings.visibility_ms, settings.max_deliveries, settings.in_flight_max), (30_000, 5, 10_000));
    assert!(serde_json::from_str::<LeaseSettings>(r#"{"visibilty_ms":1}"#).is_err());
}
