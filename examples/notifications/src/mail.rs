//! The welcome e-mail: the task `send_email`.
//!
//! `SMTP_URL` names the server, such as `smtps://user:password@mail.example.com`, and `MAIL_FROM` the sender.

use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fmt, io};

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::PoolConfig;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use mq_worker::{Permanence, SharedState, task};

use crate::outbox::{self, OUTBOX};
use crate::user::User;

/// Sends the welcome e-mail.
#[task(queue = "email", max_retries = 5, backoff = "200ms..1m", time_limit = "1m")]
pub async fn send_email(user: User) -> Result<(), MailError> {
    Mailer::of_process()?.welcome(&user).await
}

/// Opens the mailer when the worker starts: a bad `SMTP_URL` stops it before the first e-mail fails.
#[mq_worker::setup]
fn open_mailer(_state: &mut SharedState) -> Result<(), MailError> {
    Mailer::of_process().map(drop)
}

/// Where e-mails go. One for the whole process, since it keeps the connections to the server.
#[derive(Debug)]
pub struct Mailer {
    from: Mailbox,
    /// `None`: into the outbox.
    server: Option<AsyncSmtpTransport<Tokio1Executor>>,
}

static MAILER: OnceLock<Mailer> = OnceLock::new();

impl Mailer {
    /// A mailer for the server at `url`, or for the outbox.
    ///
    /// # Errors
    /// Fails if the URL or the sender cannot be used.
    pub fn new(url: Option<&str>, from: &str) -> Result<Self, MailError> {
        let from = from
            .parse()
            .map_err(|error| MailError::Settings(format!("MAIL_FROM `{from}` is no sender: {error}")))?;
        let server = match url {
            Some(url) => Some(connect(url)?),
            None => None,
        };
        Ok(Self { from, server })
    }

    /// Returns the mailer of this process, created on first use from `SMTP_URL` and `MAIL_FROM`.
    fn of_process() -> Result<&'static Self, MailError> {
        if let Some(mailer) = MAILER.get() {
            return Ok(mailer);
        }
        let url = env::var("SMTP_URL").ok().filter(|url| !url.is_empty());
        let from = env::var("MAIL_FROM").unwrap_or_else(|_| "Welcome <welcome@example.com>".into());
        let made = Self::new(url.as_deref(), &from)?;
        Ok(MAILER.get_or_init(|| {
            if made.server.is_none() {
                tracing::warn!("SMTP_URL is not set: e-mails are written to {OUTBOX}/");
            }
            made
        }))
    }

    /// Makes this the mailer of the process. Returns false if it has one already.
    #[must_use]
    pub fn install(self) -> bool {
        MAILER.set(self).is_ok()
    }

    /// Sends the welcome e-mail to a user.
    ///
    /// # Errors
    /// See [`MailError`].
    pub async fn welcome(&self, user: &User) -> Result<(), MailError> {
        let address = user.email.parse().map_err(MailError::Address)?;
        // The same id each time: a server or a reader can tell that two copies are one e-mail.
        let id = format!("<welcome-{}@{}>", user.id, self.from.email.domain());
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(Some(user.name.clone()), address))
            .subject(format!("Welcome, {}", user.name))
            .message_id(Some(id))
            .header(ContentType::TEXT_PLAIN)
            .body(format!("Dear {},\n\nthank you for signing up.\n", user.name))
            .map_err(MailError::Message)?;
        match &self.server {
            Some(server) => server.send(message).await.map(drop).map_err(MailError::Smtp),
            None => {
                let path =
                    outbox::save(&user.email, "eml", message.formatted()).await.map_err(MailError::Outbox)?;
                tracing::info!(path = %path.display(), "wrote the e-mail");
                Ok(())
            }
        }
    }
}

fn connect(url: &str) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
    // The message does not show the URL, which may contain a password.
    let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
        .map_err(|error| MailError::Settings(format!("SMTP_URL cannot be used: {error}")))?;
    // As many idle connections as tasks run at once: a smaller pool closes connections that are needed again.
    let pool = PoolConfig::new().max_size(64).idle_timeout(Duration::from_secs(30));
    Ok(builder.pool_config(pool).timeout(Some(Duration::from_secs(20))).build())
}

/// Why an e-mail was not sent.
#[derive(Debug)]
pub enum MailError {
    /// The user's address is invalid.
    Address(lettre::address::AddressError),
    /// No message can be built from the user's data.
    Message(lettre::error::Error),
    /// The server refused it, or could not be reached.
    Smtp(lettre::transport::smtp::Error),
    /// The outbox cannot be written.
    Outbox(io::Error),
    /// The worker is configured wrongly.
    Settings(String),
}

