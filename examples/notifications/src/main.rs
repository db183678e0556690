//! `notifications`: the demonstration, or sign-ups for a worker in another terminal.

use std::error::Error;
use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, value_parser};
use mq_worker::App;
use notifications::demo::{self, Ending, Options};
use notifications::signup::{Users, sign_up_many};
use tracing_subscriber::EnvFilter;

/// A sign-up service: e-mails and text messages, sent by tasks.
///
/// Without a command it shows itself: it starts a mail server and an SMS gateway on this machine, signs users up,
/// and runs a worker that sends them their messages.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: DemoArguments,
}

#[derive(clap::Args)]
struct DemoArguments {
    /// How many users sign up.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u64).range(1..=100_000))]
    users: u64,
    /// Keep signing users up, and serve the management page on this address, until Ctrl-C.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:5555")]
    dashboard: Option<SocketAddr>,
    /// Seconds without any delivery after which the demonstration gives up.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..), hide = true)]
    patience: u64,
    /// E-mails that the mail server takes and loses, to see that it is noticed.
    #[arg(long, default_value_t = 0, hide = true)]
    lose: usize,
}

#[derive(Subcommand)]
enum Command {
    /// Sign users up and leave the sending to `mq-worker --queues email,sms`.
    Signup {
        /// How many users sign up.
        #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=100_000))]
        users: u64,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Refused addresses are expected: the table counts them, so the log need not name each. `lapin` logs an
    // error if a queue does not exist yet.
    let quiet = || EnvFilter::new("error,lapin=off,mq_worker::runtime::settle=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| quiet());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let done = match arguments.command {
        None => demonstrate(&arguments.demo).await,
        Some(Command::Signup { users }) => signup(users).await.map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        let _gone = writeln!(std::io::stderr(), "error: {}", told(&*error));
        ExitCode::FAILURE
    })
}

async fn demonstrate(arguments: &DemoArguments) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let options = Options {
        users: arguments.users,
        patience: Duration::from_secs(arguments.patience),
        lose: arguments.lose,
    };
    let mut out = stdout();
    if let Some(listen) = arguments.dashboard {
        demo::show(options, listen, &mut out).await?;
        return Ok(ExitCode::SUCCESS);
    }
    match demo::run(options, &mut out).await? {
        Ending::Finished(report) => {
            write!(out, "\n{report}")?;
            Ok(if report.adds_up() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Ending::Stopped => {
            writeln!(out, "stopped")?;
            // The exit code that a shell reports for a program ended by Ctrl-C.
            Ok(ExitCode::from(130))
        }
    }
}

async fn signup(count: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
    let app = App::global()?;
    let begun = Instant::now();
    sign_up_many(&Users::default(), count).await?;
    let elapsed = begun.elapsed().as_secs_f64() * 1000.0;
    let url = &app.config().broker_url;
    writeln!(
        stdout(),
        "{count} users signed up in {elapsed:.0} ms; their messages are in `email` and `sms`."
    )?;
    writeln!(stdout(), "`mq-worker --queues email,sms` sends them. Broker: {url}")?;
    app.close().await;
    Ok(())
}

/// The error with its causes.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
