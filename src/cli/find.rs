//! Finds objects, and names the nearest when there is none of that name.

use anyhow::Result;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::report::Problem;
use crate::api::{Kind, meta};
use crate::kubeapi::resource::Resource;

/// How alike two names must be to be suggested for each other.
const ALIKE: f64 = 0.8;

/// Returns the name most like `word`, if any is like it.
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let scored = names.map(|name| (strsim::jaro_winkler(word, &name.to_ascii_lowercase()), name));
    scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// Returns the path of one object.
pub fn path_of(resource: Resource, namespace: &str, name: &str) -> String {
    format!("{}/{name}", resource.path(Some(namespace)))
}

/// Gets one object.
///
/// # Errors
/// There is none of that name; the error suggests one.
pub async fn get(client: &Client, resource: Resource, namespace: &str, name: &str) -> Result<Value> {
    match client.get(&path_of(resource, namespace, name)).await {
        Err(error) if error.is_not_found() => Err(not_found(client, resource, namespace, name, error).await.into()),
        other => Ok(other?),
    }
}

/// Explains that there is no object of that name.
pub async fn not_found(
    client: &Client,
    resource: Resource,
    namespace: &str,
    name: &str,
    error: ClientError,
) -> Problem {
    let problem = Problem::not_so(error.to_string());
    if let Some(place) = broken_file(client, resource, namespace, name).await {
        return problem.hint(format!("a file of the folder means it and cannot be taken: {place}"));
    }
    let Ok(list) = client.get(&resource.path(None)).await else { return problem };
    let items = items(&list);
    let own = |item: &&Value| !resource.is_namespaced() || item["metadata"]["namespace"] == namespace;
    let names = items.iter().copied().filter(own).filter_map(|item| item["metadata"]["name"].as_str());
    if names.clone().any(|own| own == name) {
        // It was not there when it was asked for, and is now: its file has just been read.
        return problem.hint("it has appeared since: say the same again");
    }
    let elsewhere = items.iter().find(|item| item["metadata"]["name"] == name);
    if let Some(namespace) = elsewhere.and_then(|item| item["metadata"]["namespace"].as_str()) {
        return problem.hint(format!("there is one in the namespace `{namespace}`: add -n {namespace}"));
    }
    match nearest(name, names.clone()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => {
            let known: Vec<&str> = names.take(10).collect();
            match known.as_slice() {
                [] if resource.is_namespaced() => {
                    problem.hint(format!("there are none in the namespace `{namespace}`"))
                }
                [] => problem,
                known => problem.hint(format!("there are: {}", known.join(", "))),
            }
        }
    }
}

/// Returns what is wrong with the file that means an object, in one line.
pub async fn broken_file(client: &Client, resource: Resource, namespace: &str, name: &str) -> Option<String> {
    let problems = client.get("/apis/kserve-local/v1/problems").await.ok()?;
    let object = match resource.is_namespaced() {
        true => format!("{} {namespace}/{name}", resource.kind()),
        false => format!("{} {name}", resource.kind()),
    };
    items(&problems).into_iter().find_map(|file| {
        let diagnostics = file["diagnostics"].as_array()?;
        let own = diagnostics.iter().find(|d| d["severity"] == "error" && d["object"] == object.as_str())?;
        let (path, message) = (file["path"].as_str()?, own["message"].as_str()?);
        let place = own["line"].as_u64().map(|line| format!(":{line}:{}", own["column"])).unwrap_or_default();
        Some(format!("{path}{place}: {message}"))
    })
}

/// Returns the items of a list.
pub fn items(list: &Value) -> Vec<&Value> {
    list["items"].as_array().map(|items| items.iter().collect()).unwrap_or_default()
}

/// Returns the pods of an InferenceService.
///
/// # Errors
/// The daemon does not answer.
pub async fn pods_of(client: &Client, namespace: &str, service: &str) -> Result<Vec<Value>, ClientError> {
    let selector = escaped(&format!("{}={service}", meta::INFERENCE_SERVICE_LABEL));
    let path = format!("{}?labelSelector={selector}", Resource::Pods.path(Some(namespace)));
    let list = client.get(&path).await?;
    Ok(items(&list).into_iter().cloned().collect())
}

/// Returns the condition of an object by type.
pub fn condition<'o>(object: &'o Value, kind: &str) -> Option<&'o Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(kind)))
}

/// The kind most verbs mean when none is named.
pub const SERVICE: Resource = Resource::Object(Kind::InferenceService);

/// Escapes a query value.
pub fn escaped(value: &str) -> String {
    url::form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_alike_are_suggested() {
        let names = ["sklearn-iris", "llama", "mnist"];
        assert_eq!(nearest("sklearn-irs", names.into_iter()), Some("sklearn-iris"));
        assert_eq!(nearest("mnits", names.into_iter()), Some("mnist"));
        assert_eq!(nearest("zzz", names.into_iter()), None);
    }
}
