//! The folder for mail and texts if no server is configured: one file each.

use std::io;
use std::path::{Path, PathBuf};

/// The folder, in the working directory of the worker.
pub const OUTBOX: &str = "outbox";

/// Writes one message into the folder, which is created if missing.
///
/// The file is named after the recipient: a task that runs twice, as tasks may, writes the same file twice. It
/// appears whole or not at all.
///
/// # Errors
/// Fails if the folder or the file cannot be written.
pub async fn save(recipient: &str, extension: &str, contents: Vec<u8>) -> io::Result<PathBuf> {
    save_in(Path::new(OUTBOX), recipient, extension, contents).await
}

async fn save_in(folder: &Path, recipient: &str, extension: &str, contents: Vec<u8>) -> io::Result<PathBuf> {
    let folder = folder.to_owned();
    let path = folder.join(file_name(recipient, extension));
    let write = move || {
        std::fs::create_dir_all(&folder)?;
        // Next to the final path, since a rename works only within one file system.
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        io::Write::write_all(&mut file, &contents)?;
        file.persist(&path)?;
        Ok(path)
    };
    tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
}

/// Returns a file name for a recipient, which comes from outside and must not lead out of the folder.
fn file_name(recipient: &str, extension: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '@' | '+' | '-' | '_' | '.');
    let plain: String = recipient.chars().map(|c| if is_plain(c) { c } else { '_' }).take(100).collect();
    format!("{}.{extension}", plain.trim_start_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_written_once_however_often_it_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["one", "two"] {
            save_in(folder.path(), "ada@example.com", "eml", text.into()).await.unwrap();
        }
        let files: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(files, ["ada@example.com.eml"]);
        assert_eq!(std::fs::read(folder.path().join("ada@example.com.eml")).unwrap(), b"two");
    }

    #[test]
    fn no_recipient_leads_out_of_the_folder() {
        assert_eq!(file_name("../../etc/passwd", "txt"), "_.._etc_passwd.txt");
        assert_eq!(file_name("..", "txt"), ".txt");
        assert_eq!(file_name("\"a/b\"@example.com", "eml"), "_a_b_@example.com.eml");
        assert!(file_name(&"x".repeat(5000), "eml").len() < 120);
    }
}
