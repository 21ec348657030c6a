//! The file `STORE`: what a directory is, written once when it is created, checked before anything else is touched.

use std::path::Path;

use crate::error::{Result, StorageError};
use crate::io::{Io, OpenMode, Site};
use crate::layout;

const TITLE: &str = "onelog store";
/// More than any version of the file needs.
const BYTES_MAX: usize = 4096;

/// What `STORE` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFile {
    /// Random; keys the hashes of this store.
    pub id: [u8; 16],
    pub created_ms: i64,
    pub segment_bytes: u64,
}

impl StoreFile {
    fn render(&self) -> String {
        let id: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = format!(
            "{TITLE}\nformat {}\nid {id}\ncreated_ms {}\nsegment_bytes {}\n",
            layout::FORMAT_VERSION,
            self.created_ms,
            self.segment_bytes
        );
        format!("{body}crc {:08x}\n", crc32fast::hash(body.as_bytes()))
    }

    /// Reads the file of `dir`; `None` when there is none. A newer format is refused before its other lines are looked at.
    pub fn read(io: &dyn Io, dir: &Path) -> Result<Option<Self>> {
        let path = layout::store_file(dir);
        let file = match io.open(Site::StoreRead, &path, OpenMode::Read) {
            Ok(file) => file,
            Err(StorageError::Io { kind: std::io::ErrorKind::NotFound, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut buffer = vec![0; BYTES_MAX];
        let len = file.read_at(Site::StoreRead, &mut buffer, 0)?;
        buffer.truncate(len);
        Self::parse(&buffer, dir).map(Some)
    }

    fn parse(bytes: &[u8], dir: &Path) -> Result<Self> {
        let not_a_store = |what: &str| StorageError::NotAStore { dir: dir.to_owned(), what: what.to_owned() };
        let text = std::str::from_utf8(bytes).map_err(|_| not_a_store("its STORE file is not text"))?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        if !text.starts_with(TITLE) {
            return Err(not_a_store("its STORE file does not begin as one"));
        }
        let format: u32 =
            field("format").and_then(|value| value.parse().ok()).ok_or_else(|| not_a_store("its STORE file names no format"))?;
        if format > layout::FORMAT_VERSION {
            return Err(StorageError::FormatTooNew { dir: dir.to_owned(), found: format, known: layout::FORMAT_VERSION });
        }
        let body = text.find("crc ").and_then(|at| text.get(..at)).unwrap_or_default();
        let crc = field("crc").and_then(|value| u32::from_str_radix(value, 16).ok());
        if crc != Some(crc32fast::hash(body.as_bytes())) {
            return Err(not_a_store("its STORE file is damaged (checksum)"));
        }
        let parsed = || {
            let id = u128::from_str_radix(field("id")?, 16).ok()?.to_be_bytes();
            Some(Self { id, created_ms: field("created_ms")?.parse().ok()?, segment_bytes: field("segment_bytes")?.parse().ok()? })
        };
        parsed().ok_or_else(|| not_a_store("its STORE file misses a line"))
    }

    /// Creates the file: complete and durable under its name, or not there.
    pub fn create(&self, io: &dyn Io, dir: &Path) -> Result<()> {
        let new = layout::store_file_new(dir);
        let file = io.open(Site::StoreWrite, &new, OpenMode::CreateOrWrite)?;
        let text = self.render();
        file.set_len(Site::StoreWrite, 0)?;
        file.write_at(Site::StoreWrite, &[text.as_bytes()], 0)?;
        file.sync(Site::StoreSync)?;
        io.rename(Site::StoreRename, &new, &layout::store_file(dir))?;
        io.sync_dir(Site::DirSync, dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_file_reads_back_and_any_flipped_bit_is_refused() {
        let store = StoreFile { id: [7; 16], created_ms: 5, segment_bytes: 4 << 20 };
        let text = store.render().into_bytes();
        assert_eq!(StoreFile::parse(&text, Path::new("d")).unwrap(), store);
        for bit in 0..(text.len() - 1) * 8 {
            let mut bytes = text.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = StoreFile::parse(&bytes, Path::new("d"));
            assert!(read.is_err() || read.unwrap() == store, "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_named_as_such() {
        let text = b"onelog store\nformat 2\nwhatever comes then\n";
        assert!(matches!(StoreFile::parse(text, Path::new("d")), Err(StorageError::FormatTooNew { found: 2, known: 1, .. })));
    }
}
