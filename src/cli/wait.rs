//! `wait`: until a condition holds, a field has a value, or an object is gone.

use std::pin::pin;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use futures::StreamExt;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::complete;
use super::diagnosis::find_out;
use super::find::{condition, escaped, items, not_found, path_of};
use super::follow;
use super::jsonpath::Template;
use super::output;
use super::progress::{Reporter, Show};
use super::report::{Exit, Problem};
use super::wanted::{NamespaceArgs, Wanted};
use crate::diagnosis::Standing;
use crate::kubeapi::resource::Resource;

/// Pause before a watch that has ended is begun again.
const PAUSE: Duration = Duration::from_millis(200);

/// Wait until something is so.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// KIND NAME…, or KIND/NAME…
    #[arg(value_name = "KIND", required = true, add = ArgValueCompleter::new(complete::object))]
    pub objects: Vec<String>,
    /// condition=NAME[=STATUS], delete, create, or jsonpath='{PATH}'[=VALUE]
    #[arg(long = "for", value_name = "WHAT", default_value = "condition=Ready")]
    pub until: Until,
    /// Longest time to wait, for example 30s or 5m; 0 looks once
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Every object of the kind in the namespace
    #[arg(long)]
    pub all: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// How downloads that are waited for are shown, on stderr
    #[arg(long, value_enum, default_value_t)]
    pub progress: Show,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq)]
pub enum Until {
    /// A condition has a status.
    Condition(String, String),
    /// The object is gone.
    Deleted,
    /// The object is there.
    Created,
    /// A path has a value, or any.
    Path(Template, Option<String>),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, status) = condition.split_once('=').unwrap_or((condition, "true"));
            return Ok(Self::Condition(name.to_owned(), status.to_owned()));
        }
        if let Some(path) = text.strip_prefix("jsonpath=") {
            let (template, value) = match path.rsplit_once("}=") {
                Some((template, value)) => (format!("{template}}}"), Some(value.to_owned())),
                None => (path.to_owned(), None),
            };
            return Template::parse(&template).map(|template| Self::Path(template, value));
        }
        match text {
            "delete" => Ok(Self::Deleted),
            "create" => Ok(Self::Created),
            _ => Err("expected condition=NAME, delete, create or jsonpath='{PATH}'=VALUE".to_owned()),
        }
    }
}

impl Until {
    /// Whether an object, or its absence, is what is waited for.
    pub fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Deleted, object) => object.is_none(),
            (_, None) => false,
            (Self::Created, Some(_)) => true,
            (Self::Condition(name, status), Some(object)) => {
                // A status of an older generation says nothing about this one.
                let generation = object["metadata"]["generation"].as_i64();
                let observed = object["status"]["observedGeneration"].as_i64();
                let current = observed.is_none_or(|observed| generation.is_none_or(|wanted| observed >= wanted));
                let found = condition(object, name).and_then(|condition| condition["status"].as_str());
                current && found.is_some_and(|found| found.eq_ignore_ascii_case(status))
            }
            (Self::Path(template, wanted), Some(object)) => match wanted {
                None => !template.select(object).is_empty(),
                Some(wanted) => template.render(object).is_ok_and(|found| found == *wanted),
            },
        }
    }
}

/// Reads `30s`, `5m`, `1h30m`, `0`; a negative time means a week, as kubectl has it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') {
        return Ok(Duration::from_secs(7 * 24 * 3600));
    }
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let span: jiff::SignedDuration = text.parse().map_err(|_| "expected a time such as 30s or 5m".to_owned())?;
    Duration::try_from(span).map_err(|_| "a time cannot be negative".to_owned())
}

