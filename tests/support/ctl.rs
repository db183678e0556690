//! RabbitMQ's programs, and the files and environment that make them belong to one private node.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Pid;

use crate::free_port;

/// Debian's programs. The ones in `/usr/sbin` switch to another user and lose the environment.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// Programs of another version: set by `tests/run --rabbitmq-4`.
const OTHER_PROGRAMS: &str = "MQ_TEST_RABBITMQ_PROGRAMS";
/// Additional lines for every node's configuration.
const OTHER_CONFIGURATION: &str = "MQ_TEST_RABBITMQ_CONFIGURATION";

pub(crate) fn programs() -> PathBuf {
    std::env::var_os(OTHER_PROGRAMS).map_or_else(|| PROGRAMS.into(), PathBuf::from)
}

/// The names of the nodes of a cluster, and what they must agree on.
#[derive(Clone)]
pub(crate) struct Identity {
    /// The node name with its host.
    pub(crate) name: String,
    pub(crate) cookie: String,
    /// The port of the port mapper.
    pub(crate) mapper: u16,
    /// Additional lines for the configuration.
    pub(crate) configuration: String,
    /// Separated by commas.
    pub(crate) plugins: &'static str,
}

impl Identity {
    pub(crate) fn fresh(configuration: &str) -> Identity {
        Identity {
            name: format!("{}@localhost", crate::unique("mq")),
            cookie: crate::unique("cookie"),
            mapper: free_port(),
            configuration: configuration.to_owned(),
            plugins: "",
        }
    }
}

/// Runs RabbitMQ's programs against one node.
#[derive(Clone, Debug)]
pub struct Ctl {
    directory: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
}

impl Ctl {
    /// Creates the files that a node needs.
    pub(crate) fn create(directory: &Path, port: u16, identity: &Identity) -> Ctl {
        let at = |name: &str| directory.join(name).display().to_string();
        fs::write(directory.join(".erlang.cookie"), &identity.cookie).expect("a cookie");
        fs::set_permissions(directory.join(".erlang.cookie"), fs::Permissions::from_mode(0o400))
            .expect("a private cookie");
        fs::write(directory.join("enabled_plugins"), format!("[{}].\n", identity.plugins))
            .expect("a list of plugins");
        fs::write(
            directory.join("rabbitmq.conf"),
            format!(
                "loopback_users.guest = true\nlog.file.level = info\ndisk_free_limit.absolute = 50MB\n{}\n{}\n",
                if identity.configuration.is_empty() { "heartbeat = 10" } else { &identity.configuration },
                std::env::var(OTHER_CONFIGURATION).unwrap_or_default(),
            ),
        )
        .expect("a configuration");
        // Three minutes by default: a delayed message stays where it is for that long if its move was lost in a crash.
        fs::write(
            directory.join("advanced.config"),
            "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 10000}]}].\n",
        )
        .expect("a configuration");
        // The command-line tools listen too, on the first free one of a hundred ports, none of which is a server's: these are
        // below those of `free_port`.
        let tools = fastrand::u16(10_000..15_000);
        let environment = [
            ("HOME", directory.display().to_string()),
            ("LANG", "C.UTF-8".into()),
            ("RABBITMQ_NODENAME", identity.name.clone()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", free_port().to_string()),
            ("RABBITMQ_CTL_DIST_PORT_MIN", tools.to_string()),
            ("RABBITMQ_CTL_DIST_PORT_MAX", (tools + 100).to_string()),
            ("ERL_EPMD_PORT", identity.mapper.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_MNESIA_BASE", at("mnesia")),
            ("RABBITMQ_LOG_BASE", at("log")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
            ("RABBITMQ_CONFIG_FILE", at("rabbitmq")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config")),
            ("RABBITMQ_PID_FILE", at("pid")),
            // Ignore the configuration of an installed broker.
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
                    .into(),
            ),
        ];
        let environment: Vec<_> = environment.map(|(name, value)| (name.to_owned(), value)).into();
        let text = serde_json::to_string(&environment).expect("texts can be written");
        fs::write(directory.join("environment.json"), text).expect("a file for the environment");
        Ctl { directory: directory.to_owned(), environment }
    }

    /// Opens the directory of a node that another process started.
    ///
    /// # Panics
    /// When it is not the directory of a node.
    pub fn read(directory: &Path) -> Ctl {
        let text = fs::read_to_string(directory.join("environment.json")).expect("the directory of a node");
        let environment = serde_json::from_str(&text).expect("the environment of a node");
        Ctl { directory: directory.to_owned(), environment }
    }

    /// Returns the node's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs `rabbitmqctl` and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let mut command = self.command("rabbitmqctl");
        command.arg("--quiet").args(arguments).stdin(Stdio::null());
        let output = command.output().expect("rabbitmqctl can be started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?} failed:\n{text}{errors}");
        text
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        // Variables of an installed broker must not reach this one.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("RABBITMQ_") || name.starts_with("ERL_")) {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("PATH", path_with_erlang()).current_dir(&self.directory);
        command
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }

    pub(crate) fn beam(&self) -> Option<Pid> {
        Pid::from_raw(fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?)
    }

    pub(crate) fn is_up(&self, port: u16) -> bool {
        self.logs().contains("Server startup complete") && TcpStream::connect(("127.0.0.1", port)).is_ok()
    }

    fn logs(&self) -> String {
        let files = fs::read_dir(self.directory.join("log")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect()
    }

    pub(crate) fn log(&self) -> String {
        let output = fs::read_to_string(self.directory.join("server.out")).unwrap_or_default();
        let all = output + &self.logs();
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// Returns a path with Erlang's port mapper, which may be missing for a user who is not root.
pub(crate) fn path_with_erlang() -> String {
    format!("{}:/usr/sbin:/usr/lib/erlang/bin", std::env::var("PATH").unwrap_or_default())
}
