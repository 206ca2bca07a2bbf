//! What a step is sent, and what its answer means for its node.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::compile::{Graph, Node, Step};
use super::condition;
use crate::api::inference_graph::RouterType;

/// What a step or a node answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Status; that of a step is passed on as it is.
    pub status: StatusCode,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// Returns an answer of status 200.
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, body: body.into() }
    }
}

/// Why a node has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// Status of the answer when this is the root.
    pub status: StatusCode,
    /// In words for a person; upstream's where it has any.
    pub cause: String,
}

impl Failure {
    /// A failure with status 500.
    pub fn internal(cause: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, cause: cause.into() }
    }

    /// What the node makes of it that called the one that failed: everything below the root is a 500 (§6.4).
    #[must_use]
    pub fn nested(self) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..self }
    }

    /// Returns the body of the answer.
    pub fn to_body(&self) -> Value {
        json!({ "error": "Failed to process request", "cause": self.cause })
    }
}

/// What a Sequence does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Sends this to the step.
    Send(Bytes),
    /// Ends here with the previous answer and status 200.
    End,
}

/// Decides what becomes of step `at` of a Sequence. `previous` is the answer before; none for the first step.
///
/// # Errors
/// A condition stands where there is no answer to ask, or one that is not JSON.
pub fn next(step: &Step, request: &Bytes, previous: Option<&Answer>) -> Result<Next, Failure> {
    let chosen = match previous {
        Some(previous) if step.takes_response => &previous.body,
        _ => request,
    };
    if !step.condition.is_empty() {
        let before = previous.map_or(&b""[..], |previous| &previous.body);
        if !condition::is_json(before) {
            return Err(Failure::internal("invalid response"));
        }
        if !condition::holds(&step.condition, before) {
            return Ok(Next::End);
        }
    }
    Ok(Next::Send(if step.maps_predictions { map_predictions(chosen) } else { chosen.clone() }))
}

/// Makes `predictions` the `instances` of a body of nothing else. A body without any stays as it is.
pub fn map_predictions(body: &Bytes) -> Bytes {
    match condition::list("predictions", body) {
        Some(predictions) => Bytes::from(format!("{{\"instances\":{predictions}}}")),
        None => body.clone(),
    }
}

/// Whether a step's answer is its node's answer because the node depends on it.
pub fn stops(step: &Step, answer: &Answer) -> bool {
    step.is_hard && !answer.status.is_success()
}

/// Chooses the one step of a Splitter or a Switch.
///
/// # Errors
/// None of them is to be taken.
pub fn one_of(node: &Node, request: &Bytes, thrown: u32) -> Result<usize, Failure> {
    let chosen = match node.router {
        RouterType::Splitter => condition::pick(&node.steps, thrown),
        _ => condition::choose(&node.steps, request),
    };
    chosen.ok_or_else(|| match node.router {
        RouterType::Splitter => Failure::internal(format!("no step of the splitter node `{}` has a weight", node.name)),
        _ => Failure {
            status: StatusCode::NOT_FOUND,
            cause: "None of the routes matched with the switch condition".to_owned(),
        },
    })
}

/// Names a step for messages: `step 1 (iris) of node root`.
pub fn name_step(graph: &Graph, node: usize, step: usize) -> String {
    let node = &graph.nodes[node];
    match &node.steps[step].label {
        label if *label == step.to_string() => format!("step {step} of node `{}`", node.name),
        label => format!("step {step} (`{label}`) of node `{}`", node.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::compile::Target;

    fn step() -> Step {
        Step {
            label: "0".to_owned(),
            target: Target::Service("a".to_owned()),
            takes_response: false,
            maps_predictions: false,
            weight: 0,
            condition: String::new(),
            is_hard: false,
        }
    }

    const REQUEST: Bytes = Bytes::from_static(br#"{"instances": [1]}"#);

    #[test]
    fn a_step_gets_the_request_unless_it_asks_for_the_response() {
        let before = Answer::ok(r#"{"predictions": [7], "more": 1}"#);
        let sent = |step: &Step, previous: Option<&Answer>| next(step, &REQUEST, previous).unwrap();
        assert_eq!(sent(&step(), Some(&before)), Next::Send(REQUEST));
        let takes = Step { takes_response: true, ..step() };
        assert_eq!(sent(&takes, Some(&before)), Next::Send(before.body.clone()));
        assert_eq!(sent(&takes, None), Next::Send(REQUEST), "the first step has nothing else");
        let maps = Step { maps_predictions: true, ..takes };
        assert_eq!(sent(&maps, Some(&before)), Next::Send(Bytes::from_static(br#"{"instances":[7]}"#)));
        assert_eq!(sent(&maps, Some(&Answer::ok("{\"predictions\": []}"))), Next::Send("{\"predictions\": []}".into()));
    }

    #[test]
    fn a_condition_is_held_against_the_previous_answer() {
        let asks = Step { condition: "predictions.#(==1)".to_owned(), ..step() };
        let ask =
            |previous: Option<&str>| next(&asks, &REQUEST, previous.map(|body| Answer::ok(body.to_owned())).as_ref());
        assert_eq!(ask(Some(r#"{"predictions": [1]}"#)), Ok(Next::Send(REQUEST)));
        assert_eq!(ask(Some(r#"{"predictions": [0]}"#)), Ok(Next::End));
        assert_eq!(ask(None).unwrap_err().cause, "invalid response");
        assert_eq!(ask(Some("no json")).unwrap_err().status, 500);
    }

    #[test]
    fn a_switch_without_a_match_is_not_found_and_an_error_within() {
        let node = Node { name: "root".to_owned(), router: RouterType::Switch, steps: vec![step()] };
        let failure = one_of(&node, &REQUEST, 0).unwrap_err();
        assert_eq!(failure.status, 404);
        assert_eq!(failure.cause, "None of the routes matched with the switch condition");
        assert_eq!(failure.nested().status, 500);
    }
}
