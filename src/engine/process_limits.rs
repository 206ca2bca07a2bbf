//! Memory and CPU limits of a process, by control groups where this user may make them.
//!
//! Both versions are spoken: version 1 with one tree per controller, and version 2 below a delegated group, as a systemd
//! service with `Delegate=yes` has it. Where neither works, limits are not enforced, and the caller says so.

use std::fs;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

const ROOT: &str = "/sys/fs/cgroup";
/// Length of a period of CPU time, in microseconds.
const PERIOD: u64 = 100_000;

/// The groups of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    /// Folders to join, one per tree.
    pub(super) folders: Vec<Utf8PathBuf>,
    /// File that counts kills for memory.
    pub(super) memory_events: Option<Utf8PathBuf>,
}

/// What is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) memory: Option<u64>,
    pub(super) cpu_milli: Option<u64>,
}

impl Limits {
    /// Makes the groups that enforce the limits.
    ///
    /// # Errors
    /// This user may not, or the kernel has no such controller; nothing is left behind.
    pub(super) fn enforce(self, name: &str) -> io::Result<Groups> {
        if self == Self::default() {
            return Ok(Groups::default());
        }
        let membership = fs::read_to_string("/proc/self/cgroup")?;
        let mut groups = Groups::default();
        let made = match own_group(&membership, "memory") {
            Some(_) => self.enforce_v1(name, &membership, &mut groups),
            None => self.enforce_v2(name, &membership, &mut groups),
        };
        match made {
            Ok(()) => Ok(groups),
            Err(error) => {
                groups.remove();
                Err(error)
            }
        }
    }

    fn enforce_v1(self, name: &str, membership: &str, groups: &mut Groups) -> io::Result<()> {
        if let Some(bytes) = self.memory {
            let group = groups.make(&v1_base(membership, "memory")?, name)?;
            write(&group.join("memory.limit_in_bytes"), &bytes.to_string())?;
            // Without swap accounting there is no such file, and then no such limit.
            let _ = write(&group.join("memory.memsw.limit_in_bytes"), &bytes.to_string());
            groups.memory_events = Some(group.join("memory.oom_control"));
        }
        if let Some(milli) = self.cpu_milli {
            let group = groups.make(&v1_base(membership, "cpu")?, name)?;
            write(&group.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
            write(&group.join("cpu.cfs_quota_us"), &(milli * PERIOD / 1000).max(1000).to_string())?;
        }
        Ok(())
    }

    fn enforce_v2(self, name: &str, membership: &str, groups: &mut Groups) -> io::Result<()> {
        let own = own_group(membership, "").ok_or_else(|| io::Error::other("there are no control groups"))?;
        let own = Utf8Path::new(ROOT).join(own.trim_start_matches('/'));
        // Groups have members or children, not both: the daemon moved to a child of its own before.
        let base = if own.file_name() == Some(OWN) { own.parent().unwrap_or(&own).to_owned() } else { own };
        if enable(&base).is_err() {
            let leaf = base.join(OWN);
            fs::create_dir_all(&leaf)?;
            write(&leaf.join("cgroup.procs"), &std::process::id().to_string())?;
            enable(&base)?;
        }
        let group = groups.make(&base, name)?;
        if let Some(bytes) = self.memory {
            write(&group.join("memory.max"), &bytes.to_string())?;
            // Without swap there is no such file.
            let _ = write(&group.join("memory.swap.max"), "0");
            groups.memory_events = Some(group.join("memory.events"));
        }
        if let Some(milli) = self.cpu_milli {
            write(&group.join("cpu.max"), &format!("{} {PERIOD}", (milli * PERIOD / 1000).max(1000)))?;
        }
        Ok(())
    }
}

/// Name of the daemon's own group of version 2.
const OWN: &str = "kserve-local";

fn enable(base: &Utf8Path) -> io::Result<()> {
    write(&base.join("cgroup.subtree_control"), "+memory +cpu")
}

/// Returns the group of a controller in the text of `/proc/self/cgroup`; `""` is version 2.
fn own_group<'t>(membership: &'t str, controller: &str) -> Option<&'t str> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|own| own == controller).then_some(group)
    })
}

fn v1_base(membership: &str, controller: &str) -> io::Result<Utf8PathBuf> {
    let group =
        own_group(membership, controller).ok_or_else(|| io::Error::other(format!("no {controller} controller")))?;
    let mount = Utf8Path::new(ROOT).join(controller);
    let own = mount.join(group.trim_start_matches('/'));
    // Inside a container the path may be one of the outside.
    Ok(if own.is_dir() { own } else { mount })
}

fn write(path: &Utf8Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

impl Groups {
    fn make(&mut self, base: &Utf8Path, name: &str) -> io::Result<Utf8PathBuf> {
        let group = base.join(format!("kserve-local-{name}"));
        if let Err(error) = fs::create_dir(&group)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        self.folders.push(group.clone());
        Ok(group)
    }

    /// Joins the groups with this process.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn join(&self) -> io::Result<()> {
        let own = std::process::id().to_string();
        self.folders.iter().try_for_each(|group| write(&group.join("cgroup.procs"), &own))
    }

    /// How many processes the kernel killed for memory.
    pub(super) fn memory_kills(&self) -> u64 {
        let Some(path) = &self.memory_events else { return 0 };
        let text = fs::read_to_string(path).unwrap_or_default();
        let counted = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        counted.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
    }

    /// Removes the groups; those that still have members stay, and the next removal finds them.
    pub(super) fn remove(&self) {
        for group in &self.folders {
            // Members that were killed leave a moment later.
            let _ = fs::remove_dir(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_read_in_both_versions() {
        let v1 = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/\n";
        assert_eq!(own_group(v1, "memory"), Some("/a/b"));
        assert_eq!(own_group(v1, "cpu"), Some("/c"));
        let v2 = "0::/user.slice/x.service\n";
        assert_eq!(own_group(v2, "memory"), None);
        assert_eq!(own_group(v2, ""), Some("/user.slice/x.service"));
    }

    #[test]
    fn nothing_is_made_when_nothing_is_limited() {
        assert_eq!(Limits::default().enforce("x").unwrap(), Groups::default());
    }
}
