//! Settings that are read again while the daemon runs (SIGHUP).
//!
//! What the planner and the resolution go by changes at once. Addresses, the engine and the limits of the data plane are
//! given to threads and sockets at the start; those that differ are named, so that nobody believes they changed.

use tokio::sync::watch;
use tracing::{info, warn};

use super::{driver_config, manager};
use crate::config::{FileConfig, Settings};
use crate::reconcile::DriverConfig;
use crate::workload::RunAs;

/// Top-level keys of `config.yaml` that are taken over while the daemon runs.
const LIVE: &[&str] = &["ingress", "deploy", "allowedHostPaths", "drainSeconds", "scaleToZeroGraceSeconds"];

/// What became of settings that were read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that changed and are in force.
    pub taken: Vec<String>,
    /// Keys that changed and need a restart.
    pub needs_restart: Vec<String>,
}

/// What a reload changes.
pub(super) struct Reload {
    pub(super) settings: Settings,
    pub(super) sender: watch::Sender<DriverConfig>,
    pub(super) data_port: u16,
    pub(super) run_as: RunAs,
}

impl Reload {
    /// Takes over what can be, and says what cannot.
    pub(super) async fn take(&mut self, settings: Settings) -> Reloaded {
        manager::say_reloading().await;
        let reloaded = compare(&self.settings.file, &settings.file);
        // What needs a restart stays as it was, so that it is said again the next time.
        self.settings = in_force(&self.settings, settings);
        // The driver resolves everything again; without a change that would be for nothing.
        if !reloaded.taken.is_empty() {
            self.sender.send_replace(driver_config(&self.settings, self.data_port, self.run_as));
        }
        info!(taken = reloaded.taken.join(", "), "settings and folder read again");
        if !reloaded.needs_restart.is_empty() {
            warn!(
                keys = reloaded.needs_restart.join(", "),
                "these settings changed and are in force after a restart only"
            );
        }
        manager::say_reloaded("serving").await;
        reloaded
    }
}

/// Says which top-level keys differ.
fn compare(before: &FileConfig, after: &FileConfig) -> Reloaded {
    let (before, after) = (keys(before), keys(after));
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(key, _)| key.clone());
    let (taken, needs_restart) = changed.partition(|key| LIVE.contains(&key.as_str()));
    Reloaded { taken, needs_restart }
}

/// Returns the settings that hold from now on: those of [`LIVE`] as they were read, all others as before.
fn in_force(before: &Settings, read: Settings) -> Settings {
    let Settings { file, domains, default_mode, allowed_host_paths, drain_deadline, scale_to_zero_grace, .. } = read;
    Settings {
        file: merged(before.file.clone(), &file),
        domains,
        default_mode,
        allowed_host_paths,
        drain_deadline,
        scale_to_zero_grace,
        ..before.clone()
    }
}

fn merged(mut in_force: FileConfig, read: &FileConfig) -> FileConfig {
    let FileConfig { ingress, deploy, allowed_host_paths, drain_seconds, scale_to_zero_grace_seconds, .. } =
        read.clone();
    in_force.ingress = ingress;
    in_force.deploy = deploy;
    in_force.allowed_host_paths = allowed_host_paths;
    in_force.drain_seconds = drain_seconds;
    in_force.scale_to_zero_grace_seconds = scale_to_zero_grace_seconds;
    in_force
}

fn keys(file: &FileConfig) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(file) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::config::Flags;
    use crate::home::Home;

    fn file(text: &str) -> FileConfig {
        crate::manifest::yaml::from_yaml(text).unwrap()
    }

    #[test]
    fn what_changed_is_told_apart_by_whether_it_needs_a_restart() {
        let before = file("listen: 127.0.0.1:1\ndrainSeconds: 5\n");
        let after = file("listen: 127.0.0.1:2\ndrainSeconds: 6\n");
        let reloaded = compare(&before, &after);
        assert_eq!(
            (reloaded.taken, reloaded.needs_restart),
            (vec!["drainSeconds".to_owned()], vec!["listen".to_owned()])
        );
        assert_eq!(compare(&before, &before), Reloaded::default());
        // What needs a restart is said again until there was one.
        let in_force = merged(before, &after);
        assert_eq!(compare(&in_force, &after).needs_restart, ["listen"]);
    }

    #[test]
    fn what_needs_a_restart_is_not_in_force_because_something_else_changed() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(camino::Utf8Path::from_path(folder.path()).unwrap());
        let read = |text: &str| {
            std::fs::write(home.config(), text).unwrap();
            Settings::load(home.clone(), &Flags::default(), BTreeMap::default()).unwrap()
        };
        let before = read("drainSeconds: 5\nmemory: {budget: 2Gi}\n");
        let text = "drainSeconds: 6\nmemory: {budget: 4Gi}\nsandboxes: {enabled: false}\nrevisionHistoryLimit: 3\n";
        let after = read(text);
        let [old, new] = [&before, &after].map(|settings| driver_config(settings, 1, RunAs::Containers).plan);
        let plan = driver_config(&in_force(&before, after), 1, RunAs::Containers).plan;
        assert_eq!((plan.drain_deadline, new.drain_deadline), (new.drain_deadline, Duration::from_secs(6)));
        assert_eq!((plan.memory, plan.history_limit), (old.memory, old.history_limit));
        assert_eq!(plan.sandboxes, old.sandboxes);
    }

    #[test]
    fn every_live_key_is_a_key_of_the_file() {
        let keys = keys(&FileConfig::default());
        assert!(LIVE.iter().all(|key| keys.contains_key(*key)), "{keys:?}");
    }
}
