//! Stores that nobody here wrote. They run when `KSERVE_LOCAL_TEST_EMULATORS` is set and they are on the path;
//! `tests/run` sees to both where it can.

use std::time::Duration;

use super::stores::files;
use super::{Bench, weights};

/// Azurite's account and key, which everybody knows.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Says why a test did not run, on the console and in the file that collects such lines.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED: {test}: {reason}");
    println!("{line}");
    if let Ok(path) = std::env::var("KSERVE_LOCAL_TEST_SKIPS") {
        let file = std::fs::File::options().append(true).create(true).open(path);
        std::io::Write::write_all(&mut file.unwrap(), format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Starts an emulator on a free port, which stands in the arguments as `PORT`, and waits until it answers.
pub(crate) async fn emulator(test: &str, program: &str, arguments: &[&str]) -> Option<(tokio::process::Child, u16)> {
    if std::env::var("KSERVE_LOCAL_TEST_EMULATORS").is_err() {
        skip(test, "KSERVE_LOCAL_TEST_EMULATORS is not set");
        return None;
    }
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let arguments = arguments.iter().map(|argument| argument.replace("PORT", &port.to_string()));
    let mut command = tokio::process::Command::new(program);
    let silent = command.args(arguments).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let Ok(child) = silent.kill_on_drop(true).spawn() else {
        skip(test, &format!("{program} is not on the path"));
        return None;
    };
    for _ in 0..1200 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return Some((child, port));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{program} does not answer");
}

#[tokio::test]
async fn azure_blobs_work_against_azurite() {
    let test = "azure_blobs_work_against_azurite";
    let folder = tempfile::tempdir().unwrap();
    let location = folder.path().to_str().unwrap();
    let arguments =
        ["--blobHost", "127.0.0.1", "--blobPort", "PORT", "--location", location, "--silent", "--skipApiVersionCheck"];
    let Some((_child, port)) = emulator(test, "azurite-blob", &arguments).await else { return };
    let big = weights(20 * (64 << 10) + 5, 31);
    let endpoint = format!("http://127.0.0.1:{port}/{ACCOUNT}");
    let connection = format!("AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint}");
    fill(&endpoint, &big).await;
    let bench = Bench::new(&[("AZURE_STORAGE_CONNECTION_STRING", &connection)]);
    let place = format!("https://{ACCOUNT}.blob.core.windows.net/box");
    let expected = files(&[("1/weights a.bin", &big), ("__init__.py", b""), ("config", b"c")]);
    assert_eq!(bench.files(&format!("{place}/m")).await, expected);
    assert_eq!(bench.files(&format!("{place}/m/")).await, expected);
    let one = bench.files(&format!("{place}/m/1/weights%20a.bin")).await;
    assert_eq!(one, files(&[("weights a.bin", &big)]));
    let by_hadoops_name = format!("abfss://box@{ACCOUNT}.dfs.core.windows.net/m");
    assert_eq!(bench.files(&by_hadoops_name).await, expected);
    assert!(bench.refused(&format!("{place}/gone")).await.contains("No model found in"));
    let nowhere = bench.refused(&place.replace("/box", "/nowhere/m")).await;
    assert!(nowhere.contains("Azure bucket 'nowhere' does not exist."), "{nowhere}");
    // An endpoint without a key: a private container is refused, and with a wrong key too.
    let nobody = Bench::new(&[("AZURE_STORAGE_BLOB_ENDPOINT", &endpoint)]);
    let said = nobody.refused(&format!("{place}/m")).await;
    assert!(said.contains("Azure"), "{said}");
    let wrong = connection.replace(KEY, "aHVzaC1odXNo");
    let said = Bench::new(&[("AZURE_STORAGE_CONNECTION_STRING", &wrong)]).refused(&format!("{place}/m")).await;
    assert!(said.contains("Azure authentication failed.") || said.contains("Access denied to Azure"), "{said}");
}

/// Puts blobs there with the account's key.
async fn fill(endpoint: &str, big: &[u8]) {
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::{ObjectStoreExt, PutPayload};
    let client = reqwest::Client::new();
    #[expect(clippy::disallowed_methods, reason = "a signature has the time of its request")]
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let text = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}/{ACCOUNT}/box\nrestype:container"
    );
    let signature = super::stores::share::signature(KEY, &text);
    let made = client
        .put(format!("{endpoint}/box?restype=container"))
        .header("x-ms-date", date)
        .header("x-ms-version", "2021-08-06")
        .header("authorization", format!("SharedKey {ACCOUNT}:{signature}"));
    made.send().await.unwrap().error_for_status().unwrap();
    let store = MicrosoftAzureBuilder::new()
        .with_account(ACCOUNT)
        .with_access_key(KEY)
        .with_container_name("box")
        .with_endpoint(endpoint.to_owned())
        .with_allow_http(true)
        .build()
        .unwrap();
    let blobs: [(&str, &[u8]); 4] =
        [("m/1/weights a.bin", big), ("m/__init__.py", b""), ("m/config", b"c"), ("m2/neighbour", b"n")];
    for (name, body) in blobs {
        store.put(&object_store::path::Path::from(name), PutPayload::from(body.to_vec())).await.unwrap();
    }
}
