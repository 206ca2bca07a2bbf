//! One suite for every source of models: the same promises hold over HTTP, S3 and GCS.
//!
//! The origin is our own (`support/origin.rs`). With `KSERVE_LOCAL_TEST_EMULATORS=1` the last tests also run against
//! stores nobody here wrote, when they are on the path: `moto_server` (S3, from `pip install 'moto[server]'`) and
//! `fake-gcs-server` (GCS). The tests start and stop them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/origin.rs"]
mod origin;
#[path = "support/tree.rs"]
mod tree;

#[path = "storage_conformance/checksums.rs"]
mod checksums;
#[path = "storage_conformance/refresh.rs"]
mod refresh;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use futures::future::join_all;
use kserve_local::api::StorageUri;
use kserve_local::storage::{Cache, CachedModel, Progress, PullConfig, PullError, Puller, SourceError};
use md5::Digest;
use origin::{Fault, Object, Origin};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tree::tree;

/// Size of a range in these tests; objects of several ranges stay small.
const RANGE: usize = 64 << 10;

/// Where a model of these tests comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Http,
    S3,
    Gcs,
}

const ALL: [Kind; 3] = [Kind::Http, Kind::S3, Kind::Gcs];
const BUCKETS: [Kind; 2] = [Kind::S3, Kind::Gcs];

/// An origin, a cache and a puller between them.
struct Bench {
    kind: Kind,
    origin: Origin,
    folder: tempfile::TempDir,
    puller: Puller,
}

impl Bench {
    async fn new(kind: Kind) -> Self {
        Self::with(kind, PullConfig::default()).await
    }

    async fn with(kind: Kind, config: PullConfig) -> Self {
        let origin = Origin::start().await;
        let folder = tempfile::tempdir().unwrap();
        let puller = puller(folder.path(), &origin, config);
        Self { kind, origin, folder, puller }
    }

    /// Puts an object where `uri(key)` finds it.
    fn put(&self, key: &str, object: Object) {
        self.origin.put(&self.path(key), object);
    }

    fn path(&self, key: &str) -> String {
        format!("/bucket/{key}")
    }

    fn uri(&self, key: &str) -> StorageUri {
        let text = match self.kind {
            Kind::Http => self.origin.url(&self.path(key)),
            Kind::S3 => format!("s3://bucket/{key}"),
            Kind::Gcs => format!("gs://bucket/{key}"),
        };
        StorageUri::parse(&text).unwrap()
    }

    async fn pull(&self, key: &str) -> Result<CachedModel, PullError> {
        pull(&self.puller, &self.uri(key)).await
    }

    /// Another daemon on the same cache, or this one after a restart.
    fn restarted(&self) -> Puller {
        puller(self.folder.path(), &self.origin, PullConfig::default())
    }

    fn cache(&self) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.folder.path().join("cache")).unwrap()
    }

    /// Bytes that were asked for in ranges since the last `forget`.
    fn ranged_bytes(&self) -> u64 {
        let ranges = self.origin.seen().into_iter().filter_map(|seen| {
            let (start, end) = seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
            Some(end.parse::<u64>().ok()? + 1 - start.parse::<u64>().ok()?)
        });
        ranges.filter(|bytes| *bytes > 1).sum()
    }

    fn assert_nothing_left(&self) {
        let left: Vec<_> = self.cache().join("partial").read_dir_utf8().unwrap().collect();
        assert!(left.is_empty(), "{:?}: {left:?}", self.kind);
    }
}

/// Pulls with nobody watching and nobody cancelling.
async fn pull(puller: &Puller, uri: &StorageUri) -> Result<CachedModel, PullError> {
    puller.pull(uri, watch::Sender::default(), CancellationToken::new()).await
}

