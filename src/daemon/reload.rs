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
        // The driver resolves everything again; without a change that would be for nothing.
        if !reloaded.taken.is_empty() {
            self.sender.send_replace(driver_config(&settings, self.data_port, self.run_as));
        }
        info!(taken = reloaded.taken.join(", "), "settings and folder read again");
        if !reloaded.needs_restart.is_empty() {
            warn!(
                keys = reloaded.needs_restart.join(", "),
                "these settings changed and are in force after a restart only"
            );
        }
        // What needs a restart is compared with what is in force, so that it is said again the next time.
        let in_force = self.settings.file.clone();
        self.settings = Settings { file: merged(in_force, &settings.file), ..settings };
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
    use super::*;

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
    fn every_live_key_is_a_key_of_the_file() {
        let keys = keys(&FileConfig::default());
        assert!(LIVE.iter().all(|key| keys.contains_key(*key)), "{keys:?}");
    }
}
