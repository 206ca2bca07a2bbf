//! How soon services were ready, as lines, JSON and JUnit's XML.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use serde_json::{Value, json};

use crate::api::ObjectKey;
use crate::diagnosis::Diagnosis;
use crate::home::write_atomically;

/// Where a report goes, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// One test case a service, as continuous integration reads it.
    Junit(Utf8PathBuf),
    /// One object a service.
    Json(Utf8PathBuf),
}

impl FromStr for Report {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("junit", path)) if !path.is_empty() => Ok(Self::Junit(path.into())),
            Some(("json", path)) if !path.is_empty() => Ok(Self::Json(path.into())),
            _ => Err("expected junit=FILE or json=FILE".to_owned()),
        }
    }
}

/// What became of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answers.
    Ready,
    /// It never will, with why.
    Failed(String),
    /// The time was up, with what it waited for.
    NotReady(String),
}

/// What became of one service, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    namespace: String,
    name: String,
    /// What became of it.
    pub outcome: Outcome,
    after: Duration,
    /// Why it is not ready, with one step and the last output.
    pub diagnosis: Option<Diagnosis>,
}

impl Readiness {
    /// Notes an outcome.
    pub fn new(key: &ObjectKey, outcome: Outcome, after: Duration) -> Self {
        Self { namespace: key.namespace.clone(), name: key.name.clone(), outcome, after, diagnosis: None }
    }

    /// Whether it speaks of this service.
    pub fn is_of(&self, key: &ObjectKey) -> bool {
        self.namespace == key.namespace && self.name == key.name
    }

    /// Returns the key of the service.
    pub fn service(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// Returns a line for people; of one that is not ready, why, what to do, and its last output.
    pub fn line(&self) -> String {
        let Self { namespace, name, after, .. } = self;
        match &self.outcome {
            Outcome::Ready => format!("{namespace}/{name} ready after {:.1} s", after.as_secs_f64()),
            Outcome::Failed(why) | Outcome::NotReady(why) => match self.details() {
                Some(details) => format!("error: {details}"),
                None => format!("error: {namespace}/{name}: {why}"),
            },
        }
    }

    /// The diagnosis in full.
    fn details(&self) -> Option<String> {
        let diagnosis = self.diagnosis.as_ref()?;
        let mut text = diagnosis.lines();
        if !diagnosis.output.is_empty() {
            text.push_str("  last output:\n");
            diagnosis.output.iter().for_each(|line| text.extend(["    ", line, "\n"]));
        }
        Some(text.trim_end().to_owned())
    }

    fn json(&self) -> Value {
        let (outcome, message) = match &self.outcome {
            Outcome::Ready => ("Ready", None),
            Outcome::Failed(why) => ("Failed", Some(why)),
            Outcome::NotReady(why) => ("NotReady", Some(why)),
        };
        let told = self.diagnosis.as_ref();
        json!({
            "namespace": self.namespace, "name": self.name, "outcome": outcome,
            "seconds": self.after.as_secs_f64(), "message": message,
            "cause": told.map(|told| told.cause), "what": told.map(|told| &told.what),
            "why": told.map(|told| &told.why), "next": told.map(|told| &told.step),
            "output": told.map(|told| &told.output),
        })
    }

    fn junit(&self, text: &mut String) {
        let (namespace, name) = (escaped(&self.namespace), escaped(&self.name));
        let seconds = self.after.as_secs_f64();
        let head = format!("<testcase classname=\"{namespace}\" name=\"{name}\" time=\"{seconds:.3}\"");
        // Writing to a string cannot fail.
        let _ = match &self.outcome {
            Outcome::Ready => writeln!(text, "  {head}/>"),
            Outcome::Failed(why) | Outcome::NotReady(why) => {
                let kind = escaped(self.diagnosis.as_ref().map_or("", |told| told.cause));
                let message = escaped(self.diagnosis.as_ref().map_or(why, |told| &told.headline));
                let details = escaped(&self.details().unwrap_or_else(|| why.clone()));
                writeln!(text, "  {head}><failure type=\"{kind}\" message=\"{message}\">{details}</failure></testcase>")
            }
        };
    }
}

impl Report {
    /// Writes the report.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, waited: &[Readiness]) -> Result<()> {
        let (path, text) = match self {
            Self::Json(path) => {
                let services: Vec<Value> = waited.iter().map(Readiness::json).collect();
                (path, serde_json::to_string_pretty(&json!({"services": services}))? + "\n")
            }
            Self::Junit(path) => (path, junit(waited)),
        };
        let absolute = camino::absolute_utf8(path)?;
        write_atomically(&absolute, text.as_bytes(), 0o644).with_context(|| format!("could not write `{path}`"))
    }
}

