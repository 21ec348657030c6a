//! Directories in a small form: of every file its length and the sectors that are not all zeros.
//!
//! `manifest` has a line `LENGTH NAME` for each file. `sectors` has, for each such sector: number of the file u16, number of the
//! sector u32, little-endian, then 512 bytes. What a log writes ahead are zeros, so little is left.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

/// `storage/tests/golden`, seen from a package.
pub fn golden(package: &str) -> PathBuf {
    let package = Path::new(package);
    let root = if package.ends_with("storage") { package.to_owned() } else { package.join("storage") };
    root.join("tests/golden")
}

/// Every directory that was kept: its name and place.
pub fn all(golden: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut found: Vec<(String, PathBuf)> = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path)).collect();
    found.sort();
    found
}

/// Names and bytes of all files below a directory.
pub fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push((path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

pub fn pack(dir: &Path, into: &Path) {
    let (mut manifest, mut sectors) = (String::new(), Vec::new());
    for (number, (name, bytes)) in files(dir).into_iter().filter(|(name, _)| name != "LOCK").enumerate() {
        writeln!(manifest, "{} {name}", bytes.len()).unwrap();
        for (at, sector) in bytes.chunks(SECTOR).enumerate().filter(|(_, sector)| sector.iter().any(|byte| *byte != 0)) {
            sectors.extend(u16::try_from(number).unwrap().to_le_bytes());
            sectors.extend(u32::try_from(at).unwrap().to_le_bytes());
            sectors.extend(sector);
            sectors.resize(sectors.len() + SECTOR - sector.len(), 0);
        }
    }
    fs::create_dir_all(into).unwrap();
    fs::write(into.join("manifest"), manifest).unwrap();
    fs::write(into.join("sectors"), sectors).unwrap();
}

/// The directory as it was, byte for byte.
pub fn unpack(from: &Path, into: &Path) {
    let manifest = fs::read_to_string(from.join("manifest")).unwrap();
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for line in manifest.lines() {
        let (length, name) = line.split_once(' ').unwrap();
        files.push((into.join(name), vec![0; length.parse().unwrap()]));
    }
    for packed in fs::read(from.join("sectors")).unwrap().chunks_exact(6 + SECTOR) {
        let (number, rest) = packed.split_first_chunk::<2>().unwrap();
        let (at, bytes) = rest.split_first_chunk::<4>().unwrap();
        let file = &mut files[usize::from(u16::from_le_bytes(*number))].1;
        let start = u32::from_le_bytes(*at) as usize * SECTOR;
        let end = file.len().min(start + SECTOR);
        file[start..end].copy_from_slice(&bytes[..end - start]);
    }
    for (path, bytes) in files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
