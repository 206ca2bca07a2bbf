//! `doctor`: looks at this machine and says what is wrong, why, and what mends it.

use std::fmt::Write as _;

use anyhow::Result;
use camino::Utf8Path;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::doctor_checks::{self, Finding, Severity};
use super::doctor_facts;
use super::output;
use super::report::Exit;

/// Look at this machine: engine, permissions, disk, ports, proxies, clock, GPUs, credentials, and more.
///
/// Ends with 0 when all is well, 1 when there are warnings, 2 when models cannot be served.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: DoctorOutput,
    /// Show what is as it should be, too
    #[arg(short, long)]
    pub verbose: bool,
}

/// How a check-up is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DoctorOutput {
    /// For people
    #[default]
    Text,
    /// One object with every check
    Json,
}

/// Runs the verb.
///
/// # Errors
/// Stdout is closed or full.
pub async fn run(home: &Utf8Path, args: DoctorArgs) -> Result<Exit> {
    let findings = doctor_checks::check(&doctor_facts::gather(home).await);
    match args.output {
        DoctorOutput::Json => output::line(&serde_json::to_string_pretty(&json!({"checks": findings}))?)?,
        DoctorOutput::Text => output::print(&text(&findings, args.verbose))?,
    }
    Ok(match findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Error) => Exit::Usage,
        Some(Severity::Warning) => Exit::NotSo,
        _ => Exit::Done,
    })
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
