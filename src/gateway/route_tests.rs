use std::collections::BTreeMap;

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::plan::routes::{ComponentRoute, RouteState};
use crate::workload::Extras;
use crate::workload::names::component_service_name;

use ComponentKind::{Explainer, Predictor, Transformer};

fn service(namespace: &str, name: &str, kinds: &[ComponentKind], models: &[&str]) -> Arc<ServiceRoute> {
    let component = |kind: &ComponentKind| {
        let route = ComponentRoute {
            service_name: component_service_name(name, *kind, None),
            state: RouteState::Open(Vec::new()),
            tags: BTreeMap::new(),
            closed: BTreeMap::new(),
            timeout: None,
            extras: Extras::default(),
        };
        (*kind, route)
    };
    let (components, models) = (kinds.iter().map(component).collect(), models.iter().map(|&model| model.to_owned()));
    Arc::new(ServiceRoute::new(ServiceKey::new(namespace, name), components, models.collect()))
}

fn index(services: Vec<Arc<ServiceRoute>>) -> RouteIndex {
    let services: BTreeMap<_, _> = services.into_iter().map(|one| (one.key.clone(), one)).collect();
    RouteIndex::new(Arc::new(RouteTable {
        domains: vec!["example.com".into(), "localhost".into()],
        services,
        ..RouteTable::default()
    }))
}

fn sample() -> RouteIndex {
    index(vec![
        service("default", "iris", &[Predictor], &["iris"]),
        service("ml", "text", &[Predictor, Transformer, Explainer], &["text", "org/text"]),
        service("ml", "twin", &[Predictor], &["twin"]),
        service("default", "twin", &[Predictor], &["twin"]),
        // `a-b-c` could be `a` in `b-c` or `a-b` in `c`.
        service("b-c", "a", &[Predictor], &[]),
        service("c", "a-b", &[Predictor], &[]),
        // Its own host looks like a component host of `text`.
        service("ml", "text-predictor", &[Predictor], &[]),
        service("none", "empty", &[], &[]),
    ])
}

/// `namespace/name component -strip`, or what else comes of it.
fn tell(route: &Route) -> String {
    match route {
        Route::To(Target { service, component, strip: 0, .. }) => format!("{} {component}", service.key),
        Route::To(Target { service, component, strip, .. }) => format!("{} {component} -{strip}", service.key),
        Route::Ask(question) => format!("{question:?}"),
        Route::Graph(graph) => format!("graph {}", graph.key),
        Route::Own(answer) => format!("{answer:?}"),
        Route::Miss(miss) => format!("{:?} {} {}", miss.reason, miss.wanted, miss.candidates.len()),
    }
}

fn find(index: &RouteIndex, method: &str, host: &str, path: &str, grpc: bool) -> String {
    let method: Method = method.parse().unwrap();
    tell(&index.find(Head { method: &method, host: Some(host), path, grpc }))
}

#[test]
fn what_is_cluster_local_is_found_by_its_names_within_a_cluster_only() {
    let hidden = service("default", "iris", &[Predictor], &["iris"]);
    let hidden = ServiceRoute { cluster_local: true, ..ServiceRoute::clone(&hidden) };
    let index = index(vec![Arc::new(hidden), service("default", "wine", &[Predictor], &["wine"])]);
    let refused = "ClusterLocal default/iris 0";
    for (host, path, wanted) in [
        ("iris.default.svc.cluster.local:8080", "/x", "default/iris predictor"),
        ("IRIS-predictor.default.svc.", "/x", "default/iris predictor"),
        ("iris.default", "/x", "default/iris predictor"),
        ("iris-default.example.com", "/x", refused),
        ("iris-predictor.default.localhost", "/x", refused),
        ("localhost:8080", "/serving/default/iris/x", refused),
        ("localhost:8080", "/v1/models/iris:predict", "UnknownModel iris 0"),
        ("localhost:8080", "/v1/models/wine:predict", "default/wine predictor"),
    ] {
        assert_eq!(find(&index, "GET", host, path, false), wanted, "{host}{path}");
    }
}

