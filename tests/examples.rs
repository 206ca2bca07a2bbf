//! What we hand to users works: every file in `examples/` and `runtimes/` decodes, validates and resolves, and warns of
//! nothing that is not listed here. Links of the documentation lead somewhere.

use std::path::{Path, PathBuf};

use kserve_local::api::{Kind, Object};
use kserve_local::manifest::{DiagnosticCode, decode};
use kserve_local::runtimes::Catalog;
use kserve_local::workload::{Companions, Workload, WorkloadConfig, resolve, resolve_canaries};

/// File, and a piece of each warning that it is meant to give.
const EXPECTED_WARNINGS: &[(&str, &[&str])] = &[("multi-model.yaml", &["no storageUri"])];

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let folder = root().join(folder);
    let paths =
        std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("it can be listed").path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|ext| ext == "yaml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn name(path: &Path) -> String {
    path.file_name().expect("a file has a name").to_string_lossy().into_owned()
}

/// Decodes a file that has to be free of errors, and of warnings that are not expected.
fn objects(path: &Path) -> Vec<Object> {
    let name = name(path);
    let decoded = decode(&name, &std::fs::read_to_string(path).expect("it was listed"));
    let expected = EXPECTED_WARNINGS.iter().find(|(file, _)| *file == name).map_or(&[][..], |(_, pieces)| *pieces);
    let surprises: Vec<String> = decoded
        .diagnostics
        .iter()
        .filter(|found| found.is_error() || !expected.iter().any(|piece| found.message.contains(piece)))
        .map(ToString::to_string)
        .collect();
    assert!(surprises.is_empty(), "{name}:\n{}", surprises.join("\n"));
    decoded.objects.into_iter().map(|decoded| decoded.object).collect()
}

fn workloads(path: &Path) -> Vec<Workload> {
    let objects = objects(path);
    let (catalog, companions) = (Catalog::new(&objects), Companions::new(&objects));
    let is_service = |object: &&Object| matches!(object.key.kind, Kind::InferenceService | Kind::LlmInferenceService);
    let services = objects.iter().filter(is_service);
    let resolved = services.flat_map(|service| {
        let parts = resolve(service, &catalog, &companions, &WorkloadConfig::default())
            .unwrap_or_else(|error| panic!("{}: {error}", name(path)));
        let canaries = resolve_canaries(service, &catalog, &companions, &WorkloadConfig::default()).into_iter();
        let canaries = canaries.map(|one| one.workload.unwrap_or_else(|error| panic!("{}: {error}", name(path))));
        parts.into_iter().chain(canaries).collect::<Vec<_>>()
    });
    resolved.collect()
}

/// One line on what a workload is, for the snapshot.
fn line(file: &str, workload: &Workload) -> String {
    let containers: Vec<String> =
        workload.containers.iter().map(|container| format!("{} ({})", container.name, container.image)).collect();
    let models: Vec<&str> = workload.models.iter().map(|model| model.written.as_str()).collect();
    let warnings =
        if workload.warnings.is_empty() { String::new() } else { format!("; warns: {:?}", workload.warnings) };
    let models = if models.is_empty() { "nothing to pull".to_owned() } else { models.join(", ") };
    let canary = workload.canary.as_ref().map(|name| format!(" canary {name}")).unwrap_or_default();
    format!("{file}: {}{canary}: {models} in {}{warnings}", workload.component, containers.join(", "))
}

#[test]
fn every_example_is_served_as_it_is() {
    let files = yaml_files("examples");
    let lines: Vec<String> = files
        .iter()
        .flat_map(|path| workloads(path).iter().map(|workload| line(&name(path), workload)).collect::<Vec<_>>())
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn every_example_says_first_what_it_shows() {
    for path in yaml_files("examples") {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} begins with a comment on what it shows", name(&path));
        assert!(!workloads(&path).is_empty(), "{} serves nothing", name(&path));
    }
}

#[test]
fn every_example_is_in_the_list() {
    let list = std::fs::read_to_string(root().join("examples/README.md")).unwrap();
    let missing =
        yaml_files("examples").into_iter().map(|path| name(&path)).filter(|name| !list.contains(&format!("({name})")));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<String>::new(), "examples/README.md does not list these");
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = prose(&std::fs::read_to_string(&page).unwrap());
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let is_there = match anchor {
                "" => file.exists(),
                anchor => {
                    std::fs::read_to_string(&file).is_ok_and(|text| anchors(&text).iter().any(|one| one == anchor))
                }
            };
            if !is_there {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/decisions", "examples"].map(|folder| root().join(folder));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("the folder is there"));
    let files = entries.map(|entry| entry.expect("it can be listed").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    let blocks = text.split("\n```");
    blocks.step_by(2).collect::<Vec<_>>().join("\n")
}

/// Names of a page's headings, as sites that show Markdown make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_built_in_runtime_is_free_of_errors_and_warnings() {
    for path in yaml_files("runtimes") {
        let decoded = objects(&path);
        assert_eq!(decoded.len(), 1, "{}: one runtime per file", name(&path));
        assert_eq!(decoded[0].key.kind, Kind::ClusterServingRuntime, "{}", name(&path));
        assert_eq!(format!("{}.yaml", decoded[0].key.name), name(&path));
    }
}

#[test]
fn a_mistake_in_an_example_would_be_seen() {
    let decoded = decode(
        "x.yaml",
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: x}\nspec: {predictr: {}}\n",
    );
    assert!(decoded.diagnostics.iter().any(|found| found.code == DiagnosticCode::UnknownField));
}
