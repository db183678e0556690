//! Reads a publisher's bytes in incoming frames, with limited recursion, and repairs what `lapin` could not read. The
//! reason is in [`frame_filter`](super::frame_filter).

use crate::message::headers::{is_trace, names};

/// The class of all methods that carry a publisher's bytes.
const BASIC: u16 = 60;
/// How deep tables may be nested: as deep as JSON, less a few levels.
pub(super) const DEEPEST: usize = 120;
/// Class and method of `connection.tune`, which limits the size of frames.
const TUNE: (u16, u16) = (10, 30);

/// Why properties cannot be read.
pub(crate) type Problem = &'static str;

/// A content header whose only property is a header with the problem.
pub(super) fn unreadable(payload: &[u8], problem: Problem) -> Vec<u8> {
    let text = |text: &str| u32::try_from(text.len()).expect("it is short").to_be_bytes();
    let name = [&[u8::try_from(names::UNREADABLE.len()).expect("it is short")], names::UNREADABLE.as_bytes()]
        .concat();
    let entry = [&name[..], b"S", &text(problem), problem.as_bytes()].concat();
    let length = u32::try_from(entry.len()).expect("it is short").to_be_bytes();
    // Class, weight and size of the body are kept; the flag for the header table follows.
    let mut start = payload.get(..12).unwrap_or_default().to_vec();
    start.resize(12, 0);
    [&start[..], &[0x20, 0], &length, &entry].concat()
}

/// The largest frame that the broker takes and sends, if this is `connection.tune`; 0 on the wire means no limit.
pub(super) fn tuned(payload: &[u8]) -> Option<usize> {
    let [c, l, m, e, _, _, a, b, d, f] = *payload.first_chunk()?;
    let is_tune = (u16::from_be_bytes([c, l]), u16::from_be_bytes([m, e])) == TUNE;
    let most = usize::try_from(u32::from_be_bytes([a, b, d, f])).ok().filter(|most| *most > 0);
    is_tune.then(|| most.unwrap_or(usize::MAX))
}

/// Repairs the names in the methods that carry messages; nothing else in them was written by a publisher.
pub(super) fn mend_method(payload: &mut [u8]) {
    let mut fields = Fields(payload);
    let mended = (|| {
        if fields.u16()? != BASIC {
            return Ok(());
        }
        match fields.u16()? {
            // deliver: consumer tag, delivery tag, redelivered
            60 => fields.short().and_then(|()| fields.skip(9))?,
            // get-ok: delivery tag, redelivered
            71 => fields.skip(9)?,
            // return: code, text
            50 => fields.skip(2).and_then(|()| fields.short())?,
            _ => return Ok(()),
        }
        fields.short()?;
        fields.short()
    })();
    // `lapin` refuses a malformed method, which does not come from a publisher.
    let _: Result<(), Problem> = mended;
}

/// Repairs the properties in a content header.
pub(crate) fn mend_header(payload: &mut [u8]) -> Result<(), Problem> {
    let mut fields = Fields(payload);
    // Class, weight, size of the body.
    fields.skip(12)?;
    mend_properties(fields.0)
}

/// Repairs a list of properties. After `Ok`, `lapin` can read it.
pub(crate) fn mend_properties(properties: &mut [u8]) -> Result<(), Problem> {
    let mut fields = Fields(properties);
    let flags = fields.u16()?;
    // From the highest bit down: short texts, except for the headers, two single bytes and the timestamp.
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
    if fields.0.is_empty() && flags & 0b11 == 0 {
        Ok(())
    } else {
        Err("the properties are longer than their declared length")
    }
}

/// The bytes that have not been read yet.
struct Fields<'a>(&'a mut [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a mut [u8], Problem> {
        let all = std::mem::take(&mut self.0);
        if all.len() < length {
            return Err("the properties are shorter than their declared length");
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
        usize::try_from(length).map_err(|_| "the properties are shorter than their declared length")
    }

    /// Reads a short text; bytes that are not UTF-8 become question marks.
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

/// A content header without the headers that the broker added on the way. The broker does not check whether they fit
/// into a frame, and so can make the largest possible message impossible to receive. The properties must have been
/// repaired.
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
