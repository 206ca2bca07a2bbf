//! What a check-up concludes from what was found. No effects: every fault can be planted in a test.

use std::net::SocketAddr;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::doctor_facts::{Disk, Engine, Facts, Lock, Port};
use crate::engine::OLDEST_API;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Info,
    /// Something will not work as expected.
    Warning,
    /// Models cannot be served.
    Error,
}

/// One check and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of the check.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub summary: String,
    /// Why it is so, or what it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// A command or a step that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn new(id: &'static str, severity: Severity, summary: impl Into<String>) -> Self {
        Self { id, severity, summary: summary.into(), cause: None, fix: None }
    }

    fn ok(id: &'static str, summary: impl Into<String>) -> Self {
        Self::new(id, Severity::Ok, summary)
    }

    fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Less free space than this is little for models.
const LITTLE_SPACE: u64 = 5 << 30;
/// Less than this is not enough for anything.
const NO_SPACE: u64 = 256 << 20;
/// Fewer free inodes than this run out during an unpacking.
const FEW_INODES: u64 = 10_000;
/// Clocks further apart than this make signatures of requests to stores invalid (AWS allows 15 minutes, Azure too).
const CLOCK_APART: SignedDuration = SignedDuration::from_secs(60);
/// Fewer open files than this are few for a proxy.
const FEW_FILES: u64 = 4096;
/// Fewer watches than this are few for a folder of manifests beside other programs.
const FEW_WATCHES: u64 = 8192;

/// Draws every conclusion.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        settings(facts),
        home(facts),
        token(facts),
        manifests(facts),
        secrets(facts),
        daemon(facts),
        lock(facts),
        leftovers(facts),
    ];
    findings.extend(engine(facts));
    findings.push(cgroup(facts));
    findings.extend(facts.disks.iter().flat_map(disk));
    findings.extend(facts.ports.iter().map(|port| listen(port, facts)));
    findings.extend([proxy(facts), clock(facts), gpu(facts)]);
    findings.extend(facts.credentials.iter().map(|found| {
        let severity = if found.problem.is_some() { Severity::Warning } else { Severity::Ok };
        let finding = Finding::new("credentials", severity, format!("{}: {}", found.scheme, found.source));
        match &found.problem {
            Some((cause, fix)) => finding.because(cause.clone()).fix(fix.clone()),
            None => finding,
        }
    }));
    findings.push(images(facts));
    findings.extend(limits(facts));
    findings.push(names(facts));
    findings
}

fn settings(facts: &Facts) -> Finding {
    match &facts.settings {
        Ok(()) => Finding::ok("settings", format!("{} can be used", facts.config)),
        Err(error) => Finding::new("settings", Severity::Error, "the settings cannot be used")
            .because(error.clone())
            .fix(format!("edit {}; docs/configuration.md lists every key", facts.config)),
    }
}

fn home(facts: &Facts) -> Finding {
    match &facts.home_writable {
        Ok(()) if !facts.home_exists => Finding::ok("home", format!("{} is not there yet and can be made", facts.home)),
        Ok(()) => Finding::ok("home", format!("{} can be written", facts.home)),
        Err(error) => Finding::new("home", Severity::Error, format!("{} cannot be written", facts.home))
            .because(error.clone())
            .fix(format!("sudo chown -R \"$(id -un)\" {}", facts.home)),
    }
}

fn token(facts: &Facts) -> Finding {
    match facts.token_mode {
        Some(mode) if mode & 0o077 != 0 => {
            Finding::new("token", Severity::Warning, format!("the API's token can be read by others (mode {mode:o})"))
                .because("whoever reads it can run containers through the API")
                .fix(format!("chmod 600 {}/state/token", facts.home))
        }
        Some(_) => Finding::ok("token", "the API's token is readable by its owner only"),
        None => Finding::ok("token", "no token yet; the first start makes one"),
    }
}

