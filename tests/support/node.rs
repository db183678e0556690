//! A private RabbitMQ node: its own ports, port mapper, cookie and directory, all removed on drop.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process, test_kill_process};

use crate::ctl::{Ctl, Identity, path_with_erlang, programs};
use crate::wait::eventually_blocking;
use crate::{free_port, temp_dir};

/// A start on two busy cores takes 10 to 30 seconds.
const START_LIMIT: Duration = Duration::from_secs(180);

/// A node for tests that stop it, kill it or starve it.
#[derive(Debug)]
pub struct Node {
    /// Its `rabbitmqctl`.
    pub ctl: Ctl,
    port: u16,
    server: Option<Child>,
    /// Kills the processes and removes the directory when its input closes, even if this process is killed.
    janitor: Child,
}

impl Node {
    /// Starts a node and waits until it accepts connections.
    ///
    /// # Panics
    /// When RabbitMQ is not installed or does not start; the log is shown.
    pub fn start() -> Node {
        Self::start_with("")
    }

    /// Starts a node with additional lines in its configuration.
    ///
    /// # Panics
    /// When RabbitMQ is not installed or does not start; the log is shown.
    pub fn start_with(configuration: &str) -> Node {
        let mut node = Self::prepare(&Identity::fresh(configuration));
        node.launch();
        node
    }

    /// Starts a node with its management API; returns the address of that as well.
    ///
    /// # Panics
    /// When RabbitMQ is not installed or does not start; the log is shown.
    pub fn start_with_management() -> (Node, String) {
        let port = free_port();
        let configuration =
            format!("heartbeat = 10\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}");
        let identity = Identity { plugins: "rabbitmq_management", ..Identity::fresh(&configuration) };
        let mut node = Self::prepare(&identity);
        node.launch();
        (node, format!("http://127.0.0.1:{port}"))
    }

    /// Starts nodes that form a cluster; a replicated queue has a copy on each.
    ///
    /// # Panics
    /// When RabbitMQ is not installed or does not start; the logs are shown.
    pub fn start_cluster(size: usize, configuration: &str) -> Vec<Node> {
        let first = Identity::fresh("");
        let names: Vec<String> = (0..size).map(|index| format!("{index}-{}", first.name)).collect();
        let mut configuration =
            format!("{configuration}\ncluster_formation.peer_discovery_backend = classic_config\n");
        for (index, name) in names.iter().enumerate() {
            configuration += &format!("cluster_formation.classic_config.nodes.{} = {name}\n", index + 1);
        }
        let identities = names.into_iter().map(|name| Identity {
            name,
            configuration: configuration.clone(),
            ..first.clone()
        });
        let mut nodes: Vec<Node> = identities.map(|identity| Self::prepare(&identity)).collect();
        // All concurrently, since each waits for the others.
        nodes.iter_mut().for_each(Node::spawn);
        nodes.iter_mut().for_each(Node::await_start);
        nodes
    }

    fn prepare(identity: &Identity) -> Node {
        let programs = programs();
        assert!(
            programs.join("rabbitmq-server").exists(),
            "RabbitMQ is not installed: there is no {}/rabbitmq-server (Debian: apt-get install rabbitmq-server)",
            programs.display()
        );
        let directory = temp_dir().keep();
        let port = free_port();
        let ctl = Ctl::create(&directory, port, identity);
        let janitor = start_janitor(&directory, &ctl);
        Node { ctl, port, server: None, janitor }
    }

    /// Returns its address, with user guest and virtual host `/`.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Returns its AMQP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(pid) = self.ctl.beam() {
            let _ = kill_process(pid, Signal::KILL);
            eventually_blocking("a killed RabbitMQ is gone", Duration::from_secs(20), || {
                test_kill_process(pid).is_err().then_some(())
            });
        }
        let _ = fs::remove_file(self.ctl.pid_file());
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }

    /// Kills it and starts it again with the data that it had written.
    pub fn restart(&mut self) {
        self.kill9();
        self.launch();
    }

    /// Starts a node that was killed.
    ///
    /// # Panics
    /// When it does not start; the log is shown.
    pub fn launch(&mut self) {
        self.spawn();
        self.await_start();
    }

    fn spawn(&mut self) {
        assert!(self.server.is_none(), "the node runs already");
        let _ = fs::remove_dir_all(self.ctl.directory().join("log"));
        let output =
            fs::File::create(self.ctl.directory().join("server.out")).expect("a file for the output");
        let errors = output.try_clone().expect("a second handle");
        let child = self
            .ctl
            .command("rabbitmq-server")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C at the terminal must reach only the tests, which stop the node themselves.
            .process_group(0)
            .spawn()
            .expect("rabbitmq-server can be started");
        self.server = Some(child);
    }

    fn await_start(&mut self) {
        let server = self.server.as_mut().expect("it was spawned");
        let deadline = Instant::now() + START_LIMIT;
        while !self.ctl.is_up(self.port) {
            let ended = server.try_wait().expect("the state of a child");
            if ended.is_some() || Instant::now() > deadline {
                panic!("RabbitMQ did not start ({ended:?}):\n{}", self.ctl.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Makes the server close every connection, as an operator can.
    pub fn close_all_connections(&self) {
        self.ctl.run(["close_all_connections", "closed by a test"]);
    }

    /// Sets or clears the memory alarm, under which publishers are blocked.
    pub fn set_memory_alarm(&self, on: bool) {
        if on {
            self.ctl.run(["set_vm_memory_high_watermark", "absolute", "1MB"]);
        } else {
            self.ctl.run(["set_vm_memory_high_watermark", "0.6"]);
        }
    }

    /// Sets or clears the disk alarm, under which publishers are blocked.
    pub fn set_disk_alarm(&self, on: bool) {
        self.ctl.run(["set_disk_free_limit", if on { "100000GB" } else { "50MB" }]);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }
}

/// Starts the port mapper and a shell that cleans everything up when its input ends.
fn start_janitor(directory: &Path, ctl: &Ctl) -> Child {
    let mut janitor = Command::new("sh")
        .arg("-c")
        .arg(
            r#"epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 </dev/null >/dev/null 2>&1 & epmd=$!
            echo started
            cat >/dev/null
            beam=$(cat "$RABBITMQ_PID_FILE" 2>/dev/null) && kill -9 "$beam"
            kill -9 "$epmd"
            while kill -0 "$beam"; do sleep 0.05; done 2>/dev/null
            rm -rf "$0""#,
        )
        .arg(directory)
        .envs(ctl.environment.iter().map(|(name, value)| (name, value)))
        .env("PATH", path_with_erlang())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a shell can be started");
    let mut line = String::new();
    let output = janitor.stdout.take().expect("it was piped");
    BufReader::new(output).read_line(&mut line).expect("the shell answers");
    janitor
}