/// Runs the verb.
///
/// # Errors
/// The daemon is not there, there is no such object, or the time is up.
pub async fn run(home: &Utf8Path, args: WaitArgs) -> Result<Exit> {
    let client = Client::find(home)?;
    let objects = objects(&client, &args).await?;
    if objects.is_empty() {
        return Err(Problem::not_so("no matching resources found").into());
    }
    let reporter = Mutex::new(Reporter::new(args.progress));
    let waits = objects.iter().map(|(resource, name)| wait(&client, home, *resource, name, &args, &reporter));
    let mut failure = None;
    let outcomes = futures::future::join_all(waits).await;
    reporter.into_inner().unwrap_or_else(PoisonError::into_inner).end();
    for outcome in outcomes {
        match outcome {
            Ok(text) => output::line(&text)?,
            Err(error) => match failure {
                None => failure = Some(error),
                Some(_) => drop(super::report::report(&error)),
            },
        }
    }
    failure.map_or(Ok(Exit::Done), Err)
}

async fn objects(client: &Client, args: &WaitArgs) -> Result<Vec<(Resource, String)>> {
    let resources = match Wanted::parse(&args.objects)? {
        Wanted::Named(objects) => return Ok(objects),
        Wanted::All(resources) if args.all || args.selector.is_some() => resources,
        Wanted::All(_) => return Err(Problem::usage("which objects?").hint("name them, or say --all").into()),
    };
    let mut found = Vec::new();
    for resource in resources {
        let selector = escaped(args.selector.as_deref().unwrap_or_default());
        let path = format!("{}?labelSelector={selector}", resource.path(Some(&args.namespace.namespace)));
        let list = client.get(&path).await?;
        let name = |item: &&Value| Some((resource, item["metadata"]["name"].as_str()?.to_owned()));
        found.extend(items(&list).iter().filter_map(name));
    }
    Ok(found)
}

