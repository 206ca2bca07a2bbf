//! What a model is fetched with, besides the user's own environment (§3.4, §3.5).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::ContainerSpec;

/// Prefix of variables from an HDFS Secret, so that a `HEADERS` of the user's own environment is not meant.
pub const HDFS_PREFIX: &str = "kserve-hdfs/";

/// Credentials and settings that Secrets, ServiceAccounts and the `storage` block give for one model, in the variables
/// that KServe's storage initializer reads (§3.3). Never printed.
#[derive(Clone, Default, PartialEq)]
pub struct Access {
    /// Variables; they go before the user's own.
    pub variables: BTreeMap<String, String>,
    /// Contents of files that variables name, by the value of the variable.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What they come from, for people: `Secret team/s3`.
    pub origins: Vec<String>,
    /// `imagePullSecrets`: the `.dockerconfigjson` of each.
    pub registries: Vec<String>,
    /// What fetches it in place of kserve-local itself.
    pub downloader: Option<Arc<Downloader>>,
}

/// A container of the user's that fetches one model (`ClusterStorageContainer`, §3.6). Never printed: its environment
/// holds credentials.
#[derive(Clone, PartialEq)]
pub struct Downloader {
    /// Name of the `ClusterStorageContainer`.
    pub name: String,
    /// What runs: credentials are in its environment and mounts, source and destination in its arguments.
    pub container: ContainerSpec,
    /// Where in the container the model must be when it ends.
    pub destination: String,
    /// Extra hosts entries, address to names.
    pub host_aliases: Vec<(String, Vec<String>)>,
}

impl Access {
    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty() && self.files.is_empty() && self.registries.is_empty() && self.downloader.is_none()
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.variables.keys().map(String::as_str).collect();
        f.debug_struct("Access").field("variables", &names).field("origins", &self.origins).finish_non_exhaustive()
    }
}

impl fmt::Debug for Downloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downloader")
            .field("name", &self.name)
            .field("image", &self.container.image)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_show_in_debug_output() {
        let mut access = Access::default();
        access.variables.insert("AWS_SECRET_ACCESS_KEY".to_owned(), "hush".to_owned());
        access.files.insert("key.json".to_owned(), b"hush".to_vec());
        access.registries.push("hush".to_owned());
        assert!(!format!("{access:?}").contains("hush"));
    }
}
