//! What holds for any text: decoding never panics, and a key too many is always told, with the right line.

use kserve_local::manifest::{DiagnosticCode, decode};
use proptest::prelude::*;

/// A manifest of many shapes, valid, in block style so that a line can be put in anywhere.
const RICH: &str = "\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: iris
  namespace: kserve-test
  annotations:
    serving.kserve.io/deploymentMode: Standard
spec:
  predictor:
    minReplicas: 0
    timeout: 60
    serviceAccountName: sa
    logger:
      url: http://sink
      mode: all
    batcher:
      maxBatchSize: 8
    securityContext:
      runAsUser: 1000
    model:
      runtime: kserve-mlserver
      modelFormat:
        name: sklearn
        version: \"1\"
      storageUri: s3://bucket/größe/日本
      storage:
        key: mine
      env:
      - name: A
        valueFrom:
          secretKeyRef:
            name: s
            key: k
      readinessProbe:
        httpGet:
          path: /ready
          port: 8080
      ports:
      - containerPort: 8080
        protocol: TCP
    containers:
    - name: side
      image: side
      volumeMounts:
      - name: data
        mountPath: /data
    volumes:
    - name: data
      emptyDir:
        medium: Memory
        sizeLimit: 1
  transformer:
    containers:
    - image: pre
      name: pre
      resources:
        limits:
          cpu: 1
";

/// Lines of [`RICH`] before which, at whose depth, a key can be put that must be told.
fn places() -> Vec<usize> {
    let free = ["serving.kserve.io/deploymentMode", "cpu"];
    let lines = RICH.lines().enumerate();
    let fixed = |line: &str| !line.trim_start().starts_with('-') && !free.iter().any(|key| line.contains(key));
    lines.filter(|(_, line)| fixed(line)).map(|(index, _)| index).collect()
}

fn with_line(text: &str, index: usize, line: &str) -> String {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.insert(index, line.to_owned());
    lines.join("\n") + "\n"
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

#[test]
fn the_rich_manifest_is_valid() {
    assert_eq!(decode("rich.yaml", RICH).diagnostics, []);
}

#[test]
fn a_line_that_stands_twice_is_always_told() {
    for (index, line) in RICH.lines().enumerate() {
        let is_scalar = line.contains(": ") && !line.trim_start().starts_with('-');
        if !is_scalar {
            continue;
        }
        let decoded = decode("f.yaml", &with_line(RICH, index, line));
        let told = decoded.diagnostics.iter().find(|diagnostic| diagnostic.code == DiagnosticCode::DuplicateField);
        assert_eq!(told.and_then(|told| told.position).map(|at| at.line), Some(index + 2), "{line}");
        assert_eq!(decoded.objects, []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_decoded_without_panic(text in "\\PC*") {
        decode("any.yaml", &text);
    }

    #[test]
    fn any_yaml_like_text_is_decoded_without_panic(text in "[a-c:{}\\[\\],&*!|>\"'# \n\t\\-<0-9.~%@`?\u{feff}é]{0,80}") {
        decode("any.yaml", &text);
    }

    #[test]
    fn a_damaged_manifest_is_decoded_without_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[ -~\n\t]{0,4}"), 1..6),
    ) {
        let mut text: Vec<char> = RICH.chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        for diagnostic in decode("damaged.yaml", &text).diagnostics {
            diagnostic.render(Some(&text));
        }
    }

    #[test]
    fn a_key_too_many_is_always_told_with_its_line(
        place in prop::sample::select(places()),
        key in "[a-zA-Z]{1,12}Zz",
        value in prop::sample::select(vec!["1", "text", "{a: b}", "[1, 2]", "\"yes\"", "null"]),
    ) {
        let indent = indentation(RICH.lines().nth(place).unwrap_or_default());
        let text = with_line(RICH, place, &format!("{indent}{key}: {value}"));
        let decoded = decode("f.yaml", &text);
        let told: Vec<_> = decoded.diagnostics.iter().filter(|told| told.code == DiagnosticCode::UnknownField).collect();
        prop_assert_eq!(told.len(), 1, "{:?}", decoded.diagnostics);
        prop_assert_eq!(told[0].position.map(|at| (at.line, at.column)), Some((place + 1, indent.len() + 1)));
        prop_assert!(told[0].field.as_ref().is_some_and(|field| field.ends_with(&key)));
        prop_assert!(decoded.objects.is_empty());
    }
}

#[test]
fn a_hostile_text_is_answered_soon() {
    let many_keys: String = (0..210_000).map(|key| format!("  k{key}: 1\n")).collect();
    let head = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: a}\nspec:\n";
    let nested = format!("a: {}{}{}", "[&a ".repeat(90), "x, ".repeat(20_000), "]".repeat(90));
    let unknown: String = (0..20_000).map(|key| format!("  k{key}: 1\n")).collect();
    for text in [
        format!("{head}{many_keys}"),
        nested,
        format!("{head}{unknown}"),
        "{".repeat(20_000),
        "- ".repeat(20_000),
        "&a ".repeat(1000),
        "? ".repeat(50_000),
    ] {
        let decoded = decode("hostile.yaml", &text);
        assert!(!decoded.diagnostics.is_empty());
        assert!(decoded.diagnostics.len() <= 200);
        assert_eq!(decoded.objects, []);
    }
}
