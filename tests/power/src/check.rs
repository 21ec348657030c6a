//! Opens the broker on what a power cut left and holds it against the history: the promises of acknowledged publishes, acks,
//! dead letters, committed offsets and idempotency keys, and that the log has neither holes nor inventions.
//!
//! Uses the opened broker as clients would, and notes what it answered then: the next cut may not undo that either.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onelog::broker::LeaseId;
use onelog::{Broker, BrokerConfig, Clock, DeadLetterFilter, FetchRequest, ManualClock, ReceiveRequest, SystemClock};
use onelog_storage::io::Io;

use crate::door::{Door, Leased};
use crate::history::{GROUP, History, Number, ORDERS, Place, STREAM_GROUP, TOPICS, Topic};
use crate::load::Notes;
use crate::random::Random;

/// Longer than any lease or retry of the load.
const LEASES_OVER: Duration = Duration::from_secs(3600);
/// Keys offered again after each cut.
const KEYS_AGAIN: usize = 60;
/// Keys whose record a cut took, published anew.
const LOST_AGAIN: usize = 3;
/// Records acked after a cut.
const ACKS: usize = 5;
/// The violations that are told of one cut.
const TOLD_MAX: usize = 6;

/// What was found wrong: a promise's number and a sentence each.
#[derive(Debug, Default)]
pub struct Wrong(pub Vec<String>);

impl Wrong {
    fn add(&mut self, what: String) {
        if self.0.len() < TOLD_MAX {
            self.0.push(what);
        }
    }

    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.add(what());
        }
    }
}

/// The life before the cut, and how the broker is opened after it.
pub struct After<'a> {
    /// What is known to have been answered.
    pub known: &'a History,
    /// Where records went, also those that were answered later than the cut.
    pub places: &'a HashMap<Number, Place>,
    pub io: Arc<dyn Io>,
    pub segment_bytes: u64,
    pub random: Random,
    /// First number for records of its own.
    pub serial: u64,
}

/// What stands in the log of one topic.
#[derive(Default)]
struct Stored {
    /// Log start and high watermark by partition.
    bounds: BTreeMap<u32, (i64, i64)>,
}

/// All that was read.
struct Found {
    topics: Vec<Stored>,
    places: HashMap<Number, Place>,
}

impl Found {
    /// Whether retention may have taken what stood there.
    fn is_trimmed(&self, topic: Topic, (partition, offset): Place) -> bool {
        self.topics[topic].bounds.get(&partition).is_some_and(|(start, _)| offset < *start)
    }

    fn nothing_trimmed(&self, topic: Topic) -> bool {
        self.topics[topic].bounds.values().all(|(start, _)| *start == 0)
    }

    fn end(&self, topic: Topic, partition: u32) -> i64 {
        self.topics[topic].bounds.get(&partition).map_or(0, |(_, end)| *end)
    }
}

pub fn config(io: Arc<dyn Io>, segment_bytes: u64, clock: Arc<dyn Clock>) -> BrokerConfig {
    // Little memory for commits: reads go to the disk.
    BrokerConfig { segment_bytes, io, clock, cache_bytes: 64 * 1024, checkpoint_bytes: 512 * 1024, ..BrokerConfig::default() }
}

/// Opens `dir` and looks at everything. What is answered on the way goes to `notes`.
pub async fn check(dir: &Path, after: &mut After<'_>, notes: &Notes) -> Wrong {
    let mut wrong = Wrong::default();
    let clock = Arc::new(ManualClock::at(SystemClock::default().wall()));
    let config = config(Arc::clone(&after.io), after.segment_bytes, Arc::clone(&clock) as Arc<dyn Clock>);
    let broker = match Broker::open_with(dir, config).await {
        Ok(broker) => broker,
        Err(error) => {
            wrong.add(format!("P1: the store cannot be opened: {error}"));
            return wrong;
        }
    };
    if let Err(error) = look(&broker, &clock, after, notes, &mut wrong).await {
        wrong.add(format!("a request was refused after opening: {error:#}"));
    }
    wrong
}

