//! The memory that large request bodies may take together. Without it, many connections with a large body each would need
//! more than any machine has, while every single one keeps its limit.
//!
//! A share is as long-lived as the bytes it is for: whoever holds a slice of a body holds its share. Small bodies take none;
//! what they need is bounded by the number of connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Code, Problem};

/// Bodies up to this length are free.
const FREE_BYTES: usize = 64 * 1024;
/// A body that grows as it arrives may have a copy of itself for a moment.
const COPIES: usize = 2;
const UNIT_BYTES: usize = 1024;
const RETRY_AFTER_MS: u64 = 1_000;

/// What all bodies share.
#[derive(Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: usize,
    /// Longest wait for a share.
    wait: Duration,
}

/// A part of the budget; `None` for a small body.
#[derive(Debug)]
pub struct Share(Option<OwnedSemaphorePermit>);

impl Budget {
    #[must_use]
    pub fn new(bytes: usize, wait: Duration) -> Self {
        let total = (bytes / UNIT_BYTES).clamp(1, u32::MAX as usize);
        Self { units: Arc::new(Semaphore::new(total)), total, wait }
    }

    /// Room for a body of `bytes`, as soon as there is some. One body always fits, alone if it must be.
    pub async fn share(&self, bytes: usize) -> Result<Share, Problem> {
        if bytes <= FREE_BYTES {
            return Ok(Share(None));
        }
        let units = u32::try_from((bytes * COPIES).div_ceil(UNIT_BYTES).min(self.total)).unwrap_or(u32::MAX);
        match tokio::time::timeout(self.wait, Arc::clone(&self.units).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Share(Some(permit))),
            _ => {
                Err(Problem::new(Code::Overloaded, "too many large bodies are being read; nothing was stored").retry_after(RETRY_AFTER_MS))
            }
        }
    }
}

impl Share {
    /// The bytes, which keep the share until their last slice is gone.
    pub fn keep(self, bytes: Bytes) -> Bytes {
        match self.0 {
            None => bytes,
            Some(permit) => Bytes::from_owner(Held { bytes, _permit: permit }),
        }
    }
}

struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_share_is_given_back_with_the_last_slice() {
        let budget = Budget::new(1 << 20, Duration::from_millis(10));
        let body = budget.share(400 << 10).await.unwrap().keep(Bytes::from(vec![7; 400 << 10]));
        let slice = body.slice(1..2);
        drop(body);
        assert_eq!(budget.share(400 << 10).await.unwrap_err().code(), Code::Overloaded);
        assert!(budget.share(FREE_BYTES).await.is_ok(), "small ones pass");
        assert_eq!(slice, Bytes::from_static(&[7]));
        drop(slice);
        assert!(budget.share(usize::MAX / 4).await.is_ok(), "the largest passes alone");
    }
}
