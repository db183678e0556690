//! One request over HTTP, with errors that people understand.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::{StatusCode, header};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::admin::failure::{FAILED, Failure, Outcome, REFUSED, UNAVAILABLE};
use crate::connection::TlsOptions;
use crate::show::one_line;

/// Timeout for each response; a firewall that drops packets must not hold up a command for long.
const LIMIT: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
/// A larger response is an error.
const LARGEST: u64 = 32 * 1024 * 1024;

/// A client with the credentials of one user. It holds the password, so it has no `Debug`.
#[derive(Clone)]
pub(crate) struct Http {
    agent: ureq::Agent,
    /// Scheme, host and port, without credentials.
    base: String,
    user: String,
    authorization: String,
    vhost: String,
}

/// An error that the API itself reports.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    reason: Option<serde_json::Value>,
}

impl Http {
    pub(crate) fn new(
        base: String,
        (user, password): (String, String),
        vhost: String,
        tls: &TlsOptions,
    ) -> Outcome<Self> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Another server must not get the password.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(LIMIT));
        if base.starts_with("https:") {
            config = config.tls_config(tls_config(tls)?);
        }
        let authorization = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        Ok(Self { agent: config.build().new_agent(), base, user, authorization, vhost })
    }

    #[cfg(test)]
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    #[cfg(test)]
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Sends a request and blocks until the response; `None` if the path names something that does not exist.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<Option<T>> {
        let asked = self
            .agent
            .get(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, &self.authorization)
            .call();
        let mut response = asked.map_err(|error| self.unreachable(&error))?;
        let body = response.body_mut().with_config().limit(LARGEST).read_to_vec();
        let status = response.status();
        if status != StatusCode::OK {
            let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let refusal: Option<Refusal> = serde_json::from_slice(&body.unwrap_or_default()).ok();
            return match status {
                StatusCode::NOT_FOUND if refusal.is_some() => Ok(None),
                _ => Err(self.refused(status, refusal, location)),
            };
        }
        let body = body.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map(Some).map_err(|_| {
            Failure::failed(format!(
                "{} is not RabbitMQ's management API: it answers with something else",
                self.base
            ))
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let Self { base, .. } = self;
        let text = match error {
            ureq::Error::HostNotFound => format!("cannot reach {base}: the host is not known"),
            ureq::Error::Timeout(_) => format!("{base} did not answer within {}s", LIMIT.as_secs()),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                format!("{base} did not answer within {}s", LIMIT.as_secs())
            }
            ureq::Error::Io(error) if is_tls(error) => format!("cannot reach {base}: {error}"),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => format!(
                "no answer at {base}: `rabbitmq-plugins enable rabbitmq_management` on the server starts the \
                 management API, `management_url` says where else it is"
            ),
            ureq::Error::ConnectionFailed => format!("cannot reach {base}: the connection failed"),
            ureq::Error::Io(error) => format!("cannot reach {base}: {error}"),
            ureq::Error::BodyExceedsLimit(_) => {
                format!("{base} answers with more than {} MiB", LARGEST >> 20)
            }
            ureq::Error::Protocol(_) | ureq::Error::Http(_) => format!(
                "{base} does not speak HTTP: `management_url` is the address of the management API, usually on port 15672"
            ),
            other => format!("cannot reach {base}: {other}"),
        };
        Failure::new(UNAVAILABLE, text)
    }

    /// The API does not know the virtual host.
    pub(crate) fn no_vhost(&self) -> Failure {
        Failure::new(FAILED, format!("{} knows no virtual host `{}`", self.base, self.vhost))
    }

    fn refused(&self, status: StatusCode, refusal: Option<Refusal>, location: Option<&str>) -> Failure {
        let Self { base, user, vhost, .. } = self;
        let reason = refusal.as_ref().and_then(|refusal| refusal.reason.as_ref()?.as_str());
        let reason = reason.map_or_else(String::new, |reason| format!(" ({})", one_line(reason, 100)));
        match status.as_u16() {
            401 => Failure::new(
                REFUSED,
                format!(
                    "{base} refuses user `{user}`{reason}: the password is wrong, or the user may not use the \
                     management API (`rabbitmqctl set_user_tags {user} monitoring` lets it)"
                ),
            ),
            403 => Failure::new(
                REFUSED,
                format!("{base} does not let user `{user}` look into virtual host `{vhost}`{reason}"),
            ),
            300..=399 => {
                let to = location.map_or_else(String::new, |to| format!(" to {}", one_line(to, 100)));
                Failure::new(
                    FAILED,
                    format!("{base} redirects{to}: set `management_url` to the address itself"),
                )
            }
            404 => {
                Failure::new(FAILED, format!("{base} is not RabbitMQ's management API: it answers {status}"))
            }
            _ => Failure::new(UNAVAILABLE, format!("{base} answers {status}{reason}")),
        }
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|source| source.is::<rustls::Error>())
}

