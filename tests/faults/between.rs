//! etcd's own proxies, as processes: `etcd grpc-proxy start` and `etcd gateway start`.

use crate::cluster::Cluster;
use crate::etcd::free_port;
use crate::guard;
use crate::world::Through;
use etcd_client::{Client, GetOptions};
use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a proxy may take until it answers.
const START: Duration = Duration::from_secs(30);

pub struct Between {
    through: Through,
    port: u16,
    child: Option<Child>,
}

impl Between {
    pub async fn start(through: Through, cluster: &Cluster) -> Self {
        let mut between = Self { through, port: free_port().expect("a free port on loopback"), child: None };
        between.restart(cluster).await;
        between
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Ends its process, if there is one, and waits until a new one answers.
    pub async fn restart(&mut self, cluster: &Cluster) {
        self.kill();
        let members = cluster.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let name = match self.through {
            Through::GrpcProxy => "grpc-proxy",
            Through::Gateway => "gateway",
        };
        let mut arguments = vec![
            name.to_owned(),
            "start".to_owned(),
            format!("--endpoints={members}"),
            format!("--listen-addr={}", self.address()),
        ];
        if self.through == Through::GrpcProxy {
            // That of 3.6 looks whether it reaches itself there, and ends if it does not.
            arguments.push(format!("--advertise-client-url={}", self.address()));
        }
        let child = guard::command(&cluster.server.program, &arguments).spawn();
        self.child = Some(child.expect("a process of the proxy"));
        let deadline = Instant::now() + START;
        loop {
            let look = async {
                let mut client = Client::connect([self.address().to_string()], None).await?;
                client.get("\0", Some(GetOptions::new().with_count_only())).await
            };
            if let Ok(Ok(_)) = timeout(Duration::from_secs(2), look).await {
                return;
            }
            assert!(Instant::now() < deadline, "{name} does not answer");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.kill();
    }
}
