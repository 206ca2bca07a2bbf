//! Where a component is called, under which model name, and what proves that it answers.
//!
//! An open port proves little: KServe's servers open it without a model. So the proof is, in this order:
//!
//! | what is known | proof |
//! |---|---|
//! | a readiness or startup probe with a check of its own | that probe |
//! | first port is h2c, protocol `grpc-v2` or a known open-inference server | gRPC `ModelReady` |
//! | first port is h2c, Triton or anything else | the port is open (Triton opens it after loading; its models have names of their own) |
//! | Triton | `/v2/health/ready`: all its models are loaded, whatever their names |
//! | TorchServe | the model's endpoint or `/v2/health/ready`: archives name their models themselves |
//! | TensorFlow Serving | 200 from `/v1/models/{m}`; its answer has a status of its own form |
//! | OpenVINO | `/v2/models/{m}/ready` |
//! | vLLM | any of `/v1/models`, `/openai/v1/models` |
//! | Hugging Face server | any of `/v2/models/{m}/ready`, `/v1/models/{m}` |
//! | MLServer and KServe's own servers, no model given | `/v2/health/ready` |
//! | the same with a model, V1 | `/v1/models/{m}` |
//! | the same with a model, V2 | `/v2/models/{m}/ready` |
//! | a runtime of unknown make, V1 or V2 | 200 from that protocol's endpoint |
//! | a custom container with `PROTOCOL`, a collocated or separate transformer with `PROTOCOL` | either protocol's endpoint |
//! | anything else | the port is open |

use k8s_openapi::api::core::v1::{Container, ContainerPort};

use super::{ContainerSpec, EntryPoint, Readiness, UpstreamProtocol, env, probes};
use crate::api::meta;

/// Finds where requests go (§4.4): the first declared port of `transformer-container`, else of the first container, else
/// 8080. Names containing `grpc` or `h2c` mean HTTP/2 with prior knowledge.
pub(super) fn entry(containers: &[Container]) -> EntryPoint {
    let Some(called) = called(containers) else {
        return EntryPoint { port: meta::DEFAULT_CONTAINER_PORT, protocol: UpstreamProtocol::Http1, grpc_port: None };
    };
    let mut ports = called.ports.iter().flatten();
    let number = |port: &ContainerPort| u16::try_from(port.container_port).unwrap_or(meta::DEFAULT_CONTAINER_PORT);
    let first = ports.next();
    let h2c = first.is_some_and(speaks_h2c);
    let grpc_port = if h2c { None } else { ports.find(|port| speaks_h2c(port)).map(number) };
    EntryPoint {
        port: first.map_or(meta::DEFAULT_CONTAINER_PORT, number),
        protocol: if h2c { UpstreamProtocol::H2c } else { UpstreamProtocol::Http1 },
        grpc_port,
    }
}

/// Returns the container that requests go to.
pub(super) fn called(containers: &[Container]) -> Option<&Container> {
    containers.iter().find(|container| container.name == meta::TRANSFORMER_CONTAINER).or(containers.first())
}

fn speaks_h2c(port: &ContainerPort) -> bool {
    port.name.as_deref().is_some_and(|name| name.contains("grpc") || name.contains("h2c"))
}

/// Finds the name under which the server knows the model (§6.3): the collocated transformer's argument, the variable
/// `MLSERVER_MODEL_NAME`, the serving container's argument, else the service's name.
pub(super) fn model_name(containers: &[ContainerSpec], service: &str) -> String {
    let transformer = containers.iter().find(|spec| spec.name == meta::TRANSFORMER_CONTAINER);
    let serving = containers.first();
    let of_serving = |flag: &str| serving.and_then(|spec| argument(&spec.args, flag));
    transformer
        .and_then(|spec| argument(&spec.args, "--model_name"))
        .or_else(|| serving.and_then(|spec| env::get(&spec.env, "MLSERVER_MODEL_NAME")).filter(|name| !name.is_empty()))
        .or_else(|| of_serving("--model_name"))
        .or_else(|| of_serving("--served-model-name"))
        .unwrap_or(service)
        .to_owned()
}

/// Returns the value of a flag, `--flag X` or `--flag=X`; the last one wins, as in the servers.
fn argument<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    let at = |(index, arg): (usize, &'a String)| match arg.strip_prefix(flag)? {
        "" => args.get(index + 1).map(String::as_str).filter(|value| !value.starts_with("--")),
        rest => rest.strip_prefix('='),
    };
    args.iter().enumerate().filter_map(at).rfind(|value| !value.is_empty())
}

/// What is known about a component when its readiness is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// The called container and the serving one, as merged.
    pub(super) containers: &'a [Container],
    /// Server of the runtime; none when unknown.
    pub(super) server_type: Option<&'a str>,
    /// Whether a runtime was chosen (else the containers are the manifest's own).
    pub(super) has_runtime: bool,
    /// Protocol, may be empty.
    pub(super) protocol: &'a str,
    /// Whether the protocol was written down (custom containers: `PROTOCOL`).
    pub(super) protocol_written: bool,
    /// Whether a model is loaded at the start.
    pub(super) has_model: bool,
    /// The model's name.
    pub(super) model: &'a str,
}

