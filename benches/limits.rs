//! Durable publishes in-process beside the machine's limit, in the same run: a bare group-commit loop with as many waiting
//! tasks, and bare write + fdatasync for batches. Rounds alternate, medians are compared, ratios are what counts.
//!
//! `cargo bench --bench limits [-- --seconds 0.5 --rounds 7 --dir DIR --only 1024|batches]`

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use onelog::broker::{NewRecord, TopicSettings};
use onelog::{Broker, BrokerConfig};
use tokio::sync::{mpsc, oneshot};

const VALUE_BYTES: usize = 256;
const FILE_BYTES: u64 = 256 * 1024 * 1024;
/// What a run of the default length writes at most.
const AHEAD_BYTES: u64 = 384 * 1024 * 1024;

struct Arguments {
    seconds: f64,
    rounds: usize,
    dir: PathBuf,
    only: Option<String>,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments { seconds: 0.5, rounds: 7, dir: std::env::temp_dir(), only: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => parsed.seconds = words.next().and_then(|value| value.parse().ok()).expect("--seconds NUMBER"),
            "--rounds" => parsed.rounds = words.next().and_then(|value| value.parse().ok()).expect("--rounds NUMBER"),
            "--dir" => parsed.dir = words.next().expect("--dir DIR").into(),
            "--only" => parsed.only = words.next(),
            _ => {}
        }
    }
    parsed
}

/// A file whose blocks were all written before.
fn written_file(path: &Path) -> File {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path).expect("bench file");
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at).expect("zeros");
    }
    file.sync_data().expect("sync");
    file
}

/// Bytes to write and whom to tell.
type Waiting = Vec<(Bytes, oneshot::Sender<()>)>;

/// The least a group commit can be: collect what waits, one write, one sync, answer all.
struct BareLoop {
    waiting: Arc<parking_lot::Mutex<Waiting>>,
    ready: Arc<parking_lot::Condvar>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl BareLoop {
    fn start(file: File) -> Self {
        let waiting = Arc::new(parking_lot::Mutex::new(Waiting::new()));
        let (ready, stop) = (Arc::new(parking_lot::Condvar::new()), Arc::new(AtomicBool::new(false)));
        let (queue, woken, ended) = (Arc::clone(&waiting), Arc::clone(&ready), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut at, mut batch, mut buffer) = (0, Vec::new(), Vec::new());
            while !ended.load(Relaxed) {
                {
                    let mut queue = queue.lock();
                    if queue.is_empty() {
                        woken.wait_for(&mut queue, Duration::from_millis(50));
                    }
                    std::mem::swap(&mut *queue, &mut batch);
                }
                if batch.is_empty() {
                    continue;
                }
                buffer.clear();
                for (record, _) in &batch {
                    buffer.extend_from_slice(record);
                }
                buffer.resize(buffer.len().next_multiple_of(512), 0);
                if at + buffer.len() as u64 > FILE_BYTES {
                    at = 0;
                }
                file.write_all_at(&buffer, at).expect("write");
                file.sync_data().expect("sync");
                at += buffer.len() as u64;
                for (_, reply) in batch.drain(..) {
                    let _ = reply.send(());
                }
            }
        });
        Self { waiting, ready, stop, thread: Some(thread) }
    }

    async fn publish(&self, record: Bytes) {
        let (reply, done) = oneshot::channel();
        self.waiting.lock().push((record, reply));
        self.ready.notify_one();
        done.await.expect("answered");
    }
}

/// The group commit one finds in services: a bounded channel, a writer thread that takes what is there, a reply for each.
#[derive(Clone)]
struct ChannelLoop {
    sender: mpsc::Sender<(Bytes, oneshot::Sender<()>)>,
}

impl ChannelLoop {
    fn start(file: File) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>(4_096);
        std::thread::spawn(move || {
            let (mut at, mut buffer, mut replies) = (0, Vec::new(), Vec::new());
            while let Some((record, reply)) = receiver.blocking_recv() {
                buffer.clear();
                buffer.extend_from_slice(&record);
                replies.push(reply);
                while let Ok((record, reply)) = receiver.try_recv() {
                    buffer.extend_from_slice(&record);
                    replies.push(reply);
                }
                if at + buffer.len() as u64 > FILE_BYTES {
                    at = 0;
                }
                file.write_all_at(&buffer, at).expect("write");
                file.sync_data().expect("sync");
                at += buffer.len() as u64;
                for reply in replies.drain(..) {
                    let _ = reply.send(());
                }
            }
        });
        Self { sender }
    }

    async fn publish(&self, record: Bytes) {
        let (reply, done) = oneshot::channel();
        self.sender.send((record, reply)).await.expect("the writer runs");
        done.await.expect("answered");
    }
}

