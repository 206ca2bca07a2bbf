//! What a URI, the environment and KServe's Secrets say about an Azure account (§3.3).
//!
//! In this order: a signature in the URI's query; a client of Entra ID by secret or federated token; an access token; the
//! account's key or a shared signature; a connection string of this account; nobody. Managed identities are not asked
//! for: they come from a metadata service (promise D13).

use std::collections::BTreeMap;

use url::Url;

use super::SourceError;
use super::credentials::Secret;

type Environment = BTreeMap<String, String>;

/// Who we are to Azure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AzureIdentity {
    Anonymous,
    /// The account's key, Base64.
    Key(Secret),
    /// A shared access signature: a query string.
    Signature(Secret),
    /// A token of Entra ID.
    Token(Secret),
    /// A client of Entra ID that gets tokens.
    Client {
        tenant: String,
        client: String,
        secret: Secret,
    },
    /// The same with a token file of someone who vouches for it.
    Federated {
        tenant: String,
        client: String,
        token_file: String,
    },
    /// `az`, signed in by the user.
    CommandLine,
}

/// Which service of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AzureService {
    Blob,
    File,
}

/// A place in an Azure account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AzureSettings {
    pub(super) account: String,
    /// Container or share.
    pub(super) container: String,
    /// Within it, no slash at the ends.
    pub(super) path: String,
    /// Without the container; an emulator's ends in the account.
    pub(super) endpoint: String,
    pub(super) identity: AzureIdentity,
    /// Where tokens come from, when not at the usual place.
    pub(super) authority: Option<String>,
}

/// Reads the settings for a URI.
///
/// # Errors
/// The URI or the connection string cannot be used.
pub(super) fn azure(environment: &Environment, uri: &str, service: AzureService) -> Result<AzureSettings, SourceError> {
    let get = |names: &[&str]| names.iter().find_map(|name| set(environment, name));
    let wrong = || SourceError::Invalid("the URI names no Azure account and container".to_owned());
    let url = Url::parse(uri).map_err(|_| wrong())?;
    let host = url.host_str().ok_or_else(wrong)?;
    let account = host.split('.').next().unwrap_or_default().to_owned();
    let path = super::web::decoded(url.path().trim_matches('/'));
    let (container, path) = path.split_once('/').ok_or_else(wrong)?;
    let connection = connection(environment, &account);
    let (endpoint_name, variables) = match service {
        AzureService::Blob => ("BlobEndpoint", ["AZURE_STORAGE_BLOB_ENDPOINT", "AZURE_STORAGE_ENDPOINT"]),
        AzureService::File => ("FileEndpoint", ["AZURE_STORAGE_FILE_ENDPOINT", "AZURE_STORAGE_FILE_ENDPOINT"]),
    };
    let endpoint = connection.get(endpoint_name).cloned().or_else(|| get(&variables));
    let endpoint = endpoint.unwrap_or_else(|| format!("https://{host}"));
    Ok(AzureSettings {
        identity: identity(environment, &url, &connection),
        container: container.to_owned(),
        path: path.trim_matches('/').to_owned(),
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        authority: get(&["AZURE_AUTHORITY_HOST"]),
        account,
    })
}

fn identity(environment: &Environment, url: &Url, connection: &BTreeMap<String, String>) -> AzureIdentity {
    let get = |names: &[&str]| names.iter().find_map(|name| set(environment, name));
    if let Some(query) = url.query().filter(|query| !query.is_empty()) {
        return AzureIdentity::Signature(Secret(query.to_owned()));
    }
    // The `AZ_` names go before the others, as upstream copies them over.
    let client = get(&["AZ_CLIENT_ID", "AZURE_CLIENT_ID"]);
    let tenant = get(&["AZ_TENANT_ID", "AZURE_TENANT_ID"]);
    if let (Some(client), Some(tenant)) = (client, tenant) {
        if let Some(secret) = get(&["AZ_CLIENT_SECRET", "AZURE_CLIENT_SECRET"]) {
            return AzureIdentity::Client { tenant, client, secret: Secret(secret) };
        }
        if let Some(token_file) = get(&["AZURE_FEDERATED_TOKEN_FILE"]) {
            return AzureIdentity::Federated { tenant, client, token_file };
        }
    }
    if let Some(token) = get(&["AZURE_ACCESS_TOKEN"]) {
        return AzureIdentity::Token(Secret(token));
    }
    let key = get(&["AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"]);
    if let Some(key) = key.or_else(|| connection.get("AccountKey").cloned()) {
        return AzureIdentity::Key(Secret(key));
    }
    let signature = get(&["AZURE_STORAGE_SAS_TOKEN"]);
    if let Some(signature) = signature.or_else(|| connection.get("SharedAccessSignature").cloned()) {
        return AzureIdentity::Signature(Secret(signature.trim_start_matches('?').to_owned()));
    }
    match get(&["AZURE_USE_AZURE_CLI"]) {
        Some(value) if matches!(value.to_lowercase().as_str(), "1" | "true") => AzureIdentity::CommandLine,
        _ => AzureIdentity::Anonymous,
    }
}

