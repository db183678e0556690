//! The demonstration: a mail server, a gateway, users that sign up and a worker, all in this process.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mq_worker::broker::{Broker, QueueInfo};
use mq_worker::dashboard::{Dashboard, Login};
use mq_worker::{App, Config, Summary, Worker};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::mail::Mailer;
use crate::report::{Report, Seen};
use crate::signup::{Users, sign_up, sign_up_many};
use crate::sinks::sms::SmsSink;
use crate::sinks::smtp::SmtpSink;
use crate::sms::Gateway;
use crate::user::User;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const QUEUES: [&str; 2] = ["email", "sms"];
const DEAD: [&str; 2] = ["email.dead", "sms.dead"];

/// The pause between two sign-ups that are being watched.
const BETWEEN_SIGN_UPS: Duration = Duration::from_millis(150);

/// How long the worker may take to stop once everything is done or given up.
const STOPPING: Duration = Duration::from_secs(15);

/// The options of the command line.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many users sign up.
    pub users: u64,
    /// How long to wait without a delivery before giving up.
    pub patience: Duration,
    /// How many e-mails the mail server accepts and drops: a fault for tests.
    pub lose: usize,
}

/// How the demonstration ended.
#[derive(Debug)]
pub enum Ending {
    /// It ran to the end, with or without problems.
    Finished(Report),
    /// It was stopped by Ctrl-C.
    Stopped,
}

/// Runs the demonstration and writes to `out` what it is doing.
///
/// # Errors
/// Fails if it cannot start or continue: the broker cannot be used, or no port is free.
pub async fn run(options: Options, out: &mut impl Write) -> Result<Ending> {
    let mut interrupted = pin!(interruption()?);
    let (smtp, sms) = servers(options.lose).await?;
    let place = Place::open(|_| {})?;
    writeln!(out, "Broker: {}, mail server and SMS gateway: this program.", place.name)?;
    let app = place.app.clone();
    let demo = Demo { options, broker: app.broker().await?, smtp, sms, broker_stays: place.stays() };
    let ending = demo.run(&app, &mut interrupted).await;
    // An unreachable broker must not keep the program from exiting.
    let _closed = timeout(Duration::from_secs(5), app.close()).await;
    ending
}

/// Keeps signing users up, slowly enough to watch, and serves the management page until Ctrl-C.
///
/// # Errors
/// Fails if it cannot start: the broker cannot be used, or the address is in use.
pub async fn show(options: Options, listen: SocketAddr, out: &mut impl Write) -> Result<()> {
    let mut interrupted = pin!(interruption()?);
    let (_smtp, _sms) = servers(options.lose).await?;
    // The management page learns of calls through events.
    let place = Place::open(|config| {
        config.sent_events = true;
        config.worker.events = true;
    })?;
    let app = place.app.clone();
    let worker = Worker::new(app.clone())?;
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    let dashboard = Dashboard::bind(app.clone(), listen, Login::Required).await?;
    writeln!(out, "Broker: {}. Open {}", place.name, dashboard.link())?;
    let serving = tokio::spawn(dashboard.serve(std::future::pending()));
    let users = Users::default();
    let signing_up = async {
        for id in 1.. {
            sign_up(&users, User::sample(id)).await?;
            tokio::time::sleep(BETWEEN_SIGN_UPS).await;
        }
        Ok::<_, mq_worker::Error>(())
    };
    let outcome = tokio::select! {
        () = &mut interrupted => Ok(()),
        done = signing_up => done,
    };
    serving.abort();
    handle.stop();
    stopped(working).await?;
    let _closed = timeout(Duration::from_secs(5), app.close()).await;
    Ok(outcome?)
}

/// The mail server and the SMS gateway, and the tasks that send to them.
async fn servers(lose: usize) -> Result<(SmtpSink, SmsSink)> {
    let smtp = SmtpSink::start(lose).await?;
    let sms = SmsSink::start().await?;
    let from = "Welcome <welcome@example.com>";
    let fresh = Mailer::new(Some(&smtp.url()), from)?.install()
        && Gateway::new(Some(&sms.url()), "+15550100100")?.install();
    if fresh { Ok((smtp, sms)) } else { Err("the demonstration runs once in a process".into()) }
}

