//! The models of a running server: their files in its folder, and the calls that load and unload them.
//!
//! The folder is in the replica's scratch folder, and the container sees it as `/mnt/models`. Files are links to the
//! cache's where the server sees them read-only, else copies. A model is made beside the folder and renamed into it; the
//! mark that says from what it was made is written when the server has loaded it, so one that was left half done is done
//! anew. What was there before is kept until then, and put back when it fails.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::execute::{Executor, Failure, Lesson};
use crate::home::{restrict, write_atomically};
use crate::plan::trained::{Held, RepositoryOrder, RepositoryWork};
use crate::probe;
use crate::workload::{Layout, MODELS_VOLUME, mlserver_class};

/// Longest time a server may take to load a model.
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// The same for unloading one.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a server to say whether a model answers.
const READY_TIMEOUT: Duration = Duration::from_secs(5);
/// What MLServer reads beside a model's files.
const MLSERVER_SETTINGS: &str = "model-settings.json";
/// Names MLServer's runtimes look for by themselves.
const MLSERVER_KNOWS: [&str; 7] =
    ["model.joblib", "model.pickle", "model.pkl", "model.bst", "model.json", "model.ubj", "MLmodel"];

/// What is remembered beside a model's files.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Mark {
    mark: String,
    memory: u64,
}

/// The folders of one replica.
#[derive(Clone, Debug)]
struct Folders {
    /// What the server sees.
    shown: Utf8PathBuf,
    /// Beside it: marks, and models in the making.
    beside: Utf8PathBuf,
}

impl Executor {
    /// Does something in the models of a server. Returns the models that are there, for a look.
    ///
    /// # Errors
    /// The files cannot be shown, or the server does not do it; in its own words.
    pub(in crate::reconcile) async fn repository(
        &self,
        order: &RepositoryOrder,
    ) -> Result<BTreeMap<String, Held>, Failure> {
        let scratch = self.mounts.scratch(&order.replica);
        let folders =
            Folders { shown: scratch.join(MODELS_VOLUME), beside: scratch.join(format!("{MODELS_VOLUME}.beside")) };
        let port = order.repository.port;
        let server = order.reach.to(port).ok_or_else(|| failed(format!("port {port} cannot be reached from here")))?;
        match &order.work {
            RepositoryWork::Look => look_at_models(&folders, server).await,
            RepositoryWork::Load { .. } => self.load_model(order, &folders, server).await.map(|()| BTreeMap::new()),
            RepositoryWork::Unload { model } => unload_model(model, &folders, server).await.map(|()| BTreeMap::new()),
        }
    }

    async fn load_model(&self, order: &RepositoryOrder, folders: &Folders, server: SocketAddr) -> Result<(), Failure> {
        let RepositoryWork::Load { model, framework, uri, mark, memory } = &order.work else { return Ok(()) };
        let cached = self.mounts.cache.lookup(uri).ok_or_else(|| Failure {
            message: format!("the model {} is not in the cache any more", uri.redacted()),
            permanent: false,
            lesson: Lesson::ModelGone,
        })?;
        let show = Show {
            model: model.clone(),
            framework: framework.clone(),
            files: cached.path,
            layout: order.repository.layout,
            links: order.repository.read_only,
        };
        let showing = folders.clone();
        blocking(move || showing.show(&show)).await?;
        let loaded = match probe::post(server, &format!("/v2/repository/models/{model}/load"), LOAD_TIMEOUT).await {
            Ok(()) => match answers(server, model).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(failed("the server said that it loaded the model, and the model does not answer")),
                Err(failure) => Err(failure),
            },
            Err(message) => Err(failed(message)),
        };
        let (keeping, name) = (folders.clone(), model.clone());
        let mark = Mark { mark: mark.clone(), memory: *memory };
        match loaded {
            Ok(()) => blocking(move || keeping.keep(&name, &mark)).await,
            Err(failure) => {
                let is_back = blocking(move || keeping.put_back(&name)).await?;
                // Servers keep what they had when they cannot load its successor. One that does not is told to.
                if is_back && !answers(server, model).await.unwrap_or(false) {
                    let again = probe::post(server, &format!("/v2/repository/models/{model}/load"), LOAD_TIMEOUT).await;
                    if let Err(error) = again {
                        tracing::warn!(model, %error, "could not be loaded as it was before");
                    }
                }
                Err(failure)
            }
        }
    }
}

async fn look_at_models(folders: &Folders, server: SocketAddr) -> Result<BTreeMap<String, Held>, Failure> {
    let reading = folders.clone();
    let mut models = blocking(move || reading.read()).await?;
    for (name, held) in &mut models {
        held.ready = answers(server, name).await?;
    }
    Ok(models)
}

