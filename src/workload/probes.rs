//! Probes and hooks of a container, with Kubernetes' defaults filled in.

use std::time::Duration;

use k8s_openapi::api::core::v1::{self as core, Container, HTTPGetAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::origin::Origin;
use super::{Check, Hook, Probe, Probes, ResolveError};
use crate::api::meta;

/// Resolves the three probes.
///
/// A readiness probe without a check (Knative allows it) asks whether the first port is open.
pub(super) fn probes(container: &Container, origin: &Origin) -> Result<Probes, ResolveError> {
    let resolver = Resolver { container, origin };
    Ok(Probes {
        startup: resolver.probe("startupProbe", container.startup_probe.as_ref())?,
        liveness: resolver.probe("livenessProbe", container.liveness_probe.as_ref())?,
        readiness: resolver.probe("readinessProbe", container.readiness_probe.as_ref())?,
    })
}

/// Whether a probe says itself what is asked.
pub(super) fn has_check(probe: Option<&core::Probe>) -> bool {
    probe.is_some_and(|probe| {
        probe.http_get.is_some() || probe.tcp_socket.is_some() || probe.grpc.is_some() || probe.exec.is_some()
    })
}

/// Resolves the hook that runs before the stop signal.
pub(super) fn pre_stop(container: &Container, origin: &Origin) -> Result<Option<Hook>, ResolveError> {
    let Some(lifecycle) = &container.lifecycle else { return Ok(None) };
    if lifecycle.post_start.is_some() {
        return Err(ResolveError::invalid(
            origin.field(&["lifecycle", "postStart"]),
            "hooks after the start are not run",
        )
        .with_help("start what is needed from the container's command"));
    }
    let Some(handler) = &lifecycle.pre_stop else { return Ok(None) };
    let field = origin.field(&["lifecycle", "preStop"]);
    let resolver = Resolver { container, origin };
    match handler {
        LifecycleHandler { exec: Some(exec), http_get: None, sleep: None, tcp_socket: None } => {
            Ok(Some(Hook::Exec { command: command(exec.command.as_deref(), &field)? }))
        }
        LifecycleHandler { exec: None, http_get: Some(get), sleep: None, tcp_socket: None } => {
            if get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
                return Err(ResolveError::invalid(
                    format!("{field}.httpGet.scheme"),
                    "hooks are called over plain HTTP",
                ));
            }
            no_host(get.host.as_deref(), &format!("{field}.httpGet"))?;
            let port = resolver.port(&get.port, &format!("{field}.httpGet.port"))?;
            Ok(Some(Hook::Http { path: path(get), port }))
        }
        LifecycleHandler { exec: None, http_get: None, sleep: Some(sleep), tcp_socket: None } => {
            Ok(Some(Hook::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)))))
        }
        _ => Err(ResolveError::invalid(field, "must be exactly one of exec, httpGet and sleep")),
    }
}

struct Resolver<'a> {
    container: &'a Container,
    origin: &'a Origin,
}