/// The broker of the demonstration.
struct Place {
    app: App,
    name: String,
    /// Holds the broker's file and is removed when the demonstration ends. `None` for a configured broker.
    directory: Option<TempDir>,
}

impl Place {
    /// Opens the configured broker, else a temporary SQLite file: the default file is not touched.
    fn open(change: impl FnOnce(&mut Config)) -> Result<Self> {
        let mut config = Config::load()?;
        let mut directory = None;
        let mut name = config.broker_url.to_string();
        if config.broker_url == Config::default().broker_url {
            let temporary = tempfile::Builder::new().prefix("notifications-").tempdir()?;
            let file = temporary.path().join("mq-worker.db");
            let file = file.to_str().ok_or("the name of the temporary directory is not UTF-8")?;
            config.broker_url = format!("sqlite:{file}").parse()?;
            config.result_backend = None;
            config.history = temporary.path().join("history.db");
            name = "an SQLite file".into();
            directory = Some(temporary);
        }
        config.routes.clear();
        config.worker.queues = QUEUES.map(String::from).into();
        config.worker.grace = Duration::from_secs(5);
        change(&mut config);
        Ok(Self { app: App::builder().config(config).install()?, name, directory })
    }

    /// True if the broker can be inspected afterwards.
    fn stays(&self) -> bool {
        self.directory.is_none() && self.app.config().broker_url.scheme() != "memory"
    }
}

struct Demo {
    options: Options,
    broker: Arc<dyn Broker>,
    smtp: SmtpSink,
    sms: SmsSink,
    broker_stays: bool,
}

impl Demo {
    async fn run(&self, app: &App, interrupted: &mut Pin<&mut impl Future<Output = ()>>) -> Result<Ending> {
        let [dead_emails, dead_texts] = tokio::select! {
            () = &mut *interrupted => return Ok(Ending::Stopped),
            checked = self.check_queues() => checked?,
        };
        let users = Users::default();
        let begun = Instant::now();
        tokio::select! {
            () = &mut *interrupted => return Ok(Ending::Stopped),
            done = sign_up_many(&users, self.options.users) => done?,
        }
        let mut seen = Seen {
            users: users.len() as u64,
            signing_up: begun.elapsed(),
            broker_stays: self.broker_stays,
            ..Seen::default()
        };

        let begun = Instant::now();
        let worker = Worker::new(app.clone())?;
        let handle = worker.handle();
        let mut working = tokio::spawn(worker.run());
        let bar = progress_bar(2 * seen.users);
        let watched = tokio::select! {
            () = &mut *interrupted => Ok(Watched::Interrupted),
            ended = &mut working => {
                // It was not asked to stop, so something went wrong.
                ended??;
                return Err("the worker ended before its work was done".into());
            }
            watched = self.watch(dead_emails + dead_texts, &bar) => watched,
        };
        seen.working = begun.elapsed();
        bar.finish_and_clear();
        handle.stop();
        let summary = stopped(working).await?;
        seen.gave_up = match watched? {
            Watched::Interrupted => return Ok(Ending::Stopped),
            Watched::GaveUp(why) => Some(why),
            Watched::Done => None,
        };
        // The counts are final only now that nothing is running any more.
        seen.retried = summary.retried;
        seen.emails = self.smtp.received();
        seen.texts = self.sms.received();
        seen.left = self.queues(&QUEUES).await?.iter().map(waiting).sum();
        seen.dead_emails = self.ready(DEAD[0]).await?.saturating_sub(dead_emails);
        seen.dead_texts = self.ready(DEAD[1]).await?.saturating_sub(dead_texts);
        Ok(Ending::Finished(Report::new(&seen)))
    }

