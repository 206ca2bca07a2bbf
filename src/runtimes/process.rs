//! How a runtime runs without a container: the recipe in its annotation `kserve-local/process`.
//!
//! The annotation holds YAML, so that the same runtime stays valid on a cluster. A recipe names either a Python
//! environment (versions of Python, and a complete list of exact, hash-locked packages) or an executable to look for; the
//! command that stands for the image's entrypoint; and, for every port the server listens on, the argument or variable
//! that sets it, because processes share the machine's ports. Arguments, variables and mounts otherwise come from the
//! runtime and the manifest, as for a container.
//!
//! Lists of packages and Python modules that recipes refer to by name come with the binary (`/runtimes/process`).

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Catalog, Runtime};
use crate::api::meta::PROCESS_RECIPE;
use crate::manifest::yaml;

macro_rules! locks {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../runtimes/process/locks/", $name, ".txt")))),*]
    };
}

/// Name and text of every shipped list of packages, in pip's format.
const LOCKS: &[(&str, &str)] = locks![
    "kserve-lgbserver",
    "kserve-sklearnserver",
    "kserve-xgbserver",
    "mlserver-lightgbm",
    "mlserver-mlflow",
    "mlserver-sklearn",
    "mlserver-xgboost",
    "vllmserver",
];

macro_rules! module {
    ($name:literal, $($file:literal),* $(,)?) => {
        ($name, &[$(($file, include_str!(concat!("../../runtimes/process/servers/", $name, "/", $file)))),*])
    };
}

/// Files of a Python module, by name.
type Files = &'static [(&'static str, &'static str)];

/// Name and files of every shipped Python module.
const MODULES: &[(&str, Files)] = &[module!(
    "kserve_servers",
    "__init__.py",
    "__main__.py",
    "bind.py",
    "frameworks.py",
    "model.py",
    "model_file.py",
    "repository.py",
)];

/// Returns the text of a shipped list of packages.
pub fn lock(name: &str) -> Option<&'static str> {
    LOCKS.iter().find(|(own, _)| *own == name).map(|(_, text)| *text)
}

/// Returns the files of a shipped Python module, by name.
pub fn module(name: &str) -> Option<Files> {
    MODULES.iter().find(|(own, _)| *own == name).map(|(_, files)| *files)
}

/// Returns the digest of what comes with the binary under a name: 16 hexadecimal digits.
pub fn digest<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let hash = texts.into_iter().fold(Sha256::new(), |mut hash, text| {
        hash.update(format!("{}:", text.len()));
        hash.update(text);
        hash
    });
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a runtime runs without a container, as its annotation says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Recipe {
    /// Versions of Python that will do, for example `>=3.11,<3.14`.
    pub python: Option<String>,
    /// A shipped list of packages, by name.
    pub requirements: Option<String>,
    /// The same, by the name of the model's format.
    pub requirements_by_format: BTreeMap<String, String>,
    /// A list of packages of the runtime's own: `name==version --hash=sha256:…`, dependencies included.
    pub packages: Vec<String>,
    /// A shipped Python module that the command runs.
    pub module: Option<String>,
    /// A program to look for on the PATH.
    pub executable: Option<String>,
    /// How to get the program, when it is not there.
    pub hint: Option<String>,
    /// Replaces the image's entrypoint; `python` is the environment's. Empty for an executable: just that.
    pub command: Vec<String>,
    /// Put before the container's arguments.
    pub args: Vec<String>,
    /// Variables that neither the runtime nor the manifest sets.
    pub env: BTreeMap<String, String>,
    /// Every port the server listens on.
    pub ports: Vec<RecipePort>,
}

/// A port the server listens on, and what sets it. Exactly one of `arg` and `env` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RecipePort {
    /// The port when nothing sets it.
    pub port: u16,
    /// The argument that sets it, for example `--http_port`.
    pub arg: Option<String>,
    /// The variable that sets it.
    pub env: Option<String>,
}

/// A recipe that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recipe is wrong: {0}")]
pub struct RecipeError(pub String);

/// Returns a runtime's recipe; none when it has none.
///
/// # Errors
/// The annotation is not a recipe; the message says what is wrong with it.
pub fn recipe(runtime: &Runtime) -> Result<Option<Recipe>, RecipeError> {
    let Some(text) = runtime.annotations.get(PROCESS_RECIPE).filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    let recipe: Recipe = yaml::from_yaml(text).map_err(|error| RecipeError(error.message))?;
    recipe.check().map_err(RecipeError)?;
    Ok(Some(recipe))
}

/// Returns the runtimes a namespace sees that list a format and have a recipe, by name.
pub fn runtimes_with_recipe<'c>(catalog: &'c Catalog, namespace: &str, format: &str) -> Vec<&'c str> {
    let able = catalog.visible_in(namespace).filter(|runtime| {
        let lists = runtime.spec.supported_model_formats.iter().any(|row| row.name == format);
        lists && !runtime.spec.is_disabled() && matches!(recipe(runtime), Ok(Some(_)))
    });
    let mut names: Vec<&str> = able.map(|runtime| runtime.name.as_str()).collect();
    names.sort_unstable();
    names
}

impl Recipe {
    /// Returns the shipped list of packages for a model's format; none when the recipe brings its own or needs none.
    pub fn requirements_for(&self, format: &str) -> Option<&str> {
        self.requirements_by_format.get(format).or(self.requirements.as_ref()).map(String::as_str)
    }

