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
        let mut share = Share(None);
        self.grow(&mut share, bytes).await?;
        Ok(share)
    }

    /// Makes `share` large enough for a body of `bytes`: for one that did not say how long it would be.
    pub async fn grow(&self, share: &mut Share, bytes: usize) -> Result<(), Problem> {
        let wanted = if bytes <= FREE_BYTES { 0 } else { (bytes * COPIES).div_ceil(UNIT_BYTES).min(self.total) };
        let held = share.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX);
        if missing == 0 {
            return Ok(());
        }
        match tokio::time::timeout(self.wait, Arc::clone(&self.units).acquire_many_owned(missing)).await {
            Ok(Ok(more)) => match &mut share.0 {
                Some(permit) => permit.merge(more),
                none => *none = Some(more),
            },
            _ => {
                let detail = "too many large bodies are being read; nothing was stored";
                return Err(Problem::new(Code::Overloaded, detail).retry_after(RETRY_AFTER_MS));
            }
        }
        Ok(())
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

    #[tokio::test]
    async fn a_share_grows_by_what_it_lacks() {
        let budget = Budget::new(1 << 20, Duration::from_millis(10));
        let mut growing = budget.share(FREE_BYTES).await.unwrap();
        let other = budget.share(256 << 10).await.unwrap();
        budget.grow(&mut growing, 128 << 10).await.unwrap();
        budget.grow(&mut growing, 256 << 10).await.unwrap();
        assert_eq!(budget.grow(&mut growing, 257 << 10).await.unwrap_err().code(), Code::Overloaded, "the other half is taken");
        drop(other);
        budget.grow(&mut growing, 512 << 10).await.unwrap();
        assert!(budget.share(100 << 10).await.is_err(), "all of it is taken");
        drop(growing);
        assert!(budget.share(512 << 10).await.is_ok());
    }
}
