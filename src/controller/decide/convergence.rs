//! Eventually stable reconciliation as a property: whatever dies when, the run ends or waits, and no Job is made twice.

use proptest::prelude::*;

use super::Change;
use super::scenario::{Cluster, Writes};
use crate::api::status::{Phase, Stage};

#[derive(Clone, Copy, Debug)]
enum Happening {
    Step(Writes),
    EndWell,
    End(i32),
    Lose,
    Suspend(bool),
    Wait(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => Just(Happening::Step(Writes::All)),
        3 => Just(Happening::Step(Writes::ClusterOnly)),
        2 => Just(Happening::Step(Writes::Nothing)),
        3 => Just(Happening::EndWell),
        2 => prop::sample::select(vec![1, 10, 20, 31, 40, 60, 70, 137]).prop_map(Happening::End),
        1 => Just(Happening::Lose),
        1 => any::<bool>().prop_map(Happening::Suspend),
        2 => (0_i64..2000).prop_map(Happening::Wait),
    ]
}

fn check(cluster: &Cluster) -> Result<(), TestCaseError> {
    prop_assert!(cluster.open_jobs() <= 1, "two Jobs at once");
    let trained = cluster.created.keys().any(|name| name.contains("-a"));
    prop_assert!(!trained || cluster.proved, "training without a passed preflight");
    let status = cluster.status();
    prop_assert!(status.attempts.len() <= 16 && status.events.len() <= 64 && status.conditions.len() <= 12);
    prop_assert!(serde_json::to_string(&status).unwrap().len() <= 32 * 1024);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_dies_when_the_run_ends_and_no_job_is_made_twice(table in any::<bool>(), happenings in prop::collection::vec(happening(), 0..80)) {
        let mut cluster = if table { Cluster::on_a_table() } else { Cluster::registering() };
        let mut sink: Option<Phase> = None;
        for happening in happenings {
            match happening {
                Happening::Step(writes) => { cluster.step(writes); }
                Happening::EndWell => cluster.end_well(),
                Happening::End(code) => cluster.end(code, ""),
                Happening::Lose => cluster.lose_job(),
                Happening::Suspend(suspend) => cluster.suspend(suspend),
                Happening::Wait(seconds) => cluster.wait(seconds),
            }
            check(&cluster)?;
            let phase = cluster.status().phase;
            if let Some(sink) = sink {
                prop_assert_eq!(phase, Some(sink), "a verdict changed");
            }
            sink = phase.filter(|phase| phase.is_sink());
        }
        // Faults are over: everything that runs ends well, and the run must reach its end.
        cluster.suspend(false);
        for _ in 0..40 {
            cluster.settle();
            cluster.end_well();
            cluster.wait(700);
            check(&cluster)?;
        }
        cluster.settle();
        prop_assert!(cluster.phase().is_sink(), "{:?}", cluster.status());
        let again = cluster.step(Writes::All);
        prop_assert_eq!(again.change, Change::Keep);
        prop_assert_eq!(Some(again.status), cluster.run.status.clone());
        // A name is made again only after somebody deleted it unseen, and then at most that often.
        let most = cluster.created.iter().filter(|(name, _)| name.contains("-a")).map(|(_, times)| *times).max().unwrap_or(0);
        prop_assert!(most <= 80);
    }

    #[test]
    fn without_deletions_every_job_is_made_exactly_once(crashes in prop::collection::vec(prop_oneof![Just(Writes::All), Just(Writes::ClusterOnly), Just(Writes::Nothing)], 0..60)) {
        let mut cluster = Cluster::registering();
        for writes in crashes {
            cluster.step(writes);
            if writes == Writes::Nothing {
                cluster.end_well();
            }
        }
        for _ in 0..6 {
            cluster.settle();
            cluster.end_well();
        }
        cluster.settle();
        prop_assert_eq!(cluster.phase(), Phase::Completed);
        prop_assert_eq!(cluster.created.values().copied().collect::<Vec<_>>(), vec![1; 3]);
        prop_assert!(cluster.current().is_none_or(|(stage, _)| stage == Stage::Register));
    }
}
