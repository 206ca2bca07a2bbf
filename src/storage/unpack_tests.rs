//! Archives of every kind, made here in code: good ones arrive whole, hostile ones write nothing outside and are refused.

use std::io::Cursor;

use super::*;

/// One entry of a tar archive, as raw as a hostile one may be.
struct Raw<'a> {
    name: &'a [u8],
    kind: u8,
    link: &'a [u8],
    mode: u32,
    content: &'a [u8],
    /// Size in the header, when it is not the content's.
    stated: Option<u64>,
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self { name: b"f", kind: b'0', link: b"", mode: 0o644, content: b"", stated: None }
    }
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> Raw<'a> {
    Raw { name: name.as_bytes(), content, ..Raw::default() }
}

fn link<'a>(name: &'a str, kind: u8, target: &'a str) -> Raw<'a> {
    Raw { name: name.as_bytes(), kind, link: target.as_bytes(), ..Raw::default() }
}

/// Writes headers byte by byte: the library would refuse most of these.
fn tar_of(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = [0_u8; 512];
        header[..entry.name.len().min(100)].copy_from_slice(&entry.name[..entry.name.len().min(100)]);
        header[100..107].copy_from_slice(format!("{:07o}", entry.mode).as_bytes());
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        let size = entry.stated.unwrap_or(entry.content.len() as u64);
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].copy_from_slice(b"        ");
        header[156] = entry.kind;
        header[157..157 + entry.link.len()].copy_from_slice(entry.link);
        header[257..263].copy_from_slice(b"ustar\0");
        header[263..265].copy_from_slice(b"00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(entry.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// A long name, as GNU tar writes it.
fn gnu_long(name: &str) -> Vec<u8> {
    let mut long = name.as_bytes().to_vec();
    long.push(0);
    tar_of(&[Raw { name: b"././@LongLink", kind: b'L', content: &long, ..Raw::default() }, file("short", b"x")])
        .into_iter()
        .collect()
}

/// A name (and size) in a pax header.
fn pax(key: &str, value: &str, entry: Raw<'_>) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while format!("{length}{body}").len() != length {
        length = format!("{length}{body}").len();
    }
    let record = format!("{length}{body}");
    tar_of(&[Raw { name: b"pax", kind: b'x', content: record.as_bytes(), ..Raw::default() }, entry])
}

fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        if *mode & 0o170_000 == 0o120_000 {
            out.add_symlink(*name, std::str::from_utf8(content).unwrap(), options).unwrap();
        } else {
            out.start_file(*name, options.unix_permissions(*mode & 0o7777)).unwrap();
            out.write_all(content).unwrap();
        }
    }
    let bytes = out.finish().unwrap().into_inner();
    for (name, _, _) in entries {
        assert!(bytes.windows(name.len()).any(|window| window == name.as_bytes()), "{name} is written as it is");
    }
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A box in a folder whose every other file is watched.
struct Bench {
    _folder: tempfile::TempDir,
    home: Utf8PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Utf8PathBuf::from_path_buf(folder.path().canonicalize().unwrap()).unwrap();
        fs::create_dir_all(home.join("outer/box")).unwrap();
        fs::write(home.join("outer/precious"), "precious").unwrap();
        Self { _folder: folder, home }
    }

    fn unpack(&self, bytes: &[u8], kind: Unpack, limits: &ArchiveLimits) -> Result<Vec<RecordedFile>, UnpackError> {
        let archive = self.home.join("archive");
        fs::write(&archive, bytes).unwrap();
        unpack(&archive, kind, &self.home.join("outer/box"), limits, &|| false)
    }

    /// Everything outside of the box, with its content.
    fn outside(&self) -> Vec<(String, String)> {
        let mut found = vec![];
        for folder in [&self.home, &self.home.join("outer")] {
            for entry in folder.read_dir_utf8().unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() && entry.file_name() != "archive" {
                    found.push((entry.path().to_string(), fs::read_to_string(entry.path()).unwrap()));
                } else if !matches!(entry.file_name(), "outer" | "box" | "archive") {
                    found.push((entry.path().to_string(), "stranger".to_owned()));
                }
            }
        }
        found
    }

    /// Resolves every link in the box; each must stay inside or lead nowhere.
    fn assert_links_stay_inside(&self) {
        let root = self.home.join("outer/box");
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir_utf8().unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path().to_owned());
                }
                if let Ok(real) = entry.path().canonicalize_utf8() {
                    assert!(real.starts_with(&root), "{} leads to {real}", entry.path());
                }
            }
        }
    }
}

