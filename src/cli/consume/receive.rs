//! Receiving as a member of a queue group. A record is acknowledged after it was printed and flushed, never before: what
//! the reader of stdout did not get comes again.

use hyper::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cli::failure::is_broken_pipe;
use crate::client::views::{DeliveryList, OutcomeList};
use crate::client::{Client, Path};

use super::print::Printer;
use super::{Consume, Queue};

/// Leases taken at once. Few: all of them come again late if this program is killed.
const LEASES_MAX: u64 = 100;
const WAIT_MS: u64 = 20_000;

#[derive(Deserialize)]
struct LeaseOf {
    lease: String,
}

struct Member<'a> {
    client: &'a Client,
    topic: &'a str,
    group: &'a str,
    name: String,
    queue: &'a Queue,
}

pub async fn run(client: &Client, args: &Consume, group: &str, mut printer: Printer) -> anyhow::Result<()> {
    let name = args.queue.member.clone().unwrap_or_else(|| format!("cli-{}", std::process::id()));
    let member = Member { client, topic: &args.topic, group, name, queue: &args.queue };
    while !printer.is_done() {
        let received = tokio::select! {
            // Between two receives nothing is leased, so leaving here leaves nothing behind.
            _ = tokio::signal::ctrl_c() => return Ok(()),
            received = member.receive(printer.wanted(LEASES_MAX), if args.exit_at_end { 0 } else { WAIT_MS }) => received?,
        };
        if received.is_empty() && args.exit_at_end {
            return Ok(());
        }
        member.hand_over(&received, &mut printer).await?;
    }
    Ok(())
}

impl Member<'_> {
    async fn receive(&self, max: u64, wait_ms: u64) -> anyhow::Result<Vec<Box<RawValue>>> {
        let mut body = json!({"member": self.name, "max": max, "wait_ms": wait_ms});
        if let Some(visibility) = self.queue.visibility {
            body["visibility_ms"] = json!(visibility);
        }
        let answer: DeliveryList = self.client.call(Method::POST, self.path("receive"), &body).await?;
        Ok(answer.deliveries)
    }

    async fn hand_over(&self, received: &[Box<RawValue>], printer: &mut Printer) -> anyhow::Result<()> {
        if received.is_empty() {
            return Ok(());
        }
        let leases: Vec<String> =
            received.iter().map(|delivery| Ok(serde_json::from_str::<LeaseOf>(delivery.get())?.lease)).collect::<anyhow::Result<_>>()?;
        if let Err(error) = printer.print(received.iter().map(|delivery| delivery.get())) {
            if is_broken_pipe(&error) {
                // Nobody saw them for sure: others should have them now, not when the leases run out.
                let _: Value = self.client.call(Method::POST, self.path("release"), &json!({"leases": leases})).await?;
            }
            return Err(error);
        }
        if self.queue.no_ack { Ok(()) } else { self.ack(&leases).await }
    }

    async fn ack(&self, leases: &[String]) -> anyhow::Result<()> {
        let answer = self.client.call::<OutcomeList>(Method::POST, self.path("ack"), &json!({"leases": leases})).await;
        let late = match answer {
            Ok(answer) => answer.outcomes.iter().filter(|outcome| outcome.get("error").is_some()).count(),
            // None of them was still ours.
            Err(refused) if refused.refusal(409).is_some() => leases.len(),
            Err(other) => return Err(other.into()),
        };
        if late > 0 {
            eprintln!("warning: {late} of {} leases ran out before they were acknowledged; their records may come again", leases.len());
        }
        Ok(())
    }

    fn path(&self, verb: &str) -> Path {
        Path::group(self.topic, self.group).then(verb)
    }
}
