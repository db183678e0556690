//! Repairs frames from the broker before `lapin` reads them.
//!
//! RabbitMQ passes on a publisher's bytes unchanged. `lapin` 4.12 reads nested tables recursively, so that a header of
//! five kilobytes overflows the stack of its thread and takes the process down; and it gives up the connection over a
//! name that is not UTF-8, again and again, since the message is redelivered. Either would stop every worker of a
//! queue. Here, bytes that are not UTF-8 become question marks, and properties that are nested too deeply or malformed
//! are replaced by one header with the reason: the worker dead-letters such a message.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::DropGuard;

use super::greeting::check_greeting;
use super::properties::{mend_header, mend_method, tuned, unreadable, without_traces};

/// The size of a frame's head: type, channel, length.
const HEAD: usize = 7;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// How much is read at once; the buffer grows for a larger header.
const CHUNK: usize = 64 * 1024;
/// A larger header frame passes unchecked.
const LARGEST: usize = 1024 * 1024;

/// A stream of frames whose headers are checked before they are passed on.
#[derive(Debug)]
pub(super) struct FrameFilter<S> {
    inner: S,
    /// Set once the first bytes were checked.
    is_greeted: bool,
    buffer: Vec<u8>,
    /// The range of the buffer that has not been passed on yet.
    start: usize,
    end: usize,
    /// How many bytes may be passed on unchanged.
    passes: usize,
    /// `lapin` gives up the connection over a larger frame.
    frame_max: usize,
    /// Signals, when dropped, that the stream has ended.
    _ends: DropGuard,
}

impl<S> FrameFilter<S> {
    /// Wraps a stream. `frame_max` is the largest frame that `lapin` accepts; 0 means no limit.
    pub(super) fn new(inner: S, frame_max: u32, ends: DropGuard) -> Self {
        let frame_max = usize::try_from(frame_max).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
        Self {
            inner,
            is_greeted: false,
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            passes: 0,
            frame_max,
            _ends: ends,
        }
    }

    /// Checks the next frame, if enough of it has arrived.
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
                    self.frame_max = self.frame_max.min(most);
                }
                mend_method(payload);
                None
            }
            _ => match mend_header(payload) {
                Ok(()) if whole <= self.frame_max => None,
                Ok(()) => {
                    let smaller = without_traces(payload);
                    let fits = smaller.len() + HEAD < self.frame_max;
                    Some(if fits {
                        smaller
                    } else {
                        unreadable(payload, "the properties are larger than a frame")
                    })
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

    /// Makes room for the next read, at least half a chunk, so that a large frame is read in few pieces.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < self.end + CHUNK / 2 {
            self.buffer.resize(self.end + CHUNK, 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameFilter<S> {
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
            if !std::mem::replace(&mut this.is_greeted, true)
                && let Some(check_greeting) = check_greeting(&this.buffer[..read])
            {
                return Poll::Ready(Err(check_greeting));
            }
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

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameFilter<S> {
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

#[cfg(test)]
mod tests {
    use futures_util::io::AsyncReadExt;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::connection::amqp::address::FRAME_MAX;

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

    /// Data that is read in pieces of this size.
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
        sieved_below(FRAME_MAX, stream, piece).await
    }

    async fn sieved_below(frame_max: u32, stream: &[u8], piece: usize) -> Vec<u8> {
        let (mut out, ends) = (Vec::new(), CancellationToken::new().drop_guard());
        let mut frame_filter = FrameFilter {
            is_greeted: true,
            ..FrameFilter::new(Pieces(stream.to_vec(), piece), frame_max, ends)
        };
        frame_filter.read_to_end(&mut out).await.expect("it is read");
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

    /// An entry of a header table: a text of this length.
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
        assert!(came.len() > FRAME_MAX as usize);
        let fits = header(&[&note[..], &count].concat());
        let after = frame(3, b"body");
        for piece in [1000, usize::MAX] {
            let out = sieved(&[&came[..], &after, &fits].concat(), piece).await;
            assert!(out == [header(&note), after.clone(), fits.clone()].concat());
            let out = sieved(&[header(&entry("note", 140_000)), after.clone()].concat(), piece).await;
            assert!(String::from_utf8_lossy(&out).contains("larger than a frame") && out.ends_with(&after));
        }
        // Larger frames pass if both sides allow them: the smaller of the two limits counts.
        let tune = frame(METHOD, b"\x00\x0a\x00\x1e\x07\xff\x00\x08\x00\x00\x00\x3c");
        let stream = [&tune[..], &came].concat();
        let mended = [&tune[..], &header(&note)].concat();
        for (asked, expected) in [(0, &stream), (1 << 20, &stream), (FRAME_MAX, &mended)] {
            assert!(sieved_below(asked, &stream, usize::MAX).await == *expected, "{asked}");
        }
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
            (b"\x01kS\xff\xff\xff\xff".to_vec(), "shorter than their declared length"),
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
