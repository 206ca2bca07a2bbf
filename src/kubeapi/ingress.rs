//! The gateway under the names that KServe's tutorials look for: the Service of Istio's ingress gateway and the one of
//! Envoy's, each with a pod. Whoever asks them for host and port, or forwards their port, reaches the data port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pods::whole_seconds;
use super::views::{NODE, derived_uid};

/// Port that tutorials forward.
const PORT: u16 = 80;

/// Where a tutorial looks: namespace, name, labels.
struct Door {
    namespace: &'static str,
    name: &'static str,
    labels: &'static [(&'static str, &'static str)],
}

const DOORS: [Door; 2] = [
    Door {
        namespace: "istio-system",
        name: "istio-ingressgateway",
        labels: &[("app", "istio-ingressgateway"), ("istio", "ingressgateway")],
    },
    Door {
        namespace: "envoy-gateway-system",
        name: "kserve-ingress-gateway",
        labels: &[
            ("gateway.envoyproxy.io/owning-gateway-namespace", "kserve"),
            ("gateway.envoyproxy.io/owning-gateway-name", "kserve-ingress-gateway"),
        ],
    },
];

impl Door {
    fn metadata(&self, kind: &str, name: &str, born: Timestamp) -> Value {
        let labels: serde_json::Map<String, Value> =
            self.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        json!({
            "name": name, "namespace": self.namespace, "uid": derived_uid(&[kind, self.namespace, name]),
            "labels": labels, "creationTimestamp": whole_seconds(born),
            "annotations": {"kserve-local/status": "Running"},
        })
    }

    fn pod_name(&self) -> String {
        format!("{}-0", self.name)
    }
}

/// Returns the gateway's Services.
pub fn services(address: SocketAddr, born: Timestamp) -> Vec<Value> {
    let ip = reachable(address).ip().to_string();
    let service = |door: &Door| {
        let metadata = door.metadata("Service", door.name, born);
        let port = |name: &str, port: u16| {
            json!({
                "name": name, "protocol": "TCP", "port": port, "targetPort": address.port(), "nodePort": address.port(),
            })
        };
        json!({
            "kind": "Service", "apiVersion": "v1", "metadata": metadata,
            "spec": {
                "type": "LoadBalancer", "clusterIP": ip, "clusterIPs": [ip], "selector": metadata["labels"],
                "ports": [port("http2", address.port()), port("http", PORT)],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": ip}]}},
        })
    };
    DOORS.iter().map(service).collect()
}

/// Returns the gateway as a pod of each of its Services.
pub fn pods(address: SocketAddr, born: Timestamp) -> Vec<Value> {
    let (ip, since) = (reachable(address).ip().to_string(), whole_seconds(born));
    let pod = |door: &Door| {
        let state = json!({"running": {"startedAt": since}});
        json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": door.metadata("Pod", &door.pod_name(), born),
            "spec": {
                "containers": [{
                    "name": "gateway", "image": "kserve-local", "resources": {},
                    "ports": [{"name": "http2", "containerPort": address.port(), "protocol": "TCP"}],
                }],
                "nodeName": NODE, "restartPolicy": "Always", "dnsPolicy": "Default", "securityContext": {},
            },
            "status": {
                "phase": "Running", "hostIP": ip, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": since,
                "qosClass": "BestEffort",
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
                "containerStatuses": [{
                    "name": "gateway", "image": "kserve-local", "imageID": "", "ready": true, "started": true,
                    "restartCount": 0, "state": state,
                }],
            },
        })
    };
    DOORS.iter().map(pod).collect()
}

/// Whether a pod is the gateway.
pub fn is_gateway(namespace: &str, name: &str) -> bool {
    DOORS.iter().any(|door| door.namespace == namespace && door.pod_name() == name)
}

/// Returns an address that leads to a listener from this machine.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    SocketAddr::new(ip, address.port())
}
