//! One SMTP conversation (RFC 5321), without the network: a command goes in, a reply comes out.

use super::Mail;
use crate::sinks::REFUSED_DOMAIN;

/// The longest message, in bytes.
pub(super) const MAX_SIZE: usize = 1024 * 1024;

const MAX_RECIPIENTS: usize = 100;

/// A reply, and what to read next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The lines, with their ends.
    pub text: String,
    /// What is read next.
    pub then: Then,
}

/// What is read after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Command,
    Data,
    Close,
}

/// The state of a conversation.
#[derive(Debug, Default)]
pub(super) struct Session {
    greeted: bool,
    from: Option<String>,
    to: Vec<String>,
}

impl Session {
    /// Answers one command line.
    pub(super) fn command(&mut self, line: &str) -> Reply {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" if !rest.trim().is_empty() => {
                self.greet();
                reply(format!(
                    "250-notifications\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE {MAX_SIZE}"
                ))
            }
            "HELO" if !rest.trim().is_empty() => {
                self.greet();
                reply("250 notifications")
            }
            "EHLO" | "HELO" => reply("501 5.5.4 say who you are"),
            "MAIL" => self.mail(rest),
            "RCPT" => self.rcpt(rest),
            "DATA" if !rest.is_empty() => reply("501 5.5.4 DATA has no parameters"),
            "DATA" if self.from.is_none() => reply("503 5.5.1 MAIL first"),
            "DATA" if self.to.is_empty() => reply("554 5.5.1 no valid recipients"),
            "DATA" => Reply { text: "354 end with <CRLF>.<CRLF>\r\n".into(), then: Then::Data },
            "RSET" => {
                self.reset();
                reply("250 2.0.0 reset")
            }
            "NOOP" => reply("250 2.0.0 ok"),
            "VRFY" => reply("252 2.1.5 try it"),
            "QUIT" => Reply { text: "221 2.0.0 bye\r\n".into(), then: Then::Close },
            _ => reply("500 5.5.2 unknown command"),
        }
    }

    fn greet(&mut self) {
        self.reset();
        self.greeted = true;
    }

    fn reset(&mut self) {
        self.from = None;
        self.to.clear();
    }

    fn mail(&mut self, rest: &str) -> Reply {
        if !self.greeted {
            return reply("503 5.5.1 EHLO first");
        }
        if self.from.is_some() {
            return reply("503 5.5.1 one sender at a time");
        }
        let Some((address, parameters)) = path(rest, "FROM:") else {
            return reply("501 5.1.7 expected MAIL FROM:<address>");
        };
        for parameter in parameters.split_whitespace() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name.to_ascii_uppercase().as_str() {
                "SIZE" => match value.parse::<usize>() {
                    Ok(size) if size <= MAX_SIZE => {}
                    Ok(_) => return reply("552 5.3.4 too large"),
                    Err(_) => return reply("501 5.5.4 a size is a number"),
                },
                "BODY" | "SMTPUTF8" => {}
                _ => return reply("555 5.5.4 unknown parameter"),
            }
        }
        // An empty address is valid here: it is how bounces are sent.
        if !address.is_empty() && !is_mailbox(address) {
            return reply("501 5.1.7 that is no address");
        }
        self.from = Some(address.to_owned());
        reply("250 2.1.0 ok")
    }

    fn rcpt(&mut self, rest: &str) -> Reply {
        if self.from.is_none() {
            return reply("503 5.5.1 MAIL first");
        }
        let Some((address, parameters)) = path(rest, "TO:") else {
            return reply("501 5.1.3 expected RCPT TO:<address>");
        };
        if !parameters.trim().is_empty() {
            return reply("555 5.5.4 unknown parameter");
        }
        if !is_mailbox(address) {
            return reply("501 5.1.3 that is no address");
        }
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        if domain.eq_ignore_ascii_case(REFUSED_DOMAIN) {
            return reply(format!("550 5.1.1 <{address}>: no such mailbox"));
        }
        if self.to.len() == MAX_RECIPIENTS {
            return reply("452 4.5.3 too many recipients");
        }
        self.to.push(address.to_owned());
        reply("250 2.1.5 ok")
    }

    /// Returns the mail whose data has arrived; the session is ready for the next one.
    pub(super) fn finish(&mut self, data: Vec<u8>) -> Mail {
        Mail { from: self.from.take().unwrap_or_default(), to: std::mem::take(&mut self.to), data }
    }

    /// Drops a mail whose data was too large.
    pub(super) fn discard(&mut self) {
        self.reset();
    }
}

fn reply(text: impl Into<String>) -> Reply {
    Reply { text: text.into() + "\r\n", then: Then::Command }
}

