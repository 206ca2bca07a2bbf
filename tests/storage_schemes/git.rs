//! `https://….git` against git's own server.

use super::Bench;
use super::stores::files;
use super::stores::git::GitServer;

#[tokio::test]
async fn a_repository_is_fetched_at_a_branch_a_tag_or_a_commit() {
    let server = GitServer::start().await;
    let script = "echo one >model.bin && mkdir 1 && echo w >1/weights && ln -s ../model.bin 1/link && git add . && git commit -qm 1 \
         && git tag v1 && echo two >model.bin && git commit -qam 2 && git branch next && echo three >model.bin && git commit -qam 3";
    server.repository("iris", script);
    server.repository("private", "echo p >m && git add . && git commit -qm 1");
    server.repository(
        "pointers",
        "printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:0\\n' >m.bin && git add . && git commit -qm 1",
    );
    server.repository("outside", "ln -s /etc/passwd m && git add . && git commit -qm 1");
    let authority = server.authority.to_str().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap();
    let environment = [("SSL_CERT_FILE", authority.as_str()), ("PATH", path.as_str()), ("HOME", "/nonexistent")];
    let bench = Bench::new(&environment);
    let url = server.url("iris");
    let expected = |content: &str| {
        files(&[("model.bin", content.as_bytes()), ("1/weights", b"w\n"), ("1/link", content.as_bytes())])
    };
    assert_eq!(bench.files(&url).await, expected("three\n"), "no .git, links are files");
    assert_eq!(bench.files(&format!("{url}#v1")).await, expected("one\n"));
    assert_eq!(bench.files(&format!("{url}#next")).await, expected("two\n"));
    let commit = server.head("iris", "next");
    assert_eq!(bench.files(&format!("{url}#{commit}")).await, expected("two\n"));

    let place = server.address;
    let table = [
        (format!("{url}#v9"), format!("Git resource '{place}/iris.git' has no branch, tag or commit 'v9'.")),
        (server.url("gone"), "not found".to_owned()),
        (server.url("private"), format!("Git authentication failed. Check the credentials for '{place}/private.git'")),
        (server.url("pointers"), "large-file storage; install git-lfs".to_owned()),
        (server.url("outside"), "`m` of the git repository is a link that leads out of it".to_owned()),
    ];
    for (uri, cause) in table {
        // Where git-lfs is installed it is the one that says what is wrong with the pointer.
        if uri.contains("pointers") && std::process::Command::new("git-lfs").arg("version").output().is_ok() {
            continue;
        }
        let said = bench.refused(&uri).await;
        assert!(
            said.contains(&cause.replace(&format!("{place}"), "127.0.0.1")) || said.contains(&cause),
            "{uri}: {said}"
        );
    }
    let mut known = environment.to_vec();
    known.extend([("GIT_USERNAME", "me"), ("GIT_PASSWORD", "hush-hush")]);
    assert_eq!(Bench::new(&known).files(&server.url("private")).await, files(&[("m", b"p\n")]));
    let with_user = server.url("private").replace("https://", "https://me@");
    assert_eq!(Bench::new(&known).files(&with_user).await, files(&[("m", b"p\n")]));
}