const LIMITS: ArchiveLimits = ArchiveLimits { bytes: 1 << 20, entries: 100, ratio: 200, floor: 1 << 20 };

#[test]
fn good_archives_arrive_as_they_are() {
    let deep = "d/".repeat(60) + "file";
    let table: Vec<(&str, Unpack, Vec<u8>, Vec<&str>)> = vec![
        ("tar", Unpack::Tar, tar_of(&[file("a", b"1"), file("b/c", b"2")]), vec!["a", "b/c"]),
        ("tar.gz", Unpack::Tar, gzip(&tar_of(&[file("a", b"1")])), vec!["a"]),
        (
            "two gzip members",
            Unpack::Tar,
            {
                let whole = tar_of(&[file("a", &[7; 900])]);
                [gzip(&whole[..700]), gzip(&whole[700..])].concat()
            },
            vec!["a"],
        ),
        ("dots", Unpack::Tar, tar_of(&[Raw { kind: b'5', ..file("./", b"") }, file("./a", b"1")]), vec!["a"]),
        ("folders", Unpack::Tar, tar_of(&[Raw { kind: b'5', ..file("m/", b"") }, file("m/a", b"")]), vec!["m/a"]),
        ("an old folder", Unpack::Tar, tar_of(&[file("m/", b""), file("m/a", b"")]), vec!["m/a"]),
        ("a long name", Unpack::Tar, gnu_long(&deep), vec![&deep]),
        ("a pax name", Unpack::Tar, pax("path", "ä/b", file("x", b"1")), vec!["ä/b"]),
        ("a hard link", Unpack::Tar, tar_of(&[file("a", b"1"), link("d/b", b'1', "a")]), vec!["a", "d/b"]),
        ("a link inside", Unpack::Tar, tar_of(&[file("v1/a", b"1"), link("latest", b'2', "v1")]), vec!["v1/a"]),
        ("a link up inside", Unpack::Tar, tar_of(&[file("a", b"1"), link("d/e/l", b'2', "../../a")]), vec!["a"]),
        ("setuid", Unpack::Tar, tar_of(&[Raw { mode: 0o6755, ..file("run", b"1") }]), vec!["run"]),
        ("zip", Unpack::Zip, zip_of(&[("a", 0o644, b"1"), ("b/c", 0o755, b"2")]), vec!["a", "b/c"]),
        ("a zip link", Unpack::Zip, zip_of(&[("a", 0o644, b"1"), ("link", 0o120_777, b"a")]), vec!["a"]),
    ];
    for (case, kind, bytes, expected) in table {
        let bench = Bench::new();
        let files = bench.unpack(&bytes, kind, &LIMITS).unwrap_or_else(|error| panic!("{case}: {error}"));
        let names: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, expected, "{case}");
        for file in files {
            let path = bench.home.join("outer/box").join(&file.path);
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o7022, 0, "{case}: no setuid, nothing for others to write");
            assert_eq!(hex(&Sha256::digest(fs::read(&path).unwrap())), file.sha256, "{case}");
        }
        bench.assert_links_stay_inside();
    }
}

