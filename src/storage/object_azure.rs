//! Azure Blob Storage through object_store; what an object store has in common is in `object`.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::StaticCredentialProvider;
use object_store::azure::{AzureAccessKey, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};

use super::credentials_azure::{AzureIdentity, AzureService, azure};
use super::object::{ObjectSource, no_retries, parse};
use super::object_client::Connector;
use super::pull::PullConfig;
use super::{SourceError, http};
use crate::api::storage_uri::redact;

/// Makes the source of a blob URI. Blocking.
///
/// # Errors
/// The URI, the credentials or the endpoint cannot be used.
pub(super) fn open(
    uri: &str,
    config: &PullConfig,
    environment: &BTreeMap<String, String>,
) -> Result<ObjectSource, SourceError> {
    let settings = azure(environment, uri, AzureService::Blob)?;
    let authorities = http::authorities(environment).map_err(SourceError::Invalid)?;
    let connector = Connector::new(&parse(&settings.endpoint)?, true, authorities, config, environment)?;
    // An emulator has the account in the path, which the library adds for the emulator only: here it stands in the
    // container's place.
    let builder = MicrosoftAzureBuilder::new()
        .with_account(&settings.account)
        .with_container_name(&settings.container)
        .with_endpoint(settings.endpoint.clone())
        .with_allow_http(true)
        .with_retry(no_retries())
        .with_http_connector(connector);
    let fixed = |credential: AzureCredential| Arc::new(StaticCredentialProvider::new(credential));
    let builder = match settings.identity {
        AzureIdentity::Anonymous => {
            builder.with_skip_signature(true).with_credentials(fixed(AzureCredential::BearerToken(String::new())))
        }
        AzureIdentity::Key(key) => {
            let key = AzureAccessKey::try_new(&key.0).map_err(|_| {
                SourceError::Denied("Azure authentication failed. The account's key is not Base64.".to_owned())
            })?;
            builder.with_credentials(fixed(AzureCredential::AccessKey(key)))
        }
        AzureIdentity::Signature(query) => {
            let pairs = url::form_urlencoded::parse(query.0.as_bytes()).into_owned().collect();
            builder.with_credentials(fixed(AzureCredential::SASToken(pairs)))
        }
        AzureIdentity::Token(token) => builder.with_credentials(fixed(AzureCredential::BearerToken(token.0))),
        AzureIdentity::Client { tenant, client, secret } => {
            with_authority(builder, settings.authority).with_client_secret_authorization(client, secret.0, tenant)
        }
        AzureIdentity::Federated { tenant, client, token_file } => with_authority(builder, settings.authority)
            .with_config(AzureConfigKey::FederatedTokenFile, token_file)
            .with_config(AzureConfigKey::ClientId, client)
            .with_config(AzureConfigKey::AuthorityId, tenant),
        AzureIdentity::CommandLine => builder.with_use_azure_cli(true),
    };
    ObjectSource::new(builder.build(), "Azure", &settings.container, &settings.path, redact(uri))
}

fn with_authority(builder: MicrosoftAzureBuilder, authority: Option<String>) -> MicrosoftAzureBuilder {
    authority.into_iter().fold(builder, |builder, host| builder.with_config(AzureConfigKey::AuthorityHost, host))
}