fn junit(waited: &[Readiness]) -> String {
    let failures = waited.iter().filter(|readiness| readiness.outcome != Outcome::Ready).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"kserve-local readiness\" tests=\"{}\" failures=\"{failures}\">\n",
        waited.len()
    );
    waited.iter().for_each(|readiness| readiness.junit(&mut text));
    text.push_str("</testsuite>\n");
    text
}

/// Escapes text for XML; characters XML cannot carry become `?`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            c if c.is_control() && c != '\t' => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Condition, ConditionStatus, InferenceServiceStatus};
    use crate::diagnosis::{Evidence, Subject, diagnose};

    fn readiness(outcome: Outcome) -> Readiness {
        Readiness {
            namespace: "default".to_owned(),
            name: "iris".to_owned(),
            outcome,
            after: Duration::from_millis(1500),
            diagnosis: None,
        }
    }

    #[test]
    fn a_report_names_its_format_and_file() {
        assert_eq!("junit=a.xml".parse(), Ok(Report::Junit("a.xml".into())));
        assert_eq!("json=a=b.json".parse(), Ok(Report::Json("a=b.json".into())));
        assert!("xml=a".parse::<Report>().is_err() && "junit=".parse::<Report>().is_err());
    }

    #[test]
    fn junit_counts_failures_and_escapes_what_containers_print() {
        let failed = readiness(Outcome::Failed("died: \"<oops>\" & \u{1b}[31mred".to_owned()));
        let text = junit(&[readiness(Outcome::Ready), failed]);
        assert!(text.contains("tests=\"2\" failures=\"1\""), "{text}");
        assert!(text.contains("name=\"iris\" time=\"1.500\"/>"), "{text}");
        assert!(text.contains("died: &quot;&lt;oops&gt;&quot; &amp; ?[31mred"), "{text}");
    }

    #[test]
    fn a_diagnosis_is_told_in_every_form() {
        let mut failed = readiness(Outcome::Failed("ImagePullFailed: x".to_owned()));
        let condition = Condition::new("Ready", ConditionStatus::False, "ImagePullFailed", "`a/b`: manifest unknown");
        let status = InferenceServiceStatus { conditions: vec![condition], ..InferenceServiceStatus::default() };
        let subject = Subject { kind: "InferenceService", namespace: "default", name: "iris", generation: 1 };
        let output = ["last words".to_owned()];
        failed.diagnosis = Some(diagnose(&Evidence { output: &output, ..Evidence::of(subject, Some(&status)) }));
        let (text, json) = (junit(std::slice::from_ref(&failed)), failed.json());
        assert!(text.contains("<failure type=\"image-absent\" message=\"InferenceService default/iris is not ready: its image does not exist\">"), "{text}");
        assert!(text.contains("  next:    correct name and tag of `a/b`") && text.contains("last words"), "{text}");
        assert_eq!((json["cause"].as_str(), json["output"][0].as_str()), (Some("image-absent"), Some("last words")));
        assert!(failed.line().starts_with("error: InferenceService default/iris is not ready"), "{}", failed.line());
    }

    #[test]
    fn lines_say_when_or_why_not() {
        assert_eq!(readiness(Outcome::Ready).line(), "default/iris ready after 1.5 s");
        assert_eq!(readiness(Outcome::NotReady("late".to_owned())).line(), "error: default/iris: late");
    }
}