    fn check(&self) -> Result<(), String> {
        match (&self.python, &self.executable) {
            (Some(_), Some(_)) => return Err("give `python` or `executable`, not both".to_owned()),
            (None, None) => return Err("give `python` (with packages) or `executable`".to_owned()),
            (Some(versions), None) => {
                VersionRange::parse(versions)?;
                self.check_packages()?;
                if self.command.is_empty() {
                    return Err("`command` is missing: what starts the server".to_owned());
                }
            }
            (None, Some(_)) => {
                let shipped = self.requirements.is_some() || !self.requirements_by_format.is_empty();
                if shipped || !self.packages.is_empty() || self.module.is_some() {
                    return Err("packages belong to a recipe with `python`".to_owned());
                }
            }
        }
        for port in &self.ports {
            if port.port == 0 || port.arg.is_some() == port.env.is_some() {
                return Err("each of `ports` needs `port` and one of `arg` and `env`".to_owned());
            }
        }
        Ok(())
    }

    fn check_packages(&self) -> Result<(), String> {
        let shipped = self.requirements.iter().chain(self.requirements_by_format.values());
        if let Some(unknown) = shipped.clone().find(|name| lock(name).is_none()) {
            let known: Vec<&str> = LOCKS.iter().map(|(name, _)| *name).collect();
            return Err(format!("no list of packages is called `{unknown}`; there are {}", known.join(", ")));
        }
        if let Some(unknown) = self.module.as_deref().filter(|name| module(name).is_none()) {
            return Err(format!("no module is called `{unknown}`"));
        }
        if shipped.count() > 0 && !self.packages.is_empty() {
            return Err("give `requirements` or `packages`, not both".to_owned());
        }
        let exact = |line: &&String| !line.contains("==") || !line.contains("--hash=sha256:");
        match self.packages.iter().find(exact) {
            Some(line) => Err(format!(
                "`{line}` is not locked; write `name==version --hash=sha256:…` with a hash per file, as `uv pip compile --generate-hashes` does"
            )),
            None => Ok(()),
        }
    }
}

/// Versions of Python that will do: `>=3.11,<3.14`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRange {
    bounds: Vec<(Bound, (u32, u32))>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    From,
    Below,
    Exactly,
}

impl VersionRange {
    /// Reads a range.
    ///
    /// # Errors
    /// It is not one, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bound = |part: &str| {
            let part = part.trim();
            let forms = [(">=", Bound::From), ("==", Bound::Exactly), ("<", Bound::Below)];
            let (sign, bound) = forms.into_iter().find(|(sign, _)| part.starts_with(sign))?;
            let (major, minor) = part.strip_prefix(sign)?.trim().trim_end_matches(".*").split_once('.')?;
            Some((bound, (major.parse().ok()?, minor.parse().ok()?)))
        };
        let bounds: Option<Vec<_>> = text.split(',').map(bound).collect();
        let bounds = bounds
            .ok_or_else(|| format!("`{text}` is no range of Python versions; write for example `>=3.11,<3.14`"))?;
        Ok(Self { bounds })
    }

    /// Whether a version (major, minor) is in the range.
    pub fn contains(&self, version: (u32, u32)) -> bool {
        self.bounds.iter().all(|(bound, limit)| match bound {
            Bound::From => version >= *limit,
            Bound::Below => version < *limit,
            Bound::Exactly => version == *limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtimes::builtin;

    fn with(text: &str) -> Result<Option<Recipe>, RecipeError> {
        recipe(&Runtime {
            name: "mine".to_owned(),
            namespace: None,
            annotations: [(PROCESS_RECIPE.to_owned(), text.to_owned())].into(),
            created: None,
            built_in: false,
            spec: Arc::default(),
        })
    }

    #[test]
    fn every_built_in_recipe_can_be_followed() {
        let recipes: Vec<(&str, Recipe)> = builtin::runtimes()
            .iter()
            .filter_map(|runtime| Some((runtime.name.as_str(), recipe(runtime).unwrap()?)))
            .collect();
        let names: Vec<&str> = recipes.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "kserve-lgbserver",
                "kserve-local-llamacpp",
                "kserve-mlserver",
                "kserve-sklearnserver",
                "kserve-vllmserver",
                "kserve-xgbserver"
            ]
        );
        for (name, recipe) in recipes {
            assert!(recipe.ports.iter().any(|port| port.port == 8080), "{name} says what sets its port");
        }
    }

    #[test]
    fn shipped_lists_are_exact_and_locked() {
        for (name, text) in LOCKS {
            for line in text.replace("\\\n", " ").lines().filter(|line| !line.starts_with('#')) {
                assert!(line.contains("==") && line.contains("--hash=sha256:"), "{name}: {line}");
                assert!(!line.contains("://"), "{name}: no host is named: {line}");
            }
        }
    }

    #[test]
    fn a_wrong_recipe_says_what_is_wrong() {
        let cases = [
            ("pyton: '>=3.11'", "unknown field `pyton`"),
            ("command: [x]", "give `python`"),
            ("python: '>=3.11'\nexecutable: x", "not both"),
            ("python: three\ncommand: [x]", "no range of Python versions"),
            ("python: '>=3.11'", "`command` is missing"),
            ("python: '>=3.11'\nrequirements: nobody\ncommand: [x]", "no list of packages is called `nobody`"),
            ("python: '>=3.11'\npackages: [numpy]\ncommand: [x]", "`numpy` is not locked"),
            ("executable: x\nports: [{port: 8080}]", "one of `arg` and `env`"),
            ("executable: x\nmodule: kserve_servers", "belong to a recipe with `python`"),
        ];
        for (text, want) in cases {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        assert_eq!(with("  \n"), Ok(None));
    }

    #[test]
    fn ranges_of_versions_are_read() {
        let range = VersionRange::parse(">=3.11, <3.14").unwrap();
        let fits: Vec<u32> = (9..16).filter(|minor| range.contains((3, *minor))).collect();
        assert_eq!(fits, [11, 12, 13]);
        assert!(VersionRange::parse("==3.12.*").unwrap().contains((3, 12)));
    }
}
