//! The model cache as its users see it: what is needed stays, room is made of the rest, and what is damaged is found.

#![expect(clippy::print_stdout, reason = "a skipped test is named where people look")]
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

/// What a run of the binary gave.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Bench {
    fn command(&self, words: &str) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kserve-local"));
        command
            .args(words.split(' '))
            .env("HOME", self.folder.path())
            .env("KSERVE_LOCAL_HOME", self.home())
            .env("KSERVE_LOCAL_CACHE_DIR", self.cache.root())
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.origin.address))
            .env("awsAnonymousCredential", "true");
        command
    }

    async fn run(&self, words: &str) -> Run {
        self.run_as(self.command(words)).await
    }

    async fn run_as(&self, mut command: std::process::Command) -> Run {
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

#[tokio::test]
async fn the_command_line_lists_pins_removes_and_verifies_without_a_daemon() {
    let bench = Bench::new().await;
    let id = bench.model("a", 200_000, 500).await;
    bench.model("b", 100_000, 10).await;
    let listed: serde_json::Value = serde_json::from_str(&bench.run("cache ls -o json").await.out).unwrap();
    assert_eq!((listed["models"].as_array().unwrap().len(), &listed["models"][0]["files"]), (2, &1.into()));
    assert!(bench.run("cache ls").await.out.contains("s3://bucket/a   195.3 KiB   1"));
    assert_eq!(bench.run("cache pin s3://bucket/a s3://bucket/later").await.code, 0);
    let refused = bench.run(&format!("cache rm {}", &id[..6])).await;
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("`s3://bucket/a` is pinned by cli") && refused.err.contains("hint:"),
        "{}",
        refused.err
    );
    let pruned = bench.run("cache prune").await;
    let freed = ["97.", "98."].iter().any(|size| pruned.err.contains(&format!("1 models removed, {size}")));
    assert!(pruned.out.contains("s3://bucket/b") && freed, "{}", pruned.err);
    assert_eq!(bench.names(), ["a"]);
    assert_eq!(bench.run("cache verify").await.out, "ok        s3://bucket/a  1 files, 195.3 KiB\n");
    let usage: serde_json::Value = serde_json::from_str(&bench.run("cache df -o json").await.out).unwrap();
    assert_eq!((&usage["models"], &usage["modelBytes"]), (&1.into(), &200_000.into()));

    let weights = bench.pull("a").await.path.join("weights");
    let mut bytes = fs::read(&weights).unwrap();
    bytes[100_000] ^= 1;
    fs::set_permissions(&weights, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&weights, bytes).unwrap();
    let damaged = bench.run("cache verify").await;
    assert_eq!(damaged.code, 1);
    assert!(damaged.out.starts_with("damaged   s3://bucket/a  `weights` has the SHA-256 digest"), "{}", damaged.out);
    assert_eq!(bench.run("cache pin --remove s3://bucket/a").await.code, 0);
    assert_eq!(bench.run("cache verify --remove").await.code, 0);
    assert_eq!(bench.names(), [] as [&str; 0]);
    let absent = bench.run("cache rm s3://bucket/a").await;
    assert!(absent.code == 1 && absent.err.contains("there is no model `s3://bucket/a`"), "{}", absent.err);
}

#[tokio::test]
async fn a_model_travels_in_an_archive_and_a_changed_archive_is_refused() {
    let bench = Bench::new().await;
    bench.origin.put("/bucket/m/1/weights", Object::new(vec![7; 5000]));
    bench.origin.put("/bucket/m/config.json", Object::new("{}"));
    bench.pull("m").await;
    let archive = bench.home().join("m.tar");
    assert_eq!(bench.run(&format!("cache export s3://bucket/m -o {archive}")).await.code, 0);
    let mut bytes = fs::read(&archive).unwrap();

    let elsewhere = Bench::new().await;
    let imported = elsewhere.run(&format!("cache import {archive}")).await;
    assert_eq!((imported.code, imported.out.as_str()), (0, "s3://bucket/m imported, 4.8 KiB\n"), "{}", imported.err);
    let offline = PullConfig { offline: true, ..PullConfig::default() };
    let model = elsewhere.pull_with("m", offline).await.unwrap();
    assert_eq!(fs::read(model.path.join("1/weights")).unwrap(), vec![7; 5000]);
    assert!(elsewhere.run(&format!("cache import {archive}")).await.out.contains("was here already"));

    let at = bytes.windows(5000).position(|window| window == vec![7; 5000]).unwrap();
    bytes[at + 2500] = 8;
    fs::write(&archive, bytes).unwrap();
    let third = Bench::new().await;
    let refused = third.run(&format!("cache import {archive}")).await;
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("has other bytes in `1/weights` than it records"), "{}", refused.err);
    assert!(third.names().is_empty() && third.cache.usage().unwrap().total() == 0, "nothing of it is kept");
}

