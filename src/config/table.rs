//! The one table of settings. A setting is a row here and a field of [`Config`]; its flag, variable and key follow from its name.

use std::str::FromStr;

use super::{Config, LogFormat, size};

/// One setting of the broker.
#[derive(Debug)]
pub struct Setting {
    /// The key in the file; `--name` with dashes is the flag, `ONELOG_NAME` the variable.
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written in the file.
    pub default: &'static str,
    pub help: &'static str,
    /// Reads the text into its field, or says why it cannot be read.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
}

/// What a value looks like: for the help and for quoting in the example file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    Address,
    Size,
    Number,
    Text,
    Choice(&'static [&'static str]),
    /// A flag without a value; `true` or `false` in the environment and the file.
    Switch,
}

impl Setting {
    /// Name of the flag, without the dashes in front.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Name of the environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("ONELOG_{}", self.name.to_ascii_uppercase())
    }
}

impl Kind {
    /// How the value is called in the help.
    #[must_use]
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Directory => "DIR",
            Self::Address => "ADDRESS",
            Self::Size => "SIZE",
            Self::Number => "NUMBER",
            Self::Text => "TEXT",
            Self::Choice(_) => "CHOICE",
            Self::Switch => "BOOL",
        }
    }
}

/// All settings, in the order of the help and of the example file.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "data",
        kind: Kind::Directory,
        default: "onelog-data",
        help: "Directory that holds the log and its index. Created when absent; one process at a time.",
        set: |config, text| {
            if text.is_empty() {
                return Err("the directory has no name".to_owned());
            }
            config.data = text.into();
            Ok(())
        },
    },
    Setting {
        name: "http",
        kind: Kind::Address,
        default: "127.0.0.1:7070",
        help: "Where the HTTP API listens: an address, or `off`. Port 0 takes a free port.",
        set: |config, text| parse_into(&mut config.http, text),
    },
    Setting {
        name: "kafka",
        kind: Kind::Address,
        default: "off",
        help: "Where the Kafka protocol listens: an address, or `off`. Not in this version yet.",
        set: |config, text| parse_into(&mut config.kafka, text),
    },
    Setting {
        name: "redis",
        kind: Kind::Address,
        default: "off",
        help: "Where the Redis Streams protocol listens: an address, or `off`. Not in this version yet.",
        set: |config, text| parse_into(&mut config.redis, text),
    },
    Setting {
        name: "insecure",
        kind: Kind::Switch,
        default: "false",
        help: "Lets the HTTP API listen on an address other machines can reach, without login and without TLS.",
        set: |config, text| {
            config.insecure = text.parse().map_err(|_| format!("`{text}` is neither true nor false"))?;
            Ok(())
        },
    },
    Setting {
        name: "log_format",
        kind: Kind::Choice(&["human", "json"]),
        default: "human",
        help: "How log lines on stderr look.",
        set: |config, text| {
            config.log_format = match text {
                "human" => LogFormat::Human,
                "json" => LogFormat::Json,
                _ => return Err(format!("`{text}` is not a log format; write human or json")),
            };
            Ok(())
        },
    },
    Setting {
        name: "log_level",
        kind: Kind::Text,
        default: "info",
        help: "Least serious level that is logged: error, warn, info, debug, trace; or per module, such as `info,onelog::http=debug`.",
        set: |config, text| {
            tracing_subscriber::EnvFilter::try_new(text).map_err(|why| format!("`{text}` is not a log level: {why}"))?;
            text.clone_into(&mut config.log_level);
            Ok(())
        },
    },
    Setting {
        name: "segment_bytes",
        kind: Kind::Size,
        default: "64MiB",
        help: "Size of one file of the log, 4MiB at least. Counts when the directory is created; an existing one keeps its own.",
        set: |config, text| size_into(&mut config.segment_bytes, text, 4 << 20),
    },
    Setting {
        name: "ahead_bytes",
        kind: Kind::Size,
        default: "1MiB",
        help: "Disk blocks written in advance while there is nothing to do. A burst up to this size is stored faster: a sync is cheapest over blocks that exist.",
        set: |config, text| size_into(&mut config.ahead_bytes, text, 1 << 20),
    },
    Setting {
        name: "cache_bytes",
        kind: Kind::Size,
        default: "16MiB",
        help: "Most memory for records kept at hand for readers. Taken as it is needed.",
        set: |config, text| size_into(&mut config.cache_bytes, text, 64 << 10),
    },
    Setting {
        name: "index_cache_bytes",
        kind: Kind::Size,
        default: "8MiB",
        help: "Most memory for pages of the index file. Taken as it is needed.",
        set: |config, text| size_into(&mut config.index_cache_bytes, text, 64 << 10),
    },
    Setting {
        name: "checkpoint_bytes",
        kind: Kind::Size,
        default: "32MiB",
        help: "Log written between two checkpoints of the index: less means a faster start after a crash, more means less work.",
        set: |config, text| size_into(&mut config.checkpoint_bytes, text, 1 << 20),
    },
    Setting {
        name: "queue_bytes_max",
        kind: Kind::Size,
        default: "32MiB",
        help: "Bytes of records that may wait for the disk before publishers are told to come back later.",
        set: |config, text| size_into(&mut config.queue_bytes_max, text, 1 << 20),
    },
    Setting {
        name: "events_topic",
        kind: Kind::Text,
        default: "events",
        help: "Topic that `POST /events` stores to. Created with the first event.",
        set: |config, text| {
            if text.is_empty() {
                return Err("the topic has no name".to_owned());
            }
            text.clone_into(&mut config.events_topic);
            Ok(())
        },
    },
    Setting {
        name: "events_partitions",
        kind: Kind::Number,
        default: "1",
        help: "Partitions of that topic when it is created.",
        set: |config, text| {
            let partitions = text.parse().ok().filter(|count| (1..=crate::broker::PARTITIONS_MAX).contains(count));
            config.events_partitions =
                partitions.ok_or_else(|| format!("`{text}` is not a number of partitions, 1 to {}", crate::broker::PARTITIONS_MAX))?;
            Ok(())
        },
    },
];

fn parse_into<T: FromStr<Err = String>>(field: &mut T, text: &str) -> Result<(), String> {
    *field = text.parse()?;
    Ok(())
}

fn size_into(field: &mut u64, text: &str, least: u64) -> Result<(), String> {
    let bytes = size::parse(text)?;
    if bytes < least {
        return Err(format!("{} is too small; {} at least", size::show(bytes), size::show(least)));
    }
    *field = bytes;
    Ok(())
}
