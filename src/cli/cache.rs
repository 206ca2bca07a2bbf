//! `cache`: what is in the model cache, with or without a daemon: the folder is all that is asked.

mod change;
mod look;
mod transfer;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, Subcommand};

use super::format::Format;
use super::progress::Show;
use super::report::{Exit, Problem};
use super::serve::{bad_setting, environment};
use crate::api::StorageUri;
use crate::config::{Flags, Settings};
use crate::home::Home;
use crate::storage::{Cache, CacheEntry};

/// Look at the model cache and change it. Works with and without the daemon.
#[derive(Clone, Debug, Args)]
pub struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What to do with the cache.
#[derive(Clone, Debug, Subcommand)]
#[expect(missing_docs, reason = "the help of a verb is the documentation of its arguments")]
pub enum CacheCommand {
    Ls(LsArgs),
    Df(DfArgs),
    Verify(VerifyArgs),
    Prune(PruneArgs),
    Pin(PinArgs),
    Rm(RmArgs),
    Export(ExportArgs),
    Import(ImportArgs),
}

/// List the models that are here: size, age, last use, and who needs them.
#[derive(Clone, Debug, Args)]
pub struct LsArgs {
    /// wide, yaml or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Show what the cache takes, what sharing saves, and what is left of the disk.
#[derive(Clone, Debug, Args)]
pub struct DfArgs {
    /// yaml or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Read models again and compare every file with the digest recorded when it came.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Models by URI or by the beginning of their id; all when none are named
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,
    /// Remove what is damaged, so that it is fetched again; models in use are told, not removed
    #[arg(long)]
    pub remove: bool,
    /// How progress is shown, on stderr
    #[arg(long, value_enum, default_value_t)]
    pub progress: Show,
    /// yaml or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Remove models that no service needs and nobody pinned, and what downloads left behind.
#[derive(Clone, Debug, Args)]
pub struct PruneArgs {
    /// Only models nobody used for this long, such as 168h or 90m
    #[arg(long, value_name = "TIME", value_parser = super::wait::duration)]
    pub unused_for: Option<std::time::Duration>,
    /// Only until the cache takes no more than this, the least lately used first, such as 50Gi
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// yaml or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Keep models from being removed, here already or not; --remove takes the pin off.
#[derive(Clone, Debug, Args)]
pub struct PinArgs {
    /// Models by URI or by the beginning of their id
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
    /// Take the pin off
    #[arg(long)]
    pub remove: bool,
}

/// Remove models. What is used, pinned or being read is refused.
#[derive(Clone, Debug, Args)]
pub struct RmArgs {
    /// Models by URI or by the beginning of their id
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
}

/// Write models as a tar archive, for a machine without a network.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Models by URI or by the beginning of their id
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
    /// The archive; - for stdout
    #[arg(short = 'o', long = "output", value_name = "FILE|-")]
    pub file: Utf8PathBuf,
}

/// Take models from an archive that `cache export` wrote; every file is held against its record.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// The archive
    #[arg(value_name = "FILE")]
    pub file: Utf8PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// The cache cannot be read or written, or there is no such model.
pub async fn run(home: &Utf8Path, args: CacheArgs) -> Result<Exit> {
    let (cache, settings) = open(home)?;
    let work = move || match args.command {
        CacheCommand::Ls(args) => look::list(&cache, &args),
        CacheCommand::Df(args) => look::usage(&cache, &settings, &args),
        CacheCommand::Verify(args) => look::verify(&cache, &args),
        CacheCommand::Prune(args) => change::prune(&cache, &args),
        CacheCommand::Pin(args) => change::pin(&cache, &args),
        CacheCommand::Rm(args) => change::remove(&cache, &args),
        CacheCommand::Export(args) => transfer::export(&cache, &args),
        CacheCommand::Import(args) => transfer::import(&cache, &args),
    };
    tokio::task::spawn_blocking(work).await?
}

/// Opens the cache that the settings of a home name.
pub(super) fn open(home: &Utf8Path) -> Result<(Cache, Settings)> {
    let settings = Settings::load(Home::new(home), &Flags::default(), environment()).map_err(bad_setting)?;
    let cache = Cache::open(settings.cache_dir.clone()).map_err(|error| {
        Problem::machine(format!("the cache `{}` cannot be used", settings.cache_dir))
            .because(error)
            .hint("choose a folder you may write to: KSERVE_LOCAL_CACHE_DIR, or cacheDir in config.yaml")
    })?;
    Ok((cache, settings))
}

/// Finds models by what a person calls them: the URI, or the beginning of the id.
fn find(cache: &Cache, names: &[String]) -> Result<Vec<CacheEntry>> {
    let all = cache.list()?;
    names.iter().map(|name| one(cache, &all, name)).collect()
}

fn one(cache: &Cache, all: &[CacheEntry], name: &str) -> Result<CacheEntry> {
    let id = StorageUri::parse(name).ok().and_then(|uri| cache.id_of(&uri));
    let is_it = |entry: &&CacheEntry| Some(&entry.id) == id.as_ref() || entry.uri == name;
    let by_id = |entry: &&CacheEntry| name.len() >= 4 && entry.id.starts_with(name);
    let named: Vec<&CacheEntry> = match all.iter().find(is_it) {
        Some(entry) => vec![entry],
        None => all.iter().filter(by_id).collect(),
    };
    match &named[..] {
        [only] => Ok((*only).clone()),
        [] => Err(Problem::not_so(format!("there is no model `{name}` in the cache"))
            .hint("`kserve-local cache ls` shows what there is")
            .into()),
        _ => Err(Problem::usage(format!("`{name}` begins the id of {} models", named.len()))
            .hint("write more of the id")
            .into()),
    }
}

/// Returns the age of a moment, as kubectl writes it.
fn age(then: std::time::SystemTime) -> String {
    let seconds = then.elapsed().unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
