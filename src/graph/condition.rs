//! GJSON paths asked of a body. A condition is true when its path **exists**, whatever its value.

use super::compile::Step;

/// Returns whether a body is JSON: only then can a condition be asked of it.
pub fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// Returns whether a path exists in a body. An empty path exists in nothing, nor does any path in what is not JSON.
pub fn holds(path: &str, body: &[u8]) -> bool {
    if path.is_empty() || !is_json(body) {
        return false;
    }
    // JSON is UTF-8; the check above has seen to that.
    std::str::from_utf8(body).is_ok_and(|text| gjson::get(text, path).exists())
}

/// Returns the elements of a list in a body as they are written, if there are any.
pub fn list(path: &str, body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok().filter(|_| is_json(body))?;
    let found = gjson::get(text, path);
    let is_full = found.kind() == gjson::Kind::Array && !found.array().is_empty();
    is_full.then(|| found.json().to_owned())
}

/// Returns the elements of a list in a body, each as it is written. None when there is no list.
pub fn elements(path: &str, body: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(body).ok().filter(|_| is_json(body))?;
    let found = gjson::get(text, path);
    let is_list = found.kind() == gjson::Kind::Array;
    is_list.then(|| found.array().iter().map(|element| element.json().to_owned()).collect())
}

/// Chooses the step of a Switch: the first whose condition holds.
pub fn choose(steps: &[Step], body: &[u8]) -> Option<usize> {
    steps.iter().position(|step| holds(&step.condition, body))
}

/// Chooses the step of a Splitter. `thrown` is between 0 and 99.
pub fn pick(steps: &[Step], thrown: u32) -> Option<usize> {
    let mut sum = 0;
    steps.iter().position(|step| {
        sum += step.weight;
        sum > thrown
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::graph::compile::Target;

    #[test]
    fn the_paths_of_upstreams_samples_and_documents_hold() {
        let body = br#"{"source": "client", "instances": [{"intval": 0, "strval": "a-red-server-b"}, {"intval": 12}],
                        "predictions": [1, 0], "none": null, "no": false}"#;
        for (path, wanted) in [
            ("[@this].#(source==client)", true),
            ("[@this].#(source==\"client\")", true),
            ("[@this].#(source==other)", false),
            ("instances.#(intval>10)", true),
            ("instances.#(intval>12)", false),
            ("instances.#(strval%*red-server*)", true),
            ("instances.#(strval%\"blue*\")", false),
            ("instances.1.intval", true),
            ("instances.2.intval", false),
            ("predictions.#(==1)", true),
            ("predictions.#(==2)", false),
            ("none", true),
            ("no", true),
            ("nothing", false),
            ("", false),
        ] {
            assert_eq!(holds(path, body), wanted, "{path}");
        }
        assert!(!holds("a", b"{\"a\": 1"), "a body that is cut holds nothing");
        assert!(!holds("a", b"\xff\xfe"));
    }

    fn weighing(weight: u32) -> Step {
        Step {
            label: String::new(),
            target: Target::Node(0),
            takes_response: false,
            maps_predictions: false,
            weight,
            condition: String::new(),
            is_hard: false,
        }
    }

    #[test]
    fn a_splitter_is_true_to_its_weights() {
        let steps = [weighing(20), weighing(0), weighing(80)];
        let mut taken = [0; 3];
        for thrown in 0..100 {
            taken[pick(&steps, thrown).unwrap()] += 1;
        }
        assert_eq!(taken, [20, 0, 80]);
        assert_eq!(pick(&[], 0), None);
    }

    proptest! {
        #[test]
        fn no_path_and_no_body_end_in_a_panic(path in "[@#().*?|\\[\\]{}:,=!<>%~\"a-c0-9 -]{0,24}", body in ".{0,40}") {
            let _ = holds(&path, body.as_bytes());
            let quoted = serde_json::json!({"a": [body, 1, {"b": null}], "c": {"a": true}}).to_string();
            let _ = holds(&path, quoted.as_bytes());
        }
    }
}