/// The certificates that `amqps://` trusts too: the system's and those of `ca_file`.
fn tls_config(options: &TlsOptions) -> Outcome<TlsConfig> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))
    };
    let certificates = |pem: &[u8]| -> Vec<Certificate<'static>> {
        let certificate = |item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        };
        ureq::tls::parse_pem(pem).filter_map(certificate).collect()
    };
    let system = rustls_native_certs::load_native_certs().certs;
    let mut roots: Vec<Certificate<'static>> =
        system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    if let Some(path) = &options.ca_file {
        roots.extend(certificates(&read(path)?));
    }
    let client = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => {
            let bad = |_| Failure::usage(format!("key_file `{}` holds no private key", key.display()));
            let key = PrivateKey::from_pem(&read(key)?).map_err(bad)?;
            Some(ClientCert::new_with_certs(&certificates(&read(cert)?), key))
        }
        _ => None,
    };
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(client)
        .build())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Sends a request to a server that answers with these bytes; also returns its address and the request.
    fn ask(answer: &'static [u8]) -> (Outcome<Option<Vec<u64>>>, String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut asked = Vec::new();
            let mut piece = [0; 1024];
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                match client.read(&mut piece).expect("a request") {
                    0 => break,
                    read => asked.extend(&piece[..read]),
                }
            }
            client.write_all(answer).expect("it listens");
            String::from_utf8(asked).expect("text")
        });
        let answered = client(&base).get("/api/x");
        (answered, base, server.join().expect("no panic"))
    }

    fn client(base: &str) -> Http {
        let user = ("ops".to_owned(), "hunter2".to_owned());
        Http::new(base.to_owned(), user, "jobs".to_owned(), &TlsOptions::default()).expect("a client")
    }

    #[test]
    fn a_good_answer_is_read_and_one_to_an_unknown_name_is_none() {
        let (answer, _, asked) = ask(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n[1, 2]");
        assert_eq!(answer.expect("an answer"), Some(vec![1, 2]));
        assert!(asked.contains("Basic b3BzOmh1bnRlcjI="), "{asked}");
        let body = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n{\"error\":\"Object Not Found\"}\n";
        assert_eq!(ask(body).0.expect("an answer"), None);
    }

    #[test]
    fn errors_describe_servers_that_are_not_the_management_api() {
        let refused: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\n\
            {\"error\":\"not_authorised\",\"reason\":\"Not management user\"}\r\n";
        for (answer, code, expected) in [
            (refused, REFUSED, "refuses user `ops` (Not management user)"),
            (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", REFUSED, "virtual host `jobs`"),
            (b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\noops", FAILED, "it answers 404 Not Found"),
            (
                b"HTTP/1.1 301 Moved\r\nlocation: https://x/\r\ncontent-length: 0\r\n\r\n",
                FAILED,
                "redirects to https://x/",
            ),
            (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", UNAVAILABLE, "answers 503"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", FAILED, "answers with something else"),
            (b"AMQP\0\0\x09\x01", UNAVAILABLE, "does not speak HTTP"),
            (b"220 mail.example ESMTP\r\n\r\n", UNAVAILABLE, "does not speak HTTP"),
            (b"", UNAVAILABLE, "cannot reach"),
        ] {
            let (answered, base, _) = ask(answer);
            let (status, text) = answered.expect_err("no answer").into_parts();
            assert!(text.contains(&base) && text.contains(expected), "{expected}: {text}");
            assert_eq!(status, code, "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn connection_refused_suggests_a_fix() {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
        let error = client(&format!("http://{free}")).get::<u64>("/api/x").expect_err("nobody there");
        let (code, text) = error.into_parts();
        assert!(code == UNAVAILABLE && text.contains("rabbitmq-plugins enable"), "{text}");
        let error = client("http://does-not-exist.invalid:1").get::<u64>("/api/x").expect_err("nobody there");
        assert!(error.into_parts().1.contains("does-not-exist.invalid"));
    }
}