#[test]
fn hostile_and_broken_archives_write_nothing_outside_and_are_refused() {
    let precious = "../precious";
    let up = "../".repeat(20) + "tmp/kserve-local-escaped";
    let long = "x".repeat(300);
    let endless = "a/".repeat(1500) + "f";
    let whole = tar_of(&[file("a", &[7; 3000])]);
    let packed = gzip(&whole);
    let mut flipped = packed.clone();
    let last = flipped.len() - 6;
    flipped[last] ^= 0xff;
    let mut zip_flipped = zip_of(&[("a", 0o644, &[7; 3000])]);
    zip_flipped[40] ^= 0xff;
    let zeros = vec![0; 3 << 20];
    let mut bad_sum = whole.clone();
    bad_sum[150] = b'7';
    let tar: Vec<(&str, Vec<u8>)> = vec![
        ("absolute", tar_of(&[file("/tmp/kserve-local-escaped", b"x")])),
        ("absolute, twice", tar_of(&[file("//tmp/kserve-local-escaped", b"x")])),
        ("up", tar_of(&[file(precious, b"evil")])),
        ("up, far", tar_of(&[file(&up, b"evil")])),
        ("up in the middle", tar_of(&[file("a/../../precious", b"evil")])),
        ("up at the end", tar_of(&[file("a/..", b"evil")])),
        ("only up", tar_of(&[file("..", b"evil")])),
        ("up with backslashes", tar_of(&[file("..\\precious", b"evil")])),
        ("up as folder", tar_of(&[Raw { kind: b'5', ..file("../folder/", b"") }])),
        ("up by GNU long name", gnu_long(&format!("{}../../../../precious", "a/".repeat(60)))),
        ("up by pax name", pax("path", precious, file("x", b"evil"))),
        ("absolute by pax name", pax("path", "/tmp/kserve-local-escaped", file("x", b"evil"))),
        ("pax link", pax("linkpath", "/etc", link("l", b'2', "x"))),
        ("pax size", pax("size", "99999999999", file("x", b"evil"))),
        ("empty name", tar_of(&[file("", b"x")])),
        ("newline", tar_of(&[file("a\nb", b"x")])),
        ("escape sequence", tar_of(&[file("\x1b[31m", b"x")])),
        ("not UTF-8", tar_of(&[Raw { name: b"\xff\xfe", ..Raw::default() }])),
        ("long part", gnu_long(&long)),
        ("long path", gnu_long(&endless)),
        ("link to absolute", tar_of(&[link("l", b'2', "/etc")])),
        ("link up", tar_of(&[link("l", b'2', "..")])),
        ("link up too far", tar_of(&[link("d/l", b'2', "../../x")])),
        ("link up after down", tar_of(&[link("l", b'2', "d/../../precious")])),
        ("link with a hidden up", tar_of(&[link("a", b'2', "."), link("b", b'2', "a/..")])),
        ("write through a link", tar_of(&[file("d/x", b""), link("l", b'2', "d"), file("l/y", b"evil")])),
        ("write through a link up", tar_of(&[link("l", b'2', "../"), file("l/precious", b"evil")])),
        ("link over a file", tar_of(&[file("a", b"x"), link("a", b'2', "b")])),
        ("file over a link", tar_of(&[link("a", b'2', "b"), file("a", b"evil")])),
        ("folder over a link", tar_of(&[link("a", b'2', "b"), Raw { kind: b'5', ..file("a/", b"") }])),
        ("link to itself through two", tar_of(&[link("a", b'2', "b/.."), link("b", b'2', "a/..")])),
        ("hard link to absolute", tar_of(&[link("l", b'1', "/etc/passwd")])),
        ("hard link up", tar_of(&[link("l", b'1', precious)])),
        ("hard link to nothing", tar_of(&[link("l", b'1', "none")])),
        ("hard link to a link", tar_of(&[link("a", b'2', "b"), link("l", b'1', "a")])),
        ("hard link, then through it", tar_of(&[file("a", b"x"), link("l", b'1', "a"), file("l", b"evil")])),
        ("twice", tar_of(&[file("a", b"1"), file("a", b"2")])),
        ("twice in two spellings", tar_of(&[file("a", b"1"), file("./a", b"2")])),
        ("file as folder", tar_of(&[file("a", b"1"), file("a/b", b"2")])),
        ("folder as file", tar_of(&[file("a/b", b"1"), file("a", b"2")])),
        ("character device", tar_of(&[Raw { kind: b'3', ..file("null", b"") }])),
        ("block device", tar_of(&[Raw { kind: b'4', ..file("sda", b"") }])),
        ("pipe", tar_of(&[Raw { kind: b'6', ..file("pipe", b"") }])),
        ("unknown kind", tar_of(&[Raw { kind: b'Z', ..file("z", b"") }])),
        ("bomb", gzip(&tar_of(&[file("zeros", &zeros)]))),
        ("bomb of many files", {
            let names: Vec<_> = (0..200).map(|index| format!("f{index}")).collect();
            gzip(&tar_of(&names.iter().map(|name| file(name, b"")).collect::<Vec<_>>()))
        }),
        ("bomb of links", {
            let content = vec![1; 600 << 10];
            tar_of(&[file("a", &content), link("b", b'1', "a"), link("c", b'1', "a")])
        }),
        ("bomb behind the end", gzip(&[whole.clone(), zeros.clone()].concat())),
        ("stated too large", tar_of(&[Raw { stated: Some((8 << 30) - 1), ..file("a", b"x") }])),
        ("cut", whole[..1500].to_vec()),
        ("cut gzip", packed[..packed.len() / 2].to_vec()),
        ("cut gzip at its end", packed[..packed.len() - 4].to_vec()),
        ("flipped gzip", flipped),
        ("garbage after gzip", [packed, b"garbage".to_vec()].concat()),
        ("wrong checksum", bad_sum),
        ("empty", vec![]),
        ("no files", tar_of(&[])),
        ("only folders", tar_of(&[Raw { kind: b'5', ..file("a/", b"") }])),
        ("a login page", b"<!DOCTYPE html><html>log in</html>".repeat(100)),
        ("a zip", zip_of(&[("a", 0o644, b"1")])),
        ("bzip2", b"BZh91AY&SY".to_vec()),
        ("xz", b"\xfd7zXZ\0\0".to_vec()),
        ("zstd", b"\x28\xb5\x2f\xfd\0\0".to_vec()),
        ("compress", b"\x1f\x9d\x90".to_vec()),
    ];
    let zip: Vec<(&str, Vec<u8>)> = vec![
        ("zip: absolute", zip_of(&[("/tmp/kserve-local-escaped", 0o644, b"x")])),
        ("zip: up", zip_of(&[(precious, 0o644, b"evil")])),
        ("zip: up in the middle", zip_of(&[("a/../../precious", 0o644, b"evil")])),
        ("zip: backslashes", zip_of(&[("..\\precious", 0o644, b"evil")])),
        ("zip: drive", zip_of(&[("C:\\x", 0o644, b"evil")])),
        ("zip: link to absolute", zip_of(&[("link", 0o120_777, b"/etc")])),
        ("zip: link up", zip_of(&[("link", 0o120_777, b"../precious")])),
        ("zip: through a link", zip_of(&[("abc", 0o120_777, b"d"), ("abc/y", 0o644, b"evil")])),
        ("zip: bomb", zip_of(&[("zeros", 0o644, &zeros)])),
        ("zip: flipped", zip_flipped),
        ("zip: cut", zip_of(&[("a", 0o644, &[1; 900])])[..100].to_vec()),
        ("zip: empty", vec![]),
        ("zip: no files", zip_of(&[])),
        ("zip: a tar", whole),
    ];
    let cases = tar.into_iter().map(|(case, bytes)| (case, bytes, Unpack::Tar));
    let cases: Vec<_> = cases.chain(zip.into_iter().map(|(case, bytes)| (case, bytes, Unpack::Zip))).collect();
    assert!(cases.len() > 70);
    for (case, bytes, kind) in cases {
        let bench = Bench::new();
        let before = bench.outside();
        let outcome = bench.unpack(&bytes, kind, &LIMITS);
        assert_eq!(bench.outside(), before, "{case}");
        assert!(!Utf8Path::new("/tmp/kserve-local-escaped").exists(), "{case}");
        bench.assert_links_stay_inside();
        match outcome {
            Ok(files) => panic!("{case} was taken: {files:?}"),
            Err(UnpackError::Disk(error)) => panic!("{case} was blamed on the disk: {error}"),
            Err(error) => assert!(error.to_string().starts_with("Failed to unpack archive file."), "{case}: {error}"),
        }
    }
}

