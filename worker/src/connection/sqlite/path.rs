//! Resolves a URL to the canonical path of a file, so that two spellings of it share one thread.

use std::path::{Path, PathBuf};

use crate::connection::BrokerUrl;
use crate::error::{Error, Result};

/// Returns the absolute path of the file that `sqlite:PATH` names, with links resolved.
///
/// # Errors
/// No path, `:memory:`, options after a `?`, a directory, or a directory that does not exist.
pub(super) fn resolve(url: &BrokerUrl) -> Result<PathBuf> {
    let path = checked(url)?;
    if path.is_dir() {
        return Err(Error::config(format!(
            "`{url}` is a directory; expected sqlite:PATH with the path of a file"
        )));
    }
    if let Ok(path) = path.canonicalize() {
        return Ok(path);
    }
    // The file does not exist yet, but its directory must.
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| Error::config(format!("`{url}` does not name a file")))?;
    let parent = parent.canonicalize().map_err(|error| {
        Error::storage(format!("cannot open `{}`: no directory `{}`", path.display(), parent.display()))
            .with_source(error)
    })?;
    Ok(parent.join(name))
}

/// Returns the absolute path as written in the URL, with links kept.
pub(super) fn absolute(url: &BrokerUrl) -> PathBuf {
    let path = Path::new(url.path());
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn checked(url: &BrokerUrl) -> Result<&Path> {
    match url.path() {
        "" => Err(Error::config(format!("`{url}` names no file: expected sqlite:PATH"))),
        ":memory:" => Err(Error::config(format!(
            "`{url}` would be a different database for every process: use a file (sqlite:PATH), or memory:// for \
             tests within one process"
        ))),
        path if path.contains('?') => Err(url
            .check()
            .err()
            .unwrap_or_else(|| Error::config(format!("`{url}` has a `?`: there are no options for sqlite")))),
        path if path.contains('\0') => Err(Error::config("the path of the database has a NUL character")),
        path => Ok(Path::new(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(url: &str) -> Result<PathBuf> {
        resolve(&url.parse().expect("a URL"))
    }

    #[test]
    fn spellings_of_one_file_are_one_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("it exists");
        let expected = root.join("jobs.db");
        let name = Path::new(root.file_name().expect("a name"));
        for url in [
            format!("sqlite:{}/jobs.db", root.display()),
            format!("sqlite://{}/jobs.db", root.display()),
            format!("SQLITE:{}/../{}/./jobs.db", root.display(), name.display()),
        ] {
            assert_eq!(resolved(&url).expect(&url), expected, "{url}");
        }
        let working_directory =
            std::env::current_dir().and_then(|at| at.canonicalize()).expect("a directory");
        assert_eq!(resolved("sqlite:jobs.db").expect("a path"), working_directory.join("jobs.db"));
    }

    #[test]
    fn what_names_no_file_is_refused_with_the_remedy() {
        for (url, part) in [
            ("sqlite:", "names no file"),
            ("sqlite://", "names no file"),
            ("sqlite::memory:", "memory://"),
            ("sqlite:jobs.db?mode=ro", "there are none for sqlite"),
            ("sqlite:jobs.db?", "no options for sqlite"),
            ("sqlite:/", "is a directory"),
            ("sqlite:/no/such/place/jobs.db", "no directory `/no/such/place`"),
        ] {
            let error = resolved(url).expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
