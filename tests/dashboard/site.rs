//! A management page and a worker in this process.

use std::time::Duration;

use mq_worker::app::config::dashboard::{DashboardRole, DashboardToken, DashboardUser, PasswordHash};
use mq_worker::dashboard::{Dashboard, Login};
use mq_worker::{App, Config, Context, TaskError, Worker, WorkerHandle, task};
use support::Browser;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The hash of the password `correct horse`, of a user who may act.
const ADA: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$S/jQVuW1z4MxJLsazUN94A$5ETpoAPThwUJ/dyf2fPwyvny71sjckry7L0Zh5Qi2b0";
/// The hash of the password `battery staple`, of a user who may only view.
const VIV: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$qO5Mh4gPFjwZNiANxI4prg$H/GurMxL8BXXnfKnGrTuuF/4P+bLY8JmiNXjcm9thZ4";
/// The SHA-256 hashes of the tokens `t0ken` and `l00k`.
const TOKENS: [(&str, &str, DashboardRole); 2] = [
    ("deploy", "b46c09677343261f0b439a472422225e3a230c9c094d6ab16762e2036b597053", DashboardRole::Act),
    ("grafana", "87b2a7aaa0de9d64fead336ab95cb8e72c6d88d436c59fd5a2e37269006cf1ed", DashboardRole::View),
];

/// Greets, or fails on request.
#[task(queue = "greetings", name = "dashboard.greet", max_retries = 1, backoff = "50ms..100ms")]
pub async fn greet(ctx: &Context, name: String) -> Result<String, TaskError> {
    match name.as_str() {
        "nobody" => Err(TaskError::reject("there is nobody to greet")),
        "busy" if ctx.retries() == 0 => Err(TaskError::from(std::io::Error::other("the line is busy"))),
        // A dead letter keeps the reason when it is replayed.
        "later" if ctx.headers().get_str("mq-dead-reason").is_none() => Err(TaskError::reject("not yet")),
        "slow" => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(name)
        }
        name => Ok(format!("hello {name}")),
    }
}

/// A page, a worker and their broker.
pub(crate) struct Site {
    pub(crate) app: App,
    pub(crate) address: String,
    handle: Option<WorkerHandle>,
    tasks: Vec<JoinHandle<()>>,
    _directory: TempDir,
}

impl Site {
    /// Serves a page, with a worker.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same with other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut site = Self::without_worker(change).await;
        let worker = Worker::new(site.app.clone()).expect("a worker");
        site.handle = Some(worker.handle());
        site.tasks.push(tokio::spawn(async move { drop(worker.run().await) }));
        site
    }

    /// Serves a page without a worker.
    pub(crate) async fn without_worker(change: impl FnOnce(&mut Config)) -> Self {
        let directory = support::temp_dir();
        let mut config = Config::default();
        let path = |name: &str| directory.path().join(name);
        config.broker_url = format!("sqlite:{}", path("queue.db").display()).parse().expect("a URL");
        config.history = path("history.db");
        config.sent_events = true;
        config.worker.events = true;
        config.worker.queues = vec!["greetings".into()];
        config.worker.hostname = Some("greeter@host-1".into());
        config.worker.grace = Duration::ZERO;
        let user = |name: &str, hash: &str, role| DashboardUser {
            name: name.into(),
            password: Some(PasswordHash(hash.into())),
            role,
        };
        config.dashboard.users =
            vec![user("ada", ADA, DashboardRole::Act), user("viv", VIV, DashboardRole::View)];
        config.dashboard.tokens = TOKENS
            .map(|(name, sha256, role)| DashboardToken { name: name.into(), sha256: sha256.into(), role })
            .into();
        change(&mut config);
        let app = App::new(config).expect("an application");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let dashboard = Dashboard::bind(app.clone(), listen, Login::Required).await.expect("a page");
        let address = format!("http://{}", dashboard.address());
        let serving = tokio::spawn(async move { drop(dashboard.serve(std::future::pending()).await) });
        Self { app, address, handle: None, tasks: vec![serving], _directory: directory }
    }

    /// Sends a greeting, and returns its id.
    pub(crate) async fn greet(&self, name: &str) -> String {
        let sent = self.app.send(greet.with(name)).await.expect("sent");
        sent.id().to_owned()
    }

    /// The address of a page.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Logs in, and goes to a page.
    pub(crate) async fn log_in(&self, browser: &Browser, name: &str, path: &str) {
        let password = if name == "ada" { "correct horse" } else { "battery staple" };
        browser.open(&self.url(path)).await;
        browser.fill("input[name=name]", name).await;
        browser.fill("input[name=password]", password).await;
        browser.click("button[type=submit]").await;
        browser.wait("nav").await;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            handle.stop_now();
        }
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
