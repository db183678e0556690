//! The log that all processes of a run write and the checker reads: one line per event, appended in a single write, so that a
//! killed process leaves only whole lines.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970, shared by all processes of this machine.
pub(crate) type Time = Duration;

pub(crate) fn now() -> Time {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right by some decades")
}

/// The log as one process writes it.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    who: String,
}

impl Log {
    /// Opens the log for a process with this name.
    pub(crate) fn open(path: &Path, who: impl Into<String>) -> Log {
        let file = OpenOptions::new().create(true).append(true).open(path).expect("the log can be opened");
        Log { file, who: who.into() }
    }

    /// Writes one line, which from then on outlives this process.
    pub(crate) fn write(&self, event: Event) {
        let line = format!("{}\n", Line { at: now(), who: self.who.clone(), event });
        (&self.file).write_all(line.as_bytes()).expect("the log can be written");
    }
}

/// One line: when, who, and what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) at: Time,
    /// A producer (`p0/PID`), a worker (`w0/PID`), or `control`.
    pub(crate) who: String,
    pub(crate) event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A producer is about to send a task, to be run no earlier than `due`.
    Intent { id: String, kind: Kind, due: Option<Time> },
    /// The outcome of its publish.
    Answered { id: String, answer: Answer },
    /// It is about to send the same task again because the outcome is unknown.
    Again { id: String },
    /// It received the result, right or wrong.
    Got { id: String, is_right: bool },
    /// A task started.
    Start { id: String, attempt: u32, crashes: u32 },
    /// A task is about to end in the given way.
    End { id: String, attempt: u32, how: How },
    /// A task is about to kill its process.
    Crash { id: String, death: Death },
    /// The control process found a dead letter.
    Dead { id: String, reason: String },
    /// The state of the task in the result store.
    Stored { id: String, state: String },
    /// A scheduler became the leader.
    Leads { fence: String },
    /// The call of a schedule was delivered: for the first time, or again.
    Came { schedule: String, due: Time, is_again: bool },
    /// A fault starts; `target` is the id of the only process that it affects, if there is just one.
    FaultBegan { number: u32, fault: Fault, target: Option<u32> },
    /// It is over.
    FaultEnded { number: u32 },
    /// A process exited without being asked to, or abnormally. A task that crashes it has announced that before.
    Exit { name: String, code: String },
    /// The length of a queue at the very end.
    Left { queue: String, count: u64 },
}

impl Event {
    /// Returns the id of the task that the event is about, if any.
    pub(crate) fn task(&self) -> Option<&str> {
        match self {
            Event::Intent { id, .. }
            | Event::Answered { id, .. }
            | Event::Again { id }
            | Event::Got { id, .. }
            | Event::Start { id, .. }
            | Event::End { id, .. }
            | Event::Crash { id, .. }
            | Event::Dead { id, .. }
            | Event::Stored { id, .. } => Some(id),
            Event::Leads { .. }
            | Event::Came { .. }
            | Event::FaultBegan { .. }
            | Event::FaultEnded { .. }
            | Event::Exit { .. }
            | Event::Left { .. } => None,
        }
    }
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum $name { $($(#[$doc])* $variant,)* }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($name::$variant => $word,)* })
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)*
                    other => Err(format!("`{other}` is no {}", stringify!($name))),
                }
            }
        }
    };
}

words! {
    /// What a task does.
    Kind {
        /// Succeeds at once.
        Quick = "quick",
        /// Succeeds after a while.
        Slow = "slow",
        /// The same on a blocking thread.
        Blocking = "blocking",
        /// Fails once, then succeeds.
        Flaky = "flaky",
        /// Fails for good.
        Reject = "reject",
        /// Is delayed.
        Later = "later",
        /// Has a result, which is stored.
        Value = "value",
        /// Kills its process.
        Poison = "poison",
        /// Is published where no queue is bound: must be refused.
        Nowhere = "nowhere",
    }
}