async fn look(broker: &Broker, clock: &ManualClock, after: &mut After<'_>, notes: &Notes, wrong: &mut Wrong) -> anyhow::Result<()> {
    for (name, _) in &after.known.topics {
        let there = broker.topic(name).is_ok_and(|topic| topic.groups.iter().any(|group| group == GROUP));
        wrong.unless(there, || format!("P1: topic `{name}` and its group were answered ok and are gone"));
    }
    let found = read_all(broker, after, wrong).await?;
    let served = notes.now();
    notes.lock().served.extend(found.places.iter().map(|(number, place)| (*number, *place, served)));
    compare_publishes(&found, after, wrong);
    compare_commits(broker, after.known, wrong);
    // A topic that was not yet made is not made anew: nothing more can be said of it.
    let topics: Vec<Topic> = (0..TOPICS.len()).filter(|topic| !found.topics[*topic].bounds.is_empty()).collect();
    let door = Door::Crate(broker.clone());
    if topics.len() == TOPICS.len() {
        publish_again(&door, &found, after, notes, wrong).await?;
    }
    clock.advance(LEASES_OVER);
    for topic in topics {
        compare_deliveries(broker, &door, topic, after, notes, wrong).await?;
    }
    Ok(())
}

/// Reads every record: holes, bytes, copies, inventions, places.
async fn read_all(broker: &Broker, after: &After<'_>, wrong: &mut Wrong) -> anyhow::Result<Found> {
    let attempted: HashSet<Number> = after.known.publishes.iter().flat_map(|publish| publish.records.iter().copied()).collect();
    let mut found = Found { topics: Vec::new(), places: HashMap::new() };
    for (topic, (name, _)) in TOPICS.iter().enumerate() {
        let mut stored = Stored::default();
        for partition in broker.topic(name).map(|info| info.partitions).unwrap_or_default() {
            let (number, start, end) = (partition.partition, partition.log_start, partition.high_watermark);
            stored.bounds.insert(number, (start, end));
            let starts = after.known.log_starts.iter().filter(|(at, of, _)| (*at, *of) == (topic, number));
            let start_max = starts.map(|(_, _, start)| *start).max().unwrap_or(0);
            wrong.unless(start <= start_max, || format!("P25: {name}/{number} begins at {start}, retention went to {start_max} at most"));
            let mut next = start;
            while next < end {
                let request = FetchRequest {
                    topic: (*name).into(),
                    partition: number,
                    offset: next,
                    records_max: 1_000,
                    bytes_max: 1 << 20,
                    wait: Duration::ZERO,
                };
                let fetched = match broker.fetch(request).await {
                    Ok(fetched) => fetched.records,
                    Err(error) => {
                        wrong.add(format!("P1: {name}/{number} cannot be read at {next}: {error}"));
                        break;
                    }
                };
                if fetched.is_empty() {
                    wrong.add(format!("P3: {name}/{number} ends at {next}, its high watermark is {end}"));
                    break;
                }
                for record in fetched {
                    let place = (number, record.offset);
                    wrong.unless(record.offset == next, || format!("P3: {name}/{number} has {} where {next} belongs", record.offset));
                    next = record.offset + 1;
                    let value = record.value.as_deref().unwrap_or_default();
                    let Some(known) = Number::of(value).filter(|known| attempted.contains(known)) else {
                        wrong.add(format!("P2: {name}{place:?} holds what nobody published"));
                        continue;
                    };
                    let intact = *value == known.value()[..] && record.key.as_deref() == Some(known.key().as_bytes());
                    wrong.unless(intact && known.topic() == topic, || format!("P1: {name}{place:?} is not what was published"));
                    if let Some(other) = found.places.insert(known, place) {
                        wrong.add(format!("P14: {} stands at {name}{other:?} and at {place:?}", known.id()));
                    }
                    if let Some(told) = after.places.get(&known) {
                        wrong.unless(*told == place, || format!("P4: {} was answered {told:?} and stands at {name}{place:?}", known.id()));
                    }
                }
            }
        }
        found.topics.push(stored);
    }
    Ok(found)
}

