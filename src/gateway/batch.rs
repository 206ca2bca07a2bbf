//! Several predictions as one (§5.5): what may go together, how bodies are joined, and whose part of the answer is whose.
//! Pure. Elements are taken and put back as they are written, so that no number is read and written again.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::graph::condition::elements;

/// Which protocol a body is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// `instances` in, `predictions` out.
    V1,
    /// `inputs` in, `outputs` out, along their first axis.
    V2,
}

/// One request's part of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// What must be the same for requests to go together: all of the body but its elements.
    pub(crate) alike: String,
    /// How many elements: instances, or rows.
    pub(crate) count: usize,
    /// The elements of each input; one list for V1.
    lists: Vec<Vec<String>>,
    /// `id` of a V2 request.
    id: Option<Value>,
}

/// Why a body cannot be part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPart {
    /// Not JSON; upstream's words.
    #[error("can't Unmarshal body")]
    NotJson,
    /// Nothing to predict; upstream's words.
    #[error("no instances in the request")]
    NoInstances,
    /// Which of them is meant is not for us to say.
    #[error("the request has `instances` twice")]
    Repeated,
    /// A V2 request whose inputs are not lists of rows.
    #[error("the inputs are not lists of rows")]
    NoRows,
}

/// Why an answer cannot be shared out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoShare {
    /// Not JSON, or not of the protocol's form.
    #[error("the answer of the batch is no prediction: {0}")]
    NoPrediction(&'static str),
    /// Upstream's words.
    #[error("size of prediction is not equal to the size of instances")]
    WrongCount,
}

/// Takes a body apart.
pub(crate) fn part(form: Form, body: &[u8]) -> Result<Part, NoPart> {
    let Ok(Value::Object(mut whole)) = serde_json::from_slice::<Value>(body) else { return Err(NoPart::NotJson) };
    match form {
        Form::V1 => {
            if repeats("instances", body) {
                return Err(NoPart::Repeated);
            }
            let list = elements("instances", body).filter(|list| !list.is_empty()).ok_or(NoPart::NoInstances)?;
            whole.shift_remove("instances");
            Ok(Part { alike: sorted(whole), count: list.len(), lists: vec![list], id: None })
        }
        Form::V2 => v2_part(whole, body),
    }
}

fn v2_part(mut whole: Map<String, Value>, body: &[u8]) -> Result<Part, NoPart> {
    let id = whole.shift_remove("id");
    let Some(Value::Array(inputs)) = whole.get_mut("inputs") else { return Err(NoPart::NoRows) };
    let written = elements("inputs", body).unwrap_or_default();
    let repeated = |input: &String| repeats("data", input.as_bytes()) || repeats("shape", input.as_bytes());
    // The server is to say what it makes of a member that is there twice.
    if repeats("inputs", body) || written.iter().any(repeated) {
        return Err(NoPart::NoRows);
    }
    let (mut rows, mut lists) = (None, Vec::new());
    for (at, input) in inputs.iter_mut().enumerate() {
        let shape = input["shape"].as_array().and_then(|shape| shape.first()?.as_u64()).ok_or(NoPart::NoRows)?;
        let shape = usize::try_from(shape).ok().filter(|first| *first > 0).ok_or(NoPart::NoRows)?;
        if *rows.get_or_insert(shape) != shape {
            return Err(NoPart::NoRows);
        }
        let list = elements(&format!("inputs.{at}.data"), body).unwrap_or_default();
        if list.is_empty() || !list.len().is_multiple_of(shape) {
            return Err(NoPart::NoRows);
        }
        // Flat and nested lists of one shape do not go together.
        input["nested"] = json!(list[0].starts_with('['));
        input["shape"][0] = Value::Null;
        input.as_object_mut().map(|input| input.shift_remove("data"));
        lists.push(list);
    }
    let count = rows.ok_or(NoPart::NoRows)?;
    Ok(Part { alike: sorted(whole), count, lists, id })
}

/// Whether a JSON object has a member of this name more than once. Readers of JSON differ in which of them they take.
fn repeats(name: &str, object: &[u8]) -> bool {
    serde_json::from_slice::<Keys>(object).is_ok_and(|keys| keys.0.iter().filter(|key| *key == name).count() > 1)
}

/// The names of an object's members, as they are written.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = members.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Reading)
    }
}

fn sorted(mut map: Map<String, Value>) -> String {
    map.sort_keys();
    Value::Object(map).to_string()
}

