//! A connection's bytes with their deadlines: headers must arrive in time, and nothing may stand still between requests.
//!
//! Own rather than hyper's header timer, because that one also runs while a kept-alive connection rests, and so could not
//! be short without cutting off clients that pool connections. While a handler runs, no deadline of this file does.
//! A request that arrives in one piece, as nearly all do, arms no timer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Set while a handler works on a request of the connection: shared with the service that runs handlers.
pub type Busy = Arc<AtomicBool>;

/// A stream that fails when its peer lets a deadline pass.
pub struct DeadlineStream {
    stream: TcpStream,
    busy: Busy,
    header_timeout: Duration,
    idle_timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// When the headers being read must be complete; `None` when none are.
    headers_due: Option<Instant>,
    idle_due: Instant,
}

impl DeadlineStream {
    pub fn new(stream: TcpStream, busy: Busy, header_timeout: Duration, idle_timeout: Duration) -> Self {
        let now = Instant::now();
        // A fresh connection must say something soon: it has not yet earned the patience a used one gets.
        let timer = Box::pin(sleep(header_timeout));
        Self { stream, busy, header_timeout, idle_timeout, timer, headers_due: Some(now + header_timeout), idle_due: now + idle_timeout }
    }

    /// Something moved: what is being read, if anything, is a header unless a handler runs.
    fn moved(&mut self, read: bool) {
        if self.busy.load(Relaxed) {
            self.headers_due = None;
            return;
        }
        let now = Instant::now();
        self.idle_due = now + self.idle_timeout;
        if read && self.headers_due.is_none() {
            self.headers_due = Some(now + self.header_timeout);
        } else if !read {
            self.headers_due = None;
        }
    }

    /// Called when there is nothing to read or no room to write: ready when a deadline has passed.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.busy.load(Relaxed) {
            self.headers_due = None;
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
                this.moved(false);
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
                this.moved(false);
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

    async fn pair(header_ms: u64, idle_ms: u64) -> (TcpStream, DeadlineStream, Busy) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let busy = Busy::default();
        let (stream, _) = listener.accept().await.unwrap();
        let (header, idle) = (Duration::from_millis(header_ms), Duration::from_millis(idle_ms));
        (client, DeadlineStream::new(stream, Arc::clone(&busy), header, idle), busy)
    }

    #[tokio::test]
    async fn a_header_that_trickles_is_cut_off() {
        let (mut client, mut server, _busy) = pair(200, 60_000).await;
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
        let (mut client, mut server, _busy) = pair(100, 500).await;
        client.write_all(b"request").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 7);
        server.write_all(b"answer").await.unwrap();
        let rested = Instant::now();
        assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(rested.elapsed() >= Duration::from_millis(400));
    }

    #[tokio::test]
    async fn a_handler_may_take_its_time() {
        let (mut client, mut server, busy) = pair(50, 50).await;
        busy.store(true, Relaxed);
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            client.write_all(b"y").await.unwrap();
        });
        let mut buffer = [0; 8];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 1);
        late.await.unwrap();
    }
}
