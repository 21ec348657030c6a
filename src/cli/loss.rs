//! What damage cost, as `onelog check` and `onelog repair` tell it: files and positions, then partitions and offsets, then groups.

use onelog_storage::check::CheckReport;
use onelog_storage::ledger::PartitionLedger;
use onelog_storage::log::entry::LostRange;
use serde::Serialize;

use crate::broker::salvage::Salvager;
use crate::config::size;

use super::output;

/// Ranges shown of one partition on a terminal; JSON has all.
const RANGES_SHOWN: usize = 20;

/// One place that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub file: String,
    /// Position in the log.
    pub position: u64,
    /// Where whole commits go on; `None` when they do not.
    pub until: Option<u64>,
    /// Bytes of log between, at most.
    pub bytes_lost_max: u64,
    pub what: String,
    /// Whole commits between the damage before this one, or the start, and here.
    pub good_commits_before: u64,
    pub good_records_before: u64,
}

/// Offsets from `from` up to and without `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    pub from: i64,
    pub to: i64,
}

/// A partition that lost records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// `topic/number`; `None` when no topic is known for it.
    pub partition: Option<String>,
    pub id: u32,
    pub records_kept: u64,
    pub kept: Vec<Range>,
    /// These offsets are never given out again.
    pub lost: Vec<Range>,
    /// How many of the last lost range nothing tells of: they may never have been given out.
    pub assumed: u64,
}

/// A queue group's partition of whose story something is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub topic: String,
    pub group: String,
    pub partition: u32,
    pub events_lost: u64,
    /// Delivered again, because nothing tells whether they were settled.
    pub delivered_again: u64,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    pub damages: Vec<Damage>,
    pub good_commits_after: u64,
    pub good_records_after: u64,
    pub partitions: Vec<Partition>,
    pub groups: Vec<Group>,
    /// Events that are whole and cannot be read.
    pub events_unreadable: u64,
}

impl Loss {
    pub fn of(report: &CheckReport, salvager: &Salvager) -> Self {
        let damage = |damage: &onelog_storage::check::Damage| Damage {
            file: damage.file.display().to_string(),
            position: damage.position.0,
            until: damage.until.map(|until| until.0),
            bytes_lost_max: damage.bytes_max,
            what: damage.what.clone(),
            good_commits_before: damage.good_commits_before,
            good_records_before: damage.good_records_before,
        };
        let lossy = report.partitions.iter().filter(|(_, partition)| !partition.lost.is_empty());
        Self {
            damages: report.damages.iter().map(damage).collect(),
            good_commits_after: report.good_commits_after,
            good_records_after: report.good_records_after,
            partitions: lossy.map(|(id, partition)| Partition::of(id.0, salvager.name_of(*id), partition)).collect(),
            groups: salvager
                .group_losses()
                .into_iter()
                .map(|loss| Group {
                    topic: loss.topic,
                    group: loss.group,
                    partition: loss.partition,
                    events_lost: loss.events_lost,
                    delivered_again: loss.reopened,
                })
                .collect(),
            events_unreadable: salvager.unreadable,
        }
    }

    pub fn print(&self) -> anyhow::Result<()> {
        for damage in &self.damages {
            output::line(&format!("DAMAGE {} at position {}: {}", damage.file, damage.position, damage.what))?;
            let until =
                damage.until.map_or_else(|| "nothing whole follows".to_owned(), |until| format!("whole commits go on at position {until}"));
            output::line(&format!(
                "  before it {} commits with {} records are good; at most {} are lost; {until}",
                damage.good_commits_before,
                damage.good_records_before,
                size::show(damage.bytes_lost_max),
            ))?;
        }
        if !self.damages.is_empty() {
            output::line(&format!("behind it {} commits with {} records are good", self.good_commits_after, self.good_records_after))?;
        }
        for partition in &self.partitions {
            partition.print()?;
        }
        for group in &self.groups {
            output::line(&format!(
                "group {} of {}/{}: {} lease events are lost; {} records would be delivered again",
                group.group, group.topic, group.partition, group.events_lost, group.delivered_again
            ))?;
        }
        if self.events_unreadable > 0 {
            output::line(&format!("{} events are whole but cannot be read", self.events_unreadable))?;
        }
        Ok(())
    }
}

impl Partition {
    fn of(id: u32, name: Option<String>, ledger: &PartitionLedger) -> Self {
        let ranges = |ranges: &[LostRange]| ranges.iter().map(|range| Range { from: range.from.0, to: range.to.0 }).collect();
        Self {
            partition: name,
            id,
            records_kept: ledger.records,
            kept: ranges(&ledger.kept),
            lost: ranges(&ledger.lost),
            assumed: ledger.assumed,
        }
    }

    fn print(&self) -> anyhow::Result<()> {
        let name = self.partition.clone().unwrap_or_else(|| format!("partition {} of no known topic", self.id));
        let last = self.lost.len().saturating_sub(1);
        for (number, range) in self.lost.iter().enumerate().take(RANGES_SHOWN) {
            let count = range.to - range.from;
            let words = if number == last && self.assumed > 0 {
                format!("from offset {} on, at most {count} records: nothing tells how many there were", range.from)
            } else if count == 1 {
                format!("offset {}", range.from)
            } else {
                format!("offsets {} to {}, {count} records", range.from, range.to - 1)
            };
            output::line(&format!("LOST {name}: {words}"))?;
        }
        if self.lost.len() > RANGES_SHOWN {
            output::line(&format!("LOST {name}: and {} more ranges; see --json", self.lost.len() - RANGES_SHOWN))?;
        }
        output::line(&format!("  {} records of {name} are good", self.records_kept))
    }
}
