//! Arguments as events tell them, Python's `repr`, read back as JSON: `('a', {'b': True})` is `["a", {"b": true}]`.
//!
//! What JSON cannot hold, or what was cut, is not guessed at.

/// How deep values may be nested.
const DEEPEST: usize = 64;

/// The text as JSON; `None` if it is not whole or not a plain value.
pub(crate) fn to_json(text: &str) -> Option<String> {
    let text = text.trim();
    // Our own workers, and Celery's with `argsrepr` of other clients, may tell JSON.
    if serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok() {
        return Some(text.to_owned());
    }
    let mut reader = Reader { rest: text, json: String::new() };
    reader.value(DEEPEST)?;
    reader.skip();
    reader.rest.is_empty().then_some(reader.json)
}

struct Reader<'a> {
    rest: &'a str,
    json: String,
}

impl Reader<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, start: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(start) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        self.skip();
        for (python, json) in [
            ("True", "true"),
            ("False", "false"),
            ("None", "null"),
            ("true", "true"),
            ("false", "false"),
            ("null", "null"),
        ] {
            if self.take(python) {
                self.json += json;
                return Some(());
            }
        }
        match self.rest.chars().next()? {
            '(' => self.list(")", depth),
            '[' => self.list("]", depth),
            '{' => self.object(depth),
            '\'' | '"' => self.text(),
            _ => self.number(),
        }
    }

    fn list(&mut self, end: &str, depth: usize) -> Option<()> {
        self.rest = &self.rest[1..];
        self.json.push('[');
        let mut is_first = true;
        while !self.take(end) {
            if !is_first {
                self.take(",").then_some(())?;
                // `(1,)` ends with a comma.
                if self.take(end) {
                    break;
                }
                self.json.push(',');
            }
            self.value(depth)?;
            is_first = false;
        }
        self.json.push(']');
        Some(())
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.rest = &self.rest[1..];
        self.json.push('{');
        let mut is_first = true;
        while !self.take("}") {
            if !is_first {
                self.take(",").then_some(())?;
                self.json.push(',');
            }
            self.skip();
            self.rest.starts_with(['\'', '"']).then_some(())?;
            self.text()?;
            self.take(":").then_some(())?;
            self.json.push(':');
            self.value(depth)?;
            is_first = false;
        }
        self.json.push('}');
        Some(())
    }

    fn text(&mut self) -> Option<()> {
        let mut chars = self.rest.char_indices();
        let (_, quote) = chars.next()?;
        let mut text = String::new();
        let end = loop {
            let (at, c) = chars.next()?;
            match c {
                c if c == quote => break at,
                '\\' => {
                    let (_, escaped) = chars.next()?;
                    let digits = match escaped {
                        'n' => {
                            text.push('\n');
                            continue;
                        }
                        't' => {
                            text.push('\t');
                            continue;
                        }
                        'r' => {
                            text.push('\r');
                            continue;
                        }
                        'x' => 2,
                        'u' => 4,
                        'U' => 8,
                        other => {
                            text.push(other);
                            continue;
                        }
                    };
                    let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    text.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
                }
                c => text.push(c),
            }
        };
        self.rest = &self.rest[end + quote.len_utf8()..];
        self.json += &serde_json::to_string(&text).ok()?;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let end = self.rest.find([',', ')', ']', '}', ':']).unwrap_or(self.rest.len());
        let number = self.rest[..end].trim();
        serde_json::from_str::<serde_json::Number>(number).ok()?;
        self.json += number;
        self.rest = &self.rest[end..];
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::to_json;

    #[test]
    fn python_s_values_are_read_as_json() {
        for (python, json) in [
            ("(2, 3)", "[2,3]"),
            ("('a',)", "[\"a\"]"),
            ("()", "[]"),
            ("{'b': True, 'c': [None, 1.5]}", "{\"b\":true,\"c\":[null,1.5]}"),
            (r#"("it's", 'a\n\x41\u00e9"')"#, "[\"it's\",\"a\\nAé\\\"\"]"),
            ("[18446744073709551616]", "[18446744073709551616]"),
            ("{\"a\": 1}", "{\"a\": 1}"),
        ] {
            assert_eq!(to_json(python).as_deref(), Some(json), "{python}");
        }
    }

    #[test]
    fn what_is_not_whole_is_not_guessed_at() {
        for text in [
            "('a', ...)",
            "(<User 1>,)",
            "('a",
            "(1, 2",
            "{1: 2}",
            "(1) 2",
            "nan",
            "",
            "datetime.datetime(2026, 1, 1)",
        ] {
            assert_eq!(to_json(text), None, "{text}");
        }
        assert_eq!(to_json(&"(".repeat(100_000)), None);
    }
}
