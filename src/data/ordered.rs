//! Work on all cores with the results in the order of the input, in bounded memory; knows nothing of data.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Pieces that may be under way for each thread: one in work, one waiting, two done and waiting for their turn.
const PIECES_A_THREAD: usize = 4;

/// Why the work ended early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped<E> {
    /// One of the three steps failed.
    Failed(E),
    /// A thread panicked on a piece.
    Panicked,
}

/// What a process needs beside its threads: the largest known tokenizers among it.
const BASE_BYTES: u64 = 768 << 20;
/// What a thread needs at most: its pieces, and its memory of words.
const THREAD_BYTES: u64 = 48 << 20;
/// Where a container finds its limit of memory, in the two versions of control groups.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Threads that this machine, or this container, has for us: all cores, but no more than fit into the container's memory.
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let limit = LIMITS.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
    within(cores, limit)
}

fn within(cores: usize, limit: Option<u64>) -> usize {
    let fitting = limit.map(|limit| limit.saturating_sub(BASE_BYTES) / THREAD_BYTES);
    fitting.map_or(cores, |fitting| cores.min(usize::try_from(fitting).unwrap_or(cores)).max(1))
}

/// Takes pieces from `produce` until it gives none, hands them to `work` on many threads, and gives what comes out to
/// `consume` on this thread, in the order in which the pieces were produced. The first error ends it.
pub(crate) fn ordered<T: Send, R: Send, E: Send>(
    threads: usize,
    mut produce: impl FnMut() -> Result<Option<T>, E> + Send,
    work: impl Fn(T) -> Result<R, E> + Sync,
    mut consume: impl FnMut(R) -> Result<(), E>,
) -> Result<(), Stopped<E>> {
    let threads = threads.max(1);
    let pieces = threads * PIECES_A_THREAD;
    let (ticket_giver, tickets) = sync_channel::<()>(pieces);
    for () in std::iter::repeat_n((), pieces) {
        let _ = ticket_giver.send(());
    }
    let (jobs_in, jobs) = sync_channel(pieces);
    let jobs = Mutex::new(jobs);
    let (results_in, results) = sync_channel(pieces);
    std::thread::scope(|scope| {
        let failures = results_in.clone();
        scope.spawn(move || produce_all(&tickets, &jobs_in, &failures, &mut produce));
        for _ in 0..threads {
            let (jobs, results_in, work) = (&jobs, results_in.clone(), &work);
            scope.spawn(move || {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, piece)) = job else { return };
                    let done = catch_unwind(AssertUnwindSafe(|| work(piece))).map_or(Err(Stopped::Panicked), |done| done.map_err(Stopped::Failed));
                    if results_in.send((number, done)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results_in);
        // The channels end with this closure, and with them every thread that waits for one.
        let (ticket_giver, results) = (ticket_giver, results);
        let mut waiting = BTreeMap::new();
        let mut next = 0u64;
        for (number, done) in &results {
            waiting.insert(number, done);
            while let Some(done) = waiting.remove(&next) {
                next += 1;
                consume(done?).map_err(Stopped::Failed)?;
                let _ = ticket_giver.send(());
            }
        }
        Ok(())
    })
}

type Done<R, E> = (u64, Result<R, Stopped<E>>);

fn produce_all<T, R, E>(
    tickets: &Receiver<()>,
    jobs: &SyncSender<(u64, T)>,
    failures: &SyncSender<Done<R, E>>,
    produce: &mut impl FnMut() -> Result<Option<T>, E>,
) {
    for number in 0.. {
        if tickets.recv().is_err() {
            return;
        }
        let produced = catch_unwind(AssertUnwindSafe(&mut *produce)).map_or(Err(Stopped::Panicked), |made| made.map_err(Stopped::Failed));
        match produced {
            Ok(None) => return,
            Ok(Some(piece)) => {
                if jobs.send((number, piece)).is_err() {
                    return;
                }
            }
            Err(stopped) => {
                let _ = failures.send((number, Err(stopped)));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(threads: usize, fail: [Option<u64>; 3], panic_at: Option<u64>) -> (Vec<u64>, Result<(), Stopped<&'static str>>) {
        let mut next = 0;
        let mut seen = Vec::new();
        let result = ordered(
            threads,
            || {
                next += 1;
                if fail[0] == Some(next) { Err("produce") } else { Ok((next <= 500).then_some(next)) }
            },
            |piece| {
                assert!(panic_at != Some(piece), "a panic that is asked for");
                if fail[1] == Some(piece) { Err("work") } else { Ok(piece * 2) }
            },
            |done| {
                if fail[2] == Some(done / 2) {
                    return Err("consume");
                }
                seen.push(done / 2);
                Ok(())
            },
        );
        (seen, result)
    }

    #[test]
    fn threads_fit_into_the_containers_memory() {
        // Version 1 of control groups says a number beyond any memory where there is no limit.
        let limits = [None, Some(1 << 63), Some(2 << 30), Some(512 << 20), Some(0)];
        assert_eq!(limits.map(|limit| within(96, limit)), [96, 96, 26, 1, 1]);
        assert_eq!(limits.map(|limit| within(2, limit)), [2, 2, 2, 1, 1]);
    }

    #[test]
    fn results_come_in_the_order_of_the_input_with_any_number_of_threads() {
        for threads in [0, 1, 2, 7] {
            assert_eq!(run(threads, [None; 3], None), ((1..=500).collect(), Ok(())));
        }
    }

    #[test]
    fn the_first_error_ends_it_after_everything_before_it() {
        for (step, name) in [(0, "produce"), (1, "work"), (2, "consume")] {
            let mut fail = [None; 3];
            fail[step] = Some(77);
            assert_eq!(run(3, fail, None), ((1..77).collect(), Err(Stopped::Failed(name))));
        }
    }

    #[test]
    fn a_panic_is_an_end_and_not_a_hang() {
        assert_eq!(run(2, [None; 3], Some(9)), ((1..9).collect(), Err(Stopped::Panicked)));
    }
}
