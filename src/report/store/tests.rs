//! Merging and triggers, on a clock that the tests move.

use std::pin::Pin;

use futures::StreamExt;

use super::*;
use crate::api::status::EventType;
use crate::report::message::{Checkpoint, CheckpointKind, Event, Progress, WaitingFor};

fn key(name: &str) -> RunKey {
    RunKey { uid: format!("uid-{name}"), namespace: "team-a".to_owned(), name: name.to_owned() }
}

fn report(attempt: i64, start: &str, sequence: i64) -> Report {
    Report {
        attempt,
        start: start.to_owned(),
        sequence,
        waiting_for: None,
        progress: Progress { step: Some(sequence), ..Progress::default() },
        events: Vec::new(),
        checkpoints: Vec::new(),
    }
}

fn second(n: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + n).unwrap()
}

fn triggers(store: &Arc<Store>) -> Pin<Box<dyn Stream<Item = (String, String)> + Send>> {
    Box::pin(Arc::clone(store).triggers())
}

/// How long until the next trigger; `None` when there is none within a minute.
async fn wait(triggers: &mut Pin<Box<dyn Stream<Item = (String, String)> + Send>>) -> Option<(String, Duration)> {
    let from = Instant::now();
    let next = tokio::time::timeout(Duration::from_secs(60), triggers.next()).await.ok()??;
    assert_eq!(next.0, "team-a");
    Some((next.1, from.elapsed()))
}

/// What `wait` answers.
#[allow(clippy::unnecessary_wraps)] // compared with what may be `None`
fn seconds(name: &str, n: u64) -> Option<(String, Duration)> {
    Some((name.to_owned(), Duration::from_secs(n)))
}

/// Timers fire on whole milliseconds after their time, never before it.
fn rounded(waited: Option<(String, Duration)>) -> Option<(String, Duration)> {
    waited.map(|(name, time)| (name, Duration::from_secs((time + Duration::from_millis(5)).as_secs())))
}

#[test]
fn only_a_higher_sequence_of_the_same_start_is_newer() {
    let store = Store::default();
    assert_eq!(store.put(&key("r"), report(0, "a", 5), second(0)), Kept::Newest);
    assert_eq!(store.put(&key("r"), report(0, "a", 5), second(1)), Kept::Stale);
    assert_eq!(store.put(&key("r"), report(0, "a", 4), second(2)), Kept::Stale);
    assert_eq!(store.latest("uid-r", 0), Some(Received { report: report(0, "a", 5), at: second(0), moved: second(0) }));
    assert_eq!(store.put(&key("r"), report(0, "a", 6), second(3)), Kept::Newest);
    assert_eq!(store.latest("uid-r", 0), Some(Received { report: report(0, "a", 6), at: second(3), moved: second(3) }));
}

#[test]
fn a_new_start_replaces_and_the_one_it_replaced_is_never_heard_again() {
    let store = Store::default();
    store.put(&key("r"), report(0, "a", 50), second(0));
    assert_eq!(store.put(&key("r"), report(0, "b", 0), second(1)), Kept::Newest);
    assert_eq!(store.put(&key("r"), report(0, "a", 51), second(2)), Kept::Stale);
    assert_eq!(store.put(&key("r"), report(0, "b", 1), second(3)), Kept::Newest);
    assert_eq!(store.latest("uid-r", 0), Some(Received { report: report(0, "b", 1), at: second(3), moved: second(3) }));
}

#[test]
fn a_new_attempt_replaces_and_an_old_one_does_not() {
    let store = Store::default();
    store.put(&key("r"), report(1, "a", 50), second(0));
    assert_eq!(store.put(&key("r"), report(0, "z", 99), second(1)), Kept::Stale);
    assert_eq!(store.put(&key("r"), report(2, "a", 0), second(2)), Kept::Newest);
    assert_eq!(store.latest("uid-r", 1), None);
    assert_eq!(store.latest("uid-r", 2), Some(Received { report: report(2, "a", 0), at: second(2), moved: second(2) }));
}

#[test]
fn a_forgotten_run_leaves_nothing() {
    let store = Store::default();
    store.put(&key("r"), report(0, "a", 1), second(0));
    store.forget("uid-r");
    store.forget("uid-other");
    assert_eq!(store.latest("uid-r", 0), None);
    assert!(store.is_empty());
    assert!(store.lock().due.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_store_forgets_the_run_that_was_silent_longest() {
    let store = Store::new(2);
    for (name, sequence) in [("a", 0), ("b", 0), ("a", 1), ("c", 0)] {
        store.put(&key(name), report(0, "s", sequence), second(0));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let known = ["a", "b", "c"].map(|name| store.latest(&format!("uid-{name}"), 0).is_some());
    assert_eq!(known, [true, false, true]);
    assert_eq!((store.len(), store.lock().due.len()), (2, 2));
}

#[test]
fn a_time_that_was_cut_to_the_arrival_does_not_move_with_the_next_post() {
    let ahead = |arrival: Timestamp| Event { type_: EventType::TrainStarted, time: arrival, sent: second(9999) };
    let store = Store::default();
    store.put(&key("r"), Report { events: vec![ahead(second(1))], ..report(0, "a", 1) }, second(1));
    store.put(&key("r"), Report { events: vec![ahead(second(2))], ..report(0, "a", 2) }, second(2));
    assert_eq!(store.latest("uid-r", 0).unwrap().report.events, [ahead(second(1))]);
}

#[tokio::test(start_paused = true)]
async fn the_first_report_triggers_at_once_and_numbers_wait_for_fifteen_seconds() {
    let store = Arc::new(Store::default());
    let mut triggers = triggers(&store);
    store.put(&key("r"), report(0, "a", 1), second(0));
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 0));
    for sequence in 2..7 {
        store.put(&key("r"), report(0, "a", sequence), second(sequence));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 10), "one trigger for five posts, 15 s after the first");
    assert_eq!(wait(&mut triggers).await, None, "and none without a post");
}

