//! Traces of firings with OpenTelemetry: three orders are processed, one of them at the second attempt, and
//! their spans are printed.
//!
//! `cargo run -p traces`: needs neither an etcd nor a collector. To send the spans to
//! a collector, put an exporter of the crate `opentelemetry-otlp` in the place of the one that prints.

use etcd_rules::embedded::EmbeddedEtcd;
use etcd_rules::{Backoff, BoxError, Engine, Firing, Outcome, Reveal, Rule, key};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::time::Duration;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What a callback logs becomes an event of its span, and its own spans become children.
#[tracing::instrument(skip_all)]
async fn charge(attempt: u32) -> Result<(), BoxError> {
    if attempt == 1 {
        return Err("the bank is closed".into());
    }
    tracing::info!("charged");
    Ok(())
}

async fn process(firing: Firing) -> Result<Outcome, BoxError> {
    if *firing.value("/orders/:id")? == "card" {
        charge(firing.attempt()).await?;
    }
    Ok(firing.commit().put("/orders/:id/processed", "").into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("orders").build())
        .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    let spans = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_tracer(provider.tracer("orders"));
    // The engine's spans have the target `etcd_rules`. Its log lines have the targets of its modules.
    let ours =
        Targets::new().with_target("etcd_rules", LevelFilter::INFO).with_target("traces", LevelFilter::INFO);
    tracing_subscriber::registry().with(ours).with(spans).init();

    let etcd = EmbeddedEtcd::start().await?;
    let rule = Rule::new("process")
        .when(key("/orders/:id").exists() & key("/orders/:id/processed").absent())
        .backoff(Backoff::new(Duration::from_millis(20), Duration::from_secs(1)))
        .run(process);
    let engine = Engine::builder("orders", [etcd.endpoint()])
        .rule(rule)
        .reveal(Reveal::Keys) // these ids may be in traces
        .build()?
        .start()
        .await?;
    engine.ready().await;
    let mut client = etcd.client().await?;
    for (order, payment) in [("a", "cash"), ("b", "card"), ("c", "cash")] {
        client.put(format!("/orders/{order}"), payment, None).await?;
    }
    while client
        .get("/orders/", Some(etcd_rules::etcd_client::GetOptions::new().with_prefix()))
        .await?
        .count()
        < 6
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    engine.shutdown(Duration::from_secs(5)).await?;
    provider.shutdown()?;
    Ok(())
}
