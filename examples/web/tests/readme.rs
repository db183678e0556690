//! Runs the tutorial as written: its commands on a file, and on the brokers and result backends that machines share.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::readme::{Readme, Step};
use support::{Process, free_port, postgres, redis, shared, temp_dir};

fn readme() -> Readme {
    Readme::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"))
}

#[test]
fn the_code_in_the_tutorial_is_the_code_of_the_programs() {
    let code = concat!(
        include_str!("../src/lib.rs"),
        include_str!("../src/main.rs"),
        include_str!("../src/bin/web-worker.rs")
    );
    for block in readme().blocks("rust") {
        let block = block.join("\n");
        assert!(code.contains(&block), "no such code:\n{block}");
    }
}

#[test]
fn on_a_file() {
    let directory = temp_dir();
    play(&format!("sqlite:{}", directory.path().join("queue.db").display()), None);
}

#[test]
fn on_rabbitmq_and_redis() {
    let Some(broker) = shared::fresh_rabbitmq("web") else { return };
    if let Some(store) = redis::shared("web") {
        play(&broker, Some(&store));
    }
}

#[test]
fn on_rabbitmq_and_postgresql() {
    let Some(broker) = shared::fresh_rabbitmq("web") else { return };
    if let Some(store) = postgres::shared("web") {
        play(&broker, Some(&store));
    }
}

#[test]
fn a_broker_that_is_away_is_not_the_client_s_mistake() {
    let mut lab = Lab::new("amqp://127.0.0.1:1", Some("memory://"));
    lab.run(&Step { command: "cargo run -q -p web".into(), expected: vec!["listening on [..]".into()] });
    let answer =
        lab.request(&["http://127.0.0.1:8080/reports", "--json", r#"{"customer": "Ada", "months": 1}"#]);
    assert_eq!(answer, (503, r#"{"error":"please try again later"}"#.to_owned()));
    let (status, _) = lab.request(&["http://127.0.0.1:8080/reports", "--json", r#"{"customer": "Ada"}"#]);
    assert_eq!(status, 422, "this is");
}

/// Runs the commands of the tutorial, one after the other.
fn play(broker: &str, store: Option<&str>) {
    let mut lab = Lab::new(broker, store);
    for step in readme().steps() {
        lab.run(&step);
    }
}

/// The terminals of a reader who follows the tutorial.
struct Lab {
    settings: Vec<(&'static str, String)>,
    port: u16,
    running: Vec<Process>,
    /// The id of the last order.
    id: String,
}

impl Lab {
    fn new(broker: &str, store: Option<&str>) -> Self {
        let port = free_port();
        let mut settings = vec![("MQ_BROKER_URL", broker.into()), ("LISTEN", format!("127.0.0.1:{port}"))];
        settings.extend(store.map(|store| ("MQ_RESULT_BACKEND", store.into())));
        // Do not wait long if there is no broker.
        settings.push(("MQ_PUBLISH_TIMEOUT", "2s".into()));
        Self { settings, port, running: Vec::new(), id: String::new() }
    }

    fn run(&mut self, step: &Step) {
        let words = words(&step.command);
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["cargo", "run", "-q", "-p", "web"] => self.start(env!("CARGO_BIN_EXE_web"), &[], step),
            ["cargo", "run", "-q", "-p", "web", "--bin", "web-worker", "--", ref arguments @ ..] => {
                self.start(env!("CARGO_BIN_EXE_web-worker"), arguments, step);
            }
            ["curl", ref arguments @ ..] => {
                let (_, printed) = self.request(arguments);
                step.check_output(&printed);
                if let Some((_, rest)) = printed.split_once(r#"{"id":""#) {
                    self.id = rest.split('"').next().unwrap_or_default().to_owned();
                }
            }
            _ => panic!("a command that the tests do not know: {}", step.command),
        }
    }

    /// Starts a program, which the tests have built already.
    fn start(&mut self, program: &str, arguments: &[&str], step: &Step) {
        let mut command = Command::new(program);
        command.args(arguments).envs(self.settings.iter().map(|(name, value)| (*name, value)));
        let process = Process::spawn(&mut command);
        for line in &step.expected {
            let beginning = line.split("127.0.0.1").next().expect("a first part").trim_end_matches("[..]");
            process.wait_for_line(beginning, Duration::from_secs(60));
        }
        self.running.push(process);
    }

    /// Does what `curl` does with these arguments; returns the status and the complete body.
    fn request(&self, arguments: &[&str]) -> (u16, String) {
        let url = arguments.iter().find(|word| word.starts_with("http://")).expect("a URL");
        let url = url.replace("8080", &self.port.to_string()).replace("ID", &self.id);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let json = arguments.iter().position(|word| *word == "--json").map(|at| arguments[at + 1]);
        let answered = match json {
            Some(body) => agent.post(&url).content_type("application/json").send(body),
            None => agent.get(&url).call(),
        };
        let answer = answered.unwrap_or_else(|error| panic!("{url}: {error}"));
        let status = answer.status().as_u16();
        let lines = BufReader::new(answer.into_body().into_reader()).lines();
        (status, lines.map(|line| line.expect("text")).collect::<Vec<_>>().join("\n"))
    }
}

/// The words of a command; quoted ones may have spaces.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('\'').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(ToOwned::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}
