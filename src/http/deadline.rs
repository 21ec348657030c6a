//! A connection's bytes with their deadlines: headers must arrive in time, and nothing may stand still between requests.
//!
//! Own rather than hyper's header timer, because that one also runs while a kept-alive connection rests, and so could not
//! be short without cutting off clients that pool connections. While a handler runs, no deadline of this file does.
//! There is one timer per connection; requests only move it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Whether a handler works on a request of the connection: shared between its stream and the service that runs handlers.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<AtomicU8>);

/// The peer's turn: it may send, or rest.
const PEER: u8 = 0;
/// Ours: a handler runs.
const OURS: u8 = 1;
/// A handler has ended since the stream last looked: the peer's time begins anew.
const PASSED: u8 = 2;

impl Turn {
    /// Ours until the value is dropped, also when the request is given up.
    pub fn take(self) -> OurTurn {
        self.0.store(OURS, Relaxed);
        OurTurn(self)
    }

    fn look(&self) -> u8 {
        let turn = self.0.load(Relaxed);
        if turn == PASSED {
            self.0.store(PEER, Relaxed);
        }
        turn
    }
}

/// No deadline runs while this is held.
pub struct OurTurn(Turn);

impl Drop for OurTurn {
    fn drop(&mut self) {
        self.0.0.store(PASSED, Relaxed);
    }
}

/// A stream that fails when its peer lets a deadline pass.
pub struct DeadlineStream {
    stream: TcpStream,
    turn: Turn,
    header_timeout: Duration,
    idle_timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// When the headers being read must be complete; `None` when none are.
    headers_due: Option<Instant>,
    idle_due: Instant,
}

impl DeadlineStream {
    pub fn new(stream: TcpStream, turn: Turn, header_timeout: Duration, idle_timeout: Duration) -> Self {
        let now = Instant::now();
        // A fresh connection must say something soon: it has not yet earned the patience a used one gets.
        let timer = Box::pin(sleep(header_timeout));
        let (headers_due, idle_due) = (Some(now + header_timeout), now + idle_timeout);
        Self { stream, turn, header_timeout, idle_timeout, timer, headers_due, idle_due }
    }

    /// Whether it is the peer's turn, its time begun anew if it only just became so.
    fn peers_turn(&mut self) -> bool {
        match self.turn.look() {
            OURS => {
                self.headers_due = None;
                return false;
            }
            PASSED => {
                self.headers_due = None;
                self.idle_due = Instant::now() + self.idle_timeout;
            }
            _ => {}
        }
        true
    }

    /// Something was read or written. What is read on the peer's turn is headers, until a handler takes over.
    fn moved(&mut self, read: bool) {
        if !self.peers_turn() {
            return;
        }
        let now = Instant::now();
        self.idle_due = now + self.idle_timeout;
        if !read {
            self.headers_due = None;
        } else if self.headers_due.is_none() {
            self.headers_due = Some(now + self.header_timeout);
        }
    }

    /// hyper, once told that there is nothing to read, asks again only when woken: the timer must be set from here.
    fn written(&mut self, context: &mut Context<'_>) {
        self.moved(false);
        // Just moved, it cannot be due.
        let _ = self.poll_deadline(context);
    }

    /// Called when there is nothing to read or no room to write: ready when a deadline has passed.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if !self.peers_turn() {
            return Poll::Pending;
        }
        let due = self.headers_due.map_or(self.idle_due, |headers| headers.min(self.idle_due));
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        self.timer.as_mut().poll(context).map(|()| io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for DeadlineStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                if buffer.filled().len() > before {
                    this.moved(true);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => this.poll_deadline(context).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl AsyncWrite for DeadlineStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write(context, bytes) {
            Poll::Ready(Ok(written)) => {
                this.written(context);
                Poll::Ready(Ok(written))
            }
            Poll::Pending => this.poll_deadline(context).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write_vectored(context, bytes) {
            Poll::Ready(Ok(written)) => {
                this.written(context);
                Poll::Ready(Ok(written))
            }
            Poll::Pending => this.poll_deadline(context).map(Err),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair(header_ms: u64, idle_ms: u64) -> (TcpStream, DeadlineStream, Turn) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let turn = Turn::default();
        let (stream, _) = listener.accept().await.unwrap();
        let (header, idle) = (Duration::from_millis(header_ms), Duration::from_millis(idle_ms));
        (client, DeadlineStream::new(stream, turn.clone(), header, idle), turn)
    }

    #[tokio::test]
    async fn a_header_that_trickles_is_cut_off() {
        let (mut client, mut server, _turn) = pair(200, 60_000).await;
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let mut sink = Vec::new();
        assert_eq!(server.read_to_end(&mut sink).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(!sink.is_empty());
        drop(server);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_rests_between_requests_outlives_the_header_timeout_but_not_the_idle_one() {
        let (mut client, mut server, _turn) = pair(100, 500).await;
        client.write_all(b"request").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 7);
        server.write_all(b"answer").await.unwrap();
        let rested = Instant::now();
        assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(rested.elapsed() >= Duration::from_millis(400));
    }

    #[tokio::test]
    async fn a_handler_may_take_its_time_and_the_peer_has_all_of_its_own_afterwards() {
        let (mut client, mut server, turn) = pair(50, 400).await;
        let ours = turn.take();
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(800)).await;
            client.write_all(b"y").await.unwrap();
            client
        });
        let mut buffer = [0; 8];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 1);
        drop(ours);
        let _client = late.await.unwrap();
        let rested = Instant::now();
        assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(rested.elapsed() >= Duration::from_millis(300));
    }
}
