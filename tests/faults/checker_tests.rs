//! A checker that never failed proves nothing: one good history, and for each promise what breaks it and nothing else.

use std::time::Duration;

use crate::checker::check;
use crate::history::{
    Counts, Delivered, Event, History, Lease, Moment, Partition, Place, Placed, RULES, Readout, Sent, Settled, Stored, Told, Verb, What,
};

const VISIBILITY: Duration = Duration::from_millis(500);
const DELAY: Duration = Duration::from_millis(200);

fn sent(id: &str, key: &str) -> Sent {
    Sent { id: id.to_owned(), key: key.to_owned(), value: format!("{id} value") }
}

fn stored(id: &str, key: &str, place: Place) -> Stored {
    Stored { place, key: key.to_owned(), value: format!("{id} value") }
}

fn placed(place: Place) -> Placed {
    Placed { place, duplicate: false }
}

fn delivered(record: Stored, token: u64, attempt: u64) -> Told<Vec<Delivered>> {
    Told::Ok(vec![Delivered { lease: Lease { place: record.place, token }, attempt, record }])
}

/// An event that lasts a millisecond; `at` is its place in the order and its time.
fn event(at: u64, what: What) -> Event {
    let moment = |turn: u64| Moment { turn, at: Duration::from_millis(turn / 2) };
    Event { began: moment(2 * at), ended: moment(2 * at + 1), what }
}

fn publish(at: u64, batch: &[Sent], told: Told<Vec<Placed>>) -> Event {
    event(at, What::Publish { batch: batch.to_vec(), told })
}

fn receive(at: u64, record: Stored, token: u64, attempt: u64) -> Event {
    event(at, What::Receive { visibility: VISIBILITY, told: delivered(record, token, attempt) })
}

fn settle(at: u64, verb: Verb, place: Place, token: u64, outcome: Settled) -> Event {
    event(at, What::Settle { verb, leases: vec![Lease { place, token }], told: Told::Ok(vec![outcome]) })
}

/// Places of the four records: `a` and `b` have one key, `c` and `d` came as one batch.
const A: Place = (0, 0);
const B: Place = (0, 1);
const C: Place = (1, 0);
const D: Place = (0, 2);

fn record(id: &str) -> Stored {
    match id {
        "a" => stored("a", "k", A),
        "b" => stored("b", "k", B),
        "c" => stored("c", "l", C),
        _ => stored("d", "m", D),
    }
}

/// `a` is delayed once and acked, `b` follows it, `c` runs out once, `d` is buried; the process is killed in between.
fn good() -> History {
    let events = vec![
        event(0, What::Open),
        publish(1, &[sent("a", "k")], Told::Ok(vec![placed(A)])),
        publish(2, &[sent("b", "k")], Told::Ok(vec![placed(B)])),
        publish(3, &[sent("c", "l"), sent("d", "m")], Told::Nothing),
        publish(4, &[sent("x", "k")], Told::Refused("disk_full".to_owned())),
        receive(10, record("a"), 1, 1),
        settle(11, Verb::Nack(DELAY), A, 1, Settled::Done),
        receive(12, record("c"), 2, 1),
        event(13, What::Read { told: Told::Ok(vec![record("a"), record("b")]) }),
        event(14, What::Counts(Counts { ready: 2, leased: 1, deferred: 1, acked: 0, dead: 0, skipped: 0, all: 4 })),
        publish(15, &[sent("y", "k")], Told::Refused("storage_failed".to_owned())),
        event(16, What::Crash),
        event(17, What::Open),
        publish(
            18,
            &[sent("c", "l"), sent("d", "m")],
            Told::Ok(vec![Placed { place: C, duplicate: true }, Placed { place: D, duplicate: true }]),
        ),
        receive(300, record("a"), 3, 2),
        settle(301, Verb::Ack, A, 3, Settled::Done),
        receive(302, record("b"), 4, 1),
        settle(303, Verb::Ack, B, 4, Settled::Done),
        receive(304, record("d"), 5, 1),
        settle(305, Verb::Bury, D, 5, Settled::DeadLettered),
        receive(600, record("c"), 6, 2),
        settle(601, Verb::Ack, C, 6, Settled::Done),
        settle(602, Verb::Ack, C, 2, Settled::Refused("lease_stale".to_owned())),
    ];
    let partitions = vec![
        Partition { log_start: 0, high_watermark: 3, records: vec![record("a"), record("b"), record("d")] },
        Partition { log_start: 0, high_watermark: 1, records: vec![record("c")] },
    ];
    let counts = Counts { acked: 3, dead: 1, all: 4, ..Counts::default() };
    History { rules: RULES, events, readout: Readout { partitions, counts, dead: [D].into() } }
}