impl Resolver<'_> {
    fn probe(&self, name: &str, probe: Option<&core::Probe>) -> Result<Option<Probe>, ResolveError> {
        let Some(probe) = probe else { return Ok(None) };
        let field = self.origin.field(&[name]);
        let number = |value: Option<i32>, default: u32, key: &str| match value {
            None | Some(0) => Ok(default),
            Some(value) => u32::try_from(value)
                .map_err(|_| ResolveError::invalid(format!("{field}.{key}"), "must be greater than or equal to 0")),
        };
        let seconds = |value, default, key| number(value, default, key).map(|n| Duration::from_secs(n.into()));
        let success_threshold = number(probe.success_threshold, 1, "successThreshold")?;
        if success_threshold != 1 && name != "readinessProbe" {
            return Err(ResolveError::invalid(format!("{field}.successThreshold"), "must be 1"));
        }
        let grace = probe.termination_grace_period_seconds;
        if grace.is_some() && name == "readinessProbe" {
            let field = format!("{field}.terminationGracePeriodSeconds");
            return Err(ResolveError::invalid(field, "must not be set: a readiness probe ends nothing"));
        }
        let termination_grace = match grace.map(u64::try_from) {
            None => None,
            Some(Ok(seconds @ 1..)) => Some(Duration::from_secs(seconds)),
            Some(_) => {
                let field = format!("{field}.terminationGracePeriodSeconds");
                return Err(ResolveError::invalid(field, "must be greater than 0"));
            }
        };
        Ok(Some(Probe {
            check: self.check(probe, name, &field)?,
            initial_delay: seconds(probe.initial_delay_seconds, 0, "initialDelaySeconds")?,
            period: seconds(probe.period_seconds, 10, "periodSeconds")?,
            timeout: seconds(probe.timeout_seconds, 1, "timeoutSeconds")?,
            success_threshold,
            failure_threshold: number(probe.failure_threshold, 3, "failureThreshold")?,
            termination_grace,
        }))
    }

    fn check(&self, probe: &core::Probe, name: &str, field: &str) -> Result<Check, ResolveError> {
        match probe {
            core::Probe { http_get: Some(get), exec: None, grpc: None, tcp_socket: None, .. } => {
                let field = format!("{field}.httpGet");
                no_host(get.host.as_deref(), &field)?;
                Ok(Check::Http {
                    scheme: scheme(get, &field)?,
                    path: path(get),
                    port: self.port(&get.port, &format!("{field}.port"))?,
                    headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
                })
            }
            core::Probe { http_get: None, exec: Some(exec), grpc: None, tcp_socket: None, .. } => {
                Ok(Check::Exec { command: command(exec.command.as_deref(), field)? })
            }
            core::Probe { http_get: None, exec: None, grpc: Some(grpc), tcp_socket: None, .. } => Ok(Check::Grpc {
                port: number_port(grpc.port, &format!("{field}.grpc.port"))?,
                service: grpc.service.clone().unwrap_or_default(),
            }),
            core::Probe { http_get: None, exec: None, grpc: None, tcp_socket: Some(tcp), .. } => {
                no_host(tcp.host.as_deref(), &format!("{field}.tcpSocket"))?;
                // Knative's form without a port means the user's port.
                let port = match &tcp.port {
                    IntOrString::Int(0) => self.first_port(),
                    port => self.port(port, &format!("{field}.tcpSocket.port"))?,
                };
                Ok(Check::Tcp { port })
            }
            core::Probe { http_get: None, exec: None, grpc: None, tcp_socket: None, .. }
                if name == "readinessProbe" =>
            {
                Ok(Check::Tcp { port: self.first_port() })
            }
            _ => Err(ResolveError::invalid(field, "must be exactly one of httpGet, exec, grpc and tcpSocket")
                .with_help("a probe of the runtime and one of the manifest are merged; repeat the runtime's kind")),
        }
    }

    fn first_port(&self) -> u16 {
        let first = self.container.ports.iter().flatten().next();
        first.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(meta::DEFAULT_CONTAINER_PORT)
    }

    fn port(&self, port: &IntOrString, field: &str) -> Result<u16, ResolveError> {
        match port {
            // Knative leaves the port out; the user's port is meant.
            IntOrString::Int(0) => Ok(self.first_port()),
            IntOrString::Int(number) => number_port(*number, field),
            IntOrString::String(text) => {
                let named = self.container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(text));
                match (named, text.parse::<i32>()) {
                    (Some(port), _) => number_port(port.container_port, field),
                    (None, Ok(number)) => number_port(number, field),
                    (None, Err(_)) => {
                        Err(ResolveError::invalid(field, format!("the container declares no port named `{text}`")))
                    }
                }
            }
        }
    }
}

/// Reads a port number.
pub(super) fn number_port(number: i32, field: &str) -> Result<u16, ResolveError> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| ResolveError::invalid(field, format!("{number} is not a port; it must be between 1 and 65535")))
}

fn command(command: Option<&[String]>, field: &str) -> Result<Vec<String>, ResolveError> {
    match command {
        Some(command) if !command.is_empty() => Ok(command.to_vec()),
        _ => Err(ResolveError::invalid(format!("{field}.exec.command"), "names no command")),
    }
}

fn path(get: &HTTPGetAction) -> String {
    match get.path.as_deref().unwrap_or_default() {
        "" => "/".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    }
}

fn scheme(get: &HTTPGetAction, field: &str) -> Result<String, ResolveError> {
    match get.scheme.as_deref().unwrap_or_default() {
        "" | "HTTP" | "http" => Ok("http".to_owned()),
        "HTTPS" | "https" => Ok("https".to_owned()),
        other => Err(ResolveError::invalid(format!("{field}.scheme"), format!("`{other}` is neither HTTP nor HTTPS"))),
    }
}

