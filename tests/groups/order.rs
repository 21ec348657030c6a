//! P7: order per key and per partition, with retries, expiries, dead letters and several members.

use std::collections::HashMap;

use onelog::{Ordering, Settled};

use crate::support::{Dice, RETRY, Rig, VISIBILITY, key, ordered_by, record, value, values};

const KEYS: u64 = 7;
const RECORDS: usize = 140;

/// Records of one key must be settled in the order they were published, whatever fails on the way.
#[tokio::test]
async fn p7_a_key_stays_in_order_under_retries_expiries_and_dead_letters() {
    for seed in 0..8 {
        let rig = Rig::new(3, ordered_by(Ordering::Key)).await;
        let mut dice = Dice(seed);
        let numbered = |number: usize| record(&format!("k{}", number as u64 % KEYS), &format!("{number:04}"));
        rig.produce((0..RECORDS).map(numbered).collect()).await;
        let mut newest: HashMap<String, String> = HashMap::new();
        let (mut lost, mut rounds) = (Vec::new(), 0);
        while rig.counts().acked + rig.counts().dead < RECORDS as u64 {
            rounds += 1;
            assert!(rounds < 10_000, "seed {seed} never ends");
            let member = ["ann", "bob", "cat"][usize::try_from(dice.below(3)).unwrap()];
            let batch = rig.receive(member, usize::try_from(1 + dice.below(9)).unwrap()).await;
            for (at, delivery) in batch.iter().enumerate() {
                assert!(batch[..at].iter().all(|other| key(other) != key(delivery)), "seed {seed}: two of one key at once");
                let settled_before = newest.get(&key(delivery)).is_none_or(|newest| *newest < value(delivery));
                assert!(settled_before, "seed {seed}: {} after {:?}", value(delivery), newest.get(&key(delivery)));
            }
            for delivery in batch {
                let settled = match dice.below(10) {
                    0 | 1 => rig.fail(&delivery, "no").await.unwrap(),
                    2 => rig.fail_for_good(&delivery, "never").await.unwrap(),
                    3 => {
                        lost.push(delivery);
                        continue;
                    }
                    _ => rig.ack(&delivery).await.unwrap(),
                };
                if matches!(settled, Settled::Acked | Settled::DeadLettered) {
                    newest.insert(key(&delivery), value(&delivery));
                }
            }
            rig.advance(if dice.below(4) == 0 { VISIBILITY } else { RETRY });
            // The sweep of exhausted leases runs beside us; what it settles was the newest of its key.
            rig.others_run().await;
        }
    }
}

#[tokio::test]
async fn p7_the_next_of_a_key_waits_for_the_previous_and_other_keys_do_not() {
    let rig = Rig::new(1, ordered_by(Ordering::Key)).await;
    rig.produce(vec![record("a", "a1"), record("a", "a2"), record("b", "b1"), record("a", "a3"), record("b", "b2")]).await;
    let first = rig.receive("ann", 9).await;
    assert_eq!(values(&first), ["a1", "b1"]);
    rig.fail(&first[0], "later").await.unwrap();
    rig.ack(&first[1]).await.unwrap();
    assert_eq!(values(&rig.receive("ann", 9).await), ["b2"], "a2 waits for the retry of a1");
    rig.advance(RETRY);
    let again = rig.receive("bob", 9).await;
    assert_eq!(values(&again), ["a1"]);
    rig.fail_for_good(&again[0], "never").await.unwrap();
    assert_eq!(values(&rig.receive("bob", 9).await), ["a2"], "a dead letter lets its key go on");
}

#[tokio::test]
async fn p7_a_partition_in_order_gives_out_nothing_past_a_failure() {
    let rig = Rig::new(1, ordered_by(Ordering::Partition)).await;
    rig.produce(["1", "2", "3", "4"].map(|value| record(value, value)).into()).await;
    let batch = rig.receive("ann", 3).await;
    assert_eq!(values(&batch), ["1", "2", "3"]);
    assert!(rig.receive("bob", 9).await.is_empty(), "one batch at a time");
    rig.ack(&batch[0]).await.unwrap();
    rig.fail(&batch[1], "later").await.unwrap();
    rig.release(&batch[2]).await.unwrap();
    assert!(rig.receive("bob", 9).await.is_empty(), "3 waits for 2");
    rig.advance(RETRY);
    assert_eq!(values(&rig.receive("bob", 9).await), ["2", "3", "4"]);
}

#[tokio::test]
async fn p7_without_failures_each_partition_is_delivered_in_order() {
    let rig = Rig::new(4, ordered_by(Ordering::None)).await;
    rig.produce((0..400).map(|number| record(&format!("k{number}"), &number.to_string())).collect()).await;
    let mut next: HashMap<u32, i64> = HashMap::new();
    let mut received = 0;
    while received < 400 {
        for delivery in rig.receive(["ann", "bob"][received % 2], 9).await {
            let expected = next.entry(delivery.record.partition).or_default();
            assert_eq!(delivery.record.offset, *expected);
            *expected += 1;
            received += 1;
        }
    }
}
