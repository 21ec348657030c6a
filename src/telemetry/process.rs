//! What the operating system says about this process, for metrics. Linux only; elsewhere nothing is known.

/// Memory, processor time and open files of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessStats {
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub open_files: u64,
}

/// Linux reports pages and ticks in these units on every machine onelog runs on.
const PAGE_BYTES: u64 = 4096;
const TICKS_PER_SECOND: f64 = 100.0;

/// `None` where the system does not tell.
#[must_use]
pub fn read() -> Option<ProcessStats> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may hold spaces: fields are counted from its end. 12 and 13 are user and system time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let user: u32 = fields.nth(11)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    let open_files = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(ProcessStats {
        resident_bytes: pages * PAGE_BYTES,
        cpu_seconds: (f64::from(user) + f64::from(system)) / TICKS_PER_SECOND,
        open_files,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_running_process_has_memory_and_files() {
        let stats = super::read().unwrap();
        assert!(stats.resident_bytes > 100_000 && stats.open_files > 2, "{stats:?}");
    }
}
