//! `hf://` against a hub that answers as Hugging Face's does.

use std::os::unix::fs::MetadataExt;

use camino::Utf8PathBuf;

use super::stores::hub::{Hub, Repositories};
use super::stores::{files, sha256};
use super::{Bench, weights};

fn repositories(big: &[u8]) -> Repositories {
    let main = files(&[("config.json", b"{}"), ("model.safetensors", big), ("onnx/a b.onnx", b"o")]);
    Repositories {
        revisions: vec![
            ("owner/model", "main", "c0ffee"),
            ("owner/model", "v1", "0ld"),
            ("owner/model", "refs/pr/1", "0ld"),
            ("gated/model", "main", "c0ffee"),
            ("private/model", "main", "c0ffee"),
        ],
        commits: vec![("c0ffee", main), ("0ld", files(&[("config.json", b"old")]))],
        token: "hush-hush",
    }
}

#[tokio::test]
async fn a_repository_is_fetched_at_its_commit_with_stated_digests() {
    let big = weights(300_000, 1);
    let hub = Hub::start(repositories(&big)).await;
    let bench = Bench::new(&[("HF_ENDPOINT", &hub.server.url()), ("HF_TOKEN", "hush-hush"), ("HOME", "/nonexistent")]);
    let expected = files(&[("config.json", b"{}"), ("model.safetensors", &big), ("onnx/a b.onnx", b"o")]);
    assert_eq!(bench.files("hf://owner/model").await, expected);
    let asked = hub.server.seen();
    assert!(asked.iter().all(|seen| seen.header("authorization") == Some("Bearer hush-hush")), "{asked:?}");
    assert!(asked.iter().any(|seen| seen.target.starts_with("/owner/model/resolve/c0ffee/")), "{asked:?}");
    let far = hub.far.seen();
    assert!(far.len() >= 5 && far.iter().all(|seen| seen.header("authorization").is_none()), "in ranges: {far:?}");

    assert_eq!(bench.files("hf://owner/model:v1").await, files(&[("config.json", b"old")]));
    assert_eq!(bench.files("hf://owner/model:refs/pr/1").await, files(&[("config.json", b"old")]));
    assert_eq!(bench.files("hf://gated/model").await, expected);
    assert_eq!(bench.files("hf://private/model").await, expected);
}

#[tokio::test]
async fn what_the_hub_refuses_is_told_by_its_cause() {
    let hub = Hub::start(repositories(b"")).await;
    let url = hub.server.url();
    let bench = Bench::new(&[("HF_ENDPOINT", &url)]);
    let table = [
        ("hf://owner/gone", "HuggingFace resource 'owner/gone:main' not found."),
        ("hf://private/model", "it is private and no token was used (HF_TOKEN)"),
        ("hf://gated/model", "Access denied to HuggingFace resource 'gated/model:main'. It is gated, and no token"),
        ("hf://owner/model:v9", "The repository has no revision 'v9'."),
    ];
    for (uri, cause) in table {
        let said = bench.refused(uri).await;
        assert!(said.contains(cause), "{uri}: {said}");
    }
    let wrong = Bench::new(&[("HF_ENDPOINT", &url), ("HF_TOKEN", "hush wrong")]);
    assert!(wrong.refused("hf://gated/model").await.contains("the token that was used has no access to it"));
    let nowhere = Bench::new(&[("HF_ENDPOINT", "ftp://x")]);
    assert!(nowhere.refused("hf://owner/model").await.contains("no endpoint of Hugging Face (HF_ENDPOINT)"));
}

#[tokio::test]
async fn files_that_a_hugging_face_cache_has_are_linked_and_not_fetched() {
    let big = weights(300_000, 2);
    let hub = Hub::start(repositories(&big)).await;
    let home = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(home.path().to_owned()).unwrap().join("hub/models--owner--model");
    let (blobs, snapshot) = (root.join("blobs"), root.join("snapshots/c0ffee"));
    for folder in [&blobs, &snapshot, &root.join("refs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let blob = blobs.join(sha256(&big));
    std::fs::write(&blob, &big).unwrap();
    std::fs::write(root.join("refs/main"), "c0ffee").unwrap();
    std::os::unix::fs::symlink(format!("../../blobs/{}", sha256(&big)), snapshot.join("model.safetensors")).unwrap();

    let url = hub.server.url();
    let environment = [("HF_ENDPOINT", url.as_str()), ("HF_HOME", home.path().to_str().unwrap())];
    let bench = Bench::new(&environment);
    let model = bench.pull("hf://owner/model").await.unwrap();
    assert_eq!(model.files, 3);
    assert!(hub.far.seen().is_empty(), "nothing large was fetched");
    let mode = std::fs::metadata(&blob).unwrap().mode();
    assert_eq!(mode & 0o200, 0o200, "the user's own file stays writable");

    // A blob that is broken is not used.
    std::fs::write(&blob, vec![0; big.len()]).unwrap();
    let bench = Bench::new(&environment);
    assert_eq!(bench.files("hf://owner/model").await["model.safetensors"], big);
    assert!(!hub.far.seen().is_empty());

    std::fs::write(&blob, &big).unwrap();
    hub.server.forget();
    let offline = Bench::new(&[environment[0], environment[1], ("HF_HUB_OFFLINE", "1")]);
    assert_eq!(offline.files("hf://owner/model").await.into_keys().collect::<Vec<_>>(), ["model.safetensors"]);
    assert!(offline.refused("hf://owner/model:v1").await.contains("HF_HUB_OFFLINE is set"));
    assert!(hub.server.seen().is_empty());
}