words! {
    /// The outcome of a publish.
    Answer {
        /// The broker confirmed it.
        Ok = "ok",
        /// The broker refused it.
        Rejected = "rejected",
        /// Nothing was sent.
        Unreachable = "unreachable",
        /// It may have been enqueued.
        Unknown = "unknown",
    }
}

words! {
    /// How a run ended.
    How {
        Succeeded = "succeeded",
        /// To be tried again.
        Failed = "failed",
        /// Rejected for good.
        Refused = "refused",
    }
}

words! {
    /// How a task kills its process.
    Death {
        /// By `abort`, like a panic that cannot unwind or a broken library.
        Abort = "abort",
        /// By sending itself SIGKILL.
        Kill = "kill",
        /// By allocating more memory than its process may have.
        Memory = "memory",
        /// By SIGKILL from outside while it fills the memory, like the kernel's OOM killer.
        OomKiller = "oom-killer",
        /// By `exit`, which a library should not call.
        Exit = "exit",
    }
}

words! {
    /// A fault that the nemesis injects.
    Fault {
        /// SIGKILL to a worker.
        KillWorker = "kill-worker",
        /// A task killed its worker.
        Crash = "crash",
        /// SIGKILL to a producer.
        KillProducer = "kill-producer",
        /// SIGKILL to a scheduler.
        KillScheduler = "kill-scheduler",
        /// SIGTERM to a worker, which is then started again.
        Roll = "roll",
        /// SIGSTOP to a worker for longer than its broker tolerates.
        Pause = "pause",
        /// SIGKILL to RabbitMQ, then a restart.
        KillBroker = "kill-broker",
        /// SIGKILL to the result store, then a restart.
        KillStore = "kill-store",
        /// RabbitMQ closes all connections.
        CloseAll = "close-all",
        /// A reset of the connections of one process.
        Cut = "cut",
        /// No data passes on the connections of one process.
        Stall = "stall",
        /// New connections are refused.
        Refuse = "refuse",
        /// RabbitMQ is short of memory.
        MemoryAlarm = "memory-alarm",
        /// RabbitMQ is short of disk.
        DiskAlarm = "disk-alarm",
        /// A member of the cluster is killed and started again.
        Member = "member",
        /// Another program holds the SQLite file's lock.
        Lock = "lock",
    }
}

impl Death {
    /// All kinds of death, in the order in which a task uses them.
    const ALL: [Death; 5] = [Death::Abort, Death::Kill, Death::Memory, Death::OomKiller, Death::Exit];
    /// The exit code of [`Death::Exit`].
    pub(crate) const CODE: i32 = 70;

    /// Returns the kind of death with this number: a task that crashes several times uses a different one each time.
    pub(crate) fn number(number: u64) -> Death {
        Death::ALL[(number % Death::ALL.len() as u64) as usize]
    }

