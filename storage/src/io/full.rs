//! Whole reads and writes over calls that may do less than they were asked to, or be interrupted.
//!
//! Owns the two loops. The real disk and the simulated one hand in their single calls, so what the simulation tries is what
//! runs. Never retries anything but EINTR and the rest of a short call.

use std::io::{self, ErrorKind, IoSlice};

use smallvec::SmallVec;

/// Linux takes at most this many parts in one `pwritev` (`UIO_MAXIOV`).
const PARTS_MAX: usize = 1024;
/// Parts a commit usually has; more go to the heap.
const PARTS_INLINE: usize = 16;

/// One call each, as the operating system answers it.
pub(super) trait Calls {
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    fn pwritev(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize>;
}

/// Fills `buf` as far as the file goes; returns how far that was.
pub(super) fn read_full(calls: &impl Calls, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match calls.pread(rest, at.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes all parts, in one `pwritev` when the system takes them all.
pub(super) fn write_full(calls: &impl Calls, parts: &[&[u8]], mut at: u64) -> io::Result<()> {
    let mut slices: SmallVec<[IoSlice<'_>; PARTS_INLINE]> =
        parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let batch = rest.get(..PARTS_MAX).unwrap_or(rest);
        match calls.pwritev(batch, at) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(bytes) => {
                at = at.saturating_add(bytes as u64);
                IoSlice::advance_slices(&mut rest, bytes);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
