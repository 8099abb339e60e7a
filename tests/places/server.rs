//! Programs that a test starts and that end with it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts the program with a free port in its arguments, and waits until it answers at `ready`.
    pub(crate) async fn start(program: &Path, environment: &[(&str, &str)], arguments: impl Fn(u16) -> Vec<String>, ready: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("there is a free port").port();
        let mut command = Command::new(program);
        command.args(arguments(port)).envs(environment.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let server = Self { process, address: format!("http://127.0.0.1:{port}") };
        let client = client();
        let answers = async {
            while !client.get(format!("{}{ready}", server.address)).send().await.is_ok_and(|answer| answer.status().is_success()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answers).await.unwrap_or_else(|_| panic!("{} never answers", program.display()));
        server
    }
}

pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("there is a client")
}
