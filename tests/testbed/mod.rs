//! The test bed's program, named by `FINETUNE_TESTBED`: every Kubernetes tool that a test starts.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// Path of the program. `make test` builds it and sets the variable.
pub(crate) fn program() -> PathBuf {
    let path = std::env::var_os("FINETUNE_TESTBED").map(PathBuf::from);
    path.filter(|path| path.is_file())
        .expect("FINETUNE_TESTBED must name the test bed's program: run the tests with `make test`, or set it to what testbed/build.sh prints")
}

/// The chart's folder.
pub(crate) fn chart() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/charts/finetune-operator"))
}

/// Runs helm to its end.
pub(crate) fn helm(arguments: &[&str]) -> Output {
    Command::new(program()).arg("helm").args(arguments).output().expect("the test bed's program starts")
}

/// What helm printed; its messages are the failure's.
pub(crate) fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
