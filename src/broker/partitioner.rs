//! Which partition a key belongs to: murmur2, as every Kafka client computes it, so that all writers of a key agree.
//!
//! Owns one pure function; a record without a key is placed by the caller. The result must never change: records of a key
//! written before and after would end up in different partitions.
//!
//! Source: `org.apache.kafka.common.utils.Utils.murmur2` and Kafka's default partitioner.

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;
/// Kafka's `toPositive`: clears the sign bit, so that the remainder is a partition.
const POSITIVE: u32 = 0x7fff_ffff;

/// The partition of `key` among `partitions`, 0 when there are none.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & POSITIVE).checked_rem(partitions).unwrap_or(0)
}

fn murmur2(key: &[u8]) -> u32 {
    let (words, rest) = key.as_chunks::<4>();
    // Kafka's lengths are Java ints: the cast is theirs.
    let mut hash = SEED ^ key.len() as u32;
    for word in words {
        hash = hash.wrapping_mul(MULTIPLIER) ^ scramble(u32::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(MULTIPLIER);
    hash ^ hash >> 15
}

const fn scramble(word: u32) -> u32 {
    let word = word.wrapping_mul(MULTIPLIER);
    (word ^ word >> SHIFT).wrapping_mul(MULTIPLIER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Kafka's `UtilsTest.testMurmur2`: every length of the rest, 0 to 3.
    #[test]
    fn hashes_are_those_of_the_java_client() {
        let cases: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, expected) in cases {
            assert_eq!(murmur2(key).cast_signed(), expected, "{}", String::from_utf8_lossy(key));
        }
    }

    /// Placements seen in a real system, three partitions each.
    #[test]
    fn session_ids_land_where_their_producers_put_them() {
        let cases = [
            ("5814067a-2bbd-4cbd-96d0-d31ed9d56ba2", 1),
            ("e27b59bc-f20f-483f-8435-f5ae86d30c70", 2),
            ("75694c74-bec0-4b66-bf13-294ce5dab153", 2),
            ("9386f37e-f650-4707-ac78-ed37e62399e6", 0),
            ("f07a948d-4c28-4b32-94a6-e106c24c6da9", 1),
        ];
        for (key, expected) in cases {
            assert_eq!(partition_for_key(key.as_bytes(), 3), expected, "{key}");
        }
    }

    #[test]
    fn one_partition_takes_all_and_none_is_no_crash() {
        assert_eq!(partition_for_key(b"key", 1), 0);
        assert_eq!(partition_for_key(b"key", 0), 0);
    }
}