fn puller(folder: &Path, origin: &Origin, config: PullConfig) -> Puller {
    let cache = Cache::open(Utf8PathBuf::from_path_buf(folder.join("cache")).unwrap()).unwrap();
    let endpoint = format!("http://{}", origin.address);
    let environment = BTreeMap::from([
        ("AWS_ENDPOINT_URL".to_owned(), endpoint.clone()),
        ("AWS_ACCESS_KEY_ID".to_owned(), "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), "hush-hush".to_owned()),
        ("STORAGE_EMULATOR_HOST".to_owned(), endpoint),
        ("127.0.0.1-headers".to_owned(), r#"{"x-api-key": "hush-hush"}"#.to_owned()),
    ]);
    let config = PullConfig {
        range_size: RANGE as u64,
        stall_timeout: Duration::from_millis(400),
        backoff: Duration::from_millis(1),
        ..config
    };
    Puller::new(cache, config, Arc::new(environment))
}

/// Bytes that are nowhere the same.
fn weights(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

fn names(folder: &Utf8Path) -> Vec<String> {
    tree(folder).into_keys().collect()
}

/// An error with all its causes, as a user sees it.
fn told(error: &PullError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn tar_gz(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

#[tokio::test]
async fn one_file_arrives_under_its_own_name_whatever_its_size() {
    for kind in ALL {
        for size in [0, 1, RANGE - 1, RANGE, RANGE + 1, 10 * RANGE + 7] {
            let bench = Bench::new(kind).await;
            let content = weights(size, 1);
            bench.put("a/model.joblib", Object::new(content.clone()));
            bench.put("a/model.joblib2/x", Object::new("not asked for"));
            let model = bench.pull("a/model.joblib").await.unwrap_or_else(|error| panic!("{kind:?}: {}", told(&error)));
            assert_eq!(tree(&model.path), BTreeMap::from([("model.joblib".to_owned(), content)]), "{kind:?} {size}");
            assert_eq!((model.size, model.files), (size as u64, 1));
            bench.assert_nothing_left();
        }
    }
}

#[tokio::test]
async fn a_prefix_arrives_as_a_tree_without_its_neighbours() {
    for kind in BUCKETS {
        let bench = Bench::new(kind).await;
        bench.origin.page(3);
        let big = weights(5 * RANGE + 3, 2);
        bench.put("m/model", Object::new(""));
        bench.put("m/model/1/saved model.pb", Object::new(big.clone()));
        bench.put("m/model/1/variables/v+0 ä&<1>.bin", Object::new("v"));
        bench.put("m/model/__init__.py", Object::new(""));
        bench.put("m/model/empty/", Object::new(""));
        bench.put("m/model/1/", Object::new(""));
        bench.put("m/model2/x", Object::new("neighbour"));
        // The exact key `m/model` is an empty object here, so the folder is asked for with its slash.
        let model = bench.pull("m/model/").await.unwrap_or_else(|error| panic!("{kind:?}: {}", told(&error)));
        let expected = [("1/saved model.pb", &big[..]), ("1/variables/v+0 ä&<1>.bin", b"v"), ("__init__.py", b"")];
        let expected = expected.map(|(name, content)| (name.to_owned(), content.to_vec()));
        assert_eq!(tree(&model.path), BTreeMap::from(expected), "{kind:?}");
        bench.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_whole_bucket_is_a_model_too() {
    for kind in BUCKETS {
        let bench = Bench::new(kind).await;
        bench.put("config.pbtxt", Object::new("c"));
        bench.put("1/model.onnx", Object::new("m"));
        assert_eq!(names(&bench.pull("").await.unwrap().path), ["1/model.onnx", "config.pbtxt"], "{kind:?}");
    }
}

#[tokio::test]
async fn a_single_archive_is_unpacked_and_gone() {
    for kind in ALL {
        let bench = Bench::new(kind).await;
        let object = Object {
            content_type: "application/gzip".to_owned(),
            ..Object::new(tar_gz(&[("m/1/a", b"x"), ("b", b"y")]))
        };
        bench.put("one/model.tar.gz", object);
        assert_eq!(names(&bench.pull("one/model.tar.gz").await.unwrap().path), ["b", "m/1/a"], "{kind:?}");
        if kind != Kind::Http {
            let model = bench.pull("one").await.unwrap();
            assert_eq!(names(&model.path), ["b", "m/1/a"], "{kind:?}");
        }
        bench.put("gz/model.joblib.gz", Object::new("not unpacked"));
        assert_eq!(names(&bench.pull("gz/model.joblib.gz").await.unwrap().path), ["model.joblib.gz"]);
        bench.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_second_pull_asks_the_source_nothing() {
    for kind in ALL {
        let bench = Bench::new(kind).await;
        bench.put("m.bin", Object::new(weights(3 * RANGE, 3)));
        let model = bench.pull("m.bin").await.unwrap();
        bench.origin.forget();
        assert_eq!(bench.pull("m.bin").await.unwrap(), model);
        assert_eq!(pull(&bench.restarted(), &bench.uri("m.bin")).await.unwrap(), model);
        assert!(bench.origin.seen().is_empty(), "{kind:?}");
    }
}

#[tokio::test]
async fn ten_callers_share_one_download_and_its_progress() {
    for kind in ALL {
        let bench = Bench::new(kind).await;
        bench.put("m.bin", Object::new(weights(8 * RANGE, 4)));
        bench.origin.fault(&bench.path("m.bin"), Fault::Delay(Duration::from_millis(30)));
        let watchers: Vec<_> = (0..10).map(|_| watch::channel(Progress::default())).collect();
        let uri = bench.uri("m.bin");
        let pulls =
            watchers.iter().map(|(sender, _)| bench.puller.pull(&uri, sender.clone(), CancellationToken::new()));
        let models: Vec<_> = join_all(pulls).await.into_iter().map(Result::unwrap).collect();
        assert!(models.iter().all(|model| *model == models[0]));
        assert_eq!(bench.ranged_bytes(), 8 * RANGE as u64, "{kind:?}: every range once");
        for (_, progress) in &watchers {
            let progress = progress.borrow();
            assert_eq!((progress.done, progress.total, progress.files), (8 * RANGE as u64, 8 * RANGE as u64, (1, 1)));
        }
    }
}

#[tokio::test]
async fn two_processes_on_one_cache_download_once() {
    for kind in ALL {
        let bench = Bench::new(kind).await;
        bench.put("m.bin", Object::new(weights(8 * RANGE, 5)));
        bench.origin.fault(&bench.path("m.bin"), Fault::Delay(Duration::from_millis(30)));
        let (other, uri) = (bench.restarted(), bench.uri("m.bin"));
        let (a, b) = tokio::join!(
            bench.puller.pull(&uri, watch::Sender::default(), CancellationToken::new()),
            other.pull(&uri, watch::Sender::default(), CancellationToken::new()),
        );
        assert_eq!(a.unwrap(), b.unwrap());
        assert_eq!(bench.ranged_bytes(), 8 * RANGE as u64, "{kind:?}");
        bench.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_cancelled_caller_leaves_the_others_their_download() {
    let bench = Bench::new(Kind::S3).await;
    bench.put("m.bin", Object::new(weights(8 * RANGE, 6)));
    bench.origin.fault(&bench.path("m.bin"), Fault::Delay(Duration::from_millis(30)));
    let (uri, cancel) = (bench.uri("m.bin"), CancellationToken::new());
    cancel.cancel();
    let (gone, stays) = tokio::join!(
        bench.puller.pull(&uri, watch::Sender::default(), cancel),
        bench.puller.pull(&uri, watch::Sender::default(), CancellationToken::new()),
    );
    assert!(matches!(gone, Err(PullError::Cancelled)), "{gone:?}");
    assert_eq!(stays.unwrap().size, 8 * RANGE as u64);
}

#[tokio::test]
async fn a_download_that_died_at_nine_tenths_goes_on_from_there() {
    for kind in ALL {
        let config = PullConfig { concurrency: 1, attempts: 1, ..PullConfig::default() };
        let bench = Bench::with(kind, config).await;
        let content = weights(10 * RANGE, 7);
        bench.put("m.bin", Object::new(content.clone()));
        // Nine ranges arrive; then the origin is silent until the pull is given up.
        // Buckets are asked once more for what they state about the whole.
        let before = if kind == Kind::Http { 1 } else { 2 + 9 };
        let before = if kind == Kind::Http { before + 9 } else { before };
        bench.origin.faults(&bench.path("m.bin"), before, 100, Fault::Stall(0));
        let error = bench.pull("m.bin").await.unwrap_err();
        assert!(error.is_transient() && told(&error).contains("no bytes of `m.bin` came for"), "{}", told(&error));
        bench.origin.heal();
        bench.origin.forget();
        let model = pull(&bench.restarted(), &bench.uri("m.bin")).await.unwrap();
        assert_eq!(tree(&model.path)["m.bin"], content);
        assert_eq!(bench.ranged_bytes(), RANGE as u64, "{kind:?}: only the last range is fetched");
        bench.assert_nothing_left();
    }
}

/// Not a test by itself: the process that the next test kills.
#[tokio::test]
async fn a_pull_to_be_killed() {
    let (Ok(folder), Ok(uri)) = (std::env::var("TEST_PULL_FOLDER"), std::env::var("TEST_PULL_URI")) else { return };
    let cache = Cache::open(Utf8PathBuf::from(folder).join("cache")).unwrap();
    let config = PullConfig { range_size: RANGE as u64, concurrency: 3, ..PullConfig::default() };
    let puller = Puller::new(cache, config, Arc::default());
    pull(&puller, &StorageUri::parse(&uri).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_killed_process_leaves_a_download_that_goes_on() {
    let bench = Bench::new(Kind::Http).await;
    let content = weights(20 * RANGE, 20);
    bench.put("m.bin", Object::new(content.clone()));
    bench.origin.faults(&bench.path("m.bin"), 1 + 18, 100, Fault::Stall(10));
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_pull_to_be_killed"])
        .env("TEST_PULL_FOLDER", bench.folder.path())
        .env("TEST_PULL_URI", bench.uri("m.bin").to_string())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let partial = bench.cache().join("partial");
    let recorded = || {
        let folders = partial.read_dir_utf8().into_iter().flatten().flatten();
        let logs = folders.filter_map(|folder| std::fs::read_to_string(folder.path().join("resume.log")).ok());
        logs.map(|log| log.lines().count()).sum::<usize>()
    };
    // Until the header and eighteen ranges are recorded, or the child has ended by itself.
    while recorded() < 19 && child.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(child.try_wait().unwrap().is_none(), "it is still at work");
    let waiting = PullConfig { attempts: 1, ..PullConfig::default() };
    let other = puller(bench.folder.path(), &bench.origin, waiting);
    let (progress, mut watched) = watch::channel(Progress::default());
    let uri = bench.uri("m.bin");
    let second = other.pull(&uri, progress, CancellationToken::new());
    let killing = async {
        watched.wait_for(|progress| progress.phase == "waiting").await.unwrap();
        bench.origin.heal();
        bench.origin.forget();
        child.kill().await.unwrap();
    };
    let (model, ()) = tokio::join!(second, killing);
    assert_eq!(tree(&model.unwrap().path)["m.bin"], content);
    assert_eq!(bench.ranged_bytes(), 2 * RANGE as u64, "the two ranges that were missing");
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_dropped_pull_frees_the_folder_and_resumes() {
    for kind in ALL {
        let bench = Bench::with(kind, PullConfig { concurrency: 2, ..PullConfig::default() }).await;
        let content = weights(10 * RANGE, 8);
        bench.put("m.bin", Object::new(content.clone()));
        bench.origin.faults(&bench.path("m.bin"), 6, 100, Fault::Stall(100));
        let cancel = CancellationToken::new();
        let (progress, mut watched) = watch::channel(Progress::default());
        let uri = bench.uri("m.bin");
        let pulling = bench.puller.pull(&uri, progress, cancel.clone());
        let cancelling = async {
            watched.wait_for(|progress| progress.done >= 4 * RANGE as u64).await.unwrap();
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(pulling, cancelling);
        assert!(matches!(outcome, Err(PullError::Cancelled)), "{outcome:?}");
        bench.origin.heal();
        bench.origin.forget();
        assert_eq!(tree(&bench.pull("m.bin").await.unwrap().path)["m.bin"], content);
        assert!(bench.ranged_bytes() < 10 * RANGE as u64, "{kind:?}: some of it was there");
        bench.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_resumed_piece_that_is_not_what_was_written_is_fetched_again() {
    for kind in ALL {
        let bench = Bench::with(kind, PullConfig { concurrency: 1, attempts: 1, ..PullConfig::default() }).await;
        let content = weights(6 * RANGE, 9);
        bench.put("m.bin", Object::new(content.clone()));
        bench.origin.faults(&bench.path("m.bin"), 5, 100, Fault::Stall(0));
        bench.pull("m.bin").await.unwrap_err();
        bench.origin.heal();
        // As after a power cut: the record says written, the disk has zeros.
        let partial = bench.cache().join("partial").read_dir_utf8().unwrap().next().unwrap().unwrap().into_path();
        let file = std::fs::File::options().write(true).open(partial.join("fetched/m.bin")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 100], RANGE as u64 + 5).unwrap();
        assert_eq!(tree(&bench.pull("m.bin").await.unwrap().path)["m.bin"], content, "{kind:?}");
    }
}

#[tokio::test]
async fn broken_and_silent_connections_are_tried_again_from_where_they_stopped() {
    for kind in ALL {
        for fault in [Fault::Cut(1000), Fault::Stall(1000), Fault::Status(503, "busy"), Fault::Status(429, "slow")] {
            let bench = Bench::new(kind).await;
            let content = weights(4 * RANGE, 10);
            bench.put("m.bin", Object::new(content.clone()));
            bench.origin.faults(&bench.path("m.bin"), 2, 2, fault.clone());
            let model =
                bench.pull("m.bin").await.unwrap_or_else(|error| panic!("{kind:?} {fault:?}: {}", told(&error)));
            assert_eq!(tree(&model.path)["m.bin"], content, "{kind:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_source_that_stays_broken_is_given_up_and_named() {
    for kind in ALL {
        for fault in [Fault::Cut(1000), Fault::Stall(1000), Fault::Status(503, "busy")] {
            let bench = Bench::with(kind, PullConfig { attempts: 2, ..PullConfig::default() }).await;
            bench.put("m.bin", Object::new(weights(2 * RANGE, 11)));
            bench.origin.faults(&bench.path("m.bin"), 1, 1000, fault.clone());
            let error = bench.pull("m.bin").await.unwrap_err();
            assert!(error.is_transient(), "{kind:?} {fault:?}: {}", told(&error));
            assert!(told(&error).contains("m.bin"), "{}", told(&error));
            assert!(!told(&error).contains("hush"), "{}", told(&error));
            bench.pull("m.bin").await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_read_anew_and_never_mixed() {
    for kind in ALL {
        let bench = Bench::with(kind, PullConfig { concurrency: 1, ..PullConfig::default() }).await;
        bench.put("m.bin", Object::new(weights(6 * RANGE, 12)));
        let newer = weights(6 * RANGE, 13);
        bench.origin.faults(&bench.path("m.bin"), 4, 1, Fault::Replace(Object::new(newer.clone())));
        let model = bench.pull("m.bin").await.unwrap_or_else(|error| panic!("{kind:?}: {}", told(&error)));
        assert_eq!(tree(&model.path)["m.bin"], newer, "{kind:?}");
    }
}

#[tokio::test]
async fn a_partial_download_of_an_older_version_is_not_gone_on_with() {
    for kind in ALL {
        let bench = Bench::with(kind, PullConfig { concurrency: 1, attempts: 1, ..PullConfig::default() }).await;
        bench.put("m.bin", Object::new(weights(6 * RANGE, 14)));
        bench.origin.faults(&bench.path("m.bin"), 5, 100, Fault::Stall(0));
        bench.pull("m.bin").await.unwrap_err();
        bench.origin.heal();
        let newer = weights(4 * RANGE, 15);
        bench.put("m.bin", Object::new(newer.clone()));
        assert_eq!(tree(&bench.pull("m.bin").await.unwrap().path)["m.bin"], newer, "{kind:?}");
    }
}

#[tokio::test]
async fn a_size_that_does_not_fit_is_an_error_not_a_model() {
    for kind in BUCKETS {
        for (actual, stated) in [(3 * RANGE, 3 * RANGE + 5), (100, 120), (120, 100)] {
            let bench = Bench::new(kind).await;
            let object = Object { stated: Some(stated as u64), ..Object::new(weights(actual, 16)) };
            bench.put("p/m.bin", object);
            let error = bench.pull("p").await.unwrap_err();
            assert!(
                matches!(error, PullError::WrongSize { .. } | PullError::Source { .. }),
                "{kind:?} {actual} {stated}: {}",
                told(&error)
            );
            assert!(bench.cache().join("models").read_dir_utf8().unwrap().next().is_none());
        }
    }
}

#[tokio::test]
async fn a_source_that_ignores_ranges_is_read_in_one_stream() {
    for kind in ALL {
        let bench = Bench::new(kind).await;
        let content = weights(5 * RANGE, 17);
        bench.put("m.bin", Object::new(content.clone()));
        bench.origin.faults(&bench.path("m.bin"), 1, 1000, Fault::IgnoreRange);
        let model = bench.pull("m.bin").await.unwrap_or_else(|error| panic!("{kind:?}: {}", told(&error)));
        assert_eq!(tree(&model.path)["m.bin"], content, "{kind:?}");
        assert_eq!(model.size, content.len() as u64);
    }
}

#[tokio::test]
async fn another_range_than_asked_for_never_ends_up_in_a_model() {
    for kind in ALL {
        let bench = Bench::new(kind).await;
        let content = weights(5 * RANGE, 18);
        bench.put("m.bin", Object::new(content.clone()));
        bench.origin.faults(&bench.path("m.bin"), 2, 1, Fault::ShiftRange);
        match bench.pull("m.bin").await {
            Ok(model) => assert_eq!(tree(&model.path)["m.bin"], content, "{kind:?}"),
            Err(error) => assert!(matches!(error, PullError::Source { .. }), "{kind:?}: {}", told(&error)),
        }
    }
}

#[tokio::test]
async fn http_without_ranges_etags_or_lengths_still_works() {
    for (ranges, etag, chunked) in
        [(false, None, false), (false, None, true), (true, None, false), (true, Some("W/\"1\""), false)]
    {
        let bench = Bench::new(Kind::Http).await;
        let content = weights(5 * RANGE, 19);
        let etag = etag.map(str::to_owned);
        bench.put("m.bin", Object { ranges, etag, chunked, ..Object::new(content.clone()) });
        bench.origin.faults(&bench.path("m.bin"), 1, 1, Fault::Cut(2 * RANGE));
        let model = bench.pull("m.bin").await.unwrap_or_else(|error| panic!("{ranges} {chunked}: {}", told(&error)));
        assert_eq!(tree(&model.path)["m.bin"], content);
        assert_eq!(bench.ranged_bytes(), 0, "nothing is asked for in parts without a strong ETag");
    }
}

#[tokio::test]
async fn http_takes_only_what_its_name_promises() {
    let table = [
        ("m.joblib", "application/octet-stream", true),
        ("m.joblib", "application/octet-stream; charset=binary", true),
        ("m", "application/octet-stream", true),
        ("m.joblib", "text/html; charset=utf-8", false),
        ("m.joblib", "application/json", false),
        ("m.zip", "application/octet-stream", false),
        ("m.tar.gz", "text/html", false),
        ("m.tgz", "application/zip", false),
    ];
    for (name, content_type, taken) in table {
        let bench = Bench::new(Kind::Http).await;
        bench.put(name, Object { content_type: content_type.to_owned(), ..Object::new("<html>log in</html>") });
        let outcome = bench.pull(name).await;
        match &outcome {
            Ok(_) => assert!(taken, "{name} {content_type}"),
            Err(error) => {
                let text = told(error);
                assert!(
                    !taken && text.contains("did not respond with 'Content-Type': 'application/"),
                    "{name}: {text}"
                );
                assert!(!error.is_transient());
            }
        }
    }
}

#[tokio::test]
async fn http_answers_are_told_in_upstreams_words() {
    let table = [
        (401, "HTTP authentication failed for"),
        (403, "HTTP access denied for"),
        (404, "HTTP resource not found at"),
        (418, "failed with status code 418."),
    ];
    for (status, words) in table {
        let bench = Bench::new(Kind::Http).await;
        bench.origin.faults("/bucket/m.bin", 0, 9, Fault::Status(status, ""));
        let uri =
            StorageUri::parse(&bench.origin.url("/bucket/m.bin?signature=hush-hush").replace("//", "//me:hush-hush@"))
                .unwrap();
        let error = pull(&bench.puller, &uri).await.unwrap_err();
        let text = told(&error);
        assert!(text.contains(words) && text.contains("/bucket/m.bin") && !text.contains("hush"), "{text}");
        assert!(!error.is_transient());
        assert_eq!(bench.origin.seen().len(), 1, "permanent errors are told at once");
    }
}

#[tokio::test]
async fn redirects_are_followed_but_secrets_and_metadata_stay_where_they_are() {
    let bench = Bench::new(Kind::Http).await;
    let elsewhere = Origin::start().await;
    elsewhere.put("/bucket/real.bin", Object::new("model"));
    let to = elsewhere.url("/bucket/real.bin").replace("127.0.0.1", "localhost");
    bench.origin.faults("/bucket/m.bin", 0, 99, Fault::Redirect(to));
    let model = bench.pull("m.bin").await.unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!(tree(&model.path)["m.bin"], b"model");
    assert!(bench.origin.seen().iter().all(|seen| seen.header("x-api-key") == Some("hush-hush")));
    assert!(elsewhere.seen().iter().all(|seen| seen.header("x-api-key").is_none()));

    for place in
        ["http://169.254.169.254/latest/meta-data/m", "http://[::ffff:a9fe:a9fe]/m", "file:///etc/passwd", "//"]
    {
        let bench = Bench::new(Kind::Http).await;
        bench.origin.faults("/bucket/m.bin", 0, 99, Fault::Redirect(place.to_owned()));
        let error = bench.pull("m.bin").await.unwrap_err();
        assert!(told(&error).contains("redirects") && !error.is_transient(), "{}", told(&error));
    }
    let bench = Bench::new(Kind::Http).await;
    bench.origin.faults("/bucket/m.bin", 0, 99, Fault::Redirect("/bucket/m.bin".to_owned()));
    assert!(told(&bench.pull("m.bin").await.unwrap_err()).contains("redirects more than 5 times"));
}

#[tokio::test]
async fn buckets_do_not_lead_to_metadata_services_either() {
    for kind in BUCKETS {
        let bench = Bench::new(kind).await;
        bench.origin.faults("/bucket/m.bin", 0, 99, Fault::Redirect("http://169.254.169.254/m".to_owned()));
        bench.origin.faults("/bucket", 0, 99, Fault::Redirect("http://169.254.169.254/m".to_owned()));
        let error = bench.pull("m.bin").await.unwrap_err();
        assert!(told(&error).contains("nothing is fetched from `169.254.169.254`"), "{}", told(&error));
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn missing_models_buckets_and_permissions_are_told_in_upstreams_words() {
    let nothing: &[(Kind, &str)] = &[
        (Kind::S3, "Failed to fetch model. No model found in s3://bucket/none/."),
        (Kind::Gcs, "Failed to fetch model. No model found in gs://bucket/none/."),
    ];
    for &(kind, words) in nothing {
        let bench = Bench::new(kind).await;
        bench.put("other", Object::new("x"));
        let error = bench.pull("none/").await.unwrap_err();
        bench.assert_nothing_left();
        assert!(matches!(&error, PullError::Source { source: SourceError::NotFound(_), .. }), "{}", told(&error));
        assert!(told(&error).contains(words) && !error.is_transient(), "{}", told(&error));
        let gone = Bench::new(kind).await;
        assert!(told(&gone.pull("m").await.unwrap_err()).contains("bucket 'bucket' does not exist."));
    }
    let xml = |code: &str| format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
    let table = [
        (403, "AccessDenied", "Access denied to S3 resource 's3://bucket/m'. Verify permissions."),
        (403, "InvalidAccessKeyId", "Invalid AWS credentials."),
        (400, "ExpiredToken", "Invalid AWS credentials."),
        (301, "PermanentRedirect", "another region"),
        (400, "SomethingElse", "S3 error [SomethingElse]: m"),
    ];
    for (status, code, words) in table {
        let bench = Bench::new(Kind::S3).await;
        let body: &'static str = Box::leak(xml(code).into_boxed_str());
        for path in ["/bucket", "/bucket/m"] {
            bench.origin.faults(path, 0, 99, Fault::Status(status, body));
        }
        let error = bench.pull("m").await.unwrap_err();
        let text = told(&error);
        assert!(text.contains(words) && !text.contains("hush") && !error.is_transient(), "{code}: {text}");
    }
}

#[tokio::test]
async fn names_that_leave_the_folder_are_refused() {
    for key in ["p/../../etc/x", "p/a\\..\\b", "p//../x", "p/a/./b/../../../c"] {
        for kind in BUCKETS {
            let bench = Bench::new(kind).await;
            bench.put("p/good", Object::new("x"));
            bench.put(key, Object::new("evil"));
            let error = bench.pull("p").await.unwrap_err();
            assert!(
                matches!(&error, PullError::Source { source: SourceError::Invalid(_), .. }),
                "{key}: {}",
                told(&error)
            );
            assert!(bench.cache().join("models").read_dir_utf8().unwrap().next().is_none());
        }
    }
    for kind in BUCKETS {
        let bench = Bench::new(kind).await;
        bench.put("p/a", Object::new("file"));
        bench.put("p/a/b", Object::new("in a folder of that name"));
        let error = bench.pull("p/").await.unwrap_err();
        assert!(told(&error).contains("`a` is both a file and a folder"), "{}", told(&error));
    }
}

#[tokio::test]
async fn nothing_is_visible_before_all_of_it_is_there() {
    let bench = Bench::with(Kind::S3, PullConfig { attempts: 1, ..PullConfig::default() }).await;
    for index in 0..20 {
        bench.put(&format!("p/{index}"), Object::new(weights(100, index)));
    }
    bench.origin.faults("/bucket/p/9", 0, 100, Fault::Status(500, ""));
    let uri = bench.uri("p/");
    for _ in 0..3 {
        bench.pull("p/").await.unwrap_err();
        assert!(bench.cache().join("models").read_dir_utf8().unwrap().next().is_none());
        assert_eq!(Cache::open(bench.cache()).unwrap().lookup(&uri), None);
    }
    bench.origin.heal();
    bench.origin.forget();
    assert_eq!(bench.pull("p/").await.unwrap().files, 20);
    let fetched = bench.origin.seen().iter().filter(|seen| seen.path.starts_with("/bucket/p/")).count();
    assert!(fetched <= 8, "small files that were there are not fetched again: {fetched}");
}

#[tokio::test]
async fn local_folders_are_mounted_in_place_and_single_files_get_a_folder() {
    let bench = Bench::new(Kind::Http).await;
    let home = Utf8PathBuf::from_path_buf(bench.folder.path().to_owned()).unwrap();
    let local = async |path: &Utf8Path| {
        let uri = StorageUri::parse(&format!("file://{path}")).unwrap();
        let pulled = pull(&bench.puller, &uri).await;
        if let Ok(model) = &pulled {
            assert_eq!(
                Cache::open(bench.cache()).unwrap().lookup(&uri).map(|found| found.path),
                Some(model.path.clone())
            );
        }
        pulled
    };
    std::fs::create_dir_all(home.join("folder/1")).unwrap();
    std::fs::write(home.join("folder/1/a"), "12345").unwrap();
    std::fs::write(home.join("folder/.hidden"), "1").unwrap();
    let model = local(&home.join("folder")).await.unwrap();
    assert_eq!(model, CachedModel { path: home.join("folder"), size: 6, files: 2 });

    let file = home.join("model.joblib");
    std::fs::write(&file, "one").unwrap();
    let first = local(&file).await.unwrap();
    assert_eq!(tree(&first.path), BTreeMap::from([("model.joblib".to_owned(), b"one".to_vec())]));
    std::fs::write(home.join("new"), "other").unwrap();
    std::fs::rename(home.join("new"), &file).unwrap();
    let second = local(&file).await.unwrap();
    assert_eq!(tree(&second.path)["model.joblib"], b"other");
    assert_ne!(first.path, second.path, "a replaced file is a new model");
    std::fs::write(&file, "written in place").unwrap();

    std::fs::create_dir_all(home.join("packed")).unwrap();
    std::fs::write(home.join("packed/m.tgz"), tar_gz(&[("inner/x", b"y")])).unwrap();
    assert_eq!(names(&local(&home.join("packed")).await.unwrap().path), ["inner/x"]);
    assert_eq!(names(&local(&home.join("packed/m.tgz")).await.unwrap().path), ["inner/x"]);
    assert!(home.join("packed/m.tgz").exists(), "the user's archive is the user's");

    let error = local(&home.join("none")).await.unwrap_err();
    assert!(told(&error).contains(&format!("Local path {} does not exist.", home.join("none"))), "{}", told(&error));
    bench.assert_nothing_left();
}

#[tokio::test]
async fn what_is_mounted_is_not_pulled() {
    let bench = Bench::new(Kind::Http).await;
    let uri = StorageUri::parse("pvc://claim/x").unwrap();
    let error = pull(&bench.puller, &uri).await.unwrap_err();
    assert!(told(&error).contains("storage scheme `pvc`") && !error.is_transient());
}

#[tokio::test]
async fn the_disk_guard_refuses_before_the_download_begins() {
    let bench = Bench::new(Kind::S3).await;
    bench.put("p/m.bin", Object { stated: Some(u64::MAX / 4), ..Object::new("x") });
    let error = bench.pull("p/").await.unwrap_err();
    let PullError::DiskFull { needed, free, .. } = error else { panic!("{}", told(&error)) };
    assert!(needed == u64::MAX / 4 && free > 0);
    assert!(!bench.origin.seen().iter().any(|seen| seen.path == "/bucket/p/m.bin"));
    assert!(
        !bench.cache().join("partial").read_dir_utf8().unwrap().any(|entry| entry
            .unwrap()
            .path()
            .join("fetched/m.bin")
            .exists())
    );
}

/// Says why a test did not run, on the console and in the file that collects such lines.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED: {test}: {reason}");
    println!("{line}");
    if let Ok(path) = std::env::var("KSERVE_LOCAL_TEST_SKIPS") {
        let file = std::fs::File::options().append(true).create(true).open(path);
        std::io::Write::write_all(&mut file.unwrap(), format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Starts an emulator on a free port and waits until it answers; none when it is not to be had.
async fn emulator(test: &str, program: &str, arguments: &[&str]) -> Option<(tokio::process::Child, String)> {
    if std::env::var("KSERVE_LOCAL_TEST_EMULATORS").is_err() {
        skip(test, "KSERVE_LOCAL_TEST_EMULATORS is not set");
        return None;
    }
    // Below the ports that the system gives away, or another test's origin may sit there by then.
    let port = 20_000 + (std::process::id() as usize * 8 + program.len() % 8) % 12_000;
    let port = u16::try_from(port).unwrap();
    let arguments = arguments.iter().map(|argument| argument.replace("PORT", &port.to_string()));
    let mut command = tokio::process::Command::new(program);
    let silent = command.args(arguments).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let Ok(child) = silent.kill_on_drop(true).spawn() else {
        skip(test, &format!("{program} is not on the path"));
        return None;
    };
    for _ in 0..600 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return Some((child, format!("http://127.0.0.1:{port}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{program} does not answer");
}

/// Pulls a prefix, a key and an archive from a store that holds them, and fails as it should on what it does not.
async fn exercise(puller: &Puller, scheme: &str, big: &[u8]) {
    let uri = |path: &str| StorageUri::parse(&format!("{scheme}://bucket{path}")).unwrap();
    let model = pull(puller, &uri("/m")).await.unwrap_or_else(|error| panic!("{}", told(&error)));
    let expected = [("1/weights +ä.bin", big), ("__init__.py", b""), ("config", b"c")];
    assert_eq!(tree(&model.path), BTreeMap::from(expected.map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))));
    let one = pull(puller, &uri("/m/1/weights +ä.bin")).await.unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!(tree(&one.path), BTreeMap::from([("weights +ä.bin".to_owned(), big.to_vec())]));
    let archive = pull(puller, &uri("/packed")).await.unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!(names(&archive.path), ["inside"]);
    assert!(told(&pull(puller, &uri("/gone")).await.unwrap_err()).contains("No model found in"));
}

#[tokio::test]
async fn s3_works_against_moto() {
    let test = "s3_works_against_moto";
    let Some((_child, endpoint)) = emulator(test, "moto_server", &["-H", "127.0.0.1", "-p", "PORT"]).await else {
        return;
    };
    let big = weights(20 * RANGE + 5, 21);
    let client = reqwest::Client::new();
    let put = async |path: &str, body: Vec<u8>| {
        let request = client.put(format!("{endpoint}/bucket{path}")).header("authorization", "AWS x:y").body(body);
        request.send().await.unwrap().error_for_status().unwrap();
    };
    put("", vec![]).await;
    put("/m/1/weights%20%2B%C3%A4.bin", big.clone()).await;
    put("/m/__init__.py", vec![]).await;
    put("/m/config", b"c".to_vec()).await;
    put("/m/empty/", vec![]).await;
    put("/m2/neighbour", b"n".to_vec()).await;
    put("/packed/a.tgz", tar_gz(&[("inside", b"x")])).await;
    let folder = tempfile::tempdir().unwrap();
    let puller = emulated(folder.path(), "AWS_ENDPOINT_URL", &endpoint);
    exercise(&puller, "s3", &big).await;
    let error = pull(&puller, &StorageUri::parse("s3://nowhere/m").unwrap()).await.unwrap_err();
    assert!(told(&error).contains("S3 bucket 'nowhere' does not exist."), "{}", told(&error));
}

#[tokio::test]
async fn gcs_works_against_fake_gcs_server() {
    let test = "gcs_works_against_fake_gcs_server";
    let arguments = ["-scheme", "http", "-host", "127.0.0.1", "-port", "PORT", "-backend", "memory"];
    let arguments = [&arguments[..], &["-public-host", "127.0.0.1:PORT"]].concat();
    let Some((_child, endpoint)) = emulator(test, "fake-gcs-server", &arguments).await else { return };
    let big = weights(20 * RANGE + 5, 22);
    let client = reqwest::Client::new();
    let made = client.post(format!("{endpoint}/storage/v1/b")).body(r#"{"name":"bucket"}"#).send().await.unwrap();
    made.error_for_status().unwrap();
    let put = async |name: &str, body: Vec<u8>| {
        let url = format!("{endpoint}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}");
        client.post(url).body(body).send().await.unwrap().error_for_status().unwrap();
    };
    put("m/1/weights%20%2B%C3%A4.bin", big.clone()).await;
    put("m/__init__.py", vec![]).await;
    put("m/config", b"c".to_vec()).await;
    put("m2/neighbour", b"n".to_vec()).await;
    put("packed/a.tgz", tar_gz(&[("inside", b"x")])).await;
    let folder = tempfile::tempdir().unwrap();
    exercise(&emulated(folder.path(), "STORAGE_EMULATOR_HOST", &endpoint), "gs", &big).await;
}

fn emulated(folder: &Path, variable: &str, endpoint: &str) -> Puller {
    let cache = Cache::open(Utf8PathBuf::from_path_buf(folder.join("cache")).unwrap()).unwrap();
    let environment = [(variable, endpoint), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = PullConfig { range_size: RANGE as u64, ..PullConfig::default() };
    Puller::new(cache, config, Arc::new(BTreeMap::from(environment)))
}

#[tokio::test]
async fn digests_that_the_source_states_are_checked_in_small_and_large_files() {
    for (kind, size) in ALL.into_iter().flat_map(|kind| [(kind, 1000), (kind, RANGE * 3 + 17)]) {
        let bench = Bench::new(kind).await;
        let body = weights(size, 7);
        let right = Object::new(body.clone()).with_header("x-goog-hash", &format!("crc32c={}", crc32c(&body)));
        bench.put("right.bin", right.clone());
        bench.pull("right.bin").await.unwrap();
        let mut flipped = body.clone();
        flipped[size / 2] ^= 1;
        bench.put("wrong.bin", Object { body: flipped.into(), ..right.clone() });
        let error = bench.pull("wrong.bin").await.unwrap_err();
        assert!(matches!(&error, PullError::WrongDigest { .. }), "{kind:?}: {error:?}");
        assert!(told(&error).contains("CRC-32C digest"), "{}", told(&error));
        bench.put("wrong.bin", right);
        bench.pull("wrong.bin").await.unwrap();
    }
}

#[tokio::test]
async fn an_etag_of_a_bucket_that_is_an_md5_is_checked() {
    for kind in BUCKETS {
        let bench = Bench::new(kind).await;
        let md5 = "\"25f9e794323b453885f5181f1b624d0b\"".to_owned();
        let wrong = Object { etag: Some(md5.clone()), ..Object::new("123456780") };
        bench.put("m/wrong", wrong.clone());
        let error = bench.pull("m/wrong").await.unwrap_err();
        assert!(told(&error).contains("MD5 digest"), "{kind:?}: {}", told(&error));
        bench.put("m/kms", wrong.with_header("x-amz-server-side-encryption", "aws:kms"));
        bench.pull("m/kms").await.unwrap();
        bench.put("m/right", Object { etag: Some(md5), ..Object::new("123456789") });
        let model = bench.pull("m/right").await.unwrap();
        assert_eq!(tree(&model.path)["right"], b"123456789", "an ETag that was not checked names no content");
    }
}

#[tokio::test]
async fn the_same_file_in_two_models_is_downloaded_and_stored_once() {
    use std::os::unix::fs::MetadataExt;
    for kind in BUCKETS {
        let bench = Bench::new(kind).await;
        let body = weights(3 * RANGE, 5);
        let digest = md5::Md5::digest(&body);
        let etag: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let shared = Object { etag: Some(format!("\"{etag}\"")), ..Object::new(body.clone()) };
        bench.put("a/weights.bin", shared.clone());
        bench.put("a/config.json", Object::new("{}"));
        bench.put("b/other/name.bin", shared);
        bench.put("b/config.json", Object::new("[]"));
        let first = bench.pull("a").await.unwrap();
        bench.origin.forget();
        let (sender, progress) = watch::channel(Progress::default());
        let second = bench.puller.pull(&bench.uri("b"), sender, CancellationToken::new()).await.unwrap();
        assert_eq!(bench.ranged_bytes(), 0, "{kind:?}: only the small file is fetched");
        assert_eq!((progress.borrow().done, progress.borrow().files), (body.len() as u64 + 2, (2, 2)));
        assert_eq!(tree(&second.path)["other/name.bin"], body);
        let inode = |path: Utf8PathBuf| std::fs::metadata(path).unwrap().ino();
        assert_eq!(inode(first.path.join("weights.bin")), inode(second.path.join("other/name.bin")));
        bench.assert_nothing_left();
        // A restarted daemon knows as well; a model that is gone takes nothing from the other.
        std::fs::remove_dir_all(first.path.parent().unwrap()).unwrap();
        assert_eq!(tree(&second.path)["other/name.bin"], body);
    }
}

#[tokio::test]
async fn models_of_an_older_cache_are_taken_up_as_they_are() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new(Kind::S3).await;
    bench.put("m/weights.bin", Object::new(weights(1000, 5)));
    let model = bench.pull("m").await.unwrap();
    // As an older version left it: no blobs, no note of the layout.
    std::fs::remove_dir_all(bench.cache().join("blobs")).unwrap();
    std::fs::remove_file(bench.cache().join("layout")).unwrap();
    bench.origin.forget();
    let again = pull(&bench.restarted(), &bench.uri("m")).await.unwrap();
    assert_eq!((&again, bench.origin.seen().len()), (&model, 0));
    assert_eq!(std::fs::metadata(model.path.join("weights.bin")).unwrap().nlink(), 2, "it is a blob now");
}

/// The Base64 form of the CRC-32C of some bytes, as stores state it.
fn crc32c(bytes: &[u8]) -> String {
    use base64::Engine;
    let crc = crc_fast::crc32_iscsi(bytes);
    base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes())
}
