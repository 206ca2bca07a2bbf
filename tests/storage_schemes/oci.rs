//! `oci://` against a registry with tokens, and through the container engine.

use std::collections::BTreeMap;

use kserve_local::workload::Access;

use super::stores::files;
use super::stores::registry::{Registry, artifact, image};
use super::{Bench, tree, weights};

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn images_and_artifacts_are_fetched_from_a_registry_that_wants_tokens() {
    let big = weights(300_000, 6);
    let base = tar(&[("bin/sh", b"x"), ("models/old", b"1"), ("models/config", b"old")]);
    let upper = tar(&[("models/config", b"new"), ("models/.wh.old", b""), ("models/1/weights", &big)]);
    let registry = Registry::start(vec![
        ("team/iris", image(&[base, upper])),
        ("team/files", artifact(&[("config.json", b"{}"), ("a/weights.bin", &big)])),
        ("team/empty", image(&[tar(&[("bin/sh", b"x")])])),
    ])
    .await;
    let place = format!("oci+fetch://{}", registry.server.address);
    let access = Access { registries: vec![registry.login()], ..Access::default() };
    let bench = Bench::new(&[]);
    let expected = files(&[("config", b"new"), ("1/weights", &big)]);
    let pulled = bench
        .pull_with(&format!("{place}/team/iris:v1"), &access)
        .await
        .unwrap_or_else(|error| panic!("{}", super::told(&error)));
    assert_eq!(tree(&pulled.path), expected);
    let pulled = bench
        .pull_with(&format!("{place}/team/files:v1"), &access)
        .await
        .unwrap_or_else(|error| panic!("{}", super::told(&error)));
    assert_eq!(tree(&pulled.path), files(&[("config.json", b"{}"), ("a/weights.bin", &big)]));
    let digest = registry.digest("team/iris");
    // Without an engine `oci://` is read from the registry too.
    let pinned = format!("oci://{}/team/iris@{digest}", registry.server.address);
    assert_eq!(tree(&bench.pull_with(&pinned, &access).await.unwrap().path), expected);

    let nobody = bench.refused(&format!("{place}/team/iris:v2")).await;
    assert!(nobody.contains("OCI authentication failed.") && nobody.contains("no login was used"), "{nobody}");
    let causes = BTreeMap::from([("team/gone:v1", "not found"), ("team/empty:v1", "no /models/ directory")]);
    for (name, cause) in causes {
        let error = bench.pull_with(&format!("{place}/{name}"), &access).await.unwrap_err();
        assert!(super::told(&error).contains(cause) && !error.is_transient(), "{name}: {}", super::told(&error));
    }
    // A registry that gives other bytes than it names is noticed.
    registry.corrupt();
    let fresh = Bench::new(&[]);
    let error = fresh.pull_with(&format!("{place}/team/files:v1"), &access).await.unwrap_err();
    assert!(super::told(&error).contains("SHA-256"), "{}", super::told(&error));
}
