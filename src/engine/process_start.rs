//! Starting a process container, and running a command beside it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::process::{ProcessEngine, blocking, refused};
use super::process_folder::{Found, Launch, Life, Record, given_ports};
use super::process_prepare::{disk, limit};
use super::process_rewrite::{Texts, with_paths};
use super::process_supervise::{SUPERVISE, own_program};
use super::process_table::MARK;
use super::{Blame, EngineError, process_ports};
use crate::environments::{Environment, find_on_path, hold_shared};
use crate::workload::Program;

/// What is asked, for messages.
pub(super) const EXEC: &str = "run a command in";
/// Longest wait for a supervisor to say who runs.
const BEGUN: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);
/// Output of a command that is kept, in bytes.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// Starts a container; one that runs is left alone.
pub(super) async fn start(engine: &ProcessEngine, found: &Found) -> Result<(), EngineError> {
    let name = &found.record.name;
    let refuse = |message: String, blame| refused("start", name, message, blame);
    if matches!(found.life, Life::Running(_)) {
        return Ok(());
    }
    let environment = match &found.record.process.program {
        Program::Python(wanted) => {
            engine.inner.environments.note_use(wanted);
            let present = engine.inner.environments.present(wanted);
            Some(present.ok_or_else(|| EngineError::ImageAbsent(found.record.image.clone()))?)
        }
        Program::Executable { .. } => None,
    };
    if let Some(target) = &found.record.join {
        let other = engine.ours("start", target).await?;
        if !matches!(other.life, Life::Running(_)) {
            return Err(refuse(format!("cannot join network of a non running container: {target}"), Blame::Machine));
        }
    }
    // Held until the supervisor holds it, so that nobody collects it in between.
    let _hold = environment.as_ref().map(|environment| hold_shared(&environment.lock));
    let taken = given_ports(&engine.all().await?);
    let launch = {
        let (engine, found) = (engine.clone(), found.clone());
        blocking("start", name, move || launch(&engine, &found, environment.as_ref(), &taken)).await?
    };
    let begun = begin(engine, found, &launch).await;
    if begun.is_err() {
        launch.groups.remove();
    }
    begun
}

/// Orders the start and waits until the supervisor has made it.
async fn begin(engine: &ProcessEngine, found: &Found, launch: &Launch) -> Result<(), EngineError> {
    let name = &found.record.name;
    found.folder.write_launch(launch).map_err(disk("start", name))?;
    let program = engine.inner.config.supervisor.clone().unwrap_or_else(own_program);
    let mut command = Command::new(&program);
    command.args([SUPERVISE, found.folder.path().as_str(), &launch.run]);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut supervisor = command.spawn().map_err(disk("start", name))?;
    let waiting = async {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            match found.folder.life() {
                Life::Running(Some(_)) | Life::Lost(_) => return Ok(()),
                Life::Ended(ended) if !ended.error.is_empty() => return Err(ended.error),
                Life::Ended(_) => return Ok(()),
                _ => {}
            }
            if let Ok(Some(status)) = supervisor.try_wait()
                && matches!(found.folder.life(), Life::Created)
            {
                return Err(format!("its supervisor ended with {status}"));
            }
        }
    };
    let begun = tokio::time::timeout(BEGUN, waiting).await;
    let begun = begun.unwrap_or_else(|_| Err(format!("its supervisor said nothing for {} s", BEGUN.as_secs())));
    begun.map_err(|message| refused("start", name, message, Blame::Machine))
}

/// Decides on everything one start needs.
fn launch(
    engine: &ProcessEngine,
    found: &Found,
    environment: Option<&Environment>,
    taken: &BTreeSet<u16>,
) -> Result<Launch, EngineError> {
    let record = &found.record;
    let mut texts = Texts { command: record.command.clone(), args: record.args.clone(), env: record.env.clone() };
    let ports = ports(record, &texts, taken)?;
    texts.set_ports(&record.process.ports, &ports);
    texts.set_paths(&record.paths);
    let home = found.folder.home();
    let working_dir = record.working_dir.as_deref().map(|path| Utf8PathBuf::from(with_paths(path, &record.paths)));
    let temporary = temporary(engine, record).map_err(disk("start", &record.name))?;
    let search = match environment {
        Some(environment) => format!("{}:{}", environment.bin, engine.path()),
        None => engine.path().to_owned(),
    };
    let program = texts.command.first().cloned().unwrap_or_default();
    let found_program = find_on_path(&program, &search).ok_or_else(|| {
        let message = format!("`{program}`, which its recipe starts, is not on the PATH");
        refused("start", &record.name, message, Blame::User)
    })?;
    let env = clean_environment(engine, record, environment, texts.env, &search, &home, &temporary);
    Ok(Launch {
        run: format!("{:016x}", rand::random::<u64>()),
        id: record.id.clone(),
        program: found_program,
        args: texts.command.into_iter().skip(1).chain(texts.args).collect(),
        env,
        working_dir: working_dir.filter(|path| path.is_dir()).unwrap_or(home),
        temporary,
        groups: limit(record),
        hold: environment.map(|environment| environment.lock.clone()),
        ports,
    })
}

