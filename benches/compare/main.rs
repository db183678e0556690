//! mq-worker compared with the raw clients, in one run: `benches/run` builds it and starts a broker for it.
//!
//! Each measurement runs in its own process, so that its CPU time and memory are measured separately and do not include
//! the broker's. The two sides of a comparison take turns; a ratio is the median of the ratios of the rounds, which a
//! busy machine disturbs far less than the rates.

mod framework;
mod lapin_client;
mod measure;
mod plan;
mod plot;
mod report;
mod role;
mod rusqlite_client;
mod work;

use std::path::PathBuf;

use clap::Parser;
use plan::Peers;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Compares mq-worker with the raw clients.
#[derive(Parser)]
struct Arguments {
    /// The RabbitMQ to load; without one, only SQLite is measured.
    #[arg(long, env = "MQ_BENCH_AMQP_URL")]
    amqp: Option<String>,
    /// Tasks of each measurement.
    #[arg(long, default_value_t = 100_000)]
    tasks: u64,
    /// How often each measurement is made.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only measurements whose name contains this text.
    #[arg(long, default_value = "")]
    only: String,
    /// A program that measures other task queues (`PROGRAM PEER enqueue|drain AT TASKS`), and those that it knows, such as
    /// `celery,dramatiq=python peers.py`. May be given more than once.
    #[arg(long, value_name = "PEERS=PROGRAM")]
    peers: Vec<Peers>,
    /// Where the figures go.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the chart goes.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// What a process of its own measures.
    #[command(subcommand)]
    role: Option<role::Role>,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let Some(role) = arguments.role {
        return role.run();
    }
    let figures = plan::run(
        arguments.amqp.as_deref(),
        arguments.tasks,
        arguments.rounds,
        &arguments.only,
        &arguments.peers,
    )?;
    report::print(&figures);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&figures)?)?;
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, plot::chart(&figures))?;
    }
    Ok(())
}