/// Names of the promises that the history breaks.
fn broken(history: &mut History) -> Vec<&'static str> {
    history.events.sort_by_key(|event| event.ended.turn);
    let mut names: Vec<_> = check(history).into_iter().map(|broken| broken.promise).collect();
    names.dedup();
    names
}

#[track_caller]
fn assert_breaks(promises: &[&str], harm: impl FnOnce(&mut History)) {
    let mut history = good();
    harm(&mut history);
    assert_eq!(broken(&mut history), promises, "{:?}", check(&history));
}

/// The event that ended at `at`.
fn at(history: &mut History, at: u64) -> &mut Event {
    history.events.iter_mut().find(|event| event.ended.turn == 2 * at + 1).unwrap()
}

#[test]
fn a_good_history_breaks_nothing() {
    assert_breaks(&[], |_| {});
}

#[test]
fn p1_an_acknowledged_record_that_is_gone_or_changed() {
    assert_breaks(&["P1"], |history| {
        // At the end, so that nothing else shows that it was there.
        history.events.push(publish(700, &[sent("e", "e")], Told::Ok(vec![placed((1, 1))])));
    });
    assert_breaks(&["P1", "P2", "P4"], |history| history.readout.partitions[0].records[1].value.push('!'));
    // Retention may take it.
    assert_breaks(&[], |history| {
        let first = &mut history.readout.partitions[0];
        first.log_start = 1;
        first.records.remove(0);
    });
}

#[test]
fn p2_a_refused_record_is_there_or_one_that_nobody_sent() {
    for (id, key) in [("x", "new"), ("nobody", "new")] {
        assert_breaks(&["P2", "P12"], |history| {
            let partition = &mut history.readout.partitions[1];
            partition.records.push(stored(id, key, (1, 1)));
            partition.high_watermark = 2;
            history.readout.counts.all = 5;
        });
    }
    assert_breaks(&["P2", "P6"], |history| history.events.push(receive(700, stored("x", "k", (1, 1)), 7, 1)));
    // What the store failed at is there or not.
    assert_breaks(&[], |history| {
        let partition = &mut history.readout.partitions[1];
        partition.records.push(stored("y", "k", (1, 1)));
        partition.high_watermark = 2;
        (history.readout.counts.all, history.readout.counts.skipped) = (5, 1);
    });
}

#[test]
fn p3_a_gap_in_the_offsets() {
    assert_breaks(&["P1", "P3", "P6", "P14"], |history| history.readout.partitions[1].records[0].place = (1, 5));
    assert_breaks(&["P3"], |history| history.readout.partitions[1].high_watermark = 2);
}

#[test]
fn p4_a_place_with_two_values() {
    assert_breaks(&["P4"], |history| {
        let other = stored("b", "k", A);
        at(history, 13).what = What::Read { told: Told::Ok(vec![other]) };
    });
}

#[test]
fn p5_an_offset_given_twice() {
    assert_breaks(&["P1", "P5", "P26"], |history| {
        history.events.push(publish(700, &[sent("e", "k")], Told::Ok(vec![placed(B)])));
    });
}

#[test]
fn p6_a_record_that_was_seen_and_is_gone() {
    assert_breaks(&["P6"], |history| {
        let unknown = publish(19, &[sent("e", "e")], Told::Nothing);
        let seen = event(20, What::Read { told: Told::Ok(vec![stored("e", "e", (1, 1))]) });
        history.events.extend([unknown, seen]);
    });
}

#[test]
fn p7_a_record_that_overtakes_its_key() {
    let early = |history: &mut History| {
        // While `a` is leased, and before it is acked.
        let second = at(history, 302);
        (second.began, second.ended) = (event(299, What::Open).began, event(300, What::Open).ended);
    };
    assert_breaks(&["P7"], early);
    assert_breaks(&[], |history| {
        early(history);
        history.rules.ordered_by_key = false;
    });
}

