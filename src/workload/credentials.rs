//! Credentials for downloads from ServiceAccounts and Secrets (§3.4).
//!
//! The pod's ServiceAccount names Secrets; each is of the first kind whose key it has, in upstream's order. S3 settings
//! stand in annotations of the Secret, else in its data. The annotation `serving.kserve.io/storageSecretName` of the
//! InferenceService puts one Secret in place of the account's.
//!
//! Two differences from a cluster: the account `default` need not exist, and what a Secret leaves open is taken from the
//! user's own environment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;

use super::access::HDFS_PREFIX;
use super::resolve::Scope;
use super::{Access, ResolveError};
use crate::api::ComponentSpec;

/// Names the one Secret to use (config `storageSecretNameAnnotation`).
pub(super) const SECRET_ANNOTATION: &str = "serving.kserve.io/storageSecretName";
/// An IAM role, on a ServiceAccount.
const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";
const S3_PREFIX: &str = "serving.kserve.io/s3-";
/// Names a ConfigMap with certificate authorities for every download (config `caBundleConfigMapName`).
pub const CA_BUNDLE: &str = "CA_BUNDLE_CONFIGMAP_NAME";
/// Where KServe itself is installed; its ConfigMap is copied to every namespace from there.
const KSERVE_NAMESPACE: &str = "kserve";
/// What a CA bundle is called in its ConfigMap.
const CA_BUNDLE_KEY: &str = "cabundle.crt";
/// The service account key of GCS in a Secret (config `gcsCredentialFileName`).
const GCS_KEY: &str = "gcloud-application-credentials.json";

/// S3 settings: annotation, key in the Secret, variable.
const S3_SETTINGS: [(&str, &str, &str); 7] = [
    ("region", "AWS_DEFAULT_REGION", "AWS_DEFAULT_REGION"),
    ("verifyssl", "S3_VERIFY_SSL", "S3_VERIFY_SSL"),
    ("useanoncredential", "awsAnonymousCredential", "awsAnonymousCredential"),
    ("usevirtualbucket", "S3_USER_VIRTUAL_BUCKET", "S3_USER_VIRTUAL_BUCKET"),
    ("useaccelerate", "S3_USE_ACCELERATE", "S3_USE_ACCELERATE"),
    ("cabundle", "AWS_CA_BUNDLE", "AWS_CA_BUNDLE"),
    ("cabundle-configmap", "AWS_CA_BUNDLE_CONFIGMAP", "AWS_CA_BUNDLE_CONFIGMAP"),
];

/// Azure variables as they are in a Secret, and what the tools call them.
const AZURE: [(&str, &str); 10] = [
    ("AZ_SUBSCRIPTION_ID", "AZURE_SUBSCRIPTION_ID"),
    ("AZ_TENANT_ID", "AZURE_TENANT_ID"),
    ("AZ_CLIENT_ID", "AZURE_CLIENT_ID"),
    ("AZ_CLIENT_SECRET", "AZURE_CLIENT_SECRET"),
    ("AZURE_SUBSCRIPTION_ID", "AZURE_SUBSCRIPTION_ID"),
    ("AZURE_TENANT_ID", "AZURE_TENANT_ID"),
    ("AZURE_CLIENT_ID", "AZURE_CLIENT_ID"),
    ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_SECRET"),
    ("AZURE_ACCESS_TOKEN", "AZURE_ACCESS_TOKEN"),
    ("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCESS_KEY"),
];

/// Keys of an HDFS Secret.
pub(super) const HDFS: [&str; 11] = [
    "HDFS_NAMENODE",
    "USER_PROXY",
    "HDFS_ROOTPATH",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_CA",
    "TLS_SKIP_VERIFY",
    "HEADERS",
    "N_THREADS",
    "KERBEROS_KEYTAB",
    "KERBEROS_PRINCIPAL",
];

/// Gathers what the component's account gives for downloads, and warnings.
///
/// # Errors
/// A Secret that is named is not there, or holds what cannot be read.
pub(super) fn of_account(
    scope: &Scope<'_>,
    component: &ComponentSpec,
    warnings: &mut Vec<String>,
) -> Result<Access, ResolveError> {
    let mut access = Access::default();
    let namespace = scope.key.namespace.as_str();
    let name = component.service_account();
    let account = scope.companions.service_accounts.get(&(namespace, name)).copied();
    if account.is_none() && name != "default" {
        warnings.push(format!(
            "spec.predictor.serviceAccountName: there is no ServiceAccount `{name}` in namespace `{namespace}`; models are fetched with the user's own credentials"
        ));
    }
    let role = account.is_some_and(|account| annotations(&account.metadata).contains_key(ROLE_ANNOTATION));
    if let (Some(account), true) = (account, role) {
        s3_settings(&mut access, annotations(&account.metadata), &BTreeMap::new(), scope)?;
        access.origins.push(format!("ServiceAccount {namespace}/{name}"));
    } else if let Some(secret) = secret_annotation(scope, component) {
        add_secret(&mut access, &secret, &format!("metadata.annotations[{SECRET_ANNOTATION}]"), scope)?;
    } else {
        let references = account.and_then(|account| account.secrets.as_ref()).into_iter().flatten();
        for (index, reference) in references.enumerate() {
            let field = format!("ServiceAccount {namespace}/{name} secrets[{index}]");
            add_secret(&mut access, reference.name.as_deref().unwrap_or_default(), &field, scope)?;
        }
    }
    Ok(access)
}