/// Replaces the first place where `from` stands; both are of one length.
fn patched(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    bytes[at..at + from.len()].copy_from_slice(to);
    bytes
}

/// Replaces the last place where `from` stands.
fn patched_last(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).rposition(|window| window == from).expect("it is there");
    bytes[at..at + from.len()].copy_from_slice(to);
    bytes
}

#[test]
fn archives_that_contradict_themselves_are_unpacked_safely_or_refused() {
    let twins = |a: &str, b: &str| tar_of(&[file(a, b"1"), file(b, b"2")]);
    let plain_zip = || zip_of(&[("aaaa", 0o644, b"content"), ("bbbb", 0o644, b"content")]);
    let size = 7_u32.to_le_bytes();
    let sparse = {
        // A hole of 16 GiB, in GNU's old form: offset, length, and the real size behind them.
        let mut bytes = tar_of(&[Raw { kind: b'S', ..file("holes", &[1; 512]) }]);
        bytes[257..265].copy_from_slice(b"ustar  \0");
        bytes[386..398].copy_from_slice(b"00000000000\0");
        bytes[398..410].copy_from_slice(b"00000001000\0");
        bytes[483..495].copy_from_slice(b"20000000000\0");
        bytes[148..156].copy_from_slice(b"        ");
        let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
        bytes[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes
    };
    let cases: Vec<(&str, Unpack, Vec<u8>)> = vec![
        ("names that differ by case", Unpack::Tar, twins("Model.bin", "model.bin")),
        ("names that differ by composition", Unpack::Tar, twins("\u{e9}", "e\u{301}")),
        ("names that look the same", Unpack::Tar, twins("model", "m\u{43e}del")),
        ("a name that is written backwards", Unpack::Tar, tar_of(&[file("\u{202e}txt.exe", b"x")])),
        ("a name of Windows", Unpack::Tar, tar_of(&[file("CON", b"x"), file("nul.txt", b"x"), file("a:stream", b"x")])),
        ("a name that ends in a dot or a space", Unpack::Tar, tar_of(&[file("a.", b"x"), file("b ", b"x")])),
        (
            "a name with a NUL in its header",
            Unpack::Tar,
            tar_of(&[Raw { name: b"a\0/../../precious", ..Raw::default() }]),
        ),
        ("a pax name with a NUL", Unpack::Tar, pax("path", "a\0b", file("x", b"1"))),
        ("a pax name of nothing", Unpack::Tar, pax("path", "", file("x", b"1"))),
        ("a pax size that is no number", Unpack::Tar, pax("size", "-1", file("x", b"1"))),
        ("a pax link that leads out", Unpack::Tar, pax("linkpath", "../../precious", link("l", b'1', "x"))),
        ("a pax sparse name", Unpack::Tar, pax("GNU.sparse.name", "../precious", file("x", b"1"))),
        (
            "a pax record that lies about its length",
            Unpack::Tar,
            patched(pax("path", "a/b", file("x", b"1")), b"12 path", b"99 path"),
        ),
        (
            "a global pax name",
            Unpack::Tar,
            tar_of(&[
                Raw { name: b"g", kind: b'g', content: b"23 path=../../precious\n", ..Raw::default() },
                file("x", b"1"),
            ]),
        ),
        ("a file with a hole of 16 GiB", Unpack::Tar, sparse),
        (
            "a folder with content",
            Unpack::Tar,
            tar_of(&[Raw { kind: b'5', ..file("d/", b"content") }, file("x", b"1")]),
        ),
        (
            "a link with content",
            Unpack::Tar,
            tar_of(&[Raw { content: b"content", ..link("l", b'2', "x") }, file("x", b"1")]),
        ),
        ("setuid, setgid and sticky", Unpack::Tar, tar_of(&[Raw { mode: 0o7777, ..file("run", b"1") }])),
        ("a file nobody may read", Unpack::Tar, tar_of(&[Raw { mode: 0, ..file("shut", b"1") }])),
        (
            "a folder nobody may enter",
            Unpack::Tar,
            tar_of(&[Raw { kind: b'5', mode: 0, ..file("d/", b"") }, file("d/x", b"1")]),
        ),
        (
            "two archives behind each other",
            Unpack::Tar,
            [tar_of(&[file("a", b"1")]), tar_of(&[file("../precious", b"2")])].concat(),
        ),
        ("zip: another name in the local header", Unpack::Zip, patched(plain_zip(), b"aaaa", b"../p")),
        ("zip: a NUL in a name", Unpack::Zip, patched_last(patched(plain_zip(), b"aaaa", b"a\0.."), b"aaaa", b"a\0..")),
        ("zip: a colon and a slash", Unpack::Zip, zip_of(&[("C:/x", 0o644, b"1")])),
        ("zip: a size that lies", Unpack::Zip, patched_last(plain_zip(), &size, &1_u32.to_le_bytes())),
        ("zip: a size of 4 GiB", Unpack::Zip, patched_last(plain_zip(), &size, &u32::MAX.to_le_bytes())),
        ("zip: a method nobody knows", Unpack::Zip, patched_last(plain_zip(), &[8, 0, 0], &[99, 0, 0])),
        ("zip: more entries than there are", Unpack::Zip, patched_last(plain_zip(), &[2, 0, 2, 0], &[9, 0, 9, 0])),
        (
            "zip: as many entries as 64 bits can count",
            Unpack::Zip,
            patched_last(plain_zip(), &[2, 0, 2, 0], &[0xff; 4]),
        ),
        ("zip: setuid", Unpack::Zip, zip_of(&[("run", 0o6755, b"1")])),
        ("zip: a folder named as a file", Unpack::Zip, zip_of(&[("a/", 0o644, b""), ("a", 0o644, b"1")])),
        (
            "zip: behind a program",
            Unpack::Zip,
            [b"#!/bin/sh\nexit 1\n".to_vec(), zip_of(&[("a", 0o644, b"1")])].concat(),
        ),
    ];
    for (case, kind, bytes) in cases {
        let bench = Bench::new();
        let before = bench.outside();
        let outcome = bench.unpack(&bytes, kind, &LIMITS);
        assert_eq!(bench.outside(), before, "{case}");
        bench.assert_links_stay_inside();
        match outcome {
            Ok(files) => {
                for file in files {
                    let path = bench.home.join("outer/box").join(&file.path);
                    let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{case}: {path}: {error}"));
                    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
                    assert!(meta.is_file() && mode & 0o7022 == 0, "{case}: {path} {mode:o}");
                    assert_eq!(meta.len(), file.size, "{case}");
                }
            }
            Err(UnpackError::Disk(error)) => panic!("{case} was blamed on the disk: {error}"),
            Err(error) => assert!(error.to_string().starts_with("Failed to unpack archive file."), "{case}: {error}"),
        }
    }
}

#[test]
fn what_is_wrong_names_the_entry() {
    let zeros = vec![0; 3 << 20];
    let mut flipped = zip_of(&[("weights.bin", 0o644, &[7; 3000])]);
    let at = 30 + "weights.bin".len() + 4;
    flipped[at] ^= 0xff;
    for (kind, bytes, named) in [
        (
            Unpack::Tar,
            gzip(&tar_of(&[file("zeros.bin", &zeros)])),
            "with `zeros.bin` it unpacks to far more than its size",
        ),
        (Unpack::Tar, tar_of(&[file("weights.bin", &[7; 3000])])[..1500].to_vec(), "`weights.bin`"),
        (Unpack::Zip, flipped, "`weights.bin`"),
        (Unpack::Tar, tar_of(&[file("../precious", b"x")]), "`../precious` leaves the model folder"),
        (Unpack::Tar, tar_of(&[link("latest", b'2', "/etc")]), "`latest` is a link to `/etc`"),
        (Unpack::Tar, tar_of(&[Raw { kind: b'3', ..file("null", b"") }]), "`null` is neither file, folder nor link"),
    ] {
        let said = Bench::new().unpack(&bytes, kind, &LIMITS).unwrap_err().to_string();
        assert!(said.contains(named), "{named}: {said}");
    }
}

#[test]
fn unpacking_stops_when_asked() {
    let bench = Bench::new();
    let archive = bench.home.join("archive");
    fs::write(&archive, tar_of(&[file("a", &[1; 3000])])).unwrap();
    let outcome = unpack(&archive, Unpack::Tar, &bench.home.join("outer/box"), &LIMITS, &|| true);
    assert!(matches!(outcome, Err(UnpackError::Stopped)), "{outcome:?}");
}

#[test]
fn a_bomb_stops_early() {
    let bomb = gzip(&tar_of(&[file("zeros", &vec![0; 4 << 20])]));
    let by_ratio = ArchiveLimits { bytes: u64::MAX, entries: 10, ratio: 200, floor: 0 };
    let by_size = ArchiveLimits { bytes: 1 << 20, entries: 10, ratio: u64::MAX, floor: u64::MAX };
    for (limits, most) in [(by_ratio, bomb.len() as u64 * 200), (by_size, 1 << 20)] {
        let bench = Bench::new();
        assert!(matches!(bench.unpack(&bomb, Unpack::Tar, &limits), Err(UnpackError::Hostile(_))));
        let written = fs::metadata(bench.home.join("outer/box/zeros")).unwrap().len();
        assert!(written <= most, "{written}");
    }
}

#[test]
fn archives_are_known_by_name_as_pythons_mimetypes_knows_them() {
    let table = [
        ("m.tar", Unpack::Tar),
        ("m.tar.gz", Unpack::Tar),
        ("M.TGZ", Unpack::Tar),
        ("m.tar.bz2", Unpack::Tar),
        ("m.txz", Unpack::Tar),
        ("m.zip", Unpack::Zip),
        ("m.gz", Unpack::Keep),
        ("m.joblib.gz", Unpack::Keep),
        ("m.mar", Unpack::Keep),
        ("m.7z", Unpack::Keep),
        ("tar", Unpack::Keep),
        (".zip", Unpack::Keep),
        ("zip", Unpack::Keep),
        ("m.tar.zst", Unpack::Keep),
    ];
    for (name, kind) in table {
        assert_eq!(kind_of(name), kind, "{name}");
    }
}