/// `FROM:<a@b> SIZE=3` → (`a@b`, ` SIZE=3`).
fn path<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let found = rest.get(..keyword.len())?;
    // A space after the colon violates the RFC but is common in practice.
    let rest = rest[keyword.len()..].trim_start_matches(' ');
    let (address, parameters) = rest.strip_prefix('<')?.split_once('>')?;
    let separate = parameters.is_empty() || parameters.starts_with(' ');
    (found.eq_ignore_ascii_case(keyword) && separate).then_some((address, parameters))
}

fn is_mailbox(address: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '<' | '>');
    address.len() <= 254
        && address.chars().all(plain)
        && address.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes of the replies to these commands, in one session.
    fn codes(commands: &[&str]) -> Vec<String> {
        let mut session = Session::default();
        commands.iter().map(|line| session.command(line).text[..3].to_owned()).collect()
    }

    #[test]
    fn a_mail_goes_through() {
        let mut session = Session::default();
        for line in
            ["EHLO me", "MAIL FROM:<a@b.c> SIZE=9 BODY=8BITMIME", "RCPT TO:<d@e.f>", "rcpt to: <g@h.i>"]
        {
            assert!(session.command(line).text.starts_with("250"), "{line}");
        }
        assert_eq!(session.command("DATA").then, Then::Data);
        let mail = session.finish(b"hello".to_vec());
        assert_eq!((mail.from.as_str(), mail.to.len()), ("a@b.c", 2));
        assert!(session.command("DATA").text.starts_with("503"), "the next mail begins anew");
        assert_eq!(session.command("QUIT").then, Then::Close);
    }

    #[test]
    fn commands_in_the_wrong_order_or_shape_are_refused() {
        for (commands, expected) in [
            (&["MAIL FROM:<a@b.c>"][..], "503"),
            (&["EHLO me", "RCPT TO:<a@b.c>"], "503"),
            (&["EHLO me", "DATA"], "503"),
            (&["EHLO me", "MAIL FROM:<a@b.c>", "DATA"], "554"),
            (&["EHLO me", "MAIL FROM:<a@b.c>", "MAIL FROM:<a@b.c>"], "503"),
            (&["EHLO me", "MAIL FROM:<a@b.c>", "RSET", "RCPT TO:<a@b.c>"], "503"),
            (&["EHLO me", "MAIL FROM:<a@b.c>", "EHLO me", "RCPT TO:<a@b.c>"], "503"),
            (&["EHLO me", "MAIL FROM:a@b.c"], "501"),
            (&["EHLO me", "MAIL FROM:<a@b.c>x"], "501"),
            (&["EHLO me", "MAIL FROM:<nobody>"], "501"),
            (&["EHLO me", "MAIL FROM:<a@b.c> SIZE=99999999"], "552"),
            (&["EHLO me", "MAIL FROM:<a@b.c> SIZE=big"], "501"),
            (&["EHLO me", "MAIL FROM:<a@b.c> WHAT=1"], "555"),
            (&["EHLO me", "MAIL"], "501"),
            (&["EHLO me", "MAIL ÄÄÄ"], "501"),
            (&["EHLO me", "MAIL FROM:<>", "RCPT TO:<>"], "501"),
            (&["EHLO me", "MAIL FROM:<>", "RCPT TO:<a b@c>"], "501"),
            (&["EHLO"], "501"),
            (&["HELO me"], "250"),
            (&["noop"], "250"),
            (&["BDAT 3"], "500"),
            (&[""], "500"),
        ] {
            assert_eq!(codes(commands).last().map(String::as_str), Some(expected), "{commands:?}");
        }
    }

    #[test]
    fn mailboxes_that_do_not_exist_are_refused_singly() {
        let mut session = Session::default();
        session.command("EHLO me");
        session.command("MAIL FROM:<a@b.c>");
        assert!(session.command("RCPT TO:<x@GONE.example.com>").text.starts_with("550 5.1.1 <x@GONE"));
        assert!(session.command("RCPT TO:<x@example.com>").text.starts_with("250"));
        assert_eq!(session.finish(Vec::new()).to, ["x@example.com"]);
    }

    #[test]
    fn recipients_are_bounded() {
        let mut session = Session::default();
        session.command("EHLO me");
        session.command("MAIL FROM:<a@b.c>");
        for _ in 0..MAX_RECIPIENTS {
            assert!(session.command("RCPT TO:<x@example.com>").text.starts_with("250"));
        }
        assert!(session.command("RCPT TO:<x@example.com>").text.starts_with("452"));
    }
}
