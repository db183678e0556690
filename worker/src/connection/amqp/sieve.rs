//! Mends what comes from the broker, before `lapin` reads it.
//!
//! RabbitMQ hands on what a publisher wrote, byte by byte. `lapin` 4.12 reads nested tables by recursion, so that a
//! header of five kilobytes overflows the stack of its thread and takes the process down; and it gives the connection up
//! over a name that is not UTF-8, again and again, since the message comes back. Both would stop every worker of a queue.
//! Here bytes that are not UTF-8 become question marks, and properties that are nested too deeply, or are no
//! properties at all, give way to one header that says so: the worker puts such a message aside.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};

use crate::message::headers::{is_trace, names};

/// Type, channel, length.
const HEAD: usize = 7;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// The class of all methods that carry what a publisher wrote.
const BASIC: u16 = 60;
/// Tables in tables in tables: as many as JSON has, less a few.
pub(super) const DEEPEST: usize = 120;
/// How much is read at once; a larger header makes the buffer grow.
const CHUNK: usize = 64 * 1024;
/// A header frame that is larger passes unread.
const LARGEST: usize = 1024 * 1024;
/// The largest frame, unless the broker says otherwise: RabbitMQ's default.
const FRAME_MAX: usize = 128 * 1024;
/// The class of the methods that agree on a connection, and the one that says how large frames may be.
const TUNE: (u16, u16) = (10, 30);

/// A stream of frames whose headers are read before they are handed on.
#[derive(Debug)]
pub(super) struct Sieve<S> {
    inner: S,
    buffer: Vec<u8>,
    /// What is in the buffer and was not handed on.
    start: usize,
    end: usize,
    /// How many bytes may be handed on as they are.
    passes: usize,
    /// `lapin` gives the connection up over a larger frame.
    frame_max: usize,
}

impl<S> Sieve<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, buffer: vec![0; CHUNK], start: 0, end: 0, passes: 0, frame_max: FRAME_MAX }
    }

    /// Looks at the next frame, if enough of it is there.
    fn look(&mut self) {
        let frame = &mut self.buffer[self.start..self.end];
        let Some(&[kind, _, _, a, b, c, d]) = frame.first_chunk::<HEAD>() else { return };
        let payload = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let whole = payload.saturating_add(HEAD + 1);
        if !matches!(kind, METHOD | HEADER) || payload > LARGEST {
            self.passes = whole;
            return;
        }
        if frame.len() < whole {
            return;
        }
        self.passes = whole;
        let payload = &mut frame[HEAD..HEAD + payload];
        let mended = match kind {
            METHOD => {
                if let Some(most) = tuned(payload) {
                    self.frame_max = most;
                }
                mend_method(payload);
                None
            }
            _ => match mend_header(payload) {
                Ok(()) if whole <= self.frame_max => None,
                Ok(()) => {
                    let smaller = without_traces(payload);
                    let fits = smaller.len() + HEAD < self.frame_max;
                    Some(if fits { smaller } else { unreadable(payload, "they are larger than a frame") })
                }
                Err(problem) => Some(unreadable(payload, problem)),
            },
        };
        if let Some(payload) = mended {
            let length = u32::try_from(payload.len()).expect("no longer than it was").to_be_bytes();
            let frame = [&frame[..3], &length, &payload, &frame[whole - 1..whole]].concat();
            self.passes = frame.len();
            self.buffer.splice(self.start..self.start + whole, frame.iter().copied());
            self.end = self.end - whole + frame.len();
        }
    }

    /// Room for what is read next: for a large frame all that is missing, so that it comes in few pieces.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < self.end + CHUNK / 2 {
            self.buffer.resize(self.end + CHUNK, 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sieve<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut given = 0;
        while given < out.len() {
            if this.passes == 0 {
                this.look();
            }
            let next = this.passes.min(this.end - this.start).min(out.len() - given);
            if next > 0 {
                out[given..given + next].copy_from_slice(&this.buffer[this.start..this.start + next]);
                (this.start, this.passes, given) = (this.start + next, this.passes - next, given + next);
                continue;
            }
            if given > 0 {
                break;
            }
            this.make_room();
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut this.buffer[this.end..]))?;
            if read == 0 {
                // The stream ends, perhaps in the middle of a frame.
                this.passes = this.end;
                if this.end == 0 {
                    break;
                }
            }
            this.end += read;
        }
        Poll::Ready(Ok(given))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sieve<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// The largest frame that the broker takes and sends, if this is the method that says so; 0 is no limit.
fn tuned(payload: &[u8]) -> Option<usize> {
    let [c, l, m, e, _, _, a, b, d, f] = *payload.first_chunk()?;
    let is_tune = (u16::from_be_bytes([c, l]), u16::from_be_bytes([m, e])) == TUNE;
    let most = usize::try_from(u32::from_be_bytes([a, b, d, f])).ok().filter(|most| *most > 0);
    is_tune.then(|| most.unwrap_or(usize::MAX))
}

