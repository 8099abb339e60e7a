//! `make demo`: five runs on a real cluster, shown live, then a table; it succeeds only if every run ended as it should.

// What the end-to-end tests share with the demo uses more of it.
#[allow(dead_code)]
mod bed;
mod follow;
mod summary;
#[allow(dead_code)]
mod tracker;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use finetune_operator::api::FinetuneRun;
use finetune_operator::api::status::{FailureClass, Phase};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use bed::{Bed, Built, Result, TEAM, step};
use follow::Follower;

const CLUSTER: &str = "demo";
const RUNS: Duration = Duration::from_secs(1500);

#[tokio::main]
async fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let began = Instant::now();
    match demo().await {
        Ok(()) => {
            println!("\nThe demo took {:.0} s.", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nThe demo failed after {:.0} s: {error}", began.elapsed().as_secs_f64());
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<()> {
    if std::env::var_os("KUBECONFIG").is_some() {
        println!("KUBECONFIG is set and left alone: the demo brings a cluster of its own. For yours see README.md, \"On your own cluster\".\n");
    }
    println!("Setting up");
    let bed = Bed::up(Built::from_env()?, CLUSTER).await?;

    println!("\nTwo runs that must fail before anything is trained, and three that train");
    step("kubectl apply -f examples/…", async {
        for file in ["bad-secret.yaml", "bad-row.yaml", "instruction.yaml", "chat.yaml", "pretrain.yaml"] {
            bed.apply(file).await?;
        }
        Ok(())
    })
    .await?;
    println!();
    let mut follower = Follower::new(&bed, false);
    let names = ["bad-secret", "bad-row", "instruction", "chat", "pretrain"];
    let chat = 3;
    follower.until(&names, RUNS, |all| all[chat].checkpoints.iter().any(|c| c.newest) || all[chat].phase.is_some_and(Phase::is_sink)).await?;
    println!("\n$ kubectl patch finetunerun chat -n {TEAM} --type merge -p '{{\"spec\":{{\"suspend\":true}}}}'");
    suspend(&bed, "chat", true).await?;
    follower.until(&names, RUNS, |all| all[chat].phase == Some(Phase::Stopped) || all[chat].phase.is_some_and(Phase::is_sink)).await?;
    println!("\n$ kubectl patch finetunerun chat -n {TEAM} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'");
    suspend(&bed, "chat", false).await?;
    let runs = follower.all_ended(&names, RUNS).await?;

    let rows = summary::rows(&bed, &runs).await?;
    println!("\n{}", summary::table(&rows));
    println!("{}", summary::failures(&runs));
    println!("$ kubectl get finetuneruns -n {TEAM}\n{}", bed.kubectl(&["get", "finetuneruns", "-n", TEAM]).await?);
    summary::where_to_look(&bed, &runs).await?;
    verify(&bed, &runs).await
}

async fn suspend(bed: &Bed, run: &str, suspend: bool) -> Result<()> {
    let runs: Api<FinetuneRun> = Api::namespaced(bed.client.clone(), TEAM);
    runs.patch(run, &PatchParams::default(), &Patch::Merge(json!({"spec": {"suspend": suspend}}))).await?;
    Ok(())
}

/// Everything that the demo promises.
async fn verify(bed: &Bed, runs: &[FinetuneRun]) -> Result<()> {
    let mut wrong = Vec::new();
    for run in runs {
        let name = run.name_any();
        let status = run.status.clone().unwrap_or_default();
        let jobs: Api<Job> = Api::namespaced(bed.client.clone(), TEAM);
        let selector = format!("finetune.dev/run={name},finetune.dev/stage=train");
        let trained = jobs.list(&ListParams::default().labels(&selector)).await?.items.len();
        let class = status.failure.as_ref().map(|failure| failure.class);
        let mut expect = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{name}: {what}"));
            }
        };
        match name.as_str() {
            "bad-secret" => {
                expect(status.phase == Some(Phase::Failed) && class == Some(FailureClass::CredentialError), "must fail with CredentialError");
                expect(trained == 0, "must never have a train Job");
            }
            "bad-row" => {
                expect(status.phase == Some(Phase::Failed) && class == Some(FailureClass::DataError), "must fail with DataError");
                expect(trained == 0, "must never have a train Job");
            }
            _ => {
                expect(status.phase == Some(Phase::Completed), "must complete");
                expect(status.export.is_some(), "must have an export");
                expect(!status.checkpoints.is_empty(), "must list checkpoints");
            }
        }
        if name == "instruction" {
            expect(status.registered_model.is_some(), "must be registered");
        }
        if name == "chat" {
            expect(status.attempts.len() == 2, "must have been stopped and resumed once");
            expect(status.attempts.last().and_then(|a| a.resumed_from_step).is_some_and(|step| step > 0), "must have gone on from a checkpoint");
            expect(status.data.and_then(|data| data.train).is_some_and(|train| train.dropped == 1), "must have dropped one row");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ").into()) }
}