async fn unload_model(model: &str, folders: &Folders, server: SocketAddr) -> Result<(), Failure> {
    let unloaded = probe::post(server, &format!("/v2/repository/models/{model}/unload"), UNLOAD_TIMEOUT).await;
    if let Err(message) = unloaded
        && answers(server, model).await?
    {
        return Err(failed(message));
    }
    let (removing, name) = (folders.clone(), model.to_owned());
    blocking(move || removing.remove(&name)).await
}

/// Whether a model answers. An error means that nobody can tell.
async fn answers(server: SocketAddr, model: &str) -> Result<bool, Failure> {
    probe::model_answers(server, model, READY_TIMEOUT).await.map_err(failed)
}

fn failed(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), permanent: false, lesson: Lesson::None }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.to_string()))?;
    done.map_err(|error| failed(format!("could not prepare the model's files: {error}")))
}

/// A model to be shown to a server.
#[derive(Clone, Debug)]
struct Show {
    model: String,
    framework: String,
    /// Folder or file in the cache.
    files: Utf8PathBuf,
    layout: Layout,
    /// Links to the cache's files, not copies.
    links: bool,
}

impl Folders {
    fn mark(&self, model: &str) -> Utf8PathBuf {
        self.beside.join(format!("{model}.json"))
    }

    /// What the server had under the name, until its successor is loaded.
    fn before(&self, model: &str) -> Utf8PathBuf {
        self.beside.join(format!("{model}.before"))
    }

    /// The models that are shown, and from what they were made as far as that is known.
    fn read(&self) -> io::Result<BTreeMap<String, Held>> {
        let mut models = BTreeMap::new();
        let entries = match self.shown.read_dir_utf8() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(models),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_owned();
            let mark = std::fs::read(self.mark(&name)).ok();
            let mark: Mark = mark.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            models.insert(name, Held { mark: mark.mark, memory: mark.memory, ready: false });
        }
        Ok(models)
    }

    /// Puts a model's files where the server finds them.
    fn show(&self, show: &Show) -> io::Result<()> {
        std::fs::create_dir_all(&self.beside)?;
        std::fs::create_dir_all(&self.shown)?;
        let (making, shown, before) =
            (self.beside.join(format!("{}.new", show.model)), self.shown.join(&show.model), self.before(&show.model));
        remove_all(&making)?;
        match show.files.is_dir() {
            true => reproduce(&show.files, &making, show.links)?,
            false => {
                make_folder(&making)?;
                let name = show.files.file_name().unwrap_or("model");
                reproduce(&show.files, &making.join(name), show.links)?;
            }
        }
        if show.layout == Layout::MlServer {
            write_settings(show, &making)?;
        }
        if shown.exists() {
            remove_all(&before)?;
            std::fs::rename(&shown, &before)?;
        }
        std::fs::rename(&making, &shown)
    }

    /// Notes that the server has loaded what it is shown.
    fn keep(&self, model: &str, mark: &Mark) -> io::Result<()> {
        let text = serde_json::to_vec(mark)?;
        write_atomically(&self.mark(model), &text, 0o600)?;
        remove_all(&self.before(model))
    }

    /// Shows what was shown before, if there was something. Returns whether there was.
    fn put_back(&self, model: &str) -> io::Result<bool> {
        let (shown, before) = (self.shown.join(model), self.before(model));
        remove_all(&shown)?;
        if !before.exists() {
            remove_file(&self.mark(model))?;
            return Ok(false);
        }
        std::fs::rename(&before, &shown)?;
        Ok(true)
    }

    fn remove(&self, model: &str) -> io::Result<()> {
        remove_all(&self.shown.join(model))?;
        remove_all(&self.before(model))?;
        remove_file(&self.mark(model))
    }
}

