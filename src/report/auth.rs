//! Who may report for a run: the pods of its current train Job, and nobody else. Pure; the proofs come from outside.

use std::net::IpAddr;

use super::answer::Answer;
use crate::api::names;
use crate::api::status::Stage;

/// What the endpoint must know of a run, as the controller knows it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentRun {
    /// Its uid.
    pub uid: String,
    /// Number of its newest attempt; -1 before the first.
    pub attempt: i64,
    /// Uid of that attempt's Job, once it was seen.
    pub job_uid: Option<String>,
    /// `<saveFolder>/<run>`.
    pub outputs: String,
    /// Whether nothing that a trainer says can matter any more: the verdict stands.
    pub ended: bool,
}

/// The runs that the controller knows.
pub trait Runs: Send + Sync + 'static {
    /// Whether all runs of the cluster are known; until then nobody is told that a run does not exist.
    fn ready(&self) -> bool;

    /// The run of this name.
    fn current(&self, namespace: &str, name: &str) -> Option<CurrentRun>;
}

/// A pod that was proved to send a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub pod_uid: String,
    /// Name of the Job that controls it.
    pub job_name: String,
    /// Uid of that Job.
    pub job_uid: String,
}

/// Turns a bearer token into the pod that it was made for.
pub trait Authenticate: Send + Sync + 'static {
    /// The pod, or what its sender is answered. `address` is where the token came from.
    fn authenticate(&self, token: &str, address: IpAddr) -> impl Future<Output = Result<Sender, Answer>> + Send;
}

/// Whether `sender` may report for the run of this name now.
///
/// A Job's name says which attempt it is (and of which uid), so a pod that is ahead of what the controller has seen is
/// told to try again, and only one that is behind is told that it is over.
pub(crate) fn authorize(sender: &Sender, namespace: &str, name: &str, current: &CurrentRun) -> Result<(), Answer> {
    if sender.namespace != namespace {
        return Err(Answer::Forbidden);
    }
    let attempt = train_attempt(&sender.job_name, name, &current.uid).ok_or(Answer::Forbidden)?;
    if attempt > current.attempt {
        return Err(Answer::NotYet);
    }
    if current.ended {
        return Err(Answer::Ended);
    }
    if attempt < current.attempt {
        return Err(Answer::OtherAttempt);
    }
    match &current.job_uid {
        None => Err(Answer::NotYet),
        Some(uid) if *uid == sender.job_uid => Ok(()),
        Some(_) => Err(Answer::Forbidden),
    }
}

/// The attempt that a train Job of this run is for.
fn train_attempt(job: &str, run: &str, uid: &str) -> Option<i64> {
    let attempt = job.rsplit_once("-a")?.1.parse().ok()?;
    (job == names::job(run, uid, Stage::Train, attempt)).then_some(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(attempt: i64, job_uid: Option<&str>, ended: bool) -> CurrentRun {
        CurrentRun { uid: "run-uid".to_owned(), attempt, job_uid: job_uid.map(str::to_owned), outputs: "s3://o/r".to_owned(), ended }
    }

    fn pod_of(stage: Stage, run: &str, run_uid: &str, number: i64, job_uid: &str) -> Sender {
        Sender {
            namespace: "team-a".to_owned(),
            pod_uid: "pod-uid".to_owned(),
            job_name: names::job(run, run_uid, stage, number),
            job_uid: job_uid.to_owned(),
        }
    }

    fn trainer(number: i64, job_uid: &str) -> Sender {
        pod_of(Stage::Train, "r", "run-uid", number, job_uid)
    }

    #[test]
    fn only_a_pod_of_the_current_train_job_may_report() {
        let may = |sender: &Sender, run: &CurrentRun| authorize(sender, "team-a", "r", run);
        let second = current(1, Some("job-1"), false);
        assert_eq!(may(&trainer(1, "job-1"), &second), Ok(()));
        assert_eq!(may(&trainer(1, "stranger"), &second), Err(Answer::Forbidden), "the Job of that name was made anew");
        assert_eq!(may(&trainer(0, "job-0"), &second), Err(Answer::OtherAttempt));
        assert_eq!(may(&trainer(0, "job-1"), &second), Err(Answer::OtherAttempt), "name and uid must both fit");
        assert_eq!(may(&trainer(2, "job-2"), &second), Err(Answer::NotYet), "the controller is behind");
        assert_eq!(may(&trainer(1, "job-1"), &current(1, None, false)), Err(Answer::NotYet), "the Job was not seen yet");
        assert_eq!(may(&trainer(0, "job-0"), &current(-1, None, false)), Err(Answer::NotYet));
        assert_eq!(may(&trainer(1, "job-1"), &current(1, Some("job-1"), true)), Err(Answer::Ended));
        assert_eq!(may(&trainer(0, "job-0"), &current(1, Some("job-1"), true)), Err(Answer::Ended));
        assert_eq!(may(&trainer(2, "job-2"), &current(1, Some("job-1"), true)), Err(Answer::NotYet), "a stopped run that goes on");
    }

    #[test]
    fn a_pod_of_anything_else_may_not_even_learn_how_the_run_is() {
        for run in [current(0, Some("job-0"), false), current(0, Some("job-0"), true), current(0, None, false)] {
            let refused = |sender: &Sender| assert_eq!(authorize(sender, "team-a", "r", &run), Err(Answer::Forbidden), "{sender:?}");
            refused(&Sender { namespace: "team-b".to_owned(), ..trainer(0, "job-0") });
            refused(&pod_of(Stage::Preflight, "r", "run-uid", 0, "job-0"));
            refused(&pod_of(Stage::Register, "r", "run-uid", 0, "job-0"));
            refused(&pod_of(Stage::Train, "other", "run-uid", 0, "job-0"));
            refused(&pod_of(Stage::Train, "r", "uid-of-the-deleted-one", 0, "job-0"));
            for job_name in ["", "-a", "-a0", "r-a0", "x-a9999999999999999999", &format!("{}-a+0", names::base("r", "run-uid"))] {
                refused(&Sender { job_name: job_name.to_owned(), ..trainer(0, "job-0") });
            }
        }
    }
}
