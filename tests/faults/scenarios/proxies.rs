//! etcd's own proxies between engines and members.

use crate::history::Expect;
use crate::jobs;
use crate::scenario::Scenario;
use crate::world::{Settings, Through, World};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            settings: || Settings { through: Some(Through::GrpcProxy), ..Settings::default() },
            expect: strict,
            ..Scenario::new(
                "grpc-proxy",
                "engines come through `etcd grpc-proxy start`, which is restarted",
                |world| Box::pin(restarted(world)),
            )
        },
        Scenario {
            settings: || Settings { through: Some(Through::Gateway), ..Settings::default() },
            expect: strict,
            ..Scenario::new(
                "gateway",
                "engines come through `etcd gateway start`, which is restarted",
                |world| Box::pin(restarted(world)),
            )
        },
    ]
}

fn strict() -> Expect {
    Expect { tolerated_outage: Some(2 * SECOND), ..Expect::default() }
}

async fn restarted(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 20 * SECOND).await;
    world.pause(8.0..10.0).await;
    world.note("the proxy is restarted");
    world.restart_proxy().await;
    world.pause(6.0..10.0).await;
    let connections = world.sum_of_links(|felt| felt.connections);
    world.felt("engines made connections to the proxy", connections);
}