    /// Fails if the queues already hold messages or have consumers: the demonstration must not send messages that are
    /// not its own, and its own must not go elsewhere. Returns how many dead letters there are already.
    async fn check_queues(&self) -> Result<[u64; 2]> {
        for queue in self.queues(&QUEUES).await? {
            let name = &queue.name;
            if waiting(&queue) > 0 {
                let problem = format!(
                    "queue `{name}` holds {} messages that are not the demonstration's: let a worker run them, drop \
                     them with `mq-worker purge {name}`, or give the demonstration a broker or vhost of its own",
                    waiting(&queue)
                );
                return Err(problem.into());
            }
            if queue.consumers > 0 {
                let problem = format!(
                    "a worker takes from queue `{name}` already and would send the demonstration's messages elsewhere: \
                     stop it first, or see it work with `cargo run -p notifications -- signup`"
                );
                return Err(problem.into());
            }
        }
        Ok([self.ready(DEAD[0]).await?, self.ready(DEAD[1]).await?])
    }

    /// Waits until every message was delivered or dead-lettered, or nothing more is going to happen.
    async fn watch(&self, dead_before: u64, bar: &ProgressBar) -> mq_worker::Result<Watched> {
        let goal = 2 * self.options.users;
        let mut most = 0;
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let silence = since.elapsed();
            let queues = match self.queues(&[DEAD, QUEUES].concat()).await {
                Ok(queues) => queues,
                // The broker may come back; the worker waits for it too.
                Err(error) if error.is_connection() || error.is_timeout() => {
                    if silence > self.options.patience {
                        return Err(error);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (dead, queues): (Vec<_>, Vec<_>) =
                queues.into_iter().partition(|queue| DEAD.contains(&queue.name.as_str()));
            let dead: u64 = dead.iter().map(|queue| queue.ready).sum();
            let delivered = (self.smtp.recipients() + self.sms.recipients()) as u64;
            let done = delivered + dead.saturating_sub(dead_before);
            bar.set_position(done.min(goal));
            if done >= goal {
                return Ok(Watched::Done);
            }
            if done > most {
                (most, since) = (done, Instant::now());
                continue;
            }
            // If the broker does not report running and delayed messages, a retry may still be pending.
            let all_told = queues.iter().all(|queue| queue.running.is_some() && queue.delayed.is_some());
            let idle = queues.iter().all(|queue| waiting(queue) == 0);
            if idle && silence > Duration::from_secs(if all_told { 2 } else { 15 }) {
                return Ok(Watched::Done);
            }
            if silence > self.options.patience {
                let patience = self.options.patience.as_secs();
                return Ok(Watched::GaveUp(format!("gave up: nothing was delivered for {patience} seconds")));
            }
        }
    }

    async fn queues(&self, names: &[&str]) -> mq_worker::Result<Vec<QueueInfo>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.broker.queues(&names).await
    }

    async fn ready(&self, name: &str) -> mq_worker::Result<u64> {
        Ok(self.queues(&[name]).await?.iter().map(|queue| queue.ready).sum())
    }
}

enum Watched {
    Done,
    GaveUp(String),
    Interrupted,
}

/// All messages of a queue that the broker reports.
fn waiting(queue: &QueueInfo) -> u64 {
    queue.ready + queue.running.unwrap_or_default() + queue.delayed.unwrap_or_default()
}

/// Waits for a worker that was asked to stop.
async fn stopped(mut working: JoinHandle<mq_worker::Result<Summary>>) -> Result<Summary> {
    match timeout(STOPPING, &mut working).await {
        Ok(ended) => Ok(ended??),
        Err(_) => {
            working.abort();
            Err(format!("the worker did not stop within {} seconds", STOPPING.as_secs()).into())
        }
    }
}

/// A progress bar. It draws nothing if there is no terminal.
fn progress_bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} messages  {elapsed}")
        .expect("the template is right");
    ProgressBar::new(length).with_style(style)
}

/// Completes on SIGINT or SIGTERM. Signals are caught from this call on.
#[cfg(unix)]
fn interruption() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Completes on Ctrl-C, which is caught from this call on.
#[cfg(windows)]
fn interruption() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
