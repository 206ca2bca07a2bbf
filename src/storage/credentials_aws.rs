//! A profile of the AWS tools' shared files: keys, roles, single sign-on, programs (§3.3).
//!
//! What each setting means is the AWS tools' own documentation; the order is theirs too: a role first, then single sign-on,
//! keys, and a program. Metadata services of machines are not asked (promise D13), and nobody can be asked for a code.
//! Here a profile is only read; `object_aws` goes and gets keys.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use sha1::{Digest, Sha1};

use super::SourceError;
use super::credentials::Secret;
use super::digest::hex;

type Environment = BTreeMap<String, String>;

/// Keys as they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AwsKeys {
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AwsSource {
    /// They are written down.
    Keys(AwsKeys),
    /// A program prints them.
    Process { profile: String, command: Secret },
    /// Single sign-on gives them for the token that `aws sso login` left.
    SignOn { profile: String, region: String, account: String, role: String, token_file: Utf8PathBuf },
    /// A token in a file stands for a role.
    WebIdentity { role: String, token_file: String, session: Option<String> },
    /// Someone takes on a role.
    Role(Box<AwsRole>),
}

/// A role that someone takes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AwsRole {
    pub(super) profile: String,
    pub(super) arn: String,
    pub(super) session: Option<String>,
    pub(super) external_id: Option<Secret>,
    pub(super) seconds: Option<u32>,
    /// Who takes it on.
    pub(super) from: AwsSource,
}

/// The AWS tools' shared files. Never printed.
pub(super) struct SharedFiles {
    config: String,
    credentials: String,
    home: Option<Utf8PathBuf>,
}

/// A profile of the shared files.
#[derive(Debug, Default)]
pub(super) struct Profile {
    pub(super) name: String,
    /// Whether `AWS_PROFILE` asked for it.
    asked: bool,
    values: BTreeMap<String, Secret>,
}

impl SharedFiles {
    /// Reads them. Blocking.
    pub(super) fn read(environment: &Environment) -> Self {
        let home = set(environment, "HOME").map(Utf8PathBuf::from);
        let file = |variable: &str, usual: &str| {
            let named = set(environment, variable).map(Utf8PathBuf::from);
            let path = named.or_else(|| Some(home.as_ref()?.join(usual)))?;
            std::fs::read_to_string(path).ok()
        };
        let config = file("AWS_CONFIG_FILE", ".aws/config").unwrap_or_default();
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials").unwrap_or_default();
        Self { config, credentials, home }
    }

    /// Returns the profile the environment asks for, else the default one, which need not be there.
    pub(super) fn asked(&self, environment: &Environment) -> Result<Profile, SourceError> {
        let asked = set(environment, "AWS_PROFILE").or_else(|| set(environment, "AWS_DEFAULT_PROFILE"));
        let name = asked.clone().unwrap_or_else(|| "default".to_owned());
        match self.profile(&name) {
            Some(values) => Ok(Profile { name, asked: asked.is_some(), values }),
            None if asked.is_some() => Err(no_profile(&name)),
            None => Ok(Profile { name, ..Profile::default() }),
        }
    }

    fn profile(&self, name: &str) -> Option<BTreeMap<String, Secret>> {
        let title = if name == "default" { name.to_owned() } else { format!("profile {name}") };
        let found = [section(&self.config, &title), section(&self.credentials, name)];
        if found.iter().all(Option::is_none) {
            return None;
        }
        Some(found.into_iter().flatten().flatten().collect())
    }

    /// Returns where a profile's keys come from; none when it says nothing of keys.
    ///
    /// # Errors
    /// It says something that cannot be followed.
    pub(super) fn source(
        &self,
        profile: &Profile,
        environment: &Environment,
    ) -> Result<Option<AwsSource>, SourceError> {
        let found = self.follow(profile, environment, &mut BTreeSet::new())?;
        match found {
            // Someone who asked for a profile by name does not expect to be nobody.
            None if profile.asked => Err(SourceError::Denied(format!(
                "Invalid AWS credentials: profile `{}` has neither keys, a role, single sign-on nor a credential_process",
                profile.name
            ))),
            found => Ok(found),
        }
    }

