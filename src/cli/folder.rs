//! The folder without a daemon: what `apply` and `delete` do when none runs.
//!
//! The same loader that the daemon uses writes the files; the next start serves what they say.

use anyhow::Result;
use camino::Utf8Path;

use super::home::{flag_for, shown};
use super::output;

/// Says that what was written waits for a daemon.
pub fn tell_not_running(home: &Utf8Path) {
    output::note(&format!(
        "note: no daemon runs on {}; what was written is served once you start `kserve-local serve{}`",
        shown(home),
        flag_for(home)
    ));
}