#[test]
fn p8_two_leases_at_one_time_and_tokens_that_do_not_grow() {
    // The first lease of `c` runs out at 512.
    let early = |history: &mut History| {
        history.events.retain(|event| event.began.turn < 1_200);
        history.events.push(receive(500, record("c"), 6, 2));
        history.events.push(settle(601, Verb::Ack, C, 6, Settled::Done));
    };
    assert_breaks(&["P8"], |history| {
        early(history);
        publish_before_crash(history);
    });
    // A crash may forget a lease that nothing acknowledged followed.
    assert_breaks(&[], early);
    // An extension that was promised holds.
    assert_breaks(&["P8"], |history| history.events.push(settle(305, Verb::Extend(VISIBILITY), C, 2, Settled::Done)));
    assert_breaks(&["P8"], |history| at(history, 302).what = receive(302, record("b"), 3, 1).what);
}

/// Something that is acknowledged after `c` was leased and before the crash.
fn publish_before_crash(history: &mut History) {
    at(history, 14).what = What::Publish { batch: vec![sent("e", "e")], told: Told::Ok(vec![placed((1, 1))]) };
    history.readout.partitions[1].records.push(stored("e", "e", (1, 1)));
    history.readout.partitions[1].high_watermark = 2;
    (history.readout.counts.all, history.readout.counts.skipped) = (5, 1);
}

#[test]
fn p9_acked_and_delivered_again_or_dead_or_not_counted() {
    assert_breaks(&["P9"], |history| history.events.push(receive(900, record("a"), 9, 3)));
    assert_breaks(&["P9"], |history| history.readout.dead.extend([A]));
    assert_breaks(&["P9"], |history| (history.readout.counts.acked, history.readout.counts.skipped) = (2, 1));
}

#[test]
fn p10_a_stale_token_that_works() {
    assert_breaks(&["P10"], |history| history.events.push(settle(601, Verb::Release, C, 2, Settled::Done)));
    assert_breaks(&["P10"], |history| history.events.push(settle(900, Verb::Release, C, 6, Settled::Done)));
}

#[test]
fn p11_a_record_that_never_ends_and_a_dead_letter_that_is_not_there() {
    assert_breaks(&["P11"], |history| (history.readout.counts.ready, history.readout.counts.all) = (1, 5));
    assert_breaks(&["P11"], |history| history.readout.dead.clear());
}

#[test]
fn p12_counts_that_do_not_add_up_and_attempts_that_go_back_or_too_far() {
    assert_breaks(&["P12"], |history| history.readout.counts.all = 5);
    assert_breaks(&["P12"], |history| at(history, 14).what = What::Counts(Counts { ready: 1, all: 4, ..Counts::default() }));
    assert_breaks(&["P12"], |history| at(history, 12).what = receive(12, record("c"), 2, 7).what);
    // One more for the crash, not two.
    let third = |history: &mut History, attempt| at(history, 600).what = receive(600, record("c"), 6, attempt).what;
    assert_breaks(&[], |history| {
        history.rules.max_deliveries = 2;
        third(history, 3);
    });
    assert_breaks(&["P12"], |history| {
        history.rules.max_deliveries = 2;
        third(history, 4);
    });
}

#[test]
fn p13_a_delayed_record_that_comes_early() {
    assert_breaks(&["P13"], |history| {
        at(history, 300).what = What::Counts(history.readout.counts);
        history.events.push(receive(200, record("a"), 3, 2));
    });
}

#[test]
fn p14_one_idempotency_key_at_two_places() {
    let twice = |history: &mut History| {
        history.events.push(publish(700, &[sent("a", "k")], Told::Ok(vec![placed(D)])));
    };
    assert_breaks(&["P1", "P5", "P14"], twice);
    assert_breaks(&["P14"], |history| {
        let partition = &mut history.readout.partitions[1];
        partition.records.push(stored("a", "k", (1, 1)));
        partition.high_watermark = 2;
        (history.readout.counts.all, history.readout.counts.skipped) = (5, 1);
    });
}

#[test]
fn p16_half_a_batch() {
    assert_breaks(&["P16"], |history| {
        history.events.push(publish(700, &[sent("a", "k"), sent("e", "e")], Told::Nothing));
    });
}

#[test]
fn p20_acknowledged_after_the_store_failed() {
    assert_breaks(&["P20"], |history| history.events.retain(|event| event.began.turn != 34));
}

#[test]
fn p26_later_and_in_front() {
    assert_breaks(&["P26"], |history| {
        let first = publish(2, &[sent("a", "k")], Told::Ok(vec![placed(A)]));
        let second = publish(1, &[sent("b", "k")], Told::Ok(vec![placed(B)]));
        (at(history, 1).what, at(history, 2).what) = (second.what, first.what);
    });
}
