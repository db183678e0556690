//! Finds out from the command definitions what the last word of a command line may be.

use clap::{Arg, Command};

/// The kind of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Queue,
    Task,
    Worker,
}

/// The word being completed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) kind: Kind,
    /// The part of the word that is kept: the complete names of a list.
    pub(super) before: String,
    /// The beginning of the name to complete.
    pub(super) beginning: String,
    /// The broker given on the line.
    pub(super) broker: Option<String>,
}

/// Returns the word to complete, if it is to be a name that the broker knows. `command` must be built.
pub(super) fn asked(command: &Command, line: &str) -> Option<Asked> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let typed = if line.ends_with(char::is_whitespace) { "" } else { words.pop()? };
    let (mut at, mut position, mut broker) = (command, 0, None);
    let mut open: Option<&Arg> = None;
    for word in words.into_iter().skip(1) {
        if let Some(option) = open.take() {
            note(option, word, &mut broker);
        } else if word.starts_with('-') && word.len() > 1 {
            match option(at, word) {
                Some((option, Some(value))) => note(option, value, &mut broker),
                Some((option, None)) => open = Some(option),
                None => {}
            }
        } else if let Some(subcommand) = at.find_subcommand(word).filter(|_| position == 0) {
            at = subcommand;
        } else {
            position += 1;
        }
    }
    let (argument, value) = match open {
        Some(option) => (option, typed),
        None if typed.starts_with('-') => {
            let (option, value) = option(at, typed)?;
            (option, value?)
        }
        None => (positional(at, position)?, typed),
    };
    let kind = kind(argument)?;
    let list = argument.get_value_delimiter().and_then(|comma| value.rfind(comma));
    let (before, beginning) = value.split_at(list.map_or(0, |at| at + 1));
    Some(Asked { kind, before: before.to_owned(), beginning: beginning.to_owned(), broker })
}

fn note(option: &Arg, value: &str, broker: &mut Option<String>) {
    if option.get_id() == "broker" {
        *broker = Some(value.to_owned());
    }
}

/// Returns the option in a word, if it takes a value, and the value, if it is part of the word.
fn option<'a, 'w>(command: &'a Command, word: &'w str) -> Option<(&'a Arg, Option<&'w str>)> {
    let takes_value = |option: &&Arg| {
        option.get_action().takes_values() && option.get_num_args().is_none_or(|count| count.min_values() > 0)
    };
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let found = command.get_arguments().find(|option| option.get_long() == Some(name))?;
        return takes_value(&found).then_some((found, value));
    }
    // `-jq email`: flags followed by an option.
    for (index, letter) in word.char_indices().skip(1) {
        let found = command.get_arguments().find(|option| option.get_short() == Some(letter))?;
        if takes_value(&found) {
            let value = &word[index + letter.len_utf8()..];
            return Some((found, Some(value).filter(|value| !value.is_empty())));
        }
    }
    None
}

fn positional(command: &Command, position: usize) -> Option<&Arg> {
    let all: Vec<&Arg> = command.get_positionals().collect();
    let is_many = |argument: &&&Arg| {
        argument.get_num_args().is_some_and(|count| count.max_values() > 1)
            || matches!(argument.get_action(), clap::ArgAction::Append)
    };
    all.get(position).or_else(|| all.last().filter(is_many)).copied()
}

/// What an argument names, judged by its id or value name.
fn kind(argument: &Arg) -> Option<Kind> {
    let of = |name: &str| match name {
        "queue" | "queues" | "QUEUE" => Some(Kind::Queue),
        "task" | "tasks" => Some(Kind::Task),
        "worker" | "workers" | "WORKER" => Some(Kind::Worker),
        _ => None,
    };
    let shown = argument.get_value_names().and_then(|names| names.first());
    of(argument.get_id().as_str()).or_else(|| of(shown?.as_str()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::arguments::Arguments;

    fn read(line: &str) -> Option<(Kind, String, String)> {
        let mut command = Arguments::command();
        command.build();
        asked(&command, line).map(|asked| (asked.kind, asked.before, asked.beginning))
    }

    #[test]
    fn the_commands_say_what_a_word_names() {
        for (line, kind, before, beginning) in [
            ("mq-worker --queues ", Kind::Queue, "", ""),
            ("mq-worker -q email,sm", Kind::Queue, "email,", "sm"),
            ("mq-worker -c 5 -qem", Kind::Queue, "", "em"),
            ("mq-worker --queues=a,b", Kind::Queue, "a,", "b"),
            ("mq-worker purge e", Kind::Queue, "", "e"),
            ("mq-worker -b amqp://h purge e", Kind::Queue, "", "e"),
            ("mq-worker purge --yes ", Kind::Queue, "", ""),
            ("mq-worker queues a b", Kind::Queue, "", "b"),
            ("mq-worker pause email s", Kind::Queue, "", "s"),
            ("mq-worker pause --task s", Kind::Task, "", "s"),
            ("mq-worker dead list em", Kind::Queue, "", "em"),
            ("mq-worker dead replay email --task ", Kind::Task, "", ""),
            ("mq-worker call se", Kind::Task, "", "se"),
            ("mq-worker call add --queue ", Kind::Queue, "", ""),
            ("mq-worker call --wait ad", Kind::Task, "", "ad"),
            ("mq-worker stop a@h b", Kind::Worker, "", "b"),
            ("mq-worker control ping -d a@h,b", Kind::Worker, "a@h,", "b"),
            ("mq-worker delete queue ", Kind::Queue, "", ""),
            ("mq-worker bind orders st", Kind::Queue, "", "st"),
        ] {
            assert_eq!(read(line), Some((kind, before.into(), beginning.into())), "{line}");
        }
        for line in [
            "",
            "mq-worker",
            "mq-worker pu",
            "mq-worker purge -",
            "mq-worker purge email ",
            "mq-worker call add --args ",
            "mq-worker declare queue n",
            "mq-worker --grace ",
            "mq-worker nothing ",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn the_broker_of_the_line_is_asked() {
        let mut command = Arguments::command();
        command.build();
        for line in ["mq-worker -b sqlite:x purge ", "mq-worker purge --broker=sqlite:x "] {
            let asked = asked(&command, line).expect(line);
            assert_eq!(asked.broker.as_deref(), Some("sqlite:x"), "{line}");
        }
    }
}
