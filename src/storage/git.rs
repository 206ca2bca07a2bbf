//! `https://host/repository.git[#branch-tag-or-commit]`: one revision of a git repository, by the user's own `git`.
//!
//! The program, not a library: it finds the user's credential helpers, `.netrc` and proxies as the user knows them. It is
//! kept on a short leash: `https` only, no redirects, no prompts, no hooks, no submodules, one commit without history.
//! Unlike upstream's clone, the model has no `.git` folder. Files in large-file storage come when `git-lfs` is installed;
//! without it a repository that has some is refused, because their pointers are no model.

use std::collections::BTreeMap;
use std::process::Stdio;

use async_trait::async_trait;
use camino::Utf8Path;
use url::Url;

use super::piece::blocking;
use super::pull::PullConfig;
use super::reach::ReachPolicy;
use super::scratch::Scratch;
use super::walk::{Walked, remote_files, walk};
use super::{ModelSource, Reading, RemoteFile, RemoteManifest, SourceError, Unpack};

/// Pointers of large-file storage begin so (its specification).
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// A revision of a repository.
#[derive(Debug)]
pub struct GitSource {
    url: Url,
    /// For people.
    shown: String,
    reference: Option<String>,
    scratch: Scratch,
    policy: ReachPolicy,
    environment: BTreeMap<String, String>,
    stall: u64,
}

impl GitSource {
    /// Makes the source of a repository; `scratch` is a folder of its own.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub(super) fn open(
        uri: &str,
        scratch: Scratch,
        config: &PullConfig,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, SourceError> {
        let mut url = Url::parse(uri).map_err(|error| SourceError::Invalid(format!("git URL is wrong: {error}")))?;
        let reference = url.fragment().map(str::to_owned);
        url.set_fragment(None);
        let get = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
        // A password in the URL would be seen by everybody who lists processes, and upstream ignores it as well.
        let _never_fails_for_https = url.set_password(None);
        let user = match url.username() {
            "" => get("GIT_USERNAME"),
            user => Some(user.to_owned()),
        };
        let mut given = passed(environment);
        if let Some(password) = get("GIT_PASSWORD") {
            given.insert("KSERVE_GIT_PASSWORD".to_owned(), password);
            given.insert("KSERVE_GIT_USERNAME".to_owned(), user.unwrap_or_else(|| "git".to_owned()));
        }
        let shown = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
        let stall = config.stall_timeout.as_secs().max(1);
        Ok(Self { url, shown, reference, scratch, policy: config.reach.clone(), environment: given, stall })
    }

    /// Runs git in the work folder; returns what it printed.
    async fn git(&self, arguments: &[&str]) -> Result<String, SourceError> {
        let mut command = tokio::process::Command::new("git");
        command.env_clear().envs(&self.environment).stdin(Stdio::null()).kill_on_drop(true);
        command.current_dir(self.scratch.path());
        for setting in self.settings() {
            command.args(["-c", &setting]);
        }
        let output = command.args(arguments).output().await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => SourceError::Invalid(
                "the program `git` is not on this machine; install it to fetch git models".to_owned(),
            ),
            _ => SourceError::transient("could not run `git`", error),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(self.refused(&String::from_utf8_lossy(&output.stderr)))
    }

    /// Returns the settings of every run of git, which outrank what the user's and the repository's own files say.
    fn settings(&self) -> Vec<String> {
        const SETTINGS: [&str; 10] = [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "core.autocrlf=false",
            "submodule.recurse=false",
            "protocol.allow=never",
            "protocol.https.allow=always",
            "http.followRedirects=false",
            "http.lowSpeedLimit=1",
            "advice.detachedHead=false",
            "init.defaultBranch=main",
        ];
        // From the environment, where others do not see it.
        const HELPER: &str = "!f() { test \"$1\" = get && printf 'username=%s\\npassword=%s\\n' \"$KSERVE_GIT_USERNAME\" \"$KSERVE_GIT_PASSWORD\"; }; f";
        let mut settings = SETTINGS.map(str::to_owned).to_vec();
        settings.push(format!("http.lowSpeedTime={}", self.stall));
        // Where large files are is not for a file of the repository to say.
        settings.push(format!("lfs.url={}", large_files(&self.url)));
        if self.environment.contains_key("KSERVE_GIT_PASSWORD") {
            // Nobody else's helper is asked, and ours has an answer for the repository's own host alone: an answer about
            // large files may name another one.
            settings.push("credential.helper=".to_owned());
            settings.push(format!("credential.{}.helper={HELPER}", self.url.origin().ascii_serialization()));
        }
        settings
    }