fn manifests(facts: &Facts) -> Finding {
    match facts.bad_manifests.as_slice() {
        [] => Finding::ok("manifests", format!("{} manifest files, all readable", facts.manifest_files)),
        [first, ..] => {
            let count = facts.bad_manifests.len();
            Finding::new(
                "manifests",
                Severity::Warning,
                format!("{count} of {} manifest files have errors", facts.manifest_files),
            )
            .because(format!("the first: {first}"))
            .fix("kserve-local validate")
        }
    }
}

fn secrets(facts: &Facts) -> Finding {
    match facts.open_secrets.as_slice() {
        [] => Finding::ok("secrets", "files that hold Secrets are readable by their owner only"),
        open => {
            let files: Vec<&str> = open.iter().map(|(path, _)| path.as_str()).collect();
            let (first, mode) = &open[0];
            let others = if files.len() > 1 { format!(", and {} more", files.len() - 1) } else { String::new() };
            Finding::new(
                "secrets",
                Severity::Warning,
                format!("{first} holds a Secret and can be read by others (mode {mode:o}){others}"),
            )
            .because("whoever has an account on this machine can read the credentials in it")
            .fix(format!("chmod 600 {}", files.join(" ")))
        }
    }
}

fn daemon(facts: &Facts) -> Finding {
    match &facts.daemon {
        None => Finding::new("daemon", Severity::Info, "no daemon runs on this home").fix("kserve-local up"),
        Some(version) if *version != facts.version => Finding::new(
            "daemon",
            Severity::Warning,
            format!("the daemon is version {version}, this program {}", facts.version),
        )
        .because("it was started before an upgrade")
        .fix("systemctl restart kserve-local, or start `kserve-local serve` anew; models keep running"),
        Some(version) => Finding::ok("daemon", format!("version {version} answers")),
    }
}

fn lock(facts: &Facts) -> Finding {
    match &facts.lock {
        Lock::Free => Finding::ok("lock", "nobody holds the home"),
        Lock::Held { pid } if facts.daemon.is_some() => {
            Finding::ok("lock", format!("held by the daemon, process {pid}"))
        }
        Lock::Held { pid } => {
            Finding::new("lock", Severity::Error, format!("process {pid} holds the home, but no daemon answers"))
                .because("it starts, ends, or hangs")
                .fix(format!("look at its log; if it hangs: kill {pid}"))
        }
        Lock::Stale { pid } => {
            Finding::new("lock", Severity::Info, format!("addresses.json names process {pid}, which is gone"))
                .because("a daemon was killed; the next start takes over what it left")
                .fix("kserve-local up, or kserve-local doctor --fix to forget it")
        }
    }
}

fn leftovers(facts: &Facts) -> Finding {
    match facts.leftovers.as_slice() {
        [] => Finding::ok("leftovers", "nothing is left of runs that were killed"),
        left => {
            Finding::new("leftovers", Severity::Warning, format!("left of runs that were killed: {}", left.join(", ")))
                .because("their models may still run, and hold memory")
                .fix("kserve-local doctor --fix")
        }
    }
}

fn engine(facts: &Facts) -> Vec<Finding> {
    let found = match &facts.engine {
        Engine::Answers(found) => found,
        Engine::Denied { endpoint, cause } => {
            return vec![
                Finding::new("engine", Severity::Error, format!("this user may not use {endpoint}"))
                    .because(cause.clone())
                    .fix("sudo usermod -aG docker \"$(id -un)\", then log in again"),
            ];
        }
        Engine::Absent { cause } => return vec![no_engine(cause, facts)],
    };
    let mut findings = vec![Finding::ok("engine", format!("{} at {}", found.version, found.endpoint))];
    let api =
        found.api_version.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    findings.push(match api {
        Some(api) if api < OLDEST_API => {
            Finding::new("engine-api", Severity::Error, format!("API {} is too old", found.api_version))
                .because(format!("{}.{} is the oldest that is spoken (Docker 19.03)", OLDEST_API.0, OLDEST_API.1))
                .fix("upgrade the engine")
        }
        _ => Finding::ok("engine-api", format!("API {}", found.api_version)),
    });
    let limits = |warning: &&String| warning.to_lowercase().contains("memory limit");
    if let Some(warning) = found.warnings.iter().find(limits) {
        findings.push(
            Finding::new("engine-limits", Severity::Warning, "the engine cannot limit memory")
                .because(warning.clone())
                .fix("boot with cgroup_enable=memory swapaccount=1"),
        );
    }
    findings
}

