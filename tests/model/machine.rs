//! One sequence: every operation on the broker and on each world that may be the true one.
//!
//! Usually that is one world. A power cut in the middle of a call leaves two, the call done and not done; leases nobody had to wait
//! for add the world before them. What the broker shows next decides. When no world is left, a promise is broken.

use onelog::broker::{CommittedOffset, LeaseId, TopicChange};
use onelog::{DeadLetterFilter, Failure, NewRecord, ReceiveRequest, RedriveRequest, SeekTo, TopicSettings};

use crate::ops::{GROUPS, Op, Place, Send, TOPICS, group_settings};
use crate::promises::{check, same};
use crate::rig::{Action, Answer, Rig, Seen};
use crate::world::World;

/// So late that it never comes.
const NEVER: u64 = u64::MAX / 2;
/// Rounds in which everything must end acked or dead.
const DRAIN_ROUNDS: usize = 40;
const DRAIN_RECORDS: usize = 1_000;
/// Longer than any lease or delay.
const LONGEST_MS: u64 = 60_000;

pub struct Machine {
    rig: Rig,
    worlds: Vec<World>,
    /// Worlds before leases that are not in the log yet.
    before_leases: Vec<World>,
    /// Every lease ever given out, oldest first.
    leases: Vec<(String, String, LeaseId)>,
    values: u64,
}

