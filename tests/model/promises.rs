//! The promises, each as a function that compares what the broker shows with a world. Messages begin with the promise's name.
//!
//! What a world leaves open is settled here by what is shown: the order of dead letters, and how far retention went.

use onelog::Record;
use onelog::broker::{DeadLetter, GroupCounts};

use crate::groups::{letters_settings, rec_of};
use crate::queue::Held;
use crate::rig::{Seen, SeenPartition, SeenTopic};
use crate::world::{Letter, Outcome, Part, Rec, Topic, World};

/// What a record takes in a batch of its own at most, besides its bytes.
const FRAMING_BYTES: usize = 120;
const HEADER_FRAMING_BYTES: usize = 12;

/// Compares all that is shown with `world` and settles what it left open. `quiet`: everything that runs by itself came to an end.
pub fn check(world: &mut World, seen: &Seen, quiet: bool) -> Outcome {
    topics_are_those_made(world, seen)?;
    p2_each_dead_letter_has_a_dead_record(world, seen)?;
    for (name, topic) in &seen.topics {
        let wall = world.wall;
        let (trimmed, done) = (world.trimmed, world.trim_is_done);
        let Some(known) = world.topics.get_mut(name) else { return Err(format!("{name} is not there")) };
        for (number, (partition, part)) in topic.partitions.iter().zip(&mut known.parts).enumerate() {
            let at = format!("{name}/{number}");
            p25_retention_never_removes_above_its_limit(&at, partition, part, &known.settings, wall, trimmed)?;
            if done {
                retention_removes_what_is_old(&at, partition, part, known.settings.retention_ms, wall)?;
            }
            part.start = partition.start;
            p3_offsets_are_contiguous(&at, partition)?;
            p1_p4_p5_p6_every_record_is_read_back(&at, partition, part)?;
        }
    }
    for (name, topic) in &seen.topics {
        p12_counts_add_up(world, name, topic)?;
        letters_are_listed(world, name, &seen.letters[name])?;
    }
    p15_committed_offsets(world, seen)?;
    if quiet && let Some(left) = world.overdue(true).first() {
        return Err(format!("P11: the last attempt of {:?} is over, and nobody buried it", left.origin));
    }
    world.doomed.clear();
    (world.dlq_maybe, world.trimmed, world.trim_is_done) = (false, false, false);
    Ok(())
}

fn topics_are_those_made(world: &mut World, seen: &Seen) -> Outcome {
    for (name, topic) in &seen.topics {
        if world.topics.contains_key(name) {
            continue;
        }
        // Made for letters that are there, or that a crash took.
        let expected = letters_settings(topic.settings.partitions);
        let has_letters = world.overdue(false).iter().any(|letter| format!("{}.dlq", letter.origin.0) == *name);
        if (world.dlq_maybe || has_letters) && name.ends_with(".dlq") && topic.settings == expected {
            world.create_topic(name, &expected).map_err(str::to_owned)?;
            continue;
        }
        return Err(format!("P2: nobody made the topic {name}"));
    }
    for (name, topic) in &world.topics {
        let Some(shown) = seen.topics.get(name) else { return Err(format!("P1: the topic {name} is gone")) };
        if shown.settings != topic.settings {
            return Err(format!("P15: {name} should be {:?}, is {:?}", topic.settings, shown.settings));
        }
        if shown.partitions.len() != topic.parts.len() {
            return Err(format!("P15: {name} has {} partitions, not {}", shown.partitions.len(), topic.parts.len()));
        }
        let groups = topic.groups.iter().map(|(name, group)| (name, &group.settings));
        if !groups.eq(shown.groups.iter().map(|(name, (settings, _))| (name, settings))) {
            return Err(format!("P15: {name} should have the groups {:?}, has {:?}", topic.groups.keys(), shown.groups.keys()));
        }
    }
    Ok(())
}

/// Whatever is new in a dead-letter topic is the letter of a record that died, once.
fn p2_each_dead_letter_has_a_dead_record(world: &mut World, seen: &Seen) -> Outcome {
    for (name, topic) in seen.topics.iter().filter(|(name, _)| name.ends_with(".dlq")) {
        for (number, partition) in (0u32..).zip(&topic.partitions) {
            let known = world.topics[name].parts[number as usize].end();
            for record in partition.records.iter().filter(|record| record.offset >= known) {
                let mut letter = bury_shown(world, record)?;
                if letter.record_gone && record.value.is_none() {
                    letter.record = Rec { key: None, value: None, headers: Vec::new(), timestamp_ms: 0 };
                }
                let Some(target) = world.topics.get_mut(name) else { continue };
                if letter.origin.1 as usize % target.parts.len() != number as usize {
                    return Err(format!("the letter of {:?} is in partition {number}", letter.origin));
                }
                target.parts[number as usize].records.push(rec_of(record));
                target.letters.insert((number, record.offset), letter);
            }
        }
    }
    match world.pending.first() {
        Some(lost) => Err(format!("P1/P16: the record {:?} of group {} is dead and its letter is not there", lost.origin, lost.group)),
        None => Ok(()),
    }
}

