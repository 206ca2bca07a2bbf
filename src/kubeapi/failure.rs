//! Errors to `metav1.Status`, with the words kubectl and scripts know.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::apply::Conflict;
use super::managers::Operation;
use super::resource::Resource;
use crate::manifest::{Diagnostic, DiagnosticCode};

/// Why a request was not answered with what it asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, resource: Resource, name: &str) -> Self {
        self.details = Some(json!({"name": name, "group": resource.group(), "kind": resource.plural()}));
        self
    }

    /// 404 for one object.
    pub fn not_found(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(resource, name)
    }

    /// 404 for a path that nothing is served at.
    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    /// 409 on create.
    pub fn already_exists(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(resource, name)
    }

    /// 409 because the caller's version is not the latest.
    pub fn conflict(resource: Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(resource, name)
    }

    /// 409 because other managers own fields that would change.
    pub fn owned_by_others(resource: Resource, name: &str, conflicts: &[Conflict]) -> Self {
        let with = |conflict: &Conflict| {
            let using = match conflict.operation {
                Operation::Update => format!(" using {}", conflict.api_version),
                Operation::Apply => String::new(),
            };
            format!("conflict with \"{}\"{using}", conflict.manager)
        };
        let cause = |conflict: &Conflict| json!({"reason": "FieldManagerConflict", "message": with(conflict), "field": conflict.field});
        let causes: Vec<Value> = conflicts.iter().map(cause).collect();
        let list: Vec<String> = conflicts.iter().map(|c| format!("{}: {}", with(c), c.field)).collect();
        let (count, word) = (conflicts.len(), if conflicts.len() == 1 { "conflict" } else { "conflicts" });
        let message = format!("Apply failed with {count} {word}: {}", list.join(", "));
        let mut failure = Self::new(StatusCode::CONFLICT, "Conflict", message).about(resource, name);
        if let Some(details) = &mut failure.details {
            details["causes"] = json!(causes);
        }
        failure
    }

    /// 422 for a body that asks for what cannot be done.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// 405.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// 408: the body did not arrive in time.
    pub fn timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", "the request body did not arrive in time")
    }

    /// 503: the daemon is ending.
    pub fn ending() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the daemon is ending")
    }

    /// 410 on a watch from a version that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the request body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(given: &str, known: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {known}");
        let mut failure = Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message);
        failure.details = Some(json!({"causes": [{"reason": "UnsupportedMediaType", "message": given}]}));
        failure
    }

    /// What the API server says of broken rules: its own are 422 with one cause each; where only KServe's are broken, it
    /// is KServe's webhook that refuses, with 403; a core kind whose types do not fit cannot even be read, 400.
    pub fn refused(resource: Resource, name: &str, errors: &[&Diagnostic]) -> Self {
        if errors.iter().all(|error| error.code == DiagnosticCode::Denied) {
            return Self::denied(resource, errors);
        }
        let unread = |error: &&&Diagnostic| {
            error.code == DiagnosticCode::WrongType || error.message.starts_with("expected base64")
        };
        if resource.group().is_empty()
            && let Some(error) = errors.iter().find(unread)
        {
            let (kind, version) = (resource.kind(), resource.version());
            let said = sentence(error);
            return Self::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {said}"));
        }
        Self::invalid(resource, name, errors)
    }

    /// 403 as KServe's validating webhook gives it.
    fn denied(resource: Resource, errors: &[&Diagnostic]) -> Self {
        let texts: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
        let message = format!(
            "admission webhook \"{}.kserve-webhook-server.validator\" denied the request: {}",
            resource.singular(),
            texts.join("; ")
        );
        let mut failure = Self::new(StatusCode::FORBIDDEN, "Forbidden", message);
        failure.details = Some(json!({"causes": errors.iter().map(|error| cause(error)).collect::<Vec<_>>()}));
        failure
    }

    /// 422 for a replacement that does not say what it replaces.
    pub fn unconditional(resource: Resource, name: &str) -> Self {
        let (field, why) = ("metadata.resourceVersion", "Invalid value: 0: must be specified for an update");
        let message = format!("{} \"{name}\" is invalid: {field}: {why}", resource.qualified());
        let mut failure = Self::unprocessable(message).about(resource, name);
        if let Some(details) = &mut failure.details {
            details["causes"] = json!([{"reason": "FieldValueInvalid", "message": why, "field": field}]);
        }
        failure
    }

    /// 422 with one cause per violation.
    fn invalid(resource: Resource, name: &str, errors: &[&Diagnostic]) -> Self {
        let texts: Vec<String> = errors.iter().map(|error| violation(error)).collect();
        let all = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let kind = match resource.group() {
            "" => resource.kind().to_owned(),
            group => format!("{}.{group}", resource.kind()),
        };
        let causes: Vec<Value> = errors.iter().map(|error| cause(error)).collect();
        let message = format!("{kind} \"{name}\" is invalid: {all}");
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        failure.details =
            Some(json!({"name": name, "group": resource.group(), "kind": resource.kind(), "causes": causes}));
        failure
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// Returns the `metav1.Status`.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status["code"] = json!(self.code.as_u16());
        status
    }
}

/// One violation in one sentence: field, what is wrong, what to do.
pub fn sentence(error: &Diagnostic) -> String {
    let mut text = match &error.field {
        Some(field) if !field.is_empty() && !error.message.starts_with(field.as_str()) => {
            format!("{field}: {}", error.message)
        }
        _ => error.message.clone(),
    };
    if let Some(help) = &error.help {
        text.push_str(" (");
        text.push_str(help);
        text.push(')');
    }
    text
}

/// One violation in the API server's order: field, what sort of thing, what is wrong, what to do.
fn violation(error: &Diagnostic) -> String {
    let field = error.field.as_deref().unwrap_or_default();
    let help = error.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{field}: {}{help}", words(error))
}

fn words(error: &Diagnostic) -> String {
    match error.code {
        DiagnosticCode::Required => "Required value".to_owned(),
        DiagnosticCode::NotServed => format!("Unsupported value: {}", error.message),
        DiagnosticCode::DuplicateField => format!("Duplicate value: {}", error.message),
        _ if error.message.starts_with("Unsupported value") || error.message.starts_with("Too long") => {
            error.message.clone()
        }
        _ => format!("Invalid value: {}", error.message),
    }
}

fn cause(error: &Diagnostic) -> Value {
    let reason = match error.code {
        DiagnosticCode::WrongType => "FieldValueTypeInvalid",
        DiagnosticCode::Required => "FieldValueRequired",
        DiagnosticCode::DuplicateField => "FieldValueDuplicate",
        DiagnosticCode::NotServed => "FieldValueNotSupported",
        _ => "FieldValueInvalid",
    };
    json!({"reason": reason, "message": words(error), "field": error.field.clone().unwrap_or_default()})
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.code, Json(self.to_value())).into_response()
    }
}
