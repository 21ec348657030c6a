//! Holds a history against P1 to P14 of the promises, and against P16, P20 and P26 as far as clients can see them.
//!
//! Knows nothing of brokers, files or sockets. Where a client cannot know what happened (no answer, or a failed store) every
//! possibility is allowed; where the moments of two requests overlap, any order of them is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::history::{Counts, Delivered, Event, History, Lease, Place, Placed, Sent, Settled, Stored, Told, Verb, What};

/// A promise that was not kept, and how it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub promise: &'static str,
    pub how: String,
}

type Check = fn(&View<'_>, &mut Vec<String>);

const CHECKS: &[(&str, Check)] = &[
    ("P1", acknowledged_is_read_back),
    ("P2", nothing_comes_from_nowhere),
    ("P3", offsets_are_contiguous),
    ("P4", one_place_one_value),
    ("P5", offsets_are_never_reused),
    ("P6", visible_implies_durable),
    ("P7", keys_in_order),
    ("P8", one_lease_at_a_time),
    ("P9", acked_is_final),
    ("P10", stale_tokens_change_nothing),
    ("P11", everything_ends),
    ("P12", counts_and_attempts),
    ("P13", nothing_before_its_time),
    ("P14", one_record_per_idempotency_key),
    ("P16", batches_are_whole),
    ("P20", poisoned_until_reopened),
    ("P26", ok_order_is_offset_order),
];

/// Everything that is wrong with a history.
pub fn check(history: &History) -> Vec<Broken> {
    let view = View::of(history);
    let mut broken = Vec::new();
    for (promise, check) in CHECKS {
        let mut found = Vec::new();
        check(&view, &mut found);
        broken.extend(found.into_iter().map(|how| Broken { promise, how }));
    }
    broken
}

/// A history taken apart once for all checks.
struct View<'a> {
    history: &'a History,
    /// Every way a record was published, by its id.
    sent: HashMap<&'a str, Vec<(&'a Event, &'a Sent)>>,
    /// Answered ok.
    placed: Vec<(&'a Event, &'a Sent, Placed)>,
    /// By place, in the order in which leases were granted.
    deliveries: BTreeMap<Place, Vec<(&'a Event, &'a Delivered)>>,
    settled: HashMap<Lease, Vec<Settling<'a>>>,
    /// What readers and members saw before the end.
    seen: Vec<&'a Stored>,
    stored: HashMap<Place, &'a Stored>,
}

/// One lease of a settling request.
struct Settling<'a> {
    event: &'a Event,
    verb: Verb,
    /// `None`: nobody knows.
    outcome: Option<&'a Settled>,
}

impl Settling<'_> {
    fn is_done(&self) -> bool {
        matches!(self.outcome, Some(Settled::Done | Settled::DeadLettered))
    }

    fn may_be_done(&self) -> bool {
        !matches!(self.outcome, Some(Settled::Refused(_)))
    }

    /// Whether the lease is over when this is done.
    fn ends_lease(&self) -> bool {
        !matches!(self.verb, Verb::Extend(_))
    }

    fn is_acked(&self) -> bool {
        self.verb == Verb::Ack && self.is_done()
    }
}

impl<'a> View<'a> {
    fn of(history: &'a History) -> Self {
        let stored = history.readout.records().map(|record| (record.place, record)).collect();
        let mut view = Self {
            history,
            sent: HashMap::new(),
            placed: Vec::new(),
            deliveries: BTreeMap::new(),
            settled: HashMap::new(),
            seen: Vec::new(),
            stored,
        };
        for event in &history.events {
            view.enter(event);
        }
        for deliveries in view.deliveries.values_mut() {
            deliveries.sort_by_key(|(_, delivered)| delivered.lease.token);
        }
        view
    }

    fn enter(&mut self, event: &'a Event) {
        match &event.what {
            What::Publish { batch, told } => {
                for sent in batch {
                    self.sent.entry(&sent.id).or_default().push((event, sent));
                }
                let placed = told.ok().into_iter().flatten();
                self.placed.extend(batch.iter().zip(placed).map(|(sent, placed)| (event, sent, *placed)));
            }
            What::Receive { told, .. } => {
                for delivered in told.ok().into_iter().flatten() {
                    self.seen.push(&delivered.record);
                    self.deliveries.entry(delivered.lease.place).or_default().push((event, delivered));
                }
            }
            What::Settle { verb, leases, told } => {
                for (at, lease) in leases.iter().enumerate() {
                    let outcome = match told {
                        Told::Ok(outcomes) => outcomes.get(at),
                        told if told.is_unknown() => None,
                        _ => continue,
                    };
                    self.settled.entry(*lease).or_default().push(Settling { event, verb: *verb, outcome });
                }
            }
            What::Read { told } => self.seen.extend(told.ok().into_iter().flatten()),
            What::Counts(_) | What::Crash | What::Open => {}
        }
    }