    fn follow(
        &self,
        profile: &Profile,
        environment: &Environment,
        seen: &mut BTreeSet<String>,
    ) -> Result<Option<AwsSource>, SourceError> {
        let again = !seen.insert(profile.name.clone());
        if let (Some(arn), false) = (profile.get("role_arn"), again) {
            return self.role(profile, arn, environment, seen).map(Some);
        }
        if again && profile.keys().is_none() {
            return Err(wrong(&profile.name, "is its own source_profile, and has no keys"));
        }
        if !again && let Some(source) = self.sign_on(profile)? {
            return Ok(Some(source));
        }
        let process = || profile.get("credential_process");
        let keys = profile.keys().map(AwsSource::Keys);
        Ok(keys.or_else(|| {
            process().map(|command| AwsSource::Process { profile: profile.name.clone(), command: Secret(command) })
        }))
    }

    fn role(
        &self,
        profile: &Profile,
        arn: String,
        environment: &Environment,
        seen: &mut BTreeSet<String>,
    ) -> Result<AwsSource, SourceError> {
        let name = &profile.name;
        let session = profile.get("role_session_name");
        if let Some(token_file) = profile.get("web_identity_token_file") {
            return Ok(AwsSource::WebIdentity { role: arn, token_file, session });
        }
        if profile.get("mfa_serial").is_some() {
            return Err(wrong(
                name,
                "wants a code of an MFA device, and nobody can be asked for one; run `aws configure export-credentials --format env` where the daemon is started",
            ));
        }
        let from = match (profile.get("source_profile"), profile.get("credential_source").as_deref()) {
            (Some(source), _) => {
                let values = self.profile(&source).ok_or_else(|| no_profile(&source))?;
                let source = Profile { name: source, asked: false, values };
                let found = self.follow(&source, environment, seen)?;
                found.ok_or_else(|| wrong(&source.name, "is a source_profile and has no keys"))?
            }
            (None, Some("Environment")) => {
                let keys = environment_keys(environment);
                AwsSource::Keys(keys.ok_or_else(|| wrong(name, "wants keys of the environment, which has none"))?)
            }
            (None, Some(other)) => {
                return Err(wrong(
                    name,
                    &format!(
                        "wants keys of {other}, and metadata services are not asked; name a credential_process or a source_profile"
                    ),
                ));
            }
            (None, None) => return Err(wrong(name, "has a role_arn without a source_profile")),
        };
        Ok(AwsSource::Role(Box::new(AwsRole {
            profile: name.clone(),
            arn,
            session,
            external_id: profile.get("external_id").map(Secret),
            seconds: profile.get("duration_seconds").and_then(|seconds| seconds.parse().ok()),
            from,
        })))
    }

    /// Single sign-on, with a session of its own or in the older form.
    fn sign_on(&self, profile: &Profile) -> Result<Option<AwsSource>, SourceError> {
        let name = &profile.name;
        let session = profile.get("sso_session");
        let values = match &session {
            Some(session) => {
                let values = section(&self.config, &format!("sso-session {session}"));
                let missing = || wrong(name, &format!("names the sso-session `{session}`, which is not there"));
                Profile { values: values.ok_or_else(missing)?, ..Profile::default() }
            }
            None => Profile { values: profile.values.clone(), ..Profile::default() },
        };
        let (Some(start), Some(region)) = (values.get("sso_start_url"), values.get("sso_region")) else {
            return Ok(None);
        };
        let (Some(account), Some(role)) = (profile.get("sso_account_id"), profile.get("sso_role_name")) else {
            return Err(wrong(name, "names no sso_account_id and sso_role_name"));
        };
        let home =
            self.home.clone().ok_or_else(|| wrong(name, "signs on, and there is no HOME to find its token in"))?;
        let digest = hex(&Sha1::digest(session.as_deref().unwrap_or(&start).as_bytes()));
        let token_file = home.join(format!(".aws/sso/cache/{digest}.json"));
        Ok(Some(AwsSource::SignOn { profile: name.clone(), region, account, role, token_file }))
    }
}

