//! A sum over all pairs of a table, kept with every commit: a pair that is gone, or reached no more because a page above it
//! is damaged, is noticed by whoever reads the table whole. Checksums of single values cannot show that.
//!
//! The sum does not depend on the order of pairs, so a put or a delete changes it by what it puts and what it replaces.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::codec::Reader;

/// Count and sum of the pairs of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    count: u64,
    sum: u128,
}

impl Sum {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(key, value));
    }

    pub fn take(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(key, value));
    }

    pub fn encode(self) -> Vec<u8> {
        let mut out = [self.count.to_le_bytes().as_slice(), &self.sum.to_le_bytes()].concat();
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let mut read = Reader(body);
        let sum = Self { count: read.u64()?, sum: read.u128()? };
        (crc32fast::hash(body).to_le_bytes() == *crc && read.0.is_empty()).then_some(sum)
    }
}

/// Against accidents, not against anybody: no secret.
fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = SipHasher24::new();
    hasher.write_usize(key.len());
    hasher.write(key);
    hasher.write(value);
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_knows_pairs_whatever_their_order_and_any_flipped_bit_of_it_is_noticed() {
        let (mut one, mut other) = (Sum::default(), Sum::default());
        for number in 0..10u8 {
            one.add(&[number], b"v");
            other.add(&[9 - number], b"v");
        }
        assert_eq!(one, other);
        other.take(&[3], b"v");
        assert_ne!(one, other);
        other.add(&[3], b"v");
        let bytes = one.encode();
        assert_eq!(Sum::decode(&bytes), Some(other));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Sum::decode(&flipped), None, "bit {bit}");
        }
    }
}
