//! ModelScope, HDFS and Azure file shares, against servers that speak their APIs.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::stores::{files, hdfs, scope, share};
use super::{Bench, told, weights};

#[tokio::test]
async fn a_repository_of_modelscope_is_fetched_with_stated_digests() {
    let big = weights(200_000, 3);
    let master = files(&[("config.json", b"{}"), ("onnx/a b.onnx", &big)]);
    let hub = scope::start(BTreeMap::from([("master", master.clone()), ("v1", files(&[("x", b"1")]))])).await;
    let url = hub.url();
    let bench = Bench::new(&[("MODELSCOPE_ENDPOINT", &url), ("MODELSCOPE_API_TOKEN", "hush-hush")]);
    assert_eq!(bench.files("modelscope://owner/model").await, master);
    assert_eq!(bench.files("ms://owner/model:v1").await, files(&[("x", b"1")]));
    assert_eq!(bench.files("ms://private/model").await, master);
    let nobody = Bench::new(&[("MODELSCOPE_ENDPOINT", &url)]);
    let table = [
        ("modelscope://owner/gone", "ModelScope resource 'owner/gone:master' not found: model not exists"),
        ("modelscope://owner/model:v9", "ModelScope resource 'owner/model:v9' not found: revision not exists"),
        ("modelscope://private/model", "Access denied to ModelScope resource 'private/model:master'."),
    ];
    for (uri, cause) in table {
        let said = nobody.refused(uri).await;
        assert!(said.contains(cause), "{uri}: {said}");
    }
}

#[tokio::test]
async fn a_file_of_hdfs_that_changes_while_it_is_read_is_no_model() {
    let cluster = hdfs::Cluster::start(files(&[("m/a", &weights(200_000, 4)), ("m/b", b"b")])).await;
    let url = cluster.active.url();
    let bench = Bench::new(&[("HDFS_NAMENODE", &url)]);
    cluster.time.step.store(1, std::sync::atomic::Ordering::SeqCst);
    let changed = bench.pull("hdfs://m").await.unwrap_err();
    assert!(changed.is_transient() && told(&changed).contains("changed at the source while it was read"), "{changed}");
    cluster.time.step.store(0, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(bench.files("hdfs://m").await.len(), 2);
}

#[tokio::test]
async fn files_of_hdfs_come_from_the_data_node_the_active_name_node_points_to() {
    let big = weights(200_000, 4);
    let cluster = hdfs::Cluster::start(files(&[
        ("user/iris/1/model a.bin", &big),
        ("user/iris/empty", b""),
        ("user/iris2/other", b"o"),
        ("secret/m", b"s"),
    ]))
    .await;
    let nodes = format!("{};{}", cluster.standby.url(), cluster.active.url());
    let bench = Bench::new(&[("HDFS_NAMENODE", &nodes), ("HADOOP_USER_NAME", "hdfs")]);
    let expected = files(&[("1/model a.bin", &big), ("empty", b"")]);
    assert_eq!(bench.files("hdfs://user/iris").await, expected);
    assert_eq!(bench.files("webhdfs:///user/iris/1/model a.bin").await, files(&[("model a.bin", &big)]));
    assert_eq!(bench.files("hdfs://secret/m").await, files(&[("m", b"s")]));
    assert!(!cluster.standby.seen().is_empty() && cluster.data.seen().len() >= 4);

    let active = cluster.active.url();
    let plain = Bench::new(&[]);
    let named = format!("webhdfs://{}/user/iris", cluster.active.address);
    assert_eq!(plain.files(&named).await, expected);
    assert!(
        plain.refused("hdfs://user/iris").await.contains("HDFS_NAMENODE is neither in a Secret nor in the environment")
    );
    let nobody = Bench::new(&[("HDFS_NAMENODE", &active)]);
    assert!(nobody.refused("hdfs://secret/m").await.contains("Access denied to HDFS resource '/secret/m'."));
    assert!(nobody.refused("hdfs://gone").await.contains("HDFS resource '/gone' not found."));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("HDFS_NAMENODE"), &active).unwrap();
    std::fs::write(folder.path().join("HDFS_ROOTPATH"), "/user").unwrap();
    let secret = folder.path().to_str().unwrap();
    assert_eq!(Bench::new(&[("HDFS_SECRET_DIR", secret)]).files("hdfs://iris").await, expected);
    std::fs::write(folder.path().join("KERBEROS_PRINCIPAL"), "me@REALM").unwrap();
    let kerberos = Bench::new(&[("HDFS_SECRET_DIR", secret)]).refused("hdfs://iris").await;
    assert!(kerberos.contains("Kerberos is not spoken here"), "{kerberos}");
}

#[tokio::test]
async fn a_file_share_is_read_with_the_accounts_key_or_a_signature() {
    let big = weights(200_000, 5);
    let server =
        share::start(files(&[("models/iris/1/a b.bin", &big), ("models/iris/config", b"c"), ("one.bin", b"1")])).await;
    let (url, key) = (server.url(), STANDARD.encode(share::KEY));
    let bench = Bench::new(&[("AZURE_STORAGE_FILE_ENDPOINT", &url), ("AZURE_STORAGE_ACCESS_KEY", &key)]);
    let place = "https://acct.file.core.windows.net/box";
    // As upstream, the path within the share stays.
    let expected = files(&[("models/iris/1/a b.bin", &big), ("models/iris/config", b"c")]);
    assert_eq!(bench.files(&format!("{place}/models/iris")).await, expected);
    assert_eq!(bench.files(&format!("{place}/one.bin")).await, files(&[("one.bin", b"1")]));
    assert!(bench.refused(&format!("{place}/gone")).await.contains("No model found in box/gone."));

    let nobody = Bench::new(&[("AZURE_STORAGE_FILE_ENDPOINT", &url)]);
    assert_eq!(nobody.files(&format!("{place}/models/iris?sig=good")).await, expected);
    let said = nobody.refused(&format!("{place}/models/iris?sig=hush")).await;
    assert!(said.contains("Access denied to Azure resource 'box/models/iris'."), "{said}");
}
