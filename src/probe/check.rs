//! What is asked, of whom, and what came of it.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{grpc, http, tcp};
use crate::workload::{Check, EntryPoint, Readiness};

/// Longest part of a command's output that goes into a message, in characters.
const OUTPUT_SHOWN: usize = 200;
/// Between the end of a check's time and the end of the command's.
const MARGIN: Duration = Duration::from_secs(1);

/// One check, with real addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeCheck {
    /// `GET`; success is 200 to 399. A redirect on the same host is followed, one off it is a success.
    Http {
        /// Where.
        addr: SocketAddr,
        /// Path and query.
        path: String,
        /// Extra headers; `Host` replaces the address.
        headers: Vec<(String, String)>,
        /// Whether it is spoken to over TLS; certificates are not checked, as in Kubernetes.
        tls: bool,
        /// Only 200 is a success, and a `ready` in a JSON answer must be true.
        expect_model_ready: bool,
    },
    /// The port accepts a connection.
    Tcp {
        /// Where.
        addr: SocketAddr,
    },
    /// `grpc.health.v1.Health/Check` says SERVING.
    GrpcHealth {
        /// Where.
        addr: SocketAddr,
        /// Service asked for, may be empty.
        service: String,
    },
    /// `inference.GRPCInferenceService/ModelReady` says ready.
    GrpcModelReady {
        /// Where.
        addr: SocketAddr,
        /// Model asked for.
        model: String,
    },
    /// The command exits with 0.
    Exec {
        /// The engine's id of the container.
        container: String,
        /// Command and arguments.
        command: Vec<String>,
    },
    /// One of these succeeds; they share the time.
    AnyOf(Vec<Self>),
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Success,
    /// It did not, and why, for a person.
    Failure(String),
    /// It could not be asked, and why: that says nothing of the container, and counts as neither, as in Kubernetes.
    Unknown(String),
}

/// Runs a command in a container: its engine id, the command, the time it may take. Gives exit code and output, or why it
/// could not be run.
pub type RunInside =
    dyn Fn(String, Vec<String>, Duration) -> BoxFuture<'static, Result<(i64, String), String>> + Send + Sync;

impl ProbeCheck {
    /// Returns the check of a declared probe, or nothing while its port cannot be reached.
    pub fn declared(check: &Check, container: &str, address: impl Fn(u16) -> Option<SocketAddr>) -> Option<Self> {
        Some(match check {
            Check::Http { scheme, path, port, headers } => Self::Http {
                addr: address(*port)?,
                path: path.clone(),
                headers: headers.clone(),
                tls: scheme.eq_ignore_ascii_case("https"),
                expect_model_ready: false,
            },
            Check::Tcp { port } => Self::Tcp { addr: address(*port)? },
            Check::Grpc { port, service } => Self::GrpcHealth { addr: address(*port)?, service: service.clone() },
            Check::Exec { command } => Self::Exec { container: container.to_owned(), command: command.clone() },
        })
    }

    /// Returns what proves that a component answers, or nothing while its port cannot be reached or when its readiness is
    /// what its containers declare.
    pub fn readiness(
        readiness: &Readiness,
        entry: &EntryPoint,
        address: impl Fn(u16) -> Option<SocketAddr>,
    ) -> Option<Self> {
        let addr = address(entry.port)?;
        let model = |path: &String| Self::Http {
            addr,
            path: path.clone(),
            headers: vec![],
            tls: false,
            expect_model_ready: true,
        };
        match readiness {
            Readiness::Declared => None,
            Readiness::ModelEndpoint { path } => Some(model(path)),
            Readiness::AnyOf { paths } => Some(Self::AnyOf(paths.iter().map(model).collect())),
            Readiness::GrpcModelReady { model } => {
                let addr = address(entry.grpc_port.unwrap_or(entry.port))?;
                Some(Self::GrpcModelReady { addr, model: model.clone() })
            }
            Readiness::PortOpen => Some(Self::Tcp { addr }),
        }
    }
}

/// Asks once. Ends within `timeout`, whatever the other side does.
pub async fn check(check: &ProbeCheck, timeout: Duration, run_inside: &RunInside) -> Outcome {
    match tokio::time::timeout(timeout, ask(check, timeout, run_inside)).await {
        Ok(Ok(())) => Outcome::Success,
        Ok(Err(Unmet::Failed(reason))) => Outcome::Failure(reason),
        Ok(Err(Unmet::Unasked(reason))) => Outcome::Unknown(reason),
        Err(_) => Outcome::Failure(format!("no answer within {timeout:?}")),
    }
}

/// Why a check did not pass.
enum Unmet {
    Failed(String),
    Unasked(String),
}

