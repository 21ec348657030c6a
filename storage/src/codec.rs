//! The bytes of small values: little-endian numbers of the log, and the versioned bincode of index values and events.
//!
//! Nothing outside this file names bincode: it is no longer developed, and one file must be enough to replace it.
//! Reading never makes room for more than a multiple of the bytes there are, and for lists that claim to be longer a mebibyte.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Result, StorageError};

/// First byte of every value written by [`encode`].
const VALUE_VERSION: u8 = 1;
/// Largest value [`decode`] reads, bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A version byte, then `value`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut out = vec![VALUE_VERSION];
    bincode::serde::encode_into_std_write(value, &mut out, bincode::config::standard())
        .map_err(|error| StorageError::Invalid(format!("value cannot be encoded: {error}")))?;
    Ok(out)
}

/// The value of bytes written by [`encode`]; all bytes must be used.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let bad = |why: String| StorageError::Invalid(format!("stored value cannot be read: {why}"));
    let Some((&VALUE_VERSION, rest)) = bytes.split_first() else {
        return Err(bad(format!("version byte {:?}, expected {VALUE_VERSION}", bytes.first())));
    };
    // A number of 16 bytes may be written as one.
    let read = match rest.len().saturating_mul(16) {
        0..KIB => decode_within::<T, KIB>(rest),
        KIB..KIB_16 => decode_within::<T, KIB_16>(rest),
        KIB_16..KIB_256 => decode_within::<T, KIB_256>(rest),
        KIB_256..MIB_4 => decode_within::<T, MIB_4>(rest),
        _ => decode_within::<T, VALUE_BYTES_MAX>(rest),
    };
    let (value, used) = read.map_err(|error| bad(error.to_string()))?;
    if used == rest.len() { Ok(value) } else { Err(bad(format!("{} bytes left over", rest.len() - used))) }
}

const KIB: usize = 1024;
const KIB_16: usize = 16 * KIB;
const KIB_256: usize = 256 * KIB;
const MIB_4: usize = 4 * 1024 * KIB;

/// bincode makes room for a text as long as it claims to be, up to a limit that must be a constant. So there are several, and a
/// short value has a low one.
fn decode_within<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> std::result::Result<(T, usize), bincode::error::DecodeError> {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<LIMIT>())
}

/// Reads little-endian numbers off the front of a slice. `None` once bytes are missing.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_round_trips_and_other_bytes_are_refused() {
        let value = (7u32, "seven".to_owned(), vec![1i64, -1]);
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<(u32, String, Vec<i64>)>(&bytes).unwrap(), value);
        assert!(decode::<(u32, String, Vec<i64>)>(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode::<(u32, String, Vec<i64>)>(&[bytes.clone(), vec![0]].concat()).is_err());
        assert!(decode::<u32>(&[]).is_err());
        assert!(decode::<u32>(&[9, 1]).is_err());
    }

    #[test]
    fn a_lying_length_does_not_allocate() {
        // A vector that claims 2^62 elements in three bytes.
        assert!(decode::<Vec<u64>>(&[VALUE_VERSION, 253, 0, 0, 0, 0, 0, 0, 0, 64]).is_err());
        // A text that claims 16 MiB in six bytes is refused for its claim, before there is room for it.
        let refused = decode::<String>(&[VALUE_VERSION, 252, 0, 0, 0, 1, b'a']).unwrap_err().to_string();
        assert!(refused.contains("LimitExceeded"), "{refused}");
    }

    #[test]
    fn values_of_any_size_round_trip() {
        for len in [0, 1, 62, 63, 64, 65, 1023, 1025, 20_000, 300_000, 5_000_000] {
            let value = (vec![u128::MAX; len / 16], vec![1_u128; len / 16], "x".repeat(len));
            assert!(decode::<(Vec<u128>, Vec<u128>, String)>(&encode(&value).unwrap()).unwrap() == value, "{len}");
        }
    }
}
