//! The files of a service: what is in `packaging/`, with this program's path, home and addresses written in.

use std::net::SocketAddr;

use camino::{Utf8Path, Utf8PathBuf};

/// Who runs the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// systemd, for one user.
    SystemdUser,
    /// systemd, for the machine.
    SystemdSystem,
    /// launchd, for one user.
    Launchd,
}

/// What the files say.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This program.
    pub program: Utf8PathBuf,
    /// Folder of manifests and state, unless the unit's own default is meant.
    pub home: Option<Utf8PathBuf>,
    /// Address of predictions.
    pub listen: SocketAddr,
    /// Address of the API.
    pub api_listen: SocketAddr,
}

/// A file to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    /// Where.
    pub path: Utf8PathBuf,
    /// What is in it.
    pub text: String,
}

const USER_SERVICE: &str = include_str!("../../packaging/systemd/user/kserve-local.service");
const USER_SOCKET: &str = include_str!("../../packaging/systemd/user/kserve-local.socket");
const SYSTEM_SERVICE: &str = include_str!("../../packaging/systemd/system/kserve-local.service");
const SYSTEM_SOCKET: &str = include_str!("../../packaging/systemd/system/kserve-local.socket");
const SYSUSERS: &str = include_str!("../../packaging/systemd/sysusers.conf");
const PLIST: &str = include_str!("../../packaging/launchd/kserve-local.plist");
/// Where the files in `packaging/` say the program is.
const PACKAGED_PROGRAM: &str = "/usr/bin/kserve-local";
/// Label of the launchd agent.
pub const LAUNCHD_LABEL: &str = "io.github.kserve-local";

/// Returns where the files of a service are, whatever they say. `user_home` is the folder of the user who installs it.
pub fn paths(manager: Manager, user_home: &Utf8Path) -> Vec<Utf8PathBuf> {
    let units = |folder: Utf8PathBuf| vec![folder.join("kserve-local.service"), folder.join("kserve-local.socket")];
    match manager {
        Manager::SystemdUser => units(user_home.join(".config/systemd/user")),
        Manager::SystemdSystem => {
            let mut paths = units("/etc/systemd/system".into());
            paths.push("/etc/sysusers.d/kserve-local.conf".into());
            paths
        }
        Manager::Launchd => vec![user_home.join("Library/LaunchAgents").join(format!("{LAUNCHD_LABEL}.plist"))],
    }
}

/// Returns the files of a service.
pub fn files(manager: Manager, facts: &Facts, user_home: &Utf8Path) -> Vec<UnitFile> {
    let texts = match manager {
        Manager::SystemdUser => vec![unit(USER_SERVICE, facts), sockets(USER_SOCKET, facts)],
        Manager::SystemdSystem => {
            vec![unit(SYSTEM_SERVICE, facts), sockets(SYSTEM_SOCKET, facts), SYSUSERS.to_owned()]
        }
        Manager::Launchd => vec![plist(facts, user_home)],
    };
    let files = paths(manager, user_home).into_iter().zip(texts);
    files.map(|(path, text)| UnitFile { path, text }).collect()
}

fn unit(text: &str, facts: &Facts) -> String {
    let home = facts.home.as_ref().map(|home| format!(" --home {}", escaped(home.as_str()))).unwrap_or_default();
    let exec = format!("ExecStart={}{home} serve", escaped(facts.program.as_str()));
    text.replace(&format!("ExecStart={PACKAGED_PROGRAM} serve"), &exec)
}

/// Quotes a word of `ExecStart=` where it has to be (`systemd.service(5)`, command lines): blanks and quotes, `%`
/// specifiers and `$` variables.
fn escaped(word: &str) -> String {
    let text = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    if text.contains(|c: char| c.is_whitespace() || c == '"' || c == '\\' || c == '\'' || c == ';') {
        return format!("\"{text}\"");
    }
    text
}

fn sockets(text: &str, facts: &Facts) -> String {
    let mut addresses = [facts.listen, facts.api_listen].into_iter();
    let line = |line: &str| match line.starts_with("ListenStream=") {
        true => addresses.next().map(|address| format!("ListenStream={address}\n")).unwrap_or_default(),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn plist(facts: &Facts, user_home: &Utf8Path) -> String {
    let string = |word: &str| {
        format!("<string>{}</string>", word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
    };
    let home =
        facts.home.as_ref().map(|home| format!("\n        {}\n        {}", string("--home"), string(home.as_str())));
    let program = format!("{}{}", string(facts.program.as_str()), home.unwrap_or_default());
    let log = user_home.join("Library/Logs/kserve-local.log");
    PLIST.replace(&string(PACKAGED_PROGRAM), &program).replace(&string("/tmp/kserve-local.log"), &string(log.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            program: "/opt/my tools/kserve-local".into(),
            home: Some("/srv/models".into()),
            listen: "127.0.0.1:9000".parse().unwrap(),
            api_listen: "127.0.0.1:9001".parse().unwrap(),
        }
    }

    #[test]
    fn the_unit_starts_this_program_on_this_home() {
        let files = files(Manager::SystemdUser, &facts(), Utf8Path::new("/home/ada"));
        assert_eq!(files[0].path, "/home/ada/.config/systemd/user/kserve-local.service");
        assert!(files[0].text.contains("\nExecStart=\"/opt/my tools/kserve-local\" --home /srv/models serve\n"));
        assert!(!files[0].text.contains(PACKAGED_PROGRAM));
    }

    #[test]
    fn the_sockets_are_those_of_the_settings() {
        for manager in [Manager::SystemdUser, Manager::SystemdSystem] {
            let files = files(manager, &facts(), Utf8Path::new("/root"));
            let lines: Vec<&str> = files[1].text.lines().filter(|line| line.starts_with("ListenStream=")).collect();
            assert_eq!(lines, ["ListenStream=127.0.0.1:9000", "ListenStream=127.0.0.1:9001"]);
        }
    }

    #[test]
    fn the_agent_starts_this_program_and_logs_where_the_user_looks() {
        let files = files(Manager::Launchd, &facts(), Utf8Path::new("/Users/ada"));
        assert_eq!(files[0].path, "/Users/ada/Library/LaunchAgents/io.github.kserve-local.plist");
        assert!(files[0].text.contains("<string>/opt/my tools/kserve-local</string>\n        <string>--home</string>"));
        assert!(files[0].text.contains("<string>/Users/ada/Library/Logs/kserve-local.log</string>"));
    }

    #[test]
    fn words_of_a_command_line_are_escaped_as_systemd_reads_them() {
        assert_eq!(escaped("/a b"), "\"/a b\"");
        assert_eq!(escaped("/50%/$x"), "/50%%/$$x");
        assert_eq!(escaped("/plain"), "/plain");
    }
}
