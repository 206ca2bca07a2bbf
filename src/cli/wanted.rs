//! Which objects are meant: `isvc`, `isvc iris`, `isvc/iris`, `isvc,pods`, with kubectl's names for kinds.

use anyhow::Result;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::report::Problem;
use crate::api::{Kind, meta};
use crate::kubeapi::resource::Resource;

/// Which namespace.
#[derive(Clone, Debug, Default, Args)]
pub struct NamespaceArgs {
    /// Namespace
    #[arg(short, long, value_name = "NAME", default_value = meta::DEFAULT_NAMESPACE, add = ArgValueCompleter::new(complete::namespace))]
    pub namespace: String,
}

/// Kinds, and names when some were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Every object of these kinds.
    All(Vec<Resource>),
    /// These objects.
    Named(Vec<(Resource, String)>),
}

impl Wanted {
    /// Reads what was typed after the verb.
    ///
    /// # Errors
    /// No such kind, or the forms are mixed.
    pub fn parse(words: &[String]) -> Result<Self> {
        let Some((first, rest)) = words.split_first() else {
            return Err(Problem::usage("which kind?").hint("for example `isvc`, `runtimes`, `pods`").into());
        };
        if words.iter().any(|word| word.contains('/')) {
            let named: Result<Vec<_>> = words.iter().map(|word| slashed(word)).collect();
            return Ok(Self::Named(named?.into_iter().flatten().collect()));
        }
        let mut resources = Vec::new();
        for word in first.split(',').filter(|word| !word.is_empty()) {
            resources.extend(kinds(word)?);
        }
        if rest.is_empty() {
            return Ok(Self::All(resources));
        }
        let named = rest.iter().flat_map(|name| resources.iter().map(move |resource| (*resource, name.clone())));
        Ok(Self::Named(named.collect()))
    }
}

fn slashed(word: &str) -> Result<Vec<(Resource, String)>> {
    match word.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(kinds(kind)?.into_iter().map(|resource| (resource, name.to_owned())).collect())
        }
        _ => Err(Problem::usage(format!("`{word}` is not KIND/NAME; do not mix `KIND NAME` with `KIND/NAME`")).into()),
    }
}

/// Returns the kinds a word means; `runtimes` means both kinds of them.
///
/// # Errors
/// No such kind; the error names the nearest.
pub fn kinds(word: &str) -> Result<Vec<Resource>> {
    let lower = word.to_ascii_lowercase();
    if matches!(lower.as_str(), "runtimes" | "runtime") {
        return Ok(vec![Resource::Object(Kind::ClusterServingRuntime), Resource::Object(Kind::ServingRuntime)]);
    }
    let found = Resource::all().find(|resource| is_named(*resource, &lower));
    found.map(|resource| vec![resource]).ok_or_else(|| unknown(word).into())
}

/// Returns the one kind a word means.
///
/// # Errors
/// No such kind, or more than one.
pub fn kind(word: &str) -> Result<Resource> {
    match kinds(word)?.as_slice() {
        [one] => Ok(*one),
        _ => Err(Problem::usage(format!("`{word}` means more than one kind")).into()),
    }
}

fn is_named(resource: Resource, word: &str) -> bool {
    let bare = match (word.split_once('.'), resource.group()) {
        (None, _) => word,
        // `inferenceservices.serving.kserve.io`, and with the version between.
        (Some((bare, rest)), group) if !group.is_empty() => {
            if rest != group && rest.strip_suffix(group).and_then(|v| v.strip_suffix('.')) != Some(resource.version()) {
                return false;
            }
            bare
        }
        _ => return false,
    };
    bare == resource.plural() || bare == resource.singular() || resource.short_names().contains(&bare)
}

fn unknown(word: &str) -> Problem {
    let problem = Problem::usage(format!("the server doesn't have a resource type \"{word}\""));
    let names = Resource::all().flat_map(|resource| {
        [resource.plural(), resource.kind()].into_iter().chain(resource.short_names().iter().copied())
    });
    match super::find::nearest(&word.to_ascii_lowercase(), names) {
        Some(near) => problem.hint(format!("did you mean `{}`?", near.to_ascii_lowercase())),
        None => {
            let all: Vec<&str> = Resource::all().map(Resource::plural).collect();
            problem.hint(format!("there are: {}", all.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn kinds_are_named_as_kubectl_names_them() {
        let isvc = Resource::Object(Kind::InferenceService);
        for word in [
            "isvc",
            "InferenceService",
            "inferenceservices",
            "inferenceservices.serving.kserve.io",
            "inferenceservices.v1beta1.serving.kserve.io",
        ] {
            assert_eq!(kind(word).unwrap(), isvc, "{word}");
        }
        assert!(kind("inferenceservices.example.com").is_err());
        assert_eq!(kind("po").unwrap(), Resource::Pods);
        assert_eq!(kinds("runtimes").unwrap().len(), 2);
    }

    #[test]
    fn objects_are_named_in_either_form() {
        let isvc = Resource::Object(Kind::InferenceService);
        let named = Wanted::Named(vec![(isvc, "a".to_owned()), (isvc, "b".to_owned())]);
        assert_eq!(Wanted::parse(&words("isvc a b")).unwrap(), named);
        assert_eq!(Wanted::parse(&words("isvc/a isvc/b")).unwrap(), named);
        assert_eq!(Wanted::parse(&words("isvc,pods")).unwrap(), Wanted::All(vec![isvc, Resource::Pods]));
        assert!(Wanted::parse(&words("isvc a/b")).is_err());
        assert!(Wanted::parse(&words("isvc/a b")).is_err());
        assert!(Wanted::parse(&[]).is_err());
    }

    #[test]
    fn a_typo_is_answered_with_the_nearest_kind() {
        let error = kind("infrenceservice").unwrap_err();
        let problem = error.downcast_ref::<Problem>().unwrap();
        assert_eq!(problem.hint.as_deref(), Some("did you mean `inferenceservice`?"));
    }
}