/// Removes a file or folder, read-only folders of links included.
fn remove_all(path: &Utf8Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => std::fs::remove_file(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_file(path: &Utf8Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a folder that containers can read.
fn make_folder(path: &Utf8Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    restrict(path, 0o755)
}

/// Makes a file or folder again elsewhere: folders anew, files as links where that is asked for and possible.
fn reproduce(from: &Utf8Path, to: &Utf8Path, links: bool) -> io::Result<()> {
    if from.is_dir() {
        make_folder(to)?;
        for entry in from.read_dir_utf8()? {
            let entry = entry?;
            reproduce(entry.path(), &to.join(entry.file_name()), links)?;
        }
        return Ok(());
    }
    if links && std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to)?;
    restrict(to, if links { 0o644 } else { 0o666 })
}

/// MLServer knows a model by the name in its settings; what else a model brings along there is kept.
fn write_settings(show: &Show, folder: &Utf8Path) -> io::Result<()> {
    let path = folder.join(MLSERVER_SETTINGS);
    let brought: Option<Value> = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut settings = brought.filter(Value::is_object).unwrap_or_else(|| json!({}));
    settings["name"] = json!(show.model);
    if settings["implementation"].is_null() {
        settings["implementation"] = json!(mlserver_class(&show.framework.to_ascii_lowercase()));
    }
    if !settings["parameters"].is_object() {
        settings["parameters"] = json!({});
    }
    if settings["parameters"]["uri"].is_null() {
        settings["parameters"]["uri"] = json!(model_uri(folder)?);
    }
    remove_file(&path)?;
    std::fs::write(&path, serde_json::to_vec_pretty(&settings)?)?;
    restrict(&path, 0o644)
}

/// The folder, when its server finds the model there by itself; else the one file that is there.
fn model_uri(folder: &Utf8Path) -> io::Result<String> {
    let entries = folder.read_dir_utf8()?.collect::<io::Result<Vec<_>>>()?;
    let names: Vec<&str> =
        entries.iter().map(|entry| entry.file_name()).filter(|name| *name != MLSERVER_SETTINGS).collect();
    Ok(match names.as_slice() {
        [one] if !MLSERVER_KNOWS.contains(one) && folder.join(one).is_file() => format!("./{one}"),
        _ => "./".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> (tempfile::TempDir, Folders) {
        let home = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(home.path()).unwrap();
        let folders = Folders { shown: root.join("shown"), beside: root.join("beside") };
        (home, folders)
    }

    fn show(home: &tempfile::TempDir, content: &str, links: bool) -> Show {
        let cached = Utf8Path::from_path(home.path()).unwrap().join(format!("cached-{content}"));
        std::fs::create_dir_all(cached.join("1")).unwrap();
        std::fs::write(cached.join("iris.joblib"), content).unwrap();
        Show { model: "m".into(), framework: "sklearn".into(), files: cached, layout: Layout::Plain, links }
    }

    fn shown(folders: &Folders) -> String {
        std::fs::read_to_string(folders.shown.join("m/iris.joblib")).unwrap_or_default()
    }

    #[test]
    fn a_model_is_shown_marked_and_taken_away() {
        let (home, folders) = folders();
        assert_eq!(folders.read().unwrap(), BTreeMap::new());
        folders.show(&show(&home, "one", true)).unwrap();
        assert_eq!(folders.read().unwrap()["m"], Held::default(), "not marked before it is loaded");
        folders.keep("m", &Mark { mark: "a".into(), memory: 7 }).unwrap();
        assert_eq!(folders.read().unwrap()["m"], Held { mark: "a".into(), memory: 7, ready: false });
        folders.remove("m").unwrap();
        assert_eq!(folders.read().unwrap(), BTreeMap::new());
        folders.remove("m").unwrap();
    }

    #[test]
    fn what_cannot_be_loaded_is_replaced_by_what_was_there() {
        let (home, folders) = folders();
        folders.show(&show(&home, "one", true)).unwrap();
        folders.keep("m", &Mark { mark: "a".into(), memory: 7 }).unwrap();
        folders.show(&show(&home, "two", true)).unwrap();
        assert_eq!(shown(&folders), "two");
        assert!(folders.put_back("m").unwrap());
        assert_eq!((shown(&folders).as_str(), folders.read().unwrap()["m"].mark.as_str()), ("one", "a"));
        let (home, folders) = self::folders();
        folders.show(&show(&home, "one", true)).unwrap();
        assert!(!folders.put_back("m").unwrap());
        assert_eq!(folders.read().unwrap(), BTreeMap::new());
    }

    #[test]
    fn a_server_that_may_write_gets_files_of_its_own() {
        for links in [true, false] {
            let (home, folders) = folders();
            folders.show(&show(&home, "one", links)).unwrap();
            std::fs::write(folders.shown.join("m/iris.joblib"), "scribble").unwrap();
            let cached = std::fs::read_to_string(home.path().join("cached-one/iris.joblib")).unwrap();
            assert_eq!(cached == "scribble", links);
        }
    }

    #[test]
    fn mlserver_is_told_name_class_and_file() {
        let (home, folders) = folders();
        let mlserver = Show { layout: Layout::MlServer, ..show(&home, "one", true) };
        std::fs::remove_dir(mlserver.files.join("1")).unwrap();
        folders.show(&mlserver).unwrap();
        let read = || -> Value {
            serde_json::from_slice(&std::fs::read(folders.shown.join("m").join(MLSERVER_SETTINGS)).unwrap()).unwrap()
        };
        let class = "mlserver_sklearn.SKLearnModel";
        assert_eq!(read(), json!({"name": "m", "implementation": class, "parameters": {"uri": "./iris.joblib"}}));
        let own = json!({"name": "other", "implementation": "mine.Model", "parameters": {"uri": "./x", "extra": 1}});
        std::fs::write(mlserver.files.join(MLSERVER_SETTINGS), own.to_string()).unwrap();
        folders.show(&mlserver).unwrap();
        let kept = json!({"name": "m", "implementation": "mine.Model", "parameters": {"uri": "./x", "extra": 1}});
        assert_eq!(read(), kept);
        let cached = std::fs::read_to_string(mlserver.files.join(MLSERVER_SETTINGS)).unwrap();
        assert_eq!(cached, own.to_string(), "the cache's own file is not written to");
    }
}
