//! Access rules: users, tokens, the trusted proxy and the login link.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::password::{fingerprint, is_hash, is_same, random_key, verify};
use super::throttle::Throttle;
use crate::app::config::dashboard::{DashboardConfig, DashboardRole};
use crate::error::{Error, Result};

/// A hash that no password matches, so that refusing an unknown user takes as long as a wrong password.
const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LW5vYm9keQ$M7fXhN0bH3sVnXjK1Wq5m8mHhB0n0oX2vYV5kq2b3rA";

/// Whether people have to log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// With a user's password or, on a loopback address without configured users, with the printed link.
    #[default]
    Required,
    /// Not at all: everyone who can reach the address may do everything.
    Off,
}

/// Decides who may access the page.
#[derive(Debug)]
pub(crate) struct Access {
    config: DashboardConfig,
    login: Login,
    /// The key of the login link, if no users are configured.
    link: Mutex<Option<String>>,
    by_address: Mutex<Throttle<IpAddr>>,
    by_user: Mutex<Throttle<String>>,
    /// Hashing takes memory: one at a time bounds how much unauthenticated clients can make us use.
    hashing: Semaphore,
}

/// Why a login was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LoginError {
    /// Name or password is wrong; the answer does not reveal which.
    Wrong,
    /// Too many wrong attempts: the next one is accepted after this time.
    Wait(Duration),
}

impl Access {
    /// Checks the rules for an address to listen on.
    ///
    /// # Errors
    /// Fails on a mistake in the configuration, or if others can reach the address and there are no users.
    pub(crate) fn new(config: DashboardConfig, login: Login, listen: SocketAddr) -> Result<Self> {
        check(&config)?;
        let nobody = config.users.iter().all(|user| user.password.is_none()) && config.proxy.is_none();
        if !listen.ip().is_loopback() && login == Login::Required && nobody {
            return Err(Error::config(format!(
                "cannot serve the management page on {listen}: others can reach this address, and there are no users; \
                 add one with `mq-worker dashboard add-user NAME --role act`, listen on 127.0.0.1, or use --no-login to \
                 let everybody in"
            )));
        }
        let link = (nobody && login == Login::Required).then(random_key);
        Ok(Self {
            config,
            login,
            link: Mutex::new(link),
            by_address: Mutex::default(),
            by_user: Mutex::default(),
            hashing: Semaphore::new(1),
        })
    }

    /// Returns whether no login is required.
    pub(crate) fn is_open(&self) -> bool {
        self.login == Login::Off
    }

    /// Returns whether users can log in with name and password.
    pub(crate) fn has_passwords(&self) -> bool {
        self.config.users.iter().any(|user| user.password.is_some())
    }

    /// The key of the login link that is valid now.
    pub(crate) fn link(&self) -> Option<String> {
        self.link.lock().expect("never poisoned").clone()
    }

    /// Uses the login link. It is valid once; a new one replaces it.
    pub(crate) fn use_link(&self, key: &str) -> bool {
        let mut link = self.link.lock().expect("never poisoned");
        let is_right = link.as_deref().is_some_and(|right| is_same(right, key));
        if is_right {
            *link = Some(random_key());
        }
        is_right
    }

    /// Checks a user's password and returns the user's role.
    pub(crate) async fn log_in(
        &self,
        name: &str,
        password: &str,
        from: IpAddr,
    ) -> std::result::Result<DashboardRole, LoginError> {
        let waits = || {
            let now = Instant::now();
            let address = self.by_address.lock().expect("never poisoned").wait(&from, now);
            address.max(self.by_user.lock().expect("never poisoned").wait(&name.to_owned(), now))
        };
        if let Some(wait) = waits() {
            return Err(LoginError::Wait(wait));
        }
        let user = self.config.users.iter().find(|user| user.name == name);
        let hash = user.and_then(|user| user.password.as_ref());
        let text = hash.map_or_else(|| DUMMY_HASH.to_owned(), |hash| hash.0.clone());
        let _one_at_a_time = self.hashing.acquire().await.expect("the semaphore is never closed");
        // Other attempts may have failed while this one waited for its turn.
        if let Some(wait) = waits() {
            return Err(LoginError::Wait(wait));
        }
        let password = password.to_owned();
        let is_right = tokio::task::spawn_blocking(move || verify(&password, &text)).await.unwrap_or(false);
        match user.filter(|_| is_right && hash.is_some()) {
            Some(user) => {
                self.by_address.lock().expect("never poisoned").succeeded(&from);
                self.by_user.lock().expect("never poisoned").succeeded(&user.name);
                Ok(user.role)
            }
            None => {
                let now = Instant::now();
                self.by_address.lock().expect("never poisoned").failed(from, now);
                self.by_user.lock().expect("never poisoned").failed(name.to_owned(), now);
                Err(LoginError::Wrong)
            }
        }
    }

