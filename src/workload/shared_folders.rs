//! Several artifacts in one folder, or one within another (§3.7).
//!
//! Upstream downloads one after the other into one volume. Here each is a model of its own, so the ones that share a
//! folder become one mount of several layers; a claim within them is mounted over a folder made for it.

use super::{Layer, Mount, MountSource, ResolveError};

/// Refuses the last mount when it cannot be beside the others; `field` is that of its path.
pub(super) fn check(mounts: &[Mount], field: &str) -> Result<(), ResolveError> {
    let Some((last, others)) = mounts.split_last() else { return Ok(()) };
    let claims = |a: &Mount, b: &Mount| (is_claim(a), is_claim(b));
    for other in others {
        let problem = match claims(last, other) {
            (true, true) if last.path == other.path => "PVC storage paths must be unique".to_owned(),
            (true, false) | (false, true) if last.path == other.path => {
                format!("`{}` is where a volume and an artifact are both wanted", last.path)
            }
            (false, true) if within(&last.path, &other.path).is_some() => {
                format!("`{}` is inside the volume at `{}`, which is only mounted", last.path, other.path)
            }
            (true, false) if within(&other.path, &last.path).is_some() => {
                format!("the artifact at `{}` is inside this volume, which is only mounted", other.path)
            }
            _ => continue,
        };
        return Err(
            ResolveError::invalid(field, problem).with_help("give it a mountPath of its own, beside the others")
        );
    }
    Ok(())
}

/// Makes one mount of artifacts that share a folder.
pub(super) fn gather(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut gathered: Vec<Mount> = Vec::new();
    for mount in &mounts {
        let top = mounts
            .iter()
            .filter(|other| !is_claim(other) && within(&mount.path, &other.path).is_some())
            .min_by_key(|other| other.path.len());
        match top {
            _ if is_claim(mount) => gathered.push(mount.clone()),
            Some(top) if gathered.iter().any(|done| !is_claim(done) && done.path == top.path) => {}
            Some(top) => gathered.push(together(top, &mounts)),
            None => gathered.push(mount.clone()),
        }
    }
    gathered
}

/// The mount at the folder of `top`: as it is when it is alone there.
fn together(top: &Mount, mounts: &[Mount]) -> Mount {
    let inside = mounts.iter().filter_map(|mount| Some((mount, within(&mount.path, &top.path)?.to_owned())));
    let (mut layers, mut folders) = (Vec::new(), Vec::new());
    for (mount, path) in inside {
        match mount.source {
            MountSource::Model(model) => layers.push(Layer { model, path }),
            _ => folders.push(path),
        }
    }
    if let ([only], true) = (&layers[..], folders.is_empty()) {
        return Mount { source: MountSource::Model(only.model), ..top.clone() };
    }
    Mount { source: MountSource::Together { layers, folders }, ..top.clone() }
}

/// Returns the path within a folder; empty for the folder itself.
fn within<'p>(path: &'p str, folder: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(folder)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

fn is_claim(mount: &Mount) -> bool {
    matches!(mount.source, MountSource::Claim { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, source: MountSource) -> Mount {
        Mount { path: path.to_owned(), source, sub_path: None, read_only: true }
    }

    fn claim(path: &str) -> Mount {
        mount(path, MountSource::Claim { namespace: "n".to_owned(), claim: "c".to_owned() })
    }

    /// `path: layers; folders`, each layer as `model@path`.
    fn rows(mounts: Vec<Mount>) -> Vec<String> {
        let row = |mount: Mount| match mount.source {
            MountSource::Model(model) => format!("{}: {model}", mount.path),
            MountSource::Together { layers, folders } => {
                let layers: Vec<_> = layers.iter().map(|layer| format!("{}@{}", layer.model, layer.path)).collect();
                format!("{}: {}; {}", mount.path, layers.join(" "), folders.join(" "))
            }
            _ => format!("{}: claim", mount.path),
        };
        gather(mounts).into_iter().map(row).collect()
    }

    #[test]
    fn only_what_shares_a_folder_is_put_together() {
        let models = |paths: &[&str]| -> Vec<Mount> {
            paths.iter().enumerate().map(|(index, path)| mount(path, MountSource::Model(index))).collect()
        };
        assert_eq!(rows(models(&["/m/a", "/m/b", "/m/ab"])), ["/m/a: 0", "/m/b: 1", "/m/ab: 2"]);
        assert_eq!(rows(models(&["/m", "/m"])), ["/m: 0@ 1@; "]);
        assert_eq!(rows(models(&["/m/a/b", "/x", "/m", "/m/a"])), ["/m: 0@a/b 2@ 3@a; ", "/x: 1"]);
    }

    #[test]
    fn a_claim_within_an_artifact_gets_a_folder_and_is_mounted_over_it() {
        let mounts = vec![mount("/m", MountSource::Model(0)), claim("/m/data/x"), claim("/other")];
        assert_eq!(rows(mounts), ["/m: 0@; data/x", "/m/data/x: claim", "/other: claim"]);
    }

    #[test]
    fn two_things_are_not_mounted_at_one_place() {
        let model = || mount("/m", MountSource::Model(0));
        for (mounts, wrong) in [
            (vec![claim("/m"), claim("/m")], true),
            (vec![claim("/m"), model()], true),
            (vec![model(), claim("/m")], true),
            (vec![claim("/m"), mount("/m/x", MountSource::Model(0))], true),
            (vec![mount("/m/x", MountSource::Model(0)), claim("/m")], true),
            (vec![model(), claim("/m/x")], false),
            (vec![claim("/m"), claim("/m/x")], false),
            (vec![model(), model()], false),
        ] {
            assert_eq!(check(&mounts, "f").is_err(), wrong, "{mounts:?}");
        }
    }
}
