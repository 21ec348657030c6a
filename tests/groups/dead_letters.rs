//! Dead letters: when a record becomes one, what they tell, and how they are found.

use std::time::Duration;

use bytes::Bytes;
use onelog::{DeadLetterFilter, Failure, GroupSettings, Header, NewRecord, Settled};

use crate::support::{GROUP, RETRY, Rig, START_MS, TOPIC, VISIBILITY, record, settings, value};

#[tokio::test]
async fn the_last_failure_tells_the_whole_story() {
    let rig = Rig::new(3, settings()).await;
    let headers = vec![
        Header { name: "trace".into(), value: Some("t-1".into()) },
        Header { name: "empty".into(), value: None },
        Header { name: "trace".into(), value: Some("t-2".into()) },
    ];
    let published = NewRecord {
        partition: Some(2),
        key: Some("customer".into()),
        value: Some(Bytes::from_static(b"\xff\x00 not text")),
        headers: headers.clone(),
        timestamp_ms: Some(1_000),
        idempotency_key: None,
    };
    rig.produce(vec![NewRecord { partition: Some(2), ..record("x", "before") }, published]).await;
    let before = rig.one("ann").await;
    rig.ack(&before).await.unwrap();
    for (member, reason) in [("ann", "first"), ("bob", "second")] {
        let delivery = rig.one(member).await;
        assert!(matches!(rig.fail(&delivery, reason).await, Ok(Settled::Deferred { .. })));
        rig.advance(RETRY);
    }
    let delivery = rig.one("cat").await;
    assert_eq!(rig.fail(&delivery, "third").await, Ok(Settled::DeadLettered));

    let letters = rig.all_letters().await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.origin_topic.as_str(), letter.origin_partition, letter.origin_offset), (TOPIC, 2, 1));
    assert_eq!((letter.group.as_str(), letter.member.as_str(), letter.reason.as_str()), (GROUP, "cat", "third"));
    let retry_ms = i64::try_from(RETRY.as_millis()).unwrap();
    assert_eq!((letter.attempts, letter.first_failure_ms, letter.last_failure_ms), (3, START_MS, START_MS + 2 * retry_ms));
    assert_eq!((letter.record.key.as_deref(), letter.record.timestamp_ms), (Some(&b"customer"[..]), 1_000));
    assert_eq!(letter.record.value.as_deref(), Some(&b"\xff\x00 not text"[..]));
    assert_eq!(letter.record.headers, headers);
    assert_eq!(rig.counts().dead, 1);
}

#[tokio::test]
async fn a_permanent_failure_is_dead_after_one_attempt() {
    let rig = Rig::with(&["a"]).await;
    let delivery = rig.one("ann").await;
    assert_eq!(rig.fail_for_good(&delivery, "purchase without amount").await, Ok(Settled::DeadLettered));
    let letter = rig.all_letters().await.remove(0);
    assert_eq!((letter.attempts, letter.reason.as_str()), (1, "purchase without amount"));
    assert_eq!((letter.first_failure_ms, letter.last_failure_ms), (START_MS, START_MS));
    rig.advance(Duration::from_secs(3600));
    assert!(rig.receive("ann", 1).await.is_empty());
}

