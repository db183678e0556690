//! The bytes that a publisher wrote, in the frames in which they come: read without recursion beyond a limit, and mended where
//! `lapin` could not read them. [`sieve`](super::sieve) says why.

use crate::message::headers::{is_trace, names};

/// The class of all methods that carry what a publisher wrote.
const BASIC: u16 = 60;
/// Tables in tables in tables: as many as JSON has, less a few.
pub(super) const DEEPEST: usize = 120;
/// The class of the methods that agree on a connection, and the one that says how large frames may be.
const TUNE: (u16, u16) = (10, 30);

/// Why properties cannot be read.
pub(crate) type Problem = &'static str;

/// The content header with nothing but a header that says what is wrong.
pub(super) fn unreadable(payload: &[u8], problem: Problem) -> Vec<u8> {
    let text = |text: &str| u32::try_from(text.len()).expect("it is short").to_be_bytes();
    let name = [&[u8::try_from(names::UNREADABLE.len()).expect("it is short")], names::UNREADABLE.as_bytes()]
        .concat();
    let entry = [&name[..], b"S", &text(problem), problem.as_bytes()].concat();
    let length = u32::try_from(entry.len()).expect("it is short").to_be_bytes();
    // Class, weight and the size of the body stay; then the flag of the header table.
    let mut start = payload.get(..12).unwrap_or_default().to_vec();
    start.resize(12, 0);
    [&start[..], &[0x20, 0], &length, &entry].concat()
}

/// The largest frame that the broker takes and sends, if this is the method that says so; 0 is no limit.
pub(super) fn tuned(payload: &[u8]) -> Option<usize> {
    let [c, l, m, e, _, _, a, b, d, f] = *payload.first_chunk()?;
    let is_tune = (u16::from_be_bytes([c, l]), u16::from_be_bytes([m, e])) == TUNE;
    let most = usize::try_from(u32::from_be_bytes([a, b, d, f])).ok().filter(|most| *most > 0);
    is_tune.then(|| most.unwrap_or(usize::MAX))
}

/// The names in the methods by which messages come: nothing else in them was written by a publisher.
pub(super) fn mend_method(payload: &mut [u8]) {
    let mut fields = Fields(payload);
    let mended = (|| {
        if fields.u16()? != BASIC {
            return Ok(());
        }
        match fields.u16()? {
            // deliver: tag of the consumer, tag, redelivered
            60 => fields.short().and_then(|()| fields.skip(9))?,
            // get-ok: tag, redelivered
            71 => fields.skip(9)?,
            // return: code, text
            50 => fields.skip(2).and_then(|()| fields.short())?,
            _ => return Ok(()),
        }
        fields.short()?;
        fields.short()
    })();
    // What does not hold together `lapin` refuses, and it is not from a publisher.
    let _: Result<(), Problem> = mended;
}

/// Mends the properties of a message.
pub(crate) fn mend_header(payload: &mut [u8]) -> Result<(), Problem> {
    let mut fields = Fields(payload);
    // Class, weight, size of the body.
    fields.skip(12)?;
    mend_properties(fields.0)
}

/// Mends a list of properties. What is `Ok` can be read by `lapin`.
pub(crate) fn mend_properties(properties: &mut [u8]) -> Result<(), Problem> {
    let mut fields = Fields(properties);
    let flags = fields.u16()?;
    // From the highest bit on: texts but for the headers, two numbers of a byte, and the time.
    for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
        match bit {
            13 => {
                let length = fields.length()?;
                Fields(fields.take(length)?).table(0)?;
            }
            12 | 11 => fields.skip(1)?,
            6 => fields.skip(8)?,
            _ => fields.short()?,
        }
    }
    if fields.0.is_empty() && flags & 0b11 == 0 { Ok(()) } else { Err("they are longer than they say") }
}

/// The bytes that were not looked at yet.
struct Fields<'a>(&'a mut [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a mut [u8], Problem> {
        let all = std::mem::take(&mut self.0);
        if all.len() < length {
            return Err("they are shorter than they say");
        }
        let (first, rest) = all.split_at_mut(length);
        self.0 = rest;
        Ok(first)
    }

    fn skip(&mut self, length: usize) -> Result<(), Problem> {
        self.take(length).map(drop)
    }

    fn u16(&mut self) -> Result<u16, Problem> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn length(&mut self) -> Result<usize, Problem> {
        let bytes = self.take(4)?;
        let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        usize::try_from(length).map_err(|_| "they are shorter than they say")
    }

    /// A short text; what is not UTF-8 becomes question marks.
    fn short(&mut self) -> Result<(), Problem> {
        let length = usize::from(self.take(1)?[0]);
        let text = self.take(length)?;
        while let Err(error) = std::str::from_utf8(text) {
            let bad = error.valid_up_to();
            text[bad] = b'?';
        }
        Ok(())
    }

    fn table(mut self, depth: usize) -> Result<(), Problem> {
        while !self.0.is_empty() {
            self.short()?;
            self.value(depth)?;
        }
        Ok(())
    }

    fn array(mut self, depth: usize) -> Result<(), Problem> {
        while !self.0.is_empty() {
            self.value(depth)?;
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Problem> {
        if depth > DEEPEST {
            return Err("a header is nested too deeply");
        }
        match self.take(1)?[0] {
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'U' | b'u' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'L' | b'l' | b'd' | b'T' => self.skip(8),
            b'V' => Ok(()),
            kind @ (b'S' | b'x' | b'A' | b'F') => {
                let length = self.length()?;
                let fields = Fields(self.take(length)?);
                match kind {
                    b'A' => fields.array(depth + 1),
                    b'F' => fields.table(depth + 1),
                    _ => Ok(()),
                }
            }
            _ => Err("a header is of a type that AMQP does not have"),
        }
    }
}

/// A content header without what the broker added to the headers on the way. It does not look whether that fits into a
/// frame, and so makes a message that was as large as could be one that nobody can receive. The properties were mended.
pub(super) fn without_traces(payload: &[u8]) -> Vec<u8> {
    let smaller = || {
        let flags = u16::from_be_bytes([*payload.get(12)?, *payload.get(13)?]);
        let mut at = 14;
        for _ in [15, 14].iter().filter(|bit| flags & (1 << **bit) != 0) {
            at += 1 + usize::from(*payload.get(at)?);
        }
        let length = u32::from_be_bytes(*payload.get(at..)?.first_chunk()?);
        let (table, rest) = payload.get(at + 4..)?.split_at_checked(usize::try_from(length).ok()?)?;
        let (mut copy, mut kept) = (table.to_vec(), Vec::with_capacity(table.len()));
        let mut fields = Fields(&mut copy);
        while !fields.0.is_empty() {
            let before = table.len() - fields.0.len();
            fields.short().ok()?;
            fields.value(0).ok()?;
            let entry = &table[before..table.len() - fields.0.len()];
            let name = entry.get(1..1 + usize::from(entry[0]))?;
            if !is_trace(std::str::from_utf8(name).ok()?) {
                kept.extend_from_slice(entry);
            }
        }
        let length = u32::try_from(kept.len()).ok()?.to_be_bytes();
        Some([&payload[..at], &length, &kept, rest].concat())
    };
    let has_headers = payload.get(12).is_some_and(|flags| flags & 0x20 != 0);
    smaller().filter(|_| has_headers).unwrap_or_else(|| payload.to_vec())
}
