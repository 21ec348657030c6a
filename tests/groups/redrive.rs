//! Redrive: all or chosen ones, counted first, edited, purged; sent once however often it is asked; only to the group that failed.

use std::time::Duration;

use onelog::broker::RedriveReport;
use onelog::testing::eventually;
use onelog::{BrokerError, DeadLetterFilter, GroupSettings, Header, NewRecord, RedriveRequest};

use crate::support::{RETRY, Rig, START_MS, TOPIC, VISIBILITY, key, record, settings, value, values};

/// A broker with a dead letter for each (key, header, reason), a second between them.
async fn with_letters(letters: &[(&str, &str, &str)]) -> Rig {
    let rig = Rig::new(2, settings()).await;
    for (key, kind, reason) in letters {
        let headers = vec![Header { name: "kind".into(), value: Some((*kind).to_owned().into()) }];
        rig.produce(vec![NewRecord { headers, ..record(key, &format!("value of {key}")) }]).await;
        let delivery = rig.one("ann").await;
        rig.fail_for_good(&delivery, reason).await.unwrap();
        rig.advance(RETRY);
    }
    rig
}

const LETTERS: [(&str, &str, &str); 4] =
    [("k1", "order", "no amount"), ("k2", "order", "no such customer"), ("k3", "refund", "no amount given"), ("k4", "refund", "timed out")];

fn all() -> RedriveRequest {
    RedriveRequest::default()
}

fn chosen(filter: DeadLetterFilter) -> RedriveRequest {
    RedriveRequest { filter, ..RedriveRequest::default() }
}

const fn report(matched: u64, done: u64, left: u64) -> RedriveReport {
    RedriveReport { matched, done, left }
}

#[tokio::test]
async fn redriven_records_come_back_as_they_were_and_as_new() {
    let rig = with_letters(&LETTERS).await;
    assert_eq!(rig.broker.redrive(TOPIC, all()).await.unwrap(), report(4, 4, 0));
    assert!(rig.all_letters().await.is_empty());
    let mut again = rig.receive("bob", 9).await;
    again.sort_by_key(key);
    assert_eq!(again.iter().map(key).collect::<Vec<_>>(), ["k1", "k2", "k3", "k4"]);
    for (delivery, (key, kind, _)) in again.iter().zip(LETTERS) {
        assert_eq!((value(delivery), delivery.attempt), (format!("value of {key}"), 1));
        assert_eq!(delivery.record.header("kind"), Some(kind.as_bytes()));
        assert!(delivery.record.headers.iter().all(|header| !header.name.starts_with("onelog-dlq-")));
        rig.ack(delivery).await.unwrap();
    }
    let counts = rig.counts();
    assert_eq!((counts.acked, counts.dead, rig.records()), (4, 4, 8));
}

#[tokio::test]
async fn filters_choose_by_key_header_reason_time_and_place() {
    let by = |filter: DeadLetterFilter| async {
        let rig = with_letters(&LETTERS).await;
        let report = rig.broker.redrive(TOPIC, chosen(filter)).await.unwrap();
        let mut keys: Vec<String> = rig.receive("bob", 9).await.iter().map(key).collect();
        keys.sort_unstable();
        assert_eq!((report.matched, report.done, report.left), (keys.len() as u64, keys.len() as u64, 4 - keys.len() as u64));
        keys
    };
    let second = |number: i64| START_MS + number * i64::try_from(RETRY.as_millis()).unwrap();
    let none = DeadLetterFilter::default;
    assert_eq!(by(DeadLetterFilter { key: Some("k2".into()), ..none() }).await, ["k2"]);
    assert_eq!(by(DeadLetterFilter { header: Some(("kind".into(), "refund".into())), ..none() }).await, ["k3", "k4"]);
    assert_eq!(by(DeadLetterFilter { reason: Some("no amount".into()), ..none() }).await, ["k1", "k3"]);
    assert_eq!(by(DeadLetterFilter { from_ms: Some(second(1)), to_ms: Some(second(2)), ..none() }).await, ["k2", "k3"]);
    assert_eq!(by(DeadLetterFilter { group: Some("nobody".into()), ..none() }).await, [""; 0]);
    let both = DeadLetterFilter { header: Some(("kind".into(), "order".into())), reason: Some("no amount".into()), ..none() };
    assert_eq!(by(both).await, ["k1"]);
    let place = with_letters(&LETTERS).await.letters(DeadLetterFilter { key: Some("k4".into()), ..none() }).await.remove(0);
    assert_eq!(by(DeadLetterFilter { at: Some((place.partition, place.offset)), ..none() }).await, ["k4"]);
}

