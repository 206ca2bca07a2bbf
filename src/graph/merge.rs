//! An Ensemble's answers as one.

use bytes::Bytes;
use serde_json::Value;

use super::compile::Step;
use super::condition;
use super::step::{self, Answer, Failure};

/// Puts the answers of all steps together, in the order of the steps: `{label: answer}`, status 200. A step the node
/// depends on that failed is the answer instead, the first of them in that order.
///
/// # Errors
/// An answer is no JSON object.
pub fn merge(steps: &[Step], answers: Vec<Answer>) -> Result<Answer, Failure> {
    if let Some(at) = steps.iter().zip(&answers).position(|(step, answer)| step::stops(step, answer)) {
        return Ok(answers.into_iter().nth(at).unwrap_or_else(|| Answer::ok(Bytes::new())));
    }
    // Put together as text: no number is read and written again.
    let mut merged: Vec<(&str, &[u8])> = Vec::with_capacity(steps.len());
    for (step, answer) in steps.iter().zip(&answers) {
        let body = answer.body.trim_ascii();
        if !condition::is_json(body) {
            return Err(Failure::internal(format!("the answer of step `{}` is not JSON", step.label)));
        }
        if body.first() != Some(&b'{') {
            return Err(Failure::internal(format!("the answer of step `{}` is not a JSON object", step.label)));
        }
        merged.retain(|(label, _)| *label != step.label);
        merged.push((&step.label, body));
    }
    Ok(Answer::ok(join(&merged)))
}

fn join(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = vec![b'{'];
    for (at, (label, body)) in parts.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.extend_from_slice(Value::from(*label).to_string().as_bytes());
        text.push(b':');
        text.extend_from_slice(body);
    }
    text.push(b'}');
    text
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::graph::compile::Target;

    fn step(label: &str, is_hard: bool) -> Step {
        Step {
            label: label.to_owned(),
            target: Target::Node(0),
            takes_response: false,
            maps_predictions: false,
            weight: 0,
            condition: String::new(),
            is_hard,
        }
    }

    fn failed(body: &str) -> Answer {
        Answer { status: StatusCode::SERVICE_UNAVAILABLE, body: body.to_owned().into() }
    }

    #[test]
    fn answers_are_put_together_under_their_labels() {
        let steps = [step("b", false), step("1", false)];
        let merged = merge(
            &steps,
            vec![Answer::ok(r#" {"x":1.10, "y":12345678901234567890123}"#), failed(r#"{"error":"down"}"#)],
        )
        .unwrap();
        assert_eq!(
            merged,
            Answer::ok(r#"{"b":{"x":1.10, "y":12345678901234567890123},"1":{"error":"down"}}"#),
            "a soft failure is data"
        );
    }

    #[test]
    fn a_step_that_is_needed_and_fails_is_the_answer() {
        let steps = [step("a", false), step("b", true), step("c", true)];
        let answers = vec![Answer::ok("{}"), failed("first"), failed("second")];
        assert_eq!(merge(&steps, answers).unwrap(), failed("first"));
    }

    #[test]
    fn what_is_no_object_cannot_be_merged() {
        let failure = merge(&[step("a", false)], vec![Answer::ok("[1]")]).unwrap_err();
        assert_eq!(failure, Failure::internal("the answer of step `a` is not a JSON object"));
        assert!(merge(&[step("a", false)], vec![Answer::ok("x")]).is_err());
    }
}
