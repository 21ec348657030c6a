//! Settings: which source wins, what is refused and in which words.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

fn flags(given: &[(&'static str, &str)]) -> Sources {
    Sources::default().with_flags(given.iter().map(|(name, text)| (*name, (*text).to_owned())).collect())
}

fn file(text: &str) -> Result<Sources, ConfigError> {
    Sources::default().with_file_text(Path::new("onelog.toml"), text)
}

fn refused(sources: &Sources) -> String {
    Config::load(sources).expect_err("should be refused").0
}

#[test]
fn every_default_is_valid_and_equals_the_defaults() {
    assert_eq!(Config::load(&Sources::default()).unwrap(), Config::defaults());
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let environment: Environment =
        [("ONELOG_DATA", "from-env"), ("ONELOG_EVENTS_TOPIC", "env-topic")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let sources = file("data = \"from-file\"\nevents_topic = \"file-topic\"\nevents_partitions = 7\n")
        .unwrap()
        .with_environment(&environment)
        .with_flags(BTreeMap::from([("data", "from-flag".to_owned())]));
    let config = Config::load(&sources).unwrap();
    assert_eq!((config.data.to_str(), &*config.events_topic, config.events_partitions), (Some("from-flag"), "env-topic", 7));
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let why = file("segmet_bytes = 1").unwrap_err().0;
    assert_eq!(why, "onelog.toml: `segmet_bytes` is not a setting; did you mean `segment_bytes`?");
    assert!(file("colour_of_the_house = 1").unwrap_err().0.contains("--print-config"));
}

#[test]
fn an_error_names_the_place_the_value_came_from() {
    assert!(refused(&flags(&[("http", "nowhere")])).starts_with("--http: "));
    assert!(refused(&file("events_partitions = 0").unwrap()).starts_with("onelog.toml: `events_partitions`: "));
    let environment = Environment::from([("ONELOG_LOG_FORMAT".to_owned(), "xml".to_owned())]);
    let sources = Sources::default().with_environment(&environment);
    assert!(refused(&sources).starts_with("environment variable ONELOG_LOG_FORMAT: "));
}

#[test]
fn listeners_that_do_not_exist_yet_are_refused_not_ignored() {
    for name in ["kafka", "redis"] {
        assert!(refused(&flags(&[(name, "127.0.0.1:9092")])).contains("not in this version yet"));
        assert!(Config::load(&flags(&[(name, "off")])).is_ok());
    }
}

#[test]
fn a_listener_others_can_reach_needs_insecure() {
    assert!(refused(&flags(&[("http", "0.0.0.0:7070")])).contains("--insecure"));
    assert!(Config::load(&flags(&[("http", "0.0.0.0:7070"), ("insecure", "true")])).is_ok());
    assert!(Config::load(&flags(&[("http", "[::1]:0")])).is_ok());
}

#[test]
fn sizes_are_read_as_people_write_them() {
    for (text, bytes) in [("4096", 4096), ("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("10mb", 10_000_000), ("8k", 8192), ("12B", 12)] {
        assert_eq!(size::parse(text), Ok(bytes), "{text}");
    }
    for text in ["", "MiB", "-1", "1e400", "99999999999TiB", "NaN"] {
        assert!(size::parse(text).is_err(), "{text}");
    }
    assert_eq!([size::show(0), size::show(1536), size::show(64 << 20)], ["0 B", "1.5 KiB", "64 MiB"]);
}

#[test]
fn the_example_file_is_valid_and_changes_nothing_even_uncommented() {
    let example = example_file();
    assert_eq!(Config::load(&file(&example).unwrap()).unwrap(), Config::defaults());
    let uncommented: String = example.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' ')).fold(
        String::new(),
        |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        },
    );
    let sources = file(&uncommented).unwrap();
    for setting in SETTINGS {
        assert_eq!(sources.find(setting).1, setting.default);
    }
    assert_eq!(Config::load(&sources).unwrap(), Config::defaults());
}
