//! Converts a broker URL for `lapin` and reads the TLS files.

use std::path::Path;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::connection::{BrokerUrl, TlsOptions};
use crate::error::{Error, Result};

/// In seconds. A connection that is silent for twice as long counts as dead.
const HEARTBEAT: u16 = 20;
/// In bytes, unless the URL sets another limit: RabbitMQ's own default. `lapin` allocates buffers of 32 frames for each
/// connection; if it learns the size only from the broker, it allocates them twice and zeroes 8 MB.
pub(super) const FRAME_MAX: u32 = 128 * 1024;

/// Where to connect. It holds the password, so it has no `Debug`.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) uri: AMQPUri,
    pub(super) tls: OwnedTLSConfig,
    /// For logs and errors: without the password.
    pub(crate) shown: String,
}

impl Address {
    pub(crate) fn new(url: &BrokerUrl, tls: &TlsOptions) -> Result<Self> {
        url.check()?;
        // Leave out the parser's own message: it may quote the URL with its password.
        let invalid = || {
            Error::config(format!(
                "`{url}` is not a valid address: expected amqp://user:password@host:port/vhost, with special \
                 characters percent-encoded"
            ))
        };
        let mut uri: AMQPUri = url.expose().parse().map_err(|_| invalid())?;
        // The parser does not understand hosts in brackets and would use `localhost` instead.
        if let Some((host, _)) = url.authority().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            uri.authority.host = host.to_owned();
        }
        if uri.authority.host.is_empty() {
            return Err(invalid());
        }
        // Strictly, `amqp://host/` names a virtual host with an empty name, which does not exist in practice.
        if uri.vhost.is_empty() {
            uri.vhost = "/".into();
        }
        if uri.vhost.len() > 255 {
            return Err(Error::config(format!("the virtual host of `{url}` is longer than 255 bytes")));
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        let tls = match uri.scheme {
            AMQPScheme::AMQP => OwnedTLSConfig::default(),
            AMQPScheme::AMQPS => {
                // An error means that the program has already installed a provider, which is just as good.
                let _ = rustls::crypto::ring::default_provider().install_default();
                read_tls(tls)?
            }
        };
        Ok(Self { uri, tls, shown: url.to_string() })
    }
}

fn read_tls(options: &TlsOptions) -> Result<OwnedTLSConfig> {
    let cert_chain = match &options.ca_file {
        None => None,
        Some(path) => Some(
            String::from_utf8(read("ca_file", path)?)
                .map_err(|_| Error::config(format!("ca_file `{}` is not PEM text", path.display())))?,
        ),
    };
    let identity = match (&options.cert_file, &options.key_file) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            Some(OwnedIdentity::PKCS8 { pem: read("cert_file", cert)?, key: read("key_file", key)? })
        }
        _ => return Err(Error::config("a client certificate needs both `cert_file` and `key_file`")),
    };
    Ok(OwnedTLSConfig { identity, cert_chain })
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    let contents = std::fs::read(path).map_err(|error| {
        Error::config(format!("cannot read {what} `{}`", path.display())).with_source(error)
    })?;
    if !contents.windows(11).any(|part| part == b"-----BEGIN ") {
        return Err(Error::config(format!("{what} `{}` is not in PEM format", path.display())));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address> {
        Address::new(&url.parse().expect("a URL"), &TlsOptions::default())
    }

    #[test]
    fn what_a_url_leaves_out_has_a_default() {
        for (url, user, host, port, vhost) in [
            ("amqp://localhost", "guest", "localhost", 5672, "/"),
            ("amqp://localhost/", "guest", "localhost", 5672, "/"),
            ("amqp://u:p@h:99/%2f", "u", "h", 99, "/"),
            ("amqp://u:p@h//", "u", "h", 5672, "/"),
            ("amqps://h/jobs", "guest", "h", 5671, "jobs"),
            ("amqp://u:p@[::1]:5/v", "u", "::1", 5, "v"),
            ("amqp://127.0.0.1", "guest", "127.0.0.1", 5672, "/"),
        ] {
            let uri = address(url).unwrap_or_else(|error| panic!("{url}: {error}")).uri;
            assert_eq!(
                (uri.authority.userinfo.username.as_str(), uri.authority.host.as_str(), uri.authority.port),
                (user, host, port),
                "{url}"
            );
            assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), (vhost, Some(HEARTBEAT)), "{url}");
        }
    }

    #[test]
    fn a_bad_address_is_refused_without_its_password() {
        for url in [
            "amqp://u:secret@host:port",
            "amqp:u:secret@host",
            "amqp://u:se/cret@host:x/",
            "amqp://u:1234/secret@host/v",
            "amqp://u:1234#secret@host/v",
            "amqp://a@h/v;amqp://user:secret@h2/v",
            "amqp://u:p@h/v?verify=verify_peer&key=secret",
        ] {
            let error = address(url).err().expect("an error");
            assert!(error.is_config(), "{url}");
            let all = format!("{error:#} {error:?}");
            assert!(!all.contains("secret") && !all.contains("cret@"), "{all}");
        }
    }

    #[test]
    fn files_for_tls_must_be_there_and_be_pem() {
        let options = TlsOptions { ca_file: Some("/does/not/exist.pem".into()), ..TlsOptions::default() };
        let error = Address::new(&"amqps://h".parse().expect("a URL"), &options).err().expect("an error");
        assert!(error.is_config() && error.to_string().contains("/does/not/exist.pem"), "{error}");
        let options = TlsOptions { cert_file: Some("/x.pem".into()), ..TlsOptions::default() };
        let error = Address::new(&"amqps://h".parse().expect("a URL"), &options).err().expect("an error");
        assert!(error.to_string().contains("key_file"), "{error}");
    }
}
