//! The deterministic workloads of `tests/data/workload.py`.

use std::process::Command;

use serde::Deserialize;

use crate::support::data_file;

/// A record to publish.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    pub topic: String,
    pub key: String,
    pub headers: serde_json::Value,
    pub value: String,
}

/// What the generator makes of `name` for `count`.
pub fn lines(name: &str, count: u32) -> Vec<Line> {
    let output = Command::new("python3").arg(data_file("workload.py")).args([name, &count.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