    /// The program that a token belongs to.
    pub(crate) fn of_token(&self, token: &str) -> Option<(String, DashboardRole)> {
        let hash = fingerprint(token);
        let found =
            self.config.tokens.iter().find(|known| is_same(&known.sha256.to_ascii_lowercase(), &hash))?;
        Some((found.name.clone(), found.role))
    }

    /// The user that a trusted proxy names.
    pub(crate) fn of_proxy<'a>(
        &self,
        from: IpAddr,
        header: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<(String, DashboardRole)> {
        let proxy = self.config.proxy.as_ref()?;
        let from = from.to_canonical();
        if !proxy.from.iter().any(|known| known.to_canonical() == from) {
            return None;
        }
        let name = header(&proxy.header)?.trim();
        if name.is_empty() {
            return None;
        }
        let known = self.config.users.iter().find(|user| user.name == name);
        Some((name.to_owned(), known.map_or(proxy.role, |user| user.role)))
    }

    /// Returns whether browsers reach the page only over HTTPS.
    pub(crate) fn is_https(&self) -> bool {
        self.config.public_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }

    /// The URL under which browsers reach the page, if it is behind a proxy.
    pub(crate) fn public_url(&self) -> Option<&str> {
        self.config.public_url.as_deref().map(|url| url.trim_end_matches('/'))
    }
}