#[tokio::test]
async fn dead_letters_of_each_group_are_told_apart_and_can_have_their_own_topic() {
    let rig = Rig::with(&["a"]).await;
    let own = GroupSettings { dead_letter_topic: Some("graveyard".into()), ..settings() };
    rig.broker.create_group(TOPIC, "other", own).await.unwrap();
    let delivery = rig.one("ann").await;
    rig.fail_for_good(&delivery, "crew says no").await.unwrap();
    let delivery = rig.receive_as("other", "bob", 1).await.remove(0);
    let failure = onelog::Failure { lease: Some(delivery.lease), reason: "other says no".into(), permanent: true, delay_ms: None };
    rig.broker.nack(TOPIC, "other", &[failure]).await.unwrap()[0].unwrap();
    assert_eq!(rig.broker.topic("graveyard").unwrap().partitions[0].high_watermark, 1);
    assert_eq!(rig.all_letters().await.len(), 2);
    let of = |group: &str| DeadLetterFilter { group: Some(group.into()), ..DeadLetterFilter::default() };
    let (crew, other) = (rig.letters(of(GROUP)).await, rig.letters(of("other")).await);
    assert_eq!((crew.len(), crew[0].reason.as_str()), (1, "crew says no"));
    assert_eq!((other.len(), other[0].reason.as_str()), (1, "other says no"));
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages() {
    let rig = Rig::with(&["a", "b", "c", "d", "e"]).await;
    for delivery in rig.receive("ann", 5).await {
        rig.fail_for_good(&delivery, "no").await.unwrap();
    }
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let page = rig.broker.dead_letters(TOPIC, &DeadLetterFilter::default(), after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.partition, last.offset));
        pages.push(
            page.iter().map(|letter| String::from_utf8_lossy(letter.record.value.as_deref().unwrap()).into_owned()).collect::<Vec<_>>(),
        );
    }
    assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
}

#[tokio::test]
async fn a_dead_letter_holds_up_nobody() {
    let rig = Rig::with(&["bad", "good"]).await;
    let batch = rig.receive("ann", 2).await;
    rig.fail_for_good(&batch[0], "no").await.unwrap();
    rig.ack(&batch[1]).await.unwrap();
    rig.produce(vec![record("k", "next")]).await;
    assert_eq!(value(&rig.one("ann").await), "next");
}

#[tokio::test]
async fn a_dead_letter_topic_is_a_topic_like_any_other() {
    let rig = Rig::with(&["a"]).await;
    let delivery = rig.one("ann").await;
    rig.fail_for_good(&delivery, "no").await.unwrap();
    let request = onelog::FetchRequest {
        topic: format!("{TOPIC}.dlq"),
        partition: 0,
        offset: 0,
        records_max: 10,
        bytes_max: 1 << 20,
        wait: Duration::ZERO,
    };
    let records = rig.broker.fetch(request).await.unwrap().records;
    assert_eq!((records.len(), records[0].value.as_deref()), (1, Some(&b"a"[..])));
    assert_eq!(records[0].header("onelog-dlq-reason"), Some(&b"no"[..]));
}

/// More bytes of dead letters than fit one commit were refused whole, and the records counted as dead all the same.
#[tokio::test]
async fn more_than_one_commit_of_dead_letters_is_written_in_several() {
    let large = "x".repeat(900 * 1024);
    for permanent in [true, false] {
        let rig = Rig::new(1, GroupSettings { max_deliveries: 1, ..settings() }).await;
        for _ in 0..10 {
            rig.produce(vec![record("k", &large)]).await;
        }
        let mut batch = Vec::new();
        while batch.len() < 10 {
            batch.extend(rig.receive("ann", 10).await);
        }
        if permanent {
            let of = |delivery: &onelog::Delivery| Failure { lease: Some(delivery.lease), permanent, ..Failure::default() };
            let failures: Vec<Failure> = batch.iter().map(of).collect();
            let outcomes = rig.broker.nack(TOPIC, GROUP, &failures).await.unwrap();
            assert_eq!(outcomes, [Ok(Settled::DeadLettered); 10]);
        } else {
            rig.advance(VISIBILITY);
        }
        let letters = rig.until_dead(10).await;
        assert_eq!(letters.len(), 10);
        assert!(letters.iter().all(|letter| letter.record.value.as_ref().is_some_and(|value| value.len() == large.len())));
        let report = rig.broker.redrive(TOPIC, onelog::RedriveRequest::default()).await.unwrap();
        assert_eq!((report.done, report.left, rig.records()), (10, 0, 20));
    }
}
