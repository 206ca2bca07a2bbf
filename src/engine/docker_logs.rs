//! A container's output as lines: pieces put together again, times taken off, length bounded.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use jiff::Timestamp;

use super::docker_connection::Connection;
use super::docker_error::translate;
use super::{ContainerId, EngineError, LogLine, LogOptions};

/// What is asked, for messages.
pub(super) const VERB: &str = "read the logs of";
/// Longest line that is kept, in bytes; the rest of a longer one is dropped and marked.
const LINE_LIMIT: usize = 64 * 1024;
const CUT_MARK: &str = " [cut]";

/// Streams the lines, oldest first, until the end or, when following, until the container ends.
pub(super) fn lines(
    connection: &Connection,
    id: &ContainerId,
    options: &LogOptions,
    terminal: bool,
) -> BoxStream<'static, Result<LogLine, EngineError>> {
    let asked = LogsOptions {
        follow: options.follow,
        stdout: true,
        stderr: true,
        since: options.since.map(whole_seconds).unwrap_or_default(),
        until: 0,
        timestamps: true,
        tail: options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
    };
    let since = options.since;
    let (endpoint, name) = (connection.endpoint.clone(), id.0.clone());
    let mut assembly = Assembly::default();
    let pieces = connection.docker.logs(&id.0, Some(asked)).map(Some).chain(stream::iter([None]));
    let lines = pieces.flat_map(move |piece| {
        let lines = match piece {
            Some(Ok(output)) => assembly.add(output, terminal).into_iter().map(Ok).collect(),
            Some(Err(error)) => vec![Err(translate(&endpoint, VERB, &name, &error))],
            None => assembly.rest().into_iter().map(Ok).collect(),
        };
        stream::iter(lines)
    });
    // The engine counts whole seconds.
    let wanted = move |line: &Result<LogLine, EngineError>| match line {
        Ok(LogLine { at: Some(at), .. }) => since.is_none_or(|since| *at >= since),
        _ => true,
    };
    lines.filter(move |line| futures::future::ready(wanted(line))).boxed()
}

fn whole_seconds(time: Timestamp) -> i32 {
    i32::try_from(time.as_second()).unwrap_or(i32::MAX)
}

/// Lines under way, one per stream. Engines cut long lines into pieces of 16 KiB and put a time before each.
#[derive(Default)]
struct Assembly {
    stdout: Option<Partial>,
    stderr: Option<Partial>,
}

struct Partial {
    at: Option<Timestamp>,
    text: Vec<u8>,
    cut: bool,
}

impl Assembly {
    fn add(&mut self, output: LogOutput, terminal: bool) -> Vec<LogLine> {
        let stderr = matches!(output, LogOutput::StdErr { .. });
        let bytes = output.into_bytes();
        let place = if stderr { &mut self.stderr } else { &mut self.stdout };
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (at, text) = split_time(piece);
            let partial = place.get_or_insert_with(|| Partial { at, text: Vec::new(), cut: false });
            let (text, complete) = match text.strip_suffix(b"\n") {
                Some(text) => (if terminal { text.strip_suffix(b"\r").unwrap_or(text) } else { text }, true),
                None => (text, false),
            };
            partial.push(text);
            if complete {
                lines.extend(place.take().map(|partial| partial.finish(stderr)));
            }
        }
        lines
    }

    fn rest(&mut self) -> Vec<LogLine> {
        let stdout = self.stdout.take().map(|partial| partial.finish(false));
        stdout.into_iter().chain(self.stderr.take().map(|partial| partial.finish(true))).collect()
    }
}

impl Partial {
    fn push(&mut self, text: &[u8]) {
        let room = LINE_LIMIT.saturating_sub(self.text.len());
        self.cut |= text.len() > room;
        self.text.extend_from_slice(&text[..text.len().min(room)]);
    }

    fn finish(self, stderr: bool) -> LogLine {
        let mut text = String::from_utf8_lossy(&self.text).into_owned();
        if self.cut {
            text.push_str(CUT_MARK);
        }
        LogLine { at: self.at, stderr, text }
    }
}

fn split_time(piece: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let parsed = piece.iter().take(40).position(|byte| *byte == b' ').and_then(|space| {
        let time = std::str::from_utf8(&piece[..space]).ok()?.parse::<Timestamp>().ok()?;
        Some((time, &piece[space + 1..]))
    });
    match parsed {
        Some((time, text)) => (Some(time), text),
        None => (None, piece),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn out(text: &str) -> LogOutput {
        LogOutput::StdOut { message: Bytes::copy_from_slice(text.as_bytes()) }
    }

    fn err(text: &str) -> LogOutput {
        LogOutput::StdErr { message: Bytes::copy_from_slice(text.as_bytes()) }
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_line_has_its_time_and_stream() {
        let mut assembly = Assembly::default();
        let lines = assembly.add(err("2026-11-22T10:00:00.123456789Z model  loaded\n"), false);
        assert_eq!(
            lines,
            [LogLine {
                at: Some("2026-11-22T10:00:00.123456789Z".parse().unwrap()),
                stderr: true,
                text: "model  loaded".to_owned(),
            }]
        );
        assert_eq!(texts(&assembly.add(out("no time here\n"), false)), ["no time here"]);
    }

    #[test]
    fn pieces_of_one_line_are_joined_while_the_other_stream_speaks() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.add(out("2026-11-22T10:00:00Z one "), false), []);
        assert_eq!(texts(&assembly.add(err("2026-11-22T10:00:00Z aside\n"), false)), ["aside"]);
        let lines = assembly.add(out("2026-11-22T10:00:01Z line\n"), false);
        assert_eq!(texts(&lines), ["one line"]);
        assert_eq!(lines[0].at.unwrap().to_string(), "2026-11-22T10:00:00Z");
    }

    #[test]
    fn a_line_without_an_end_comes_at_the_end() {
        let mut assembly = Assembly::default();
        assembly.add(out("2026-11-22T10:00:00Z half"), false);
        assert_eq!(texts(&assembly.rest()), ["half"]);
    }

    #[test]
    fn an_endless_line_is_cut_and_says_so() {
        let mut assembly = Assembly::default();
        for _ in 0..100 {
            assert_eq!(assembly.add(out(&"x".repeat(16 * 1024)), false), []);
        }
        let lines = assembly.add(out("end\n"), false);
        assert_eq!(lines[0].text.len(), LINE_LIMIT + CUT_MARK.len());
        assert!(lines[0].text.ends_with(CUT_MARK));
        assert_eq!(texts(&assembly.add(out("next\n"), false)), ["next"]);
    }

    #[test]
    fn a_terminal_ends_lines_its_own_way() {
        let mut assembly = Assembly::default();
        let output = LogOutput::Console { message: Bytes::from_static(b"2026-11-22T10:00:00Z hello\r\n") };
        assert_eq!(texts(&assembly.add(output, true)), ["hello"]);
    }
}