fn no_host(host: Option<&str>, field: &str) -> Result<(), ResolveError> {
    match host.unwrap_or_default() {
        "" | "localhost" | "127.0.0.1" => Ok(()),
        other => Err(ResolveError::invalid(
            format!("{field}.host"),
            format!("only the container itself is asked, not `{other}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(value: Value) -> Container {
        let mut value = value;
        value["name"] = json!("c");
        value["ports"] = json!([{ "name": "http1", "containerPort": 9080 }, { "name": "grpc", "containerPort": 9081 }]);
        serde_json::from_value(value).unwrap()
    }

    fn readiness(probe: Value) -> Result<Probe, ResolveError> {
        let container = container(json!({ "readinessProbe": probe }));
        probes(&container, &Origin::new("spec.predictor.model", &container)).map(|probes| probes.readiness.unwrap())
    }

    #[test]
    fn defaults_are_kubernetes_own() {
        let http = |path: &str, port| Check::Http {
            scheme: "http".to_owned(),
            path: path.to_owned(),
            port,
            headers: Vec::new(),
        };
        let cases = [
            (json!({ "httpGet": { "port": 8080 } }), http("/", 8080)),
            (json!({ "httpGet": { "port": "http1", "path": "/ready" } }), http("/ready", 9080)),
            (json!({ "tcpSocket": { "port": "grpc" } }), Check::Tcp { port: 9081 }),
            (json!({ "grpc": { "port": 9000 } }), Check::Grpc { port: 9000, service: String::new() }),
            (json!({ "exec": { "command": ["true"] } }), Check::Exec { command: vec!["true".to_owned()] }),
            (json!({}), Check::Tcp { port: 9080 }),
        ];
        for (written, check) in cases {
            let seconds = Duration::from_secs;
            let want = Probe {
                check,
                initial_delay: seconds(0),
                period: seconds(10),
                timeout: seconds(1),
                success_threshold: 1,
                failure_threshold: 3,
                termination_grace: None,
            };
            assert_eq!(readiness(written.clone()), Ok(want), "{written}");
        }
    }

    #[test]
    fn a_probe_that_cannot_be_asked_is_refused_with_its_path() {
        let cases = [
            (json!({ "httpGet": { "port": "web" } }), ".httpGet.port"),
            (json!({ "httpGet": { "port": 70000 } }), ".httpGet.port"),
            (json!({ "httpGet": { "port": 1, "scheme": "FTP" } }), ".httpGet.scheme"),
            (json!({ "httpGet": { "port": 1, "host": "example.org" } }), ".httpGet.host"),
            (json!({ "httpGet": { "port": 1 }, "tcpSocket": { "port": 1 } }), ""),
            (json!({ "exec": {} }), ".exec.command"),
            (json!({ "tcpSocket": { "port": 1 }, "periodSeconds": -1 }), ".periodSeconds"),
            (
                json!({ "tcpSocket": { "port": 1 }, "terminationGracePeriodSeconds": 5 }),
                ".terminationGracePeriodSeconds",
            ),
        ];
        for (written, suffix) in cases {
            let error = readiness(written).unwrap_err();
            let ResolveError::Invalid { field, .. } = &error else { panic!("{error}") };
            assert_eq!(field, &format!("spec.predictor.model.readinessProbe{suffix}"));
        }
    }

    #[test]
    fn a_probe_that_ends_containers_may_say_how_long_they_have() {
        let grace = |seconds: i64| {
            let probe = json!({ "tcpSocket": { "port": 1 }, "terminationGracePeriodSeconds": seconds });
            let container = container(json!({ "livenessProbe": probe }));
            probes(&container, &Origin::new("x", &container)).map(|probes| probes.liveness.unwrap().termination_grace)
        };
        assert_eq!(grace(5), Ok(Some(Duration::from_secs(5))));
        assert!(grace(0).is_err() && grace(-1).is_err());
    }

    #[test]
    fn hooks_before_the_stop_are_read_and_hooks_after_the_start_refused() {
        let hook = |lifecycle: Value| {
            let container = container(json!({ "lifecycle": lifecycle }));
            pre_stop(&container, &Origin::new("x", &container))
        };
        assert_eq!(
            hook(json!({ "preStop": { "exec": { "command": ["a"] } } })),
            Ok(Some(Hook::Exec { command: vec!["a".to_owned()] }))
        );
        assert_eq!(
            hook(json!({ "preStop": { "httpGet": { "path": "stop", "port": "http1" } } })),
            Ok(Some(Hook::Http { path: "/stop".to_owned(), port: 9080 }))
        );
        assert_eq!(
            hook(json!({ "preStop": { "sleep": { "seconds": 5 } } })),
            Ok(Some(Hook::Sleep(Duration::from_secs(5))))
        );
        assert!(hook(json!({ "preStop": { "tcpSocket": { "port": 1 } } })).is_err());
        assert!(hook(json!({ "postStart": { "exec": { "command": ["a"] } } })).is_err());
    }
}
