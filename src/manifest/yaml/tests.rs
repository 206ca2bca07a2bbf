use serde_json::json;

use super::*;

fn one(text: &str) -> Document {
    let mut documents = parse(text);
    assert_eq!(documents.len(), 1, "{documents:#?}");
    documents.remove(0)
}

fn value(text: &str) -> Value {
    let document = one(text);
    assert_eq!(document.problems, [], "{text}");
    document.value.unwrap()
}

/// Where the key and the value of a path stand.
fn place(document: &Document, path: &FieldPath) -> (String, String) {
    let node = document.located.as_ref().unwrap().find(path).unwrap();
    (node.key.map(|at| at.to_string()).unwrap_or_default(), node.value.to_string())
}

#[test]
fn keys_and_values_know_their_places() {
    let document = one("spec:\n  predictor:\n    containers:\n    - name: a\n      image: b\n");
    let containers = FieldPath::of(&["spec", "predictor", "containers"]);
    assert_eq!(place(&document, &containers), ("3:5".into(), "4:7".into()));
    assert_eq!(place(&document, &containers.index(0).key("image")), ("5:7".into(), "5:14".into()));
}

#[test]
fn places_count_characters_and_leave_out_a_byte_order_mark() {
    let document = one("\u{feff}größe: {日本: \"🦀\", name: x}\n");
    let path = FieldPath::of(&["größe"]);
    assert_eq!(place(&document, &path), ("1:1".into(), "1:8".into()));
    assert_eq!(place(&document, &path.key("日本")), ("1:9".into(), "1:13".into()));
    assert_eq!(place(&document, &path.key("name")), ("1:18".into(), "1:24".into()));
}

#[test]
fn lines_may_end_as_windows_ends_them() {
    let document = one("a: 1\r\nb:\r\n  c: 2\r\n");
    assert_eq!(document.value, Some(json!({"a": 1, "b": {"c": 2}})));
    assert_eq!(place(&document, &FieldPath::of(&["b", "c"])), ("3:3".into(), "3:6".into()));
    assert_eq!(parse("a: 1\r\n---\r\nb: 2\r\n").len(), 2);
}

#[test]
fn tabs_are_refused_as_indentation_and_taken_between_tokens() {
    assert_eq!(value("a:\tb\n"), json!({"a": "b"}));
    let document = one("a:\n\tb: 1\n");
    let problem = &document.problems[0];
    assert_eq!(problem.position, Some(Position { line: 2, column: 1 }));
    assert_eq!(problem.help.as_deref(), Some("indent with spaces: YAML does not take tabs"));
}

#[test]
fn documents_are_told_apart_and_empty_ones_left_out() {
    let text =
        "%YAML 1.1\n---\n# nothing\n---\na: 1\n...\n---\n\n--- # comment\nb: |\n  ----\n  ---x\n---\n~\n--- {c: 1}\n";
    let values: Vec<_> = parse(text).into_iter().map(|document| document.value.unwrap()).collect();
    assert_eq!(values, [json!({"a": 1}), json!({"b": "----\n---x\n"}), json!({"c": 1})]);
    assert!(parse("").is_empty());
    assert!(parse("# only words\n").is_empty());
    assert!(parse("---\n---\n").is_empty());
}

#[test]
fn a_broken_document_costs_only_itself() {
    let documents = parse("a: 1\n---\nb: [1,\n---\nc: 3\nd: 4\n");
    assert_eq!(documents.len(), 3);
    assert_eq!(documents[0].value, Some(json!({"a": 1})));
    assert_eq!(documents[1].value, None);
    assert_eq!(documents[1].start.line, 3);
    assert_eq!(documents[2].value, Some(json!({"c": 3, "d": 4})));
    assert_eq!(place(&documents[2], &FieldPath::of(&["d"])), ("6:1".into(), "6:4".into()));
}

#[test]
fn syntax_errors_name_lines_of_the_file_and_not_of_the_document() {
    let documents = parse("a: 1\n---\nb:\n  c: 1\n d: 2\n");
    let problem = &documents[1].problems[0];
    assert_eq!(problem.position.map(|at| at.line), Some(5));
    assert_eq!(problem.message, "did not find expected key, while parsing a block mapping at line 3 column 1");
}

