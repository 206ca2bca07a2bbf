//! ServiceAccounts, Secrets and the `storage` block: what they give, and that downloads use it.

use std::collections::BTreeMap;

use kserve_local::api::Kind;
use kserve_local::manifest;
use kserve_local::runtimes::Catalog;
use kserve_local::workload::{Access, Companions, ModelRef, ResolveError, Workload, WorkloadConfig, resolve};

use super::stores::files;
use super::stores::hub::{Hub, Repositories};
use super::{Bench, tree};

const ACCOUNT: &str =
    "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: sa}\nsecrets: [{name: first}, {name: second}]\n";

fn service(model: &str, more: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: iris, annotations: {{{more}}}}}\nspec: {{predictor: {{serviceAccountName: sa, model: {{modelFormat: {{name: sklearn}}, {model}}}}}}}\n"
    )
}

fn secret(name: &str, annotations: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nstringData: {{{data}}}\n"
    )
}

fn resolved(documents: &[String]) -> Result<Workload, ResolveError> {
    let decoded = manifest::decode("test.yaml", &documents.join("---\n"));
    assert!(decoded.failed.is_empty(), "{:#?}", decoded.diagnostics);
    let objects: Vec<_> = decoded.objects.into_iter().map(|decoded| decoded.object).collect();
    let service = objects.iter().find(|object| object.key.kind == Kind::InferenceService).unwrap();
    let config = WorkloadConfig::default();
    Ok(resolve(service, &Catalog::new(&objects), &Companions::new(&objects), &config)?.remove(0))
}

fn model(documents: &[String]) -> ModelRef {
    resolved(documents).unwrap_or_else(|error| panic!("{error}")).models.remove(0)
}

fn refusal(documents: &[String]) -> String {
    match resolved(documents) {
        Err(ResolveError::Invalid { field, message, .. }) => format!("{field}: {message}"),
        other => panic!("{other:?}"),
    }
}

fn variables(access: &Access) -> Vec<String> {
    access.variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[test]
fn each_secret_of_the_account_is_of_the_first_kind_whose_key_it_has() {
    let table = [
        ("AWS_ACCESS_KEY_ID: i, AWS_SECRET_ACCESS_KEY: s", vec!["AWS_ACCESS_KEY_ID=i", "AWS_SECRET_ACCESS_KEY=s"]),
        ("awsAccessKeyID: i, awsSecretAccessKey: s", vec!["AWS_ACCESS_KEY_ID=i", "AWS_SECRET_ACCESS_KEY=s"]),
        ("AWS_SECRET_ACCESS_KEY: s, HF_TOKEN: t", vec!["AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=s"]),
        (
            "gcloud-application-credentials.json: '{}', AZ_CLIENT_ID: c",
            vec!["GOOGLE_APPLICATION_CREDENTIALS=/var/secrets/gcloud-application-credentials.json"],
        ),
        (
            "AZ_CLIENT_ID: c, AZ_TENANT_ID: t, AZ_CLIENT_SECRET: s, AZ_SUBSCRIPTION_ID: u",
            vec!["AZURE_CLIENT_ID=c", "AZURE_CLIENT_SECRET=s", "AZURE_SUBSCRIPTION_ID=u", "AZURE_TENANT_ID=t"],
        ),
        ("AZURE_CLIENT_ID: c, AZURE_TENANT_ID: t", vec!["AZURE_CLIENT_ID=c", "AZURE_TENANT_ID=t"]),
        ("AZURE_ACCESS_TOKEN: t", vec!["AZURE_ACCESS_TOKEN=t"]),
        ("AZURE_STORAGE_ACCESS_KEY: k", vec!["AZURE_STORAGE_ACCESS_KEY=k"]),
        ("https-host: h.example.com, headers: '{}'", vec!["h.example.com-headers={}"]),
        ("https-host: h.example.com", vec![]),
        (
            "HDFS_NAMENODE: 'http://nn', USER_PROXY: u, HF_TOKEN: t",
            vec!["kserve-hdfs/HDFS_NAMENODE=http://nn", "kserve-hdfs/USER_PROXY=u"],
        ),
        ("HF_TOKEN: t, MODELSCOPE_API_TOKEN: m", vec!["HF_TOKEN=t"]),
        ("MODELSCOPE_API_TOKEN: m", vec!["MODELSCOPE_API_TOKEN=m"]),
        ("other: x", vec![]),
    ];
    for (data, expected) in table {
        let documents = [
            service("storageUri: s3://b/m", ""),
            ACCOUNT.into(),
            secret("first", "", data),
            secret("second", "", "x: other"),
        ];
        assert_eq!(variables(&model(&documents).access), expected, "{data}");
    }
    let both = [
        service("storageUri: s3://b/m", ""),
        ACCOUNT.into(),
        secret("first", "", "HF_TOKEN: t"),
        secret("second", "", "MODELSCOPE_API_TOKEN: m"),
    ];
    let access = model(&both).access;
    assert_eq!(variables(&access), ["HF_TOKEN=t", "MODELSCOPE_API_TOKEN=m"]);
    assert_eq!(access.origins, ["Secret default/first", "Secret default/second"]);
}

#[test]
fn annotations_of_a_secret_go_before_its_data() {
    let annotations = "serving.kserve.io/s3-endpoint: minio:9000, serving.kserve.io/s3-usehttps: '0', serving.kserve.io/s3-region: eu, serving.kserve.io/s3-usevirtualbucket: 'true', serving.kserve.io/s3-verifyssl: '0', serving.kserve.io/s3-cabundle-configmap: ca";
    let data = "AWS_SECRET_ACCESS_KEY: s, AWS_ACCESS_KEY_ID: i, S3_ENDPOINT: other:1, AWS_DEFAULT_REGION: us, awsAnonymousCredential: 'false'";
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca}\ndata: {cabundle.crt: PEM}\n".to_owned();
    let account = ACCOUNT.replace(", {name: second}", "");
    let documents = [service("storageUri: s3://b/m", ""), account.clone(), secret("first", annotations, data), map];
    let found = model(&documents);
    let expected = [
        "AWS_ACCESS_KEY_ID=i",
        "AWS_CA_BUNDLE=/etc/ssl/custom-certs/cabundle.crt",
        "AWS_DEFAULT_REGION=eu",
        "AWS_ENDPOINT_URL=http://minio:9000",
        "AWS_SECRET_ACCESS_KEY=s",
        "S3_USER_VIRTUAL_BUCKET=true",
        "S3_VERIFY_SSL=0",
        "awsAnonymousCredential=false",
    ];
    assert_eq!(variables(&found.access), expected);
    assert_eq!(found.access.files["/etc/ssl/custom-certs/cabundle.crt"], b"PEM");
    assert_eq!(found.uri.to_string(), "s3://b/m at http://minio:9000");
    let without_map = &documents[..3];
    assert!(refusal(without_map).contains("ConfigMap `default/ca` has no `cabundle.crt`"));
}