/// Returns the Secret that an annotation puts in place of the account's.
pub(super) fn secret_annotation(scope: &Scope<'_>, component: &ComponentSpec) -> Option<String> {
    let of_component = component.annotations.as_ref().and_then(|annotations| annotations.get(SECRET_ANNOTATION));
    let of_service = scope.meta.annotations.get(SECRET_ANNOTATION);
    of_component.or(of_service).filter(|name| !name.is_empty()).cloned()
}

/// Gathers the `.dockerconfigjson` of pull Secrets. One that is not there is passed over, as the kubelet does.
pub(super) fn registries(names: &[String], scope: &Scope<'_>, warnings: &mut Vec<String>) -> Vec<String> {
    let namespace = scope.key.namespace.as_str();
    let mut found = Vec::new();
    for name in names {
        match scope.companions.secrets.get(&(namespace, name)).and_then(|secret| docker_config(secret)) {
            Some(text) => found.push(text),
            None => warnings.push(format!(
                "imagePullSecrets: Secret `{namespace}/{name}` is not there or holds no `.dockerconfigjson`; images are pulled without it"
            )),
        }
    }
    found
}

/// Returns the names of pull Secrets: the pod's own, else those of its service account, as Kubernetes admits them.
pub(super) fn pull_secrets(own: &[String], component: &ComponentSpec, scope: &Scope<'_>) -> Vec<String> {
    if !own.is_empty() {
        return own.to_vec();
    }
    let account = (scope.key.namespace.as_str(), component.service_account());
    let account = scope.companions.service_accounts.get(&account);
    let secrets = account.and_then(|account| account.image_pull_secrets.as_ref()).into_iter().flatten();
    secrets.map(|secret| secret.name.clone()).filter(|name| !name.is_empty()).collect()
}

fn docker_config(secret: &Secret) -> Option<String> {
    let data = data_of(secret);
    match data.get(".dockerconfigjson") {
        Some(text) => Some(text.clone()),
        // The older form is what is below `auths`.
        None => data.get(".dockercfg").map(|text| format!("{{\"auths\":{text}}}")),
    }
}

fn add_secret(access: &mut Access, name: &str, field: &str, scope: &Scope<'_>) -> Result<(), ResolveError> {
    let namespace = scope.key.namespace.as_str();
    let Some(secret) = scope.companions.secrets.get(&(namespace, name)) else {
        return Err(ResolveError::invalid(field, format!("secrets \"{name}\" not found in namespace `{namespace}`"))
            .with_help("add the Secret to the folder, or remove the reference"));
    };
    let data = data_of(secret);
    let mut set = |name: &str, value: &str| drop(access.variables.insert(name.to_owned(), value.to_owned()));
    let has = |key: &str| data.contains_key(key);
    let secret_key = ["AWS_SECRET_ACCESS_KEY", "awsSecretAccessKey"].into_iter().find(|key| has(key));
    if let Some(key) = secret_key {
        set("AWS_SECRET_ACCESS_KEY", data[key].trim_end());
        let id = ["AWS_ACCESS_KEY_ID", "awsAccessKeyID"].into_iter().find_map(|key| data.get(key));
        set("AWS_ACCESS_KEY_ID", id.map_or("", |id| id.trim_end()));
        s3_settings(access, annotations(&secret.metadata), &data, scope)?;
    } else if has(GCS_KEY) {
        let path = format!("/var/secrets/{GCS_KEY}");
        set("GOOGLE_APPLICATION_CREDENTIALS", &path);
        access.files.insert(path, data[GCS_KEY].clone().into_bytes());
    } else if ["AZ_CLIENT_ID", "AZURE_CLIENT_ID", "AZURE_ACCESS_TOKEN", "AZURE_STORAGE_ACCESS_KEY"].into_iter().any(has)
    {
        for (key, variable) in AZURE {
            if let Some(value) = data.get(key) {
                set(variable, value.trim_end());
            }
        }
    } else if has("https-host") {
        if let Some(headers) = data.get("headers") {
            set(&format!("{}-headers", data["https-host"].trim()), headers);
        }
    } else if has("HDFS_NAMENODE") {
        for key in HDFS {
            if let Some(value) = data.get(key) {
                set(&format!("{HDFS_PREFIX}{key}"), value.trim_end());
            }
        }
    } else if has("HF_TOKEN") {
        set("HF_TOKEN", data["HF_TOKEN"].trim());
    } else if has("MODELSCOPE_API_TOKEN") {
        set("MODELSCOPE_API_TOKEN", data["MODELSCOPE_API_TOKEN"].trim());
    } else {
        return Ok(());
    }
    access.origins.push(format!("Secret {namespace}/{name}"));
    Ok(())
}

