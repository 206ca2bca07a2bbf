//! The certificate of the API: made once per home, signed by an authority that signs nothing else.
//!
//! One file holds the authority's certificate, the server's certificate and the server's key. The authority's own key is
//! never written: whoever trusts the authority trusts this one certificate.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use camino::Utf8Path;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::home::{restrict, write_atomically};

/// Between two PEM blocks.
const END_OF_CERTIFICATE: &str = "-----END CERTIFICATE-----";

/// Returns the TLS configuration of a home; makes its certificate when there is none, or none for `address`.
///
/// # Errors
/// The file cannot be read or written, or does not hold what it should.
pub fn load_or_make(path: &Utf8Path, address: IpAddr) -> io::Result<Arc<ServerConfig>> {
    let known = match std::fs::read_to_string(path) {
        Ok(text) => Some(text).filter(|text| covers(text, address)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let text = match known {
        Some(text) => {
            restrict(path, 0o600)?;
            text
        }
        None => {
            let text = make(address).map_err(io::Error::other)?;
            write_atomically(path, text.as_bytes(), 0o600)?;
            text
        }
    };
    configure(&text).map_err(|error| io::Error::other(format!("`{path}` cannot be used: {error}")))
}

/// Returns the authority's certificate, in PEM, from the text of the file.
pub fn authority(text: &str) -> Option<&str> {
    let begin = text.find("-----BEGIN CERTIFICATE-----")?;
    let end = begin + text[begin..].find(END_OF_CERTIFICATE)? + END_OF_CERTIFICATE.len();
    Some(&text[begin..end])
}

/// Whether a certificate was made for an address; loopback always is. The first line of the file says for which.
fn covers(text: &str, address: IpAddr) -> bool {
    text.lines().next() == Some(&heading(address))
}

fn heading(address: IpAddr) -> String {
    if address.is_loopback() || address.is_unspecified() {
        "# for localhost".to_owned()
    } else {
        format!("# for localhost and {address}")
    }
}

fn make(address: IpAddr) -> Result<String, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "kserve-local authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let mut server = CertificateParams::new(vec!["localhost".to_owned()])?;
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if !address.is_loopback() && !address.is_unspecified() {
        addresses.push(address);
    }
    server.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    server.distinguished_name.push(DnType::CommonName, "kserve-local");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &authority)?;
    let parts = [authority.pem(), certificate.pem(), key.serialize_pem()];
    Ok(format!("{}\n{}", heading(address), parts.concat()))
}

fn configure(text: &str) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let own = certificates.into_iter().skip(1).collect();
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(own, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("tls.pem");
        load_or_make(&path, Ipv4Addr::LOCALHOST.into()).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.matches("PRIVATE KEY-----").count(), 2, "the key of the server, and no other");
        load_or_make(&path, Ipv6Addr::LOCALHOST.into()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        load_or_make(&path, Ipv4Addr::new(10, 1, 2, 3).into()).unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), first, "another address needs another certificate");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("tls.pem");
        std::fs::write(&path, "# for localhost\nnothing\n").unwrap();
        let error = load_or_make(&path, Ipv4Addr::LOCALHOST.into()).unwrap_err().to_string();
        assert!(error.contains("tls.pem"), "{error}");
    }
}
