//! The folder of manifests: every way to save a file is one change, a folder that goes away stops nothing, five hundred
//! services are fine. On imagined containers: the engine is not what is tested.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, condition, eventually_or};
use super::post;

fn daemon() -> Daemon {
    Daemon::start_with(&[], |home: &Path| {
        let config = "engine: memory\nmemory: {reserve: 0%, runtimeOverhead: 1Ki}\n";
        std::fs::write(home.join("config.yaml"), config).expect("a config");
    })
}

fn service(name: &str, mark: &str) -> String {
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"containers": [{
            "name": "kserve-container", "image": "imagined:1", "args": [format!("--model_name={name}")],
            "env": [{"name": "PROTOCOL", "value": "v1"}, {"name": "MARK", "value": mark}],
        }]}},
    })
    .to_string()
}

fn generation(daemon: &Daemon, name: &str) -> i64 {
    daemon.object(name).and_then(|object| object["metadata"]["generation"].as_i64()).unwrap_or_default()
}

/// A way to save a file, in words and done with a text.
type Way<'a> = (&'a str, &'a dyn Fn(&str));

#[test]
fn every_way_of_saving_a_file_is_one_change() {
    let daemon = daemon();
    let path = daemon.service_file("iris.json");
    daemon.drop_file("iris.json", &service("iris", "0"));
    daemon.wait_ready("iris");
    assert_eq!(generation(&daemon, "iris"), 1);
    let beside = path.with_extension("json~");
    let ways: [Way<'_>; 6] = [
        ("written over", &|text| std::fs::write(&path, text).expect("written")),
        ("renamed over", &|text| {
            std::fs::write(&beside, text).expect("written");
            std::fs::rename(&beside, &path).expect("renamed");
        }),
        ("moved away and written anew, as vim does", &|text| {
            std::fs::rename(&path, &beside).expect("moved");
            std::fs::write(&path, text).expect("written");
            std::fs::remove_file(&beside).expect("removed");
        }),
        ("removed and written anew", &|text| {
            std::fs::remove_file(&path).expect("removed");
            std::fs::write(&path, text).expect("written");
        }),
        ("written in pieces", &|text| {
            use std::io::Write;
            let mut file = std::fs::File::create(&path).expect("made");
            for piece in text.as_bytes().chunks(64) {
                file.write_all(piece).expect("written");
                file.flush().expect("flushed");
                std::thread::sleep(Duration::from_millis(2));
            }
        }),
        ("a link led elsewhere", &|text| {
            let target = daemon.home().join("elsewhere.json");
            std::fs::write(&target, text).expect("written");
            let link = path.with_extension("link");
            std::os::unix::fs::symlink(&target, &link).expect("linked");
            std::fs::rename(&link, &path).expect("renamed");
        }),
    ];
    for (number, (way, save)) in (1_i64..).zip(ways) {
        save(&service("iris", &number.to_string()));
        eventually_or(
            &format!("{way} is noticed"),
            || daemon.log(),
            || (generation(&daemon, "iris") > number).then_some(()),
        );
        daemon.wait_ready("iris");
        assert_eq!(generation(&daemon, "iris"), number + 1, "{way} is one change\n{}", daemon.log());
        let object = daemon.object("iris").expect("the object");
        let created = &object["status"]["components"]["predictor"]["latestCreatedRevision"];
        assert_eq!(created, &json!(format!("iris-predictor-{:05}", number + 1)), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_goes_away_stops_nothing_and_is_caught_up_with_when_it_is_back() {
    let daemon = daemon();
    for name in ["one", "two"] {
        daemon.drop_file(&format!("{name}.json"), &service(name, "0"));
        daemon.wait_ready(name);
    }
    let (folder, away) = (daemon.home().join("services"), daemon.home().join("services.away"));
    std::fs::rename(&folder, &away).expect("moved");
    let ask = async |name: &str| {
        post(&daemon.url(&format!("/v1/models/{name}:predict")), None, &json!({"instances": [[1]]})).await.0
    };
    // Long enough for every look at the folder, by event and by the clock.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert_eq!((ask("one").await, ask("two").await), (200, 200), "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // What changed meanwhile is taken up when it is back.
    std::fs::remove_file(away.join("two.json")).expect("removed");
    std::fs::write(away.join("three.json"), service("three", "0")).expect("written");
    std::fs::rename(&away, &folder).expect("moved back");
    daemon.wait_ready("three");
    eventually_or("the second is gone", || daemon.log(), || daemon.object("two").is_none().then_some(()));
    assert_eq!((ask("one").await, ask("two").await, ask("three").await), (200, 404, 200));
    // The watcher still watches.
    daemon.drop_file("four.json", &service("four", "0"));
    daemon.wait_ready("four");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_services_are_planned_served_and_edited() {
    let count = 500;
    let daemon = Daemon::start_with(&[], |home: &Path| {
        let config = "engine: memory\nmemory: {reserve: 0%, runtimeOverhead: 1Ki}\n";
        std::fs::write(home.join("config.yaml"), config).expect("a config");
        std::fs::create_dir_all(home.join("services")).expect("a folder");
        for number in 0..count {
            let name = format!("s{number}");
            std::fs::write(home.join(format!("services/{name}.json")), service(&name, "0")).expect("written");
        }
    });
    let ready = || {
        let list: Value = serde_json::from_str(&daemon.cli_ok(&["get", "isvc", "-o", "json"])).unwrap_or_default();
        let is_ready = |object: &&Value| condition(object, "Ready").is_some_and(|ready| ready["status"] == "True");
        list["items"].as_array().map_or(0, |items| items.iter().filter(is_ready).count())
    };
    eventually_or(
        "all are ready",
        || format!("{} are\n{}", ready(), daemon.log()),
        || (ready() == count).then_some(()),
    );
    for number in [0, 250, 499] {
        let url = daemon.url(&format!("/v1/models/s{number}:predict"));
        assert_eq!(post(&url, None, &json!({"instances": [[1]]})).await.0, 200);
    }
    let begun = Instant::now();
    daemon.drop_file("s7.json", &service("s7", "1"));
    eventually_or(
        "an edit is served",
        || daemon.log(),
        || {
            let object = daemon.object("s7")?;
            let rolled_out = &object["status"]["components"]["predictor"]["latestRolledoutRevision"];
            (rolled_out == "s7-predictor-00002").then_some(())
        },
    );
    println!("one edit among {count}: served after {:?}", begun.elapsed());
}
