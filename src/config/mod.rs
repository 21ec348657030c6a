//! How a broker is set up: one typed [`Config`], read from flags, environment and a TOML file, in that order of strength.
//!
//! The table in [`table`] is the only list of settings: flags, variables, keys of the file, help and the example file all
//! come from it. Nothing here opens, binds or creates anything.

mod example;
mod listen;
pub mod size;
mod sources;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use example::example_file;
pub use listen::Listen;
pub use sources::{Environment, Sources};
pub use table::{Kind, SETTINGS, Setting};

/// Every setting, with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data: PathBuf,
    pub http: Listen,
    pub kafka: Listen,
    pub redis: Listen,
    pub insecure: bool,
    pub log_format: LogFormat,
    pub log_level: String,
    pub segment_bytes: u64,
    pub ahead_bytes: u64,
    pub cache_bytes: u64,
    pub index_cache_bytes: u64,
    pub checkpoint_bytes: u64,
    pub queue_bytes_max: u64,
    pub events_topic: String,
    pub events_partitions: u32,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// Why a configuration is refused. The text names the place the value came from and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// Settings given nowhere take their default; then checks what only shows when settings are seen together.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut config = Self::blank();
        for setting in SETTINGS {
            let (place, text) = sources.find(setting);
            (setting.set)(&mut config, text).map_err(|why| ConfigError(format!("{place}: {why}")))?;
        }
        config.check()?;
        Ok(config)
    }

    /// The defaults.
    #[must_use]
    pub fn defaults() -> Self {
        let mut config = Self::blank();
        for setting in SETTINGS {
            let taken = (setting.set)(&mut config, setting.default);
            debug_assert!(taken.is_ok(), "default of `{}`", setting.name);
        }
        config
    }

    /// A value to fill from the table; no field of it is ever seen.
    fn blank() -> Self {
        Self {
            data: PathBuf::new(),
            http: Listen::Off,
            kafka: Listen::Off,
            redis: Listen::Off,
            insecure: false,
            log_format: LogFormat::Human,
            log_level: String::new(),
            segment_bytes: 0,
            ahead_bytes: 0,
            cache_bytes: 0,
            index_cache_bytes: 0,
            checkpoint_bytes: 0,
            queue_bytes_max: 0,
            events_topic: String::new(),
            events_partitions: 0,
        }
    }

    /// What [`Config::load`] refuses although each setting is fine by itself.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (protocol, listen) in [("kafka", self.kafka), ("redis", self.redis)] {
            if let Listen::At(address) = listen {
                return Err(ConfigError(format!(
                    "a {protocol} listener on {address} was asked for, but the {protocol} protocol is not in this version yet; \
                     use `--{protocol} off` (the default) and the HTTP API"
                )));
            }
        }
        if let Listen::At(address) = self.http {
            self.check_exposed(address)?;
        }
        Ok(())
    }

    /// Without a login, whoever reaches the port can read and delete everything: that must be somebody's decision.
    fn check_exposed(&self, address: SocketAddr) -> Result<(), ConfigError> {
        if address.ip().is_loopback() || self.insecure {
            return Ok(());
        }
        Err(ConfigError(format!(
            "the http listener on {address} would be reachable from other machines, and this version has no login and no TLS; \
             listen on 127.0.0.1, or pass `--insecure` if the network in front of it is trusted"
        )))
    }
}

#[cfg(test)]
mod tests;
