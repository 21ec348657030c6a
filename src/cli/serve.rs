//! `onelog serve`: a broker in the foreground. Its flags are the table of settings.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{Config, Environment, Kind, LogFormat, SETTINGS, Setting, Sources, example_file};
use crate::server;

use super::runtime;

/// Run the broker
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    #[command(flatten)]
    settings: SettingFlags,

    /// Read settings from a TOML file; flags and environment win over it
    #[arg(long, value_name = "FILE", env = "ONELOG_CONFIG")]
    config: Option<PathBuf>,

    /// Print an example configuration file with every setting explained, and leave
    #[arg(long)]
    print_config: bool,
}

const EXAMPLES: &str = "\
When ready it prints one line on stdout:
  onelog ready http=127.0.0.1:7070 kafka=off redis=off data=onelog-data pid=4711
SIGTERM and Ctrl-C let requests in flight finish and end it with 0 within 5 seconds; a second one ends it at once with 1.
A setting is taken from its flag, else its environment variable, else the file, else its default.

Examples:
  onelog serve
  onelog serve --data /var/lib/onelog --http 127.0.0.1:7070 --log-format json
  onelog serve --data \"$(mktemp -d)\" --http 127.0.0.1:0       a throw-away broker on a free port
  onelog serve --print-config > onelog.toml && onelog serve --config onelog.toml
  ONELOG_CACHE_BYTES=256MiB onelog serve";

pub fn run(args: &Serve) -> anyhow::Result<ExitCode> {
    if args.print_config {
        std::io::stdout().lock().write_all(example_file().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = load(args)?;
    start_logging(&config);
    Ok(runtime::server()?.block_on(server::run(&config))?)
}

fn load(args: &Serve) -> anyhow::Result<Config> {
    let environment: Environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    let mut sources = Sources::default().with_flags(args.settings.0.clone()).with_environment(&environment);
    if let Some(file) = &args.config {
        sources = sources.with_file(file)?;
    }
    Ok(Config::load(&sources)?)
}

/// Log lines go to stderr: stdout belongs to the ready line.
pub fn start_logging(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(&config.log_level);
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    // Fails only where a program that embeds us has its own log already, which is then the better one.
    let _ = match config.log_format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}

/// The settings given as flags, by name. Built from the table, so that a new setting has its flag by being there.
#[derive(Debug, Clone, Default)]
pub struct SettingFlags(pub BTreeMap<&'static str, String>);

impl clap::Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |command, setting| command.arg(flag(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &'static Setting| {
            let text = match setting.kind {
                Kind::Switch => matches.get_flag(setting.name).then(|| "true".to_owned()),
                _ => matches.get_one::<String>(setting.name).cloned(),
            };
            Some((setting.name, text?))
        };
        Ok(Self(SETTINGS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.append(&mut Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let help = match setting.kind {
        Kind::Switch => format!("{} [env: {}]", setting.help, setting.variable()),
        _ => format!("{} [env: {}] [default: {}]", setting.help, setting.variable(), setting.default),
    };
    let arg = Arg::new(setting.name).long(setting.flag()).help(help);
    match setting.kind {
        Kind::Switch => arg.action(ArgAction::SetTrue),
        Kind::Choice(choices) => arg.value_name(setting.kind.placeholder()).value_parser(PossibleValuesParser::new(choices)),
        Kind::Directory => arg.value_name(setting.kind.placeholder()).value_hint(clap::ValueHint::DirPath),
        _ => arg.value_name(setting.kind.placeholder()),
    }
}
