//! Rules about an InferenceGraph (§6.2, `V1A1/inference_graph_validation.go`), with upstream's messages; and what upstream
//! finds out only when a request comes: nodes that are not there, cycles, URLs nobody can call.

use std::collections::BTreeSet;

use crate::api::InferenceGraphSpec;
use crate::api::inference_graph::{GraphNode, GraphStep, ROOT, RouterType};
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::known::nearest;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

/// What a Splitter's weights add up to.
const WHOLE: i64 = 100;
/// Modifiers of GJSON paths that are understood here.
const MODIFIERS: [&str; 7] = ["this", "reverse", "ugly", "pretty", "valid", "flatten", "join"];

pub(super) fn check(graph: &str, spec: &InferenceGraphSpec, report: &mut Report<'_>) {
    let path = FieldPath::of(&["spec"]);
    let nodes = path.key("nodes");
    // That there are no nodes at all has been told.
    if !spec.nodes.is_empty() && !spec.nodes.contains_key(ROOT) {
        let message = "root node not found, InferenceGraph needs a node with name 'root' as the root node of the graph";
        report.invalid(&nodes, message);
    }
    for (name, node) in &spec.nodes {
        let place = Place { graph, node: name, path: nodes.key(name) };
        check_steps(node, &place, report);
        check_labels(node, &place, report);
        for (index, step) in node.steps.iter().enumerate() {
            let place = Place { path: place.path.key("steps").index(index), ..place };
            check_target(index, step, &place, report);
            check_node_name(step, spec, &place, report);
            check_url(step, &place, report);
            check_use(index, step, node, &place, report);
        }
        check_weights(node, &place, report);
    }
    check_shape(spec, &nodes, report);
    check_times(spec, &path, report);
}

/// Where a rule looks.
struct Place<'a> {
    graph: &'a str,
    node: &'a str,
    path: FieldPath,
}

fn check_steps(node: &GraphNode, place: &Place<'_>, report: &mut Report<'_>) {
    if node.steps.is_empty() && node.router_type != RouterType::Splitter {
        let message = format!("node \"{}\" has no steps", place.node);
        report.warning(&place.path, DiagnosticCode::Suspicious, message);
    }
}

fn check_labels(node: &GraphNode, place: &Place<'_>, report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    for (index, step) in node.steps.iter().enumerate() {
        let Some(name) = step.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        if !seen.insert(name) {
            report.invalid(
                &place.path.key("steps").index(index).key("name"),
                format!(
                    "Node \"{}\" of InferenceGraph \"{}\" contains more than one step with name \"{name}\"",
                    place.node, place.graph
                ),
            );
        }
    }
}

fn check_target(index: usize, step: &GraphStep, place: &Place<'_>, report: &mut Report<'_>) {
    let name = step.name.as_deref().unwrap_or_default();
    let subject = format!("Step {index} (\"{name}\") in node \"{}\" of InferenceGraph \"{}\"", place.node, place.graph);
    match step.targets().as_slice() {
        [_] => {}
        [] => {
            report.invalid(&place.path, format!("{subject} does not specify an inference target"));
            report.help("write one of serviceName, serviceUrl and nodeName");
        }
        [.., (last, _)] => {
            let message = format!("{subject} specifies more than one of nodeName, serviceName, serviceUrl");
            report.invalid(&place.path.key(last), message);
            report.help("keep one of them");
        }
    }
}

fn check_node_name(step: &GraphStep, spec: &InferenceGraphSpec, place: &Place<'_>, report: &mut Report<'_>) {
    let Some(name) = step.node_name.as_deref().filter(|name| !name.is_empty()) else { return };
    if spec.nodes.contains_key(name) {
        return;
    }
    report.invalid(&place.path.key("nodeName"), format!("there is no node \"{name}\" in this graph"));
    let names: Vec<&str> = spec.nodes.keys().map(String::as_str).collect();
    match nearest(name, &names) {
        Some(near) => report.help(format!("did you mean `{near}`?")),
        None => report.help(format!("there are {}; an InferenceService is called by serviceName", names.join(", "))),
    };
}

fn check_url(step: &GraphStep, place: &Place<'_>, report: &mut Report<'_>) {
    let Some(written) = step.service_url.as_deref().filter(|url| !url.is_empty()) else { return };
    let path = place.path.key("serviceUrl");
    let wrong = match url::Url::parse(written.trim()) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => format!("its scheme is `{}`", url.scheme()),
        Ok(_) if written.contains('{') => "a placeholder in it is not filled in".to_owned(),
        Ok(_) => return,
        Err(_) if written.contains('{') => "a placeholder in it is not filled in".to_owned(),
        Err(error) => error.to_string(),
    };
    report.invalid(&path, format!("serviceUrl `{written}` cannot be called: {wrong}"));
    report.help("write http://<host>/<path>, for example http://iris.default.example.com/v1/models/iris:predict");
}

