//! `validate`: manifests checked without a daemon.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use serde_json::{Value, json};

use super::format::Format;
use super::input::{self, Source};
use super::output;
use super::report::Exit;
use crate::api::Object;
use crate::manifest::Diagnostic;

/// Check manifests without a daemon: syntax, fields, KServe's rules, and whether a runtime serves each model.
///
/// Without files it checks everything in the home folder.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// Files, folders, URLs, or - for stdin
    #[arg(value_name = "FILE|-|DIR|URL")]
    pub files: Vec<String>,
    /// The same, spelled as for apply
    #[arg(short = 'f', long = "filename", value_name = "FILE|-|DIR|URL")]
    pub filename: Vec<String>,
    /// Look into sub-folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Print what was found as json or yaml
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Format,
}

/// Runs the verb.
///
/// # Errors
/// A manifest cannot be read.
pub async fn run(home: &Utf8Path, args: ValidateArgs) -> Result<Exit> {
    let names = super::manifests::named_or_folder(home, args.files.iter().chain(&args.filename))?;
    let mut sources = input::read(&names, args.recursive).await?;
    super::manifests::resolve_all(home, &mut sources)?;
    if args.output.is_table() {
        output::print(&text(&sources))?;
    } else {
        output::print(&args.output.render(&document(&sources))?)?;
    }
    Ok(if sources.iter().any(Source::has_errors) { Exit::Usage } else { Exit::Done })
}

fn text(sources: &[Source]) -> String {
    let mut text = String::new();
    let (mut valid, mut errors, mut warnings) = (0, 0, 0);
    for source in sources {
        for diagnostic in &source.decoded.diagnostics {
            text.push_str(&diagnostic.render(Some(&source.text)));
            text.push_str("\n\n");
        }
        let bad = source.decoded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        valid += source.decoded.objects.iter().filter(|found| is_valid(source, &found.object)).count();
        errors += bad;
        warnings += source.decoded.diagnostics.len() - bad;
    }
    let counted = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    text + &format!(
        "{}: {} valid, {}, {}\n",
        counted(sources.len(), "file"),
        counted(valid, "object"),
        counted(errors, "error"),
        counted(warnings, "warning")
    )
}

/// Whether nothing is said against an object.
fn is_valid(source: &Source, object: &Object) -> bool {
    let mut errors = source.decoded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
    !errors.any(|diagnostic| diagnostic.object.as_ref() == Some(&object.key))
}

fn document(sources: &[Source]) -> Value {
    let files = sources.iter().map(|source| {
        let valid = source.decoded.objects.iter().filter(|found| is_valid(source, &found.object));
        let objects: Vec<Value> = valid.map(|found| object(&found.object)).collect();
        let diagnostics: Vec<Value> = source.decoded.diagnostics.iter().map(Diagnostic::to_value).collect();
        json!({"file": source.name, "valid": !source.has_errors(), "objects": objects, "diagnostics": diagnostics})
    });
    json!({"files": files.collect::<Vec<_>>()})
}

fn object(object: &Object) -> Value {
    json!({"kind": object.key.kind.as_str(), "namespace": object.key.namespace, "name": object.key.name})
}
