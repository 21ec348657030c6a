//! Kafka's variable-length integers: zigzag, then seven bits to a byte, low bits first.
//!
//! Owns the reading of untrusted bytes for [`super`]: [`Input`] never hands out more than it holds and never allocates.
//! Integers that overflow are refused; padded ones (more bytes than needed) are accepted, as every Kafka reader does.

/// Bytes the longest integer takes (64 bits at seven to a byte).
pub const VARINT_BYTES_MAX: usize = 10;

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Bytes that [`put`] writes for `value`, from 1 to [`VARINT_BYTES_MAX`].
#[must_use]
pub const fn len(value: i64) -> usize {
    let bits = u64::BITS - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Appends `value`.
#[inline]
pub fn put(out: &mut Vec<u8>, value: i64) {
    let mut integers = Integers::default();
    integers.put(value);
    out.extend_from_slice(integers.bytes());
}

/// A few integers in a row, encoded here first: one append for all of them instead of one for each byte.
#[derive(Default)]
pub struct Integers {
    bytes: [u8; INTEGERS_BYTES_MAX],
    len: usize,
}

/// Room for three integers of any size.
const INTEGERS_BYTES_MAX: usize = 32;

impl Integers {
    /// Adds `value`. A 32-bit value has the same bytes whether Kafka calls it varint or varlong. There is room for three of any size.
    #[inline]
    pub fn put(&mut self, value: i64) {
        let mut rest = zigzag(value);
        while rest >= 0x80 {
            self.byte((rest as u8) | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    #[inline]
    pub fn byte(&mut self, byte: u8) {
        debug_assert!(self.len < INTEGERS_BYTES_MAX, "no room for another integer");
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Bytes from outside, read from the front. `None` means: they end too early, or are not what was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next `len` bytes; nothing is taken when there are fewer.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn varlong(&mut self) -> Option<i64> {
        let mut value = 0_u64;
        for at in 0..VARINT_BYTES_MAX as u32 {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * at);
            if shifted >> (7 * at) != bits {
                return None;
            }
            value |= shifted;
            if byte < 0x80 {
                return Some(unzigzag(value));
            }
        }
        None
    }

    pub fn varint(&mut self) -> Option<i32> {
        i32::try_from(self.varlong()?).ok()
    }

    /// A count or length: an integer that must not be negative.
    pub fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    /// A length and that many bytes. The outer `None` is an error, the inner one Kafka's null (length -1).
    pub fn nullable(&mut self) -> Option<Option<&'a [u8]>> {
        match self.varint()? {
            -1 => Some(None),
            len => Some(Some(self.take(usize::try_from(len).ok()?)?)),
        }
    }
}