impl Permanence for MailError {
    /// A 5xx reply is permanent; after a 4xx reply or a network error, the next attempt may succeed.
    fn is_permanent(&self) -> bool {
        match self {
            MailError::Address(_) | MailError::Message(_) => true,
            MailError::Smtp(error) => error.is_permanent(),
            MailError::Outbox(_) | MailError::Settings(_) => false,
        }
    }
}

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MailError::Address(error) => write!(f, "the user has no valid e-mail address: {error}"),
            MailError::Message(error) => write!(f, "cannot write the e-mail: {error}"),
            MailError::Smtp(error) => write!(f, "cannot send the e-mail: {error}"),
            MailError::Outbox(error) => write!(f, "cannot write the e-mail to {OUTBOX}/: {error}"),
            MailError::Settings(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for MailError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MailError::Address(error) => Some(error),
            MailError::Message(error) => Some(error),
            MailError::Smtp(error) => Some(error),
            MailError::Outbox(error) => Some(error),
            MailError::Settings(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::smtp::SmtpSink;

    const FROM: &str = "Welcome <welcome@example.com>";

    #[tokio::test]
    async fn an_email_reaches_the_server_whole() {
        let sink = SmtpSink::start(0).await.expect("a server");
        let mailer = Mailer::new(Some(&sink.url()), FROM).expect("a mailer");
        let mut user = User::sample(1);
        user.name = "Zoë O’Neill, Jr.".into();
        mailer.welcome(&user).await.expect("it is sent");
        let mails = sink.newest();
        assert_eq!(mails.len(), 1);
        assert_eq!(
            (mails[0].from.as_str(), mails[0].to.as_slice()),
            ("welcome@example.com", ["user0001@example.com".to_owned()].as_slice())
        );
        let text = String::from_utf8(mails[0].data.clone()).expect("text");
        assert!(text.contains("Message-ID: <welcome-1@example.com>\r\n"), "{text}");
        assert!(text.contains("\r\n\r\nDear Zo"), "{text}");
    }

    #[tokio::test]
    async fn many_at_once_share_the_connections() {
        let sink = SmtpSink::start(0).await.expect("a server");
        let mailer = Mailer::new(Some(&sink.url()), FROM).expect("a mailer");
        let users: Vec<User> = (1..=300).map(User::sample).filter(|user| !user.is_refused()).collect();
        for some in users.chunks(20) {
            futures_util::future::try_join_all(some.iter().map(|user| mailer.welcome(user)))
                .await
                .expect("it is sent");
        }
        let received = sink.received();
        assert!(users.iter().all(|user| received.get(&user.email) == Some(&1)));
        assert_eq!(received.len(), users.len());
        assert!(sink.connections() <= 40, "{} connections", sink.connections());
    }

    #[tokio::test]
    async fn a_refused_address_is_permanent_and_spoils_nothing() {
        let sink = SmtpSink::start(0).await.expect("a server");
        let mailer = Mailer::new(Some(&sink.url()), FROM).expect("a mailer");
        let refused = User::sample(10);
        assert!(refused.is_refused());
        let error = mailer.welcome(&refused).await.expect_err("it cannot be sent");
        assert!(error.is_permanent() && error.to_string().contains("550"), "{error}");
        mailer.welcome(&User::sample(1)).await.expect("it is sent");
        assert_eq!(sink.received().len(), 1);
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_tried_again() {
        let sink = SmtpSink::start(0).await.expect("a server");
        let url = sink.url();
        drop(sink);
        let error = Mailer::new(Some(&url), FROM)
            .expect("a mailer")
            .welcome(&User::sample(1))
            .await
            .expect_err("it cannot be sent");
        assert!(matches!(error, MailError::Smtp(_)) && !error.is_permanent(), "{error}");
    }

    #[tokio::test]
    async fn a_user_without_an_address_is_permanent() {
        let mailer = Mailer::new(None, FROM).expect("a mailer");
        let user = User { email: "nobody".into(), ..User::sample(1) };
        assert!(mailer.welcome(&user).await.expect_err("it cannot be sent").is_permanent());
    }

    #[tokio::test]
    async fn bad_settings_are_told_without_the_password() {
        let error = Mailer::new(Some("http://user:secret@host"), FROM).unwrap_err().to_string();
        assert!(error.contains("SMTP_URL") && !error.contains("secret"), "{error}");
        let error = Mailer::new(None, "nobody").unwrap_err().to_string();
        assert!(error.contains("MAIL_FROM `nobody`"), "{error}");
    }
}