/// Decides what proves that a component answers; the table is in the module's documentation.
pub(super) fn readiness(known: Known<'_>, entry: &EntryPoint) -> Readiness {
    let declared = |container: &Container| {
        probes::has_check(container.readiness_probe.as_ref()) || probes::has_check(container.startup_probe.as_ref())
    };
    if known.containers.first().is_some_and(declared) {
        return Readiness::Declared;
    }
    if entry.protocol == UpstreamProtocol::H2c {
        return over_h2c(known);
    }
    let collocated = known.containers.iter().any(|container| container.name == meta::TRANSFORMER_CONTAINER);
    if collocated || !known.has_runtime {
        return of_unknown_make(known);
    }
    of_runtime(known)
}

fn over_h2c(known: Known<'_>) -> Readiness {
    let grpc = || Readiness::GrpcModelReady { model: known.model.to_owned() };
    match known.server_type {
        Some("tritonserver" | "tensorflow-serving" | "vllmserver" | "torchserve") => Readiness::PortOpen,
        Some(_) if known.has_model => grpc(),
        None if known.protocol == "grpc-v2" => grpc(),
        _ => Readiness::PortOpen,
    }
}

fn of_unknown_make(known: Known<'_>) -> Readiness {
    if !known.protocol_written {
        return Readiness::PortOpen;
    }
    match known.protocol {
        "v1" => any_of(&[v1(known.model), v2(known.model)]),
        "v2" => any_of(&[v2(known.model), v1(known.model)]),
        _ => Readiness::PortOpen,
    }
}

fn of_runtime(known: Known<'_>) -> Readiness {
    let (v1, v2) = (v1(known.model), v2(known.model));
    let health = "/v2/health/ready".to_owned();
    let endpoint = |path: String| Readiness::ModelEndpoint { path };
    let is_v1 = matches!(known.protocol, "v1" | "grpc-v1");
    match known.server_type {
        Some("tritonserver") => endpoint(health),
        Some("torchserve") => any_of(&[if is_v1 { v1 } else { v2 }, health]),
        Some("tensorflow-serving") => any_of(&[v1]),
        Some("ovms") => endpoint(v2),
        Some("vllmserver") => any_of(&["/v1/models".to_owned(), "/openai/v1/models".to_owned()]),
        Some("huggingfaceserver") => any_of(&[v2, v1]),
        Some(_) if !known.has_model => endpoint(health),
        Some(_) if is_v1 => endpoint(v1),
        Some(_) => endpoint(v2),
        None => match known.protocol {
            "v1" => any_of(&[v1]),
            "v2" => any_of(&[v2]),
            _ => Readiness::PortOpen,
        },
    }
}

fn v1(model: &str) -> String {
    format!("/v1/models/{model}")
}

fn v2(model: &str) -> String {
    format!("/v2/models/{model}/ready")
}