fn check(config: &DashboardConfig) -> Result<()> {
    for (index, user) in config.users.iter().enumerate() {
        if user.name.trim().is_empty() {
            return Err(Error::config("a user of [dashboard] has an empty name"));
        }
        if config.users[..index].iter().any(|other| other.name == user.name) {
            return Err(Error::config(format!("user `{}` of [dashboard] is defined twice", user.name)));
        }
        if user.password.as_ref().is_some_and(|hash| !is_hash(&hash.0)) {
            return Err(Error::config(format!(
                "the password of user `{}` in [dashboard] is not an argon2 hash; `mq-worker dashboard add-user {}` writes one",
                user.name, user.name
            )));
        }
    }
    for token in &config.tokens {
        if token.sha256.len() != 64 || !token.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::config(format!(
                "token `{}` of [dashboard] is no SHA-256 hash; `mq-worker dashboard add-token {}` makes one",
                token.name, token.name
            )));
        }
    }
    if let Some(url) = &config.public_url
        && !url.starts_with("https://")
        && !url.starts_with("http://")
    {
        return Err(Error::config(format!(
            "public_url of [dashboard] is `{url}`: expected an address such as `https://queues.example.com`"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::password::hash;
    use super::*;
    use crate::app::config::dashboard::{DashboardProxy, DashboardToken, DashboardUser, PasswordHash};

    const LOOPBACK: &str = "127.0.0.1:5555";
    const EVERYWHERE: &str = "0.0.0.0:5555";

    fn access(config: DashboardConfig, login: Login, listen: &str) -> Result<Access> {
        Access::new(config, login, listen.parse().expect("an address"))
    }

    fn ada() -> DashboardConfig {
        let password = Some(PasswordHash(hash("correct horse").expect("a hash")));
        let user = DashboardUser { name: "ada".into(), password, role: DashboardRole::Act };
        DashboardConfig { users: vec![user], ..DashboardConfig::default() }
    }

    #[test]
    fn nobody_listens_beyond_loopback_without_a_login() {
        let none = DashboardConfig::default;
        let refused = access(none(), Login::Required, EVERYWHERE).expect_err("no users").to_string();
        assert!(refused.contains("add-user") && refused.contains("--no-login"), "{refused}");
        assert!(access(none(), Login::Off, EVERYWHERE).expect("an explicit word").is_open());
        assert!(access(ada(), Login::Required, EVERYWHERE).expect("a user").link().is_none());
        assert!(access(none(), Login::Required, LOOPBACK).expect("a link").link().is_some());
    }

    #[test]
    fn a_login_link_is_valid_once() {
        let access = access(DashboardConfig::default(), Login::Required, LOOPBACK).expect("rules");
        let link = access.link().expect("a link");
        assert!(!access.use_link("guess") && access.use_link(&link) && !access.use_link(&link));
        assert_ne!(access.link(), Some(link));
    }

    #[tokio::test]
    async fn a_user_comes_in_with_the_password_and_is_throttled_without() {
        let access = access(ada(), Login::Required, LOOPBACK).expect("rules");
        let from = "10.0.0.1".parse().expect("an address");
        assert_eq!(access.log_in("ada", "correct horse", from).await, Ok(DashboardRole::Act));
        for _ in 0..5 {
            assert_eq!(access.log_in("ada", "wrong", from).await, Err(LoginError::Wrong));
        }
        assert!(matches!(access.log_in("ada", "correct horse", from).await, Err(LoginError::Wait(_))));
        assert!(matches!(access.log_in("eve", "x", from).await, Err(LoginError::Wait(_))), "by address too");
    }

    #[tokio::test]
    async fn an_unknown_user_is_refused_like_a_wrong_password() {
        assert!(is_hash(DUMMY_HASH), "it is verified like any other");
        let access = access(ada(), Login::Required, LOOPBACK).expect("rules");
        let from = "10.0.0.1".parse().expect("an address");
        assert_eq!(access.log_in("eve", "correct horse", from).await, Err(LoginError::Wrong));
    }

    #[test]
    fn only_the_proxy_is_believed() {
        let from = vec!["10.0.0.1".parse().expect("an address")];
        let proxy = DashboardProxy { header: "X-User".into(), from, role: DashboardRole::View };
        let config = DashboardConfig { proxy: Some(proxy), ..ada() };
        let access = access(config, Login::Required, EVERYWHERE).expect("rules");
        let ask = |address: &str, user: Option<&'static str>| {
            access.of_proxy(address.parse().expect("an address"), |_| user)
        };
        assert_eq!(ask("10.0.0.1", Some("ada")), Some(("ada".into(), DashboardRole::Act)));
        assert_eq!(ask("::ffff:10.0.0.1", Some("bob")), Some(("bob".into(), DashboardRole::View)));
        assert_eq!(ask("10.0.0.2", Some("ada")), None);
        assert_eq!((ask("10.0.0.1", None), ask("10.0.0.1", Some(" "))), (None, None));
    }

    #[test]
    fn a_token_is_known_by_its_hash() {
        let token =
            DashboardToken { name: "ci".into(), sha256: fingerprint("t0ken"), role: DashboardRole::View };
        let config = DashboardConfig { tokens: vec![token], ..DashboardConfig::default() };
        let access = access(config, Login::Required, LOOPBACK).expect("rules");
        assert_eq!(access.of_token("t0ken"), Some(("ci".into(), DashboardRole::View)));
        assert_eq!(access.of_token("other"), None);
    }

    #[test]
    fn mistakes_are_named() {
        let mut plain = ada();
        plain.users[0].password = Some(PasswordHash("secret".into()));
        let error = access(plain, Login::Required, LOOPBACK).expect_err("no hash").to_string();
        assert!(
            error.contains("`ada`") && error.contains("add-user") && !error.contains("secret"),
            "{error}"
        );
        let mut twice = ada();
        twice.users.push(twice.users[0].clone());
        assert!(access(twice, Login::Required, LOOPBACK).is_err());
    }
}
