//! The addresses of Redis: one server, or sentinels that know which server is the primary.

use std::fs;
use std::path::Path;

use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisResult, TlsCertificates, TlsMode,
};
use tokio::sync::Mutex;

use super::link::Server;
use crate::connection::{BrokerUrl, TlsOptions};
use crate::error::{Error, Result};

/// Where sentinels listen unless the address says.
const SENTINEL_PORT: u16 = 26379;

/// The options that may follow the `?` of an address.
#[derive(Default)]
struct Options {
    /// Celery's `global_keyprefix`.
    key_prefix: String,
    /// The name under which sentinels know the primary.
    master_name: Option<String>,
    /// The login at the sentinels themselves.
    sentinel_username: Option<String>,
    sentinel_password: Option<String>,
}

/// The server that a URL names, and the prefix of all keys. Nothing is sent yet.
///
/// # Errors
/// An address with a mistake, or a file for TLS that cannot be read.
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
        // The crate takes the provider of the process, of which there may be none. One that the program has chosen stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    // The crate's own words may quote the address.
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

/// `None` when they cannot be read.
fn read_options(options: &str) -> Option<Options> {
    // Any address will do: it is the one parser of URLs that there is here.
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

/// As Celery reads `global_keyprefix`.
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
    // The same address with one host alone has login and database.
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
        _ => return Err(Error::config("[tls] has one of `cert_file` and `key_file`: they belong together")),
    };
    let root_cert = tls.ca_file.as_deref().map(read).transpose()?;
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_url(url: &str) -> Result<(Server, String)> {
        let url: BrokerUrl = url.parse().expect("a URL");
        url.check()?;
        read(&url, &TlsOptions::default())
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
