//! The tokio runtimes commands run on.

use tokio::runtime::{Builder, Runtime};

/// For a broker: one worker per core.
pub fn server() -> std::io::Result<Runtime> {
    threads(cores())
}

/// For a command that talks to one server: a single thread is plenty and starts at once.
pub fn client() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// With a given number of worker threads.
pub fn threads(count: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(count.max(1)).enable_all().build()
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