    /// Returns true if this death explains the exit code of a process.
    pub(crate) fn explains(self, code: &str) -> bool {
        match self {
            // When memory runs out, the process aborts.
            Death::Abort | Death::Memory => code.starts_with("signal:-6-"),
            Death::Kill | Death::OomKiller => code.starts_with("signal:-9-"),
            Death::Exit => code == format!("exit-status:-{}", Death::CODE),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} {} ", self.at.as_secs(), self.at.subsec_micros(), self.who)?;
        match &self.event {
            Event::Intent { id, kind, due: None } => write!(f, "intent {id} {kind}"),
            Event::Intent { id, kind, due: Some(due) } => {
                write!(f, "intent {id} {kind} {}.{:06}", due.as_secs(), due.subsec_micros())
            }
            Event::Answered { id, answer } => write!(f, "{answer} {id}"),
            Event::Again { id } => write!(f, "again {id}"),
            Event::Got { id, is_right } => write!(f, "{} {id}", if *is_right { "got" } else { "wrong" }),
            Event::Start { id, attempt, crashes } => write!(f, "start {id} {attempt} {crashes}"),
            Event::End { id, attempt, how } => write!(f, "end {id} {attempt} {how}"),
            Event::Crash { id, death } => write!(f, "crash {id} {death}"),
            Event::Dead { id, reason } => write!(f, "dead {id} {reason}"),
            Event::Stored { id, state } => write!(f, "stored {id} {state}"),
            Event::Leads { fence } => write!(f, "leads {fence}"),
            Event::Came { schedule, due, is_again } => {
                let times = if *is_again { "again" } else { "first" };
                write!(f, "came {schedule} {}.{:06} {times}", due.as_secs(), due.subsec_micros())
            }
            Event::FaultBegan { number, fault, target: None } => write!(f, "fault {number} {fault}"),
            Event::FaultBegan { number, fault, target: Some(target) } => {
                write!(f, "fault {number} {fault} {target}")
            }
            Event::FaultEnded { number } => write!(f, "over {number}"),
            Event::Exit { name, code } => write!(f, "exit {name} {code}"),
            Event::Left { queue, count } => write!(f, "left {queue} {count}"),
        }
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Line, String> {
        read(&mut text.split_ascii_whitespace()).ok_or_else(|| format!("no log line: `{text}`"))
    }
}

fn read<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Line> {
    let at = time(words.next()?)?;
    let who = words.next()?.to_owned();
    let verb = words.next()?;
    let id = words.next()?.to_owned();
    let mut next = || words.next();
    let event = match verb {
        "intent" => Event::Intent { id, kind: next()?.parse().ok()?, due: next().and_then(time) },
        "again" => Event::Again { id },
        "got" | "wrong" => Event::Got { id, is_right: verb == "got" },
        "start" => {
            Event::Start { id, attempt: next()?.parse().ok()?, crashes: next().unwrap_or("0").parse().ok()? }
        }
        "end" => Event::End { id, attempt: next()?.parse().ok()?, how: next()?.parse().ok()? },
        "crash" => Event::Crash { id, death: next()?.parse().ok()? },
        "dead" => Event::Dead { id, reason: next()?.to_owned() },
        "stored" => Event::Stored { id, state: next()?.to_owned() },
        "leads" => Event::Leads { fence: id },
        "came" => Event::Came { schedule: id, due: time(next()?)?, is_again: next()? == "again" },
        "fault" => Event::FaultBegan {
            number: id.parse().ok()?,
            fault: next()?.parse().ok()?,
            target: next().and_then(|pid| pid.parse().ok()),
        },
        "over" => Event::FaultEnded { number: id.parse().ok()? },
        "exit" => Event::Exit { name: id, code: next()?.to_owned() },
        "left" => Event::Left { queue: id, count: next()?.parse().ok()? },
        answer => Event::Answered { id, answer: answer.parse().ok()? },
    };
    Some(Line { at, who, event })
}

fn time(text: &str) -> Option<Time> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let micros: u32 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some(Duration::new(seconds.parse().ok()?, micros * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_as_it_was_written() {
        for text in [
            "1.000000 p0/7 intent a quick",
            "1.000002 p0/7 intent a later 3.500000",
            "1.250000 p0/7 ok a",
            "1.250000 p0/7 unreachable a",
            "1.250000 p0/7 again a",
            "1.250000 p0/7 wrong a",
            "2.000000 w1/8 start a 0 1",
            "2.000000 w1/8 end a 0 failed",
            "2.000000 w1/8 crash a oom-killer",
            "3.000000 control dead a rejected",
            "3.000000 control stored a SUCCESS",
            "3.000000 s1/8 leads f",
            "3.000000 reader came a 2.000000 first",
            "3.000000 reader came a 2.000000 again",
            "3.000000 control fault 4 kill-worker 8",
            "3.000000 control fault 5 memory-alarm",
            "3.000000 control over 5",
            "3.000000 control exit w1/8 101",
            "3.000000 control left faults 3",
        ] {
            let line: Line = text.parse().expect("a line");
            assert_eq!(line.to_string(), text);
        }
        for broken in ["", "1.0 p0 intent a", "1.0 p0 end a 0 maybe", "1.0 w0 crash a", "x p0 ok a"] {
            assert!(broken.parse::<Line>().is_err(), "{broken}");
        }
    }
}