#[tokio::test]
async fn a_dry_run_only_counts() {
    let rig = with_letters(&LETTERS).await;
    let reason = DeadLetterFilter { reason: Some("no amount".into()), ..DeadLetterFilter::default() };
    let dry = RedriveRequest { dry_run: true, ..chosen(reason) };
    assert_eq!(rig.broker.redrive(TOPIC, dry).await.unwrap(), report(2, 0, 4));
    assert_eq!((rig.all_letters().await.len(), rig.records()), (4, 4));
    assert_eq!(rig.broker.purge(TOPIC, &DeadLetterFilter::default(), true).await.unwrap(), report(4, 0, 4));
    assert_eq!(rig.all_letters().await.len(), 4);
}

#[tokio::test]
async fn a_limit_takes_the_first_ones() {
    let rig = with_letters(&LETTERS).await;
    let some = RedriveRequest { limit: Some(3), ..all() };
    assert_eq!(rig.broker.redrive(TOPIC, some).await.unwrap(), report(3, 3, 1));
    assert_eq!(rig.broker.redrive(TOPIC, all()).await.unwrap(), report(1, 1, 0));
    assert_eq!(rig.records(), 8);
}

#[tokio::test]
async fn redriving_twice_sends_once_also_at_the_same_time_and_after_a_kill() {
    let rig = with_letters(&LETTERS).await;
    let (one, two) = tokio::join!(rig.broker.redrive(TOPIC, all()), rig.broker.redrive(TOPIC, all()));
    assert_eq!(one.unwrap().done + two.unwrap().done, 4);
    assert_eq!(rig.broker.redrive(TOPIC, all()).await.unwrap(), report(0, 0, 0));
    assert_eq!(rig.records(), 8);
    let killed = rig.killed().await;
    assert_eq!(killed.broker.redrive(TOPIC, all()).await.unwrap(), report(0, 0, 0));
    assert_eq!(killed.records(), 8);
    let reopened = rig.reopen().await;
    assert_eq!(reopened.broker.redrive(TOPIC, all()).await.unwrap(), report(0, 0, 0));
    assert_eq!(reopened.receive("bob", 9).await.len(), 4);
}

#[tokio::test]
async fn a_redriven_record_is_not_seen_by_another_queue_group() {
    let rig = with_letters(&LETTERS[..1]).await;
    rig.broker.create_group(TOPIC, "other", settings()).await.unwrap();
    let first = rig.receive_as("other", "eve", 9).await;
    assert_eq!(first.len(), 1);
    rig.broker.ack(TOPIC, "other", &[first[0].lease]).await.unwrap();
    rig.broker.redrive(TOPIC, all()).await.unwrap();
    rig.produce(vec![record("k9", "news")]).await;
    assert_eq!(values(&rig.receive_as("other", "eve", 9).await), ["news"]);
    let mut seen = values(&rig.receive("bob", 9).await);
    seen.sort_unstable();
    assert_eq!(seen, ["news", "value of k1"]);
    let counts = rig.broker.group(TOPIC, "other").unwrap().counts;
    assert_eq!((counts.acked, counts.skipped, counts.leased), (1, 1, 1));
}

#[tokio::test]
async fn a_redriven_record_can_die_again_with_a_new_story() {
    let rig = with_letters(&LETTERS[..1]).await;
    rig.broker.redrive(TOPIC, all()).await.unwrap();
    let delivery = rig.one("bob").await;
    rig.fail_for_good(&delivery, "still no amount").await.unwrap();
    let letters = rig.all_letters().await;
    assert_eq!((letters.len(), letters[0].reason.as_str(), letters[0].member.as_str()), (1, "still no amount", "bob"));
    assert_eq!(letters[0].record.headers.len(), 1, "only what was published: {:?}", letters[0].record.headers);
    assert_eq!(rig.broker.redrive(TOPIC, all()).await.unwrap(), report(1, 1, 0));
    assert_eq!(rig.one("cat").await.record.headers.iter().filter(|header| &*header.name == "onelog-redrive-group").count(), 1);
}

