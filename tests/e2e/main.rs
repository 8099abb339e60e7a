//! End to end on the test bed: a real cluster, a real S3 server, a real `MLflow` and real training, through the chart.

#[path = "../../demo/bed.rs"]
mod bed;
mod clients;
mod conversion;
#[allow(dead_code)]
#[path = "../../demo/follow.rs"]
mod follow;
mod refusals;
mod scene;
mod secrecy;
#[path = "../../demo/tracker.rs"]
mod tracker;
mod training;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use tokio::runtime::Runtime;

use bed::{Bed, Built, Result};
use scene::Scene;

/// Trials wait for the cluster most of the time; how much trains at once is the cluster's own decision.
const TRIALS_AT_ONCE: usize = 16;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TRIALS_AT_ONCE);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    if arguments.list {
        return all(&arguments, &runtime, None).exit_code();
    }
    let name = format!("e2e-{}", std::process::id());
    let bed = runtime.block_on(async { Bed::up(Built::from_env()?, &name).await });
    let scene = match bed {
        Ok(bed) => Arc::new(Scene::new(bed)),
        Err(error) => {
            eprintln!("the cluster does not come up: {error}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = all(&arguments, &runtime, Some(&scene));
    if conclusion.has_failed() {
        runtime.block_on(scene.explain());
    }
    if std::env::var_os("E2E_KEEP").is_none()
        && let Err(error) = runtime.block_on(scene.bed.down())
    {
        eprintln!("the cluster does not go down: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// The runs first, then what must hold after all of them.
fn all(arguments: &Arguments, runtime: &Arc<Runtime>, scene: Option<&Arc<Scene>>) -> Conclusion {
    let first = libtest_mimic::run(arguments, runs(runtime, scene));
    if first.has_failed() {
        return first;
    }
    libtest_mimic::run(arguments, afterwards(runtime, scene))
}

fn trial<F, Fut>(runtime: &Arc<Runtime>, scene: Option<&Arc<Scene>>, name: &str, work: F) -> Trial
where
    F: FnOnce(Arc<Scene>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let (runtime, scene) = (runtime.clone(), scene.cloned());
    Trial::test(name, move || {
        let scene = scene.ok_or("there is no cluster")?;
        // A task of its own, so that a panic of an assertion fails this trial only.
        let result = runtime.block_on(runtime.spawn(work(scene)));
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failed::from(error.to_string())),
            Err(panic) => Err(Failed::from(format!("{panic}"))),
        }
    })
}

macro_rules! trials {
    ($runtime:expr, $scene:expr, $($work:path),+ $(,)?) => {
        vec![$(trial($runtime, $scene, stringify!($work), |scene| async move { $work(&scene).await })),+]
    };
}

fn runs(runtime: &Arc<Runtime>, scene: Option<&Arc<Scene>>) -> Vec<Trial> {
    trials![
        runtime,
        scene,
        training::an_instruction_finetune_survives_a_kill_of_the_operator_and_is_registered,
        training::a_chat_finetune_is_suspended_and_goes_on_from_its_checkpoint,
        training::a_folder_of_text_is_pretrained_on,
        training::deleting_a_run_in_mid_training_leaves_no_pod,
        clients::every_client_finds_its_credentials_by_itself,
        conversion::a_model_without_a_fast_tokenizer_gets_one_and_its_data_are_read_with_it,
        refusals::a_wrong_secret_fails_before_any_training,
        refusals::a_broken_chat_row_fails_before_any_training,
        refusals::a_missing_secret_is_waited_for_by_name,
        refusals::a_secret_without_its_key_is_waited_for_by_key,
        refusals::a_save_folder_without_write_permission_is_refused,
        refusals::data_that_do_not_exist_are_refused,
        refusals::empty_data_are_refused,
        refusals::a_row_that_is_not_json_is_refused,
        refusals::rows_with_wrong_keys_are_refused,
        refusals::an_unknown_model_names_the_closest,
        refusals::a_context_length_above_the_maximum_names_both_numbers,
        refusals::a_save_folder_of_another_run_is_refused,
    ]
}

fn afterwards(runtime: &Arc<Runtime>, scene: Option<&Arc<Scene>>) -> Vec<Trial> {
    trials![runtime, scene, secrecy::no_credential_left_its_secret, secrecy::the_operator_never_asked_for_a_secret]
}