/// Returns the parts of the connection string when it is this account's.
fn connection(environment: &Environment, account: &str) -> BTreeMap<String, String> {
    let text = set(environment, "AZURE_STORAGE_CONNECTION_STRING").unwrap_or_default();
    let parts = text.split(';').filter_map(|part| part.split_once('='));
    let parts: BTreeMap<String, String> =
        parts.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
    match parts.get("AccountName") {
        Some(name) if name != account => BTreeMap::new(),
        _ => parts,
    }
}

fn set(environment: &Environment, name: &str) -> Option<String> {
    environment.get(name).filter(|value| !value.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(uri: &str, pairs: &[(&str, &str)]) -> AzureSettings {
        let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        azure(&environment, uri, AzureService::Blob).unwrap()
    }

    #[test]
    fn an_account_is_known_by_what_the_tools_of_azure_read() {
        let secret = |text: &str| Secret(text.to_owned());
        let uri = "https://acct.blob.core.windows.net/box/a/b%20c/";
        let connection = "AccountName=acct;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/acct";
        type Row<'a> = (&'a [(&'a str, &'a str)], AzureIdentity);
        let client = ("t".to_owned(), "c".to_owned());
        let table: [Row<'_>; 8] = [
            (&[], AzureIdentity::Anonymous),
            (&[("AZURE_STORAGE_ACCESS_KEY", "k")], AzureIdentity::Key(secret("k"))),
            (&[("AZURE_STORAGE_SAS_TOKEN", "?sv=1")], AzureIdentity::Signature(secret("sv=1"))),
            (&[("AZURE_STORAGE_CONNECTION_STRING", connection)], AzureIdentity::Key(secret("a2V5"))),
            (&[("AZURE_STORAGE_CONNECTION_STRING", "AccountName=x;AccountKey=k")], AzureIdentity::Anonymous),
            (&[("AZURE_ACCESS_TOKEN", "tok")], AzureIdentity::Token(secret("tok"))),
            (
                &[
                    ("AZ_CLIENT_ID", "c"),
                    ("AZURE_CLIENT_ID", "other"),
                    ("AZ_TENANT_ID", "t"),
                    ("AZ_CLIENT_SECRET", "s"),
                ],
                AzureIdentity::Client { tenant: client.0.clone(), client: client.1.clone(), secret: secret("s") },
            ),
            (
                &[("AZURE_CLIENT_ID", "c"), ("AZURE_TENANT_ID", "t"), ("AZURE_FEDERATED_TOKEN_FILE", "/f")],
                AzureIdentity::Federated { tenant: client.0, client: client.1, token_file: "/f".to_owned() },
            ),
        ];
        for (pairs, identity) in table {
            let settings = settings(uri, pairs);
            assert_eq!(settings.identity, identity, "{pairs:?}");
            assert_eq!((settings.account.as_str(), settings.container.as_str()), ("acct", "box"));
            assert_eq!(settings.path, "a/b c");
        }
        let signed = settings("https://acct.blob.core.windows.net/box/p?sig=x", &[("AZURE_STORAGE_ACCESS_KEY", "k")]);
        assert_eq!(signed.identity, AzureIdentity::Signature(secret("sig=x")));
        assert_eq!(signed.endpoint, "https://acct.blob.core.windows.net");
        let emulated = settings(uri, &[("AZURE_STORAGE_CONNECTION_STRING", connection)]);
        assert_eq!(emulated.endpoint, "http://127.0.0.1:1/acct");
    }
}