fn bury_shown(world: &mut World, record: &Record) -> Result<Letter, String> {
    let text = |name: &str| record.header(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
    let number = |name: &str| text(name).parse::<i64>().unwrap_or(-1);
    let partition = u32::try_from(number("onelog-dlq-partition")).unwrap_or(u32::MAX);
    let origin = (text("onelog-dlq-topic"), partition, number("onelog-dlq-offset"));
    let group = text("onelog-dlq-group");
    let of_it = |letter: &Letter| letter.origin == origin && letter.group == group;
    if let Some(at) = world.pending.iter().position(of_it) {
        return Ok(world.pending.remove(at));
    }
    let overdue = world.overdue(false);
    let found = overdue.iter().find(|letter| of_it(letter)).or_else(|| world.doomed.iter().find(|letter| of_it(letter))).cloned();
    let Some(letter) = found else { return Err(format!("P2/P9: {origin:?} of group {group} did not die now, and has a new letter")) };
    world.doomed.retain(|letter| !of_it(letter));
    world.bury(letter.clone());
    world.pending.pop();
    Ok(letter)
}

fn p3_offsets_are_contiguous(at: &str, partition: &SeenPartition) -> Outcome {
    let offsets = partition.records.iter().map(|record| record.offset);
    if offsets.eq(partition.start..partition.end) {
        return Ok(());
    }
    let offsets: Vec<i64> = partition.records.iter().map(|record| record.offset).collect();
    Err(format!("P3: {at} from {} to {} holds {offsets:?}", partition.start, partition.end))
}

/// All that was acknowledged or shown is there, at its offset, as it was; and nothing else is (P2).
fn p1_p4_p5_p6_every_record_is_read_back(at: &str, partition: &SeenPartition, part: &Part) -> Outcome {
    if partition.end < part.end() {
        return Err(format!("P1/P6: {at} ends at {}, {} were acknowledged or shown", partition.end, part.end()));
    }
    if partition.end > part.end() {
        return Err(format!("P2: {at} ends at {}, only {} were published", partition.end, part.end()));
    }
    for record in &partition.records {
        let known = &part.records[usize::try_from(record.offset).unwrap()];
        if *known != rec_of(record) {
            return Err(format!("P1/P4/P5: {at} offset {} is {record:?}, was published as {known:?}", record.offset));
        }
    }
    Ok(())
}

fn p25_retention_never_removes_above_its_limit(
    at: &str,
    partition: &SeenPartition,
    part: &Part,
    settings: &onelog::TopicSettings,
    wall: i64,
    trimmed: bool,
) -> Outcome {
    if partition.start == part.start {
        return Ok(());
    }
    let all = format!("{at} begins at {} instead of {}", partition.start, part.start);
    if partition.start < part.start || partition.start > part.end() || !trimmed {
        return Err(format!("P25: {all}, without retention"));
    }
    let (removed, kept) = part.records.split_at(usize::try_from(partition.start).unwrap());
    let old = |ms: u64| removed.iter().all(|record| record.timestamp_ms < wall.saturating_sub_unsigned(ms));
    let bytes: usize = kept.iter().map(bytes_at_most).sum();
    let over = |most: u64| bytes as u64 >= most;
    match settings.retention_ms.is_some_and(old) || settings.retention_bytes.is_some_and(over) {
        true => Ok(()),
        false => Err(format!("P25: {all}; {settings:?} allows less: {bytes} bytes are left")),
    }
}

fn bytes_at_most(record: &Rec) -> usize {
    record.bytes() + FRAMING_BYTES + record.headers.len() * HEADER_FRAMING_BYTES
}

/// When all is too old, all goes.
fn retention_removes_what_is_old(at: &str, partition: &SeenPartition, part: &Part, kept_ms: Option<u64>, wall: i64) -> Outcome {
    let Some(before) = kept_ms.map(|ms| wall.saturating_sub_unsigned(ms)) else { return Ok(()) };
    if part.records.iter().all(|record| record.timestamp_ms < before) && partition.start < partition.end {
        return Err(format!("P25: all of {at} is older than retention keeps, and {} to {} are there", partition.start, partition.end));
    }
    Ok(())
}

fn p12_counts_add_up(world: &World, name: &str, topic: &SeenTopic) -> Outcome {
    let known: &Topic = &world.topics[name];
    for (group_name, (_, got)) in &topic.groups {
        let group = &known.groups[group_name];
        let of = |counts: &GroupCounts| [counts.ready, counts.leased, counts.deferred, counts.acked, counts.dead, counts.skipped];
        let (low, high) = world.counts(known, group_name, group);
        let fits = of(got).iter().zip(of(&low)).zip(of(&high)).all(|((got, low), high)| (low..=high).contains(got));
        if !fits {
            let open: Vec<_> = group.queues.iter().flat_map(|queue| &queue.states).filter(|(_, state)| state.held != Held::Acked).collect();
            return Err(format!("P12: {group_name} of {name} counts {got:?}, should be {low:?} to {high:?}; known: {open:?}"));
        }
        let sum: u64 = of(got).iter().sum();
        let all = |origin: fn(&crate::queue::Queue) -> i64| -> i64 {
            group.queues.iter().zip(&known.parts).map(|(queue, part)| part.end() - origin(queue)).sum()
        };
        let (least, most) = (all(|queue| queue.origin_max.max(queue.origin)), all(|queue| queue.origin));
        if !(least..=most).contains(&i64::try_from(sum).unwrap()) {
            return Err(format!("P12: {group_name} of {name} counts {got:?}, which is {sum} of {least} to {most} records"));
        }
    }
    Ok(())
}

fn letters_are_listed(world: &World, name: &str, got: &[DeadLetter]) -> Outcome {
    let open = world.open_letters(name);
    let places: Vec<(u32, i64)> = got.iter().map(|letter| (letter.partition, letter.offset)).collect();
    if !open.iter().map(|(at, _)| *at).eq(places.iter().copied()) {
        return Err(format!("P1/P9: the dead letters of {name} should be {:?}, are {places:?}", open.iter().map(|(at, _)| at)));
    }
    for ((at, letter), got) in open.iter().zip(got) {
        letter_is_whole(letter, got).map_err(|wrong| format!("{wrong}: the letter {at:?} should be {letter:?}, is {got:?}"))?;
    }
    Ok(())
}

fn letter_is_whole(letter: &Letter, got: &DeadLetter) -> Outcome {
    let told = &letter.obituary;
    let story = (got.reason == told.reason && got.attempts == told.attempts && got.member == told.member)
        && (got.first_failure_ms, got.last_failure_ms) == (told.first_failure_ms, told.last_failure_ms);
    if !story {
        return Err("P12: another story".into());
    }
    if rec_of(&got.record) == letter.record { Ok(()) } else { Err("P1: another record".into()) }
}

/// P15: what readers committed is what the log says.
fn p15_committed_offsets(world: &World, seen: &Seen) -> Outcome {
    let current = |(key, offset): (&(String, u32, u32), &i64)| {
        let (name, incarnation, partition) = key;
        let is_current = world.topics.get(name).is_some_and(|topic| topic.incarnation == *incarnation);
        is_current.then(|| (name.clone(), *partition, *offset))
    };
    let mut expected: Vec<_> = world.committed.iter().filter_map(current).collect();
    let mut got: Vec<_> = seen.committed.iter().map(|at| (at.topic.clone(), at.partition, at.offset)).collect();
    expected.sort();
    got.sort();
    if expected == got { Ok(()) } else { Err(format!("P15: committed offsets should be {expected:?}, are {got:?}")) }
}

/// P15, P17 and P18: two ways to come to a state come to the same, once all leases have run out: durations may have begun anew on
/// one way and not on the other. For the same reason letters may have been written at other times and in another order.
pub fn same(what: &str, one: &Seen, other: &Seen) {
    let names = |seen: &Seen| -> Vec<String> { seen.topics.keys().cloned().collect() };
    assert_eq!(names(one), names(other), "{what}: topics");
    for (name, topic) in &one.topics {
        let twin = &other.topics[name];
        if !name.ends_with(".dlq") {
            assert_eq!(unskipped(topic), unskipped(twin), "{what}: topic {name}");
        }
        let places = |topic: &SeenTopic| -> Vec<(i64, i64)> { topic.partitions.iter().map(|at| (at.start, at.end)).collect() };
        assert_eq!((&topic.settings, places(topic)), (&twin.settings, places(twin)), "{what}: topic {name}");
        assert_eq!(died(&one.letters[name]), died(&other.letters[name]), "{what}: dead letters of {name}");
    }
    assert_eq!(one.committed, other.committed, "{what}: committed offsets");
}

/// Without counts of what was passed over: a group has looked at a partition that was added later without a word in the log, and may
/// begin behind what retention took from it.
fn unskipped(topic: &SeenTopic) -> SeenTopic {
    let mut topic = topic.clone();
    topic.groups.values_mut().for_each(|(_, counts)| counts.skipped = 0);
    topic
}

/// What the letters say apart from times.
fn died(letters: &[DeadLetter]) -> Vec<String> {
    let told = |letter: &DeadLetter| {
        let DeadLetter { origin_partition, origin_offset, group, reason, attempts, member, record, .. } = letter;
        format!("{origin_partition}/{origin_offset} {group} {reason} {attempts} {member} {:?} {:?}", record.key, record.value)
    };
    let mut all: Vec<String> = letters.iter().map(told).collect();
    all.sort();
    all
}