    fn settlings(&self, lease: Lease) -> &[Settling<'a>] {
        self.settled.get(&lease).map_or(&[], Vec::as_slice)
    }

    fn is_lost(&self, place: Place) -> bool {
        !self.stored.contains_key(&place) && !self.history.readout.is_trimmed(place)
    }

    fn crashes(&self) -> impl Iterator<Item = &'a Event> {
        self.history.events.iter().filter(|event| matches!(event.what, What::Crash))
    }
}

fn acknowledged_is_read_back(view: &View<'_>, broken: &mut Vec<String>) {
    for (_, sent, placed) in &view.placed {
        match view.stored.get(&placed.place) {
            Some(stored) if stored.value == sent.value && stored.key == sent.key => {}
            Some(stored) => broken.push(format!("{} at {:?} is read back as {}", sent.id, placed.place, brief(stored))),
            None if view.is_lost(placed.place) => broken.push(format!("{} at {:?} is gone", sent.id, placed.place)),
            None => {}
        }
    }
}

fn nothing_comes_from_nowhere(view: &View<'_>, broken: &mut Vec<String>) {
    for record in view.seen.iter().copied().chain(view.history.readout.records()) {
        let Some(ways) = view.sent.get(record.id()) else {
            broken.push(format!("nobody published {}", brief(record)));
            continue;
        };
        if !ways.iter().any(|(_, sent)| sent.value == record.value && sent.key == record.key) {
            broken.push(format!("{} was published otherwise", brief(record)));
        }
        if ways.iter().all(|(event, _)| matches!(&event.what, What::Publish { told, .. } if told.is_definite_failure())) {
            broken.push(format!("{} was refused", brief(record)));
        }
    }
}

fn offsets_are_contiguous(view: &View<'_>, broken: &mut Vec<String>) {
    for (number, partition) in (0..).zip(&view.history.readout.partitions) {
        let offsets: Vec<Place> = partition.records.iter().map(|record| record.place).collect();
        let whole: Vec<Place> = (partition.log_start..partition.high_watermark).map(|offset| (number, offset)).collect();
        if offsets != whole {
            let at = offsets.iter().zip(&whole).take_while(|(found, wanted)| found == wanted).count();
            broken.push(format!("partition {number}: {:?} instead of {:?}", offsets.get(at), whole.get(at)));
        }
    }
}

fn one_place_one_value(view: &View<'_>, broken: &mut Vec<String>) {
    let mut values: HashMap<Place, &Stored> = HashMap::new();
    for record in view.seen.iter().copied().chain(view.history.readout.records()) {
        let first = *values.entry(record.place).or_insert(record);
        if first != record {
            broken.push(format!("{} and later {}", brief(first), brief(record)));
        }
    }
}

fn offsets_are_never_reused(view: &View<'_>, broken: &mut Vec<String>) {
    let mut ids: HashMap<Place, &str> = HashMap::new();
    for (_, sent, placed) in &view.placed {
        let first = *ids.entry(placed.place).or_insert(&sent.id);
        if first != sent.id {
            broken.push(format!("{:?} was given to {first} and to {}", placed.place, sent.id));
        }
    }
}

fn visible_implies_durable(view: &View<'_>, broken: &mut Vec<String>) {
    let lost = view.seen.iter().filter(|record| view.is_lost(record.place));
    broken.extend(lost.map(|record| format!("{} was seen and is gone", brief(record))));
}

/// The first delivery of a record comes after a member may have settled every earlier record of its key.
fn keys_in_order(view: &View<'_>, broken: &mut Vec<String>) {
    if !view.history.rules.ordered_by_key {
        return;
    }
    let mut keys: HashMap<(u64, &str), Vec<Place>> = HashMap::new();
    for record in view.history.readout.records() {
        keys.entry((record.place.0, &record.key)).or_default().push(record.place);
    }
    for places in keys.values() {
        for pair in places.windows(2) {
            let settled = first_possible_end(view, pair[0]);
            let early =
                view.deliveries.get(&pair[1]).into_iter().flatten().find(|(event, _)| settled.is_none_or(|at| at > event.ended.turn));
            if let Some((_, delivered)) = early {
                broken.push(format!("{} came before {:?} of the same key was settled", brief(&delivered.record), pair[0]));
            }
        }
    }
}