/// Gives every port of a container one of this machine. A port that nothing sets must be free itself.
fn ports(record: &Record, texts: &Texts, taken: &BTreeSet<u16>) -> Result<BTreeMap<u16, u16>, EngineError> {
    let mut taken = taken.clone();
    let mut given = BTreeMap::new();
    for port in texts.container_ports(&record.process.ports) {
        if let Entry::Vacant(place) = given.entry(port) {
            let free = process_ports::free(&taken).map_err(disk("start", &record.name))?;
            taken.insert(free);
            place.insert(free);
        }
    }
    for port in &record.ports {
        if given.contains_key(port) {
            continue;
        }
        if taken.contains(port) || !process_ports::is_free(*port) {
            let message = format!(
                "port {port} is taken on this machine, and the recipe of `{}` does not say what would set another",
                record.process.recipe
            );
            return Err(refused("start", &record.name, message, Blame::Machine));
        }
        given.insert(*port, *port);
    }
    Ok(given)
}

/// The environment: what the workload asks for, and the few variables nothing runs without.
fn clean_environment(
    engine: &ProcessEngine,
    record: &Record,
    environment: Option<&Environment>,
    asked: Vec<(String, String)>,
    search: &str,
    home: &Utf8Path,
    temporary: &Utf8Path,
) -> Vec<(String, String)> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), search.to_owned()),
        ("HOME".to_owned(), home.to_string()),
        ("TMPDIR".to_owned(), temporary.to_string()),
    ]);
    let language = engine.inner.config.environment.get("LANG").cloned().unwrap_or_else(|| "C.UTF-8".to_owned());
    env.insert("LANG".to_owned(), language);
    if let Some(environment) = environment {
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
        if let Some(module) = &environment.module {
            env.insert("PYTHONPATH".to_owned(), module.to_string());
        }
    }
    env.extend(asked);
    env.insert(MARK.to_owned(), record.id.clone());
    env.into_iter().collect()
}

/// An empty folder for temporary files, with a path short enough for sockets.
fn temporary(engine: &ProcessEngine, record: &Record) -> std::io::Result<Utf8PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base = engine.inner.config.environment.get("TMPDIR").map_or("/tmp", String::as_str);
    let folder = Utf8Path::new(base).join(format!("kl-{}", record.id.get(..12).unwrap_or(&record.id)));
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Runs a command with the environment of a running container, and returns its exit code and output.
pub(super) async fn exec(found: &Found, command: &[String], timeout: Duration) -> Result<(i64, String), EngineError> {
    let name = &found.record.name;
    let launch = found.folder.launch().filter(|_| matches!(found.life, Life::Running(_)));
    let Some(launch) = launch else {
        return Err(refused(EXEC, name, "it is not running".to_owned(), Blame::Machine));
    };
    let search = launch.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_str());
    let words: Vec<String> = command.iter().map(|word| with_paths(word, &found.record.paths)).collect();
    let first = words.first().cloned().unwrap_or_default();
    let Some(program) = find_on_path(&first, search.unwrap_or_default()) else {
        return Err(refused(EXEC, name, format!("`{first}` is not on its PATH"), Blame::User));
    };
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", program.as_str()]).args(words.iter().skip(1));
    command.env_clear().envs(launch.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(&launch.working_dir).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(disk(EXEC, name))?;
    let run = async {
        let mut output = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            (&mut stdout).take(OUTPUT_LIMIT).read_to_end(&mut output).await?;
            // The rest is read as well: a command nobody listens to any more would be ended by that.
            tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await?;
        }
        let status = child.wait().await?;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
        let code = status.code().or(signal).unwrap_or(255);
        std::io::Result::Ok((i64::from(code), String::from_utf8_lossy(&output).into_owned()))
    };
    match tokio::time::timeout(timeout, run).await {
        Ok(ran) => ran.map_err(disk(EXEC, name)),
        Err(_) => {
            let message = format!("`{}` did not end within {timeout:?}", words.join(" "));
            Err(refused(EXEC, name, message, Blame::User))
        }
    }
}