#[test]
fn a_language_model_is_found_by_its_path_and_others_are_not() {
    let chat = service("team", "chat", &[Predictor], &["chat", "org/tiny"]);
    let by_path = Arc::new(ServiceRoute { by_path: true, ..ServiceRoute::clone(&chat) });
    let index = index(vec![by_path, service("team", "iris", &[Predictor], &["iris"])]);
    for (method, path, wanted) in [
        ("POST", "/team/chat/v1/chat/completions", "team/chat predictor -10"),
        ("GET", "/team/chat", "team/chat predictor -10"),
        ("GET", "/team/chatter/v1", "UnknownPath /team/chatter/v1 0"),
        ("POST", "/team/iris/v1/chat/completions", "UnknownPath /team/iris/v1/chat/completions 0"),
        ("POST", "/v1/chat/completions", "JsonModel"),
        ("POST", "/v2/repository/index", "RepositoryIndex"),
    ] {
        assert_eq!(find(&index, method, "localhost", path, false), wanted, "{method} {path}");
    }
}

#[test]
fn a_trained_model_is_named_by_path_and_by_body() {
    let shelf = service("default", "shelf", &[Predictor], &["shelf", "rose"]);
    let trained = BTreeMap::from([("rose".to_owned(), RouteState::Open(Vec::new()))]);
    let index = index(vec![Arc::new(ServiceRoute { trained, ..ServiceRoute::clone(&shelf) })]);
    let asked = |route: Route| match route {
        Route::To(target) => target.model.as_deref().map(str::to_owned),
        other => panic!("{other:?}"),
    };
    let by_path =
        |host: &str, path: &str| asked(index.find(Head { method: &Method::POST, host: Some(host), path, grpc: false }));
    for (host, path, model) in [
        ("localhost", "/v2/models/rose/infer", Some("rose")),
        ("localhost", "/v1/models/rose:predict", Some("rose")),
        ("shelf.default.example.com", "/v2/models/rose/infer", Some("rose")),
        ("localhost", "/serving/default/shelf/v2/models/rose/ready", Some("rose")),
        ("shelf.default.example.com", "/v2/models/iris/infer", None),
        ("shelf.default.example.com", "/v2/health/ready", None),
    ] {
        assert_eq!(by_path(host, path).as_deref(), model, "{host} {path}");
    }
    assert_eq!(asked(index.by_model("rose", "/")).as_deref(), Some("rose"));
    assert_eq!(asked(index.by_model("shelf", "/")), None);
}

#[test]
fn every_form_of_address_goes_where_it_says() {
    let index = sample();
    for (host, path, wanted) in [
        ("iris-default.example.com", "/", "default/iris predictor"),
        ("IRIS-Default.Example.Com.:8080", "/v1/models", "default/iris predictor"),
        ("iris.default.localhost", "/x", "default/iris predictor"),
        ("iris.default.svc.cluster.local", "/x", "default/iris predictor"),
        ("iris.default.svc:80", "/x", "default/iris predictor"),
        ("iris.default", "/x", "default/iris predictor"),
        ("iris-predictor.default", "/x", "default/iris predictor"),
        ("text-ml.example.com", "/v1/models/text:predict", "ml/text transformer"),
        ("text-ml.example.com", "/v1/models/text:explain", "ml/text explainer"),
        ("text-ml.example.com", "/v1/models/org/text:explain", "ml/text transformer"),
        ("text-ml.example.com", "/v1/models/:explain", "ml/text transformer"),
        ("text-ml.example.com", "/v1/models/te.xt:explain", "ml/text transformer"),
        ("text-ml.example.com", "/v1/models/text:explain/", "ml/text transformer"),
        ("iris-default.localhost", "/v1/models/iris:explain", "default/iris predictor"),
        ("text-explainer-ml.example.com", "/v1/models/text:predict", "ml/text explainer"),
        ("text-transformer.ml.example.com", "/v1/models/text:explain", "ml/text transformer"),
        ("text-predictor-ml.example.com", "/", "ml/text-predictor predictor"),
        ("text-predictor-predictor-ml.example.com", "/", "ml/text-predictor predictor"),
        ("a-b-c.example.com", "/", "AmbiguousHost a-b-c 2"),
        ("a.b-c.example.com", "/", "b-c/a predictor"),
        ("a-b.c.example.com", "/", "c/a-b predictor"),
        ("nobody-default.example.com", "/v1/models/iris", "UnknownHost nobody-default.example.com 0"),
        ("deep.iris-default.example.com", "/", "UnknownHost deep.iris-default.example.com 0"),
        ("empty-none.example.com", "/", "NoComponent none/empty 1"),
        ("example.com", "/serving/default/iris", "default/iris predictor -21"),
        ("localhost", "/serving/default/iris/v1/models/iris", "default/iris predictor -21"),
        ("localhost", "/serving/ml/text/v1/models/text:explain", "ml/text explainer -16"),
        ("localhost", "/serving/default/nobody/x", "UnknownService default/nobody 0"),
        ("localhost", "/serving/default", "UnknownService default 0"),
        ("elsewhere.org", "/v1/models/iris", "default/iris predictor"),
        ("127.0.0.1:8080", "/v1/models/iris:predict", "default/iris predictor"),
        ("[::1]:8080", "/v2/models/iris/versions/1/infer", "default/iris predictor"),
        ("localhost", "/v2/repository/models/iris/load", "default/iris predictor"),
        ("localhost", "/v1/models/org/text:predict", "ml/text transformer"),
        ("localhost", "/openai/v1/models/org/text", "ml/text transformer"),
        ("localhost", "/v1/models/iris%3Apredict", "UnknownModel iris%3Apredict 0"),
        ("localhost", "/v1/models/IRIS", "UnknownModel IRIS 0"),
        ("localhost", "/v1/models/irisx", "UnknownModel irisx 0"),
        ("localhost", "/v1/models/twin", "AmbiguousModel twin 2"),
        ("localhost", "//v1/models/iris", "UnknownPath //v1/models/iris 0"),
        ("localhost", "/v1/models", "V1Models"),
        ("localhost", "/v2/models", "V2Models"),
        ("localhost", "/openai/v1/models", "OpenAiModels"),
        ("localhost", "/", "Root"),
        ("localhost", "/favicon.ico", "UnknownPath /favicon.ico 0"),
        ("localhost", "/v1/chat/completions", "UnknownPath /v1/chat/completions 0"),
        ("localhost", "*", "UnknownPath * 0"),
    ] {
        assert_eq!(find(&index, "GET", host, path, false), wanted, "{host} {path}");
    }
}