/// Finds what a step says that its node does not listen to.
fn check_use(index: usize, step: &GraphStep, node: &GraphNode, place: &Place<'_>, report: &mut Report<'_>) {
    let kind = node.router_type;
    let condition = step.condition.as_deref().unwrap_or_default();
    let mut warn = |field: &str, message: String| {
        report.warning(&place.path.key(field), DiagnosticCode::Suspicious, message);
    };
    if let Some(data) = step.data.as_deref().filter(|data| !matches!(*data, "" | "$request" | "$response")) {
        warn("data", format!("data `{data}` means $request; only $request and $response mean something"));
    }
    match kind {
        RouterType::Switch if condition.is_empty() => {
            warn("condition", "a step of a Switch without a condition is never taken".to_owned());
        }
        RouterType::Sequence if index == 0 && !condition.is_empty() => {
            let message = "the first step of a Sequence has no earlier answer to hold its condition against; it fails";
            warn("condition", message.to_owned());
        }
        RouterType::Ensemble | RouterType::Splitter if !condition.is_empty() => {
            warn("condition", format!("the condition is ignored: a {kind:?} asks no conditions"));
        }
        _ => {}
    }
    for name in modifiers(condition).filter(|name| !MODIFIERS.contains(name)) {
        warn("condition", format!("the GJSON modifier `@{name}` is not known; the condition may never hold"));
    }
}

/// Returns the names of modifiers a GJSON path uses.
fn modifiers(path: &str) -> impl Iterator<Item = &str> {
    let begins = path.match_indices('@').filter(|(at, _)| {
        let before = path[..*at].chars().next_back();
        before.is_none_or(|c| matches!(c, '.' | '|' | '[' | '{' | ',' | ':'))
    });
    begins.map(|(at, _)| {
        let rest = &path[at + 1..];
        &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len())]
    })
}

fn check_weights(node: &GraphNode, place: &Place<'_>, report: &mut Report<'_>) {
    if node.router_type != RouterType::Splitter {
        return;
    }
    let head = format!("InferenceGraph[{}] Node[{}]", place.graph, place.node);
    let mut sum = 0;
    for (index, step) in node.steps.iter().enumerate() {
        let path = place.path.key("steps").index(index);
        match step.weight {
            None => {
                let route = step.service_name.as_deref().unwrap_or_default();
                report.invalid(&path, format!("{head} Route[{route}] missing the 'Weight'"));
                report.help("write weight: the percent of requests that go there");
                return;
            }
            Some(weight) if !(0..=WHOLE).contains(&weight) => {
                report.invalid(&path.key("weight"), format!("a weight is between 0 and 100, not {weight}"));
            }
            Some(weight) => sum += weight,
        }
    }
    if sum != WHOLE {
        let message = format!("{head} splitter node: the sum of traffic weights for all routing targets should be 100");
        report.invalid(&place.path.key("steps"), message);
        report.help(format!("the weights add up to {sum}"));
    }
}

fn check_shape(spec: &InferenceGraphSpec, nodes: &FieldPath, report: &mut Report<'_>) {
    if let Some((node, index, round)) = spec.cycle() {
        let path = nodes.key(&node).key("steps").index(index).key("nodeName");
        report.invalid(&path, format!("the nodes call each other in a circle: {}", round.join(" -> ")));
        report.help("a request would never come to an end; make one of the steps call a service");
        return;
    }
    let mut reached = BTreeSet::from([ROOT]);
    let mut ahead = vec![ROOT];
    while let Some(name) = ahead.pop() {
        let steps = spec.nodes.get(name).into_iter().flat_map(|node| &node.steps);
        ahead.extend(steps.filter_map(|step| step.node_name.as_deref()).filter(|next| reached.insert(next)));
    }
    for name in spec.nodes.keys().filter(|name| !reached.contains(name.as_str())) {
        let message = format!("no request comes to node \"{name}\": no step leads there from root");
        report.warning(&nodes.key(name), DiagnosticCode::Suspicious, message);
    }
}

