//! One flipped bit anywhere.

use std::path::Path;

use onelog_storage::error::StorageError;
use onelog_storage::layout;
use onelog_storage::types::Position;

use crate::world::{DIR, Seen, World, bytes_of, look, open, read_one};

/// Flips of an ordinary run.
const FLIPS: u64 = 600;
const SECTOR: usize = 512;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |value| value.parse().unwrap())
}

/// Steele, Lea and Flood's splitmix64.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Flips `count` bits of `file`, each in a copy of its own; `written`: only in sectors that are not all zeros. How often each
/// thing was seen.
fn flip(world: &World, file: &Path, written: bool, count: u64) -> [u64; 3] {
    let original = bytes_of(&world.disk, file);
    let sectors = original.chunks(SECTOR).enumerate().filter(|(_, sector)| sector.iter().any(|byte| *byte != 0) == written);
    let sectors: Vec<usize> = sectors.map(|(number, _)| number * SECTOR).collect();
    let first = number("ONELOG_FLIP_SEED", 0);
    let mut seen = [0; 3];
    for seed in first..first + count {
        let at = usize::try_from(mixed(seed) % (sectors.len() * SECTOR * 8) as u64).unwrap();
        let bit = (sectors[at / 8 / SECTOR] * 8 + at % (SECTOR * 8)).min(original.len() * 8 - 1);
        let damaged = world.copy();
        damaged.damage(file, &[original[bit / 8] ^ 1 << (bit % 8)], (bit / 8) as u64);
        let what = format!("bit {} of byte {} of {} (seed {seed})", bit % 8, bit / 8, file.display());
        seen[look(&damaged, &world.contents, &what) as usize] += 1;
    }
    seen
}

#[test]
fn any_flipped_bit_gives_the_original_or_an_error_with_its_place() {
    let count = number("ONELOG_FLIPS", FLIPS);
    let (small, share) = (World::new(60, 200, Some(30)), count / 6);
    let segment = layout::segment_file(Path::new(DIR), Position(0));
    let log = flip(&small, &segment, true, 2 * share);
    let bare = small.without_index();
    let log_alone = flip(&bare, &segment, true, 2 * share);
    let behind_the_end = flip(&bare, &segment, false, share / 10);
    let index = layout::redb_file(Path::new(DIR));
    let index = flip(&small, &index, true, 2 * share - share / 10);
    let store = flip(&small, &layout::store_file(Path::new(DIR)), true, count.div_ceil(50));
    eprintln!(
        "[refused, some errors, whole]: log {log:?}, log alone {log_alone:?}, blocks {behind_the_end:?}, index {index:?}, STORE {store:?}"
    );
    // A flip that nothing notices can only have met padding.
    assert!(log[Seen::Refused as usize] > 0 && log[Seen::SomeErrors as usize] > 0, "{log:?}");
    assert!(log_alone[Seen::Refused as usize] > log_alone[Seen::Whole as usize], "{log_alone:?}");
    assert_eq!(behind_the_end[Seen::SomeErrors as usize], 0, "{behind_the_end:?}");
}

#[test]
fn only_what_stands_in_the_damaged_commit_is_unreadable() {
    let world = World::new(60, 200, Some(59));
    let segment = layout::segment_file(Path::new(DIR), Position(0));
    let bytes = bytes_of(&world.disk, &segment);
    for offset in [0usize, 7, 30, 58] {
        let needle = &world.contents.partitions[&0][offset][..16];
        let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        let damaged = world.copy();
        damaged.damage(&segment, &[bytes[at] ^ 0x20], at as u64);
        let (store, _) = open(&damaged).unwrap();
        for (number, values) in &world.contents.partitions {
            for (here, value) in values.iter().enumerate() {
                // Behind the partition's number stands the round, which shares a commit.
                let is_lost = value[1..] == world.contents.partitions[&0][offset][1..];
                match read_one(&store, *number, here) {
                    Ok(found) => assert!(!is_lost && found[0] == *value, "{number}/{here} with {offset} damaged"),
                    Err(StorageError::Damage { position, .. }) => {
                        let near = (position.0..position.0 + 4_096).contains(&(at as u64));
                        assert!(is_lost && near, "{number}/{here} with {offset} damaged at {at}: {position}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(store.stats().damaged_reads > 0 && store.stats().damage.is_some());
    }
}
