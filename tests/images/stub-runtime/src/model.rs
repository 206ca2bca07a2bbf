//! The state of the stub: who it is, what it counts, whether its models are ready.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::settings::Settings;

pub struct Stub {
    pub settings: Settings,
    /// Random for every process, so that a caller can tell one container from the next.
    pub instance: String,
    pub live: AtomicBool,
    /// What a caller set at `/stub/ready/…`; wins over the settings.
    forced: Mutex<Option<bool>>,
    unloaded: Mutex<BTreeSet<String>>,
    started: Instant,
    requests: AtomicU64,
    inferences: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

impl Stub {
    pub fn new(settings: Settings) -> Self {
        let instance = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_or_else(
            |_| std::process::id().to_string(),
            |uuid| uuid.chars().filter(char::is_ascii_hexdigit).take(12).collect(),
        );
        Self {
            settings,
            instance,
            live: AtomicBool::new(true),
            forced: Mutex::new(None),
            unloaded: Mutex::new(BTreeSet::new()),
            started: Instant::now(),
            requests: AtomicU64::new(0),
            inferences: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            most_in_flight: AtomicU64::new(0),
        }
    }

    pub fn is_ready(&self) -> bool {
        let forced = *self.forced.lock().expect("no holder of this lock panics");
        forced.unwrap_or_else(|| !self.settings.never_ready && self.started.elapsed() >= self.settings.ready_delay)
    }

    pub fn force_ready(&self, ready: bool) {
        *self.forced.lock().expect("no holder of this lock panics") = Some(ready);
    }

    pub fn knows(&self, model: &str) -> bool {
        self.settings.any_model || self.settings.model_names.iter().any(|name| name == model)
    }

    pub fn model_is_ready(&self, model: &str) -> bool {
        self.is_ready() && !self.unloaded.lock().expect("no holder of this lock panics").contains(model)
    }

    pub fn set_loaded(&self, model: &str, loaded: bool) {
        let mut unloaded = self.unloaded.lock().expect("no holder of this lock panics");
        if loaded {
            unloaded.remove(model);
        } else {
            unloaded.insert(model.to_owned());
        }
    }

    /// Counts one request for as long as the returned value lives.
    pub fn count_request(&self) -> InFlight<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
        InFlight(self)
    }

    /// Counts one inference and returns which one it is, from 1.
    pub fn count_inference(&self) -> u64 {
        self.inferences.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn stats(&self) -> Value {
        json!({
            "instance": self.instance,
            "models": self.settings.model_names,
            "ready": self.is_ready(),
            "requests": self.requests.load(Ordering::Relaxed),
            "inferences": self.inferences.load(Ordering::Relaxed),
            "in_flight": self.in_flight.load(Ordering::Relaxed),
            "most_in_flight": self.most_in_flight.load(Ordering::Relaxed),
            "uptime_ms": self.started.elapsed().as_millis(),
        })
    }

    pub fn metrics(&self) -> String {
        let stats = self.stats();
        let mut text = String::new();
        for (name, kind, key) in [
            ("stub_requests_total", "counter", "requests"),
            ("stub_inferences_total", "counter", "inferences"),
            ("stub_requests_in_flight", "gauge", "in_flight"),
            ("stub_requests_in_flight_max", "gauge", "most_in_flight"),
        ] {
            let value = &stats[key];
            text += &format!("# TYPE {name} {kind}\n{name}{{instance=\"{}\"}} {value}\n", self.instance);
        }
        text
    }
}

/// One request under way, headers to the end of its handler (a streamed body outlives it).
pub struct InFlight<'a>(&'a Stub);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
