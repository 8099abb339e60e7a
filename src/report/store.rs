//! The newest report of each run, and the stream that tells the controller whose changed: memory only, bounded.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::message::{Progress, Report};

/// Reports that are kept when nobody says otherwise. The largest report is about 30 KiB, a usual one 2 KiB.
pub const CAPACITY: usize = 4096;

/// Between two triggers of a run whose numbers alone change.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);

/// Between two triggers of a run, whatever changed: a trainer cannot make the controller spin.
pub const URGENT_INTERVAL: Duration = Duration::from_secs(1);

/// Starts of one attempt that are remembered, so that a late post of an earlier one changes nothing.
const FORMER_STARTS: usize = 8;

/// A report and when it arrived, by the operator's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// What the trainer said.
    pub report: Report,
    /// When it arrived.
    pub at: Timestamp,
    /// When a report of this process last said anything new; since then it lives, but does not move.
    pub moved: Timestamp,
}

/// A run as the store names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunKey {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is the newest now.
    Newest,
    /// A newer one was there already.
    Stale,
}

/// The newest report of each run, by uid.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    earlier_due: Notify,
}

#[derive(Debug)]
struct Inner {
    capacity: usize,
    entries: HashMap<String, Entry>,
    due: BTreeSet<(Instant, String)>,
}

#[derive(Debug)]
struct Entry {
    key: RunKey,
    received: Received,
    heard: Instant,
    former: VecDeque<String>,
    triggered: Option<Instant>,
    due: Option<Instant>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Store {
    /// An empty store of at most `capacity` runs; past that the run that was silent longest is forgotten.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let inner = Inner { capacity: capacity.max(1), entries: HashMap::new(), due: BTreeSet::new() };
        Self { inner: Mutex::new(inner), earlier_due: Notify::new() }
    }

    /// The newest report of the run with this uid, if it speaks of this attempt.
    #[must_use]
    pub fn latest(&self, uid: &str, attempt: i64) -> Option<Received> {
        let inner = self.lock();
        inner.entries.get(uid).map(|entry| &entry.received).filter(|received| received.report.attempt == attempt).cloned()
    }

    /// Runs that have a report.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether no run has a report.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what is known of a run: it ended, or it is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Keeps `report` if it is the newest of its run. Posts are cumulative, so of one start only the highest sequence counts;
    /// another start of the same attempt replaces what was there, unless it was replaced itself before.
    pub fn put(&self, key: &RunKey, report: Report, at: Timestamp) -> Kept {
        let now = Instant::now();
        let mut inner = self.lock();
        let (urgent, former) = match inner.entries.get(&key.uid) {
            None => (true, VecDeque::new()),
            Some(entry) => match entry.succeed(&report) {
                None => return Kept::Stale,
                Some(former) => (is_urgent(&entry.received.report, &report), former),
            },
        };
        let old = inner.remove(&key.uid);
        let triggered = old.as_ref().and_then(|entry| entry.triggered);
        let report = match &old {
            Some(entry) => keep_times(&entry.received.report, report),
            None => report,
        };
        let still = old.as_ref().map(|entry| &entry.received).filter(|received| is_same_moment(&received.report, &report));
        let moved = still.map_or(at, |received| received.moved);
        let interval = if urgent { URGENT_INTERVAL } else { PROGRESS_INTERVAL };
        let wanted = triggered.map_or(now, |last| (last + interval).max(now));
        let due = old.and_then(|entry| entry.due).map_or(wanted, |due| due.min(wanted));
        inner.make_room();
        inner.due.insert((due, key.uid.clone()));
        let entry = Entry { key: key.clone(), received: Received { report, at, moved }, heard: now, former, triggered, due: Some(due) };
        inner.entries.insert(key.uid.clone(), entry);
        drop(inner);
        self.earlier_due.notify_one();
        Kept::Newest
    }