/// The first moment at which the record may have been acked or become a dead letter.
fn first_possible_end(view: &View<'_>, place: Place) -> Option<u64> {
    let ends = |settling: &Settling<'_>| match settling.verb {
        Verb::Ack | Verb::Bury => settling.may_be_done(),
        Verb::Nack(_) => settling.outcome == Some(&Settled::DeadLettered),
        Verb::Extend(_) | Verb::Release => false,
    };
    let settled = view.settled.iter().filter(|(lease, _)| lease.place == place).flat_map(|(_, settlings)| settlings);
    // Without a word from its member a record dies when its last lease runs out.
    let died = view.history.readout.dead.contains(&place).then_some(0);
    settled.filter(|settling| ends(settling)).map(|settling| settling.event.began.turn).chain(died).min()
}

fn one_lease_at_a_time(view: &View<'_>, broken: &mut Vec<String>) {
    for deliveries in view.deliveries.values() {
        for pair in deliveries.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            if second.0.ended.at < lease_end(view, *first) && !may_be_over(view, *first, second.0) {
                broken.push(format!("{:?} was leased again while {} held", second.1.lease, first.1.lease.token));
            }
        }
    }
    let mut tokens: HashMap<u64, Lease> = HashMap::new();
    for (_, delivered) in view.deliveries.values().flatten() {
        if let Some(other) = tokens.insert(delivered.lease.token, delivered.lease) {
            broken.push(format!("{other:?} and {:?} have one token", delivered.lease));
        }
    }
    tokens_grow(view, broken);
}

/// The lease ends no sooner than this, unless its member ends it.
fn lease_end(view: &View<'_>, (event, delivered): (&Event, &Delivered)) -> Duration {
    let What::Receive { visibility, .. } = event.what else { return Duration::ZERO };
    let granted = event.began.at + visibility;
    view.settlings(delivered.lease).iter().fold(granted, |end, settling| match settling.verb {
        Verb::Extend(by) if settling.is_done() => settling.event.began.at + by,
        Verb::Extend(by) if settling.may_be_done() => end.min(settling.event.began.at + by),
        _ => end,
    })
}

/// Whether the member may have ended the lease before `later` was answered, or a crash may have forgotten the lease. A crash
/// forgets no lease that was extended, nor one granted before something else was acknowledged: the log has one order.
fn may_be_over(view: &View<'_>, (granted, delivered): (&Event, &Delivered), later: &Event) -> bool {
    let over = |settling: &Settling<'_>| settling.ends_lease() && settling.may_be_done() && settling.event.began.turn < later.ended.turn;
    if view.settlings(delivered.lease).iter().any(over) {
        return true;
    }
    if view.settlings(delivered.lease).iter().any(Settling::is_done) {
        return false;
    }
    let crash = view.crashes().find(|crash| crash.ended.turn > granted.ended.turn && crash.began.turn < later.ended.turn);
    crash.is_some_and(|crash| {
        let between = |event: &&Event| event.began.turn > granted.ended.turn && event.ended.turn < crash.began.turn;
        !view.history.events.iter().filter(between).any(acknowledges)
    })
}

/// Whether the answer says that something is on disk.
fn acknowledges(event: &Event) -> bool {
    match &event.what {
        What::Publish { told: Told::Ok(placed), .. } => placed.iter().any(|placed| !placed.duplicate),
        What::Settle { told: Told::Ok(outcomes), .. } => outcomes.iter().any(|outcome| !matches!(outcome, Settled::Refused(_))),
        _ => false,
    }
}

/// A request for leases that began after another had ended gets greater tokens.
fn tokens_grow(view: &View<'_>, broken: &mut Vec<String>) {
    let tokens = |event: &Event| match &event.what {
        What::Receive { told: Told::Ok(deliveries), .. } => deliveries.iter().map(|delivered| delivered.lease.token).collect(),
        _ => Vec::new(),
    };
    let receives = view.history.events.iter().map(|event| (event, tokens(event))).filter(|(_, tokens)| !tokens.is_empty());
    assert_growing(receives, |event, before, least| broken.push(format!("token {least} at turn {} after {before}", event.began.turn)));
}

