//! The ConfigMap `inferenceservice-config`: our settings under the keys where KServe's clients look for its own (§9).

use serde_json::{Value, json};

use crate::api::meta;

/// Settings that clients may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Domains of services, the one of their addresses first.
    pub domains: Vec<String>,
    /// Deployment mode of a service that names none.
    pub default_mode: String,
}

impl Default for Published {
    fn default() -> Self {
        Self { domains: vec!["localhost".to_owned()], default_mode: "Standard".to_owned() }
    }
}

impl Published {
    /// Returns the ConfigMap; each value is a JSON document.
    pub fn config_map(&self) -> Value {
        let credentials = json!({
            "storageSpecSecretName": "storage-config",
            "storageSecretNameAnnotation": meta::STORAGE_SECRET_NAME,
            "gcs": {"gcsCredentialFileName": "gcloud-application-credentials.json"},
            "s3": {"s3AccessKeyIDName": "AWS_ACCESS_KEY_ID", "s3SecretAccessKeyName": "AWS_SECRET_ACCESS_KEY"},
        });
        let (first, more) = self.domains.split_first().map_or(("localhost", &[][..]), |(first, more)| (first, more));
        let ingress = json!({
            "ingressDomain": first,
            "additionalIngressDomains": more,
            "domainTemplate": "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}",
            "urlScheme": "http",
            "pathTemplate": "/serving/{{ .Namespace }}/{{ .Name }}",
            "disableIstioVirtualHost": true,
            "disableIngressCreation": false,
        });
        let deploy = json!({"defaultDeploymentMode": self.default_mode});
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "inferenceservice-config", "namespace": meta::SYSTEM_NAMESPACE},
            "data": {
                "credentials": credentials.to_string(),
                "ingress": ingress.to_string(),
                "deploy": deploy.to_string(),
            },
        })
    }
}