    /// Returns what git's words mean.
    fn refused(&self, words: &str) -> SourceError {
        let resource = &self.shown;
        let lower = words.to_lowercase();
        let says = |list: &[&str]| list.iter().any(|text| lower.contains(text));
        let line = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let line: String =
            crate::api::storage_uri::redact_all(line.trim_start_matches("fatal: ")).chars().take(200).collect();
        if says(&["authentication failed", "could not read username", "could not read password", "error: 401"]) {
            SourceError::Denied(format!(
                "Git authentication failed. Check the credentials for '{resource}' (GIT_USERNAME and GIT_PASSWORD, or git's own credential helper)."
            ))
        } else if says(&["error: 403", "access denied", "permission denied"]) {
            SourceError::Denied(format!("Access denied to Git resource '{resource}'. Verify permissions."))
        } else if says(&["couldn't find remote ref", "not our ref", "no such remote ref", "did not match any"]) {
            let reference = self.reference.as_deref().unwrap_or("HEAD");
            SourceError::NotFound(format!("Git resource '{resource}' has no branch, tag or commit '{reference}'."))
        } else if says(&["not found", "error: 404", "does not exist"]) {
            SourceError::NotFound(format!("Git resource '{resource}' not found."))
        } else if says(&[
            "could not resolve host",
            "failed to connect",
            "couldn't connect",
            "connection",
            "timed out",
            "too slow",
            "early eof",
            "error: 5",
        ]) {
            SourceError::Transient {
                message: format!("Failed to connect to Git endpoint '{resource}'. ({line})"),
                source: None,
            }
        } else {
            SourceError::Invalid(format!("Git resource '{resource}' cannot be fetched: {line}"))
        }
    }

    /// Fetches the one commit that is wanted into the work folder; returns its id.
    async fn check_out(&self) -> Result<String, SourceError> {
        self.policy.check_resolved(&self.url).await.map_err(|refused| SourceError::Denied(refused.to_string()))?;
        let scratch = self.scratch.clone_path();
        let made = blocking(move || {
            super::cache::remove_tree(&scratch)?;
            std::fs::create_dir_all(&scratch)
        });
        made.await.map_err(|error| SourceError::transient("could not make a folder for git", error))?;
        self.git(&["init", "--quiet", "."]).await?;
        if self.git(&["lfs", "version"]).await.is_ok() {
            for (name, value) in [
                ("filter.lfs.clean", "git-lfs clean -- %f"),
                ("filter.lfs.smudge", "git-lfs smudge -- %f"),
                ("filter.lfs.process", "git-lfs filter-process"),
                ("filter.lfs.required", "true"),
            ] {
                self.git(&["config", name, value]).await?;
            }
        }
        let reference = self.reference.as_deref().unwrap_or("HEAD");
        let url = self.url.as_str();
        match self.git(&["fetch", "--quiet", "--depth", "1", "--no-tags", "--", url, reference]).await {
            // Not every server gives a commit by its name; then it is looked for in the branches.
            Err(SourceError::NotFound(problem)) if is_commit(reference) => {
                let all = ["fetch", "--quiet", "--no-tags", "--", url, "+refs/heads/*:refs/remotes/origin/*"];
                self.git(&all).await?;
                let checked_out = self.git(&["checkout", "--quiet", "--detach", reference]).await;
                checked_out.map_err(|_| SourceError::NotFound(problem))?;
            }
            fetched => {
                fetched?;
                self.git(&["checkout", "--quiet", "--detach", "FETCH_HEAD"]).await?;
            }
        }
        self.git(&["rev-parse", "HEAD"]).await
    }
}

#[async_trait]
impl ModelSource for GitSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        let commit = self.check_out().await?;
        let root = self.scratch.path().to_owned();
        let walked = blocking(move || {
            super::cache::remove_tree(&root.join(".git"))?;
            Ok(files(&root))
        });
        let files =
            walked.await.map_err(|error| SourceError::transient("could not read what git fetched", error))??;
        if files.is_empty() {
            let resource = &self.shown;
            return Err(SourceError::NotFound(format!("Failed to fetch model. No model found in {resource}.")));
        }
        Ok(RemoteManifest { files: remote_files(files, Some(&commit)), unpack: Unpack::Keep })
    }

    async fn read(&self, file: &RemoteFile, _offset: u64, _length: Option<u64>) -> Result<Reading, SourceError> {
        Err(SourceError::Changed(format!("{}/{}", self.shown, file.path)))
    }

    fn supports_ranges(&self) -> bool {
        false
    }
}

