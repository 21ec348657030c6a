//! Where values come from, strongest first: flags, environment, file. Says for each value where it was found, for errors.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::table::{SETTINGS, Setting};

/// Values of environment variables, by name. A parameter so that tests need not change the process.
pub type Environment = BTreeMap<String, String>;

/// The three sources, each by name of the setting.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    flags: BTreeMap<&'static str, String>,
    environment: BTreeMap<&'static str, String>,
    file: Option<(PathBuf, BTreeMap<&'static str, String>)>,
}

/// Where a value was found.
pub(super) enum Place<'a> {
    Flag(&'a Setting),
    Variable(&'a Setting),
    File(&'a Path, &'a Setting),
    Default(&'a Setting),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(setting) => write!(f, "--{}", setting.flag()),
            Self::Variable(setting) => write!(f, "environment variable {}", setting.variable()),
            Self::File(path, setting) => write!(f, "{}: `{}`", path.display(), setting.name),
            Self::Default(setting) => write!(f, "default of `{}`", setting.name),
        }
    }
}

impl Sources {
    /// Flags as given, by name of the setting.
    #[must_use]
    pub fn with_flags(mut self, flags: BTreeMap<&'static str, String>) -> Self {
        self.flags = flags;
        self
    }

    /// Picks the variables that name a setting.
    #[must_use]
    pub fn with_environment(mut self, environment: &Environment) -> Self {
        self.environment =
            SETTINGS.iter().filter_map(|setting| Some((setting.name, environment.get(&setting.variable())?.clone()))).collect();
        self
    }

    /// Reads a TOML file. A key that names no setting is an error: a typing mistake must not pass as a default.
    pub fn with_file(self, path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|why| ConfigError(format!("{}: cannot be read: {why}", path.display())))?;
        self.with_file_text(path, &text)
    }

    pub(crate) fn with_file_text(mut self, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table =
            toml::from_str(text).map_err(|why| ConfigError(format!("{}: {}", path.display(), why.to_string().trim_end())))?;
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let setting = SETTINGS.iter().find(|setting| setting.name == key).ok_or_else(|| ConfigError(unknown_key(path, &key)))?;
            let text = plain(&value).ok_or_else(|| {
                ConfigError(format!("{}: `{key}` must be a text, a number or true/false, not {}", path.display(), value.type_str()))
            })?;
            values.insert(setting.name, text);
        }
        self.file = Some((path.to_owned(), values));
        Ok(self)
    }

    pub(super) fn find<'a>(&'a self, setting: &'a Setting) -> (Place<'a>, &'a str) {
        if let Some(text) = self.flags.get(setting.name) {
            return (Place::Flag(setting), text);
        }
        if let Some(text) = self.environment.get(setting.name) {
            return (Place::Variable(setting), text);
        }
        if let Some((path, values)) = &self.file
            && let Some(text) = values.get(setting.name)
        {
            return (Place::File(path, setting), text);
        }
        (Place::Default(setting), setting.default)
    }
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(on) => Some(on.to_string()),
        _ => None,
    }
}

fn unknown_key(path: &Path, key: &str) -> String {
    let nearest = SETTINGS.iter().map(|setting| (edits(key, setting.name), setting.name)).min();
    match nearest {
        Some((distance, name)) if distance <= key.len().max(3) / 2 => {
            format!("{}: `{key}` is not a setting; did you mean `{name}`?", path.display())
        }
        _ => format!("{}: `{key}` is not a setting; `onelog serve --print-config` lists all of them", path.display()),
    }
}

/// Insertions, removals and replacements that turn one word into the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, letter) in from.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (at, wanted) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *wanted);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}