fn check_times(spec: &InferenceGraphSpec, path: &FieldPath, report: &mut Report<'_>) {
    let times = spec.router_timeouts.clone().unwrap_or_default();
    let place = path.key("routerTimeouts");
    for (path, value) in [
        (path.key("timeout"), spec.timeout),
        (place.key("serverRead"), times.server_read),
        (place.key("serverWrite"), times.server_write),
        (place.key("serverIdle"), times.server_idle),
        (place.key("serviceClient"), times.service_client),
    ] {
        if value.is_some_and(|seconds| seconds < 0) {
            report.invalid(&path, "a time cannot be less than 0 seconds");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::manifest::{Decoded, decode};

    fn check(spec: &str) -> Decoded {
        let head =
            "apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {name: g}\nspec:\n  nodes:\n";
        decode("g.yaml", &format!("{head}{spec}"))
    }

    fn said(spec: &str) -> Vec<String> {
        let told = check(spec).diagnostics;
        told.iter()
            .map(|one| {
                let at = one.position.unwrap_or_default();
                format!("{}:{} {} {}", at.line, at.column, one.field.as_deref().unwrap_or_default(), one.message)
            })
            .collect()
    }

    #[test]
    fn a_graph_of_every_router_is_taken() {
        let graph = "
    root:
      routerType: Sequence
      steps: [{serviceName: a}, {nodeName: split, data: $response, condition: 'predictions.#(==1)', dependency: Hard}]
    split: {routerType: Splitter, steps: [{serviceName: a, weight: 20}, {nodeName: any, weight: 80}]}
    any: {routerType: Ensemble, steps: [{serviceName: a, name: x}, {serviceUrl: 'http://b.c/d', name: z}]}
";
        let decoded = check(graph);
        assert_eq!(decoded.diagnostics, []);
        assert_eq!(decoded.objects.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words_and_with_its_place() {
        for (graph, wanted) in [
            (
                "    other: {routerType: Switch, steps: [{serviceName: a, condition: x}]}\n",
                "5:3 spec.nodes root node not found, InferenceGraph needs a node with name 'root' as the root node of the graph",
            ),
            (
                "    root: {routerType: Sequence, steps: [{name: x}]}\n",
                "6:42 spec.nodes.root.steps[0] Step 0 (\"x\") in node \"root\" of InferenceGraph \"g\" does not specify an inference target",
            ),
            (
                "    root: {routerType: Sequence, steps: [{serviceName: a, serviceUrl: 'http://x'}]}\n",
                "spec.nodes.root.steps[0].serviceUrl Step 0 (\"\") in node \"root\" of InferenceGraph \"g\" specifies more than one of nodeName, serviceName, serviceUrl",
            ),
            (
                "    root: {routerType: Ensemble, steps: [{serviceName: a, name: x}, {serviceName: b, name: x}]}\n",
                "Node \"root\" of InferenceGraph \"g\" contains more than one step with name \"x\"",
            ),
            (
                "    root: {routerType: Splitter, steps: [{serviceName: a, weight: 20}, {serviceName: b, weight: 70}]}\n",
                "InferenceGraph[g] Node[root] splitter node: the sum of traffic weights for all routing targets should be 100",
            ),
            (
                "    root: {routerType: Splitter, steps: [{serviceName: a}]}\n",
                "InferenceGraph[g] Node[root] Route[a] missing the 'Weight'",
            ),
            (
                "    root: {routerType: Sequence, steps: [{nodeName: rot}]}\n",
                "spec.nodes.root.steps[0].nodeName there is no node \"rot\" in this graph",
            ),
            (
                "    root: {routerType: Sequence, steps: [{nodeName: b}]}\n    b: {routerType: Sequence, steps: [{nodeName: root}]}\n",
                "the nodes call each other in a circle",
            ),
            (
                "    root: {routerType: Sequence, steps: [{serviceUrl: 'http://a.{domain}/x'}]}\n",
                "serviceUrl `http://a.{domain}/x` cannot be called: a placeholder in it is not filled in",
            ),
        ] {
            let told = said(graph);
            assert!(told.iter().any(|one| one.contains(wanted)), "{wanted}\nis not in {told:#?}");
            assert_eq!(check(graph).objects, [], "{graph}");
        }
    }

    #[test]
    fn what_is_likely_a_mistake_is_a_warning() {
        let graph = "
    root: {routerType: Switch, steps: [{serviceName: a}, {serviceName: b, condition: '@keys'}]}
    alone: {routerType: Sequence, steps: []}
";
        let told = said(graph).join("\n");
        for wanted in ["is never taken", "`@keys` is not known", "no step leads there from root", "has no steps"] {
            assert!(told.contains(wanted), "{wanted}\nis not in {told}");
        }
        assert_eq!(check(graph).objects.len(), 1);
    }
}
