//! OpenAPI v3: the schemas and paths that `kubectl` reads before it writes, and what `kubectl explain` shows.
//!
//! Schemas come from the types that manifests are decoded into ([`manifest::schema`](crate::manifest::schema)), so a field
//! that is published here is a field that is accepted. Each group and version has a document whose address carries its
//! hash, so that clients fetch it once.

use std::sync::LazyLock;

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::failure::Failure;
use super::lists::{ListType, list_type};
use super::objects::Call;
use super::resource::Resource;
use super::words;
use crate::manifest::decode;
use crate::manifest::schema::{Definitions, REFERENCE};

/// How long a client may keep a document: its address changes when it does.
const FOR_EVER: &str = "public, immutable, max-age=31536000";

/// One group and version.
struct Document {
    /// `api/v1`, `apis/serving.kserve.io/v1beta1`, ….
    path: String,
    text: String,
    hash: String,
}

static DOCUMENTS: LazyLock<Vec<Document>> = LazyLock::new(|| {
    let mut versions: Vec<(&str, &str)> = Resource::all().map(|r| (r.group(), r.version())).collect();
    versions.sort_unstable();
    versions.dedup();
    versions.into_iter().map(|(group, version)| document(group, version)).collect()
});

/// Answers `/openapi/v3` and what is below it; `rest` is empty or a document's path.
///
/// # Errors
/// There is no such document.
pub fn answer(rest: &str, call: &Call) -> Result<Response, Failure> {
    if rest.is_empty() {
        return Ok(Json(root()).into_response());
    }
    let document = DOCUMENTS.iter().find(|document| document.path == rest).ok_or_else(Failure::no_such_path)?;
    let etag = format!("\"{}\"", document.hash);
    let mut response = (
        [
            (header::CONTENT_TYPE, "application/json".to_owned()),
            (header::ETAG, etag),
            (header::VARY, "Accept".to_owned()),
        ],
        document.text.clone(),
    )
        .into_response();
    if call.query.get("hash") == Some(document.hash.as_str()) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(FOR_EVER));
    }
    Ok(response)
}

fn root() -> Value {
    let path = |document: &Document| {
        let url = format!("/openapi/v3/{}?hash={}", document.path, document.hash);
        (document.path.clone(), json!({"serverRelativeURL": url}))
    };
    json!({"paths": DOCUMENTS.iter().map(path).collect::<Map<_, _>>()})
}

fn document(group: &str, version: &str) -> Document {
    let mut definitions = Definitions::new();
    let mut paths = Map::new();
    for resource in Resource::all().filter(|r| r.group() == group && r.version() == version) {
        let name = schema(resource, &mut definitions);
        add_paths(resource, &name, &mut paths);
    }
    let schemas: Map<String, Value> =
        definitions.into_iter().map(|(name, schema)| (name.clone(), finished(&name, schema))).collect();
    let text = json!({
        "openapi": "3.0.0",
        "info": {"title": "kserve-local", "version": super::discovery::kubernetes_version()},
        "paths": paths,
        "components": {"schemas": schemas},
    })
    .to_string();
    let hash: String = Sha256::digest(&text).iter().take(16).map(|byte| format!("{byte:02X}")).collect();
    let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
    Document { path, text, hash }
}

