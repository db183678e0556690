//! Python literals as JSON: events carry arguments as Python would print them.

use std::fmt::Write;

/// The maximum nesting depth.
const DEEPEST: usize = 100;

/// The JSON of a Python literal: numbers, strings, `True`, `False`, `None`, lists, tuples and dictionaries with strings as
/// keys. `None` for anything else, such as text that was cut off or a Python object.
///
/// ```
/// use mq_worker::history::json_of_literal;
///
/// assert_eq!(json_of_literal("('ann', {'age': 7, 'in': True})").as_deref(), Some(r#"["ann",{"age":7,"in":true}]"#));
/// assert_eq!(json_of_literal("('an..."), None);
/// ```
pub fn json_of_literal(text: &str) -> Option<String> {
    let mut reader = Reader { left: text.trim(), out: String::new() };
    reader.value(0)?;
    reader.left.trim_start().is_empty().then_some(reader.out)
}

struct Reader<'a> {
    left: &'a str,
    out: String,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        self.skip_space();
        match self.left.chars().next()? {
            '(' => self.list(')', depth),
            '[' => self.list(']', depth),
            '{' => self.dictionary(depth),
            '\'' | '"' => self.text(),
            _ => self.word(),
        }
    }

    fn list(&mut self, end: char, depth: usize) -> Option<()> {
        self.left = &self.left[1..];
        self.out.push('[');
        let mut is_first = true;
        while !self.takes(end) {
            if !is_first {
                // A tuple of one ends with a comma.
                self.expect(',')?;
                if self.takes(end) {
                    break;
                }
                self.out.push(',');
            }
            is_first = false;
            self.value(depth + 1)?;
        }
        self.out.push(']');
        Some(())
    }

    fn dictionary(&mut self, depth: usize) -> Option<()> {
        self.left = &self.left[1..];
        self.out.push('{');
        let mut is_first = true;
        while !self.takes('}') {
            if !is_first {
                self.expect(',')?;
                self.out.push(',');
            }
            is_first = false;
            self.skip_space();
            if !self.left.starts_with(['\'', '"']) {
                return None;
            }
            self.text()?;
            self.expect(':')?;
            self.out.push(':');
            self.value(depth + 1)?;
        }
        self.out.push('}');
        Some(())
    }

    fn text(&mut self) -> Option<()> {
        let mut chars = self.left.chars();
        let quote = chars.next()?;
        let mut text = String::new();
        loop {
            match chars.next()? {
                c if c == quote => break,
                '\\' => match chars.next()? {
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    'x' => text.push(coded(&mut chars, 2)?),
                    'u' => text.push(coded(&mut chars, 4)?),
                    'U' => text.push(coded(&mut chars, 8)?),
                    c @ ('\\' | '\'' | '"') => text.push(c),
                    _ => return None,
                },
                c => text.push(c),
            }
        }
        self.left = chars.as_str();
        write!(self.out, "{}", serde_json::Value::String(text)).ok()
    }

    fn word(&mut self) -> Option<()> {
        let end = self.left.find([',', ')', ']', '}', ':', ' ', '(', '[', '{', '\'', '"']);
        let (word, left) = self.left.split_at(end.unwrap_or(self.left.len()));
        let json = match word {
            "True" => "true",
            "False" => "false",
            "None" => "null",
            // Copied as written: a large number loses no digits.
            number => serde_json::from_str::<&serde_json::value::RawValue>(number)
                .ok()
                .map(serde_json::value::RawValue::get)
                .filter(|json| json.starts_with(|c: char| c == '-' || c.is_ascii_digit()))?,
        };
        self.out.push_str(json);
        self.left = left;
        Some(())
    }

    fn takes(&mut self, c: char) -> bool {
        self.skip_space();
        let rest = self.left.strip_prefix(c);
        self.left = rest.unwrap_or(self.left);
        rest.is_some()
    }

    fn expect(&mut self, c: char) -> Option<()> {
        self.takes(c).then_some(())
    }

    fn skip_space(&mut self) {
        self.left = self.left.trim_start();
    }
}

/// Reads a character given as its code in this many hexadecimal digits.
fn coded(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let code: String = chars.by_ref().take(digits).collect();
    u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use super::json_of_literal;

    #[test]
    fn literals_become_json_and_nothing_else_does() {
        for (literal, json) in [
            ("(2, 3)", Some("[2,3]")),
            ("(1,)", Some("[1]")),
            ("()", Some("[]")),
            ("{}", Some("{}")),
            ("[-1.5e3, [True, False, None]]", Some("[-1.5e3,[true,false,null]]")),
            ("{'a': {'b': (1, 2)}}", Some(r#"{"a":{"b":[1,2]}}"#)),
            (r#"("it's", 'a "b"', 'c\'d\n\x01é')"#, Some(r#"["it's","a \"b\"","c'd\n\u0001é"]"#)),
            ("(340282366920938463463374607431768211455,)", Some("[340282366920938463463374607431768211455]")),
            // Cut off, or without a JSON equivalent.
            ("('abc", None),
            ("('abc...", None),
            ("(1, 2", None),
            ("(1, ...)", None),
            ("(<object at 0x7f>,)", None),
            ("(Decimal('1'),)", None),
            ("{1: 2}", None),
            ("(1, 2) … (cut)", None),
            ("'[hidden]'", Some("\"[hidden]\"")),
            ("(nan,)", None),
            ("", None),
        ] {
            assert_eq!(json_of_literal(literal).as_deref(), json, "{literal}");
        }
        assert_eq!(json_of_literal(&"(".repeat(100_000)), None);
    }
}