impl Profile {
    pub(super) fn get(&self, key: &str) -> Option<String> {
        self.values.get(key).map(|value| value.0.clone()).filter(|value| !value.is_empty())
    }

    fn keys(&self) -> Option<AwsKeys> {
        let (id, secret) = (self.get("aws_access_key_id")?, self.get("aws_secret_access_key")?);
        Some(AwsKeys { id, secret: Secret(secret), token: self.get("aws_session_token").map(Secret) })
    }
}

impl AwsSource {
    /// Says who it is, without secrets.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Keys(keys) => format!("access key {}", super::trial::shortened(&keys.id)),
            Self::Process { profile, .. } => format!("whoever the credential_process of profile `{profile}` says"),
            Self::SignOn { profile, account, role, .. } => {
                format!("role {role} of account {account} by single sign-on (profile `{profile}`)")
            }
            Self::WebIdentity { role, .. } => format!("role {role} by web identity"),
            Self::Role(role) => {
                format!("role {} (profile `{}`), taken on by {}", role.arn, role.profile, role.from.shown())
            }
        }
    }
}

fn environment_keys(environment: &Environment) -> Option<AwsKeys> {
    let get = |name| set(environment, name);
    let (id, secret) = (get("AWS_ACCESS_KEY_ID")?, get("AWS_SECRET_ACCESS_KEY")?);
    Some(AwsKeys { id, secret: Secret(secret), token: get("AWS_SESSION_TOKEN").map(Secret) })
}

fn wrong(profile: &str, problem: &str) -> SourceError {
    SourceError::Denied(format!("Invalid AWS credentials: profile `{profile}` {problem}"))
}

fn no_profile(name: &str) -> SourceError {
    SourceError::Denied(format!("Invalid AWS credentials: there is no profile `{name}`"))
}

