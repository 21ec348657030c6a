//! A durable queue inside a program: open a directory, publish, let a worker do the work with retries and dead letters.
//!
//! `cargo run --example embedded [DIRECTORY]` - run it twice on one directory: what is done stays done.

use std::time::Duration;

use onelog::{Broker, DeadLetterFilter, GroupSettings, Outcome, Producer, RetrySettings, TopicSettings, Worker};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Mail {
    number: u32,
    to: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let broker = match std::env::args_os().nth(1) {
        Some(directory) => Broker::open(directory).await?,
        None => Broker::ephemeral().await?,
    };
    broker.ensure_topic("mails", TopicSettings::default()).await?;

    // Numbered mails: publishing one again within a day changes nothing.
    let mails = Producer::new(&broker, "mails").id(|mail: &Mail| mail.number.to_string());
    for (number, to) in (1..).zip(["ann@example.com", "bob@example.com", "not an address", "cat@example.com"]) {
        let produced = mails.send(&Mail { number, to: to.into() }).await?;
        println!("mail {number} is stored at offset {}{}", produced.offset, if produced.duplicate { ", as before" } else { "" });
    }

    let retry = RetrySettings { initial_ms: 50, ..RetrySettings::default() };
    let worker = Worker::new(&broker, "mails", "senders").concurrency(2).settings(GroupSettings { retry, ..GroupSettings::default() });
    let handle = worker
        .start_json(|mail: Mail, delivery| async move {
            if !mail.to.contains('@') {
                return Outcome::dead_letter(format!("`{}` is no address", mail.to));
            }
            if mail.number == 2 && delivery.attempt == 1 {
                return Outcome::retry("the mail server is busy");
            }
            println!("mail {} goes to {} at attempt {}", mail.number, mail.to, delivery.attempt);
            Outcome::Done
        })
        .await?;

    while broker.group("mails", "senders")?.counts.acked < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{:?}", handle.stop().await?);
    for letter in broker.dead_letters("mails", &DeadLetterFilter::default(), None, 10).await? {
        println!("dead letter: {} after {} attempt(s)", letter.reason, letter.attempts);
    }
    broker.close().await?;
    Ok(())
}