/// A content header without what the broker added to the headers on the way. It does not look whether that fits into a
/// frame, and so makes a message that was as large as could be one that nobody can receive. The properties were mended.
fn without_traces(payload: &[u8]) -> Vec<u8> {
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

/// Why properties cannot be read.
type Problem = &'static str;

/// The content header with nothing but a header that says what is wrong.
fn unreadable(payload: &[u8], problem: Problem) -> Vec<u8> {
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

/// The names in the methods by which messages come: nothing else in them was written by a publisher.
fn mend_method(payload: &mut [u8]) {
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

#[cfg(test)]
mod tests {
    use futures_util::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&[kind, 0, 1], &length[..], payload, &[0xCE]].concat()
    }

    fn header(table: &[u8]) -> Vec<u8> {
        let length = u32::try_from(table.len()).expect("short").to_be_bytes();
        let start = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x20, 0];
        frame(HEADER, &[&start[..], &length, table].concat())
    }

    fn nested(levels: usize) -> Vec<u8> {
        (0..levels).fold(b"V".to_vec(), |value, _| {
            [b"A", &u32::try_from(value.len()).expect("short").to_be_bytes()[..], &value].concat()
        })
    }

    /// Comes in pieces of this size.
    struct Pieces(Vec<u8>, usize);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let length = self.1.min(out.len()).min(self.0.len());
            let rest = self.0.split_off(length);
            out[..length].copy_from_slice(&std::mem::replace(&mut self.0, rest));
            Poll::Ready(Ok(length))
        }
    }

    async fn sieved(stream: &[u8], piece: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Sieve::new(Pieces(stream.to_vec(), piece)).read_to_end(&mut out).await.expect("it is read");
        out
    }

    #[tokio::test]
    async fn what_can_be_read_passes_as_it_is_in_whatever_pieces_it_comes() {
        let key = b"\x01kS\x00\x00\x00\x02\xff\x00";
        let stream = [
            frame(METHOD, b"\x00\x0a\x00\x0a\xff\xff"),
            header(key),
            frame(3, &[0xff; 300_000]),
            header(&[b"\x01k", &nested(100)[..]].concat()),
            header(&[b"\x01kS\x00\x01\x86\xa0", &[b'x'; 100_000][..]].concat()),
            frame(8, b""),
            b"\x03\x00\x01 the end in the middle".to_vec(),
        ]
        .concat();
        for piece in [1, 7, 1000, usize::MAX] {
            assert!(sieved(&stream, piece).await == stream, "in pieces of {piece}");
        }
    }

    /// A text under a name.
    fn entry(name: &str, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).expect("short").to_be_bytes();
        [&[u8::try_from(name.len()).expect("short")], name.as_bytes(), b"S", &size, &vec![b'x'; length][..]]
            .concat()
    }

    #[tokio::test]
    async fn what_the_broker_added_beyond_a_frame_is_taken_off_again() {
        let (note, death) = (entry("note", 130_000), entry("x-death", 2000));
        let count = entry("x-delivery-count", 10);
        let came = header(&[&death[..], &note, &count].concat());
        assert!(came.len() > FRAME_MAX);
        let fits = header(&[&note[..], &count].concat());
        let after = frame(3, b"body");
        for piece in [1000, usize::MAX] {
            let out = sieved(&[&came[..], &after, &fits].concat(), piece).await;
            assert!(out == [header(&note), after.clone(), fits.clone()].concat());
            let out = sieved(&[header(&entry("note", 140_000)), after.clone()].concat(), piece).await;
            assert!(String::from_utf8_lossy(&out).contains("larger than a frame") && out.ends_with(&after));
        }
        // A broker that takes larger frames says so first.
        let tune = frame(METHOD, b"\x00\x0a\x00\x1e\x07\xff\x00\x08\x00\x00\x00\x3c");
        let stream = [&tune[..], &came].concat();
        assert!(sieved(&stream, usize::MAX).await == stream);
    }

    #[tokio::test]
    async fn names_that_are_not_utf_8_get_question_marks() {
        let good = frame(METHOD, b"\x00\x3c\x00\x3c\x01t\0\0\0\0\0\0\0\x01\0\x01e\x03k.?");
        let bad = frame(METHOD, b"\x00\x3c\x00\x3c\x01t\0\0\0\0\0\0\0\x01\0\x01e\x03k.\xff");
        let stream = [bad, header(b"\x03a\xffbV"), header(b"\x01aF\x00\x00\x00\x03\x01\xc3V")].concat();
        let expected = [good, header(b"\x03a?bV"), header(b"\x01aF\x00\x00\x00\x03\x01?V")].concat();
        for piece in [1, usize::MAX] {
            assert_eq!(sieved(&stream, piece).await, expected);
        }
    }

    #[tokio::test]
    async fn properties_that_cannot_be_read_give_way_to_the_reason() {
        let after = frame(3, b"body");
        for (table, reason) in [
            ([b"\x01k", &nested(1000)[..]].concat(), "nested too deeply"),
            ([b"\x01k", &nested(20_000)[..]].concat(), "nested too deeply"),
            (b"\x01kS\xff\xff\xff\xff".to_vec(), "shorter than they say"),
            (b"\x01k?".to_vec(), "of a type that AMQP does not have"),
        ] {
            for piece in [1000, usize::MAX] {
                let out = sieved(&[header(&table), after.clone()].concat(), piece).await;
                let text = String::from_utf8_lossy(&out);
                assert!(text.contains("mq-unreadable") && text.contains(reason), "{text}");
                assert!(out.ends_with(&after) && out[HEAD..HEAD + 12] == header(&table)[HEAD..HEAD + 12]);
                let (rest, properties) =
                    lapin::protocol::basic::parse_properties(&out[HEAD + 12..]).expect("readable");
                assert_eq!(
                    (rest[0], properties.headers().as_ref().expect("headers").inner().len()),
                    (0xCE, 1)
                );
            }
        }
    }
}
