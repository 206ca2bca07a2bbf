//! What a container's command, arguments and environment become for a process. Pure.
//!
//! Two things differ from a container. Ports: processes share the machine's, so every port is given by us and put where
//! the recipe says it is set. Paths: there are no mounts, so a mount's path in texts becomes the real one. (A private mount
//! namespace would need privileges that a user's process lacks on most machines, and does not exist everywhere.)

use std::collections::BTreeMap;

use crate::workload::PortSetting;

/// Command line and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

impl Texts {
    /// Returns the container ports the settings are about: the one that is written, else the setting's own.
    pub(super) fn container_ports(&self, settings: &[PortSetting]) -> Vec<u16> {
        settings.iter().map(|setting| self.container_port(setting)).collect()
    }

    fn container_port(&self, setting: &PortSetting) -> u16 {
        let written = match (&setting.arg, &setting.env) {
            (Some(arg), _) => self.argument(arg).and_then(|text| text.parse().ok()),
            (None, Some(name)) => self.env.iter().find(|(own, _)| own == name).and_then(|(_, text)| text.parse().ok()),
            (None, None) => None,
        };
        written.unwrap_or(setting.port)
    }

    /// Returns the last value of an argument, `--name=value` or `--name value`.
    fn argument(&self, name: &str) -> Option<&str> {
        let mut found = None;
        for (index, text) in self.args.iter().enumerate() {
            if let Some(value) = text.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                found = Some(value);
            } else if text == name {
                found = self.args.get(index + 1).map(String::as_str);
            }
        }
        found
    }

    /// Puts the given ports where the settings say: container port to port of this machine.
    pub(super) fn set_ports(&mut self, settings: &[PortSetting], given: &BTreeMap<u16, u16>) {
        for setting in settings {
            let Some(port) = given.get(&self.container_port(setting)) else { continue };
            match (&setting.arg, &setting.env) {
                (Some(arg), _) => self.set_argument(arg, &port.to_string()),
                (None, Some(name)) => self.set_variable(name, &port.to_string()),
                (None, None) => {}
            }
        }
    }

    fn set_argument(&mut self, name: &str, value: &str) {
        let mut kept = Vec::with_capacity(self.args.len() + 1);
        let mut args = std::mem::take(&mut self.args).into_iter();
        while let Some(text) = args.next() {
            if text == name {
                // The value that follows goes with it.
                args.next();
            } else if text.strip_prefix(name).is_none_or(|rest| !rest.starts_with('=')) {
                kept.push(text);
            }
        }
        kept.push(format!("{name}={value}"));
        self.args = kept;
    }

    fn set_variable(&mut self, name: &str, value: &str) {
        match self.env.iter_mut().find(|(own, _)| own == name) {
            Some((_, own)) => value.clone_into(own),
            None => self.env.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Replaces paths of mounts by real ones, wherever a text names one as a whole or begins a path with one.
    pub(super) fn set_paths(&mut self, paths: &[(String, String)]) {
        let texts = self.command.iter_mut().chain(&mut self.args).chain(self.env.iter_mut().map(|(_, value)| value));
        texts.for_each(|text| *text = with_paths(text, paths));
    }
}

/// Replaces every path in a text; a longer one goes before a shorter one it begins with.
pub(super) fn with_paths(text: &str, paths: &[(String, String)]) -> String {
    let mut sorted: Vec<&(String, String)> = paths.iter().filter(|(from, _)| from.len() > 1).collect();
    sorted.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let is_start = !done.ends_with(is_part_of_name);
        let hit = sorted.iter().find(|(from, _)| {
            let from = from.trim_end_matches('/');
            is_start && rest.strip_prefix(from).is_some_and(|after| !after.starts_with(is_part_of_name))
        });
        match hit {
            Some((from, to)) => {
                done.push_str(to);
                rest = &rest[from.trim_end_matches('/').len()..];
            }
            None => {
                let next = rest.chars().next().map_or(rest.len(), char::len_utf8);
                done.push_str(&rest[..next]);
                rest = &rest[next..];
            }
        }
    }
    done
}

fn is_part_of_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_arg(port: u16, arg: &str) -> PortSetting {
        PortSetting { port, arg: Some(arg.to_owned()), env: None }
    }

    fn by_env(port: u16, name: &str) -> PortSetting {
        PortSetting { port, arg: None, env: Some(name.to_owned()) }
    }

    fn texts(args: &[&str], env: &[(&str, &str)]) -> Texts {
        Texts {
            command: vec!["server".to_owned()],
            args: args.iter().map(|text| (*text).to_owned()).collect(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn a_port_is_known_by_what_is_written_else_by_the_recipe() {
        let settings = [by_arg(8080, "--http_port"), by_arg(8081, "--grpc_port"), by_env(8082, "METRICS_PORT")];
        let cases = [
            (texts(&[], &[]), [8080, 8081, 8082]),
            (texts(&["--http_port=9090", "--grpc_port", "9091"], &[("METRICS_PORT", "1")]), [9090, 9091, 1]),
            (texts(&["--http_port=1", "--http_port=2", "--http_portal=3"], &[]), [2, 8081, 8082]),
            (texts(&["--http_port=many"], &[]), [8080, 8081, 8082]),
        ];
        for (texts, want) in cases {
            assert_eq!(texts.container_ports(&settings), want, "{texts:?}");
        }
    }

    #[test]
    fn given_ports_replace_what_is_written() {
        let settings = [by_arg(8080, "--http_port"), by_arg(8081, "--grpc_port"), by_env(8082, "METRICS_PORT")];
        let given = BTreeMap::from([(9090, 21001), (8081, 21002), (8082, 21003)]);
        let mut texts = texts(&["--http_port", "9090", "--model_name=iris", "--http_portal=3"], &[("A", "8082")]);
        texts.set_ports(&settings, &given);
        assert_eq!(texts.args, ["--model_name=iris", "--http_portal=3", "--http_port=21001", "--grpc_port=21002"]);
        assert_eq!(texts.env, [("A", "8082"), ("METRICS_PORT", "21003")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn paths_of_mounts_become_real_ones_and_nothing_else_does() {
        let paths: Vec<(String, String)> = [("/mnt/models", "/c/m"), ("/mnt/models/base", "/c/b"), ("/etc/x/", "/s/x")]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .to_vec();
        let cases = [
            ("/mnt/models", "/c/m"),
            ("--model_dir=/mnt/models", "--model_dir=/c/m"),
            ("/mnt/models/", "/c/m/"),
            ("/mnt/models/1/model.bst", "/c/m/1/model.bst"),
            ("file:///mnt/models/a", "file:///c/m/a"),
            ("/mnt/models:/mnt/models/base/y", "/c/m:/c/b/y"),
            ("/mnt/modelsand", "/mnt/modelsand"),
            ("/mnt/models-2", "/mnt/models-2"),
            ("/data/mnt/models", "/data/mnt/models"),
            ("{\"dir\": \"/mnt/models\"}", "{\"dir\": \"/c/m\"}"),
            ("/etc/x", "/s/x"),
            ("größer /mnt/models", "größer /c/m"),
        ];
        for (text, want) in cases {
            assert_eq!(with_paths(text, &paths), want, "{text}");
        }
    }
}