fn no_engine(cause: &str, facts: &Facts) -> Finding {
    let install = "install Docker or Podman and start it, or name its socket: DOCKER_HOST";
    let (severity, summary, fix) = match &facts.engine_named_by {
        Some(who) => (
            Severity::Error,
            format!("the container engine that is wanted cannot be used ({who})"),
            "start it, or name another; `kserve-local serve --engine process` does without one",
        ),
        None if facts.has_process_tools => (
            Severity::Info,
            "no container engine answers; models of runtimes with a recipe run as processes".to_owned(),
            install,
        ),
        None => (
            Severity::Error,
            "no container engine answers, and there is no Python or uv to do without one".to_owned(),
            install,
        ),
    };
    Finding::new("engine", severity, summary).because(cause).fix(fix)
}

fn cgroup(facts: &Facts) -> Finding {
    match facts.cgroup_version {
        Some(2) => Finding::ok("cgroup", "version 2"),
        Some(version) => Finding::new("cgroup", Severity::Info, format!("version {version}"))
            .because("peaks of memory are measured less exactly, and processes have no limits without root"),
        None => Finding::new("cgroup", Severity::Info, "none: limits are the engine's own matter"),
    }
}

fn disk(disk: &Disk) -> Vec<Finding> {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let place = format!("{} ({})", disk.path, disk.what);
    let space = if disk.free_bytes < NO_SPACE {
        Finding::new("disk", Severity::Error, format!("{place}: {} free", gib(disk.free_bytes)))
            .because("nothing can be downloaded or written")
            .fix("kserve-local cache df; kserve-local cache prune; docker system df")
    } else if disk.free_bytes < LITTLE_SPACE {
        Finding::new("disk", Severity::Warning, format!("{place}: only {} free", gib(disk.free_bytes)))
            .because("images and models are gigabytes")
            .fix("kserve-local cache df; kserve-local cache prune; docker system df")
    } else {
        Finding::ok("disk", format!("{place}: {} free", gib(disk.free_bytes)))
    };
    // File systems without a fixed table of inodes say zero of zero.
    if disk.total_inodes > 0 && disk.free_inodes < FEW_INODES {
        let few = Finding::new("inodes", Severity::Warning, format!("{place}: only {} inodes free", disk.free_inodes))
            .because("a file system without inodes is full, whatever its free space")
            .fix(format!("df -i {}", disk.path));
        return vec![space, few];
    }
    vec![space]
}

fn listen(port: &Port, facts: &Facts) -> Finding {
    let Port { address, what, taken } = port;
    match taken {
        None => Finding::ok("port", format!("{address} is free for {what}")),
        Some(_) if facts.daemon.is_some() => Finding::ok("port", format!("{address} answers for {what}")),
        Some(cause) => Finding::new("port", Severity::Error, format!("{address} cannot be used for {what}"))
            .because(cause.clone())
            .fix(port_fix(*address)),
    }
}

fn port_fix(address: SocketAddr) -> String {
    format!("ss -ltnp 'sport = :{}' names who listens; or choose another in config.yaml", address.port())
}

fn proxy(facts: &Facts) -> Finding {
    let Some((name, value)) = &facts.proxy else {
        return Finding::ok("proxy", "no proxy in the environment");
    };
    let covered = facts
        .no_proxy
        .split(',')
        .map(str::trim)
        .any(|host| matches!(host, "localhost" | "127.0.0.1" | "*" | ".localhost"));
    if covered {
        return Finding::ok("proxy", format!("{name}={value}; local addresses are left out"));
    }
    Finding::new("proxy", Severity::Warning, format!("{name} is set, and NO_PROXY leaves no local address out"))
        .because("curl, kubectl and SDKs would send predictions for localhost to the proxy")
        .fix("export NO_PROXY=localhost,127.0.0.1,.localhost")
}