#[tokio::test]
async fn an_edited_letter_goes_back_with_what_was_given() {
    let rig = with_letters(&LETTERS[..2]).await;
    let letter = rig.letters(DeadLetterFilter { key: Some("k1".into()), ..DeadLetterFilter::default() }).await.remove(0);
    let at = (letter.partition, letter.offset);
    let fixed = NewRecord { value: Some("with amount".into()), ..NewRecord::default() };
    let produced = rig.broker.redrive_edited(TOPIC, at, fixed.clone()).await.unwrap();
    assert_eq!((&*produced.topic, produced.partition), (TOPIC, letter.origin_partition));
    let delivery = rig.one("bob").await;
    assert_eq!((delivery.record.offset, key(&delivery), value(&delivery)), (produced.offset, "k1".into(), "with amount".into()));
    assert_eq!(delivery.record.header("kind"), Some(&b"order"[..]));
    let again = rig.broker.redrive_edited(TOPIC, at, fixed).await;
    assert!(matches!(again, Err(BrokerError::DeadLetterNotFound { .. })), "{again:?}");
    assert_eq!(rig.all_letters().await.len(), 1);
}

#[tokio::test]
async fn purged_letters_are_gone_and_never_sent() {
    let rig = with_letters(&LETTERS).await;
    let reason = DeadLetterFilter { reason: Some("no amount".into()), ..DeadLetterFilter::default() };
    assert_eq!(rig.broker.purge(TOPIC, &reason, false).await.unwrap(), report(2, 2, 2));
    assert_eq!(rig.broker.redrive(TOPIC, all()).await.unwrap(), report(2, 2, 0));
    let mut keys: Vec<String> = rig.receive("bob", 9).await.iter().map(key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["k2", "k4"]);
    assert!(rig.killed().await.all_letters().await.is_empty());
}

#[tokio::test]
async fn a_redrive_keeps_its_pace() {
    let rig = with_letters(&LETTERS).await;
    let broker = rig.broker.clone();
    let redriving = tokio::spawn(async move { broker.redrive(TOPIC, RedriveRequest { rate: Some(2.0), ..all() }).await.unwrap() });
    // Two records a second: one at once, one more with each half second.
    for sent in 1..=4 {
        eventually("the next one is sent", || rig.records() == 4 + sent).await;
        rig.advance(Duration::from_millis(499));
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.records(), 4 + sent);
        rig.advance(Duration::from_millis(1));
    }
    assert_eq!(redriving.await.unwrap(), report(4, 4, 0));
}

/// The group fixed its handler; every letter of many goes through.
#[tokio::test]
async fn many_letters_of_many_attempts_are_all_redriven() {
    let rig = Rig::new(3, GroupSettings { max_deliveries: 2, ..settings() }).await;
    rig.produce((0..500).map(|number| record(&format!("k{number}"), &number.to_string())).collect()).await;
    for _ in 0..2 {
        for delivery in rig.receive("ann", 500).await {
            rig.fail(&delivery, "no").await.unwrap();
        }
        rig.advance(RETRY);
    }
    assert_eq!((rig.counts().dead, rig.all_letters().await.len()), (500, 500));
    assert_eq!(rig.broker.redrive(TOPIC, all()).await.unwrap(), report(500, 500, 0));
    let again = rig.receive("bob", 1_000).await;
    assert_eq!(again.len(), 500);
    let leases: Vec<_> = again.iter().map(|delivery| delivery.lease).collect();
    assert!(rig.broker.ack(TOPIC, crate::support::GROUP, &leases).await.unwrap().iter().all(Result::is_ok));
    rig.advance(VISIBILITY);
    assert_eq!((rig.counts().acked, rig.counts().ready), (500, 0));
}