#[tokio::test(start_paused = true)]
async fn the_last_change_is_never_lost_even_when_nobody_listened() {
    let store = Arc::new(Store::default());
    for sequence in 1..100 {
        store.put(&key("r"), report(0, "a", sequence), second(sequence));
    }
    let mut triggers = triggers(&store);
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 0));
    store.put(&key("r"), report(0, "a", 100), second(100));
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 15));
}

#[tokio::test(start_paused = true)]
async fn events_checkpoints_waiting_and_a_new_start_trigger_at_once() {
    let waiting = Some(WaitingFor { what: "weights".to_owned(), percent: Some(1) });
    let event = Event { type_: EventType::TrainStarted, time: second(0), sent: second(0) };
    let checkpoint =
        Checkpoint { step: 1, epoch: None, time: second(0), uri: "s3://o/r/c".to_owned(), size_bytes: None, kind: CheckpointKind::Composer };
    let urgent = [
        Report { waiting_for: waiting.clone(), ..report(0, "a", 2) },
        Report { waiting_for: waiting.clone(), events: vec![event], ..report(0, "a", 3) },
        Report { waiting_for: waiting.clone(), events: vec![event], checkpoints: vec![checkpoint], ..report(0, "a", 4) },
        report(0, "b", 0),
        report(1, "b", 0),
    ];
    let store = Arc::new(Store::default());
    let mut triggers = triggers(&store);
    store.put(&key("r"), report(0, "a", 1), second(0));
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 0));
    for report in urgent {
        tokio::time::advance(Duration::from_secs(2)).await;
        store.put(&key("r"), report.clone(), second(0));
        assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 0), "{report:?}");
    }
    assert_eq!(wait(&mut triggers).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_percent_alone_triggers_every_fifteen_seconds_and_another_wait_at_once_but_once_a_second_at_most() {
    let store = Arc::new(Store::default());
    let mut triggers = triggers(&store);
    let waiting = |what: &str, percent: i32| Some(WaitingFor { what: what.to_owned(), percent: Some(percent) });
    store.put(&key("r"), Report { waiting_for: waiting("weights", 0), ..report(0, "a", 0) }, second(0));
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 0));
    for percent in 1..100 {
        store.put(&key("r"), Report { waiting_for: waiting("weights", percent), ..report(0, "a", percent.into()) }, second(0));
    }
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 15));
    for number in 100..200 {
        let what = if number % 2 == 0 { "tokenizer" } else { "weights" };
        store.put(&key("r"), Report { waiting_for: waiting(what, 0), ..report(0, "a", number) }, second(0));
    }
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 1));
    assert_eq!(wait(&mut triggers).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_trainer_that_lives_and_says_the_same_does_not_move() {
    let store = Arc::new(Store::default());
    let at_step = |step: i64, left: i64, sequence: i64| Report {
        progress: Progress { step: Some(step), estimated_remaining_seconds: Some(left), ..Progress::default() },
        ..report(0, "a", sequence)
    };
    let seen = |store: &Store| store.latest("uid-r", 0).map(|received| (received.at, received.moved));
    store.put(&key("r"), at_step(3, 60, 0), second(0));
    store.put(&key("r"), at_step(3, 90, 1), second(30));
    assert_eq!(seen(&store), Some((second(30), second(0))));
    store.put(&key("r"), at_step(4, 90, 2), second(60));
    assert_eq!(seen(&store), Some((second(60), second(60))));
}

#[tokio::test(start_paused = true)]
async fn an_urgent_change_overtakes_the_trigger_that_waits_and_replaces_it() {
    let store = Arc::new(Store::default());
    let mut triggers = triggers(&store);
    store.put(&key("r"), report(0, "a", 1), second(0));
    wait(&mut triggers).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    store.put(&key("r"), report(0, "a", 2), second(0));
    let waiting = Some(WaitingFor { what: "weights".to_owned(), percent: None });
    store.put(&key("r"), Report { waiting_for: waiting.clone(), ..report(0, "a", 3) }, second(0));
    store.put(&key("r"), Report { waiting_for: waiting, ..report(0, "a", 4) }, second(0));
    assert_eq!(rounded(wait(&mut triggers).await), seconds("r", 0));
    assert_eq!(wait(&mut triggers).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_run_never_waits_for_another_and_a_waiting_reader_wakes_up() {
    let store = Arc::new(Store::default());
    let mut stream = triggers(&store);
    let reader = tokio::spawn(async move { [wait(&mut stream).await, wait(&mut stream).await, wait(&mut stream).await] });
    tokio::time::sleep(Duration::from_secs(5)).await;
    store.put(&key("a"), report(0, "s", 1), second(0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.put(&key("a"), report(0, "s", 2), second(0));
    store.put(&key("b"), report(0, "s", 1), second(0));
    let waited = reader.await.unwrap().map(rounded);
    assert_eq!(waited, [seconds("a", 5), seconds("b", 1), seconds("a", 14)]);
}
