//! `mq-worker dashboard`: the management page, its users and its tokens.

use std::io::{BufRead, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;

use tokio_util::task::AbortOnDropHandle;

use super::arguments::CommonArguments;
use super::dashboard_arguments::{AddArguments, DashboardArguments, DashboardCommand, ServeArguments};
use super::exit::{Failure, Outcome};
use super::signals::Signals;
use super::{operate, output, settings};
use crate::app::App;
use crate::app::config::dashboard::{DashboardRole, PasswordHash};
use crate::dashboard::login::password;
use crate::dashboard::{DEFAULT_ADDRESS, Dashboard, Login};
use crate::tracing::error;

pub(super) fn run(
    DashboardArguments { command, serve }: DashboardArguments,
    common: &CommonArguments,
) -> Outcome {
    match command {
        None => operate::run(common, |app| async move { self::serve(app, serve).await }),
        Some(DashboardCommand::AddUser(arguments)) => add_user(&arguments, common),
        Some(DashboardCommand::AddToken(arguments)) => add_token(&arguments),
    }
}

async fn serve(app: App, ServeArguments { listen, no_login }: ServeArguments) -> Outcome {
    let mut signals =
        Signals::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
    let dashboard = open(app, listen, login(no_login)).await?;
    dashboard
        .serve(async move {
            signals.next().await;
        })
        .await?;
    Ok(())
}

/// Serves the page while the worker runs.
pub(super) async fn beside_worker(app: App, listen: SocketAddr) -> Outcome<AbortOnDropHandle<()>> {
    let dashboard = open(app, Some(listen), Login::Required).await?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = dashboard.serve(std::future::pending()).await {
            error!(error = format!("{error:#}"), "the management page has ended");
        }
    })))
}

/// Binds the page and prints its address.
async fn open(app: App, listen: Option<SocketAddr>, login: Login) -> Outcome<Dashboard> {
    let listen = listen.or(app.config().dashboard.listen).unwrap_or(DEFAULT_ADDRESS);
    let dashboard = Dashboard::bind(app, listen, login).await?;
    output::note(format!("management page: {}", dashboard.link()));
    Ok(dashboard)
}

fn login(no_login: bool) -> Login {
    if no_login { Login::Off } else { Login::Required }
}

fn add_user(AddArguments { name, role }: &AddArguments, common: &CommonArguments) -> Outcome {
    let name = checked(name)?;
    let hash = password::hash(&ask_password()?).map_err(Failure::usage)?;
    let file = settings::load_at(common, None)?.home.file;
    let (role, entry) = (DashboardRole::from(*role), PasswordHash(hash));
    let text = user_entry(name, &entry, role);
    match file {
        None => {
            output::note("there is no mq-worker.toml here or above; add this to one:");
            output::data(text.trim())
        }
        Some(file) => {
            append(&file, &text)?;
            output::data(format!("user `{name}` with the role {} added to {}", role.as_str(), file.display()))
        }
    }
}

fn add_token(AddArguments { name, role }: &AddArguments) -> Outcome {
    let name = checked(name)?;
    let token = password::random_key();
    let hash = password::fingerprint(&token);
    let role = DashboardRole::from(*role).as_str();
    output::note("the token, which is shown only now:");
    output::data(&token)?;
    output::note(format!(
        "\nadd this to mq-worker.toml:\n\n[[dashboard.tokens]]\nname = {}\nsha256 = \"{hash}\"\nrole = \"{role}\"",
        toml::Value::from(name)
    ));
    Ok(())
}

fn checked(name: &str) -> Outcome<&str> {
    let name = name.trim();
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Failure::usage("the name is empty or has control characters"));
    }
    Ok(name)
}

/// Reads the password: typed twice on a terminal, else the first line of stdin.
fn ask_password() -> Outcome<String> {
    let stdin = std::io::stdin();
    let line = || {
        let mut line = String::new();
        stdin.lock().read_line(&mut line)?;
        Ok::<_, Failure>(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    if !stdin.is_terminal() {
        return line();
    }
    let ask = |what: &str| {
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "{what}: ")?;
        stderr.flush()?;
        let typed = without_echo(line);
        writeln!(stderr)?;
        typed
    };
    let first = ask("Password")?;
    if ask("Again")? != first {
        return Err(Failure::failed("the passwords differ: nothing was done"));
    }
    Ok(first)
}

/// Turns off the terminal's echo while `read` runs.
#[cfg(unix)]
fn without_echo<T>(read: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let Ok(before) = tcgetattr(&stdin) else { return read() };
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
    let typed = read();
    let _ = tcsetattr(&stdin, OptionalActions::Flush, &before);
    typed
}

#[cfg(not(unix))]
fn without_echo<T>(read: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    read()
}

fn user_entry(name: &str, PasswordHash(hash): &PasswordHash, role: DashboardRole) -> String {
    let name = toml::Value::from(name);
    format!("\n[[dashboard.users]]\nname = {name}\npassword = \"{hash}\"\nrole = \"{}\"\n", role.as_str())
}

/// Appends an entry to the file, unless the result would be invalid: that would keep every program of this
/// application from starting.
fn append(file: &Path, entry: &str) -> Outcome {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot {what} {}: {error}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| failed("read", &error))?;
    let text = extended(&text, entry).map_err(|why| failed("add the user to", &why))?;
    // Write all or nothing, and keep the permissions of the file.
    let part = file.with_extension("toml.part");
    std::fs::write(&part, text).map_err(|error| failed("write beside", &error))?;
    let rights = std::fs::metadata(file).map(|metadata| metadata.permissions());
    let written = rights.and_then(|rights| std::fs::set_permissions(&part, rights));
    written.and_then(|()| std::fs::rename(&part, file)).map_err(|error| failed("write", &error))
}

fn extended(text: &str, entry: &str) -> Result<String, String> {
    let mut extended = text.trim_end().to_owned();
    extended.push('\n');
    extended.push_str(entry);
    let table: toml::Table = extended.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let users = table.get("dashboard").and_then(|dashboard| dashboard.get("users")?.as_array());
    let names: Vec<_> = users.into_iter().flatten().filter_map(|user| user.get("name")?.as_str()).collect();
    match names.split_last() {
        Some((name, before)) if before.contains(name) => {
            Err(format!("user `{name}` is there already; remove the entry first"))
        }
        _ => Ok(extended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Config;

    #[test]
    fn a_user_is_added_to_what_the_file_says() {
        let hash = PasswordHash("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g".into());
        let entry = user_entry("ada \"l\"", &hash, DashboardRole::Act);
        let text =
            "default_queue = \"q\"\n[dashboard]\nlisten = \"127.0.0.1:1\"\n\n[worker]\nconcurrency = 3";
        let extended = extended(text, &entry).expect("a file");
        let config = Config::from_texts(&extended, Default::default()).expect("settings");
        let user = &config.dashboard.users[0];
        assert_eq!((user.name.as_str(), user.role), ("ada \"l\"", DashboardRole::Act));
        assert_eq!(config.worker.concurrency, 3);
        assert!(super::extended(&extended, &entry).expect_err("twice").contains("there already"));
    }

    #[test]
    fn a_file_that_lists_users_in_another_way_is_left_alone() {
        let entry = user_entry("ada", &PasswordHash(String::new()), DashboardRole::View);
        assert!(extended("[dashboard]\nusers = []\n", &entry).is_err());
    }
}
