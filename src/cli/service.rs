//! `service`: kserve-local under systemd or launchd.

use std::process::Command;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, Subcommand};
use serde_json::json;

use super::format::TextOrJson;
use super::output;
use super::report::{Exit, Problem};
use super::serve;
use super::service_units::{self, Facts, LAUNCHD_LABEL, Manager, UnitFile};
use crate::config::{Flags, Settings};
use crate::home::{Home, write_atomically};

/// Home of the system service; its unit says so too.
const SYSTEM_HOME: &str = "/var/lib/kserve-local";
/// The units, in the order they are started.
const UNITS: [&str; 2] = ["kserve-local.socket", "kserve-local.service"];

/// Run kserve-local as a service: started at login or boot, restarted when it fails.
#[derive(Clone, Debug, Args)]
pub struct ServiceArgs {
    /// What to do with the service
    #[command(subcommand)]
    pub verb: ServiceVerb,
}

/// What to do with the service.
#[derive(Clone, Debug, Subcommand)]
pub enum ServiceVerb {
    /// Write the units, enable and start them. Installing again updates them; models keep running
    Install(InstallArgs),
    /// Stop and remove the service. Models keep running unless --stop-models
    Uninstall(UninstallArgs),
    /// Say whether the service is installed, enabled and active; exit code 1 when it is not active
    Status(StatusArgs),
}

/// Whose service it is.
#[derive(Clone, Debug, Args)]
pub struct Scope {
    /// A service of the machine under its own user, instead of one of this user
    #[arg(long)]
    pub system: bool,
}

/// `service install`.
#[derive(Clone, Debug, Args)]
pub struct InstallArgs {
    /// Whose service it is.
    #[command(flatten)]
    pub scope: Scope,
    /// Print the files instead of installing them
    #[arg(long)]
    pub print: bool,
    /// Write and enable the units, but start nothing
    #[arg(long)]
    pub no_start: bool,
}

/// `service uninstall`.
#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    /// Whose service it is.
    #[command(flatten)]
    pub scope: Scope,
    /// Stop the models too
    #[arg(long)]
    pub stop_models: bool,
}

/// `service status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Whose service it is.
    #[command(flatten)]
    pub scope: Scope,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TextOrJson,
}

/// Runs the verb.
///
/// # Errors
/// There is no service manager, the files cannot be written, or the manager refuses.
pub async fn run(home: &Utf8Path, home_given: bool, args: ServiceArgs) -> Result<Exit> {
    match args.verb {
        ServiceVerb::Install(args) => install(home, home_given, &args),
        ServiceVerb::Uninstall(args) => uninstall(home, &args).await,
        ServiceVerb::Status(args) => status(&args),
    }
}

fn manager(scope: &Scope) -> Result<Manager> {
    match (cfg!(target_os = "macos"), scope.system) {
        (true, true) => Err(Problem::usage("--system is for systemd; on macOS the service belongs to a user")
            .hint("leave --system away")
            .into()),
        (true, false) => Ok(Manager::Launchd),
        (false, true) => Ok(Manager::SystemdSystem),
        (false, false) => Ok(Manager::SystemdUser),
    }
}

fn user_home() -> Result<Utf8PathBuf> {
    let home =
        directories::BaseDirs::new().and_then(|dirs| Utf8PathBuf::from_path_buf(dirs.home_dir().to_owned()).ok());
    home.ok_or_else(|| Problem::machine("this user has no home folder").hint("set HOME").into())
}

fn wanted(manager: Manager, home: &Utf8Path, home_given: bool) -> Result<Vec<UnitFile>> {
    // The system service has its own home, whatever this user's is.
    let served = if manager == Manager::SystemdSystem && !home_given { Utf8Path::new(SYSTEM_HOME) } else { home };
    let environment = serve::environment().into_iter().filter(|(name, _)| !name.starts_with("KSERVE_LOCAL_"));
    let settings = Settings::load(Home::new(served), &Flags::default(), environment.collect());
    let settings = settings.map_err(serve::bad_setting)?;
    let program = std::env::current_exe().context("could not find this program's own path")?;
    let own_home = user_home()?;
    let is_default = match manager {
        Manager::SystemdSystem => served == SYSTEM_HOME,
        Manager::SystemdUser | Manager::Launchd => served == own_home.join(".kserve-local"),
    };
    let facts = Facts {
        program: Utf8PathBuf::try_from(program)?,
        home: (!is_default).then(|| served.to_owned()),
        listen: settings.listen,
        api_listen: settings.api_listen,
    };
    Ok(service_units::files(manager, &facts, &own_home))
}

