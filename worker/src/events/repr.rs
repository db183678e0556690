//! Values as Python would print them: what Celery's tools show of arguments and results.
//!
//! It works on the beginning of a JSON text, so that a large body costs no more than a small one.

/// How many characters of a value are kept, as in Celery.
pub const MAX_TEXT: usize = 1024;

/// The arguments of a call, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `(2, 3)`.
    pub args: Option<String>,
    /// `{'key': 'v'}`.
    pub kwargs: Option<String>,
}

/// The arguments at the beginning of a body `[args, kwargs, …]`. Those that are cut off are `None`.
pub fn arguments(body: &[u8]) -> Arguments {
    let text = prefix(body);
    let mut found = Arguments::default();
    let Some(rest) = text.trim_start().strip_prefix('[') else { return found };
    let mut args = Printer::new(rest);
    args.value(Brackets::OfTuple);
    let rest = args.rest().and_then(|rest| rest.trim_start().strip_prefix(','));
    found.args = Some(args.printed());
    if let Some(rest) = rest {
        let mut kwargs = Printer::new(rest);
        kwargs.value(Brackets::AsTheyAre);
        found.kwargs = Some(kwargs.printed()).map(|text| if text == "None" { "{}".into() } else { text });
    }
    found
}

/// One value as text, given its JSON or the beginning of it.
pub fn text(json: &[u8]) -> String {
    let mut printer = Printer::new(prefix(json));
    printer.value(Brackets::AsTheyAre);
    printer.printed()
}

/// The longest prefix that is valid UTF-8.
fn prefix(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// How the outermost list is printed.
#[derive(Clone, Copy, PartialEq)]
enum Brackets {
    AsTheyAre,
    OfTuple,
}

struct Printer<'a> {
    left: &'a str,
    out: String,
    /// How many more characters may be printed.
    room: usize,
    /// True once the whole value has been printed.
    ended: bool,
}

impl<'a> Printer<'a> {
    fn new(json: &'a str) -> Self {
        Self { left: json, out: String::new(), room: MAX_TEXT, ended: false }
    }