#[tokio::test]
async fn kill_nine_at_nine_tenths_resumes() {
    use std::os::unix::process::ExitStatusExt;
    let bench = Bench::new().await;
    for part in 0..10_u8 {
        bench.origin.put(&format!("/bucket/m/part-{part}"), Object::new(vec![part; 300_000]));
    }
    bench.origin.faults("/bucket/m/part-9", 0, 100, origin::Fault::Stall(1000));
    let mut child =
        bench.command("pull s3://bucket/m --progress plain").stderr(std::process::Stdio::piped()).spawn().unwrap();
    let partial = bench.cache.root().join("partial");
    let recorded = || {
        let folders = partial.read_dir_utf8().unwrap().flatten().map(|entry| entry.path().join("resume.log"));
        folders.filter_map(|log| fs::read_to_string(log).ok()).map(|log| log.lines().count()).sum::<usize>()
    };
    tokio::time::timeout(Duration::from_secs(60), async {
        // The head of the record, and nine parts.
        while recorded() < 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("nine parts arrive");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(bench.names().is_empty(), "nothing is visible before all of it is there");
    bench.origin.heal();
    bench.origin.forget();
    let run = bench.run("pull s3://bucket/m").await;
    assert_eq!(run.code, 0, "{}", run.err);
    let fetched: Vec<String> =
        bench.origin.seen().into_iter().map(|seen| seen.path).filter(|p| p.contains("part-")).collect();
    assert_eq!(fetched, ["/bucket/m/part-9"]);
    assert_eq!(fs::read(Utf8Path::new(run.out.trim()).join("part-3")).unwrap(), vec![3; 300_000]);
    assert_eq!(fs::read_dir(partial).unwrap().count(), 0, "nothing stays behind");
}

/// Returns the most memory that a pull of a model of `size` bytes took, in bytes.
async fn peak(bench: &Bench, name: &str, size: usize) -> u64 {
    bench.origin.put(&format!("/bucket/{name}/weights"), Object::new(vec![7; size]));
    let mut child = bench.command(&format!("pull s3://bucket/{name} --progress quiet")).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    tokio::time::timeout(Duration::from_secs(120), async {
        while child.try_wait().unwrap().is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or_default() * 1024);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the pull ends");
    assert!(child.wait().unwrap().success());
    peak
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_model() {
    if !cfg!(target_os = "linux") {
        skip("memory_does_not_grow_with_the_model", "memory is read from /proc");
        return;
    }
    let bench = Bench::new().await;
    let (small, large) = (peak(&bench, "small", 32 << 20).await, peak(&bench, "large", 256 << 20).await);
    assert!(small > 0 && large < 128 << 20, "{small} and {large} bytes");
    assert!(large < small + (24 << 20), "eight times the model took {large} bytes where one took {small}");
}

/// A small file system of its own, for a disk that is full.
struct Small(Utf8PathBuf);

impl Small {
    fn mount(test: &str, at: Utf8PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs", at.as_str()])
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            skip(test, "a small file system cannot be mounted here");
        }
        mounted.then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What stays mounted is in a temporary folder of this test.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn skip(test: &str, reason: &str) {
    use std::io::Write;
    let line = format!("SKIPPED: {test}: {reason}");
    println!("{line}");
    if let Some(path) = std::env::var_os("KSERVE_LOCAL_TEST_SKIPS") {
        let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_says_how_much_was_needed_cleans_up_and_heals() {
    let test = "a_full_disk_says_how_much_was_needed_cleans_up_and_heals";
    let mut bench = Bench::new().await;
    let Some(small) = Small::mount(test, bench.home().join("small"), "size=4m") else { return };
    bench.cache = Cache::open(small.0.join("cache")).unwrap();
    let config = PullConfig { room: RoomPolicy { spare: 0, ..RoomPolicy::default() }, ..PullConfig::default() };

    // Known before it begins.
    bench.origin.put("/bucket/large/weights", Object::new(vec![1; 6 << 20]));
    let error = bench.pull_with("large", config.clone()).await.unwrap_err();
    assert!(
        matches!(error, PullError::DiskFull { needed, free, .. } if needed == 6 << 20 && free < 4 << 20),
        "{error:?}"
    );
    assert!(error.to_string().starts_with("the disk is full: 6.0 MiB more needed in"), "{error}");

    // Found out on the way: the source does not say how long it is.
    let silent = Object { chunked: true, ranges: false, etag: None, ..Object::new(vec![2; 6 << 20]) };
    bench.origin.put("/silent.bin", silent);
    let url = StorageUri::parse(&bench.origin.url("/silent.bin")).unwrap();
    let puller = Puller::new(bench.cache.clone(), config.clone(), Arc::default());
    let error = puller.pull(&url, watch::Sender::default(), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, PullError::DiskFull { .. }) && error.is_transient(), "{error:?}");
    assert!(bench.cache.usage().unwrap().disk.free > 3 << 20, "what was downloaded is given back");

    // Someone else's file goes, and the next try succeeds.
    let hog = small.0.join("hog");
    fs::write(&hog, vec![0; 3 << 20]).unwrap();
    bench.origin.put("/bucket/fits/weights", Object::new(vec![3; 2 << 20]));
    assert!(matches!(bench.pull_with("fits", config.clone()).await, Err(PullError::DiskFull { .. })));
    fs::remove_file(hog).unwrap();
    bench.pull_with("fits", config.clone()).await.unwrap();

    // And one that is in the way of another makes room for it.
    bench.origin.put("/bucket/next/weights", Object::new(vec![4; 3 << 20]));
    bench.pull_with("next", config).await.unwrap();
    assert_eq!(bench.names(), ["next"]);
}

#[tokio::test]
async fn a_disk_without_inodes_is_told_apart() {
    let mut bench = Bench::new().await;
    let mounted =
        Small::mount("a_disk_without_inodes_is_told_apart", bench.home().join("small"), "size=4m,nr_inodes=40");
    let Some(small) = mounted else { return };
    bench.cache = Cache::open(small.0.join("cache")).unwrap();
    for file in 0..60 {
        bench.origin.put(&format!("/bucket/many/{file}"), Object::new("x"));
    }
    let config = PullConfig { room: RoomPolicy { spare: 0, ..RoomPolicy::default() }, ..PullConfig::default() };
    let error = bench.pull_with("many", config).await.unwrap_err();
    assert!(matches!(error, PullError::InodesFull { free, .. } if free < 40), "{error:?}");
    assert!(error.to_string().starts_with("the disk has no room for more files:"), "{error}");
}
