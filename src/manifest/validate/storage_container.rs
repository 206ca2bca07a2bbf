//! Rules about containers that fetch models.

use crate::api::StorageContainer;
use crate::api::storage_kinds::{DOWNLOAD_JOB, INIT_CONTAINER};
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

pub(super) fn check(container: &StorageContainer, report: &mut Report<'_>) {
    let path = FieldPath::of(&["spec"]);
    let spec = &container.spec;
    let kind = spec.workload_type();
    if ![INIT_CONTAINER, DOWNLOAD_JOB].contains(&kind) {
        let message = format!("`{kind}` is neither {INIT_CONTAINER} nor {DOWNLOAD_JOB}");
        report.invalid(&path.key("workloadType"), message);
    }
    for (index, format) in spec.supported_uri_formats.iter().enumerate() {
        let path = path.key("supportedUriFormats").index(index);
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if !given(&format.prefix) && !given(&format.regex) {
            report.invalid(&path, "a format needs a prefix or a regex");
        }
        if let Some(expression) = format.regex.as_deref()
            && let Err(error) = regex::Regex::new(expression)
        {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            report.invalid(&path.key("regex"), format!("`{expression}` is no regular expression: {last}"));
        }
    }
}
