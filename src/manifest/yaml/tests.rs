use serde_json::json;

use super::*;

#[test]
fn trying() {
    for document in parse(
        "a: 0644\nb: {x: yes, \"y\": 'no'}\n---\n# nothing\n---\nlist:\n- &one {k: v}\n- *one\n- <<: *one\n  z: 1\n",
    ) {
        println!("{document:#?}");
    }
    assert_eq!(parse("a: 1")[0].value, Some(json!({"a": 1})));
}