fn install(home: &Utf8Path, home_given: bool, args: &InstallArgs) -> Result<Exit> {
    let manager = manager(&args.scope)?;
    let files = wanted(manager, home, home_given)?;
    if args.print {
        for file in &files {
            output::print(&format!("# {}\n{}\n", file.path, file.text))?;
        }
        return Ok(Exit::Done);
    }
    find_manager(manager)?;
    for file in &files {
        write_atomically(&file.path, file.text.as_bytes(), 0o644).map_err(|error| cannot_write(&file.path, error))?;
        output::note(&format!("wrote {}", file.path));
    }
    if manager == Manager::Launchd {
        return install_agent(&files[0], args);
    }
    if manager == Manager::SystemdSystem {
        tell("systemd-sysusers", &["kserve-local.conf"])?;
    }
    systemctl(manager, &["daemon-reload"])?;
    systemctl(manager, &[&["enable"][..], &UNITS].concat())?;
    if args.no_start {
        output::line("kserve-local is installed and enabled, not started")?;
        return Ok(Exit::Done);
    }
    // The socket first: it has to be open before the service asks for it. A service that runs is restarted by the new unit.
    systemctl(manager, &["start", UNITS[0]])?;
    systemctl(manager, &["restart", UNITS[1]])?;
    output::line("kserve-local is installed, enabled and started")?;
    let user = if manager == Manager::SystemdUser { "--user " } else { "" };
    output::note(&format!("its log: journalctl {user}-u kserve-local -f"));
    if manager == Manager::SystemdUser {
        output::note("to start it at boot and keep it after logout: loginctl enable-linger");
    }
    Ok(Exit::Done)
}

fn install_agent(file: &UnitFile, args: &InstallArgs) -> Result<Exit> {
    if args.no_start {
        output::line("kserve-local is installed and starts at the next login")?;
        return Ok(Exit::Done);
    }
    let domain = launchd_domain();
    // One that is not loaded cannot be unloaded, and need not be.
    let _ = tell("launchctl", &["bootout", &format!("{domain}/{LAUNCHD_LABEL}")]);
    tell("launchctl", &["bootstrap", &domain, file.path.as_str()])?;
    output::line("kserve-local is installed and started")?;
    Ok(Exit::Done)
}

fn launchd_domain() -> String {
    format!("gui/{}", rustix::process::getuid().as_raw())
}

async fn uninstall(home: &Utf8Path, args: &UninstallArgs) -> Result<Exit> {
    let manager = manager(&args.scope)?;
    find_manager(manager)?;
    // Where they are does not depend on settings, which may be what is broken.
    let mut installed = service_units::paths(manager, &user_home()?);
    installed.retain(|path| path.exists());
    if installed.is_empty() {
        output::line("kserve-local is not installed as a service")?;
        return Ok(Exit::Done);
    }
    match manager {
        Manager::Launchd => _ = tell("launchctl", &["bootout", &format!("{}/{LAUNCHD_LABEL}", launchd_domain())])?,
        _ => _ = systemctl(manager, &[&["disable", "--now"][..], &UNITS].concat())?,
    }
    for path in &installed {
        std::fs::remove_file(path).map_err(|error| cannot_write(path, error))?;
        output::note(&format!("removed {path}"));
    }
    if manager != Manager::Launchd {
        systemctl(manager, &["daemon-reload"])?;
    }
    let served = if args.scope.system { Utf8Path::new(SYSTEM_HOME) } else { home };
    if args.stop_models {
        super::down::stop_models(served).await?;
        output::line("kserve-local is uninstalled, and its models are stopped")?;
    } else {
        output::line("kserve-local is uninstalled; its models keep running")?;
        output::note(&format!("to stop them: kserve-local --home {served} down"));
    }
    Ok(Exit::Done)
}