fn any_of(paths: &[String]) -> Readiness {
    Readiness::AnyOf { paths: paths.to_vec() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn containers(value: Value) -> Vec<Container> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn requests_go_to_the_first_port_of_the_transformer_else_of_the_first_container() {
        let h2c = UpstreamProtocol::H2c;
        let http = UpstreamProtocol::Http1;
        let cases = [
            (json!([{ "name": "kserve-container" }]), (8080, http, None)),
            (json!([{ "name": "c", "ports": [{ "containerPort": 9000, "name": "h2c" }] }]), (9000, h2c, None)),
            (json!([{ "name": "c", "ports": [{ "containerPort": 9000, "name": "my-grpc" }] }]), (9000, h2c, None)),
            (
                json!([{ "name": "c", "ports": [{ "containerPort": 1 }, { "containerPort": 2, "name": "x" }, { "containerPort": 3, "name": "grpc" }] }]),
                (1, http, Some(3)),
            ),
            (
                json!([
                    { "name": "kserve-container", "ports": [{ "containerPort": 8085 }] },
                    { "name": "transformer-container", "ports": [{ "containerPort": 8081 }] },
                ]),
                (8081, http, None),
            ),
            (
                json!([{ "name": "kserve-container", "ports": [{ "containerPort": 8085 }] }, { "name": "transformer-container" }]),
                (8080, http, None),
            ),
        ];
        for (written, (port, protocol, grpc_port)) in cases {
            assert_eq!(entry(&containers(written.clone())), EntryPoint { port, protocol, grpc_port }, "{written}");
        }
    }

    #[test]
    fn the_models_name_comes_from_arguments_or_environment() {
        let name = |args: &[&str], env: &[(&str, &str)], transformer: Option<&str>| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let mut containers = vec![ContainerSpec { args: owned(args), env, ..ContainerSpec::default() }];
            containers.extend(transformer.map(|arg| ContainerSpec {
                name: meta::TRANSFORMER_CONTAINER.to_owned(),
                args: owned(&[arg]),
                ..ContainerSpec::default()
            }));
            model_name(&containers, "iris")
        };
        assert_eq!(name(&[], &[], None), "iris");
        assert_eq!(name(&["--model_name", "a"], &[], None), "a");
        assert_eq!(name(&["--model_name=a", "--model_name=b"], &[], None), "b");
        assert_eq!(name(&["--model_name_or_path=a"], &[], None), "iris");
        assert_eq!(name(&["--model_name", "--http_port"], &[], None), "iris");
        assert_eq!(name(&["--served-model-name=a"], &[], None), "a");
        assert_eq!(name(&["--model_name=a"], &[("MLSERVER_MODEL_NAME", "m")], None), "m");
        assert_eq!(name(&["--model_name=a"], &[], Some("--model_name=t")), "t");
    }

    #[test]
    fn what_proves_readiness_follows_the_table() {
        let plain = json!([{ "name": "kserve-container" }]);
        let h2c = json!([{ "name": "kserve-container", "ports": [{ "containerPort": 9000, "name": "h2c" }] }]);
        let probed = |probe: Value| json!([{ "name": "kserve-container", "readinessProbe": probe }]);
        let collocated = json!([{ "name": "kserve-container" }, { "name": "transformer-container" }]);
        let endpoint = |path: &str| Readiness::ModelEndpoint { path: path.to_owned() };
        let any = |paths: &[&str]| any_of(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        let (m1, m2, health) = ("/v1/models/m", "/v2/models/m/ready", "/v2/health/ready");
        let grpc = Readiness::GrpcModelReady { model: "m".to_owned() };
        let cases = [
            (&plain, Some("sklearnserver"), "v1", true, endpoint(m1)),
            (&plain, Some("sklearnserver"), "v2", true, endpoint(m2)),
            (&plain, Some("sklearnserver"), "v1", false, endpoint(health)),
            (&plain, Some("mlserver"), "v2", true, endpoint(m2)),
            (&plain, Some("mlserver"), "v2", false, endpoint(health)),
            (&plain, Some("tritonserver"), "v2", true, endpoint(health)),
            (&plain, Some("torchserve"), "v1", true, any(&[m1, health])),
            (&plain, Some("torchserve"), "v2", true, any(&[m2, health])),
            (&plain, Some("tensorflow-serving"), "v1", true, any(&[m1])),
            (&plain, Some("ovms"), "v1", true, endpoint(m2)),
            (&plain, Some("huggingfaceserver"), "v2", false, any(&[m2, m1])),
            (&plain, Some("vllmserver"), "", true, any(&["/v1/models", "/openai/v1/models"])),
            (&plain, None, "v1", true, any(&[m1])),
            (&plain, None, "v2", true, any(&[m2])),
            (&plain, None, "", true, Readiness::PortOpen),
            (&h2c, Some("mlserver"), "grpc-v2", true, grpc.clone()),
            (&h2c, Some("sklearnserver"), "v2", true, grpc.clone()),
            (&h2c, Some("tritonserver"), "grpc-v2", true, Readiness::PortOpen),
            (&h2c, Some("tensorflow-serving"), "grpc-v1", true, Readiness::PortOpen),
            (&h2c, None, "grpc-v2", true, grpc),
            (&probed(json!({ "httpGet": { "port": 1 } })), Some("mlserver"), "v2", true, Readiness::Declared),
            (&probed(json!({ "tcpSocket": { "port": 1 } })), Some("mlserver"), "v2", true, Readiness::Declared),
            (&probed(json!({ "periodSeconds": 5 })), Some("mlserver"), "v2", true, endpoint(m2)),
            (&collocated, Some("sklearnserver"), "v1", true, any(&[m1, m2])),
        ];
        for (written, server_type, protocol, has_model, want) in cases {
            let containers = containers(written.clone());
            let known = Known {
                containers: &containers,
                server_type,
                has_runtime: true,
                protocol,
                protocol_written: true,
                has_model,
                model: "m",
            };
            assert_eq!(readiness(known, &entry(&containers)), want, "{written} {server_type:?} {protocol}");
        }
    }

    #[test]
    fn a_custom_container_is_asked_for_its_model_only_when_it_says_a_protocol() {
        let containers = containers(json!([{ "name": "kserve-container" }]));
        let ready = |protocol, protocol_written| {
            let known = Known {
                containers: &containers,
                server_type: None,
                has_runtime: false,
                protocol,
                protocol_written,
                has_model: true,
                model: "m",
            };
            readiness(known, &entry(&containers))
        };
        assert_eq!(ready("v1", false), Readiness::PortOpen);
        assert_eq!(ready("v2", true), any_of(&["/v2/models/m/ready".to_owned(), "/v1/models/m".to_owned()]));
    }
}