    /// The JSON after the value, if the value was complete.
    fn rest(&self) -> Option<&'a str> {
        self.ended.then_some(self.left)
    }

    fn printed(mut self) -> String {
        if !self.ended {
            self.out.push_str("...");
        }
        self.out
    }

    fn push(&mut self, c: char) {
        if self.room > 0 {
            self.room -= 1;
            self.out.push(c);
        }
    }

    fn push_str(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c));
    }

    /// Prints one value. Senders may nest JSON as deep as they like, so open brackets are kept in a list, not on the stack.
    fn value(&mut self, brackets: Brackets) {
        let mut open: Vec<char> = Vec::new();
        let mut commas = 0;
        while self.room > 0 {
            self.left = self.left.trim_start();
            let Some(c) = self.left.chars().next() else { return };
            match c {
                '"' => {
                    if !self.string() {
                        return;
                    }
                }
                '[' | '{' => {
                    let is_tuple = open.is_empty() && brackets == Brackets::OfTuple && c == '[';
                    self.push(if is_tuple { '(' } else { c });
                    open.push(if is_tuple { '(' } else { c });
                    self.skip(1);
                }
                ']' | '}' => {
                    if open.pop() == Some('(') {
                        let is_single = commas == 0 && !self.out.ends_with('(');
                        self.push_str(if is_single { ",)" } else { ")" });
                    } else {
                        self.push(c);
                    }
                    self.skip(1);
                }
                ',' | ':' => {
                    if open.len() == 1 {
                        commas += 1;
                    }
                    self.push(c);
                    self.push(' ');
                    self.skip(1);
                    continue;
                }
                _ => {
                    let end = self.left.find([',', ':', ']', '}', '"', '[', '{', ' ', '\n', '\r', '\t']);
                    let length = end.unwrap_or(self.left.len());
                    let word = &self.left[..length];
                    self.push_str(match word {
                        "true" => "True",
                        "false" => "False",
                        "null" => "None",
                        number => number,
                    });
                    self.skip(length);
                    // A word at the end of the text may be cut off, unless the text is complete.
                }
            }
            if open.is_empty() {
                self.ended = self.room > 0;
                return;
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.left = &self.left[bytes..];
    }

    /// Prints a string in quotes; false if its end is missing.
    fn string(&mut self) -> bool {
        let mut escaped = false;
        let end = self.left.bytes().enumerate().skip(1).find(|(_, byte)| {
            let is_end = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            is_end
        });
        let (raw, whole) = match end {
            Some((end, _)) => (&self.left[1..end], true),
            None => (&self.left[1..], false),
        };
        let text = unescape(raw, self.room);
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.push(quote);
        for c in text.chars() {
            match c {
                '\\' => self.push_str("\\\\"),
                '\n' => self.push_str("\\n"),
                '\r' => self.push_str("\\r"),
                '\t' => self.push_str("\\t"),
                c if c == quote => {
                    self.push('\\');
                    self.push(c);
                }
                c if c.is_control() => self.push_str(&format!("\\x{:02x}", u32::from(c))),
                c => self.push(c),
            }
        }
        if whole {
            self.push(quote);
            self.skip(raw.len() + 2);
        }
        whole
    }
}

/// The characters of a JSON string without its quotes; no more of them than are printed.
fn unescape(raw: &str, room: usize) -> String {
    let mut text = String::new();
    let mut chars = raw.chars();
    let mut high = None;
    for _ in 0..=room {
        let Some(c) = chars.next() else { break };
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let unit = u16::from_str_radix(&digits, 16).unwrap_or(0xfffd);
                match (high.take(), unit) {
                    (None, 0xd800..=0xdbff) => high = Some(unit),
                    (Some(first), _) => text.extend(
                        char::decode_utf16([first, unit]).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)),
                    ),
                    (None, _) => {
                        text.push(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                }
            }
            Some(other) => text.push(other),
            None => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(body: &str) -> (String, String) {
        let Arguments { args, kwargs } = arguments(body.as_bytes());
        (args.unwrap_or_default(), kwargs.unwrap_or_default())
    }

    #[test]
    fn arguments_look_as_in_python() {
        // Every line was checked against `repr` of Python 3.11.
        for (body, args, kwargs) in [
            ("[[2,3],{},{}]", "(2, 3)", "{}"),
            ("[[],{},{}]", "()", "{}"),
            ("[[1],null,null]", "(1,)", "{}"),
            (r#"[["héllo",null,true],{"key":"v"},{}]"#, "('héllo', None, True)", "{'key': 'v'}"),
            (r#"[ [ [1, 2] , {"a":[false]} ] , {} ]"#, "([1, 2], {'a': [False]})", "{}"),
            (r#"[["it's"],{},{}]"#, r#"("it's",)"#, "{}"),
            (r#"[["it's \"x\""],{},{}]"#, r#"('it\'s "x"',)"#, "{}"),
            (r#"[["a\\b\n\u0001"],{},{}]"#, r"('a\\b\n\x01',)", "{}"),
            (r#"[["\ud83d\ude00"],{},{}]"#, "('😀',)", "{}"),
            (r#"[[-1.5e3,[[]]],{},{}]"#, "(-1.5e3, [[]])", "{}"),
        ] {
            assert_eq!(both(body), (args.to_owned(), kwargs.to_owned()), "{body}");
        }
    }

    #[test]
    fn a_value_looks_as_in_python() {
        for (json, shown) in
            [("5", "5"), ("null", "None"), ("\"done\"", "'done'"), ("[1,true]", "[1, True]"), ("{}", "{}")]
        {
            assert_eq!(text(json.as_bytes()), shown);
        }
    }

    #[test]
    fn what_is_long_or_cut_off_ends_in_dots() {
        let long = format!("[[\"{}\"],{{}},{{}}]", "x".repeat(5000));
        let (args, kwargs) = both(&long);
        assert!(args.starts_with("('xxx") && args.ends_with("x...") && args.len() == MAX_TEXT + 3, "{args}");
        assert_eq!(kwargs, "");
        assert_eq!(both("[[1, \"ab").0, "(1, 'ab...");
        assert_eq!(both("[[1, 2").0, "(1, 2...");
        assert!(text("[".repeat(100_000).as_bytes()).ends_with("[..."));
        for nonsense in ["", "7", "[", "]", "[[}", "\"\\", "[\"\\u12", "[[1],,,"] {
            both(nonsense);
            text(nonsense.as_bytes());
        }
        assert!(text(b"\"ab\xff\"").starts_with("'ab"));
    }
}