/// What was answered ok or served is there; a batch is there whole or not at all.
fn compare_publishes(found: &Found, after: &After<'_>, wrong: &mut Wrong) {
    for publish in &after.known.publishes {
        let is_there = |number: &Number| {
            found.places.contains_key(number) || after.places.get(number).is_some_and(|place| found.is_trimmed(number.topic(), *place))
        };
        if let Some((_, places)) = &publish.ok {
            for (number, place) in publish.records.iter().zip(places) {
                let holds = found.places.get(number) == Some(place) || found.is_trimmed(number.topic(), *place);
                wrong
                    .unless(holds, || format!("P1: {} was acknowledged at {}{place:?} and is lost", number.id(), TOPICS[number.topic()].0));
            }
        }
        let there = publish.records.iter().filter(|number| is_there(number)).count();
        let knowable = publish.records.iter().all(|number| after.places.contains_key(number) || found.nothing_trimmed(number.topic()));
        wrong.unless(!knowable || there == 0 || there == publish.records.len(), || {
            format!("P16: {there} of the {} records of a batch are stored: {:?}", publish.records.len(), publish.records)
        });
    }
    for (number, place, _) in &after.known.served {
        let holds = found.places.get(number) == Some(place) || found.is_trimmed(number.topic(), *place);
        wrong.unless(holds, || format!("P6: {} was read at {}{place:?} and is lost", number.id(), TOPICS[number.topic()].0));
    }
}

/// Each partition's committed offset is the last one answered ok, or one asked for after it.
fn compare_commits(broker: &Broker, known: &History, wrong: &mut Wrong) {
    let stored: HashMap<u32, i64> = broker.committed_offsets(STREAM_GROUP).iter().map(|at| (at.partition, at.offset)).collect();
    for partition in 0..TOPICS[ORDERS].1 {
        let asked: Vec<_> = known.commits.iter().filter(|commit| commit.place.0 == partition).collect();
        let sure = asked.iter().rposition(|commit| commit.ok.is_some());
        let allowed: BTreeSet<i64> = asked[sure.unwrap_or(0)..].iter().map(|commit| commit.place.1).collect();
        let holds = stored.get(&partition).map_or(sure.is_none(), |at| allowed.contains(at));
        wrong.unless(holds, || {
            format!("P9: the committed offset of partition {partition} is {:?}, not one of {allowed:?}", stored.get(&partition))
        });
    }
}

/// Records that belong to no batch: they can be published again without tearing one apart.
fn alone(known: &History) -> impl Iterator<Item = Number> {
    let (single, batches): (Vec<_>, Vec<_>) = known.publishes.iter().partition(|publish| publish.records.len() == 1);
    let in_batches: HashSet<Number> = batches.iter().flat_map(|batch| batch.records.iter().copied()).collect();
    single.into_iter().map(|publish| publish.records[0]).filter(move |number| !in_batches.contains(number))
}

/// Known keys are duplicates of their record, lost ones are published anew, and new records go to the end.
async fn publish_again(door: &Door, found: &Found, after: &mut After<'_>, notes: &Notes, wrong: &mut Wrong) -> anyhow::Result<()> {
    let mut keyed: Vec<(Number, Place)> = found.places.iter().filter(|(number, _)| number.keyed()).map(|(n, p)| (*n, *p)).collect();
    keyed.sort_unstable();
    // The newest are those in danger; of the others some.
    let newest = keyed.split_off(keyed.len().saturating_sub(KEYS_AGAIN / 2));
    let older = keyed.len().min(KEYS_AGAIN / 2);
    let chosen: Vec<(Number, Place)> = (0..older).map(|_| keyed[after.random.index(keyed.len())]).chain(newest).collect();
    if !chosen.is_empty() {
        let answers = door.publish(&chosen.iter().map(|(number, _)| *number).collect::<Vec<_>>()).await?;
        for ((number, place), answer) in chosen.iter().zip(answers) {
            wrong.unless(answer.duplicate && answer.place == *place, || {
                format!(
                    "P14: {} stands at {place:?}, a repeat was answered {:?}, duplicate: {}",
                    number.id(),
                    answer.place,
                    answer.duplicate
                )
            });
        }
    }
    let lost: BTreeSet<Number> = alone(after.known)
        .filter(|number| number.keyed() && !found.places.contains_key(number) && found.nothing_trimmed(number.topic()))
        .collect();
    let fresh = (0..TOPICS.len()).map(|topic| Number::new(after.serial + topic as u64, topic, true, false));
    let mut ends: HashMap<(Topic, u32), i64> = HashMap::new();
    for number in lost.into_iter().rev().take(LOST_AGAIN).chain(fresh) {
        let (partition, offset) = notes.publish(door, vec![number]).await?[0];
        let end = ends.entry((number.topic(), partition)).or_insert_with(|| found.end(number.topic(), partition));
        wrong.unless(offset == *end, || {
            format!("P5: {} went to offset {offset} of {}/{partition}, which ends at {end}", number.id(), TOPICS[number.topic()].0)
        });
        *end = offset + 1;
    }
    Ok(())
}