fn clock(facts: &Facts) -> Finding {
    let wrong = |summary: String, cause: &str| {
        Finding::new("clock", Severity::Warning, summary).because(cause).fix("timedatectl set-ntp true")
    };
    if let Some(newest) = facts.newest_state.filter(|newest| newest.duration_since(facts.now) > CLOCK_APART) {
        return wrong(
            format!("the clock is behind: state was written at {newest}"),
            "it was set back, or was wrong then",
        );
    }
    let engine = match &facts.engine {
        Engine::Answers(found) => found.time.as_ref().and_then(|time| time.parse::<Timestamp>().ok()),
        _ => None,
    };
    match engine.map(|engine| engine.duration_since(facts.now).abs()) {
        Some(apart) if apart > CLOCK_APART => wrong(
            format!("the engine's clock is {} s apart", apart.as_secs()),
            "stores refuse signed requests; a virtual machine that slept is often behind",
        ),
        _ => Finding::ok("clock", format!("{}", facts.now)),
    }
}

fn gpu(facts: &Facts) -> Finding {
    let has_runtime = matches!(&facts.engine, Engine::Answers(found) if found.nvidia);
    match (facts.gpus.as_slice(), facts.gpu_device) {
        ([], false) => Finding::ok("gpu", "no NVIDIA GPU"),
        ([], true) => Finding::new("gpu", Severity::Warning, "there is an NVIDIA device, but nvidia-smi does not list it")
            .because("driver and kernel may not fit, or nvidia-smi is not installed")
            .fix("nvidia-smi"),
        (gpus, _) if !has_runtime && matches!(facts.engine, Engine::Answers(_)) => {
            Finding::new("gpu", Severity::Warning, format!("{}: containers cannot use it", gpus.join(", ")))
                .because("the engine has no NVIDIA runtime")
                .fix("install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure && sudo systemctl restart docker")
        }
        (gpus, _) => Finding::ok("gpu", gpus.join(", ")),
    }
}

fn images(facts: &Facts) -> Finding {
    let Engine::Answers(found) = &facts.engine else {
        return Finding::ok("images", "not looked at: no engine");
    };
    let ours = found.images.iter().filter(|(tag, _)| facts.runtime_images.contains(*tag));
    let foreign: Vec<String> = ours
        .filter(|(_, platform)| **platform != found.platform)
        .map(|(tag, platform)| format!("{tag} is for {platform}"))
        .collect();
    if foreign.is_empty() {
        return Finding::ok("images", format!("images of runtimes are for {}", found.platform));
    }
    Finding::new("images", Severity::Warning, foreign.join("; "))
        .because(format!("this machine is {}: they are emulated, slowly, or do not start", found.platform))
        .fix(format!("docker pull --platform {} IMAGE", found.platform))
}

fn limits(facts: &Facts) -> Vec<Finding> {
    let files = match facts.open_files {
        Some(files) if files < FEW_FILES => {
            Finding::new("open-files", Severity::Warning, format!("at most {files} open files"))
                .because("every connection of a client and to a model is one")
                .fix("ulimit -n 65536")
        }
        Some(files) => Finding::ok("open-files", format!("up to {files}")),
        None => Finding::ok("open-files", "no limit is known"),
    };
    let watches = match facts.inotify_watches {
        Some(watches) if watches < FEW_WATCHES => {
            Finding::new("watches", Severity::Warning, format!("at most {watches} watched folders for all programs"))
                .because("without watches saved files are noticed seconds later")
                .fix("sudo sysctl fs.inotify.max_user_watches=524288")
        }
        _ => Finding::ok("watches", "enough for the folder"),
    };
    vec![files, watches]
}

fn names(facts: &Facts) -> Finding {
    if facts.localhost_resolves {
        return Finding::ok("names", "names below localhost lead here");
    }
    Finding::new("names", Severity::Info, "this system's resolver does not know names below localhost")
        .because("curl and browsers do by themselves; Python and others do not")
        .fix("use a Host header, or the address by path or model name")
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
