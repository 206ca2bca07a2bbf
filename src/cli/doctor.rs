//! `doctor`: looks at this machine and says what is wrong, why, and what mends it.

use std::fmt::Write as _;

use anyhow::Result;
use camino::Utf8Path;
use clap::{Args, Subcommand};
use serde_json::json;

use super::doctor_checks::{self, Finding, Severity};
use super::doctor_facts::{self, Facts, Lock};
use super::doctor_storage;
use super::format::TextOrJson;
use super::leftovers;
use super::output;
use super::report::Exit;
use crate::home::{Home, restrict};

/// Look at this machine: engine, permissions, disk, ports, proxies, clock, GPUs, credentials, and more.
///
/// Ends with 0 when all is well, 1 when there are warnings, 2 when models cannot be served.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DoctorArgs {
    /// One thing to look at instead.
    #[command(subcommand)]
    pub command: Option<DoctorCommand>,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TextOrJson,
    /// Show what is as it should be, too
    #[arg(short, long)]
    pub verbose: bool,
    /// Mend what can be mended without asking: what killed runs left, a stale lock, the mode of the token
    #[arg(long)]
    pub fix: bool,
}

/// What to look at instead of everything.
#[derive(Clone, Debug, Subcommand)]
#[expect(missing_docs, reason = "the help of a verb is the documentation of its arguments")]
pub enum DoctorCommand {
    Storage(doctor_storage::StorageArgs),
}

/// Runs the verb.
///
/// # Errors
/// Stdout is closed or full, or what is looked at is refused.
pub async fn run(home: &Utf8Path, args: DoctorArgs) -> Result<Exit> {
    if let Some(DoctorCommand::Storage(args)) = &args.command {
        return doctor_storage::run(home, args).await;
    }
    if args.fix {
        fix(home, &doctor_facts::gather(home).await).await?;
    }
    let findings = doctor_checks::check(&doctor_facts::gather(home).await);
    match args.output {
        TextOrJson::Json => output::line(&serde_json::to_string_pretty(&json!({"checks": findings}))?)?,
        TextOrJson::Text => output::print(&text(&findings, args.verbose))?,
    }
    Ok(match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Error) => Exit::Usage,
        Some(Severity::Warning) => Exit::NotSo,
        _ => Exit::Done,
    })
}

/// Mends what nobody can want as it is.
async fn fix(home: &Utf8Path, facts: &Facts) -> Result<()> {
    leftovers::collect_all().await;
    let home = Home::new(home);
    if matches!(facts.lock, Lock::Stale { .. }) {
        std::fs::remove_file(home.addresses())?;
        output::note("removed the addresses of a daemon that is gone");
    }
    if facts.token_mode.is_some_and(|mode| mode & 0o077 != 0) {
        restrict(&home.token(), 0o600)?;
        output::note("made the API's token readable by its owner only");
    }
    Ok(())
}

/// Writing to a string cannot fail, so nobody looks.
fn text(findings: &[Finding], verbose: bool) -> String {
    let mut text = String::new();
    let shown = |finding: &&Finding| verbose || finding.severity != Severity::Ok;
    for finding in findings.iter().filter(shown) {
        let word = match finding.severity {
            Severity::Ok => "ok",
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let _ = writeln!(text, "{word:<8} {:<14} {}", finding.id, finding.summary);
        for (label, words) in [("because", &finding.cause), ("fix", &finding.fix)] {
            if let Some(words) = words {
                let _ = writeln!(text, "{:23} {label}: {words}", "");
            }
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let _ = writeln!(text, "{} checks, {errors} errors, {warnings} warnings", findings.len());
    text
}
