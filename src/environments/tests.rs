use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn cache() -> (tempfile::TempDir, Utf8PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
    (folder, path)
}

/// An environment without packages: only a Python is needed. `tools` says whether there is one.
fn bare() -> PythonEnvironment {
    let files = module("kserve_servers").unwrap();
    let digest = digest(files.iter().flat_map(|(name, text)| [*name, *text]));
    PythonEnvironment {
        python: ">=3.8".to_owned(),
        module: Some(("kserve_servers".to_owned(), digest)),
        ..PythonEnvironment::default()
    }
}

fn user() -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = std::env::vars().collect();
    environment.insert("VIRTUAL_ENV".to_owned(), "/nowhere".to_owned());
    environment
}

fn can_run(test: &str) -> bool {
    let wish = std::env::var("KSERVE_LOCAL_TEST_PYTHON").unwrap_or_default();
    let can = wish != "0" && Tools::find(&user()).any();
    if !can {
        println!("SKIPPED: environments::{test}: there is no Python, or KSERVE_LOCAL_TEST_PYTHON is 0");
    }
    can
}

#[tokio::test]
async fn an_environment_is_made_once_however_many_want_it_and_found_by_the_next() {
    if !can_run("an_environment_is_made_once") {
        return;
    }
    let (_folder, cache) = cache();
    let environments = Environments::new(&cache, user());
    let (wanted, makings) = (bare(), AtomicUsize::new(0));
    assert_eq!(environments.present(&wanted), None);
    let tell = |phase: String| {
        if phase == "looking for Python" {
            makings.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (one, other) = tokio::join!(environments.create(&wanted, &tell), environments.create(&wanted, &tell));
    let one = one.unwrap();
    assert_eq!(one, other.unwrap());
    assert_eq!(makings.load(Ordering::Relaxed), 1);
    assert!(one.bin.join("python").is_file());
    assert!(one.module.unwrap().join("kserve_servers/__main__.py").is_file());
    assert!(Environments::new(&cache, user()).present(&wanted).is_some(), "another daemon finds it");

    // An interpreter that is gone is noticed, and the environment made anew.
    std::fs::remove_file(one.bin.join("python")).unwrap();
    assert_eq!(environments.present(&wanted), None);
    environments.create(&wanted, &tell).await.unwrap();
    assert_eq!(makings.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_cannot_be_made_says_why_and_leaves_nothing() {
    let (_folder, cache) = cache();
    let without = BTreeMap::from([("PATH".to_owned(), "/nowhere".to_owned())]);
    let error = Environments::new(&cache, without).create(&bare(), &|_| {}).await.unwrap_err();
    assert!(matches!(error, EnvironmentError::NoPython { .. }), "{error}");
    assert!(error.to_string().contains("there is no Python at all") && !error.is_permanent(), "{error}");
    if can_run("what_cannot_be_made_says_why") {
        let mut environment = user();
        // uv would look for one elsewhere, for a while.
        environment.insert("UV_PYTHON_DOWNLOADS".to_owned(), "never".to_owned());
        let environments = Environments::new(&cache, environment);
        let future = PythonEnvironment { python: ">=3.99".to_owned(), ..bare() };
        let error = environments.create(&future, &|_| {}).await.unwrap_err();
        assert!(matches!(error, EnvironmentError::NoPython { .. }), "{error}");
        assert_eq!(environments.present(&future), None);
        let attempts = cache.join("environments").join(id(&future)).read_dir_utf8().unwrap();
        let left: Vec<String> = attempts.map(|entry| entry.unwrap().file_name().to_owned()).collect();
        assert!(left.iter().all(|name| !name.starts_with("v-")), "{left:?}");
    }
}

#[test]
fn an_environment_is_named_for_what_is_in_it() {
    let names = [
        bare(),
        PythonEnvironment { python: ">=3.9".to_owned(), ..bare() },
        PythonEnvironment { packages: vec!["six==1.17.0 --hash=sha256:aa".to_owned()], ..bare() },
        PythonEnvironment { lock: Some(("x".to_owned(), "digest".to_owned())), ..bare() },
    ];
    let ids: std::collections::HashSet<String> = names.iter().map(id).collect();
    assert_eq!(ids.len(), names.len());
    assert!(ids.iter().all(|id| is_id(id)));
    // A module is a folder beside it: a new version of it makes no new environment.
    assert_eq!(id(&PythonEnvironment { module: None, ..bare() }), id(&bare()));
}

/// Puts down an environment that looks whole.
fn put(environments: &Environments, wanted: &PythonEnvironment) -> Utf8PathBuf {
    let folder = environments.root.join(id(wanted));
    std::fs::create_dir_all(folder.join("v-1/bin")).unwrap();
    std::fs::create_dir_all(folder.join("v-broken")).unwrap();
    std::fs::write(folder.join("v-1/bin/python"), "").unwrap();
    let marker = Marker { folder: "v-1".to_owned(), python: "3.12.1".to_owned(), packages: 3 };
    std::fs::write(folder.join(MARKER), serde_json::to_vec(&marker).unwrap()).unwrap();
    folder
}

#[test]
fn only_what_nobody_has_used_for_long_and_nobody_holds_is_collected() {
    let (_folder, cache) = cache();
    let environments = Environments::new(&cache, BTreeMap::new());
    let wanted = |python: &str| PythonEnvironment { python: python.to_owned(), ..PythonEnvironment::default() };
    let (idle, held) = (wanted(">=3.1"), wanted(">=3.2"));
    let (idle_folder, held_folder) = (put(&environments, &idle), put(&environments, &held));
    let unmade = environments.root.join("0123456789abcdef");
    std::fs::create_dir_all(unmade.join("v-2")).unwrap();
    let _held = hold_shared(&environments.present(&held).unwrap().lock).unwrap();
    let month = Duration::from_secs(30 * 24 * 3600);
    let written = idle_folder.join(MARKER).metadata().unwrap().modified().unwrap();

    let soon = environments.collect_garbage(written + Duration::from_secs(60), month);
    assert_eq!(soon, ["0123456789abcdef"], "what no attempt finished goes at once");
    assert!(idle_folder.is_dir() && !idle_folder.join("v-broken").exists(), "with what failed attempts left");
    assert!(held_folder.join("v-broken").exists(), "what is held is not touched");

    let later = environments.collect_garbage(written + 2 * month, month);
    assert_eq!(later, [id(&idle)]);
    assert!(!idle_folder.exists() && held_folder.is_dir());
}