impl Machine {
    pub fn new(partitions: u32, kind: u8) -> Self {
        let rig = Rig::new();
        let worlds = vec![World::new(rig.wall())];
        let mut machine = Self { rig, worlds, before_leases: Vec::new(), leases: Vec::new(), values: 0 };
        machine.step(&Op::CreateTopic { topic: 0, partitions, retention_ms: Some(20_000), retention_bytes: None, window_ms: 60_000 });
        machine.step(&Op::CreateGroup { topic: 0, group: 0, kind });
        machine
    }

    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Reopen => {
                self.rig.close();
                self.before_leases.clear();
                self.restart(Vec::new());
                self.open();
            }
            Op::Kill { without_index } => self.kill(*without_index),
            Op::Cut { seed, depth } => {
                self.restart(Vec::new());
                self.cut(*seed, *depth);
            }
            Op::CutDuring { call, seed, op } => self.cut_during(*call, *seed, op),
            plain => {
                let Some(action) = self.action(plain) else { return };
                let commits = self.rig.commits();
                let answer = self.rig.call(&action);
                self.judge(&action, &answer, commits);
            }
        }
    }

    // ---- Calls -------------------------------------------------------------------------------------------------------------

    /// Each world goes on with the answer, or is not the true one.
    fn judge(&mut self, action: &Action, answer: &Answer, commits: u64) {
        let before = self.worlds.clone();
        let mut wrong = Vec::new();
        self.worlds.retain_mut(|world| world.take(action, Some(answer)).map_err(|why| wrong.push(why)).is_ok());
        assert!(!self.worlds.is_empty(), "{action:?} was answered {answer:?}: {}", wrong.join("; or "));
        if self.rig.commits() > commits {
            self.before_leases.clear();
        }
        self.note_leases(action, answer, before);
        let quiet = matches!(action, Action::Advance(_) | Action::Jump(_) | Action::AlterGroup(..));
        if matches!(action, Action::AlterGroup(..)) {
            self.rig.quiet();
        }
        self.compare(quiet);
    }

    fn note_leases(&mut self, action: &Action, answer: &Answer, before: Vec<World>) {
        let (Action::Receive(request), Answer::Delivered(deliveries)) = (action, answer) else { return };
        self.leases.extend(deliveries.iter().map(|delivery| (request.topic.clone(), request.group.clone(), delivery.lease)));
        for mut world in before {
            // A group that was made for it is durable.
            let is_known = world.take(action, None).is_err() || self.worlds.contains(&world) || self.before_leases.contains(&world);
            if !is_known {
                self.before_leases.push(world);
            }
        }
    }

    /// Compares all that the broker shows with each world that is left.
    fn compare(&mut self, quiet: bool) -> Seen {
        let seen = self.rig.look().unwrap_or_else(|error| panic!("P1: what is stored cannot be read: {error}"));
        let mut wrong = Vec::new();
        self.worlds.retain_mut(|world| check(world, &seen, quiet).map_err(|why| wrong.push(why)).is_ok());
        assert!(!self.worlds.is_empty(), "{}", wrong.join("; or "));
        self.worlds.dedup();
        seen
    }

    // ---- Ends and beginnings -----------------------------------------------------------------------------------------------

    /// The process is gone. `others` are worlds that may be as true as those known.
    fn restart(&mut self, others: Vec<World>) {
        let token = self.worlds.iter().chain(&others).map(|world| world.token).max().unwrap_or(0);
        self.worlds.append(&mut self.before_leases);
        self.worlds.extend(others);
        let (wall, now) = (self.rig.wall(), self.rig.now());
        for world in &mut self.worlds {
            world.set_time(wall, now);
            world.restart(token);
        }
    }

    fn open(&mut self) -> Seen {
        self.rig.open().unwrap_or_else(|error| panic!("P1: the directory does not open again: {error}"));
        self.compare(true)
    }

    /// P15, P17: the checkpoint and the log behind it tell what the log alone tells.
    fn kill(&mut self, without_index: bool) {
        let mut one = self.rig.copy(false);
        let mut other = self.rig.copy(true);
        one.open().unwrap();
        other.open().unwrap_or_else(|error| panic!("P15: without its index the directory does not open: {error}"));
        same("P15/P17: with and without the index", &after_all_leases(&mut one), &after_all_leases(&mut other));
        drop((one, other));
        self.restart(Vec::new());
        let next = self.rig.copy(without_index).disk;
        self.rig.on(next);
        self.open();
    }

    /// P18: the machine dies while it recovers, again and again; the end is the same.
    fn cut(&mut self, seed: u64, depth: u8) {
        let disk = self.rig.cut(seed);
        self.rig.on(disk);
        let mut plain = self.rig.copy(false);
        plain.open().unwrap_or_else(|error| panic!("P1: the directory does not open after a power cut: {error}"));
        let expected = after_all_leases(&mut plain);
        for deep in 0..u64::from(depth) {
            self.rig.disk.power_off_after(1 + (seed >> (8 * deep)) % 60);
            // A failure is what the cut is for.
            let _ = self.rig.open();
            let next = self.rig.cut(seed.wrapping_add(deep + 1));
            self.rig.on(next);
        }
        self.open();
        let mut nested = self.rig.copy(false);
        nested.open().unwrap();
        same("P18: after cuts during recovery", &expected, &after_all_leases(&mut nested));
    }

    /// The machine dies at some call of an operation; what was answered by then holds, what was not may hold.
    fn cut_during(&mut self, call: u64, seed: u64, op: &Op) {
        let Some(action) = self.action(op) else { return };
        let commits = self.rig.commits();
        self.rig.disk.power_off_after(call);
        let answer = self.rig.call(&action);
        if !self.rig.disk.is_off() {
            self.rig.disk.power_off_after(NEVER);
            return self.judge(&action, &answer, commits);
        }
        let before = std::mem::take(&mut self.worlds);
        let mut others = Vec::new();
        match (&action, &answer) {
            (Action::Pipeline(..), _) | (_, Answer::Failed(_)) => others = undecided(&before, &action, &answer),
            _ => {
                self.worlds = before.clone();
                self.worlds.retain_mut(|world| world.take(&action, Some(&answer)).is_ok());
                assert!(!self.worlds.is_empty(), "{action:?} was answered {answer:?}");
                self.note_leases(&action, &answer, before);
                // An answer that had to wait makes leases before it durable.
                let waited = matches!(answer, Answer::Produced(_) | Answer::Outcomes(_)) && self.rig.commits() > commits;
                if waited && !matches!(&answer, Answer::Outcomes(all) if all.iter().all(Result::is_err)) {
                    self.before_leases.clear();
                }
            }
        }
        self.restart(others);
        self.cut(seed, 0);
    }

    // ---- The end -----------------------------------------------------------------------------------------------------------

    /// P11: with consumers at work and no faults everything ends acked or dead.
    pub fn drain(mut self) {
        for _ in 0..DRAIN_ROUNDS {
            let groups: Vec<(u8, u8)> = self.groups();
            for (topic, group) in &groups {
                let known = self.leases.len();
                self.step(&Op::Receive { topic: *topic, group: *group, most: DRAIN_RECORDS, visibility_ms: None });
                for at in known..self.leases.len() {
                    let pick = u8::try_from(self.leases.len() - 1 - at).unwrap_or(u8::MAX);
                    self.step(&Op::Ack { picks: vec![pick] });
                }
            }
            if self.is_drained() {
                return self.kill(true);
            }
            self.step(&Op::Advance { ms: 30_000 });
        }
        panic!("P11: not everything ends acked or dead: {:?}", self.compare(true).topics);
    }

    fn groups(&self) -> Vec<(u8, u8)> {
        let has = |topic: u8, group: u8| {
            let topic = self.worlds[0].topics.get(TOPICS[topic as usize]);
            topic.is_some_and(|topic| topic.groups.contains_key(GROUPS[group as usize]))
        };
        (0..2).flat_map(|topic| (0..2).map(move |group| (topic, group))).filter(|(topic, group)| has(*topic, *group)).collect()
    }

    fn is_drained(&mut self) -> bool {
        let seen = self.compare(false);
        let open =
            |topic: &crate::rig::SeenTopic| topic.groups.values().any(|(_, counts)| counts.ready + counts.leased + counts.deferred > 0);
        !seen.topics.values().any(open)
    }

    // ---- From numbers to calls ---------------------------------------------------------------------------------------------

    fn record(&mut self, send: &Send) -> NewRecord {
        let (key, value) = match send.once {
            Some((once, body)) => (once, format!("once-{once}-{body}")),
            None => {
                self.values += 1;
                (send.key, format!("{}-{}", self.values, "x".repeat(send.padding.into())))
            }
        };
        NewRecord {
            partition: send.partition,
            key: (send.partition.is_none() || key != 3).then(|| format!("k{key}").into()),
            value: Some(value.into()),
            idempotency_key: send.once.map(|(once, _)| format!("id-{once}").into()),
            ..NewRecord::default()
        }
    }

    fn lease(&self, pick: u8) -> Option<(String, String, LeaseId)> {
        let newest = self.leases.len().checked_sub(1)?;
        Some(self.leases[newest - usize::from(pick).min(newest)].clone())
    }

    fn place(&self, topic: &str, place: Place) -> SeekTo {
        let start = self.worlds[0].topics.get(topic).map_or(0, |topic| topic.parts[0].start);
        match place {
            Place::Earliest => SeekTo::Earliest,
            Place::Latest => SeekTo::Latest,
            Place::Offset(behind) => SeekTo::Offset(start + behind),
            Place::Ago(ms) => SeekTo::Time(self.rig.wall() - ms),
        }
    }

    /// The call an operation stands for now; `None` when there is nothing to name.
    fn action(&mut self, op: &Op) -> Option<Action> {
        let topic = |number: &u8| TOPICS[*number as usize].to_owned();
        let group = |number: &u8| GROUPS[*number as usize].to_owned();
        let of_group = |group: &Option<u8>, key: Option<&u8>| DeadLetterFilter {
            group: group.map(|number| GROUPS[number as usize].to_owned()),
            key: key.map(|key| format!("k{key}")),
            ..DeadLetterFilter::default()
        };
        Some(match op {
            Op::CreateTopic { topic: number, partitions, retention_ms, retention_bytes, window_ms } => {
                let (retention_ms, retention_bytes) = (*retention_ms, *retention_bytes);
                let settings = TopicSettings {
                    partitions: *partitions,
                    retention_ms,
                    retention_bytes,
                    dedup_window_ms: *window_ms,
                    ..TopicSettings::default()
                };
                Action::CreateTopic(topic(number), settings)
            }
            Op::AlterTopic { topic: number, more, retention_bytes, window_ms } => {
                let partitions = self.worlds[0].topics.get(&topic(number)).map(|topic| (topic.settings.partitions + more).min(3));
                let change = TopicChange {
                    partitions,
                    retention_bytes: Some(*retention_bytes),
                    dedup_window_ms: *window_ms,
                    ..TopicChange::default()
                };
                Action::AlterTopic(topic(number), change)
            }
            Op::DeleteTopic { topic: number } => Action::DeleteTopic(topic(number)),
            Op::Produce { topic: number, records } => {
                Action::Produce(records.iter().map(|send| (topic(number), self.record(send))).collect())
            }
            Op::Atomic { records } => Action::Produce(records.iter().map(|(number, send)| (topic(number), self.record(send))).collect()),
            Op::Pipeline { topic: number, records } => {
                Action::Pipeline(topic(number), records.iter().map(|send| self.record(send)).collect())
            }
            Op::Conditional { topic: number, partition, beside } => {
                let part = self.worlds[0].topics.get(&topic(number)).and_then(|topic| topic.parts.get(*partition as usize));
                let expected = part.map_or(0, crate::world::Part::end) + beside;
                let record = self.record(&Send { partition: Some(*partition), key: 0, once: None, padding: 3 });
                Action::ProduceIf(topic(number), record, expected)
            }
            Op::Resolve { topic: number, partition, place } => {
                Action::Resolve(topic(number), *partition, self.place(&topic(number), *place))
            }
            Op::CreateGroup { topic: number, group: name, kind } => Action::CreateGroup(topic(number), group(name), group_settings(*kind)),
            Op::AlterGroup { topic: number, group: name, max_deliveries } => {
                let known = self.worlds[0].topics.get(&topic(number)).and_then(|topic| topic.groups.get(&group(name)));
                let settings = known.map_or_else(|| group_settings(0), |group| group.settings.clone());
                let settings = onelog::GroupSettings { max_deliveries: *max_deliveries, ..settings };
                Action::AlterGroup(topic(number), group(name), settings)
            }
            Op::DeleteGroup { topic: number, group: name } => Action::DeleteGroup(topic(number), group(name)),
            Op::Seek { topic: number, group: name, place } => Action::Seek(topic(number), group(name), self.place(&topic(number), *place)),
            Op::Receive { topic: number, group: name, most, visibility_ms } => Action::Receive(ReceiveRequest {
                topic: topic(number),
                group: group(name),
                member: format!("m{}", self.leases.len() % 3),
                records_max: *most,
                wait: std::time::Duration::ZERO,
                visibility_ms: *visibility_ms,
            }),
            Op::Redrive { topic: number, group, key, limit, dry } => {
                let filter = of_group(group, key.as_ref());
                Action::Redrive(topic(number), RedriveRequest { filter, dry_run: *dry, rate: None, limit: *limit })
            }
            Op::Purge { topic: number, group, dry } => Action::Purge(topic(number), of_group(group, None), *dry),
            Op::Commit { topic: number, partition, back } => {
                let part = self.worlds[0].topics.get(&topic(number)).and_then(|topic| topic.parts.get(*partition as usize));
                let offset = part.map_or(0, crate::world::Part::end) - back;
                Action::Commit(CommittedOffset { topic: topic(number), partition: *partition, offset, metadata: None })
            }
            Op::SeekStream { topic: number, place } => Action::SeekStream(topic(number), self.place(&topic(number), *place)),
            Op::DeleteStream => Action::DeleteStream,
            Op::Advance { ms } => Action::Advance(*ms),
            Op::Jump { ms } => Action::Jump(*ms),
            Op::Retention => Action::Retention,
            Op::Checkpoint => Action::Checkpoint,
            other => return self.settling(other),
        })
    }

    fn settling(&self, op: &Op) -> Option<Action> {
        Some(match op {
            Op::Ack { picks } => {
                let (topic, group, first) = self.lease(*picks.first()?)?;
                let more = picks.iter().skip(1).filter_map(|pick| self.lease(*pick)).filter(|lease| lease.0 == topic && lease.1 == group);
                let leases = std::iter::once(first).chain(more.map(|lease| lease.2)).collect();
                Action::Ack(topic, group, leases)
            }
            Op::Nack { pick, delay_ms, permanent } => {
                let (topic, group, lease) = self.lease(*pick)?;
                let reason = format!("failure {}", self.values);
                Action::Nack(topic, group, Failure { lease: Some(lease), delay_ms: *delay_ms, reason, permanent: *permanent })
            }
            Op::Extend { pick, visibility_ms } => {
                let (topic, group, lease) = self.lease(*pick)?;
                Action::Extend(topic, group, lease, *visibility_ms)
            }
            Op::Release { pick } => {
                let (topic, group, lease) = self.lease(*pick)?;
                Action::Release(topic, group, lease)
            }
            _ => return None,
        })
    }
}

/// What a copy shows when every lease and delay is over.
fn after_all_leases(copy: &mut Rig) -> Seen {
    copy.call(&Action::Advance(LONGEST_MS));
    copy.look().unwrap()
}

/// The worlds a call may leave whose answer never came: not done, done, and for calls in a row, each number of them.
fn undecided(before: &[World], action: &Action, answer: &Answer) -> Vec<World> {
    let mut worlds = Vec::new();
    let sure = match answer {
        Answer::Pipelined(answers) => answers.iter().rposition(Result::is_ok).map_or(0, |last| last + 1),
        _ => 0,
    };
    for world in before {
        let mut steps = vec![action.clone()];
        if let Action::Pipeline(topic, records) = action {
            steps = records.iter().map(|record| Action::Produce(vec![(topic.clone(), record.clone())])).collect();
        }
        let mut next = world.clone();
        for (at, step) in steps.iter().enumerate() {
            if at >= sure {
                worlds.push(next.clone());
            }
            let known = match answer {
                Answer::Pipelined(answers) => answers[at].clone().ok().map(Answer::Produced),
                _ => None,
            };
            if next.take(step, known.as_ref()).is_err() {
                break;
            }
        }
        worlds.push(next);
    }
    worlds
}
