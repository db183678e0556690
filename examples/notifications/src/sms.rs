//! The text message: the task `send_sms`.
//!
//! `SMS_GATEWAY_URL` names a gateway with Twilio's API, including account and token:
//! `https://ACCOUNT:TOKEN@api.twilio.com`. `SMS_FROM` is the sender's number.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use std::{env, fmt, io};

use mq_worker::{Permanence, SharedState, task};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

use crate::outbox::{self, OUTBOX};
use crate::user::User;

/// Sends the welcome text message.
#[task(queue = "sms", max_retries = 5, backoff = "200ms..1m", time_limit = "1m")]
pub async fn send_sms(user: User) -> Result<(), SmsError> {
    Gateway::of_process()?.welcome(&user).await
}

/// Opens the gateway when the worker starts: a bad `SMS_GATEWAY_URL` stops it before the first text fails.
#[mq_worker::setup]
fn open_gateway(_state: &mut SharedState) -> Result<(), SmsError> {
    Gateway::of_process().map(drop)
}

/// Where text messages go. One for the whole process, since it keeps the connections to the gateway.
#[derive(Debug)]
pub struct Gateway {
    from: String,
    /// `None`: into the outbox.
    account: Option<Account>,
}

/// An account at a gateway.
struct Account {
    client: Client,
    /// The URL to post messages to, without the token.
    messages: Url,
    sid: String,
    token: String,
}

static GATEWAY: OnceLock<Gateway> = OnceLock::new();

impl Gateway {
    /// A gateway at `url`, or the outbox.
    ///
    /// # Errors
    /// Fails if the URL cannot be used.
    pub fn new(url: Option<&str>, from: &str) -> Result<Self, SmsError> {
        let account = match url {
            Some(url) => Some(Account::open(url)?),
            None => None,
        };
        Ok(Self { from: from.to_owned(), account })
    }

    /// Returns the gateway of this process, created on first use from `SMS_GATEWAY_URL` and `SMS_FROM`.
    fn of_process() -> Result<&'static Self, SmsError> {
        if let Some(gateway) = GATEWAY.get() {
            return Ok(gateway);
        }
        let url = env::var("SMS_GATEWAY_URL").ok().filter(|url| !url.is_empty());
        let from = env::var("SMS_FROM").unwrap_or_else(|_| "+15550100100".into());
        let made = Self::new(url.as_deref(), &from)?;
        Ok(GATEWAY.get_or_init(|| {
            if made.account.is_none() {
                tracing::warn!("SMS_GATEWAY_URL is not set: text messages are written to {OUTBOX}/");
            }
            made
        }))
    }

    /// Makes this the gateway of the process. Returns false if it has one already.
    #[must_use]
    pub fn install(self) -> bool {
        GATEWAY.set(self).is_ok()
    }

    /// Sends the welcome text to a user.
    ///
    /// # Errors
    /// See [`SmsError`].
    pub async fn welcome(&self, user: &User) -> Result<(), SmsError> {
        let text = format!("Welcome, {}! Thank you for signing up.", user.name);
        match &self.account {
            Some(account) => account.post(&user.phone, &self.from, &text).await,
            None => {
                let file = format!("To: {}\nFrom: {}\n\n{text}\n", user.phone, self.from);
                let path = outbox::save(&user.phone, "txt", file.into()).await.map_err(SmsError::Outbox)?;
                tracing::info!(path = %path.display(), "wrote the text message");
                Ok(())
            }
        }
    }
}

/// The gateway's reply, whether it accepted the message or not.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    sid: Option<String>,
    code: Option<u32>,
    message: Option<String>,
}

