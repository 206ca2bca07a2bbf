//! `kubectl auth`: who the caller is and what it may do. Whoever has the token may do everything that can be done at all.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::discovery;
use super::failure::Failure;
use super::objects::Call;
use super::resource::Resource;

/// The one user there is.
const USER: &str = "kserve-local";

/// A question that is answered and forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// May I do this?
    Access,
    /// What may I do?
    Rules,
    /// Who am I?
    Identity,
}

impl Review {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Access, Self::Rules, Self::Identity];

    /// Returns the API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Access | Self::Rules => "authorization.k8s.io",
            Self::Identity => "authentication.k8s.io",
        }
    }

    /// Returns the kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Access => "SelfSubjectAccessReview",
            Self::Rules => "SelfSubjectRulesReview",
            Self::Identity => "SelfSubjectReview",
        }
    }

    /// Returns the plural name used in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Access => "selfsubjectaccessreviews",
            Self::Rules => "selfsubjectrulesreviews",
            Self::Identity => "selfsubjectreviews",
        }
    }

    /// Finds a review by its place in a path.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.group() == group && version == "v1" && r.plural() == plural)
    }
}

/// Answers a review.
///
/// # Errors
/// It cannot be read.
pub fn answer(review: Review, call: &Call) -> Result<Response, Failure> {
    let mut body = call.json()?;
    body["kind"] = json!(review.kind());
    body["apiVersion"] = json!(format!("{}/v1", review.group()));
    body["status"] = match review {
        Review::Access => access(&body["spec"]),
        Review::Rules => rules(),
        Review::Identity => json!({"userInfo": {"username": USER, "groups": ["system:authenticated"]}}),
    };
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

fn access(spec: &Value) -> Value {
    let asked = &spec["resourceAttributes"];
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    if asked.is_null() {
        return json!({"allowed": true});
    }
    let (group, plural, verb) = (text("group"), text("resource"), text("verb"));
    let meant = |resource: &Resource| {
        (group == "*" || resource.group() == group) && (plural == "*" || resource.plural() == plural)
    };
    let found: Vec<Resource> = Resource::all().filter(meant).collect();
    let does = |resource: &Resource| match text("subresource") {
        "" => verb == "*" && resource.verbs().contains(&"create") || resource.verbs().contains(&verb),
        sub => discovery::parts(*resource).iter().any(|part| part.name == sub && part.verbs.contains(&verb)),
    };
    if found.iter().any(does) {
        json!({"allowed": true})
    } else if found.is_empty() {
        json!({"allowed": false, "reason": format!("kserve-local serves no {plural}")})
    } else {
        json!({"allowed": false, "reason": format!("{plural} follow from InferenceServices")})
    }
}

fn rules() -> Value {
    let rule = |resource: Resource| json!({"verbs": resource.verbs(), "apiGroups": [resource.group()], "resources": [resource.plural()]});
    json!({
        "resourceRules": Resource::all().map(rule).collect::<Vec<_>>(),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}],
        "incomplete": false,
    })
}
