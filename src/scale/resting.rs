//! What a service does when nobody asks: how it sleeps, when it does not, and whether it is woken when the daemon starts.

use std::collections::BTreeMap;

use super::warm::Warm;
use crate::api::meta;

/// What a service does when nobody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resting {
    /// How it sleeps.
    pub way: Way,
    /// Hours in which it does not.
    pub warm: Option<Warm>,
    /// Whether it never does, not even to make room.
    pub pinned: bool,
    /// Woken when the daemon starts, in this order.
    pub preload: Option<i32>,
}

/// How a service sleeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Its containers are stopped and removed.
    #[default]
    Stop,
    /// Its containers are paused: memory stays, and it wakes in milliseconds.
    Pause,
    /// Its server is told, and told again to wake it.
    Hook(Hooks),
}

/// What a server is told, by `POST` to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Path that sends it to sleep.
    pub sleep: String,
    /// Path that wakes it; must do no harm while it is awake.
    pub wake: String,
    /// Port; that of requests when none.
    pub port: Option<u16>,
}

impl Default for Hooks {
    /// vLLM's: level 1 keeps the weights in the machine's memory and gives the GPU's back.
    fn default() -> Self {
        Self { sleep: "/sleep?level=1".to_owned(), wake: "/wake_up".to_owned(), port: None }
    }
}

/// Reads what the annotations say. Values that mean nothing are noted.
pub(super) fn read(annotations: &BTreeMap<String, String>, notes: &mut Vec<String>) -> Resting {
    let mut reader = Reader { annotations, notes };
    Resting {
        way: reader.way(),
        warm: reader.value(meta::KEEP_WARM, "hours, for example `mon-fri 08:00-18:00`", Warm::parse),
        pinned: reader.value(meta::PIN, "`true` or `false`", |text| text.parse().ok()).unwrap_or_default(),
        preload: reader.value(meta::PRELOAD, "a number: lower ones come first", |text| text.parse().ok()),
    }
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    notes: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn value<T>(&mut self, name: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.annotations.get(name)?.trim();
        let value = parse(text);
        if value.is_none() {
            self.notes.push(format!("{name}: `{text}` is not {wanted}; it is not heard"));
        }
        value
    }

    fn way(&mut self) -> Way {
        let wanted = "`stop`, `pause` or `hook`";
        let way = self.value(meta::SLEEP_WAY, wanted, |text| match text {
            "stop" => Some(Way::Stop),
            "pause" => Some(Way::Pause),
            "hook" => Some(Way::Hook(Hooks::default())),
            _ => None,
        });
        let Some(Way::Hook(default)) = way else { return way.unwrap_or_default() };
        let path = |text: &str| text.starts_with('/').then(|| text.to_owned());
        let wanted = "a path, for example `/sleep?level=1`";
        Way::Hook(Hooks {
            sleep: self.value(meta::SLEEP_PATH, wanted, path).unwrap_or(default.sleep),
            wake: self.value(meta::WAKE_PATH, wanted, path).unwrap_or(default.wake),
            port: self.value(meta::SLEEP_PORT, "a port", |text| text.parse().ok().filter(|port| *port > 0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> (Resting, Vec<String>) {
        let mut notes = Vec::new();
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        (super::read(&annotations.collect(), &mut notes), notes)
    }

    #[test]
    fn nothing_written_means_stop() {
        assert_eq!(read(&[]), (Resting::default(), Vec::new()));
    }

    #[test]
    fn ways_to_sleep_are_read_with_vllms_hooks_as_defaults() {
        assert_eq!(read(&[(meta::SLEEP_WAY, "pause")]).0.way, Way::Pause);
        assert_eq!(read(&[(meta::SLEEP_WAY, "hook")]).0.way, Way::Hook(Hooks::default()));
        let own = [
            (meta::SLEEP_WAY, "hook"),
            (meta::SLEEP_PATH, "/rest"),
            (meta::WAKE_PATH, "/rise"),
            (meta::SLEEP_PORT, "9000"),
        ];
        let hooks = Hooks { sleep: "/rest".to_owned(), wake: "/rise".to_owned(), port: Some(9000) };
        assert_eq!(read(&own).0.way, Way::Hook(hooks));
    }

    #[test]
    fn values_that_mean_nothing_are_named() {
        let (resting, notes) = read(&[
            (meta::SLEEP_WAY, "deep"),
            (meta::KEEP_WARM, "always"),
            (meta::PIN, "yes"),
            (meta::PRELOAD, "first"),
        ]);
        assert_eq!(resting, Resting::default());
        assert_eq!(notes.len(), 4, "{notes:?}");
        assert!(notes[0].starts_with("kserve-local/sleep: `deep` is not `stop`, `pause` or `hook`"), "{notes:?}");
    }
}