impl Account {
    fn open(url: &str) -> Result<Self, SmsError> {
        // The message does not show the URL, which contains the token.
        let bad =
            |why: &dyn fmt::Display| SmsError::Settings(format!("SMS_GATEWAY_URL cannot be used: {why}"));
        let mut messages: Url = url.parse().map_err(|error| bad(&error))?;
        if !matches!(messages.scheme(), "http" | "https") {
            return Err(bad(&"it begins with neither http:// nor https://"));
        }
        let sid = messages.username().to_owned();
        let token = messages.password().unwrap_or_default().to_owned();
        if sid.is_empty() || token.is_empty() {
            return Err(bad(&"it lacks the account, as in https://ACCOUNT:TOKEN@api.example.com"));
        }
        let stripped = messages.set_username("").and_then(|()| messages.set_password(None));
        stripped.map_err(|()| bad(&"it has no host"))?;
        messages.path_segments_mut().map_err(|()| bad(&"it has no path"))?.pop_if_empty().extend([
            "2010-04-01",
            "Accounts",
            &sid,
            "Messages.json",
        ]);
        // The HTTP client uses the process-wide crypto provider; it does not matter which code installed it first.
        let _was_first = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_secs(20))
            .build()
            .map_err(|error| bad(&error))?;
        Ok(Self { client, messages, sid, token })
    }

    async fn post(&self, to: &str, from: &str, body: &str) -> Result<(), SmsError> {
        let response = self
            .client
            .post(self.messages.clone())
            .basic_auth(&self.sid, Some(&self.token))
            .form(&[("To", to), ("From", from), ("Body", body)])
            .send()
            .await
            .map_err(SmsError::Network)?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let answer = read(response).await;
        if status.is_success() {
            // Accepted, whatever the body of the reply: another attempt would send it twice.
            tracing::debug!(sid = answer.sid, "the gateway took the text message");
            return Ok(());
        }
        let message = answer.message.unwrap_or_else(|| "it does not say why".into());
        Err(SmsError::Refused { status, code: answer.code, message, retry_after })
    }
}

/// Reads the reply as far as possible, up to a limit that no real reply exceeds.
async fn read(mut response: Response) -> Answer {
    const LIMIT: usize = 64 * 1024;
    let mut text = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        if text.len() + part.len() > LIMIT {
            break;
        }
        text.extend_from_slice(&part);
    }
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Reads `Retry-After`: seconds or a date, at most an hour. A gateway's mistake must not delay a text forever.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(Duration::from_secs(3600)))
}

/// Does not show the token.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("messages", &self.messages.as_str()).finish_non_exhaustive()
    }
}

/// Why a text message was not sent.
#[derive(Debug)]
pub enum SmsError {
    /// The gateway answered with an error.
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The gateway's own number for the error.
        code: Option<u32>,
        /// The gateway's message.
        message: String,
        /// How long to wait before the next attempt.
        retry_after: Option<Duration>,
    },
    /// The gateway could not be reached, or the connection was lost.
    Network(reqwest::Error),
    /// The outbox cannot be written.
    Outbox(io::Error),
    /// The worker is configured wrongly.
    Settings(String),
}