/// Returns the values below `[title]` in an INI text; nested values are left out.
fn section(text: &str, title: &str) -> Option<BTreeMap<String, Secret>> {
    let mut lines = text.lines().skip_while(|line| heading(line) != Some(title));
    lines.next()?;
    let values = lines
        .take_while(|line| heading(line).is_none())
        .filter(|line| !line.starts_with([' ', '\t', '#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_lowercase(), Secret(value.trim().to_owned())));
    Some(values.collect())
}

fn heading(line: &str) -> Option<&str> {
    let title = line.trim().strip_prefix('[')?.split(']').next()?;
    Some(title.trim())
}

fn set(environment: &Environment, name: &str) -> Option<String> {
    environment.get(name).filter(|value| !value.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
[default]
region = eu-west-1
[profile base]
aws_access_key_id = BASE
aws_secret_access_key = hush
[profile role]
role_arn = arn:aws:iam::1:role/reader
source_profile = base
external_id = hush
duration_seconds = 900
[profile twice]
role_arn = arn:aws:iam::2:role/far
source_profile = role
[profile self]
role_arn = arn:aws:iam::1:role/own
source_profile = self
aws_access_key_id = SELF
aws_secret_access_key = hush
[profile circle]
role_arn = arn:aws:iam::1:role/a
source_profile = circle2
[profile circle2]
role_arn = arn:aws:iam::1:role/b
source_profile = circle
[profile environment]
role_arn = arn:aws:iam::1:role/env
credential_source = Environment
[profile machine]
role_arn = arn:aws:iam::1:role/ec2
credential_source = Ec2InstanceMetadata
[profile code]
role_arn = arn:aws:iam::1:role/mfa
source_profile = base
mfa_serial = arn:aws:iam::1:mfa/me
[profile orphan]
role_arn = arn:aws:iam::1:role/x
[profile gone]
role_arn = arn:aws:iam::1:role/x
source_profile = nobody
[profile web]
role_arn = arn:aws:iam::1:role/web
web_identity_token_file = /run/token
[profile program]
credential_process = /usr/bin/keys --for \"a b\"
[profile sso]
sso_session = company
sso_account_id = 123
sso_role_name = Reader
[sso-session company]
sso_start_url = https://company.awsapps.com/start
sso_region = us-east-1
[profile oldsso]
sso_start_url = https://company.awsapps.com/start
sso_region = us-east-1
sso_account_id = 123
sso_role_name = Reader
[profile nosession]
sso_session = other
sso_account_id = 123
sso_role_name = Reader
[profile nothing]
region = eu-north-1
";

    fn found(profile: &str) -> String {
        let files =
            SharedFiles { config: CONFIG.to_owned(), credentials: String::new(), home: Some("/home/me".into()) };
        let environment = Environment::from([
            ("AWS_PROFILE".to_owned(), profile.to_owned()),
            ("AWS_ACCESS_KEY_ID".to_owned(), "ENVIRONMENT".to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), "hush".to_owned()),
        ]);
        let source = files.asked(&environment).and_then(|profile| files.source(&profile, &environment));
        match source {
            Ok(Some(source)) => {
                let shown = format!("{} {source:?}", source.shown());
                assert!(!shown.contains("hush") && !shown.contains("a b"), "{shown}");
                source.shown()
            }
            Ok(None) => "nobody".to_owned(),
            Err(error) => error.to_string().replace("Invalid AWS credentials: ", ""),
        }
    }

    #[test]
    fn a_profile_is_followed_as_the_aws_tools_follow_it() {
        for (profile, expected) in [
            ("base", "access key `B…`"),
            ("role", "role arn:aws:iam::1:role/reader (profile `role`), taken on by access key `B…`"),
            (
                "twice",
                "role arn:aws:iam::2:role/far (profile `twice`), taken on by role arn:aws:iam::1:role/reader (profile `role`), taken on by access key `B…`",
            ),
            ("self", "role arn:aws:iam::1:role/own (profile `self`), taken on by access key `S…`"),
            ("circle", "profile `circle` is its own source_profile, and has no keys"),
            ("environment", "role arn:aws:iam::1:role/env (profile `environment`), taken on by access key `ENV…`"),
            ("orphan", "profile `orphan` has a role_arn without a source_profile"),
            ("gone", "there is no profile `nobody`"),
            ("web", "role arn:aws:iam::1:role/web by web identity"),
            ("program", "whoever the credential_process of profile `program` says"),
            ("sso", "role Reader of account 123 by single sign-on (profile `sso`)"),
            ("oldsso", "role Reader of account 123 by single sign-on (profile `oldsso`)"),
            ("nosession", "profile `nosession` names the sso-session `other`, which is not there"),
            ("nothing", "profile `nothing` has neither keys, a role, single sign-on nor a credential_process"),
            ("absent", "there is no profile `absent`"),
        ] {
            assert_eq!(found(profile), expected, "{profile}");
        }
        assert!(found("machine").contains("metadata services are not asked"), "{}", found("machine"));
        assert!(found("code").contains("MFA"), "{}", found("code"));
    }

    #[test]
    fn the_token_of_single_sign_on_is_where_the_aws_tools_leave_it() {
        let files =
            SharedFiles { config: CONFIG.to_owned(), credentials: String::new(), home: Some("/home/me".into()) };
        for (profile, named) in [("sso", "company"), ("oldsso", "https://company.awsapps.com/start")] {
            let profile = Profile { name: profile.to_owned(), asked: true, values: files.profile(profile).unwrap() };
            let Some(AwsSource::SignOn { token_file, .. }) = files.sign_on(&profile).unwrap() else { panic!() };
            let digest = hex(&Sha1::digest(named.as_bytes()));
            assert_eq!(token_file, format!("/home/me/.aws/sso/cache/{digest}.json"));
        }
    }
}
