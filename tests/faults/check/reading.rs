//! Reads the log of a long run without keeping all of it.
//!
//! For most tasks there is nothing to check: sent once, confirmed, run once, succeeded. A first pass, which keeps only a few
//! bits per task, finds and counts them; a second pass keeps everything else.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::history::History;
use crate::log::{Answer, Event, How, Kind, Line, Time};

/// What the first pass keeps of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Glance {
    steps: u8,
    is_odd: bool,
}

impl Glance {
    const INTENT: u8 = 1;
    const OK: u8 = 2;
    const START: u8 = 4;
    const END: u8 = 8;

    fn take(&mut self, event: &Event) {
        let step = match event {
            Event::Intent { kind: Kind::Quick, due: None, .. } => Self::INTENT,
            Event::Answered { answer: Answer::Ok, .. } => Self::OK,
            Event::Start { attempt: 0, crashes: 0, .. } => Self::START,
            Event::End { attempt: 0, how: How::Succeeded, .. } => Self::END,
            _ => 0,
        };
        // Repeated steps are odd too, which also covers two tasks with the same hash.
        self.is_odd |= step == 0 || self.steps & step != 0;
        self.steps |= step;
    }

    fn is_plain(self) -> bool {
        !self.is_odd && self.steps == Self::INTENT | Self::OK | Self::START | Self::END
    }
}

/// Reads a log up to its current size.
pub(crate) fn read(path: &Path) -> io::Result<History> {
    let size = match path.metadata() {
        Ok(file) => file.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if size == 0 {
        return Ok(History::default());
    }
    // The second pass must see what the first one saw, although others keep writing.
    let lines = || io::Result::Ok(BufReader::new(File::open(path)?.take(size)).lines());
    let hasher = RandomState::new();
    let mut glances = HashMap::<u64, Glance>::new();
    let mut end = Time::ZERO;
    for line in lines()? {
        let line = parse(&line?);
        end = end.max(line.at);
        if let Some(id) = line.event.task() {
            glances.entry(hasher.hash_one(id)).or_default().take(&line.event);
        }
    }
    let plain = glances.values().filter(|glance| glance.is_plain()).count();
    glances.retain(|_, glance| glance.is_plain());
    let mut kept = Vec::new();
    for line in lines()? {
        let line = parse(&line?);
        if !line.event.task().is_some_and(|id| glances.contains_key(&hasher.hash_one(id))) {
            kept.push(line);
        }
    }
    let mut history = History::new(kept);
    (history.plain, history.end) = (plain, end);
    Ok(history)
}

fn parse(line: &str) -> Line {
    line.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_well_in_every_respect_is_merely_counted() {
        let plain =
            "1.0 p0/7 intent a quick\n1.1 w0/8 start a 0 0\n1.2 p0/7 ok a\n1.3 w0/8 end a 0 succeeded\n";
        let odd = [
            ("lost", "2.0 p0/7 intent b quick\n2.1 p0/7 ok b\n"),
            (
                "twice",
                "3.0 p0/7 intent c quick\n3.1 p0/7 ok c\n3.2 w0/8 start c 0 0\n3.3 w0/8 end c 0 succeeded\n\
             3.4 w1/9 start c 0 0\n3.5 w1/9 end c 0 succeeded\n",
            ),
            (
                "of another kind",
                "4.0 p0/7 intent d flaky\n4.1 p0/7 ok d\n4.2 w0/8 start d 0 0\n4.3 w0/8 end d 0 failed\n",
            ),
            (
                "not told",
                "5.0 p0/7 intent e quick\n5.1 p0/7 unknown e\n5.2 w0/8 start e 0 0\n5.3 w0/8 end e 0 succeeded\n",
            ),
        ];
        let directory = support::temp_dir();
        let path = directory.path().join("log");
        let all: String = odd.iter().map(|(_, lines)| *lines).collect();
        std::fs::write(&path, format!("{plain}{all}")).expect("written");
        let history = read(&path).expect("a log");
        assert_eq!(history.plain, 1);
        assert_eq!(history.tasks.keys().collect::<Vec<_>>(), ["b", "c", "d", "e"]);
        assert_eq!(history.tasks["c"].repeats(), 1);
        assert_eq!(history.end, Time::from_millis(5300));
    }
}
