//! The worker's side: starts a process for one call, waits for its reply, and leaves nothing of it running.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::wire::{self, CANCEL, IsolatedCall, REVOKE, Reply};
use super::{MARK, is_scarcity};
use crate::panics::caught;
use crate::runtime::execution::ended::Ended;
use crate::task::reports::Report;
use crate::task::{Context, TaskError};

/// How long to wait for the rest of a reply, or for a process to exit that has closed its socket.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a call in a separate process. Dropping the future kills that process and everything that it started.
pub(in crate::runtime) async fn run(context: Context, memory_limit: Option<u64>) -> Ended {
    attempt(&context, memory_limit).await.unwrap_or_else(|error| {
        let problem = format!("cannot run the task in a separate process: {error}");
        if is_scarcity(&error) {
            Ended::NotStarted(problem)
        } else {
            Ended::Erred(TaskError::failed(problem))
        }
    })
}

async fn attempt(context: &Context, memory_limit: Option<u64>) -> io::Result<Ended> {
    let call = wire::frame(&IsolatedCall::of(context, memory_limit), &context.message().body)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (mut from, mut to) = UnixStream::from_std(ours)?.into_split();
    let mut family = ProcessGroup::start(theirs.into())?;
    let instruct = async {
        // If the process is gone, reading its reply shows that.
        if to.write_all(&call).await.is_ok() {
            context.cancelled().await;
            if !context.is_revoked() {
                let _ = to.write_all(&[CANCEL]).await;
                // It may be revoked while it cleans up.
                context.revoked().await;
            }
            let _ = to.write_all(&[REVOKE]).await;
        }
        std::future::pending::<()>().await;
    };
    let mut has_begun = false;
    let answer = async {
        let answer = async {
            loop {
                match wire::receive::<Reply>(&mut from).await? {
                    (Reply::Begun, _) => has_begun = true,
                    (Reply::State(state), meta) => {
                        let meta = serde_json::from_slice(&meta)?;
                        context.reports().put(Report { state: state.into(), meta });
                    }
                    (Reply::Sent(ids), _) => ids.iter().for_each(|id| context.reports().add_child(id)),
                    answer => return Ok::<_, io::Error>(answer),
                }
            }
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // A process that it started may hold the socket open.
            status = family.head.wait() => {
                status?;
                tokio::time::timeout(TIMEOUT, answer).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    };
    let answer = tokio::select! {
        answer = answer => answer,
        () = instruct => unreachable!("it waits for ever"),
    };
    if let Ok((reply, body)) = answer {
        return Ok(reply.into_ended(body));
    }
    if tokio::time::timeout(TIMEOUT, family.head.wait()).await.is_err() {
        family.kill();
    }
    let status = family.head.wait().await?;
    let words = describe_exit(status, memory_limit);
    // A signal to all processes of a service may reach one that is still starting.
    let was_told_to_end = [Signal::TERM, Signal::INT, Signal::HUP].map(|signal| Some(signal.as_raw()));
    if !has_begun && was_told_to_end.contains(&status.signal()) {
        return Ok(Ended::NotStarted(words));
    }
    Ok(Ended::Crashed(words))
}

/// The path of the running program, which works even if its file was replaced since.
fn program() -> io::Result<std::path::PathBuf> {
    let itself = std::path::Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && itself.exists() { Ok(itself.into()) } else { std::env::current_exe() }
}

/// The process of a call and everything that it started. They are killed when this is dropped.
struct ProcessGroup {
    head: Child,
    group: Option<Pid>,
}

impl ProcessGroup {
    /// Starts the process with the same arguments and environment, so that it arrives at the same settings.
    fn start(socket: OwnedFd) -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let mut command = Command::new(program()?);
        command
            .arg0(arguments.next().unwrap_or_else(|| OsString::from("mq-worker")))
            .args(arguments)
            .env(MARK, std::process::id().to_string())
            .stdin(Stdio::from(socket))
            // What a task prints goes to the worker's log; the worker's own stdout is data.
            .stdout(io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from))
            // Its own process group: Ctrl-C is for the worker, which lets tasks finish, and the group can be killed as a
            // whole.
            .process_group(0);
        let head = command.spawn()?;
        let group = head.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { head, group })
    }

    fn kill(&self) {
        if let Some(group) = self.group {
            // An error means that it is already gone.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
        let Some(group) = self.group else { return };
        // As process 1 of a container we inherit the orphans of that process and must reap them. Elsewhere none of the group
        // are our children. All of them were killed, so this ends soon.
        let reap = move || while let Ok(Some(_)) = waitpgid(group, WaitOptions::empty()) {};
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // If there is no thread for it, they stay until this process ends.
            let _ = caught(|| runtime.spawn_blocking(reap));
        }
    }
}

/// Describes how a process ended that sent no reply.
fn describe_exit(status: ExitStatus, memory_limit: Option<u64>) -> String {
    let Some(signal) = status.signal() else {
        let code = status.code().unwrap_or_default();
        return format!("its process ended with exit code {code} before the task did");
    };
    let name = match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    };
    let hint = match (signal, memory_limit) {
        (6, Some(bytes)) => {
            format!("; so does a program that asks for more than its `memory_limit`, {bytes} bytes")
        }
        (9, _) => "; the system may have run out of memory".into(),
        _ => String::new(),
    };
    format!("its process was killed by signal {signal}{name}{hint}")
}
