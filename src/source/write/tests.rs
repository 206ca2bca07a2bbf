use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use serde_json::json;

use super::*;

/// A home, and one file in its folder of services.
struct Folder {
    root: tempfile::TempDir,
    path: Utf8PathBuf,
}

impl Folder {
    fn with(name: &str, text: &str, mode: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(root.path()).unwrap().join("services").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        restrict(&path, mode).unwrap();
        Self { root, path }
    }

    fn home(&self) -> Home {
        Home::new(Utf8Path::from_path(self.root.path()).unwrap())
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap()
    }

    fn mode(&self) -> u32 {
        std::fs::metadata(&self.path).unwrap().permissions().mode() & 0o777
    }

    /// Returns an object as the last load found it in the file.
    fn stored(&self, raw: &Value, line: usize) -> (ObjectKey, Stored) {
        let object = manifest::decode_value(raw).objects.remove(0).object;
        let origin = Origin::File { path: self.path.clone(), line };
        let key = object.key.clone();
        (key, Stored { object: Arc::new(object), origin, resource_version: 1, status: None, kept: None })
    }

    fn put(&self, raw: &Value, line: usize) -> Result<Utf8PathBuf, WriteError> {
        let (key, stored) = self.stored(raw, line);
        put(&self.home(), &key, raw, Some(&stored))
    }

    fn remove(&self, raw: &Value, line: usize) -> Result<Utf8PathBuf, WriteError> {
        let (key, stored) = self.stored(raw, line);
        remove(&key, &stored)
    }
}

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": value}})
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

fn document(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n")
}

#[test]
fn one_object_of_several_in_a_json_file_is_neither_written_nor_removed() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [map("a", "1"), map("b", "1")]}).to_string();
    let of_one = json!({"apiVersion": "v1", "kind": "List", "items": [map("a", "1")]}).to_string();
    let two = format!("{}\n{}", map("a", "1"), map("b", "1"));
    for text in [list, of_one, two] {
        let folder = Folder::with("all.json", &text, 0o644);
        assert!(matches!(folder.put(&map("a", "2"), 1), Err(WriteError::InsideList { .. })), "{text}");
        assert!(matches!(folder.remove(&map("a", "1"), 1), Err(WriteError::InsideList { .. })), "{text}");
        assert_eq!(folder.text(), text);
    }
}

#[test]
fn a_json_file_of_one_object_is_written_and_removed() {
    let folder = Folder::with("a.json", &map("a", "1").to_string(), 0o644);
    folder.put(&map("a", "2"), 1).unwrap();
    let written: Value = serde_json::from_str(&folder.text()).unwrap();
    assert_eq!(written["data"]["a"], "2");
    folder.remove(&map("a", "2"), 1).unwrap();
    assert!(!folder.path.exists());
}

#[test]
fn a_file_keeps_its_mode_and_one_with_a_secret_is_for_its_owner_alone() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    let with_secret = format!("{secret}---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: me}}\n");
    for (before, after) in [(0o600, 0o600), (0o644, 0o600)] {
        let folder = Folder::with("creds.yaml", &with_secret, before);
        folder.put(&account("me"), 5).unwrap();
        assert_eq!(folder.mode(), after);
        folder.remove(&account("me"), 5).unwrap();
        assert_eq!((folder.mode(), folder.text().as_str()), (after, secret));
    }
    let shared = Folder::with("a.yaml", &document("a"), 0o664);
    shared.put(&map("a", "2"), 1).unwrap();
    assert_eq!(shared.mode(), 0o664);
}

#[test]
fn the_document_is_found_by_its_object_when_the_file_was_changed_since_it_was_loaded() {
    // Loaded when `b` alone was in the file; an editor put `a` before it since.
    let folder = Folder::with("ab.yaml", &[document("a"), document("b")].join("---\n"), 0o644);
    folder.put(&map("b", "2"), 1).unwrap();
    assert!(folder.text().starts_with(&document("a")), "{}", folder.text());
    assert_eq!(folder.text().matches("name: b").count(), 1, "{}", folder.text());
    folder.remove(&map("b", "2"), 1).unwrap();
    assert_eq!(folder.text(), document("a"));
}

#[test]
fn a_file_that_no_longer_holds_the_object_stays_as_it_is() {
    let foreign = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n";
    let unreadable_beside = format!("{}---\na: [\n", document("b"));
    for text in [document("b").as_str(), foreign, unreadable_beside.as_str()] {
        let folder = Folder::with("a.yaml", text, 0o644);
        assert!(matches!(folder.put(&map("a", "2"), 1), Err(WriteError::Moved { .. })), "{text}");
        assert!(matches!(folder.remove(&map("a", "1"), 1), Err(WriteError::Moved { .. })), "{text}");
        assert_eq!(folder.text(), text);
    }
    let gone = Folder::with("a.yaml", "", 0o644);
    std::fs::remove_file(&gone.path).unwrap();
    assert!(matches!(gone.put(&map("a", "2"), 1), Err(WriteError::Moved { .. })));
}

#[test]
fn a_document_that_hides_behind_a_separator_is_not_lost() {
    let text = format!("{}--- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: b}}}}\n", document("a"));
    let folder = Folder::with("ab.yaml", &text, 0o644);
    assert!(matches!(folder.put(&map("a", "2"), 1), Err(WriteError::InsideList { .. })));
    assert!(matches!(folder.remove(&map("b", "2"), 5), Err(WriteError::InsideList { .. })));
    assert_eq!(folder.text(), text);
}

#[test]
fn a_broken_file_of_one_document_is_repaired_by_a_write() {
    for text in ["apiVersion: v1\nkind: [\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: 3\n"] {
        let folder = Folder::with("a.yaml", text, 0o644);
        folder.put(&map("a", "2"), 1).unwrap();
        assert_eq!(manifest::keys(&folder.text()).len(), 1);
        assert!(folder.text().contains("a: '2'"), "{}", folder.text());
    }
}

#[test]
fn a_symbolic_link_is_written_through_and_removed_without_what_it_leads_to() {
    let target = Folder::with("a.yaml", &document("a"), 0o644);
    let folder = Folder::with("a.yaml", "", 0o644);
    std::fs::remove_file(&folder.path).unwrap();
    std::os::unix::fs::symlink(&target.path, &folder.path).unwrap();
    folder.put(&map("a", "2"), 1).unwrap();
    assert!(folder.path.is_symlink());
    assert!(target.text().contains("a: '2'"), "{}", target.text());
    folder.remove(&map("a", "2"), 1).unwrap();
    assert!(!folder.path.is_symlink() && target.path.exists());
}