#[test]
fn bodies_name_the_model_where_paths_do_not() {
    let index = sample();
    for (path, grpc, wanted) in [
        ("/v1/chat/completions", false, "JsonModel"),
        ("/openai/v1/embeddings", false, "JsonModel"),
        ("/v1/timeseries/forecast", false, "JsonModel"),
        ("/inference.GRPCInferenceService/ModelInfer", true, "GrpcModel(Field(1))"),
        ("/inference.GRPCInferenceService/RepositoryModelLoad", true, "GrpcModel(Field(2))"),
        ("/tensorflow.serving.PredictionService/Predict", true, "GrpcModel(Nested)"),
        ("/other.Service/Do", true, "UnknownPath /other.Service/Do 0"),
    ] {
        assert_eq!(find(&index, "POST", "localhost", path, grpc), wanted, "{path}");
    }
    assert_eq!(find(&index, "POST", "iris-default.localhost", "/other.Service/Do", true), "default/iris predictor");
    assert_eq!(tell(&index.by_model("text", "/v1/models/text:explain")), "ml/text explainer");
    assert_eq!(tell(&index.by_model("twin", "/")), "AmbiguousModel twin 2");
    assert_eq!(tell(&index.by_model("nobody", "/")), "UnknownModel nobody 0");
}

fn table() -> impl Strategy<Value = Vec<Arc<ServiceRoute>>> {
    let label = "[a-c](-[a-c]){0,2}";
    proptest::collection::btree_set((label, label), 1..8).prop_map(|keys| {
        let make = |(namespace, name): (String, String)| {
            let model = format!("model-{namespace}.{name}");
            service(&namespace, &name, &[Predictor, Transformer], &[&model])
        };
        keys.into_iter().map(make).collect()
    })
}

