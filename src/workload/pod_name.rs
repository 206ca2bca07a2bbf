//! `metadata.name` of a pod, which only a replica has: texts of a workload hold a mark in its place until a replica of it
//! is made.

use super::ContainerSpec;

/// Stands for the pod's name. No manifest can write it: neither arguments nor variables may hold a zero byte.
pub(super) const MARK: &str = "\0metadata.name\0";

/// Writes `name` where the pod's name is wanted.
pub(super) fn filled(text: &str, name: &str) -> String {
    text.replace(MARK, name)
}

impl ContainerSpec {
    /// Returns this container for the replica whose pod has this name.
    pub fn in_pod(mut self, name: &str) -> Self {
        let paths = self.mounts.iter_mut().filter_map(|mount| mount.sub_path.as_mut());
        let values = self.env.iter_mut().map(|(_, value)| value);
        for text in self.command.iter_mut().chain(&mut self.args).chain(values).chain(paths) {
            if text.contains(MARK) {
                *text = filled(text, name);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mount;
    use super::super::MountSource;
    use super::*;

    #[test]
    fn the_name_of_the_pod_is_written_wherever_it_is_used() {
        let empty = MountSource::EmptyDir { volume: "v".to_owned(), memory: false, size_limit: None };
        let spec = ContainerSpec {
            command: vec![format!("serve-{MARK}")],
            args: vec!["--as".to_owned(), format!("{MARK}/{MARK}")],
            env: vec![("POD".to_owned(), MARK.to_owned())],
            mounts: vec![Mount {
                path: "/logs".to_owned(),
                source: empty,
                sub_path: Some(MARK.to_owned()),
                read_only: false,
            }],
            ..ContainerSpec::default()
        };
        let spec = spec.in_pod("iris-predictor-00001-0");
        assert_eq!(spec.command, ["serve-iris-predictor-00001-0"]);
        assert_eq!(spec.args[1], "iris-predictor-00001-0/iris-predictor-00001-0");
        assert_eq!(spec.env[0].1, "iris-predictor-00001-0");
        assert_eq!(spec.mounts[0].sub_path.as_deref(), Some("iris-predictor-00001-0"));
    }
}
