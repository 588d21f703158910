//! One usual turn with a process that runs a function: its request for an event, the event, its answer, the acknowledgement.
//!
//! This is the Lambda Runtime API between one answer and the next event, which a process waits for, so nothing of Python stands in it. Only
//! the usual turn is known here: requests of the expected beginnings on one connection, and silence on everything else that is watched.
//! Whatever is not usual is handed back with all that was received, and `streamcore.functions._process` goes on from there.
#![expect(
    clippy::disallowed_methods,
    reason = "what waits for a process needs a clock; the engine's time is not touched"
)]

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::os::fd::{FromRawFd, RawFd};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// How long the process may take to ask for its event. What takes longer is not usual, and has limits of its own.
const ASK: Duration = Duration::from_millis(5);
/// Bytes of a usual answer's body; longer ones are as long as they may be where they are read otherwise.
const BODY_MAX: usize = 64 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";
/// An answer with one of these needs a closer look: an error, or a client that waits before it sends the body.
const UNUSUAL: [&[u8]; 2] = [b"\r\nlambda-runtime-function-error-type:", b"\r\nexpect:"];

/// How far a turn came.
struct Turn {
    /// Bytes of the event's head and body that were sent; None if the process has not asked for it.
    sent: Option<usize>,
    /// What was received beyond the request for the event. After a whole turn, the answer's body.
    received: Vec<u8>,
    whole: bool,
}

struct Wire {
    stream: ManuallyDrop<TcpStream>,
    watched: [libc::pollfd; 4],
    until: Instant,
}

impl Wire {
    /// Waits until the connection is ready for `events`. Returns whether it is, and nothing else has happened.
    fn ready(&mut self, events: libc::c_short) -> bool {
        self.watched[0].events = events;
        let left = self.until.saturating_duration_since(Instant::now());
        // Rounded up, so that a limit that is not over is never taken for one that is.
        let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        let count = libc::nfds_t::try_from(self.watched.len()).unwrap_or(0);
        #[expect(
            unsafe_code,
            reason = "std has no call that waits for several descriptors"
        )]
        // SAFETY: the array is borrowed for the call and has `count` elements.
        let happened = unsafe { libc::poll(self.watched.as_mut_ptr(), count, millis) };
        happened == 1 && self.watched[0].revents & !events == 0 && self.watched[0].revents != 0
    }

    /// Receives what there is. Returns whether something came.
    fn receive(&mut self, into: &mut Vec<u8>) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(count) if count > 0 => {
                into.extend_from_slice(&chunk[..count]);
                true
            }
            _ => false,
        }
    }

    /// Sends both parts; returns how many bytes went out, all unless something else happened.
    fn send(&mut self, head: &[u8], body: &[u8]) -> usize {
        let mut sent = 0;
        while sent < head.len() + body.len() {
            let parts = [
                IoSlice::new(head.get(sent..).unwrap_or_default()),
                IoSlice::new(&body[sent.saturating_sub(head.len())..]),
            ];
            match self.stream.write_vectored(&parts) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.ready(libc::POLLOUT) {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        sent
    }
}

/// Returns where the body of the expected answer begins and ends; None while that cannot be said or if it is not usual.
fn body_of(received: &[u8], expected: &[u8]) -> Option<(usize, usize)> {
    let start = find(received, HEAD_END)? + HEAD_END.len();
    let head = received[..start].to_ascii_lowercase();
    if !received.starts_with(expected) || UNUSUAL.iter().any(|name| find(&head, name).is_some()) {
        return None;
    }
    let name = b"\r\ncontent-length:";
    let value = &head[find(&head, name)? + name.len()..];
    let digits = str::from_utf8(&value[..find(value, b"\r\n")?]).ok()?;
    let length: usize = digits.trim().parse().ok()?;
    (length <= BODY_MAX).then_some((start, start + length))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn turn(
    wire: &mut Wire,
    asked: bool,
    limit: Duration,
    (head, event): (&[u8], &[u8]),
    (next, answer, accepted): (&[u8], &[u8], &[u8]),
) -> Turn {
    let mut turn = Turn {
        sent: None,
        received: Vec::new(),
        whole: false,
    };
    if !asked {
        wire.until = Instant::now() + ASK;
        if !wire.ready(libc::POLLIN) || !wire.receive(&mut turn.received) {
            return turn;
        }
        let end = turn.received.len() - HEAD_END.len().min(turn.received.len());
        if !turn.received.starts_with(next) || find(&turn.received, HEAD_END) != Some(end) {
            return turn;
        }
        turn.received.clear();
    }
    wire.until = Instant::now() + limit;
    let sent = wire.send(head, event);
    turn.sent = Some(sent);
    if sent < head.len() + event.len() {
        return turn;
    }
    while wire.ready(libc::POLLIN) && wire.receive(&mut turn.received) {
        match body_of(&turn.received, answer) {
            Some((start, end)) if end == turn.received.len() => {
                wire.send(accepted, &[]);
                turn.received.drain(..start);
                turn.whole = true;
                break;
            }
            Some((_, end)) if end > turn.received.len() => {}
            None if find(&turn.received, HEAD_END).is_none() => {}
            _ => break,
        }
    }
    turn
}

/// See the stub.
#[pyfunction]
#[pyo3(signature = (descriptors, asked, limit_ms, event, texts))]
pub(crate) fn exchange<'py>(
    py: Python<'py>,
    descriptors: [RawFd; 4],
    asked: bool,
    limit_ms: u32,
    event: (&[u8], &[u8]),
    texts: (&[u8], &[u8], &[u8]),
) -> (Option<usize>, Bound<'py, PyBytes>, bool) {
    let [connection, ..] = descriptors;
    #[expect(unsafe_code, reason = "a Python socket is known by its descriptor")]
    // SAFETY: the caller keeps the descriptor open during the call, and it is not closed here.
    let stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(connection) });
    let done = py.detach(|| {
        let mut wire = Wire {
            stream,
            watched: descriptors.map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            }),
            until: Instant::now(),
        };
        turn(
            &mut wire,
            asked,
            Duration::from_millis(limit_ms.into()),
            event,
            texts,
        )
    });
    (done.sent, PyBytes::new(py, &done.received), done.whole)
}
