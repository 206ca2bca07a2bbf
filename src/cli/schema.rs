//! `schema`: a JSON Schema for editors.

use anyhow::Result;
use clap::Args;

use super::output;
use super::report::Exit;
use crate::manifest::json_schema::json_schema;

/// Print a JSON Schema of every kind, for completion and checks in an editor.
///
/// With the YAML language server: `kserve-local schema > ~/.kserve-local/schema.json`, and as the first line of a manifest
/// `# yaml-language-server: $schema=/home/you/.kserve-local/schema.json`.
#[derive(Clone, Debug, Args)]
pub struct SchemaArgs {}

/// Runs the verb.
///
/// # Errors
/// Stdout is closed or full.
pub fn run(_args: SchemaArgs) -> Result<Exit> {
    output::line(&serde_json::to_string_pretty(&json_schema())?)?;
    Ok(Exit::Done)
}
