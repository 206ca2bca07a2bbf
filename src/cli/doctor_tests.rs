//! Faults planted one at a time: each is found, and nothing else is.

use std::collections::BTreeMap;

use super::*;
use crate::cli::doctor_facts::Credential;
use crate::engine::docker_checkup::Checkup;

fn well() -> Facts {
    let engine = Checkup {
        endpoint: "unix:///var/run/docker.sock (the default)".to_owned(),
        version: "docker 27.0".to_owned(),
        api_version: "1.46".to_owned(),
        cgroup_version: Some("2".to_owned()),
        root: Some("/var/lib/docker".to_owned()),
        nvidia: true,
        platform: "linux/amd64".to_owned(),
        time: Some("2026-01-01T00:00:00Z".to_owned()),
        warnings: Vec::new(),
        images: BTreeMap::from([("kserve/sklearnserver:v1".to_owned(), "linux/amd64".to_owned())]),
    };
    let disk = Disk {
        what: "models",
        path: "/cache".to_owned(),
        free_bytes: 1 << 40,
        free_inodes: 1 << 20,
        total_inodes: 1 << 21,
    };
    Facts {
        version: "1.0".to_owned(),
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
        config: "/home/ada/.kserve-local/config.yaml".to_owned(),
        settings: Ok(()),
        home: "/home/ada/.kserve-local".to_owned(),
        home_exists: true,
        home_writable: Ok(()),
        token_mode: Some(0o600),
        manifest_files: 2,
        bad_manifests: Vec::new(),
        open_secrets: Vec::new(),
        daemon: None,
        leftovers: Vec::new(),
        lock: Lock::Free,
        engine: Engine::Answers(Box::new(engine)),
        engine_named_by: None,
        has_process_tools: true,
        cgroup_version: Some(2),
        disks: vec![disk],
        ports: vec![Port { address: "127.0.0.1:8080".parse().unwrap(), what: "predictions", taken: None }],
        proxy: None,
        no_proxy: String::new(),
        newest_state: None,
        gpus: vec!["NVIDIA L4, 23034 MiB".to_owned()],
        gpu_device: true,
        credentials: vec![Credential { scheme: "s3", source: "HOME".to_owned(), problem: None }],
        runtime_images: ["kserve/sklearnserver:v1".to_owned()].into(),
        open_files: Some(65536),
        inotify_watches: Some(524_288),
        localhost_resolves: true,
    }
}

fn engine(change: impl Fn(&mut Checkup)) -> Facts {
    let mut facts = well();
    if let Engine::Answers(found) = &mut facts.engine {
        change(found);
    }
    facts
}

/// The checks that found something a person should do, with how bad it is.
fn found(facts: &Facts) -> Vec<(&'static str, Severity)> {
    let findings = check(facts);
    for finding in findings.iter().filter(|finding| finding.severity >= Severity::Warning) {
        assert!(finding.cause.is_some() && finding.fix.is_some(), "{finding:?}");
    }
    findings.iter().filter(|f| f.severity >= Severity::Warning).map(|f| (f.id, f.severity)).collect()
}

#[test]
fn nothing_is_found_on_a_machine_that_is_well() {
    assert_eq!(found(&well()), []);
}

#[test]
fn every_planted_fault_is_found_and_nothing_else() {
    use Severity::{Error, Warning};
    let denied =
        Engine::Denied { endpoint: "unix:///var/run/docker.sock".to_owned(), cause: "permission denied".to_owned() };
    let absent = Engine::Absent { cause: "no socket".to_owned() };
    let named = Some("DOCKER_HOST names it".to_owned());
    let disk = |bytes, inodes| vec![Disk { free_bytes: bytes, free_inodes: inodes, ..well().disks[0].clone() }];
    let taken = vec![Port { taken: Some("in use".to_owned()), ..well().ports[0].clone() }];
    let broken = Credential {
        scheme: "gs",
        source: "a file".to_owned(),
        problem: Some(("gone".to_owned(), "unset".to_owned())),
    };
    let later = Some("2026-01-02T00:00:00Z".parse().unwrap());
    let proxy = Some(("HTTP_PROXY".to_owned(), "http://proxy:3128".to_owned()));
    let faults: Vec<(Facts, &str, Severity)> = vec![
        (Facts { settings: Err("config.yaml:1:1: unknown".to_owned()), ..well() }, "settings", Error),
        (Facts { home_writable: Err("permission denied".to_owned()), ..well() }, "home", Error),
        (Facts { token_mode: Some(0o644), ..well() }, "token", Warning),
        (Facts { bad_manifests: vec!["iris.yaml:3:1: oops".to_owned()], ..well() }, "manifests", Warning),
        (Facts { open_secrets: vec![("s3.yaml".to_owned(), 0o644)], ..well() }, "secrets", Warning),
        (Facts { daemon: Some("0.9".to_owned()), ..well() }, "daemon", Warning),
        (Facts { lock: Lock::Held { pid: "7".to_owned() }, ..well() }, "lock", Error),
        (Facts { engine: denied, ..well() }, "engine", Error),
        (Facts { engine: absent.clone(), engine_named_by: named, ..well() }, "engine", Error),
        (Facts { engine: absent, has_process_tools: false, ..well() }, "engine", Error),
        (engine(|found| found.api_version = "1.24".to_owned()), "engine-api", Error),
        (
            engine(|found| found.warnings = vec!["WARNING: No memory limit support".to_owned()]),
            "engine-limits",
            Warning,
        ),
        (Facts { disks: disk(1 << 30, 1 << 20), ..well() }, "disk", Warning),
        (Facts { disks: disk(1 << 20, 1 << 20), ..well() }, "disk", Error),
        (Facts { disks: disk(1 << 40, 12), ..well() }, "inodes", Warning),
        (Facts { ports: taken, ..well() }, "port", Error),
        (Facts { proxy: proxy.clone(), ..well() }, "proxy", Warning),
        (Facts { newest_state: later, ..well() }, "clock", Warning),
        (engine(|found| found.time = Some("2026-01-01T00:05:00Z".to_owned())), "clock", Warning),
        (engine(|found| found.nvidia = false), "gpu", Warning),
        (Facts { gpus: Vec::new(), ..well() }, "gpu", Warning),
        (Facts { credentials: vec![broken], ..well() }, "credentials", Warning),
        (engine(|found| found.images.values_mut().for_each(|p| *p = "linux/arm64".to_owned())), "images", Warning),
        (Facts { open_files: Some(1024), ..well() }, "open-files", Warning),
        (Facts { inotify_watches: Some(100), ..well() }, "watches", Warning),
    ];
    for (facts, id, severity) in faults {
        assert_eq!(found(&facts), [(id, severity)]);
    }
    // What is no fault: a proxy that leaves local addresses out, images of strangers, a daemon that holds its own home.
    assert_eq!(found(&Facts { proxy, no_proxy: "corp, localhost".to_owned(), ..well() }), []);
    assert_eq!(found(&engine(|found| drop(found.images.insert("other:1".to_owned(), "linux/s390x".to_owned())))), []);
    let own = Facts { daemon: Some("1.0".to_owned()), lock: Lock::Held { pid: "7".to_owned() }, ..well() };
    assert_eq!(
        found(&Facts { ports: vec![Port { taken: Some("in use".to_owned()), ..own.ports[0].clone() }], ..own }),
        []
    );
}
