//! `history` and `rollback`: the revisions that are kept, and going back to one.

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use reqwest::Method;
use serde_json::Value;

use super::client::Client;
use super::complete;
use super::find;
use super::one_service::{OneService, of_service};
use super::output::{self, Grid};
use super::report::{Exit, Problem};
use super::wanted::NamespaceArgs;
use crate::api::{ComponentKind, Kind};
use crate::kubeapi::resource::Resource;
use crate::plan::said::bytes;

/// Show the revisions of a service that are kept, newest first.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// Which one.
    #[command(flatten)]
    pub of: OneService,
}

/// Go back to an earlier revision of a service: its file is written as it was then.
///
/// Without `--to-revision` it is the last one that had all traffic, or the one before when that is the wanted one. It gets
/// all traffic, also when it began as a canary.
#[derive(Clone, Debug, Args)]
pub struct RollbackArgs {
    /// Name of the InferenceService
    #[arg(add = ArgValueCompleter::new(complete::service))]
    pub name: String,
    /// Number or name of the revision, as `history` shows them
    #[arg(long, value_name = "REVISION")]
    pub to_revision: Option<String>,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

/// Runs `history`.
///
/// # Errors
/// The daemon is not there, or there is no such service.
pub async fn history(home: &Utf8Path, args: HistoryArgs) -> Result<Exit> {
    let Some(answer) = args.of.ask(home, "revisions").await? else { return Ok(Exit::Done) };
    let mut grid = Grid::new(["Revision", "Name", "Created", "Standing", "Answered", "Peak"]);
    for item in items(&answer) {
        let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let standing: Vec<&str> = item["standing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut standing = standing.join(", ");
        if item["source"].is_null() {
            standing = if standing.is_empty() { "not kept".to_owned() } else { format!("{standing}, not kept") };
        }
        grid.row([
            item["revision"].to_string(),
            text("name"),
            text("createdAt").split('.').next().unwrap_or_default().trim_end_matches('Z').to_owned() + "Z",
            standing,
            if item["proven"] == true { "yes" } else { "no" }.to_owned(),
            item["peak"].as_u64().filter(|peak| *peak > 0).map_or_else(|| "-".to_owned(), bytes),
        ]);
    }
    output::print(&grid.take_text())?;
    Ok(Exit::Done)
}

/// Runs `rollback`.
///
/// # Errors
/// The daemon is not there, there is no such service, or nothing to go back to.
pub async fn rollback(home: &Utf8Path, args: RollbackArgs) -> Result<Exit> {
    let client = Client::find(home)?;
    let namespace = &args.namespace.namespace;
    let answer = of_service(&client, namespace, &args.name, "revisions").await?;
    let items = items(&answer);
    let chosen = match &args.to_revision {
        Some(asked) => named(&items, asked)?,
        None => before(&items).ok_or_else(|| {
            Problem::not_so(format!("`{}` has no earlier revision to go back to", args.name))
                .hint(format!("kserve-local history {} -n {namespace} shows what is kept", args.name))
        })?,
    };
    let label = chosen["name"].as_str().unwrap_or_default();
    if is(chosen, "wanted") {
        output::note(&format!("{label} is the wanted revision already"));
        return Ok(Exit::Done);
    }
    let Some(source) = chosen.get("source").filter(|source| !source.is_null()) else {
        return Err(Problem::not_so(format!("what {label} was written as is not kept any more")).into());
    };
    write(&client, namespace, source).await?;
    output::line(&format!("inferenceservice.serving.kserve.io/{} rolled back to {label}", text(source, "name")))?;
    Ok(Exit::Done)
}

/// Returns a spec without the percents of canaries: a revision that began as one is gone back to with all traffic.
fn whole(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for component in ComponentKind::ALL {
        if let Some(fields) = spec.get_mut(component.to_string()).and_then(Value::as_object_mut) {
            fields.remove("canaryTrafficPercent");
        }
    }
    spec
}

/// Writes a service as it was; everything but the spec, labels and annotations is as it is now.
async fn write(client: &Client, namespace: &str, source: &Value) -> Result<()> {
    let name = text(source, "name");
    let mut object = find::get(client, Resource::Object(Kind::InferenceService), namespace, &name).await?;
    object["spec"] = whole(&source["spec"]);
    for field in ["labels", "annotations"] {
        match source["metadata"].get(field) {
            Some(written) => object["metadata"][field] = written.clone(),
            None => drop(object["metadata"].as_object_mut().and_then(|metadata| metadata.remove(field))),
        }
    }
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    let path = find::path_of(Resource::Object(Kind::InferenceService), namespace, &name);
    client.call(Method::PUT, &path, Some(&object)).await?;
    Ok(())
}

fn text(source: &Value, field: &str) -> String {
    source["metadata"][field].as_str().unwrap_or_default().to_owned()
}

fn items(answer: &Value) -> Vec<&Value> {
    answer["items"].as_array().into_iter().flatten().collect()
}

fn is(item: &Value, standing: &str) -> bool {
    item["standing"].as_array().into_iter().flatten().any(|mark| mark == standing)
}

/// The revision people mean by "the one before": the last that had all traffic, if that is not the wanted one; else the
/// newest other one that answered and is kept.
fn before<'v>(items: &[&'v Value]) -> Option<&'v Value> {
    let kept: Vec<&Value> =
        items.iter().copied().filter(|item| !item["source"].is_null() && !is(item, "wanted")).collect();
    let predictor = |item: &&&Value| item["component"] == "predictor";
    let rolled_out = kept.iter().find(|item| is(item, "rolled out"));
    let proven = || kept.iter().filter(predictor).find(|item| item["proven"] == true);
    rolled_out.or_else(proven).or_else(|| kept.first()).copied()
}

fn named<'v>(items: &[&'v Value], asked: &str) -> Result<&'v Value, Problem> {
    let number: Option<u64> = asked.parse().ok();
    let is_it = |item: &&&Value| item["name"] == asked || (number.is_some() && item["revision"].as_u64() == number);
    let found = items.iter().find(is_it);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = items.iter().filter_map(|item| item["name"].as_str()).collect();
        Problem::not_so(format!("there is no revision `{asked}`")).hint(format!("there are: {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_began_as_a_canary_is_gone_back_to_with_all_traffic() {
        let written = json!({
            "predictor": { "canaryTrafficPercent": 20, "minReplicas": 2 },
            "transformer": { "canaryTrafficPercent": 0 },
        });
        assert_eq!(whole(&written), json!({ "predictor": { "minReplicas": 2 }, "transformer": {} }));
    }

    #[test]
    fn the_one_before_is_the_last_that_had_all_traffic() {
        let item = |revision: u32, standing: &[&str], proven: bool| json!({ "revision": revision, "component": "predictor", "standing": standing, "proven": proven, "source": {} });
        let bad = [item(3, &["wanted"], false), item(2, &["rolled out"], true), item(1, &[], true)];
        assert_eq!(before(&bad.iter().collect::<Vec<_>>()).unwrap()["revision"], 2);
        let good = [item(3, &["wanted", "rolled out"], true), item(2, &[], false), item(1, &[], true)];
        assert_eq!(before(&good.iter().collect::<Vec<_>>()).unwrap()["revision"], 1);
        let only = [item(1, &["wanted", "rolled out"], true)];
        assert_eq!(before(&only.iter().collect::<Vec<_>>()), None);
    }
}
