//! Lines of several files, in order, read on a thread of its own so that a slow terminal or pipe blocks nobody else.
//! Knows nothing of JSON. What is read ahead is bounded.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc::{self, Receiver, Sender};

/// Bytes of one line, line break included, at most: more than any topic takes as a record.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Lines of one handful. The channel holds handfuls so that its cost is shared by many lines.
const HANDFUL: usize = 256;
const HANDFUL_BYTES: usize = 256 * 1024;
const HANDFULS_AHEAD: usize = 4;

/// One line with the place it comes from.
#[derive(Debug, Clone)]
pub struct Line {
    /// Without its line break.
    pub bytes: Vec<u8>,
    /// Bytes read for it, line break and empty lines before it included.
    pub bytes_read: u64,
    pub place: Place,
}

/// Where a line stands, for messages.
#[derive(Debug, Clone)]
pub struct Place {
    pub file: Arc<str>,
    /// Counted from 1.
    pub number: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {}", self.file, self.number)
    }
}

type Handful = io::Result<Vec<Line>>;
type Input = BufReader<Box<dyn Read + Send>>;

/// The lines to publish.
pub struct Lines {
    from: Receiver<Handful>,
    waiting: std::vec::IntoIter<Line>,
    bytes_total: Option<u64>,
}

impl Lines {
    /// Files are opened before anything is read: a wrong name should not show after half of the work.
    pub fn open(files: &[PathBuf]) -> anyhow::Result<Self> {
        let files: Vec<&Path> = if files.is_empty() { vec![Path::new("-")] } else { files.iter().map(PathBuf::as_path).collect() };
        let mut inputs: Vec<(Arc<str>, Input)> = Vec::new();
        let mut bytes_total = Some(0);
        for path in files {
            if path.as_os_str() == "-" {
                inputs.push(("stdin".into(), buffered(io::stdin())));
                bytes_total = None;
                continue;
            }
            let name = path.display().to_string();
            let file = File::open(path).map_err(|why| anyhow::anyhow!("cannot read {name}: {why}"))?;
            bytes_total = bytes_total.zip(file.metadata().ok()).map(|(total, found)| total + found.len());
            inputs.push((name.into(), buffered(file)));
        }
        let (to, from) = mpsc::channel(HANDFULS_AHEAD);
        std::thread::Builder::new().name("read-lines".to_owned()).spawn(move || read_all(inputs, &to))?;
        Ok(Self { from, waiting: Vec::new().into_iter(), bytes_total })
    }

    /// Bytes of all files; `None` when stdin is among them.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// The next line; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.waiting.next() {
                return Ok(Some(line));
            }
            let Some(handful) = self.from.recv().await else { return Ok(None) };
            self.waiting = handful?.into_iter();
        }
    }
}

fn buffered(input: impl Read + Send + 'static) -> Input {
    BufReader::with_capacity(HANDFUL_BYTES, Box::new(input))
}

fn read_all(inputs: Vec<(Arc<str>, Input)>, to: &Sender<Handful>) {
    for (file, input) in inputs {
        if let Err(why) = read_one(&file, input, to) {
            // Nobody listens any more only when the program is ending.
            let _ = to.blocking_send(Err(io::Error::new(why.kind(), format!("cannot read {file}: {why}"))));
            return;
        }
    }
}

fn read_one(file: &Arc<str>, mut input: Input, to: &Sender<Handful>) -> io::Result<()> {
    let mut reader = OneFile { file: Arc::clone(file), number: 0 };
    loop {
        let (handful, ended) = reader.handful(&mut input)?;
        if !handful.is_empty() && to.blocking_send(Ok(handful)).is_err() {
            return Ok(());
        }
        if ended {
            return Ok(());
        }
    }
}

struct OneFile {
    file: Arc<str>,
    number: u64,
}

impl OneFile {
    /// At least one line if there is one; more only as long as they are there already, so that a line typed into a
    /// terminal goes out at once.
    fn handful(&mut self, input: &mut Input) -> io::Result<(Vec<Line>, bool)> {
        let (mut lines, mut bytes, mut skipped) = (Vec::new(), 0, 0);
        loop {
            let mut line = Vec::new();
            let read = Read::take(&mut *input, LINE_BYTES_MAX).read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                return Ok((lines, true));
            }
            self.number += 1;
            if read == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
                return Err(io::Error::other(format!("line {} is longer than {LINE_BYTES_MAX} bytes", self.number)));
            }
            line.pop_if(|last| *last == b'\n');
            skipped += read;
            if !line.trim_ascii().is_empty() {
                bytes += line.len();
                let place = Place { file: Arc::clone(&self.file), number: self.number };
                lines.push(Line { bytes: line, bytes_read: std::mem::take(&mut skipped), place });
            }
            // Without a whole line in the buffer, reading on might block.
            let might_block = !input.buffer().contains(&b'\n');
            if lines.len() >= HANDFUL || bytes >= HANDFUL_BYTES || (!lines.is_empty() && might_block) {
                return Ok((lines, false));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Vec<Line> {
        OneFile { file: "f".into(), number: 0 }.handful(&mut buffered(text.as_bytes())).unwrap().0
    }

    #[test]
    fn lines_keep_their_bytes_and_their_numbers() {
        let lines = read("a \n\n  \nb\r\nlast");
        let seen: Vec<_> = lines.iter().map(|line| (line.bytes.as_slice(), line.place.number, line.bytes_read)).collect();
        assert_eq!(seen, [(&b"a "[..], 1, 3), (b"b\r", 4, 7)], "the unfinished line is left for the next handful");
        assert_eq!(read("").len(), 0);
        assert_eq!(read("last")[0].bytes, b"last");
    }
}