#[test]
fn a_key_that_stands_twice_is_told_with_both_places() {
    let document = one("a:\n  b: 1\n  c: 2\n  b: 3\n");
    let problem = &document.problems[0];
    assert_eq!(problem.kind, ProblemKind::Duplicate);
    assert_eq!(problem.position, Some(Position { line: 4, column: 3 }));
    assert_eq!(problem.path.as_ref().unwrap().to_string(), "a.b");
    assert_eq!(problem.message, "key `b` stands twice; first at line 2, column 3");
    let document = one("{\"a\": 1, \"a\": 2}");
    assert_eq!(document.problems[0].position, Some(Position { line: 1, column: 10 }));
}

#[test]
fn anchors_and_merges_are_expanded() {
    let text = "base: &base {a: 1, b: 2}\nmore: &more {c: 3}\none: *base\ntwo:\n  <<: *base\n  b: 9\nthree: {<<: [*more, *base], a: 0}\nfour: {<<: {<<: *more, d: 4}}\n";
    let value = value(text);
    assert_eq!(value["one"], json!({"a": 1, "b": 2}));
    assert_eq!(value["two"], json!({"b": 9, "a": 1}));
    assert_eq!(value["three"], json!({"a": 0, "c": 3, "b": 2}));
    assert_eq!(value["four"], json!({"d": 4, "c": 3}));
    assert_eq!(one("a: {<<: 1}").problems[0].path.as_ref().unwrap().to_string(), "a");
}

#[test]
fn a_bomb_of_anchors_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        text = format!("{text}a{level}: &a{level} [{inner}]\n");
    }
    let document = one(&text);
    assert_eq!(document.value, None);
    assert!(document.problems[0].message.contains("once anchors are expanded"), "{:?}", document.problems);
}

#[test]
fn an_anchor_within_itself_is_refused() {
    let document = one("a: &a [*a]\n");
    assert_eq!(document.value, None);
    assert!(!document.problems.is_empty());
}

#[test]
fn depth_and_size_have_limits() {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(one(&format!("a: {deep}")).problems[0].message.contains("nested more than"));
    assert!(one(&deep).problems[0].message.contains("nested more than"));
    let block: String = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert!(one(&block).problems[0].message.contains("nested more than"));
    let long = format!("a: \"{}\"", "x".repeat(MAX_TEXT_BYTES));
    assert!(one(&long).problems[0].message.contains("bytes long"));
}

#[test]
fn scalars_mean_what_they_mean_to_kubectl() {
    let value = value("mode: 0644\nquoted: \"0644\"\non: 1\n".replace("on: 1", "flag: on").as_str());
    assert_eq!(value, json!({"mode": 420, "quoted": "0644", "flag": true}));
    assert!(one("a: .inf\n").problems[0].message.contains("finite"));
}

#[test]
fn keys_that_are_no_text_are_told() {
    assert_eq!(value("8080: a\n"), json!({"8080": "a"}));
    for (text, reads) in [("on: 1\n", "a boolean"), ("1.10: 1\n", "a number"), ("~: 1\n", "null")] {
        let problem = &one(text).problems[0];
        assert!(problem.message.contains(reads), "{text}: {problem:?}");
        assert!(problem.help.as_ref().unwrap().contains("quote it"), "{text}");
    }
    assert_eq!(one("\"on\": 1\n").problems, []);
    assert!(one("a: {{ .Values.x }}\n").problems[0].message.contains("keys are text"));
}

#[test]
fn tags_that_mean_nothing_here_are_told() {
    assert_eq!(value("a: !!str 1\nb: !!int \"2\"\n"), json!({"a": "1", "b": 2}));
    assert!(one("a: !Ref x\n").problems[0].message.contains("tag `!Ref`"));
}

#[test]
fn json_is_read_as_json() {
    let text = "\n{\n\t\"a\": \"\\ud83e\\udd80\",\n\t\"b\": {\"c\": 1}\n}\n{\"d\": 2}";
    let documents = parse(text);
    assert_eq!(documents.len(), 2);
    assert_eq!(documents[0].value, Some(json!({"a": "🦀", "b": {"c": 1}})));
    assert_eq!(place(&documents[0], &FieldPath::of(&["b", "c"])), ("4:8".into(), "4:13".into()));
    assert_eq!(place(&documents[1], &FieldPath::of(&["d"])), ("6:2".into(), "6:7".into()));
    assert_eq!(parse("{\"a\": 1} {\"b\": 2}")[1].start, Position { line: 1, column: 10 });
}