fn status(args: &StatusArgs) -> Result<Exit> {
    let manager = manager(&args.scope)?;
    find_manager(manager)?;
    let state = match manager {
        Manager::Launchd => {
            let listed = tell("launchctl", &["print", &format!("{}/{LAUNCHD_LABEL}", launchd_domain())]);
            let active = if listed.is_ok_and(|text| text.contains("state = running")) { "active" } else { "inactive" };
            vec![("ActiveState".to_owned(), active.to_owned())]
        }
        _ => shown(&systemctl(
            manager,
            &[
                "show",
                UNITS[1],
                "--property=ActiveState,SubState,UnitFileState,MainPID,FragmentPath,StatusText,NRestarts",
            ],
        )?),
    };
    let get = |key: &str| state.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value.as_str());
    let is_active = get("ActiveState") == "active";
    if args.output == TextOrJson::Json {
        let object: serde_json::Map<_, _> = state.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        output::line(&serde_json::to_string_pretty(&object)?)?;
    } else {
        let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
        output::line(&format!("unit:      {}", or_none(get("FragmentPath"))))?;
        output::line(&format!("enabled:   {}", or_none(get("UnitFileState"))))?;
        output::line(&format!("state:     {} ({})", get("ActiveState"), get("SubState")))?;
        output::line(&format!("process:   {}", get("MainPID")))?;
        output::line(&format!("restarts:  {}", or_none(get("NRestarts"))))?;
        output::line(&format!("says:      {}", or_none(get("StatusText"))))?;
    }
    Ok(if is_active { Exit::Done } else { Exit::NotSo })
}

/// Reads `KEY=value` lines.
fn shown(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn find_manager(manager: Manager) -> Result<()> {
    let (program, what) = match manager {
        Manager::Launchd => ("launchctl", "launchd"),
        _ => ("systemctl", "systemd"),
    };
    match Command::new(program).arg("--version").output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Problem::machine(format!("there is no {what} on this machine: `{program}` is not to be found"))
                .hint("start `kserve-local serve` from what starts programs here; `service install --print` shows what a unit does")
                .into())
        }
        _ => Ok(()),
    }
}

fn systemctl(manager: Manager, words: &[&str]) -> Result<String> {
    let scope: &[&str] = if manager == Manager::SystemdUser { &["--user"] } else { &[] };
    tell("systemctl", &[scope, words].concat())
}

/// Returns what may be done about what the service manager said.
fn hint(said: &str) -> &'static str {
    if said.contains("connect to bus") || said.contains("booted with systemd") {
        "no systemd manages this session (a container, `su`): log in as the user, or start `kserve-local up`"
    } else {
        "the service manager's own words are above; `journalctl -xe` has more (add --user for a user's service)"
    }
}

/// Runs a program of the service manager and returns what it printed.
fn tell(program: &str, words: &[&str]) -> Result<String> {
    let typed = format!("{program} {}", words.join(" "));
    let ran = Command::new(program).args(words).output();
    let done = ran.map_err(|error| Problem::machine(format!("could not run `{typed}`")).because(error))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        let hint = hint(&said);
        return Err(Problem::machine(format!("`{typed}` failed: {said}")).hint(hint).into());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn cannot_write(path: &Utf8Path, error: std::io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "a service of the machine is installed by root: sudo kserve-local service … --system"
        }
        _ => "check the folder's permissions and the free space",
    };
    Problem::machine(format!("could not change `{path}`")).because(error).hint(hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_systemd_is_told_apart_from_a_unit_that_fails() {
        assert!(hint("Failed to connect to bus: No medium found").contains("kserve-local up"));
        assert!(hint("System has not been booted with systemd as init system").contains("kserve-local up"));
        assert!(hint("Failed to start kserve-local.service: Unit not found.").contains("journalctl"));
    }
}