async fn ask(check: &ProbeCheck, timeout: Duration, run_inside: &RunInside) -> Result<(), Unmet> {
    let answered = match check {
        ProbeCheck::Http { addr, path, headers, tls: false, expect_model_ready } => {
            http::get(*addr, path, headers, *expect_model_ready).await
        }
        ProbeCheck::Http { addr, path, headers, tls: true, expect_model_ready } => {
            http::get_over_tls(*addr, path, headers, *expect_model_ready).await
        }
        ProbeCheck::Tcp { addr } => tcp::connect(*addr).await.map(drop),
        ProbeCheck::GrpcHealth { addr, service } => grpc::health(*addr, service).await,
        ProbeCheck::GrpcModelReady { addr, model } => grpc::model_ready(*addr, model).await,
        ProbeCheck::Exec { container, command } => {
            // Whoever runs it gets more time than it has: that it takes too long is found out here, and is a failure.
            let ran = run_inside(container.clone(), command.clone(), timeout + MARGIN).await;
            exited_well(command, ran.map_err(Unmet::Unasked)?)
        }
        ProbeCheck::AnyOf(checks) => any_of(checks, timeout, run_inside).await,
    };
    answered.map_err(Unmet::Failed)
}

async fn any_of(checks: &[ProbeCheck], timeout: Duration, run_inside: &RunInside) -> Result<(), String> {
    let mut reasons = Vec::new();
    for one in checks {
        match Box::pin(ask(one, timeout, run_inside)).await {
            Ok(()) => return Ok(()),
            Err(Unmet::Failed(reason) | Unmet::Unasked(reason)) if reasons.contains(&reason) => {}
            Err(Unmet::Failed(reason) | Unmet::Unasked(reason)) => reasons.push(reason),
        }
    }
    Err(if reasons.is_empty() { "nothing to ask".to_owned() } else { reasons.join("; ") })
}

fn exited_well(command: &[String], (code, output): (i64, String)) -> Result<(), String> {
    if code == 0 {
        return Ok(());
    }
    let shown: String = output.trim().chars().take(OUTPUT_SHOWN).collect();
    let colon = if shown.is_empty() { "" } else { ": " };
    Err(format!("`{}` exited with {code}{colon}{shown}", command.join(" ")))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::workload::UpstreamProtocol;

    const SECOND: Duration = Duration::from_secs(1);

    fn exec(command: &[&str]) -> ProbeCheck {
        ProbeCheck::Exec {
            container: "abc".to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    async fn outcome(probe: &ProbeCheck, answer: Result<(i64, &'static str), &'static str>) -> Outcome {
        let run = move |_: String, _: Vec<String>, _: Duration| {
            let answer = answer.map(|(code, output)| (code, output.to_owned())).map_err(str::to_owned);
            futures::future::ready(answer).boxed()
        };
        check(probe, SECOND, &run).await
    }

    #[tokio::test]
    async fn a_command_passes_when_it_exits_with_zero() {
        let probe = exec(&["test", "-f", "/ready"]);
        assert_eq!(outcome(&probe, Ok((0, ""))).await, Outcome::Success);
        let failed = Outcome::Failure("`test -f /ready` exited with 1: no such file".to_owned());
        assert_eq!(outcome(&probe, Ok((1, "no such file\n"))).await, failed);
    }

    #[tokio::test]
    async fn a_command_that_cannot_be_run_is_no_failure() {
        let gone = Outcome::Unknown("container `abc` does not exist".to_owned());
        assert_eq!(outcome(&exec(&["true"]), Err("container `abc` does not exist")).await, gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_ends_in_time() {
        let run = |_: String, _: Vec<String>, _: Duration| futures::future::pending().boxed();
        let hung = Outcome::Failure("no answer within 1s".to_owned());
        assert_eq!(check(&exec(&["sleep"]), SECOND, &run).await, hung);
    }

    #[tokio::test]
    async fn one_of_several_is_enough_and_none_says_what_each_said() {
        let run = |container: String, _: Vec<String>, _: Duration| {
            let code = i64::from(container != "good");
            futures::future::ready(Ok((code, String::new()))).boxed()
        };
        let on = |name: &str| ProbeCheck::Exec { container: name.to_owned(), command: vec![name.to_owned()] };
        assert_eq!(check(&ProbeCheck::AnyOf(vec![on("bad"), on("good")]), SECOND, &run).await, Outcome::Success);
        let failed = check(&ProbeCheck::AnyOf(vec![on("bad"), on("worse")]), SECOND, &run).await;
        assert_eq!(failed, Outcome::Failure("`bad` exited with 1; `worse` exited with 1".to_owned()));
    }

    #[test]
    fn readiness_is_asked_of_the_entry_port_and_grpc_of_the_grpc_port() {
        let entry = EntryPoint { port: 8080, protocol: UpstreamProtocol::Http1, grpc_port: Some(9000) };
        let address = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let ask = |readiness: Readiness| ProbeCheck::readiness(&readiness, &entry, address);
        assert_eq!(ask(Readiness::Declared), None);
        assert_eq!(ask(Readiness::PortOpen), Some(ProbeCheck::Tcp { addr: address(8080).unwrap() }));
        let model = "iris".to_owned();
        assert_eq!(
            ask(Readiness::GrpcModelReady { model: model.clone() }),
            Some(ProbeCheck::GrpcModelReady { addr: address(9000).unwrap(), model })
        );
        assert_eq!(ProbeCheck::readiness(&Readiness::PortOpen, &entry, |_| None), None);
    }
}