/// Calls `wrong` for each event whose least number is no greater than one of an event that had ended when it began.
fn assert_growing<'a, N: Copy + Ord>(events: impl Iterator<Item = (&'a Event, Vec<N>)>, mut wrong: impl FnMut(&Event, N, N)) {
    let numbered: Vec<(&Event, N, N)> =
        events.filter_map(|(event, numbers)| Some((event, *numbers.iter().min()?, *numbers.iter().max()?))).collect();
    let mut greatest: BTreeMap<u64, N> = BTreeMap::new();
    let mut by_end = numbered.clone();
    by_end.sort_by_key(|(event, ..)| event.ended.turn);
    let mut most = None;
    for (event, _, greatest_here) in by_end {
        most = most.max(Some(greatest_here));
        greatest.extend(most.map(|most| (event.ended.turn, most)));
    }
    for (event, least, _) in numbered {
        if let Some((_, before)) = greatest.range(..event.began.turn).next_back()
            && least <= *before
        {
            wrong(event, *before, least);
        }
    }
}

fn acked_is_final(view: &View<'_>, broken: &mut Vec<String>) {
    let mut acked = HashSet::new();
    for (lease, settlings) in &view.settled {
        if !settlings.iter().any(Settling::is_acked) {
            continue;
        }
        acked.insert(lease.place);
        let later = view.deliveries.get(&lease.place).into_iter().flatten().find(|(_, delivered)| delivered.lease.token > lease.token);
        if let Some((_, delivered)) = later {
            broken.push(format!("{lease:?} was acked, and it came again as {}", delivered.lease.token));
        }
    }
    let counted = view.history.readout.counts.acked;
    if counted < acked.len() as u64 {
        broken.push(format!("{} records were acked, {counted} are counted", acked.len()));
    }
    let dead = acked.iter().filter(|place| view.history.readout.dead.contains(place));
    broken.extend(dead.map(|place| format!("{place:?} was acked, and it is a dead letter")));
}

fn stale_tokens_change_nothing(view: &View<'_>, broken: &mut Vec<String>) {
    for (lease, settlings) in &view.settled {
        for settling in settlings.iter().filter(|settling| settling.is_done()) {
            let newer = view.deliveries.get(&lease.place).into_iter().flatten();
            let mut newer =
                newer.filter(|(event, delivered)| delivered.lease.token > lease.token && event.ended.turn < settling.event.began.turn);
            if let Some((_, delivered)) = newer.next_back() {
                broken.push(format!("{lease:?} did {:?} though {} was granted since", settling.verb, delivered.lease.token));
            }
            let over = |other: &&Settling<'_>| other.is_acked() && other.event.ended.turn < settling.event.began.turn;
            if settlings.iter().any(|other| over(&other)) {
                broken.push(format!("{lease:?} did {:?} though it was acked", settling.verb));
            }
        }
    }
}

fn everything_ends(view: &View<'_>, broken: &mut Vec<String>) {
    let readout = &view.history.readout;
    let Counts { ready, leased, deferred, acked, dead, .. } = readout.counts;
    if view.history.rules.drained && ready + leased + deferred > 0 {
        broken.push(format!("{ready} ready, {leased} leased and {deferred} deferred are left; {acked} acked and {dead} dead"));
    }
    for (lease, settlings) in &view.settled {
        let died = settlings.iter().any(|settling| settling.outcome == Some(&Settled::DeadLettered));
        if died && !readout.dead.contains(&lease.place) {
            broken.push(format!("{lease:?} was dead-lettered, and there is no dead letter of it"));
        }
    }
}

fn counts_and_attempts(view: &View<'_>, broken: &mut Vec<String>) {
    let asked = view.history.events.iter().filter_map(|event| match &event.what {
        What::Counts(counts) => Some(counts),
        _ => None,
    });
    for counts in asked.chain([&view.history.readout.counts]) {
        let Counts { ready, leased, deferred, acked, dead, skipped, all } = *counts;
        if ready + leased + deferred + acked + dead + skipped != all {
            broken.push(format!("{counts:?} do not add up"));
        }
    }
    let most = view.history.rules.max_deliveries + view.crashes().count() as u64;
    for deliveries in view.deliveries.values() {
        let mut before = 1;
        for (_, delivered) in deliveries {
            if delivered.attempt < before {
                broken.push(format!("attempt {} of {:?} after {before}", delivered.attempt, delivered.lease));
            }
            if view.history.rules.max_deliveries > 0 && delivered.attempt > most {
                broken.push(format!("attempt {} of {:?}", delivered.attempt, delivered.lease));
            }
            before = before.max(delivered.attempt);
        }
    }
}