impl Permanence for SmsError {
    /// A 4xx status means that the request is wrong and stays wrong, except for 408 and 429, which mean "not now".
    fn is_permanent(&self) -> bool {
        match self {
            SmsError::Refused { status, .. } => {
                let not_now = matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
                status.is_client_error() && !not_now
            }
            SmsError::Network(_) | SmsError::Outbox(_) | SmsError::Settings(_) => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            SmsError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for SmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SmsError::Refused { status, code, message, .. } => {
                write!(f, "the SMS gateway answered {}", status.as_u16())?;
                if let Some(code) = code {
                    write!(f, " (code {code})")?;
                }
                write!(f, ": {message}")
            }
            SmsError::Network(error) => {
                write!(f, "cannot reach the SMS gateway: {error}")?;
                // The client's own text says only that a request failed; the cause says why.
                let mut cause = std::error::Error::source(error);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
            SmsError::Outbox(error) => write!(f, "cannot write the text message to {OUTBOX}/: {error}"),
            SmsError::Settings(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for SmsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SmsError::Network(error) => Some(error),
            SmsError::Outbox(error) => Some(error),
            SmsError::Refused { .. } | SmsError::Settings(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sms::SmsSink;

    const FROM: &str = "+15550100100";

    #[tokio::test]
    async fn a_text_reaches_the_gateway_whole() {
        let sink = SmsSink::start().await.unwrap();
        let mut user = User::sample(1);
        user.name = "Zoë & Co=".into();
        Gateway::new(Some(&sink.url()), FROM).unwrap().welcome(&user).await.unwrap();
        let texts = sink.newest();
        assert_eq!(texts.len(), 1);
        assert_eq!((texts[0].to.as_str(), texts[0].from.as_str()), (user.phone.as_str(), FROM));
        assert_eq!(texts[0].body, "Welcome, Zoë & Co=! Thank you for signing up.");
    }

    #[tokio::test]
    async fn a_busy_gateway_is_asked_again() {
        let sink = SmsSink::start().await.unwrap();
        let gateway = Gateway::new(Some(&sink.url()), FROM).unwrap();
        let user = User::sample(5);
        for _ in 0..2 {
            let error = gateway.welcome(&user).await.unwrap_err();
            assert!(!error.is_permanent() && error.to_string().contains("503 (code 20503)"), "{error}");
        }
        gateway.welcome(&user).await.unwrap();
        assert_eq!(sink.received(), [(user.phone, 1)].into());
    }

    #[tokio::test]
    async fn a_malformed_number_is_permanent() {
        let sink = SmsSink::start().await.unwrap();
        let gateway = Gateway::new(Some(&sink.url()), FROM).unwrap();
        let user = User { phone: "call me".into(), ..User::sample(1) };
        let error = gateway.welcome(&user).await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("400 (code 21211): "), "{error}");
        assert_eq!(sink.recipients(), 0);
    }

    #[tokio::test]
    async fn a_gateway_that_is_away_is_asked_again_and_its_token_is_not_shown() {
        let sink = SmsSink::start().await.unwrap();
        let url = sink.url();
        drop(sink);
        let gateway = Gateway::new(Some(&url), FROM).unwrap();
        let error = gateway.welcome(&User::sample(1)).await.unwrap_err();
        assert!(matches!(error, SmsError::Network(_)) && !error.is_permanent(), "{error}");
        let token = url.split(['@', ':']).nth(2).unwrap();
        assert!(!format!("{error} {error:?} {gateway:?}").contains(token), "{error}");
    }

    #[tokio::test]
    async fn a_server_of_another_kind_is_told() {
        let sink = SmsSink::start().await.unwrap();
        let url = format!("{}/elsewhere/", sink.url());
        let error = Gateway::new(Some(&url), FROM).unwrap().welcome(&User::sample(1)).await.unwrap_err();
        assert!(error.to_string().contains("404: it does not say why"), "{error}");
    }

    #[test]
    fn bad_settings_are_told_without_the_token() {
        for (url, why) in [
            ("https://AC1:secret@", "SMS_GATEWAY_URL cannot be used"),
            ("ftp://AC1:secret@host", "neither http://"),
            ("https://api.example.com", "lacks the account"),
            ("secret", "SMS_GATEWAY_URL cannot be used"),
        ] {
            let error = Gateway::new(Some(url), FROM).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn an_https_gateway_needs_no_further_setting_up() {
        Gateway::new(Some("https://AC1:secret@api.example.com"), FROM).unwrap();
    }

    #[test]
    fn status_decides_about_another_try() {
        for (status, permanent) in
            [(400, true), (401, true), (404, true), (408, false), (429, false), (500, false), (503, false)]
        {
            let status = StatusCode::from_u16(status).unwrap();
            let error = SmsError::Refused { status, code: None, message: String::new(), retry_after: None };
            assert_eq!(error.is_permanent(), permanent, "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, wait) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("999999999", Some(3600)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), wait.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
