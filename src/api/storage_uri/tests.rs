use super::*;

fn described(text: &str) -> String {
    match StorageUri::parse(text) {
        Ok(StorageUri::S3 { bucket, path }) => format!("s3 {bucket} | {path}"),
        Ok(StorageUri::Gs { bucket, path }) => format!("gs {bucket} | {path}"),
        Ok(StorageUri::Http(url)) => format!("http {url}"),
        Ok(StorageUri::Local(path)) => format!("local {path}"),
        Ok(StorageUri::Pvc { claim, path }) => format!("pvc {claim} | {path}"),
        Ok(StorageUri::AzureBlob(url)) => format!("azure blob {url}"),
        Ok(StorageUri::AzureFile(url)) => format!("azure file {url}"),
        Ok(StorageUri::HuggingFace { repository, revision }) => format!("hf {repository} {revision:?}"),
        Ok(StorageUri::ModelScope { repository, revision }) => format!("modelscope {repository} {revision:?}"),
        Ok(StorageUri::Git(url)) => format!("git {url}"),
        Ok(StorageUri::Hdfs(path)) => format!("hdfs {path}"),
        Ok(StorageUri::Oci { reference, mode }) => format!("oci {mode:?} {reference}"),
        Ok(StorageUri::At { .. } | StorageUri::By { .. } | StorageUri::Part { .. } | StorageUri::Version { .. }) => {
            unreachable!("it is not written in a URI")
        }
        Err(StorageUriError::UnknownScheme(_)) => "unknown scheme".to_owned(),
        Err(StorageUriError::Malformed { problem, .. }) => format!("malformed: {problem}"),
    }
}

#[test]
fn every_form_of_a_storage_uri_is_understood_as_upstream_does() {
    let table = [
        ("s3://bucket/a/model", "s3 bucket | a/model"),
        ("s3://bucket", "s3 bucket | "),
        ("s3://bucket//a//b/", "s3 bucket | a//b/"),
        ("s3://bucket/a%20b?c#d", "s3 bucket | a%20b?c#d"),
        ("s3://My_Bucket.x/ä 1", "s3 My_Bucket.x | ä 1"),
        ("gs://kfserving-examples/models/sklearn/1.0/model", "gs kfserving-examples | models/sklearn/1.0/model"),
        ("https://host/a/model.joblib", "http https://host/a/model.joblib"),
        ("http://127.0.0.1:9000/m.tar.gz?sig=1", "http http://127.0.0.1:9000/m.tar.gz?sig=1"),
        ("http://[::1]:9000/m", "http http://[::1]:9000/m"),
        ("https://raw.githubusercontent.com/o/r/m.joblib", "http https://raw.githubusercontent.com/o/r/m.joblib"),
        ("https://me.github.io/m.onnx", "http https://me.github.io/m.onnx"),
        ("https://host/owner/repo.git", "git https://host/owner/repo.git"),
        ("https://host/repo.git#release/v1.0", "git https://host/repo.git#release/v1.0"),
        ("https://me@host/owner/repo.git", "git https://me@host/owner/repo.git"),
        ("https://acct.blob.core.windows.net/c/p", "azure blob https://acct.blob.core.windows.net/c/p"),
        ("abfs://c@acct.dfs.core.windows.net/a/b/", "azure blob https://acct.blob.core.windows.net/c/a/b"),
        ("abfss://c@acct.dfs.core.windows.net/p", "azure blob https://acct.blob.core.windows.net/c/p"),
        ("https://acct.blob.core.windows.net/c/p?sv=1", "azure blob https://acct.blob.core.windows.net/c/p?sv=1"),
        ("https://acct.z12.blob.storage.azure.net/c/p", "azure blob https://acct.z12.blob.storage.azure.net/c/p"),
        ("https://acct.file.core.windows.net/s/p", "azure file https://acct.file.core.windows.net/s/p"),
        ("https://acct.z1.file.storage.azure.net/s/p", "azure file https://acct.z1.file.storage.azure.net/s/p"),
        ("file:///srv/model", "local /srv/model"),
        ("file://srv/model/", "local srv/model"),
        ("/srv//model/./x/", "local /srv/model/x"),
        ("/", "local /"),
        ("./models/iris", "local models/iris"),
        ("models/iris.joblib", "local models/iris.joblib"),
        ("C:model", "local C:model"),
        ("://x", "local :/x"),
        ("pvc://claim", "pvc claim | "),
        ("pvc://claim/", "pvc claim | "),
        ("pvc://my.claim-1//a/./b/", "pvc my.claim-1 | a/b"),
        ("hf://owner/model", "hf owner/model None"),
        ("hf://owner/model:refs/pr/1", "hf owner/model Some(\"refs/pr/1\")"),
        ("hf://owner/model:main", "hf owner/model Some(\"main\")"),
        ("modelscope://owner/model", "modelscope owner/model None"),
        ("ms://owner/model:v1", "modelscope owner/model Some(\"v1\")"),
        ("oci://reg/image:1", "oci Image reg/image:1"),
        ("oci://localhost:5000/a/b", "oci Image localhost:5000/a/b"),
        ("oci+native://reg/image", "oci Native reg/image"),
        ("oci+fetch://reg.example.com/image", "oci Fetch reg.example.com/image"),
        ("hdfs://nn/path", "hdfs nn/path"),
        ("hdfs:///user/models//iris/", "hdfs user/models/iris"),
        ("webhdfs://nn:9870/path", "hdfs nn:9870/path"),
    ];
    for (text, meaning) in table {
        assert_eq!(described(text), meaning, "{text}");
    }
}