fn nothing_before_its_time(view: &View<'_>, broken: &mut Vec<String>) {
    for (lease, settlings) in &view.settled {
        for settling in settlings.iter().filter(|settling| settling.outcome == Some(&Settled::Done)) {
            let Verb::Nack(delay) = settling.verb else { continue };
            let due = settling.event.began.at + delay;
            let again = view.deliveries.get(&lease.place).into_iter().flatten();
            let early = again.filter(|(event, delivered)| delivered.lease.token > lease.token && event.ended.at < due);
            broken.extend(early.map(|(event, _)| format!("{lease:?} was due at {due:?} and came at {:?}", event.ended.at)));
        }
    }
}

fn one_record_per_idempotency_key(view: &View<'_>, broken: &mut Vec<String>) {
    if !view.history.rules.within_window {
        return;
    }
    let mut places: HashMap<&str, Place> = HashMap::new();
    let told = view.placed.iter().map(|(_, sent, placed)| (sent.id.as_str(), placed.place));
    let stored = view.history.readout.records().map(|record| (record.id(), record.place));
    for (id, place) in told.chain(stored) {
        let first = *places.entry(id).or_insert(place);
        if first != place {
            broken.push(format!("{id} is at {first:?} and at {place:?}"));
        }
    }
}

fn batches_are_whole(view: &View<'_>, broken: &mut Vec<String>) {
    let stored: HashSet<&str> = view.history.readout.records().map(Stored::id).collect();
    for event in &view.history.events {
        let What::Publish { batch, told } = &event.what else { continue };
        let there = batch.iter().filter(|sent| stored.contains(sent.id.as_str())).count();
        let trimmed = told.ok().is_some_and(|placed| placed.iter().any(|placed| view.history.readout.is_trimmed(placed.place)));
        if there != 0 && there != batch.len() && !trimmed {
            broken.push(format!("{there} of {} records of a batch with {} are stored", batch.len(), batch[0].id));
        }
    }
}

fn poisoned_until_reopened(view: &View<'_>, broken: &mut Vec<String>) {
    let mut failed_at: Option<u64> = None;
    let mut later: Vec<&Event> = Vec::new();
    for event in &view.history.events {
        match &event.what {
            What::Open => failed_at = None,
            What::Publish { told: Told::Refused(code), .. } | What::Settle { told: Told::Refused(code), .. }
                if code == crate::history::POISONED =>
            {
                failed_at.get_or_insert(event.ended.turn);
            }
            _ if acknowledges(event) && failed_at.is_some_and(|failed| failed < event.began.turn) => later.push(event),
            _ => {}
        }
    }
    broken.extend(later.iter().map(|event| format!("acknowledged at turn {} after the store had failed", event.ended.turn)));
}

fn ok_order_is_offset_order(view: &View<'_>, broken: &mut Vec<String>) {
    let mut by_partition: BTreeMap<u64, Vec<(&Event, Vec<i64>)>> = BTreeMap::new();
    for event in &view.history.events {
        let What::Publish { told: Told::Ok(placed), .. } = &event.what else { continue };
        let mut offsets: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        for placed in placed.iter().filter(|placed| !placed.duplicate) {
            offsets.entry(placed.place.0).or_default().push(placed.place.1);
        }
        for (partition, offsets) in offsets {
            if !offsets.is_sorted() {
                broken.push(format!("a batch got {offsets:?} in partition {partition}"));
            }
            by_partition.entry(partition).or_default().push((event, offsets));
        }
    }
    for (partition, events) in by_partition {
        assert_growing(events.into_iter(), |event, before, least| {
            broken.push(format!("partition {partition}: offset {least} at turn {} after {before}", event.began.turn));
        });
    }
}

fn brief(record: &Stored) -> String {
    let value: String = record.value.chars().take(24).collect();
    format!("{:?} {}={value} ({} bytes)", record.place, record.key, record.value.len())
}