/// Joins the parts of a batch, which are alike, into one body.
pub(crate) fn join(form: Form, parts: &[Part]) -> String {
    let Some(first) = parts.first() else { return "{}".to_owned() };
    let mut whole: Value = serde_json::from_str(&first.alike).unwrap_or_default();
    let joined = |at: usize| {
        let all: Vec<&str> = parts.iter().flat_map(|part| &part.lists[at]).map(String::as_str).collect();
        format!("[{}]", all.join(","))
    };
    match form {
        Form::V1 => with_raw(&whole, "instances", &joined(0)),
        Form::V2 => {
            let rows: usize = parts.iter().map(|part| part.count).sum();
            let inputs: Vec<Value> = whole["inputs"].as_array().cloned().unwrap_or_default();
            let inputs = inputs.into_iter().enumerate().map(|(at, mut input)| {
                input["shape"][0] = json!(rows);
                input.as_object_mut().map(|input| input.shift_remove("nested"));
                with_raw(&input, "data", &joined(at))
            });
            let inputs: Vec<String> = inputs.collect();
            whole.as_object_mut().map(|whole| whole.shift_remove("inputs"));
            with_raw(&whole, "inputs", &format!("[{}]", inputs.join(",")))
        }
    }
}

/// Writes an object with one more member whose value is JSON text.
fn with_raw(object: &Value, key: &str, raw: &str) -> String {
    let text = object.to_string();
    let inner = text.strip_suffix('}').unwrap_or("{");
    let comma = if inner.len() > 1 { "," } else { "" };
    format!("{inner}{comma}{}:{raw}}}", Value::from(key))
}

/// Shares an answer out: a body for each part, in their order. `batch` is the id of the batch, which V1 answers carry.
pub(crate) fn share(form: Form, parts: &[Part], answer: &[u8], batch: &str) -> Result<Vec<String>, NoShare> {
    match form {
        Form::V1 => {
            let list = elements("predictions", answer).ok_or(NoShare::NoPrediction("it has no predictions"))?;
            if list.len() != parts.iter().map(|part| part.count).sum::<usize>() {
                return Err(NoShare::WrongCount);
            }
            let head = json!({ "message": "", "batchId": batch });
            let shares = cut(parts, &list, 1).into_iter();
            Ok(shares.map(|mine| with_raw(&head, "predictions", &format!("[{}]", mine.join(",")))).collect())
        }
        Form::V2 => v2_share(parts, answer),
    }
}

fn v2_share(parts: &[Part], answer: &[u8]) -> Result<Vec<String>, NoShare> {
    let whole: Value = serde_json::from_slice(answer).map_err(|_| NoShare::NoPrediction("it is not JSON"))?;
    let outputs = whole["outputs"].as_array().cloned().ok_or(NoShare::NoPrediction("it has no outputs"))?;
    let rows: usize = parts.iter().map(|part| part.count).sum();
    let mut shares: Vec<Vec<String>> = vec![Vec::new(); parts.len()];
    for (at, mut output) in outputs.into_iter().enumerate() {
        let list = elements(&format!("outputs.{at}.data"), answer).unwrap_or_default();
        if output["shape"][0].as_u64() != u64::try_from(rows).ok() || !list.len().is_multiple_of(rows) {
            return Err(NoShare::WrongCount);
        }
        output.as_object_mut().map(|output| output.shift_remove("data"));
        for (share, (part, mine)) in shares.iter_mut().zip(parts.iter().zip(cut(parts, &list, list.len() / rows))) {
            output["shape"][0] = json!(part.count);
            share.push(with_raw(&output, "data", &format!("[{}]", mine.join(","))));
        }
    }
    let answer = |(part, outputs): (&Part, Vec<String>)| {
        let mut head = whole.clone();
        head.as_object_mut().map(|head| (head.shift_remove("outputs"), head.shift_remove("id")));
        if let Some(id) = &part.id {
            head["id"] = id.clone();
        }
        with_raw(&head, "outputs", &format!("[{}]", outputs.join(",")))
    };
    Ok(parts.iter().zip(shares).map(answer).collect())
}

