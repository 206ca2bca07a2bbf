//! `lint`: where a cluster would do something else than this machine.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use serde_json::{Value, json};

use super::format::TextOrJson;
use super::input::{self, Source};
use super::manifests;
use super::output;
use super::parity;
use super::report::Exit;
use crate::api::{Kind, ServiceKey};
use crate::home::Home;
use crate::reconcile::revisions::{self, Ledger};

/// Say where a cluster would do something else with the manifests: fields that are ignored or emulated here, defaults it
/// adds, deprecated forms, folders of this machine, images without a version.
///
/// Without files it looks at the home folder. Ends with 1 when there is something to say.
#[derive(Clone, Debug, Args)]
pub struct LintArgs {
    /// Files, folders, URLs, or - for stdin
    #[arg(value_name = "FILE|-|DIR|URL")]
    pub files: Vec<String>,
    /// The same, spelled as for apply
    #[arg(short = 'f', long = "filename", value_name = "FILE|-|DIR|URL")]
    pub filename: Vec<String>,
    /// Look into sub-folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TextOrJson,
}

/// Runs the verb.
///
/// # Errors
/// A manifest cannot be read.
pub async fn run(home: &Utf8Path, args: LintArgs) -> Result<Exit> {
    let names = manifests::named_or_folder(home, args.files.iter().chain(&args.filename))?;
    let mut sources = input::read(&names, args.recursive).await?;
    manifests::resolve_all(home, &mut sources)?;
    let measured = revisions::load(&Home::new(home));
    let mut findings = Vec::new();
    for source in &sources {
        findings.extend(open_secret(source));
        findings
            .extend(source.decoded.diagnostics.iter().map(|found| document(source, "manifest", &found.render(None))));
        for found in &source.decoded.objects {
            let key = &found.object.key;
            let peak = peak(&measured, &key.to_service_key());
            for gap in parity::differences(&found.object, peak) {
                let place = crate::manifest::locate(&source.text, found.position, &gap.field).unwrap_or(found.position);
                findings.push(document(source, gap.rule, &format!("{}:{place}: {gap}", source.name)));
            }
        }
    }
    if args.output == TextOrJson::Json {
        output::line(&serde_json::to_string_pretty(&json!({"findings": findings}))?)?;
    } else {
        findings.iter().filter_map(|finding| finding["message"].as_str()).try_for_each(output::line)?;
    }
    if sources.iter().any(Source::has_errors) {
        return Ok(Exit::Usage);
    }
    Ok(if findings.is_empty() { Exit::Done } else { Exit::NotSo })
}

/// Says that others can read a file that holds a Secret.
fn open_secret(source: &Source) -> Option<Value> {
    let found = source.decoded.objects.iter().find(|found| found.object.key.kind == Kind::Secret)?;
    let mode = super::doctor_facts::open_mode(Utf8Path::new(&source.name))?;
    let (name, key) = (&source.name, &found.object.key);
    let message = format!(
        "{name}:{}: Secret {}/{}: the file can be read by others, mode {mode:o} (open-secret; chmod 600 {name})",
        found.position, key.namespace, key.name
    );
    Some(document(source, "open-secret", &message))
}

fn document(source: &Source, rule: &str, message: &str) -> Value {
    json!({"file": source.name, "rule": rule, "message": message})
}

/// The most memory a replica of a service was measured to use here, in bytes.
fn peak(measured: &Ledger, service: &ServiceKey) -> Option<u64> {
    let of_service = measured.revisions.iter().filter(|(component, _)| component.service == *service);
    let peaks = of_service.flat_map(|(_, revisions)| revisions.known.values().map(|note| note.learned.peak));
    peaks.max().filter(|peak| *peak > 0)
}
