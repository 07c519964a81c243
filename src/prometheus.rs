//! Installs the Prometheus exporter with this crate's buckets (feature `prometheus`).

use crate::error::EngineError;
use crate::firing::BoxError;
use crate::metrics::{BUCKETS, METRICS, describe};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use std::net::SocketAddr;
use std::time::Duration;

/// Bounds for histograms of counts.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Installs a recorder for the whole process. It serves all metrics, the engine's and the application's own,
/// under `http://ADDRESS/metrics`. Call it once, before an engine starts, because metrics that are recorded
/// earlier are lost. It serves on the tokio runtime from which it is called. Outside of a runtime it starts a
/// thread.
///
/// The buckets are those of [`metrics::BUCKETS`](crate::metrics::BUCKETS). This function needs the feature
/// `prometheus`. If you use another exporter, install it, set the buckets, and call
/// [`metrics::describe`](crate::metrics::describe).
///
/// It listens on exactly this address. Use `127.0.0.1` unless other hosts may see the metrics.
///
/// # Errors
/// [`EngineError::Setup`] if a recorder is installed already or the address can't be listened on.
///
/// ```no_run
/// # async fn example() -> Result<(), etcd_rules::Error> {
/// etcd_rules::install_prometheus("127.0.0.1:9464".parse().expect("an address"))?;
/// # Ok(())
/// # }
/// ```
pub fn install_prometheus(address: SocketAddr) -> Result<(), EngineError> {
    builder()?.with_http_listener(address).install().map_err(failed)?;
    describe();
    Ok(())
}

/// How often the recorder sums up its samples, so that they don't take ever more memory if nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs a recorder for the whole process that serves nothing by itself. The returned function renders all
/// metrics as text, for a server of your own, or for `http::Endpoint` (feature `http`). Otherwise it is like
/// [`install_prometheus`]. A thread named `etcd-rules-prom` keeps the recorder small for as long as the
/// process lives.
///
/// # Errors
/// [`EngineError::Setup`] if a recorder is installed already or the thread can't be made.
///
/// ```no_run
/// # fn example() -> Result<(), etcd_rules::Error> {
/// let render = etcd_rules::install_prometheus_recorder()?;
/// println!("{}", render());
/// # Ok(())
/// # }
/// ```
pub fn install_prometheus_recorder()
-> Result<impl Fn() -> String + Clone + Send + Sync + 'static, EngineError> {
    let handle = builder()?.install_recorder().map_err(failed)?;
    describe();
    let upkeep = handle.clone();
    let keeping = move || {
        loop {
            std::thread::sleep(UPKEEP);
            upkeep.run_upkeep();
        }
    };
    std::thread::Builder::new().name("etcd-rules-prom".into()).spawn(keeping).map_err(failed)?;
    Ok(move || handle.render())
}

fn failed(error: impl Into<BoxError>) -> EngineError {
    EngineError::Setup { what: "the metrics exporter".into(), source: error.into() }
}

/// An exporter with the buckets of this crate.
pub(crate) fn builder() -> Result<PrometheusBuilder, EngineError> {
    let mut builder = PrometheusBuilder::new().set_buckets(BUCKETS).map_err(failed)?;
    for metric in METRICS.iter().filter(|metric| metric.name.ends_with("_entries")) {
        let matcher = Matcher::Full(metric.name.to_owned());
        builder = builder.set_buckets_for_metric(matcher, COUNTS).map_err(failed)?;
    }
    Ok(builder)
}
