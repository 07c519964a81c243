//! An HTTP endpoint with probes, metrics, and pages that show what the engine does. The rules process orders
//! that come and go.
//!
//! `cargo run -p examples --example endpoint --features endpoint`, then open http://127.0.0.1:9464/. It needs no
//! etcd. Arguments: the port (default 9464; 0 takes a free one), the number of orders (default 200), and for how
//! many seconds to run (default: until Ctrl-C).

use etcd_rules::embedded::EmbeddedEtcd;
use etcd_rules::etcd_client::{Txn, TxnOp};
use etcd_rules::http::Endpoint;
use etcd_rules::{BoxError, Engine, Firing, Outcome, Reveal, Rule, key};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Orders of some payments fail, wait or are given up, so that there is something to see.
async fn process(firing: Firing) -> Result<Outcome, BoxError> {
    let payment = firing.get("/orders/:id").await?;
    match payment.as_str() {
        Some("cheque") => Err("the bank is closed".into()),
        Some("barter") => Ok(Outcome::give_up("nobody wants this goat")),
        Some("later") => Ok(Outcome::retry_after(Duration::from_secs(20))),
        _ => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(firing.commit().put("/orders/:id/processed", "").into())
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let port = u16::try_from(arguments.first().copied().unwrap_or(9464))?;
    let orders = arguments.get(1).copied().unwrap_or(200);
    let endpoint = Endpoint::builder()
        .address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .metrics(etcd_rules::install_prometheus_recorder()?)
        .listen()?;
    println!("http://{}/", endpoint.address());

    let etcd = EmbeddedEtcd::start().await?;
    let mut client = etcd.client().await?;
    let payments = ["cash", "card", "cash", "card", "cash", "card", "cash", "later", "cheque", "barter"];
    for first in (0..orders).step_by(100) {
        let put = |order: u64| TxnOp::put(format!("/orders/{order}"), payments[(order % 10) as usize], None);
        let puts: Vec<TxnOp> = (first..orders.min(first + 100)).map(put).collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    let open = key("/orders/:id").exists() & key("/orders/:id/processed").absent();
    let rule = |id: &str| Rule::new(id).when(open.clone()).run(process);
    let engine = Engine::builder("orders", [etcd.endpoint()])
        .rules([rule("process"), rule("audit").concurrency(4)])
        .reveal(Reveal::Values)
        .endpoint(&endpoint)
        .build()?;
    engine
        .run_until(async {
            match arguments.get(2) {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
                // An error means that Ctrl-C can't be received, so there is nothing to wait for.
                None => drop(tokio::signal::ctrl_c().await),
            }
        })
        .await?;
    Ok(())
}
