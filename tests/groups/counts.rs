//! P12: at each step every record is counted once; P11: in the end everything is acked or dead.

use std::collections::HashMap;
use std::time::Duration;

use onelog::{Delivery, Ordering};

use crate::support::{Dice, RETRY, Rig, VISIBILITY, ordered_by, record};

/// What a run of random commands has in hand.
struct Run {
    rig: Rig,
    dice: Dice,
    held: Vec<Delivery>,
    /// Highest attempt seen per record.
    attempts: HashMap<(u32, i64), u32>,
    seed: u64,
}

impl Run {
    async fn step(&mut self) {
        match self.dice.below(12) {
            0 | 1 => {
                let records = 1 + self.dice.below(5);
                let keyed = |number| record(&format!("k{number}"), "x");
                let keys: Vec<u64> = (0..records).map(|_| self.dice.below(6)).collect();
                self.rig.produce(keys.into_iter().map(keyed).collect()).await;
            }
            2..=4 => self.receive().await,
            5 => self.rig.advance(RETRY / 2),
            6 => self.rig.advance(VISIBILITY / 3),
            command => self.settle_one(command).await,
        }
    }

    async fn receive(&mut self) {
        let most = usize::try_from(1 + self.dice.below(5)).unwrap();
        for delivery in self.rig.receive("ann", most).await {
            let before = self.attempts.insert((delivery.record.partition, delivery.record.offset), delivery.attempt);
            assert!(before.is_none_or(|before| before <= delivery.attempt), "seed {}: attempts decreased", self.seed);
            assert!(delivery.attempt <= 3, "seed {}: more attempts than allowed", self.seed);
            self.held.push(delivery);
        }
    }

    async fn settle_one(&mut self, command: u64) {
        if self.held.is_empty() {
            return;
        }
        let at = usize::try_from(self.dice.below(self.held.len() as u64)).unwrap();
        let delivery = self.held.swap_remove(at);
        // Some leases are stale by now: refused, and nothing changes.
        let _ = match command {
            7 | 8 => self.rig.ack(&delivery).await,
            9 => self.rig.fail(&delivery, "no").await,
            10 if self.dice.below(3) == 0 => self.rig.fail_for_good(&delivery, "never").await,
            10 => self.rig.release(&delivery).await,
            _ => {
                let outcome = self.rig.extend(&delivery, VISIBILITY).await;
                self.held.push(delivery);
                outcome
            }
        };
    }

    fn check(&self) {
        let counts = self.rig.counts();
        let sum = counts.ready + counts.leased + counts.deferred + counts.acked + counts.dead + counts.skipped;
        assert_eq!(sum, self.rig.records(), "seed {}: {counts:?}", self.seed);
        assert_eq!(counts.skipped, 0, "seed {}: {counts:?}", self.seed);
    }

    /// Faults off: each record is acked at once.
    async fn drain(&mut self) {
        let mut idle = 0;
        while idle < 5 {
            let batch = self.rig.receive("ann", 100).await;
            idle = if batch.is_empty() { idle + 1 } else { 0 };
            for delivery in batch {
                self.rig.ack(&delivery).await.unwrap();
            }
            self.rig.advance(VISIBILITY);
            self.rig.others_run().await;
            self.check();
        }
    }
}

#[tokio::test]
async fn p11_p12_every_record_is_counted_once_and_ends_acked_or_dead() {
    for (seed, ordering) in (0..).zip([Ordering::None, Ordering::Key, Ordering::Partition].into_iter().cycle().take(12)) {
        let rig = Rig::new(2, ordered_by(ordering)).await;
        let mut run = Run { rig, dice: Dice(seed), held: Vec::new(), attempts: HashMap::new(), seed };
        for _ in 0..300 {
            run.step().await;
            run.check();
        }
        run.drain().await;
        let settled = |rig: &Rig| rig.counts().acked + rig.counts().dead == rig.records();
        onelog::testing::eventually("everything is acked or dead", || settled(&run.rig)).await;
        run.rig.all_is_durable().await;
        let letters = run.rig.all_letters().await;
        assert_eq!(letters.len() as u64, run.rig.counts().dead, "seed {seed}: a dead letter for each dead record");
        let acked = run.rig.counts().acked;
        let killed = run.rig.killed().await;
        assert_eq!(killed.counts().acked, acked, "seed {seed}: the log knows as many");
    }
}

#[tokio::test]
async fn p12_counts_tell_where_each_record_is() {
    let rig = Rig::with(&["a", "b", "c", "d", "e"]).await;
    let batch = rig.receive("ann", 4).await;
    rig.ack(&batch[0]).await.unwrap();
    rig.fail(&batch[1], "later").await.unwrap();
    rig.fail_for_good(&batch[2], "never").await.unwrap();
    let all = |rig: &Rig| {
        let counts = rig.counts();
        [counts.ready, counts.leased, counts.deferred, counts.acked, counts.dead, counts.skipped]
    };
    assert_eq!(all(&rig), [1, 1, 1, 1, 1, 0]);
    rig.advance(RETRY);
    assert_eq!(all(&rig), [2, 1, 0, 1, 1, 0], "a retry that is due is ready");
    rig.advance(VISIBILITY - RETRY);
    assert_eq!(all(&rig), [3, 0, 0, 1, 1, 0], "and so is a lease that ran out");
    assert_eq!(rig.receive("bob", 9).await.len(), 3);
    assert_eq!(all(&rig), [0, 3, 0, 1, 1, 0]);
    rig.advance(Duration::from_millis(1));
}
