//! `kserve-local/refresh`: whether a model's source is asked for something new, and which version a revision has.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ModelRef, ResolveError};
use crate::api::meta::{MODEL_VERSIONS, REFRESH};
use crate::scale::parse_duration;

/// Sources are not asked more often.
const LEAST: Duration = Duration::from_secs(10);

/// When a model's source is asked for something new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refresh {
    /// Never: what was fetched stays until the manifest names something else.
    #[default]
    Never,
    /// Once after the daemon starts.
    OnStart,
    /// So long after it was last asked.
    Every(Duration),
}

impl Refresh {
    /// Reads the annotation of a pod.
    ///
    /// # Errors
    /// It says none of these.
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Self, ResolveError> {
        let Some(written) = annotations.get(REFRESH) else { return Ok(Self::Never) };
        match written.as_str() {
            "never" => Ok(Self::Never),
            "on-start" => Ok(Self::OnStart),
            time => match parse_duration(time) {
                Some(every) if every >= LEAST => Ok(Self::Every(every)),
                _ => Err(ResolveError::invalid(
                    format!("metadata.annotations[{REFRESH}]"),
                    format!("`{written}` does not say when a model is refreshed"),
                )
                .with_help("write never, on-start, or a time of at least ten seconds such as 1h")),
            },
        }
    }
}

/// Makes models those versions that the annotations of a pod name.
pub(super) fn versioned(models: Vec<ModelRef>, annotations: &BTreeMap<String, String>) -> Vec<ModelRef> {
    let Some(written) = annotations.get(MODEL_VERSIONS) else { return models };
    // Written by us; what is not is as nothing.
    let versions: BTreeMap<String, String> = serde_json::from_str(written).unwrap_or_default();
    let name = |model: ModelRef| match versions.get(&model.uri.to_string()) {
        Some(version) if model.uri.can_be_refreshed() => ModelRef { uri: model.uri.with_version(version), ..model },
        _ => model,
    };
    models.into_iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StorageUri;

    fn annotations(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn nothing_is_refreshed_unless_the_annotation_says_when() {
        let of = |value| Refresh::of(&annotations(REFRESH, value));
        assert_eq!(Refresh::of(&BTreeMap::new()), Ok(Refresh::Never));
        assert_eq!(of("never"), Ok(Refresh::Never));
        assert_eq!(of("on-start"), Ok(Refresh::OnStart));
        assert_eq!(of("1h30m"), Ok(Refresh::Every(Duration::from_secs(5400))));
        for wrong in ["", "always", "1", "-1h", "0", "1s", "On-Start"] {
            let error = of(wrong).unwrap_err();
            assert!(
                matches!(&error, ResolveError::Invalid { field, .. } if field.contains(REFRESH)),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn versions_are_of_single_models() {
        let model = |uri: &str| ModelRef {
            uri: StorageUri::parse(uri).unwrap(),
            written: uri.to_owned(),
            access: Default::default(),
        };
        let models = vec![model("s3://b/one"), model("s3://b/two"), model("/srv/three")];
        let named = annotations(MODEL_VERSIONS, r#"{"s3://b/two": "abc", "file:///srv/three": "abc"}"#);
        let got: Vec<String> = versioned(models.clone(), &named).iter().map(|model| model.uri.to_string()).collect();
        assert_eq!(got, ["s3://b/one", "s3://b/two version abc", "file:///srv/three"]);
        assert_eq!(versioned(models.clone(), &annotations(MODEL_VERSIONS, "no JSON")), models);
    }
}
