//! The end-to-end scenario of go-etcd-rules on a real etcd, as the example `polling` tells it.

#[path = "../../examples/polling/scenario.rs"]
mod example;

use crate::support::{Etcd, assert_nothing_left};
use etcd_rules::{Engine, EngineBuilder};
use example::{Tally, play};
use std::sync::Arc;
use std::time::Duration;

async fn each_callback_runs_exactly_as_often_as_it_must(engines: &[&str]) {
    let etcd = Etcd::start().await;
    let builder =
        |name: &&str| -> EngineBuilder { Engine::builder("scenario", [etcd.endpoint()]).name(*name) };
    let client = etcd.client().await;
    let played = play(engines.iter().map(builder).collect(), &client, Arc::new(|_| ()));
    assert_eq!(played.await.expect("it is played to its end"), Tally::expected());
    assert_nothing_left(&etcd, "/", Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_polled_up_to_five_and_the_switch_is_turned_on() {
    each_callback_runs_exactly_as_often_as_it_must(&["one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_engines_do_it_together_as_often_as_one() {
    each_callback_runs_exactly_as_often_as_it_must(&["one", "two", "three"]).await;
}
