//! Token buckets by key, of bounded number: pure but for the clock.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// At most `per_second` a second on average, `burst` at once, for each key.
#[derive(Debug)]
pub(crate) struct Limiter<K> {
    per_second: f64,
    burst: f64,
    capacity: usize,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash + Clone> Limiter<K> {
    /// No bucket yet; at most `capacity` are kept, and one that is dropped starts full again.
    #[must_use]
    pub(crate) fn new(per_second: u32, burst: u32, capacity: usize) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), capacity: capacity.max(1), buckets: Mutex::default() }
    }

    /// Whether one more is allowed now.
    #[must_use]
    pub(crate) fn allow(&self, key: &K) -> bool {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.capacity && !buckets.contains_key(key) {
            self.make_room(&mut buckets, now);
        }
        let bucket = buckets.entry(key.clone()).or_insert(Bucket { left: self.burst, at: now });
        let left = self.refilled(*bucket, now);
        let allowed = left >= 1.0;
        *bucket = Bucket { left: if allowed { left - 1.0 } else { left }, at: now };
        allowed
    }

    fn refilled(&self, bucket: Bucket, now: Instant) -> f64 {
        (bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_second).min(self.burst)
    }

    fn make_room(&self, buckets: &mut HashMap<K, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| self.refilled(*bucket, now) < self.burst);
        if buckets.len() >= self.capacity
            && let Some(oldest) = buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(key, _)| key.clone())
        {
            buckets.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn allowed(limiter: &Limiter<&str>, key: &'static str, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.allow(&key)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_has_its_burst_then_its_rate_and_costs_no_other_key() {
        let limiter = Limiter::new(10, 20, 100);
        assert_eq!(allowed(&limiter, "a", 100), 20);
        assert_eq!(allowed(&limiter, "b", 100), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(allowed(&limiter, "a", 100), 10);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(allowed(&limiter, "a", 100), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_buckets_is_bounded() {
        let limiter = Limiter::new(1, 1, 10);
        for key in 0..1000 {
            assert!(limiter.allow(&key));
        }
        assert_eq!(limiter.buckets.lock().unwrap().len(), 10);
    }
}