/// Adds the schema of a resource's kind and returns its name.
fn schema(resource: Resource, definitions: &mut Definitions) -> String {
    let kind = resource.kind().to_owned();
    let known = match resource {
        Resource::Object(kind) => decode::schema(kind, definitions),
        _ => None,
    };
    let definition = definitions
        .entry(known.unwrap_or_else(|| kind.clone()))
        .or_insert_with(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    definition["x-kubernetes-group-version-kind"] =
        json!([{"group": resource.group(), "version": resource.version(), "kind": resource.kind()}]);
    kind
}

/// Adds what the types do not say: how lists are merged, and what fields are for.
fn finished(owner: &str, mut schema: Value) -> Value {
    if let Some(about) = words::about(owner) {
        schema["description"] = json!(about);
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return schema };
    for (field, property) in properties {
        if property.is_null() {
            *property = json!({"x-kubernetes-preserve-unknown-fields": true});
        }
        if let Some(about) = words::about_field(owner, field) {
            property["description"] = json!(about);
        }
        if property["type"] != "array" {
            continue;
        }
        // Only lists of objects can be told apart by fields.
        let of_objects = property["items"].get("allOf").is_some();
        match list_type(field) {
            ListType::Map(keys) if of_objects => {
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
            ListType::Set => property["x-kubernetes-list-type"] = json!("set"),
            _ => property["x-kubernetes-list-type"] = json!("atomic"),
        }
    }
    schema
}

fn add_paths(resource: Resource, schema: &str, paths: &mut Map<String, Value>) {
    let scope = resource.is_namespaced().then_some("{namespace}");
    let collection = resource.path(scope);
    let body = json!({"$ref": format!("{REFERENCE}{schema}")});
    let mut many = Map::new();
    let mut one = Map::new();
    for verb in resource.verbs() {
        let (place, method, action) = match *verb {
            "list" => (&mut many, "get", "list"),
            "create" => (&mut many, "post", "post"),
            "deletecollection" => (&mut many, "delete", "deletecollection"),
            "get" => (&mut one, "get", "get"),
            "update" => (&mut one, "put", "put"),
            "patch" => (&mut one, "patch", "patch"),
            "delete" => (&mut one, "delete", "delete"),
            _ => continue,
        };
        place.insert(method.to_owned(), operation(resource, action, &body));
    }
    paths.insert(format!("{collection}/{{name}}"), Value::Object(one));
    paths.insert(collection, Value::Object(many));
}

fn operation(resource: Resource, action: &str, body: &Value) -> Value {
    let writes = matches!(action, "post" | "put" | "patch");
    let names: &[&str] = match action {
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun"],
        "list" => &["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "watch"],
        _ => &[],
    };
    let parameter =
        |name: &&str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let mut operation = json!({
        "parameters": names.iter().map(parameter).collect::<Vec<_>>(),
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {
            "group": resource.group(), "version": resource.version(), "kind": resource.kind(),
        },
    });
    if writes {
        operation["requestBody"] = json!({"content": {"*/*": {"schema": body}}});
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_kind_can_be_patched() {
        for document in DOCUMENTS.iter() {
            let value: Value = serde_json::from_str(&document.text).unwrap();
            let schemas = value["components"]["schemas"].as_object().unwrap();
            for target in document.text.split(REFERENCE).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(schemas.contains_key(target), "{}: {target}", document.path);
            }
        }
        let core: Value = serde_json::from_str(&DOCUMENTS[0].text).unwrap();
        let patch = &core["paths"]["/api/v1/namespaces/{namespace}/secrets/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Secret");
        assert!(patch["parameters"].to_string().contains("fieldValidation"));
    }

    #[test]
    fn the_schema_of_a_service_goes_down_to_its_containers() {
        let document = DOCUMENTS.iter().find(|document| document.path.ends_with("v1beta1")).unwrap();
        let value: Value = serde_json::from_str(&document.text).unwrap();
        let schemas = &value["components"]["schemas"];
        let fields = |name: &str| schemas[name]["properties"].as_object().unwrap().len();
        assert_eq!(schemas["PredictorSpec"]["properties"]["minReplicas"]["type"], "integer");
        assert_eq!(schemas["Container"]["properties"]["env"]["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(schemas["Container"]["properties"]["image"]["type"], "string");
        assert!(schemas["TransformerSpec"]["properties"].get("model").is_none());
        assert!(fields("PredictorSpec") > 50 && fields("Container") > 20 && fields("Probe") > 8);
        for (name, schema) in schemas.as_object().unwrap() {
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(!property.is_null(), "{name}.{field}");
            }
        }
        insta::assert_yaml_snapshot!(schemas["PredictorSpec"]);
    }
}