proptest! {
    #[test]
    fn no_request_makes_the_lookup_panic(services in table(), host in "\\PC{0,30}", path in "/?\\PC{0,40}", grpc: bool) {
        let _ = find(&index(services), "POST", &host, &path, grpc);
    }

    #[test]
    fn odd_hosts_and_paths_of_known_parts_do_not_panic(
        services in table(), host in "[a-c.:\\-]{0,12}(predictor|svc|localhost|\\[)?", path in "/(serving/|v1/models/|v2/models/)?[a-c/:.\\-]{0,12}",
    ) {
        let _ = find(&index(services), "GET", &host, &path, false);
    }

    /// A form that spells out the namespace finds exactly its service; a dashed one finds it, or says that it is
    /// ambiguous when another service or component has the same spelling.
    #[test]
    fn every_form_of_every_service_finds_exactly_it(services in table()) {
        let index = index(services.clone());
        for one in &services {
            let ServiceKey { namespace, name } = &one.key;
            let top = format!("{}/{} transformer", namespace, name);
            let predictor = format!("{}/{} predictor", namespace, name);
            for domain in ["example.com", "localhost", "svc.cluster.local", "svc"] {
                prop_assert_eq!(find(&index, "GET", &format!("{name}.{namespace}.{domain}"), "/", false), top.clone());
                let host = format!("{name}-predictor.{namespace}.{domain}");
                prop_assert_eq!(find(&index, "GET", &host, "/", false), predictor.clone());
            }
            let dashed = format!("{name}-{namespace}");
            let twins = services.iter().filter(|other| format!("{}-{}", other.key.name, other.key.namespace) == dashed);
            let found = find(&index, "GET", &format!("{dashed}.example.com"), "/", false);
            match twins.count() {
                1 => prop_assert_eq!(found, top.clone()),
                twins => prop_assert_eq!(found, format!("AmbiguousHost {dashed} {twins}")),
            }
            let strip = "/serving//".len() + namespace.len() + name.len();
            let found = find(&index, "GET", "localhost", &format!("/serving/{namespace}/{name}/v1"), false);
            prop_assert_eq!(found, format!("{top} -{strip}"));
            for path in [
                format!("/v1/models/model-{namespace}.{name}:predict"),
                format!("/v2/models/model-{namespace}.{name}/infer"),
            ] {
                prop_assert_eq!(find(&index, "GET", "localhost", &path, false), top.clone());
            }
        }
    }
}

#[test]
fn a_named_canary_that_does_not_answer_is_closed_on_its_own_host_alone() {
    let mut iris = service("default", "iris", &[Predictor], &["iris"]).as_ref().clone();
    let predictor = iris.components.get_mut(&Predictor).unwrap();
    let name = "iris-green-predictor";
    predictor.tags.insert(name.to_owned(), Vec::new());
    let (reason, message) = ("ModelLoading".to_owned(), "it loads".to_owned());
    let second = std::time::Duration::from_secs(1);
    let closed = RouteState::NotReady { reason, message, retry_after: second };
    predictor.closed.insert(name.to_owned(), closed.clone());
    let index = index(vec![Arc::new(iris)]);
    let state = |host: &str| {
        let head = Head { method: &Method::GET, host: Some(host), path: "/v1/models/iris", grpc: false };
        match index.find(head) {
            Route::To(target) => target.state(&target.service).cloned(),
            _ => None,
        }
    };
    assert_eq!(state("iris-green-predictor-default.example.com"), Some(closed));
    assert_eq!(state("iris-predictor-default.example.com"), Some(RouteState::Open(Vec::new())));
}

#[test]
fn a_named_canary_has_a_host_of_its_own() {
    let mut iris = service("default", "iris", &[Predictor], &["iris"]).as_ref().clone();
    let predictor = iris.components.get_mut(&Predictor).unwrap();
    predictor.tags.insert("iris-green-predictor".to_owned(), Vec::new());
    predictor.tags.insert("latest".to_owned(), Vec::new());
    let index = index(vec![Arc::new(iris)]);
    let tag = |host: &str| {
        let head = Head { method: &Method::GET, host: Some(host), path: "/v1/models/iris", grpc: false };
        match index.find(head) {
            Route::To(target) => Some((target.component, target.tag)),
            _ => None,
        }
    };
    let green = Some((Predictor, Some(Tag::Canary("iris-green-predictor".into()))));
    assert_eq!(tag("iris-green-predictor-default.example.com"), green);
    assert_eq!(tag("iris-green-predictor.default.svc.cluster.local"), green);
    assert_eq!(tag("iris-predictor-default.example.com"), Some((Predictor, None)));
    assert_eq!(tag("latest-iris-predictor-default.example.com"), Some((Predictor, Some(Tag::Latest))));
    assert_eq!(tag("iris-blue-predictor-default.example.com"), None);
}
