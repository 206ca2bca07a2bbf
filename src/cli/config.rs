//! `config`: the settings in force, and where each comes from.

use anyhow::Result;
use camino::Utf8Path;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::output::{self, Grid};
use super::report::Exit;
use super::serve::{self, SettingFlags};
use crate::config::Settings;
use crate::config::effective::{Origin, Setting, effective};
use crate::home::Home;
use crate::manifest::yaml;

/// Look at the settings.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

/// What to do with the settings.
#[derive(Clone, Debug, Subcommand)]
#[expect(missing_docs, reason = "the help of a verb is the documentation of its arguments")]
pub enum ConfigVerb {
    View(ViewArgs),
}

/// Show every setting in force, and where it comes from: a flag, the environment, config.yaml, or the default.
///
/// The flags are those of `serve`, to see what it would do with them; the environment is that of this shell, not that of a
/// daemon that runs already.
#[derive(Clone, Debug, Args)]
pub struct ViewArgs {
    /// Flags of `serve`.
    #[command(flatten)]
    pub flags: SettingFlags,
    /// Leave out what nobody has set
    #[arg(long)]
    pub changed: bool,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ViewFormat,
}

/// How settings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ViewFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object
    Json,
    /// The same as YAML
    Yaml,
}

/// Runs the verb.
///
/// # Errors
/// A setting cannot be used.
pub fn run(home: &Utf8Path, args: ConfigArgs) -> Result<Exit> {
    let ConfigVerb::View(args) = args.verb;
    let flags = args.flags.flags();
    let settings = Settings::load(Home::new(home), &flags, serve::environment()).map_err(serve::bad_setting)?;
    let mut all = effective(&settings, &flags).map_err(serve::bad_setting)?;
    all.retain(|setting| !args.changed || setting.origin != Origin::Default);
    let object = || json!({"home": home, "file": settings.home.config(), "settings": all});
    match args.output {
        ViewFormat::Text => output::print(&table(&all))?,
        ViewFormat::Json => output::line(&serde_json::to_string_pretty(&object())?)?,
        ViewFormat::Yaml => output::print(&yaml::to_yaml(&object()))?,
    }
    Ok(Exit::Done)
}

fn table(all: &[Setting]) -> String {
    let mut grid = Grid::new(["Key", "Value", "From"]);
    for Setting { key, value, origin } in all {
        let value = match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let from = match origin {
            Origin::Default => "default".to_owned(),
            Origin::File(from) | Origin::Environment(from) | Origin::Flag(from) => from.clone(),
        };
        grid.row([key.as_str(), value.as_str(), from.as_str()]);
    }
    grid.take_text()
}