/// Takes what the group still gives out: nothing that was acked, everything that was not.
async fn compare_deliveries(
    broker: &Broker,
    door: &Door,
    topic: Topic,
    after: &After<'_>,
    notes: &Notes,
    wrong: &mut Wrong,
) -> anyhow::Result<()> {
    let name = TOPICS[topic].0;
    if !broker.topic(name)?.groups.iter().any(|group| group == GROUP) {
        return Ok(());
    }
    let mut delivered: BTreeMap<Place, LeaseId> = BTreeMap::new();
    loop {
        let request = ReceiveRequest {
            topic: name.into(),
            group: GROUP.into(),
            member: "checker".into(),
            records_max: 10_000,
            wait: Duration::ZERO,
            visibility_ms: None,
        };
        let some = broker.receive(request).await?;
        if some.is_empty() {
            break;
        }
        for one in some {
            let place = (one.record.partition, one.record.offset);
            let again = delivered.insert(place, one.lease).is_some();
            wrong.unless(!again, || format!("P8: {name}{place:?} was given out twice"));
        }
    }
    let mut tried: BTreeSet<Place> = BTreeSet::new();
    for settle in after.known.settles.iter().filter(|settle| settle.topic == topic) {
        tried.insert(settle.place);
        let word = if settle.dead { "dead-lettered" } else { "acked" };
        let back = settle.ok.is_some() && delivered.contains_key(&settle.place);
        wrong.unless(!back, || format!("P9: {name}{:?} was {word} and is given out again", settle.place));
    }
    let info = broker.topic(name)?;
    for partition in &info.partitions {
        for offset in partition.log_start..partition.high_watermark {
            let place = (partition.partition, offset);
            let there = delivered.contains_key(&place) || tried.contains(&place);
            wrong.unless(there, || format!("P11: nobody settled {name}{place:?} and it is not given out"));
        }
    }
    let counts = broker.group(name, GROUP)?.counts;
    let sum = counts.ready + counts.leased + counts.deferred + counts.acked + counts.dead + counts.skipped;
    let all: i64 = info.partitions.iter().map(|partition| partition.high_watermark).sum();
    wrong.unless(i64::try_from(sum).is_ok_and(|sum| sum == all), || format!("P12: {counts:?} of {name} are not {all} records"));
    compare_letters(broker, topic, after, wrong).await?;
    let leased: Vec<Leased> = delivered.iter().take(ACKS).map(|(place, lease)| Leased { place: *place, lease: *lease }).collect();
    if !leased.is_empty() {
        notes.settle(door, topic, &leased, false).await?;
    }
    Ok(())
}

/// What was dead-lettered with an ok is among the dead letters.
async fn compare_letters(broker: &Broker, topic: Topic, after: &After<'_>, wrong: &mut Wrong) -> anyhow::Result<()> {
    let (name, settles) = (TOPICS[topic].0, &after.known.settles);
    let dead: Vec<Place> =
        settles.iter().filter(|settle| settle.topic == topic && settle.dead && settle.ok.is_some()).map(|settle| settle.place).collect();
    if dead.is_empty() {
        return Ok(());
    }
    let letters = broker.dead_letters(name, &DeadLetterFilter::default(), None, usize::MAX).await?;
    let letters: HashMap<Place, Option<Number>> = letters
        .iter()
        .map(|letter| {
            let value = letter.record.value.as_deref().unwrap_or_default();
            let number = Number::of(value).filter(|number| *value == number.value()[..]);
            ((letter.origin_partition, letter.origin_offset), number)
        })
        .collect();
    for place in dead {
        let whole = letters.get(&place).is_some_and(Option::is_some);
        wrong.unless(whole, || format!("P11: {name}{place:?} was dead-lettered and there is no whole letter of it"));
    }
    Ok(())
}
