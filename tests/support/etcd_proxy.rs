//! etcd's own proxies, as processes: `etcd gateway start` and `etcd grpc-proxy start`.

use super::etcd::{free_port, program, without_flags};
use etcd_client::{Client, GetOptions};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a proxy may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Which proxy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It forwards connections.
    Gateway,
    /// It joins watches and renewals, and sends requests on.
    GrpcProxy,
}

/// A proxy in front of an etcd. Killed on drop.
pub struct EtcdProxy {
    port: u16,
    child: Child,
}

impl EtcdProxy {
    /// Starts a proxy in front of these endpoints, and waits until it answers.
    pub async fn start(kind: Kind, endpoints: &[String]) -> Self {
        let port = free_port().expect("a free port on loopback");
        // That of 3.6 looks whether it reaches itself there, and ends if it does not.
        let advertised =
            (kind == Kind::GrpcProxy).then(|| format!("--advertise-client-url=127.0.0.1:{port}"));
        let mut command = Command::new(program());
        command
            .arg(match kind {
                Kind::Gateway => "gateway",
                Kind::GrpcProxy => "grpc-proxy",
            })
            .arg("start")
            .arg(format!("--endpoints={}", endpoints.join(",")))
            .arg(format!("--listen-addr=127.0.0.1:{port}"))
            .args(advertised)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        without_flags(&mut command);
        let proxy = Self { port, child: command.spawn().expect("etcd is on the PATH") };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let look = async {
                let mut client = Client::connect([proxy.endpoint()], None).await?;
                client.get("\0", Some(GetOptions::new().with_count_only())).await
            };
            if let Ok(Ok(_)) = timeout(Duration::from_secs(2), look).await {
                return proxy;
            }
            assert!(Instant::now() < deadline, "{kind:?} within {START_LIMIT:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// `127.0.0.1:PORT`, where clients connect.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for EtcdProxy {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
