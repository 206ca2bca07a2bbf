//! `-o`: how objects are shown.

use std::str::FromStr;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::jsonpath::Template;
use super::report::Problem;
use crate::manifest::yaml;

/// How a finding, a status or a setting is printed: for people, or as one JSON object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TextOrJson {
    /// For people
    #[default]
    #[value(alias = "table")]
    Text,
    /// One JSON object
    Json,
}

/// How objects are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// Columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// `kind.group/name`.
    Name,
    /// A template.
    JsonPath(Template),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "wide" => Ok(Self::Wide),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            "name" => Ok(Self::Name),
            _ => match text.strip_prefix("jsonpath=") {
                Some(template) => Template::parse(template).map(Self::JsonPath),
                None => Err("expected wide, yaml, json, name or jsonpath=TEMPLATE".to_owned()),
            },
        }
    }
}

impl Format {
    /// Whether objects are shown in columns.
    pub fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// Returns one object as text; a list is one object.
    ///
    /// # Errors
    /// The template does not fit the object.
    pub fn render(&self, object: &Value) -> Result<String> {
        Ok(match self {
            Self::Yaml => yaml::to_yaml(object),
            Self::Name => match object["items"].as_array() {
                Some(items) => items.iter().map(|item| qualified_name(item) + "\n").collect(),
                None => qualified_name(object) + "\n",
            },
            Self::JsonPath(template) => template.render(object).map_err(Problem::not_so)?,
            Self::Json | Self::Table | Self::Wide => format!("{object:#}\n"),
        })
    }
}

/// Returns `inferenceservice.serving.kserve.io/name`.
pub fn qualified_name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = text(&object["kind"]).to_lowercase();
    let name = text(&object["metadata"]["name"]);
    match text(&object["apiVersion"]).split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// Puts objects into one `List`.
pub fn list_of(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_as_kubectl_names_them() {
        assert_eq!("wide".parse(), Ok(Format::Wide));
        assert!(matches!("jsonpath={.status.url}".parse(), Ok(Format::JsonPath(_))));
        assert!("jsonpath={.status".parse::<Format>().is_err());
        assert!("xml".parse::<Format>().is_err());
    }

    #[test]
    fn names_carry_the_group() {
        let isvc =
            json!({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "x"}});
        assert_eq!(qualified_name(&isvc), "inferenceservice.serving.kserve.io/x");
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}});
        assert_eq!(
            Format::Name.render(&list_of(vec![isvc, secret])).unwrap(),
            "inferenceservice.serving.kserve.io/x\nsecret/x\n"
        );
    }
}
