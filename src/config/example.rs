//! The example configuration file: every setting with its help and its default, commented out.

use std::fmt::Write;

use super::table::{Kind, SETTINGS};

/// A TOML file that changes nothing until a line of it is uncommented.
#[must_use]
pub fn example_file() -> String {
    let mut file = String::from(
        "# onelog configuration. Use it with `onelog serve --config FILE` or ONELOG_CONFIG=FILE.\n\
         # Lines that are commented out show the defaults. A flag wins over the environment, the environment over this file.\n",
    );
    for setting in SETTINGS {
        let value = match setting.kind {
            Kind::Number | Kind::Switch => setting.default.to_owned(),
            _ => format!("{:?}", setting.default),
        };
        let choices = match setting.kind {
            Kind::Choice(choices) => format!(" One of: {}.", choices.join(", ")),
            _ => String::new(),
        };
        let (name, flag, variable, help) = (setting.name, setting.flag(), setting.variable(), setting.help);
        // Writing to a string cannot fail.
        let _ = write!(file, "\n# {help}{choices}\n# --{flag}, {variable}\n#{name} = {value}\n");
    }
    file
}