/// Sets what annotations, else data, say about S3.
fn s3_settings(
    access: &mut Access,
    annotations: &BTreeMap<String, String>,
    data: &BTreeMap<String, String>,
    scope: &Scope<'_>,
) -> Result<(), ResolveError> {
    let find = |annotation: &str, key: &str| {
        let written = annotations.get(&format!("{S3_PREFIX}{annotation}")).or_else(|| data.get(key));
        written.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let mut settings: BTreeMap<String, String> = S3_SETTINGS
        .iter()
        .filter_map(|(annotation, key, variable)| Some(((*variable).to_owned(), find(annotation, key)?)))
        .collect();
    if let Some(endpoint) = find("endpoint", "S3_ENDPOINT") {
        let https = find("usehttps", "S3_USE_HTTPS").is_none_or(|value| value != "0");
        settings.insert("AWS_ENDPOINT_URL".to_owned(), with_scheme(&endpoint, https));
    }
    let bundle = settings.remove("AWS_CA_BUNDLE_CONFIGMAP");
    access.variables.append(&mut settings);
    match bundle {
        Some(name) => add_ca_bundle(access, &name, scope),
        None => Ok(()),
    }
}

/// An endpoint's own scheme goes before the setting.
fn with_scheme(endpoint: &str, https: bool) -> String {
    match (endpoint.contains("://"), https) {
        (true, _) => endpoint.to_owned(),
        (false, true) => format!("https://{endpoint}"),
        (false, false) => format!("http://{endpoint}"),
    }
}

/// Takes the CA bundle out of a ConfigMap: the file `AWS_CA_BUNDLE` names, else `cabundle.crt`.
pub(super) fn add_ca_bundle(access: &mut Access, name: &str, scope: &Scope<'_>) -> Result<(), ResolveError> {
    let namespace = scope.key.namespace.as_str();
    let map = scope.companions.config_maps.get(&(namespace, name));
    let file = access.variables.get("AWS_CA_BUNDLE").and_then(|path| path.rsplit('/').next().map(str::to_owned));
    let data = map.and_then(|map| map.data.as_ref());
    let found = data.and_then(|data| file.and_then(|file| data.get(&file)).or_else(|| data.get(CA_BUNDLE_KEY)));
    let Some(pem) = found else {
        return Err(ResolveError::invalid(
            format!("{S3_PREFIX}cabundle-configmap"),
            format!("ConfigMap `{namespace}/{name}` has no `{CA_BUNDLE_KEY}`"),
        )
        .with_help("add the ConfigMap to the folder, with the certificates under that key"));
    };
    let path = format!("/etc/ssl/custom-certs/{CA_BUNDLE_KEY}");
    access.variables.insert("AWS_CA_BUNDLE".to_owned(), path.clone());
    access.files.insert(path, pem.clone().into_bytes());
    Ok(())
}

/// Takes the certificate authorities for every download out of a ConfigMap, of the service's namespace or of KServe's own.
pub(super) fn add_global_ca_bundle(access: &mut Access, name: &str, scope: &Scope<'_>) -> Result<(), ResolveError> {
    const VARIABLE: &str = "SSL_CERT_FILE";
    if access.variables.contains_key(VARIABLE) {
        return Ok(());
    }
    let namespaces = [scope.key.namespace.as_str(), KSERVE_NAMESPACE];
    let maps = namespaces.iter().filter_map(|namespace| scope.companions.config_maps.get(&(*namespace, name)));
    let found = maps.filter_map(|map| map.data.as_ref()).find_map(|data| data.get(CA_BUNDLE_KEY));
    let Some(pem) = found else {
        return Err(ResolveError::invalid(
            CA_BUNDLE,
            format!("ConfigMap `{}/{name}` with the key `{CA_BUNDLE_KEY}` is not there", scope.key.namespace),
        )
        .with_help("add the ConfigMap to the folder, or unset the variable"));
    };
    let path = format!("/etc/ssl/custom-certs/global-{CA_BUNDLE_KEY}");
    access.variables.insert(VARIABLE.to_owned(), path.clone());
    access.files.insert(path, pem.clone().into_bytes());
    Ok(())
}

fn annotations(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    meta.annotations.as_ref().unwrap_or(&NONE)
}

/// Returns the texts of a Secret; what is no UTF-8 is no credential of these kinds.
pub(super) fn data_of(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?))).collect()
}
