//! As much HTTP/1.1 as the tests need: one connection, one request at a time, every failure of the connection an `io::Error`.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// A watchdog: longer than anything here takes, so that a test fails instead of hanging.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// One connection.
pub struct Client {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    /// The code of a problem, after checking that it is a whole one.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None }
    }

    pub fn send(&mut self, method: &str, path: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(BufReader::new(connect(&self.address)?)),
        };
        let result = exchange(stream, method, path, content_type, body);
        if result.as_ref().is_ok_and(|answer| answer.header("connection") != "close") {
            return result;
        }
        self.stream = None;
        result
    }
}

pub fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

fn exchange(stream: &mut BufReader<TcpStream>, method: &str, path: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    if !content_type.is_empty() {
        request += &format!("content-type: {content_type}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n", body.len());
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    stream.get_mut().write_all(&bytes)?;
    read_answer(stream)
}

/// Reads one answer whose length is told, or that ends with its connection.
pub fn read_answer(from: &mut impl BufRead) -> io::Result<Answer> {
    let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within an answer");
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let mut answer = Answer { status, headers: Vec::new(), body: Vec::new() };
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Err(broken());
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => answer.headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None if line.trim_end().is_empty() => break,
            None => return Err(broken()),
        }
    }
    assert_eq!(answer.header("transfer-encoding"), "", "answers here have a length");
    match answer.header("content-length").parse() {
        Ok(length) => {
            answer.body = vec![0; length];
            from.read_exact(&mut answer.body)?;
        }
        Err(_) if answer.status == 204 => {}
        Err(_) => drop(from.read_to_end(&mut answer.body)?),
    }
    Ok(answer)
}