#[test]
fn every_malformed_storage_uri_says_what_is_wrong() {
    let hf = |text: &str| {
        format!("malformed: Invalid Hugging Face URI format. Expected 'hf://owner/model[:revision]', got '{text}'")
    };
    let oci = |text: &str| {
        format!("malformed: `{text}` is no reference of an image: [registry/]name[:tag][@digest], in lower case")
    };
    let azure = || "malformed: expected https://account.…/container/path: it names nothing in a container".to_owned();
    let table = [
        ("", "malformed: it names no path".to_owned()),
        ("file://", "malformed: it names no path".to_owned()),
        ("s3://", "malformed: it names no bucket".to_owned()),
        ("gs:///path", "malformed: it names no bucket".to_owned()),
        ("s3://${bucket}/m", "malformed: `${bucket}` is no bucket name".to_owned()),
        ("s3://a:b@c/m", "malformed: `a:b@c` is no bucket name".to_owned()),
        ("s3://../m", "malformed: `..` is no bucket name".to_owned()),
        (" s3://b/m", "malformed: it begins or ends with a space".to_owned()),
        ("s3://b/m\n", "malformed: it holds a control character".to_owned()),
        ("s3://b/a\0", "malformed: it holds a control character".to_owned()),
        ("https://", "malformed: No filename contained in URI".to_owned()),
        ("https://host", "malformed: No filename contained in URI".to_owned()),
        ("https://host/", "malformed: No filename contained in URI".to_owned()),
        ("https://host/a/?q=m.joblib", "malformed: No filename contained in URI".to_owned()),
        ("https:///m.joblib", "malformed: No filename contained in URI".to_owned()),
        ("https://host/a/..", "malformed: No filename contained in URI".to_owned()),
        ("http://ho st/m", "malformed: invalid international domain name".to_owned()),
        ("http://host:99999/m", "malformed: invalid port number".to_owned()),
        ("pvc://", "malformed: it names no claim".to_owned()),
        ("pvc:///x", "malformed: it names no claim".to_owned()),
        ("pvc://Claim/x", "malformed: `Claim` is no name of a PersistentVolumeClaim".to_owned()),
        ("pvc://claim/a/../../x", "malformed: its path leaves the claim".to_owned()),
        ("oci://", "malformed: it names nothing".to_owned()),
        ("oci://reg.io/Image:1", oci("reg.io/Image:1")),
        ("oci://reg.io//image", oci("reg.io//image")),
        ("oci://../image", oci("../image")),
        ("oci://image:", "malformed: `` is no tag of an image".to_owned()),
        ("oci://image@sha256:12", "malformed: `sha256:12` is no digest: sha256: and 64 hex digits".to_owned()),
        ("hdfs://", "malformed: it names nothing".to_owned()),
        ("webhdfs:///", "malformed: it names nothing".to_owned()),
        ("hdfs://a/../b", "malformed: its path has a `..`".to_owned()),
        ("https://acct.blob.core.windows.net/c", azure()),
        ("https://acct.blob.core.windows.net/c/", azure()),
        ("https://acct.file.core.windows.net//p", azure()),
        ("https://host/repo.git?x=1", "malformed: a git repository's URL has no query".to_owned()),
        ("https://host/repo.git#-x", "malformed: `-x` is no branch, tag or commit".to_owned()),
        ("https://host/repo.git#a..b", "malformed: `a..b` is no branch, tag or commit".to_owned()),
        ("hf://model", hf("hf://model")),
        ("hf://owner/model/sub", hf("hf://owner/model/sub")),
        ("hf:///model", hf("hf:///model")),
        ("hf://owner/model:", hf("hf://owner/model:")),
        ("hf://owner/model:../x", hf("hf://owner/model:../x")),
        ("hf://owner/..", hf("hf://owner/..")),
        ("hf://owner/mo del", hf("hf://owner/mo del")),
        ("hf://owner/model?x", hf("hf://owner/model?x")),
        ("http://acct.blob.core.windows.net/c/p", "unknown scheme".to_owned()),
        ("https://acct.blob.core.windows.net", "unknown scheme".to_owned()),
        ("S3://bucket/m", "unknown scheme".to_owned()),
        ("ftp://host/m", "unknown scheme".to_owned()),
        ("git://host/m", "unknown scheme".to_owned()),
        (
            "ms://model",
            "malformed: Invalid ModelScope URI format. Expected 'ms://owner/model[:revision]', got 'ms://model'"
                .to_owned(),
        ),
        ("abfs://c/m", "malformed: expected abfs[s]://container@account.dfs.core.windows.net/path".to_owned()),
        ("oci+modelcar://i", "unknown scheme".to_owned()),
        ("a/b s3://c", "unknown scheme".to_owned()),
    ];
    for (text, meaning) in table {
        assert_eq!(described(text), meaning, "{text:?}");
    }
}

#[test]
fn what_is_printed_parses_to_the_same_again() {
    for text in [
        "s3://b/a b/c",
        "gs://b",
        "https://h/f?x=1",
        "/a/b",
        "pvc://c/d",
        "hf://o/m:r",
        "oci+fetch://i:1",
        "ms://o/m",
        "hdfs://a/b",
        "abfs://c@a.dfs.core.windows.net/p",
        "https://h/r.git#v1",
    ] {
        let uri = StorageUri::parse(text).unwrap();
        assert_eq!(StorageUri::parse(&uri.to_string()).as_ref(), Ok(&uri), "{text}");
    }
}

#[test]
fn messages_hold_no_passwords_and_no_signatures() {
    let uri = StorageUri::parse("https://user:secret@host:81/a/m.zip?X-Signature=secret#x").unwrap();
    assert_eq!(uri.redacted(), "https://host:81/a/m.zip?…");
    let error = StorageUri::parse("https://user:secret@host/?secret").unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn every_scheme_that_is_named_is_known() {
    let unknown = StorageUri::SCHEMES.into_iter().filter(|scheme| forms::by_scheme(scheme, "", "").is_none());
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(StorageUri::SCHEMES.is_sorted());
}
