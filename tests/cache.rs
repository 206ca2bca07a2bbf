//! The model cache as its users see it: what is needed stays, room is made of the rest, and what is damaged is found.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/origin.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod origin;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use kserve_local::api::StorageUri;
use kserve_local::storage::{
    Cache, CachedModel, Flaw, PullConfig, PullError, Puller, RemoveError, RoomPolicy, Shortage, Verifier,
};
use origin::{Object, Origin};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

struct Bench {
    origin: Origin,
    folder: tempfile::TempDir,
    cache: Cache,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Utf8PathBuf::from_path_buf(folder.path().join("cache")).unwrap()).unwrap();
        Self { origin: Origin::start().await, folder, cache }
    }

    fn home(&self) -> Utf8PathBuf {
        let home = Utf8PathBuf::from_path_buf(self.folder.path().join("home")).unwrap();
        fs::create_dir_all(&home).unwrap();
        home
    }

    fn uri(&self, name: &str) -> StorageUri {
        StorageUri::parse(&format!("s3://bucket/{name}")).unwrap()
    }

    async fn pull_with(&self, name: &str, config: PullConfig) -> Result<CachedModel, PullError> {
        let environment = BTreeMap::from([
            ("AWS_ENDPOINT_URL".to_owned(), format!("http://{}", self.origin.address)),
            ("awsAnonymousCredential".to_owned(), "true".to_owned()),
        ]);
        let puller = Puller::new(self.cache.clone(), config, Arc::new(environment));
        puller.pull(&self.uri(name), watch::Sender::default(), CancellationToken::new()).await
    }

    async fn pull(&self, name: &str) -> CachedModel {
        self.pull_with(name, PullConfig::default()).await.unwrap()
    }

    /// Puts a model of `size` bytes at the origin and fetches it; it was last used `ago` seconds before now.
    async fn model(&self, name: &str, size: usize, ago: u64) -> String {
        self.origin.put(&format!("/bucket/{name}/weights"), Object::new(vec![name.as_bytes()[0]; size]));
        let model = self.pull(name).await;
        let folder = model.path.parent().unwrap();
        // What is not said long ago happened in this order, before anything real.
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 - ago);
        for file in ["model.json", "used"] {
            let file = fs::File::options().create(true).append(true).open(folder.join(file)).unwrap();
            file.set_modified(then).unwrap();
        }
        folder.file_name().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let listed = self.cache.list().unwrap().into_iter();
        let mut names: Vec<String> = listed.map(|e| e.uri.rsplit('/').next().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn room_is_made_of_what_was_used_least_lately_and_never_of_what_is_needed() {
    let bench = Bench::new().await;
    let mut ids = BTreeMap::new();
    for (name, ago) in [("a", 50), ("b", 40), ("c", 30), ("d", 20), ("e", 10)] {
        ids.insert(name, bench.model(name, 100_000, ago).await);
    }
    bench.cache.pin(&bench.uri("a"), "LocalModelCache/a").unwrap();
    let home = bench.home();
    bench.cache.claim("daemon", &home, [&bench.uri("b")]).unwrap();
    let lease = bench.cache.lease(&ids["c"]).unwrap().unwrap();
    let removed = bench.cache.collect(Shortage { bytes: 1, inodes: 0 }).unwrap();
    assert_eq!(removed.models, ["s3://bucket/d"]);
    assert!((100_000..105_000).contains(&removed.bytes), "the files and what is written about them: {removed:?}");
    let removed = bench.cache.collect(Shortage { bytes: u64::MAX, inodes: 0 }).unwrap();
    assert_eq!(removed.models, ["s3://bucket/e"]);
    assert_eq!(bench.names(), ["a", "b", "c"], "pinned, used and leased");

    let refused = |id: &str| bench.cache.remove(id).unwrap_err();
    assert!(matches!(refused(&ids["a"]), RemoveError::Pinned { pinners, .. } if pinners == "LocalModelCache/a"));
    assert!(matches!(refused(&ids["b"]), RemoveError::Used { users, .. } if users == "daemon"));
    assert!(matches!(refused(&ids["c"]), RemoveError::Leased { .. }));
    assert!(matches!(refused("../models"), RemoveError::NotThere(_)));

    drop(lease);
    assert!(bench.cache.remove(&ids["c"]).unwrap() >= 100_000);
    bench.cache.unpin(&bench.uri("a"), "LocalModelCache/a").unwrap();
    // The home of the daemon is gone, and with it what it needed.
    fs::remove_dir_all(home).unwrap();
    bench.cache.collect(Shortage { bytes: u64::MAX, inodes: 0 }).unwrap();
    assert_eq!(bench.names(), [] as [&str; 0]);
    assert_eq!(bench.cache.usage().unwrap().total(), 0, "nothing stays behind");
}

#[tokio::test]
async fn a_limit_of_the_cache_removes_the_oldest_and_then_refuses_with_numbers() {
    let bench = Bench::new().await;
    bench.model("a", 400_000, 20).await;
    bench.model("b", 400_000, 10).await;
    let limited =
        |collect| PullConfig { room: RoomPolicy { most: Some(1_000_000), spare: 0, collect }, ..PullConfig::default() };
    bench.origin.put("/bucket/c/weights", Object::new(vec![b'c'; 400_000]));
    let error = bench.pull_with("c", limited(false)).await.unwrap_err();
    assert!(matches!(error, PullError::CacheFull { needed: 400_000, most: 1_000_000, .. }), "{error:?}");
    assert!(error.to_string().starts_with("the cache is full: 390.6 KiB more needed, 7"), "{error}");
    assert!(error.is_transient(), "it heals when there is room");
    bench.pull_with("c", limited(true)).await.unwrap();
    assert_eq!(bench.names(), ["b", "c"]);
    bench.origin.put("/bucket/d/weights", Object::new(vec![b'd'; 2_000_000]));
    let error = bench.pull_with("d", limited(true)).await.unwrap_err();
    assert!(matches!(error, PullError::CacheFull { needed: 2_000_000, .. }), "{error:?}");
}

#[tokio::test]
async fn offline_uses_what_is_here_and_asks_nobody() {
    let bench = Bench::new().await;
    bench.model("a", 1000, 0).await;
    bench.origin.forget();
    let offline = PullConfig { offline: true, ..PullConfig::default() };
    bench.pull_with("a", offline.clone()).await.unwrap();
    let error = bench.pull_with("b", offline).await.unwrap_err();
    assert_eq!(error.to_string(), "`s3://bucket/b` is not in the cache, and this is offline mode");
    assert!(!error.is_transient() && bench.origin.seen().is_empty());
}

#[tokio::test]
async fn a_flipped_byte_a_cut_file_and_a_missing_one_are_found() {
    let bench = Bench::new().await;
    for name in ["flipped", "cut", "missing", "good"] {
        bench.origin.put(&format!("/bucket/m/{name}"), Object::new(format!("the bytes of {name}").repeat(1000)));
    }
    let model = bench.pull("m").await;
    let id = model.path.parent().unwrap().file_name().unwrap().to_owned();
    let verify = || Verifier::new(bench.cache.clone()).verify(&id, |_| {}).unwrap().unwrap();
    assert_eq!((verify().files, verify().flaws), (4, vec![]));
    let open = |path: &Utf8Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = model.path.join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        open(&path);
        fs::write(&path, bytes).unwrap();
    };
    change("flipped", &|bytes| bytes[7000] ^= 4);
    change("cut", &|bytes| bytes.truncate(100));
    open(&model.path);
    fs::remove_file(model.path.join("missing")).unwrap();
    let flaws: BTreeMap<_, _> = verify().flaws.into_iter().collect();
    assert_eq!(flaws.len(), 3, "{flaws:?}");
    assert!(matches!(flaws[Utf8Path::new("flipped")], Flaw::Digest { .. }));
    assert!(matches!(flaws[Utf8Path::new("cut")], Flaw::Size { found: 100, .. }));
    assert_eq!(flaws[Utf8Path::new("missing")], Flaw::Missing);
}