#[test]
fn broken_json_says_where() {
    let document = one("{\n  \"a\": 1,\n  \"b\" 2\n}\n");
    assert_eq!(document.value, None);
    assert_eq!(document.problems[0].position.map(|at| at.line), Some(3));
}

#[test]
fn what_is_written_is_read_back() {
    let value =
        json!({"a": "yes", "b": "0644", "c": "1.10", "d": [1, 2.5, null, true], "e": {"f": "x: y"}, "g": "1_0"});
    assert_eq!(super::tests::value(&to_yaml(&value)), value);
}

/// Any JSON value, rich in texts that look like something else.
fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let odd = [
        "yes", "n", "0644", "1_0", "1.10", "1e3", "~", "null", "true", "", " x", "a: b", "- a", "#", "quoted0q",
        "0x1F", "é🦀", "a\nb", "<", ".5", "+1", "-",
    ];
    let text = prop_oneof![prop::sample::select(odd.to_vec()).prop_map(str::to_owned), "[ -~]{0,12}", "\\PC{0,6}",];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        let keys = text.clone().prop_filter("`<<` is a merge", |key| key != "<<");
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..5).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_value_that_is_written_is_read_back(value in any_json()) {
        let value = json!({"value": value});
        let text = to_yaml(&value);
        let documents = parse(&text);
        proptest::prop_assert_eq!(documents.len(), 1, "{}", &text);
        proptest::prop_assert_eq!(&documents[0].problems, &[], "{}", &text);
        proptest::prop_assert_eq!(documents[0].value.as_ref(), Some(&value), "{}", &text);
    }
}

#[test]
fn a_key_that_stands_twice_is_told_even_where_positions_cannot_be() {
    // Tabs between tokens are where the two parsers part ways.
    let document = one("-a:\t1\n-b:\t2\n-a:\t3\n");
    assert_eq!(document.problems[0].message, "key `-a` stands twice; first at line 1, column 1");
    let document = one("{a\tb: 1, c: 2}\t\n");
    assert_eq!(document.value, Some(json!({"a\tb": 1, "c": 2})));
    let document = one("? a\n? a\n?");
    assert!(!document.problems.is_empty());
}

#[test]
fn a_text_of_brackets_is_refused_in_the_time_it_takes_to_read_it() {
    // Each of these took a parser minutes: the square of its length.
    let many = "[".repeat(1_000_000);
    for text in
        [format!("a: {many}"), many.clone(), format!("{{\"a\": {many}"), format!("a: {}", many.replace('[', "{a: "))]
    {
        let document = one(&text[..text.len().min(1_000_000)]);
        assert_eq!(document.problems[0].message, TOO_DEEP);
        assert_eq!(document.problems[0].position.map(|at| at.line), Some(1));
    }
    assert!(from_yaml::<Value>(&format!("a: {many}")).is_err());
    let documents = parse(&format!("a: {many}\n---\nb: 1\n"));
    assert_eq!(documents[1].value, Some(json!({"b": 1})));
}

#[test]
fn a_text_of_a_great_many_documents_is_refused() {
    for text in ["---\na\n".repeat(MAX_DOCUMENTS + 1), "---\na\n...\n".repeat(MAX_DOCUMENTS + 1)] {
        let last = parse(&text).pop().unwrap();
        assert_eq!(last.problems[0].message, "more than 10000 documents in one text");
    }
}

#[test]
fn a_setting_that_stands_twice_is_told_where_it_does() {
    #[derive(Debug, Default, serde::Deserialize)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Settings {
        listen: String,
    }
    let error = from_yaml::<Settings>("listen: a\nlisten: b\n").unwrap_err();
    assert_eq!(error.position, Some(Position { line: 2, column: 1 }));
    assert_eq!(error.message, "key `listen` stands twice; first at line 1, column 1");
}