    /// (namespace, name) of each run whose report changed: at once (but at most once per `URGENT_INTERVAL`) when events,
    /// checkpoints or what it waits for changed, else once per `PROGRESS_INTERVAL`, and the last change is never lost.
    /// One reader only: two would share the triggers between them.
    pub fn triggers(self: Arc<Self>) -> impl Stream<Item = (String, String)> + Send + 'static {
        futures::stream::unfold(self, |store| async move {
            let run = store.next_due().await;
            Some((run, store))
        })
    }

    async fn next_due(&self) -> (String, String) {
        loop {
            let earliest = match self.lock().take_due(Instant::now()) {
                Ok(run) => return run,
                Err(earliest) => earliest,
            };
            let until_due = async {
                match earliest {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = until_due => {}
                () = self.earlier_due.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The former starts once `report` took the place of this one; `None` when it is older than this one.
    fn succeed(&self, report: &Report) -> Option<VecDeque<String>> {
        let current = &self.received.report;
        if report.attempt != current.attempt {
            return (report.attempt > current.attempt).then(VecDeque::new);
        }
        if report.start == current.start {
            return (report.sequence > current.sequence).then(|| self.former.clone());
        }
        if self.former.contains(&report.start) {
            return None;
        }
        let mut former = self.former.clone();
        former.push_back(current.start.clone());
        former.drain(..former.len().saturating_sub(FORMER_STARTS));
        Some(former)
    }
}

impl Inner {
    fn remove(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        if let Some(due) = entry.due {
            self.due.remove(&(due, uid.to_owned()));
        }
        Some(entry)
    }

    fn make_room(&mut self) {
        while self.entries.len() >= self.capacity {
            let Some(silent) = self.entries.values().min_by_key(|entry| entry.heard).map(|entry| entry.key.uid.clone()) else { return };
            self.remove(&silent);
        }
    }

    /// A run that is due; else when the first one will be.
    fn take_due(&mut self, now: Instant) -> Result<(String, String), Option<Instant>> {
        while let Some((at, uid)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, uid));
                return Err(Some(at));
            }
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.due = None;
                entry.triggered = Some(now);
                return Ok((entry.key.namespace.clone(), entry.key.name.clone()));
            }
        }
        Err(None)
    }
}

/// Whether the process stands where it stood: only the time that it says is left may differ.
fn is_same_moment(old: &Report, new: &Report) -> bool {
    let stand = |report: &Report| Report {
        sequence: 0,
        progress: Progress { estimated_remaining_seconds: None, ..report.progress.clone() },
        ..report.clone()
    };
    stand(old) == stand(new)
}

/// Whether more than numbers changed.
fn is_urgent(old: &Report, new: &Report) -> bool {
    let waits = |report: &Report| report.waiting_for.as_ref().map(|waiting| waiting.what.clone());
    let happened = |report: &Report| report.events.iter().map(|event| (event.type_, event.sent)).collect::<Vec<_>>();
    let saved = |report: &Report| report.checkpoints.iter().map(|checkpoint| (checkpoint.uri.clone(), checkpoint.step)).collect::<Vec<_>>();
    (old.attempt, &old.start) != (new.attempt, &new.start) || waits(old) != waits(new) || happened(old) != happened(new) || saved(old) != saved(new)
}

/// `new` with the times that were already known: a time after the arrival is cut to the arrival, and that must not move with each post.
fn keep_times(old: &Report, mut new: Report) -> Report {
    if (old.attempt, &old.start) != (new.attempt, &new.start) {
        return new;
    }
    for event in &mut new.events {
        if let Some(known) = old.events.iter().find(|known| (known.type_, known.sent) == (event.type_, event.sent)) {
            event.time = known.time;
        }
    }
    for checkpoint in &mut new.checkpoints {
        if let Some(known) = old.checkpoints.iter().find(|known| known.uri == checkpoint.uri && known.step == checkpoint.step) {
            checkpoint.time = known.time.min(checkpoint.time);
        }
    }
    new
}

#[cfg(test)]
mod tests;