#[test]
fn the_annotation_of_a_service_puts_one_secret_in_place_of_the_accounts() {
    let named = service("storageUri: s3://b/m", "serving.kserve.io/storageSecretName: own");
    let documents = [named.clone(), ACCOUNT.into(), secret("own", "", "HF_TOKEN: t")];
    assert_eq!(variables(&model(&documents).access), ["HF_TOKEN=t"]);
    assert!(refusal(&[named, ACCOUNT.into()]).contains("secrets \"own\" not found"));
    let missing = refusal(&[service("storageUri: s3://b/m", ""), ACCOUNT.into()]);
    assert_eq!(missing, "ServiceAccount default/sa secrets[0]: secrets \"first\" not found in namespace `default`");
    let nobody = resolved(&[service("storageUri: s3://b/m", "")]).unwrap();
    assert!(nobody.models[0].access.is_empty());
    assert!(
        nobody.warnings.iter().any(|warning| warning.contains("there is no ServiceAccount `sa`")),
        "{:?}",
        nobody.warnings
    );
}

#[test]
fn the_storage_block_names_a_key_a_path_and_parameters() {
    let config = |data: &str| secret("storage-config", "", data);
    let minio = r#"localMinIO: '{"type": "s3", "access_key_id": "i", "secret_access_key": "s", "endpoint_url": "http://minio:9000", "bucket": "of-secret", "region": "eu"}'"#;
    type Row<'a> = (&'a str, &'a str, &'a str);
    let table: [Row<'_>; 6] = [
        ("storage: {key: localMinIO, path: a/b}", minio, "s3://of-secret/a/b at http://minio:9000"),
        (
            "storage: {key: localMinIO, path: /a/b, parameters: {bucket: own}}",
            minio,
            "s3://own/a/b at http://minio:9000",
        ),
        ("storage: {path: a, parameters: {type: s3, bucket: own}}", minio, "s3://own/a"),
        (
            "storage: {path: a}",
            r#"default: '{"type": "webhdfs", "HDFS_NAMENODE": "http://nn:9870"}'"#,
            "hdfs://a at http://nn:9870",
        ),
        (
            "storage: {path: a, parameters: {type: s3, bucket: b}}",
            r#"default_s3: '{"region": "eu", "endpoint_url": "http://x"}'"#,
            "s3://b/a at http://x",
        ),
        ("storageUri: s3://own/m, storage: {key: localMinIO}", minio, "s3://own/m at http://minio:9000"),
    ];
    for (storage, data, uri) in table {
        let found = model(&[service(storage, ""), config(data)]);
        assert_eq!(found.uri.to_string(), uri, "{storage}");
    }
    let keys = variables(&model(&[service(table[0].0, ""), config(minio)]).access);
    assert_eq!(
        keys,
        [
            "AWS_ACCESS_KEY_ID=i",
            "AWS_DEFAULT_REGION=eu",
            "AWS_ENDPOINT_URL=http://minio:9000",
            "AWS_SECRET_ACCESS_KEY=s"
        ]
    );

    let refused: [Row<'_>; 7] = [
        (
            "storage: {key: gone, path: a}",
            minio,
            "spec.predictor.model.storage.key: specified storage key gone not found in storage secret storage-config",
        ),
        ("storage: {path: a}", minio, "unable to determine storage type"),
        (
            "storage: {key: k, path: a}",
            r#"k: '{"type": "gcs"}'"#,
            "storage type must be one of [s3, hdfs, webhdfs]. storage type [gcs] is not supported",
        ),
        (
            "storage: {key: k, path: a}",
            r#"k: '{"type": "s3"}'"#,
            "format [s3] requires a bucket but one wasn't found in storage data or parameters",
        ),
        ("storage: {key: localMinIO, path: a, parameters: {type: s3}}", minio, "format [s3] requires a bucket"),
        ("storage: {key: k, path: a}", "k: 'hush'", "key `k` of Secret `storage-config` is no JSON object of strings"),
        ("storageUri: s3://b/m, storage: {path: a}", minio, "must provide only one of storageUri and storage.path"),
    ];
    for (storage, data, cause) in refused {
        let said = match manifest::decode("x.yaml", &service(storage, "")).failed.is_empty() {
            true => refusal(&[service(storage, ""), config(data)]),
            false => cause.to_owned(),
        };
        assert!(said.contains(cause) && !said.contains("hush"), "{storage}: {said}");
    }
    assert!(refusal(&[service("storage: {key: k, path: a}", "")]).contains("can't read storage secret storage-config"));
}

