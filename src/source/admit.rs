//! What an API server does not admit although each object is valid for itself: a change of what may not change, and a
//! runtime that would be chosen as well as another (§1.7, §2.8). Diagnostics of files are told where they stand.

use camino::Utf8Path;

use super::scan;
use crate::api::Object;
use crate::manifest::validate::{rivals, validate_update};
use crate::manifest::{self, DecodedObject, Diagnostic};

/// Says why what a file holds may not replace the object that was good until now.
pub(super) fn refused_change(path: &Utf8Path, found: &DecodedObject, old: &Object) -> Vec<Diagnostic> {
    placed(path, found, validate_update(old, &found.object))
}

/// Says why a runtime of a file may not stand beside others.
pub(super) fn refused_beside<'o>(
    path: &Utf8Path,
    found: &DecodedObject,
    others: impl Iterator<Item = &'o Object>,
) -> Vec<Diagnostic> {
    placed(path, found, rivals(&found.object, others))
}

/// Gives diagnostics of an object their place in its file. The text is read again: this is rare, and texts are not kept.
fn placed(path: &Utf8Path, found: &DecodedObject, mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if diagnostics.is_empty() {
        return diagnostics;
    }
    let text = scan::read(path).unwrap_or_default();
    for diagnostic in &mut diagnostics {
        let field = diagnostic.field.as_deref().unwrap_or_default();
        path.as_str().clone_into(&mut diagnostic.file);
        diagnostic.position = manifest::locate(&text, found.position, field).or(Some(found.position));
    }
    diagnostics
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::home::Home;
    use crate::plan::Now;
    use crate::source::{Loader, WriteError};
    use crate::store::{Ledger, Origin, Store};
    use crate::telemetry::EventLog;

    /// A folder of manifests, as a daemon sees it.
    struct Folder {
        loader: Loader,
        store: Store,
        home: Home,
        _folder: tempfile::TempDir,
    }

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let home = Home::new(Utf8Path::from_path(folder.path()).unwrap());
            home.create().unwrap();
            let store = Store::new(Ledger::default());
            let wall = "2026-01-01T00:00:00Z".parse().unwrap();
            let now = move || Now { tick: Duration::ZERO, wall };
            let loader = Loader::new(home.clone(), store.clone(), EventLog::default(), now);
            Self { loader, store, home, _folder: folder }
        }

        /// Writes a file and returns what there is to say once the folder is read again.
        async fn write(&self, name: &str, text: &str) -> Vec<String> {
            std::fs::write(self.home.services().join(name), text).unwrap();
            self.loader.load().await;
            let problems = self.loader.problems();
            let words = |found: &Diagnostic| {
                let file = Utf8Path::new(&found.file).file_name().unwrap_or_default();
                let help = found.help.as_deref().unwrap_or("-");
                format!("{file}:{} {} | {help}", found.position.unwrap_or_default(), found.message)
            };
            problems.iter().flat_map(|file| file.diagnostics.iter().map(words)).collect()
        }

        /// Returns how many objects of files hold a word.
        fn holds(&self, word: &str) -> usize {
            let snapshot = self.store.snapshot();
            let written = snapshot.objects.values().filter(|stored| matches!(stored.origin, Origin::File { .. }));
            written.filter(|stored| stored.object.raw.to_string().contains(word)).count()
        }
    }

    fn service(mode: &str, name: &str, memory: &str) -> String {
        format!(
            "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  annotations:\n    \
             serving.kserve.io/deploymentMode: {mode}\nspec:\n  predictor:\n    name: {name}\n    model:\n      \
             modelFormat: {{name: sklearn}}\n      storageUri: s3://b/m\n---\napiVersion: serving.kserve.io/v1alpha1\n\
             kind: TrainedModel\nmetadata: {{name: first}}\nspec:\n  inferenceService: server\n  model:\n    \
             framework: sklearn\n    storageUri: s3://b/m\n    memory: {memory}\n"
        )
    }

    #[tokio::test]
    async fn a_change_that_an_api_server_refuses_leaves_the_good_version_and_says_where_and_why() {
        let folder = Folder::new();
        assert_eq!(folder.write("a.yaml", &service("Standard", "one", "1Gi")).await, [] as [&str; 0]);
        for (text, wanted) in [
            (
                service("Knative", "one", "1Gi"),
                "a.yaml:6:5 update rejected: deploymentMode cannot be changed from 'Standard' to 'Knative' | delete the \
                 service and create it anew",
            ),
            (
                service("Standard", "two", "1Gi"),
                "a.yaml:9:5 predictor.name change requires a model change (e.g. storageUri) | keep the name, or change the \
                 model with it",
            ),
            (
                service("Standard", "one", "2Gi"),
                "a.yaml:22:5 the Trained Model \"first\" memory field is immutable. The memory was \"1Gi\" but it is \
                 updated to \"2Gi\" | delete the TrainedModel and create it anew",
            ),
        ] {
            assert_eq!(folder.write("a.yaml", &text).await, [wanted]);
            assert_eq!(folder.loader.problems()[0].kept.len(), 1);
            let held = ["Standard", "\"one\"", "1Gi", "\"two\"", "2Gi"].map(|word| folder.holds(word));
            assert_eq!(held, [1, 1, 1, 0, 0]);
        }
        assert_eq!(folder.write("a.yaml", &service("Standard", "one", "1Gi")).await, [] as [&str; 0]);
    }

    fn runtime(name: &str, format: &str, priority: u8) -> String {
        format!(
            "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterServingRuntime\nmetadata: {{name: {name}}}\nspec:\n  \
             supportedModelFormats:\n  - {{name: {format}, version: \"1\", autoSelect: true, priority: {priority}}}\n  \
             protocolVersions: [v1]\n  containers: [{{name: kserve-container, image: i}}]\n"
        )
    }

    #[tokio::test]
    async fn a_runtime_that_would_be_chosen_as_well_as_another_is_refused() {
        let folder = Folder::new();
        let told = |name: &str, other: &str, format: &str| {
            let column = 46 + format.len();
            format!(
                "{name}.yaml:6:{column} same priority assigned for the model format {format} in the clusterservingruntimes {name} \
                 and {other} | give one of them another priority; the higher one wins"
            )
        };
        assert_eq!(folder.write("b.yaml", &runtime("b", "f", 1)).await, [] as [&str; 0]);
        // The one that was there stays, whatever the order of names.
        assert_eq!(folder.write("a.yaml", &runtime("a", "f", 1)).await, [told("a", "b", "f")]);
        assert_eq!(folder.holds("\"a\""), 0);
        assert_eq!(folder.write("a.yaml", &runtime("a", "f", 2)).await, [] as [&str; 0]);
        // A change keeps the last good version.
        assert_eq!(folder.write("b.yaml", &runtime("b", "f", 2)).await, [told("b", "a", "f")]);
        assert_eq!(folder.holds("\"b\""), 1);
        std::fs::remove_file(folder.home.services().join("b.yaml")).unwrap();
        assert_eq!(
            folder.write("c.yaml", &runtime("c", "sklearn", 1)).await,
            [told("c", "kserve-sklearnserver", "sklearn")]
        );
    }

    #[tokio::test]
    async fn the_api_refuses_such_a_runtime_too() {
        let folder = Folder::new();
        folder.write("a.yaml", &runtime("a", "f", 1)).await;
        let raw = json!({
            "apiVersion": "serving.kserve.io/v1alpha1", "kind": "ClusterServingRuntime", "metadata": {"name": "b"},
            "spec": {
                "supportedModelFormats": [{"name": "F", "version": "1", "autoSelect": true, "priority": 1}],
                "protocolVersions": ["v1", "v2"], "containers": [{"name": "kserve-container", "image": "i"}],
            },
        });
        let refused = folder.loader.put(&raw).await.unwrap_err();
        assert!(
            matches!(refused, WriteError::Invalid(found) if found[0].message.starts_with("same priority assigned"))
        );
        assert_eq!(folder.holds("\"b\""), 0);
    }
}
