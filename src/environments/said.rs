//! What installers say, in our words: progress, and whose fault a failure is. Pure.

/// What a line of output says about progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A package is being fetched.
    Fetching(String),
    /// Everything is here; it is being put in place.
    Installing,
}

/// Reads one line.
pub(super) fn progress(line: &str) -> Option<Progress> {
    let line = line.trim();
    if let Some(rest) = line.strip_prefix("Collecting ") {
        let name = rest.split([' ', '=', '<', '>', '!', '~', '[', ';']).next()?;
        return Some(Progress::Fetching(name.to_owned()));
    }
    // uv tells downloads of some size only, and the end of all of them.
    if let Some(rest) = line.strip_prefix("Downloading ") {
        let name = rest.split([' ', '(']).next()?;
        return (!name.contains("://") && !name.ends_with(".whl")).then(|| Progress::Fetching(name.to_owned()));
    }
    let installing = line.starts_with("Installing collected packages") || line.starts_with("Prepared ");
    installing.then_some(Progress::Installing)
}

/// Why an installer failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) package: Option<String>,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The index does not answer.
    Network,
    /// A package is not what or where it should be.
    Package,
}

/// Words of tools that cannot reach their index.
const NETWORK: [&str; 12] = [
    "connection broken by",
    "failed to establish a new connection",
    "temporary failure in name resolution",
    "name or service not known",
    "dns error",
    "connection refused",
    "connection reset",
    "timed out",
    "network is unreachable",
    "error sending request",
    "could not connect",
    "max retries exceeded",
];

/// Reads the whole output of an installer that failed.
pub(super) fn failure(output: &str) -> Failure {
    let lower = output.to_lowercase();
    let kind =
        if NETWORK.iter().any(|words| lower.contains(words)) { FailureKind::Network } else { FailureKind::Package };
    Failure { kind, package: culprit(output), message: last_error(output) }
}

/// The package a failure is about.
fn culprit(output: &str) -> Option<String> {
    let mismatch = output.lines().skip_while(|line| !line.contains("DO NOT MATCH THE HASHES")).skip(1);
    let mismatched = mismatch.map(str::trim).find(|line| line.contains("==") && !line.starts_with("ERROR"));
    if let Some(line) = mismatched {
        return line.split([' ', ';']).next().map(str::to_owned);
    }
    let before = [
        "No matching distribution found for ",
        "satisfies the requirement ",
        "Hash mismatch for `",
        "Failed to download `",
        "Failed to install: ",
        "Failed to build `",
        "Could not install packages due to an OSError: ",
    ];
    let named = before.iter().find_map(|words| {
        let rest = output.rsplit_once(words)?.1;
        rest.split(['`', ' ', '\n', '(', ';']).next().filter(|name| !name.is_empty() && !name.starts_with('['))
    });
    // Else it was the one that was being fetched.
    let fetched = || {
        output.lines().rev().find_map(|line| match progress(line) {
            Some(Progress::Fetching(name)) => Some(name),
            _ => None,
        })
    };
    named.map(str::to_owned).or_else(fetched)
}

/// The last line that says what went wrong.
fn last_error(output: &str) -> String {
    let says = |line: &&str| {
        let lower = line.to_lowercase();
        ["error:", "caused by:", "×", "no space left"]
            .iter()
            .any(|word| lower.trim_start().starts_with(word) || lower.contains("no space left"))
    };
    let line = output.lines().rev().find(says).or_else(|| output.lines().rev().find(|line| !line.trim().is_empty()));
    let line = line.unwrap_or("it said nothing").trim();
    let bare = ["ERROR:", "error:", "Caused by:", "×"].iter().find_map(|word| line.strip_prefix(word)).unwrap_or(line);
    let short: String = bare.trim().chars().take(300).collect();
    short
}

/// Counts the packages of a list in pip's format.
pub(super) fn count(list: &str) -> usize {
    list.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric()) && line.contains("==")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_both_tools() {
        let fetching = |name: &str| Some(Progress::Fetching(name.to_owned()));
        let cases = [
            ("Collecting numpy==2.4.6 (from -r list.txt (line 3))", fetching("numpy")),
            ("  Downloading numpy-2.4.6-cp311-cp311-manylinux.whl (16 MB)", None),
            ("Downloading scipy (33.6MiB)", fetching("scipy")),
            ("Prepared 71 packages in 4.2s", Some(Progress::Installing)),
            ("Installing collected packages: pytz, zope", Some(Progress::Installing)),
            ("Using cached x", None),
        ];
        for (line, want) in cases {
            assert_eq!(progress(line), want, "{line}");
        }
    }

    #[test]
    fn failures_name_the_package_and_whose_fault_it_is() {
        let cases = [
            (
                "Collecting kserve-nothing==9.9\nERROR: Could not find a version that satisfies the requirement kserve-nothing==9.9 (from versions: none)\nERROR: No matching distribution found for kserve-nothing==9.9\n",
                FailureKind::Package,
                Some("kserve-nothing==9.9"),
            ),
            (
                "Collecting six==1.17.0\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you\n    six==1.17.0 from https://x:\n        Expected sha256 aa\n",
                FailureKind::Package,
                Some("six==1.17.0"),
            ),
            (
                "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError': /simple/six/\nERROR: Could not find a version that satisfies the requirement six==1.17.0 (from versions: none)\n",
                FailureKind::Network,
                Some("six==1.17.0"),
            ),
            (
                "error: Failed to fetch: `http://x/simple/six/`\n  Caused by: error sending request\n  Caused by: tcp connect error: Connection refused (os error 111)\n",
                FailureKind::Network,
                None,
            ),
            (
                "  × Failed to download `six==1.17.0`\n  ╰─▶ Hash mismatch for `six==1.17.0`\n",
                FailureKind::Package,
                Some("six==1.17.0"),
            ),
        ];
        for (output, kind, package) in cases {
            let failure = failure(output);
            assert_eq!((failure.kind, failure.package.as_deref()), (kind, package), "{output}");
            assert!(!failure.message.is_empty());
        }
    }

    #[test]
    fn packages_are_counted_not_hashes() {
        assert_eq!(count("# x\nsix==1.17.0 \\\n    --hash=sha256:aa\nnumpy==2.4.6 ; python_version >= '3' \\\n"), 2);
    }
}
