//! Query parameters, read as the Kubernetes API reads them.

use super::failure::Failure;
use super::resource::Resource;
use super::selector::{FieldSelector, LabelSelector};

/// The query part of a URL, percent-decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

/// What to do about fields nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Refuse.
    Strict,
    /// Prune, and say so.
    #[default]
    Warn,
    /// Prune.
    Ignore,
}

/// Whether a write is real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is.
    Real,
    /// `dryRun=All`: everything but the write.
    DryRun,
}

/// Which part of the objects a Table carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Metadata only.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl Query {
    /// Reads a raw query string.
    pub fn parse(raw: &str) -> Self {
        Self(url::form_urlencoded::parse(raw.as_bytes()).into_owned().collect())
    }

    /// Returns the first value of a parameter, if it is there and not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, value)| name == key && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Reads a boolean as Go's `strconv.ParseBool` does; an absent one is false.
    ///
    /// # Errors
    /// Not a boolean.
    pub fn flag(&self, key: &str) -> Result<bool, Failure> {
        match self.get(key) {
            None => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(Failure::bad_request(format!("invalid value \"{other}\" for {key}: not a boolean"))),
        }
    }

    /// Reads a whole number that is not negative.
    ///
    /// # Errors
    /// Not such a number.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let wrong = |_| Failure::bad_request(format!("invalid value \"{text}\" for {key}: not a number"));
        text.parse().map(Some).map_err(wrong)
    }

    /// Reads `labelSelector`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn labels(&self) -> Result<LabelSelector, Failure> {
        LabelSelector::parse(self.get("labelSelector").unwrap_or_default()).map_err(Failure::bad_request)
    }

    /// Reads `fieldSelector`.
    ///
    /// # Errors
    /// It cannot be read, or names a field that this kind cannot be selected by.
    pub fn fields(&self, resource: Resource) -> Result<FieldSelector, Failure> {
        FieldSelector::parse(self.get("fieldSelector").unwrap_or_default(), resource).map_err(Failure::bad_request)
    }

    /// Reads `fieldValidation`.
    ///
    /// # Errors
    /// Not one of the three.
    pub fn field_validation(&self) -> Result<FieldValidation, Failure> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(Failure::bad_request(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }

    /// Reads `dryRun`.
    ///
    /// # Errors
    /// Not `All`.
    pub fn effect(&self) -> Result<Effect, Failure> {
        match self.get("dryRun") {
            None => Ok(Effect::Real),
            Some("All") => Ok(Effect::DryRun),
            Some(other) => {
                Err(Failure::bad_request(format!("dryRun: Unsupported value: \"{other}\": supported values: \"All\"")))
            }
        }
    }

    /// Reads `includeObject`; anything unknown means metadata.
    pub fn include_object(&self) -> IncludeObject {
        match self.get("includeObject") {
            Some("None") => IncludeObject::None,
            Some("Object") => IncludeObject::Object,
            _ => IncludeObject::Metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        for (text, expected) in [("true", Some(true)), ("True", Some(true)), ("1", Some(true)), ("F", Some(false))] {
            assert_eq!(Query::parse(&format!("watch={text}")).flag("watch").ok(), expected, "{text}");
        }
        assert_eq!(Query::parse("").flag("watch"), Ok(false));
        assert!(Query::parse("watch=yes").flag("watch").is_err());
    }

    #[test]
    fn a_dry_run_is_never_taken_for_a_real_one() {
        assert_eq!(Query::parse("dryRun=All").effect(), Ok(Effect::DryRun));
        assert!(Query::parse("dryRun=all").effect().is_err());
    }
}
