//! One HTTP/1.1 connection for the generator: writes a prepared request, reads one answer. As little work as it can be, so
//! that the generator takes little of the machine it measures.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A server's address as it is dialled and as it is written in `Host`.
#[derive(Debug, Clone)]
pub struct Target {
    pub host: String,
}

impl Target {
    /// From `http://HOST:PORT`, as [`Client::server`](crate::client::Client::server) gives it.
    pub fn new(server: &str) -> Self {
        let host = server.strip_prefix("http://").unwrap_or(server);
        let host = host.split('/').next().unwrap_or(host);
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Self { host: if has_port { host.to_owned() } else { format!("{host}:80") } }
    }
}

/// A connection that is opened when it is needed and opened again after a failure.
pub struct Connection {
    target: Target,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// An answer; the body is in the connection's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    body: (usize, usize),
}

/// How an answer's end is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunked,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Length,
    keep_alive: bool,
}

impl Connection {
    pub fn new(target: Target) -> Self {
        Self { target, stream: None, buffer: Vec::with_capacity(16 * 1024) }
    }

    pub fn host(&self) -> &str {
        &self.target.host
    }

    /// One request, one answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer, String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.target).await?,
        };
        stream.write_all(request).await.map_err(|why| format!("cannot send: {why}"))?;
        let (answer, keep_alive) = self.read(&mut stream).await?;
        if keep_alive {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    pub fn body(&self, answer: Answer) -> &[u8] {
        &self.buffer[answer.body.0..answer.body.1]
    }

    async fn read(&mut self, stream: &mut TcpStream) -> Result<(Answer, bool), String> {
        self.buffer.clear();
        let head_end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err("the answer's headers do not end".to_owned());
            }
            self.fill(stream).await?;
        };
        let head = parse_head(&self.buffer[..head_end])?;
        let end = match head.length {
            Length::Bytes(bytes) => self.read_bytes(stream, head_end, bytes).await?,
            Length::Chunked => self.read_chunks(stream, head_end).await?,
        };
        Ok((Answer { status: head.status, body: (head_end, end) }, head.keep_alive))
    }

    async fn read_bytes(&mut self, stream: &mut TcpStream, from: usize, bytes: usize) -> Result<usize, String> {
        let end = from + bytes;
        self.buffer.reserve(end.saturating_sub(self.buffer.len()));
        while self.buffer.len() < end {
            self.fill(stream).await?;
        }
        Ok(end)
    }

    /// Joins the chunks where they lie; answers with the end of the joined body.
    async fn read_chunks(&mut self, stream: &mut TcpStream, from: usize) -> Result<usize, String> {
        let (mut body_end, mut at) = (from, from);
        loop {
            let line_end = self.find_line(stream, at).await?;
            let digits = self.buffer[at..line_end].split(|byte| *byte == b';').next().unwrap_or_default();
            let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
            let size = size.filter(|size| *size <= BODY_BYTES_MAX).ok_or("the answer has a malformed chunk")?;
            let chunk = line_end + 2;
            while self.buffer.len() < chunk + size + 2 {
                self.fill(stream).await?;
            }
            if size == 0 {
                return Ok(body_end);
            }
            self.buffer.copy_within(chunk..chunk + size, body_end);
            body_end += size;
            at = chunk + size + 2;
            if body_end - from > BODY_BYTES_MAX {
                return Err("the answer is too long".to_owned());
            }
        }
    }

    async fn find_line(&mut self, stream: &mut TcpStream, from: usize) -> Result<usize, String> {
        loop {
            if let Some(end) = find(&self.buffer[from..], b"\r\n") {
                return Ok(from + end);
            }
            self.fill(stream).await?;
        }
    }

    async fn fill(&mut self, stream: &mut TcpStream) -> Result<(), String> {
        match stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err("the server closed the connection before the answer was complete".to_owned()),
            Ok(_) => Ok(()),
            Err(why) => Err(format!("cannot read the answer: {why}")),
        }
    }
}

/// Opens a connection that sends small requests at once.
pub async fn connect(target: &Target) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(&target.host).await.map_err(|why| format!("cannot connect to {}: {why}", target.host))?;
    stream.set_nodelay(true).map_err(|why| why.to_string())?;
    Ok(stream)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn parse_head(head: &[u8]) -> Result<Head, String> {
    let text = std::str::from_utf8(head).map_err(|_| "the answer's headers are not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
    let status = status.ok_or("the answer is not HTTP/1")?;
    let (mut length, mut keep_alive) = (Length::Bytes(0), true);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let bytes = value.parse().ok().filter(|bytes| *bytes <= BODY_BYTES_MAX);
            length = Length::Bytes(bytes.ok_or("the answer has a malformed or too large content-length")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            length = Length::Chunked;
        } else if name.eq_ignore_ascii_case("connection") {
            keep_alive = !value.eq_ignore_ascii_case("close");
        }
    }
    Ok(Head { status, length, keep_alive })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answered(raw: &'static [u8]) -> Result<(u16, Vec<u8>), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 3];
            stream.read_exact(&mut request).await.unwrap();
            // In pieces, because that is how answers come.
            for piece in raw.chunks(7) {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut connection = Connection::new(Target::new(&server));
        let answer = connection.exchange(b"GET").await?;
        Ok((answer.status, connection.body(answer).to_vec()))
    }

    #[tokio::test]
    async fn answers_with_a_length_with_chunks_and_without_body() {
        assert_eq!(answered(b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nhello").await.unwrap(), (202, b"hello".to_vec()));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n";
        assert_eq!(answered(chunked).await.unwrap(), (200, b"hello world".to_vec()));
        assert_eq!(answered(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap(), (204, Vec::new()));
    }

    #[tokio::test]
    async fn answers_that_are_cut_or_no_http_are_errors() {
        assert!(answered(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello").await.unwrap_err().contains("closed"));
        assert!(answered(b"SSH-2.0-x\r\n\r\n").await.unwrap_err().contains("not HTTP"));
        assert!(answered(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").await.is_err());
        assert!(answered(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").await.is_err());
    }

    #[test]
    fn targets() {
        assert_eq!(Target::new("http://127.0.0.1:7070").host, "127.0.0.1:7070");
        assert_eq!(Target::new("http://localhost").host, "localhost:80");
    }
}
