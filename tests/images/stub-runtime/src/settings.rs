//! What the flags and the environment ask for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Everything that is fixed when the process starts.
#[derive(Debug, Clone)]
pub struct Settings {
    pub host: IpAddr,
    pub http_port: u16,
    pub grpc_port: Option<u16>,
    pub model_names: Vec<String>,
    pub any_model: bool,
    pub model_dir: String,
    /// `GET /v1/models` answers as OpenAI's list, not as KServe V1's.
    pub openai_list: bool,
    pub start_delay: Duration,
    pub ready_delay: Duration,
    pub never_listen: bool,
    pub never_ready: bool,
    pub exit_code: u8,
    pub exit_after: Option<Duration>,
    pub exit_at_request: Option<u64>,
    pub ignore_term: bool,
    pub term_delay: Duration,
    pub eat_mib: usize,
    /// Processor time used before anything else.
    pub burn: Duration,
    /// Applies to every inference request that does not say otherwise.
    pub delay: Duration,
    pub say: Option<String>,
    pub log_requests: bool,
}

impl Settings {
    pub fn read(args: &[String], env: &dyn Fn(&str) -> Option<String>) -> Self {
        let flags = Flags::parse(args);
        let millis = |name: &str| env(name).and_then(|text| text.parse().ok()).map(Duration::from_millis);
        let on = |name: &str| env(name).is_some_and(|text| !matches!(text.as_str(), "" | "0" | "false"));
        let number = |name: &str| env(name).and_then(|text| text.parse::<u64>().ok());

        let served = flags.all(&["served_model_name"]);
        let mut model_names = flags.all(&["model_name"]);
        model_names.extend(served.iter().cloned());
        if model_names.is_empty() {
            model_names.push(env("MLSERVER_MODEL_NAME").unwrap_or_else(|| "model".to_owned()));
        }
        let exit_at_request = number("STUB_EXIT_AT_REQUEST");
        let exit_code = number("STUB_EXIT_CODE").and_then(|code| u8::try_from(code).ok());
        let exit_after = millis("STUB_EXIT_AFTER_MS")
            .or_else(|| (exit_code.is_some() && exit_at_request.is_none()).then_some(Duration::ZERO));
        Self {
            host: flags.last(&["host"]).and_then(|text| text.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            http_port: flags
                .last(&["http_port", "rest_port", "rest_api_port", "port"])
                .or_else(|| env("MLSERVER_HTTP_PORT"))
                .or_else(|| env("PORT"))
                .and_then(|text| text.parse().ok())
                .unwrap_or(8080),
            grpc_port: flags
                .last(&["grpc_port"])
                .or_else(|| env("MLSERVER_GRPC_PORT"))
                .and_then(|text| text.parse().ok()),
            any_model: on("STUB_ANY_MODEL"),
            model_dir: flags
                .last(&["model_dir", "model_path", "model_base_path", "model_store"])
                .or_else(|| env("MLSERVER_MODEL_URI"))
                .unwrap_or_else(|| "/mnt/models".to_owned()),
            openai_list: on("STUB_OPENAI") || flags.has("openai") || !served.is_empty(),
            model_names,
            start_delay: millis("STUB_START_DELAY_MS").unwrap_or_default(),
            ready_delay: millis("STUB_READY_DELAY_MS").unwrap_or_default(),
            never_listen: on("STUB_NEVER_LISTEN"),
            never_ready: on("STUB_NEVER_READY"),
            exit_code: exit_code.unwrap_or(1),
            exit_after,
            exit_at_request,
            ignore_term: on("STUB_IGNORE_TERM"),
            term_delay: millis("STUB_TERM_DELAY_MS").unwrap_or_default(),
            eat_mib: number("STUB_EAT_MIB").and_then(|mib| usize::try_from(mib).ok()).unwrap_or(0),
            burn: millis("STUB_BURN_MS").unwrap_or_default(),
            delay: millis("STUB_DELAY_MS").unwrap_or_default(),
            say: env("STUB_SAY"),
            log_requests: on("STUB_LOG_REQUESTS"),
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        let ports = std::iter::once(self.http_port).chain(self.grpc_port.filter(|port| *port != self.http_port));
        ports.map(|port| SocketAddr::new(self.host, port)).collect()
    }
}

/// `--name=value`, `--name value` and bare `--name`; hyphens and underscores are the same, anything else is ignored.
struct Flags(Vec<(String, Option<String>)>);

impl Flags {
    fn parse(args: &[String]) -> Self {
        let mut flags = Vec::new();
        let mut args = args.iter().peekable();
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--") else {
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, args.next_if(|next| !next.starts_with("--")).cloned()),
            };
            flags.push((name.replace('-', "_"), value));
        }
        Self(flags)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(flag, _)| flag == name)
    }

    fn all(&self, names: &[&str]) -> Vec<String> {
        let given = self.0.iter().filter(|(flag, _)| names.contains(&flag.as_str()));
        given.filter_map(|(_, value)| value.clone()).collect()
    }

    fn last(&self, names: &[&str]) -> Option<String> {
        self.all(names).pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str], env: &[(&str, &str)]) -> Settings {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let value = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::read(&args, &value)
    }

    #[test]
    fn flags_of_every_runtime_are_understood_and_unknown_ones_ignored() {
        let read = settings(&["serve", "--model_name=iris", "--nthread", "1", "--http-port", "9999"], &[]);
        assert_eq!((read.model_names, read.http_port), (vec!["iris".to_owned()], 9999));
        let read = settings(&["--port=8000", "--served-model-name=llm"], &[]);
        assert_eq!((read.model_names, read.http_port, read.openai_list), (vec!["llm".to_owned()], 8000, true));
    }

    #[test]
    fn an_exit_code_alone_means_exit_at_once_unless_a_request_is_named() {
        assert_eq!(settings(&[], &[("STUB_EXIT_CODE", "7")]).exit_after, Some(Duration::ZERO));
        assert_eq!(settings(&[], &[("STUB_EXIT_CODE", "7"), ("STUB_EXIT_AT_REQUEST", "3")]).exit_after, None);
    }
}
