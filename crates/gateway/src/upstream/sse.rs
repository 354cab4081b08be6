//! Server-sent events, decoded from chunks of any size (WHATWG HTML, section 9.2).

use std::collections::VecDeque;
use std::time::Duration;

/// One event block; fields that did not stand in it are absent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    pub(super) event: Option<String>,
    pub(super) id: Option<String>,
    pub(super) retry: Option<Duration>,
    pub(super) data: Vec<u8>,
}

/// An event has more bytes than its decoder allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SseTooLarge;

/// Splits a byte stream into events of at most `bytes_max` bytes each.
#[derive(Debug)]
pub(super) struct SseDecoder {
    bytes_max: usize,
    /// The start of a line whose end has not come yet.
    line: Vec<u8>,
    event: SseEvent,
    has_fields: bool,
    /// A carriage return ended the last line; a line feed right after it belongs to it.
    after_cr: bool,
    at_start: bool,
}

impl SseDecoder {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            event: SseEvent::default(),
            has_fields: false,
            after_cr: false,
            at_start: true,
        }
    }

    /// Reads `chunk` and appends the events that it completes to `out`.
    pub(super) fn push(
        &mut self,
        mut chunk: &[u8],
        out: &mut VecDeque<SseEvent>,
    ) -> Result<(), SseTooLarge> {
        while !chunk.is_empty() {
            if std::mem::take(&mut self.after_cr)
                && let Some(rest) = chunk.strip_prefix(b"\n")
            {
                chunk = rest;
                continue;
            }
            let Some(end) = chunk.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                self.line.extend_from_slice(chunk);
                return self.check();
            };
            let (head, rest) = chunk.split_at_checked(end).unwrap_or((chunk, &[]));
            self.after_cr = rest.first() == Some(&b'\r');
            chunk = rest.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                self.read_line(head, out);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(head);
                self.read_line(&line, out);
                line.clear();
                self.line = line;
            }
            self.check()?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SseTooLarge> {
        let held = self.line.len() + self.event.data.len();
        if held > self.bytes_max { Err(SseTooLarge) } else { Ok(()) }
    }

    fn read_line(&mut self, line: &[u8], out: &mut VecDeque<SseEvent>) {
        let bom = std::mem::take(&mut self.at_start);
        let line = if bom { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
        if line.is_empty() {
            if std::mem::take(&mut self.has_fields) {
                let mut event = std::mem::take(&mut self.event);
                event.data.pop_if(|last| *last == b'\n');
                out.push_back(event);
            }
            return;
        }
        let mut parts = line.splitn(2, |b| *b == b':');
        let field = parts.next().unwrap_or_default();
        let value = parts.next().unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        self.read_field(field, value);
    }

    fn read_field(&mut self, field: &[u8], value: &[u8]) {
        let text = || String::from_utf8_lossy(value).into_owned();
        match field {
            b"data" => {
                self.event.data.extend_from_slice(value);
                self.event.data.push(b'\n');
            }
            b"event" => self.event.event = Some(text()),
            b"id" if !value.contains(&0) => self.event.id = Some(text()),
            b"retry" => match text().parse() {
                Ok(ms) => self.event.retry = Some(Duration::from_millis(ms)),
                Err(_) => return,
            },
            // A comment (empty name) or an unknown field.
            _ => return,
        }
        self.has_fields = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<SseEvent> {
        let mut decoder = SseDecoder::new(1000);
        let mut out = VecDeque::new();
        for chunk in chunks {
            decoder.push(chunk, &mut out).unwrap();
        }
        out.into()
    }

    const STREAM: &[u8] = "\u{feff}: hi\n\nid: 1\ndata:\nretry: 5\r\n\r\nevent: message\r\
        data: {\"é\":\rdata:  1}\r\rdata: cut"
        .as_bytes();

    #[test]
    fn decodes_fields_and_line_ends() {
        let events = decode(&[STREAM]);
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].id.as_deref(), Some("1"));
        assert_eq!(events[0].retry, Some(Duration::from_millis(5)));
        assert_eq!(events[0].data, b"");
        assert_eq!(events[1].event.as_deref(), Some("message"));
        assert_eq!(events[1].data, "{\"é\":\n 1}".as_bytes());
    }

    #[test]
    fn chunk_borders_do_not_matter() {
        let whole = decode(&[STREAM]);
        for at in 0..STREAM.len() {
            assert_eq!(decode(&[&STREAM[..at], &STREAM[at..]]), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(decode(&bytes), whole);
    }

    #[test]
    fn large_events_are_refused() {
        let mut out = VecDeque::new();
        let mut decoder = SseDecoder::new(10);
        assert_eq!(decoder.push(b"data: 12345678901\n", &mut out), Err(SseTooLarge));
        let mut decoder = SseDecoder::new(10);
        assert_eq!(decoder.push(b"data: 123456789", &mut out), Err(SseTooLarge));
        let mut decoder = SseDecoder::new(10);
        assert_eq!(decoder.push(b"data: 12345\n\ndata: 12345\n\n", &mut out), Ok(()));
        assert_eq!(out.len(), 2);
    }
}