#[tokio::test]
async fn a_download_uses_the_secret_and_not_the_users_own_token() {
    let repositories = Repositories {
        revisions: vec![("private/model", "main", "c0ffee")],
        commits: vec![("c0ffee", files(&[("config.json", b"{}")]))],
        token: "hush-hush",
    };
    let hub = Hub::start(repositories).await;
    let bench = Bench::new(&[("HF_ENDPOINT", &hub.server.url()), ("HF_TOKEN", "hush-of-the-user")]);
    let account = ACCOUNT.replace(", {name: second}", "");
    let documents =
        [service("storageUri: hf://private/model", ""), account, secret("first", "", "HF_TOKEN: hush-hush")];
    let found = model(&documents);
    assert!(bench.refused("hf://private/model").await.contains("the token that was used has no access to it"));
    let pulled = bench.pull_with("hf://private/model", &found.access).await.unwrap();
    assert_eq!(tree(&pulled.path), BTreeMap::from([("config.json".to_owned(), b"{}".to_vec())]));
}

#[tokio::test]
async fn credentials_that_stand_for_someone_else_are_exchanged_by_gcloud_or_refused_with_the_next_step() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("adc.json");
    std::fs::write(&file, r#"{"type": "external_account", "credential_source": {"file": "hush"}}"#).unwrap();
    let bench = |path: &str| {
        Bench::new(&[("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap()), ("PATH", path), ("HOME", "/nowhere")])
    };
    let said = bench("/nowhere").refused("gs://bucket/model").await;
    assert!(said.contains("type `external_account`") && said.contains("Install the Google Cloud CLI"), "{said}");
    let gcloud = home.path().join("gcloud");
    std::fs::write(&gcloud, "#!/bin/sh\necho 'ERROR: Reauthentication is needed' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&gcloud, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = bench(&format!("{}:/usr/bin:/bin", home.path().display())).refused("gs://bucket/model").await;
    assert!(said.contains("Reauthentication is needed"), "{said}");
}