async fn wait(
    client: &Client,
    home: &Utf8Path,
    resource: Resource,
    name: &str,
    args: &WaitArgs,
    reporter: &Mutex<Reporter>,
) -> Result<String> {
    let shown = format!("{}/{name}", resource.qualified_singular());
    let mut last = None;
    let watch = follow_until(client, resource, name, args, &mut last, reporter);
    match tokio::time::timeout(args.timeout.max(Duration::from_secs(1)), watch).await {
        Ok(Ok(())) => Ok(match args.until {
            Until::Deleted => format!("{shown} deleted"),
            _ => format!("{shown} condition met"),
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let mut message = format!("timed out waiting for the condition on {shown}");
            if matches!(args.until, Until::Condition(..))
                && let Some(why) = why(client, home, resource, name, args).await
            {
                message = format!("{message}\n{}", why.trim_end());
            }
            Err(Problem::not_so(message).into())
        }
    }
}

/// Returns why it is not ready yet.
async fn why(client: &Client, home: &Utf8Path, resource: Resource, name: &str, args: &WaitArgs) -> Option<String> {
    // Without an answer the timeout is all there is to tell.
    let found = find_out(client, home, resource, &args.namespace.namespace, name).await.ok()?;
    (found.can_be_ready() && found.diagnosis.standing != Standing::Ready).then(|| found.text())
}

/// Watches one object until it is as wanted; `last` always holds what was seen last.
async fn follow_until(
    client: &Client,
    resource: Resource,
    name: &str,
    args: &WaitArgs,
    last: &mut Option<Value>,
    reporter: &Mutex<Reporter>,
) -> Result<()> {
    let namespace = &args.namespace.namespace;
    let path = path_of(resource, namespace, name);
    loop {
        *last = match client.get(&path).await {
            Ok(object) => Some(object),
            Err(error) if error.is_not_found() => {
                if matches!(args.until, Until::Condition(..) | Until::Path(..)) {
                    return Err(not_found(client, resource, namespace, name, error).await.into());
                }
                None
            }
            Err(error) => return Err(error.into()),
        };
        if args.until.holds(last.as_ref()) {
            return Ok(());
        }
        if args.timeout.is_zero() {
            std::future::pending::<()>().await;
        }
        // What is there when the watch begins is told to its end: an object that went since the get is noticed.
        let watch = format!(
            "{}?fieldSelector=metadata.name%3D{}&watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            resource.path(Some(namespace)),
            escaped(name)
        );
        let mut begun = false;
        let mut events = pin!(follow::watch(client, &watch, "application/json").await?);
        // When it ends early the loop looks again; a daemon that went away is noticed then.
        while let Some(event) = events.next().await {
            let event = event.map_err(interrupted)?;
            match event.kind.as_str() {
                // The end of the beginning, and the object was not in it.
                "BOOKMARK" if !begun => *last = None,
                "BOOKMARK" => continue,
                "ERROR" => break,
                kind => *last = (kind != "DELETED").then_some(event.object),
            }
            begun = true;
            if let Some((topic, text)) = last.as_ref().and_then(fetching) {
                let said = format!("{name}: {text}");
                reporter.lock().unwrap_or_else(PoisonError::into_inner).say(&format!("{name} {topic}"), &said);
            }
            if args.until.holds(last.as_ref()) {
                return Ok(());
            }
        }
        // A daemon that is about to end ends every watch at once, and still answers.
        tokio::time::sleep(PAUSE).await;
    }
}

fn interrupted(error: ClientError) -> Problem {
    Problem::machine("the daemon went away while waiting").because(error)
}

/// Returns what is being fetched for an object, and how far that is.
fn fetching(object: &Value) -> Option<(String, String)> {
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    let is_pull = |condition: &&Value| matches!(condition["reason"].as_str(), Some("ModelPulling" | "ImagePulling"));
    let condition = conditions.find(is_pull)?;
    Some((condition["reason"].as_str()?.to_owned(), condition["message"].as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::imitation::Imitation;
    use super::*;

    #[test]
    fn a_condition_of_an_older_generation_is_not_met() {
        let object = |observed| {
            json!({
                "metadata": {"generation": 2},
                "status": {"observedGeneration": observed, "url": "u", "conditions": [{"type": "Ready", "status": "True"}]},
            })
        };
        let ready: Until = "condition=ready".parse().unwrap();
        assert!(!ready.holds(Some(&object(1))));
        assert!(ready.holds(Some(&object(2))));
        assert!(!"condition=Ready=False".parse::<Until>().unwrap().holds(Some(&object(2))));
        assert!("jsonpath={.status.url}=u".parse::<Until>().unwrap().holds(Some(&object(2))));
        assert!("jsonpath={.status.url}".parse::<Until>().unwrap().holds(Some(&object(2))));
        assert!("delete".parse::<Until>().unwrap().holds(None));
        assert!("ready".parse::<Until>().is_err());
    }

    #[tokio::test]
    async fn a_watch_that_ends_at_once_is_not_begun_again_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let home = Utf8Path::from_path(folder.path()).unwrap();
        let draining = Imitation::start(home, |question| match question.contains("watch=true") {
            true => (200, String::new()),
            false => (200, r#"{"metadata": {}}"#.to_owned()),
        });
        let draining = draining.await;
        let args = WaitArgs {
            objects: Vec::new(),
            until: "condition=Ready".parse().unwrap(),
            timeout: Duration::from_secs(30),
            namespace: NamespaceArgs { namespace: "default".to_owned() },
            all: false,
            selector: None,
            progress: Show::Quiet,
        };
        let client = Client::find(home).unwrap();
        let resource = Resource::Object(crate::api::Kind::InferenceService);
        let (mut last, reporter) = (None, Mutex::new(Reporter::new(Show::Quiet)));
        let waiting = follow_until(&client, resource, "iris", &args, &mut last, &reporter);
        assert!(tokio::time::timeout(PAUSE * 3, waiting).await.is_err());
        let watches = draining.count("watch=true");
        assert!((1..=3).contains(&watches), "{watches}");
    }

    #[test]
    fn times_are_written_as_people_write_them() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("1h30m", 5400), ("0", 0), ("90", 90), ("-1s", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert!(duration("soon").is_err());
    }
}
