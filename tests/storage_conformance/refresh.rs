//! Whether a source has something new: asked conditionally over HTTP, by listing elsewhere.

use kserve_local::storage::{Checked, PullConfig, PullError, Puller};
use kserve_local::workload::Access;
use tokio_util::sync::CancellationToken;

use super::{ALL, BUCKETS, Bench, Fault, Kind, Object, pull, puller, told, tree};

impl Bench {
    async fn check(&self, puller: &Puller, key: &str) -> Result<Checked, PullError> {
        puller.check(&self.uri(key), &Access::default(), CancellationToken::new()).await
    }
}

#[tokio::test]
async fn something_new_is_noticed_and_becomes_a_version_beside_the_old_one() {
    for kind in ALL {
        let bench = Bench::new(kind).await;
        bench.put("m.joblib", Object::new("first"));
        assert_eq!(bench.check(&bench.puller, "m.joblib").await.unwrap(), Checked::NotHere, "{kind:?}");
        let first = bench.pull("m.joblib").await.unwrap();
        // Also by a daemon that has not fetched it itself.
        for puller in [&bench.puller, &bench.restarted()] {
            assert_eq!(bench.check(puller, "m.joblib").await.unwrap(), Checked::Same, "{kind:?}");
        }
        bench.put("m.joblib", Object::new("other"));
        let Checked::Changed(version) = bench.check(&bench.puller, "m.joblib").await.unwrap() else {
            panic!("{kind:?}: nothing was noticed");
        };
        let newer = bench.uri("m.joblib").with_version(version);
        let second = pull(&bench.puller, &newer).await.unwrap_or_else(|error| panic!("{kind:?}: {}", told(&error)));
        assert_eq!(tree(&second.path)["m.joblib"], b"other", "{kind:?}");
        assert_eq!(tree(&first.path)["m.joblib"], b"first", "{kind:?}: who reads the old one still has it");
        let again = bench.puller.check(&newer, &Access::default(), CancellationToken::new()).await;
        assert_eq!(again.unwrap(), Checked::Same, "{kind:?}");
        bench.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_web_server_is_asked_with_what_it_said_and_sends_nothing_when_it_is_the_same() {
    let bench = Bench::new(Kind::Http).await;
    let silent = |modified| Object { etag: None, modified, ..Object::new("silent") };
    bench.put("with-etag.bin", Object::new("12345"));
    bench.put("with-time.bin", silent("Mon, 02 Nov 2026 10:00:00 GMT"));
    for (key, header) in [("with-etag.bin", "if-none-match"), ("with-time.bin", "if-modified-since")] {
        bench.pull(key).await.unwrap();
        bench.origin.forget();
        assert_eq!(bench.check(&bench.puller, key).await.unwrap(), Checked::Same, "{key}");
        let seen = bench.origin.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0].header(header).is_some(), "{seen:?}");
    }
    bench.put("with-time.bin", silent("Tue, 03 Nov 2026 10:00:00 GMT"));
    let checked = bench.check(&bench.puller, "with-time.bin").await.unwrap();
    assert!(matches!(checked, Checked::Changed(_)), "{checked:?}");
}

#[tokio::test]
async fn every_file_of_a_folder_counts() {
    for kind in BUCKETS {
        let bench = Bench::new(kind).await;
        bench.put("m/a", Object::new("a"));
        bench.put("m/b", Object::new("b"));
        bench.pull("m").await.unwrap();
        assert_eq!(bench.check(&bench.puller, "m").await.unwrap(), Checked::Same, "{kind:?}");
        bench.put("m/c", Object::new("c"));
        let one_more = bench.check(&bench.puller, "m").await.unwrap();
        bench.put("m/b", Object::new("B"));
        let another = bench.check(&bench.puller, "m").await.unwrap();
        assert!(matches!(&one_more, Checked::Changed(_)), "{kind:?}");
        assert!(matches!(&another, Checked::Changed(_)) && another != one_more, "{kind:?}");
    }
}

#[tokio::test]
async fn a_source_that_is_away_and_offline_mode_are_told_and_change_nothing() {
    let bench = Bench::new(Kind::S3).await;
    bench.put("m/a", Object::new("a"));
    let model = bench.pull("m").await.unwrap();
    bench.origin.faults("/bucket", 0, 100, Fault::Status(503, "busy"));
    bench.origin.faults("/bucket/m", 0, 100, Fault::Status(503, "busy"));
    let error = bench.check(&bench.puller, "m").await.unwrap_err();
    assert!(error.is_transient(), "{}", told(&error));
    let offline = puller(bench.folder.path(), &bench.origin, PullConfig { offline: true, ..PullConfig::default() });
    assert!(matches!(bench.check(&offline, "m").await, Err(PullError::Offline { .. })));
    assert_eq!(tree(&model.path)["a"], b"a");
    bench.assert_nothing_left();
}
