//! What the model found, as the short sequences it was shrunk to. Regression tests.

use crate::machine::Machine;
use crate::ops::{Op, Send};

const RECEIVE: Op = Op::Receive { topic: 0, group: 0, most: 1, visibility_ms: None };
const KILL: Op = Op::Kill { without_index: false };

fn one_record() -> Op {
    Op::Produce { topic: 0, records: vec![Send { partition: None, key: 0, once: None, padding: 0 }] }
}

/// Runs the sequence and lets everything come to its end.
fn run(ops: &[Op]) {
    let mut machine = Machine::new(1, 0);
    ops.iter().for_each(|op| machine.step(op));
    machine.drain();
}

/// Nobody waits for a grant, so a crash may lose it; and the clock may have gone back meanwhile, or stood still.
#[test]
fn p8_the_token_of_a_lease_that_a_crash_lost_is_not_given_out_again() {
    run(&[one_record(), RECEIVE, KILL, RECEIVE]);
    run(&[one_record(), RECEIVE, Op::Jump { ms: -86_400_000 }, RECEIVE, KILL, RECEIVE, KILL, RECEIVE]);
}

/// A checkpoint made while the clock was behind knows the time of the log all the same.
#[test]
fn p8_tokens_rise_over_a_checkpoint_of_a_clock_that_went_back() {
    run(&[one_record(), RECEIVE, KILL, Op::Jump { ms: -86_400_000 }, Op::Checkpoint, Op::Reopen, RECEIVE]);
}

#[test]
fn p10_a_stale_lease_that_fails_for_good_makes_no_dead_letter_topic() {
    run(&[one_record(), RECEIVE, Op::Release { pick: 0 }, Op::Nack { pick: 0, delay_ms: None, permanent: true }]);
}

#[test]
fn p11_a_record_that_waits_for_a_delivery_no_longer_allowed_is_buried() {
    run(&[one_record(), RECEIVE, Op::Advance { ms: 5_000 }, Op::AlterGroup { topic: 0, group: 0, max_deliveries: 1 }]);
}

/// A checkpoint knows the lease as over, and the machine dies right after the limit was lowered: no deadline is left to wait for.
#[test]
fn p11_a_record_whose_last_delivery_was_over_before_a_crash_is_buried_after_it() {
    for call in 1..4 {
        for seed in 0..8 {
            let lower = Box::new(Op::AlterGroup { topic: 0, group: 0, max_deliveries: 1 });
            let die = Op::CutDuring { call, seed, op: lower };
            run(&[one_record(), RECEIVE, Op::Advance { ms: 5_000 }, Op::Checkpoint, die]);
        }
    }
}

/// The number of a partition that was added came back with the log and not into the next checkpoint, so the next topic had it too.
#[test]
fn p5_a_partition_added_before_a_crash_is_not_given_to_another_topic() {
    let add = Op::AlterTopic { topic: 0, more: 1, retention_bytes: None, window_ms: None };
    let other = |topic| Op::CreateTopic { topic, partitions: 1, retention_ms: None, retention_bytes: None, window_ms: 0 };
    let into = |partition| Send { partition: Some(partition), key: 0, once: None, padding: 0 };
    let fill = Op::Produce { topic: 0, records: vec![into(0), into(1)] };
    run(&[Op::Checkpoint, add.clone(), KILL, Op::Reopen, fill.clone(), other(1)]);
    // Its topic may be gone by then: the number is used all the same.
    run(&[Op::Checkpoint, add, KILL, fill, Op::DeleteTopic { topic: 0 }, Op::Reopen, other(0), other(1), fill_one()]);
}

fn fill_one() -> Op {
    Op::Produce { topic: 1, records: vec![Send { partition: Some(0), key: 0, once: None, padding: 0 }] }
}

/// Records that were sent again for one group took the places of others in what another group asked for.
#[test]
fn p11_records_for_another_group_take_no_place_in_what_is_received() {
    let redrive = Op::Redrive { topic: 0, group: None, key: None, limit: None, dry: false };
    let three = std::iter::repeat_with(|| Send { partition: None, key: 0, once: None, padding: 0 }).take(3).collect();
    let dead = Op::Nack { pick: 0, delay_ms: None, permanent: true };
    run(&[
        one_record(),
        RECEIVE,
        dead,
        redrive,
        Op::Produce { topic: 0, records: three },
        Op::Receive { topic: 0, group: 1, most: 2, visibility_ms: None },
    ]);
}