/// Cuts a list into each part's piece, `each` elements to a row.
fn cut<'l>(parts: &[Part], list: &'l [String], each: usize) -> Vec<&'l [String]> {
    let mut rest = list;
    parts
        .iter()
        .map(|part| {
            let (mine, others) = rest.split_at((part.count * each).min(rest.len()));
            rest = others;
            mine
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(form: Form, bodies: &[&str]) -> Vec<Part> {
        bodies.iter().map(|body| part(form, body.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn v1_bodies_are_joined_and_answers_shared_out_as_they_were_written() {
        let parts = parts(Form::V1, &[r#"{"instances": [[1.10, 2], {"a": "x"}]}"#, r#"{"instances":[3]}"#]);
        assert_eq!(join(Form::V1, &parts), r#"{"instances":[[1.10, 2],{"a": "x"},3]}"#);
        let shares = share(Form::V1, &parts, br#"{"predictions": [0.10, "b", [3]], "more": 1}"#, "id").unwrap();
        assert_eq!(shares[0], r#"{"message":"","batchId":"id","predictions":[0.10,"b"]}"#);
        assert_eq!(shares[1], r#"{"message":"","batchId":"id","predictions":[[3]]}"#);
        assert_eq!(share(Form::V1, &parts, br#"{"predictions": [1]}"#, "id"), Err(NoShare::WrongCount));
        assert!(share(Form::V1, &parts, b"oops", "id").is_err());
    }

    #[test]
    fn requests_that_ask_for_something_else_do_not_go_together() {
        let one = part(Form::V1, br#"{"instances":[1],"b":1,"a":2}"#).unwrap();
        let same = part(Form::V1, br#"{"a":2,"instances":[2],"b":1}"#).unwrap();
        let other = part(Form::V1, br#"{"instances":[1],"a":3}"#).unwrap();
        assert_eq!(one.alike, same.alike);
        assert_ne!(one.alike, other.alike);
        assert_eq!(join(Form::V1, &[one, same]), r#"{"a":2,"b":1,"instances":[1,2]}"#, "the other keys are kept");
    }

    #[test]
    fn what_is_no_prediction_is_refused_in_upstreams_words() {
        for (body, wanted) in [
            ("", NoPart::NotJson),
            ("[1]", NoPart::NotJson),
            ("{}", NoPart::NoInstances),
            (r#"{"instances":[]}"#, NoPart::NoInstances),
            (r#"{"instances":{}}"#, NoPart::NoInstances),
            (r#"{"instances":[1],"instances":[2]}"#, NoPart::Repeated),
            (r#"{"instances":[1],"in\u0073tances":[]}"#, NoPart::Repeated),
        ] {
            assert_eq!(part(Form::V1, body.as_bytes()), Err(wanted), "{body}");
        }
    }

    #[test]
    fn v2_bodies_are_joined_along_the_first_axis() {
        let input = |id: &str, rows: usize, data: &str| {
            format!(
                r#"{{"id":"{id}","inputs":[{{"name":"x","datatype":"FP32","shape":[{rows},2],"data":{data}}}],"parameters":{{"p":1}}}}"#
            )
        };
        let (one, two) = (input("a", 1, "[1.0,2]"), input("b", 2, "[3,4,5,6]"));
        let both = parts(Form::V2, &[&one, &two]);
        assert_eq!(both[0].alike, both[1].alike);
        let joined: Value = serde_json::from_str(&join(Form::V2, &both)).unwrap();
        assert_eq!(joined["inputs"][0]["shape"], json!([3, 2]));
        assert_eq!(joined["inputs"][0]["data"], json!([1.0, 2, 3, 4, 5, 6]));
        assert_eq!((&joined["parameters"], &joined["id"]), (&json!({"p": 1}), &Value::Null));
        let answer = br#"{"model_name":"m","id":"batch","outputs":[{"name":"y","datatype":"INT64","shape":[3],"data":[7,8,9]}]}"#;
        let shares = share(Form::V2, &both, answer, "").unwrap();
        let second: Value = serde_json::from_str(&shares[1]).unwrap();
        assert_eq!((&second["id"], &second["model_name"]), (&json!("b"), &json!("m")));
        assert_eq!(second["outputs"][0], json!({"name":"y","datatype":"INT64","shape":[2],"data":[8,9]}));
        let twice = one.replace(r#""data":"#, r#""data":[9,9],"data":"#);
        assert_eq!(part(Form::V2, twice.as_bytes()), Err(NoPart::NoRows), "left to the server");
        let nested = part(Form::V2, input("c", 1, "[[1,2]]").as_bytes()).unwrap();
        assert_ne!(nested.alike, both[0].alike, "flat and nested data do not go together");
        let short = br#"{"outputs":[{"name":"y","shape":[2],"data":[7,8]}]}"#;
        assert_eq!(share(Form::V2, &both, short, ""), Err(NoShare::WrongCount));
    }
}
