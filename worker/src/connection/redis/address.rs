//! Redis URLs: a single server, or sentinels that know which server is the primary.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisResult, TlsCertificates, TlsMode,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::Mutex;

use super::link::Server;
use crate::connection::{BrokerUrl, TlsOptions};
use crate::error::{Error, Result};

/// The default port of sentinels.
const SENTINEL_PORT: u16 = 26379;

/// The options after the `?` of a URL.
#[derive(Default)]
struct Options {
    /// Celery's `global_keyprefix`.
    key_prefix: String,
    /// The name of the primary at the sentinels.
    master_name: Option<String>,
    /// The login for the sentinels themselves.
    sentinel_username: Option<String>,
    sentinel_password: Option<String>,
}

/// Parses a URL into the server and the prefix of all keys. Nothing is sent yet.
///
/// # Errors
/// An invalid URL, or a TLS file that cannot be read.
pub(super) fn read(url: &BrokerUrl, tls: &TlsOptions) -> Result<(Server, String)> {
    let expected = match url.scheme().as_str() {
        "sentinel" | "sentinels" => {
            "sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/DB?master_name=NAME, with user, password and number of the \
             database at the primary"
        }
        _ => "redis://USER:PASSWORD@HOST:PORT/DB",
    };
    let mistake = |problem: &str| {
        Error::config(format!(
            "`{url}` is not the address of a Redis server: expected {expected} ({problem})"
        ))
    };
    let (address, options) = match url.expose().split_once('?') {
        Some((address, options)) => (address, read_options(options).ok_or_else(|| mistake("its options"))?),
        None => (url.expose(), Options::default()),
    };
    let certificates = certificates(tls)?;
    if matches!(url.scheme().as_str(), "rediss" | "sentinels") {
        // The redis crate uses the process-wide provider, which may not be set. Keeps the one that the program has installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    // The error messages of the redis crate may quote the URL, so only their category is shown.
    let server = match (url.scheme().as_str(), &options.master_name) {
        ("sentinel" | "sentinels", None) => return Err(mistake("`master_name` is missing")),
        ("sentinel" | "sentinels", Some(name)) => {
            let client = sentinels(url, name, &options, certificates);
            Server::Sentinels(Mutex::new(client.map_err(|error| mistake(error.category()))?))
        }
        (scheme, _) => {
            let client = match certificates.filter(|_| scheme == "rediss") {
                Some(certificates) => Client::build_with_tls(address, certificates),
                None => Client::open(address),
            };
            Server::At(client.map_err(|error| mistake(error.category()))?)
        }
    };
    Ok((server, options.key_prefix))
}

/// Parses the options. `None` if they are invalid.
fn read_options(options: &str) -> Option<Options> {
    // The host does not matter: this borrows the URL parser of the redis crate for the query.
    let url = redis::parse_redis_url(&format!("redis://host/?{options}"))?;
    let mut read = Options::default();
    for (name, value) in url.query_pairs() {
        let value = value.into_owned();
        match &*name {
            "key_prefix" => read.key_prefix = as_prefix(value),
            "master_name" => read.master_name = Some(value).filter(|name| !name.is_empty()),
            "sentinel_username" => read.sentinel_username = Some(value),
            "sentinel_password" => read.sentinel_password = Some(value),
            _ => return None,
        }
    }
    Some(read)
}

/// Adds a separator to a prefix as Celery does to `global_keyprefix`.
fn as_prefix(mut prefix: String) -> String {
    if !prefix.is_empty() && !prefix.ends_with([':', '_', '-', '.']) {
        prefix.push('_');
    }
    prefix
}

fn sentinels(
    url: &BrokerUrl,
    name: &str,
    options: &Options,
    certificates: Option<TlsCertificates>,
) -> RedisResult<SentinelClient> {
    let (scheme, is_secure) = if url.scheme() == "sentinels" { ("rediss", true) } else { ("redis", false) };
    let address = |host: &str| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let port = if has_port { String::new() } else { format!(":{SENTINEL_PORT}") };
        format!("{scheme}://{host}{port}").into_connection_info().map(|info| info.addr().clone())
    };
    let hosts = url.authority().split(',').map(str::trim).map(address);
    let hosts: Vec<ConnectionAddr> = hosts.collect::<RedisResult<_>>()?;
    // Let the redis crate parse login and database out of a URL with a single host.
    let (login, path) = (url.login().unwrap_or_default(), url.database());
    let primary = format!("redis://{login}host/{path}").into_connection_info()?;
    let primary = primary.redis_settings();
    let mut builder = SentinelClientBuilder::new(hosts, name, SentinelServerType::Master)?
        .set_client_to_redis_db(primary.db());
    if let Some(user) = primary.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = primary.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(user) = &options.sentinel_username {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(password) = &options.sentinel_password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    if is_secure {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        builder = builder.set_client_to_sentinel_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates {
            builder = builder.set_client_to_redis_certificates(certificates.clone());
            builder = builder.set_client_to_sentinel_certificates(certificates);
        }
    }
    builder.build()
}

fn certificates(tls: &TlsOptions) -> Result<Option<TlsCertificates>> {
    if *tls == TlsOptions::default() {
        return Ok(None);
    }
    let read = |path: &Path| {
        fs::read(path)
            .map_err(|error| Error::config(format!("cannot read `{}`", path.display())).with_source(error))
    };
    let client_tls = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
        (None, None) => None,
        _ => return Err(Error::config("[tls] needs both `cert_file` and `key_file`, or neither")),
    };
    let root_cert = match &tls.ca_file {
        Some(path) => {
            Some(trusted(read(path)?, rustls_native_certs::load_native_certs().certs).ok_or_else(|| {
                Error::config(format!("cannot read `{}`: it contains no PEM certificate", path.display()))
            })?)
        }
        None => None,
    };
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

/// Adds the system's certificates to those of a file: the redis crate would trust the file alone, but `[tls]` applies to
/// servers of every kind. `None` if the file contains no certificate.
fn trusted(mut pem: Vec<u8>, system: Vec<CertificateDer<'_>>) -> Option<Vec<u8>> {
    CertificateDer::pem_slice_iter(&pem).next()?.ok()?;
    // Skip unreadable certificates: the redis crate would reject all of them because of one.
    let readable =
        system.iter().filter(|certificate| RootCertStore::empty().add((*certificate).clone()).is_ok());
    for certificate in readable {
        let text = STANDARD.encode(certificate);
        pem.extend_from_slice(
            format!("\n-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").as_bytes(),
        );
    }
    Some(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_url(url: &str) -> Result<(Server, String)> {
        let url: BrokerUrl = url.parse().expect("a URL");
        url.check()?;
        read(&url, &TlsOptions::default())
    }

    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBkDCCATWgAwIBAgIUJSxmOHDRj7mlU6y8q3BzrXcYIqQwCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRZXhhbXBsZSBhdXRob3JpdHkwIBcNMjYxMTI3MDgzNDE3WhgP
MjEyNjExMDMwODM0MTdaMBwxGjAYBgNVBAMMEWV4YW1wbGUgYXV0aG9yaXR5MFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE1M9UzABrOgguiucZ0Be+SeIbCc2DILGo
qVAfiKbdG6ySNtoOR6tpR47QRsyqwibRG+xlvf8boD8xRQtkkoAJI6NTMFEwHQYD
VR0OBBYEFFaiyFmZFxARxjMD9nVtLLP830G1MB8GA1UdIwQYMBaAFFaiyFmZFxAR
xjMD9nVtLLP830G1MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIh
AOPoknrxRLWWdJ0khhhDEeVou8KwUiUeBWUbKjKvmTa8AiEAlfaL2nxnW126HAx4
kVSVdt6zXJKzNjm5eLqo32+/cHE=
-----END CERTIFICATE-----";

    #[test]
    fn with_an_authority_of_its_own_the_systems_are_trusted_too() {
        let own = CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).expect("a certificate");
        let broken = CertificateDer::from(vec![1, 2, 3]);
        let pem = trusted(AUTHORITY.into(), vec![own.clone(), broken]).expect("there is one in the file");
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        assert_eq!(all.expect("PEM"), [own.clone(), own.clone()]);
        assert!(trusted(b"no PEM".to_vec(), vec![own]).is_none());
    }

    #[test]
    fn a_prefix_is_read_as_celery_reads_it() {
        for (url, prefix) in [
            ("redis://host/2?key_prefix=shop", "shop_"),
            ("redis://host/2?key_prefix=shop%3A", "shop:"),
            ("redis://u:p@host", ""),
            ("sentinel://:p%40ss@a,b:26380,[::1]:9/3?master_name=m&key_prefix=x-", "x-"),
        ] {
            assert_eq!(read_url(url).expect(url).1, prefix, "{url}");
        }
    }

    #[test]
    fn a_mistake_in_an_address_names_the_form_and_no_secret() {
        for (url, part) in [
            ("redis://:secret@host/letters", "redis://USER:PASSWORD@HOST:PORT/DB"),
            ("redis://:secret@host:99999", "redis://USER:PASSWORD@HOST:PORT/DB"),
            ("redis://:secret@host?db=2", "`db`"),
            ("sentinel://:secret@host:26379/0", "`master_name` is missing"),
            ("sentinel://:secret@host:port/0?master_name=m", "HOST:PORT,HOST:PORT"),
            ("sentinel://a:1/0;sentinel://:secret@b:1/0", "name one"),
        ] {
            let error = read_url(url).err().expect(url);
            assert!(error.is_config() && error.to_string().contains(part), "{url}: {error}");
            assert!(!format!("{error:#}{error:?}").contains("secret"), "{error:?}");
        }
    }
}