/// Every file of the work folder; one that large-file storage should have brought is refused.
fn files(root: &Utf8Path) -> Result<Vec<Walked>, SourceError> {
    let files = walk(root, "the git repository")?;
    for file in files.iter().filter(|file| file.size < 1024) {
        let content = std::fs::read(&file.real);
        let content = content.map_err(|error| SourceError::transient("could not read what git fetched", error))?;
        if content.starts_with(POINTER) {
            return Err(SourceError::Invalid(format!(
                "`{}` of the git repository is in large-file storage; install git-lfs to fetch it",
                file.path
            )));
        }
    }
    Ok(files)
}

/// Returns where git-lfs looks for the large files of a repository when nothing tells it otherwise.
fn large_files(repository: &Url) -> String {
    let url = repository.as_str().trim_end_matches('/');
    let suffix = if url.ends_with(".git") { "" } else { ".git" };
    format!("{url}{suffix}/info/lfs")
}

fn is_commit(reference: &str) -> bool {
    (7..=40).contains(&reference.len()) && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Variables that git is given: where the user's own settings are, proxies and certificates.
fn passed(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    const NAMES: [&str; 18] = [
        "PATH",
        "HOME",
        "XDG_CONFIG_HOME",
        "LANG",
        "http_proxy",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
        "no_proxy",
        "NO_PROXY",
        "SSL_CERT_DIR",
        "SSH_AUTH_SOCK",
        "XDG_RUNTIME_DIR",
        "DBUS_SESSION_BUS_ADDRESS",
        "GIT_CONFIG_GLOBAL",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
    ];
    let given = NAMES.iter().filter_map(|name| Some(((*name).to_owned(), environment.get(*name)?.clone())));
    let mut given: BTreeMap<String, String> = given.collect();
    if let Some(bundle) = environment.get("SSL_CERT_FILE").or_else(|| environment.get("REQUESTS_CA_BUNDLE")) {
        given.entry("GIT_SSL_CAINFO".to_owned()).or_insert_with(|| bundle.clone());
    }
    given.insert("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned());
    given.insert("GIT_ASKPASS".to_owned(), "true".to_owned());
    given.insert("LC_ALL".to_owned(), "C".to_owned());
    given.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
    given
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn source(uri: &str) -> GitSource {
        let environment = BTreeMap::from(
            [("GIT_PASSWORD", "hush"), ("PATH", "/usr/local/bin:/usr/bin:/bin")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let scratch = Scratch::beside(Utf8Path::new("/nowhere/at/all")).unwrap();
        GitSource::open(uri, scratch, &PullConfig::default(), &environment).unwrap()
    }

    /// Asks git for the login of a host, as git-lfs does.
    fn login(source: &GitSource, asked: &str) -> String {
        let mut git = std::process::Command::new("git");
        git.env_clear().envs(&source.environment).env("GIT_CONFIG_NOSYSTEM", "1");
        git.args(source.settings().iter().flat_map(|setting| ["-c", setting])).args(["credential", "fill"]);
        git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut run = git.spawn().unwrap();
        run.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
        String::from_utf8(run.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn the_password_is_for_the_repositorys_own_host() {
        let source = source("https://me@host:8443/team/iris.git#main");
        assert!(login(&source, "protocol=https\nhost=host:8443\n\n").contains("password=hush"));
        for other in
            ["protocol=https\nhost=evil\n\n", "protocol=https\nhost=host\n\n", "protocol=http\nhost=host:8443\n\n"]
        {
            assert!(!login(&source, other).contains("hush"), "{other}");
        }
    }

    #[test]
    fn large_files_are_looked_for_beside_the_repository() {
        for (uri, expected) in [
            ("https://host/team/iris.git#main", "lfs.url=https://host/team/iris.git/info/lfs"),
            ("https://me@host:8443/team/iris/", "lfs.url=https://me@host:8443/team/iris.git/info/lfs"),
        ] {
            assert!(source(uri).settings().iter().any(|setting| setting == expected), "{uri}");
        }
    }
}