impl Drop for BareLoop {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.ready.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `tasks` loops of `publish` for `seconds`; answers with publishes per second.
async fn rate<F, P>(tasks: usize, seconds: f64, publish: P) -> f64
where
    F: Future<Output = ()> + Send,
    P: Fn() -> F + Clone + Send + Sync + 'static,
{
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let (stop, done, publish) = (Arc::clone(&stop), Arc::clone(&done), publish.clone());
        running.spawn(async move {
            while !stop.load(Relaxed) {
                publish().await;
                done.fetch_add(1, Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    stop.store(true, Relaxed);
    while running.join_next().await.is_some() {}
    done.load(Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// A broker whose log, as the bare loop's file, has blocks that were written before: in its steady state it takes its segments
/// from those that retention gave back.
async fn broker(dir: &Path) -> Broker {
    let config = BrokerConfig { ahead_bytes: AHEAD_BYTES, ..BrokerConfig::default() };
    let broker = Broker::open_with(dir, config).await.expect("broker");
    broker.create_topic("bench", TopicSettings::default()).await.expect("topic");
    while broker.storage_stats().ahead_bytes < AHEAD_BYTES {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broker
}

fn record() -> NewRecord {
    NewRecord { value: Some(Bytes::from_static(&[b'x'; VALUE_BYTES])), ..NewRecord::default() }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn waiting_tasks(arguments: &Arguments, tasks: usize) {
    let (mut bare, mut channel, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        let place = tempfile::tempdir_in(&arguments.dir).expect("directory");
        let limit = Arc::new(BareLoop::start(written_file(&place.path().join("bare"))));
        bare.push(
            rate(tasks, arguments.seconds, move || {
                let limit = Arc::clone(&limit);
                async move { limit.publish(Bytes::from_static(&[b'x'; VALUE_BYTES])).await }
            })
            .await,
        );
        let usual = ChannelLoop::start(written_file(&place.path().join("channel")));
        channel.push(
            rate(tasks, arguments.seconds, move || {
                let usual = usual.clone();
                async move { usual.publish(Bytes::from_static(&[b'x'; VALUE_BYTES])).await }
            })
            .await,
        );
        let broker = broker(&place.path().join(format!("data{round}"))).await;
        let publisher = broker.clone();
        ours.push(
            rate(tasks, arguments.seconds, move || {
                let publisher = publisher.clone();
                async move { drop(publisher.produce("bench", vec![record()]).await.expect("published")) }
            })
            .await,
        );
        let stats = broker.storage_stats();
        println!(
            "  round {round}: bare {:.0}/s, by a channel {:.0}/s, onelog {:.0}/s, {} records in {} syncs",
            bare[round], channel[round], ours[round], stats.records_total, stats.syncs_total
        );
        broker.close().await.expect("closed");
    }
    let ours = median(ours);
    println!(
        "{tasks} waiting tasks, {VALUE_BYTES} B: onelog / bare group commit = {:.2}, onelog / group commit by a channel = {:.2}",
        ours / median(bare),
        ours / median(channel)
    );
}

async fn batches(arguments: &Arguments) {
    const BATCH: usize = 1_000;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let place = tempfile::tempdir_in(&arguments.dir).expect("directory");
        let file = written_file(&place.path().join("bare"));
        let buffer = vec![b'x'; VALUE_BYTES * BATCH];
        let (begun, mut count, mut at) = (Instant::now(), 0usize, 0);
        while begun.elapsed().as_secs_f64() < arguments.seconds {
            if at + buffer.len() as u64 > FILE_BYTES {
                at = 0;
            }
            file.write_all_at(&buffer, at).expect("write");
            file.sync_data().expect("sync");
            at += buffer.len() as u64;
            count += BATCH;
        }
        bare.push(count as f64 / begun.elapsed().as_secs_f64());
        let broker = broker(&place.path().join("data")).await;
        // The bare loop's bytes are there before it begins; so are these records, though a call takes them along.
        let (mut took, mut count) = (Duration::ZERO, 0usize);
        while took.as_secs_f64() < arguments.seconds {
            let records = vec![record(); BATCH];
            let begun = Instant::now();
            broker.produce("bench", records).await.expect("published");
            took += begun.elapsed();
            count += BATCH;
        }
        ours.push(count as f64 / took.as_secs_f64());
        println!("  bare {:.0} records/s, onelog {:.0} records/s", bare[bare.len() - 1], ours[ours.len() - 1]);
        broker.close().await.expect("closed");
    }
    println!("batches of {BATCH}, one publisher: onelog / bare write+fdatasync = {:.2}", median(ours) / median(bare));
}

#[tokio::main]
async fn main() {
    let arguments = arguments();
    println!("file system of {}; load and broker share the machine's cores", arguments.dir.display());
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| only == name);
    for tasks in [1, 64, 1_024] {
        if wanted(&tasks.to_string()) {
            waiting_tasks(&arguments, tasks).await;
        }
    }
    if wanted("batches") {
        batches(&arguments).await;
    }
}
