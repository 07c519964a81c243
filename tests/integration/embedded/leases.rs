//! Leases, compared with a real etcd.

use super::both::{Both, Dice, anonymous, seeds, shown};
use super::kv::grant;
use etcd_client::{GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, WatchOptions};
use std::time::Duration;
use tokio::time::timeout;

const OPERATIONS: u64 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_leases_get_the_answers_of_etcd() {
    for seed in seeds() {
        let mut both = Both::start(seed).await;
        let mut dice = Dice(seed);
        for _ in 0..OPERATIONS {
            let id = dice.one(&[-5, 1, 2, 3, i64::MAX]);
            match dice.below(8) {
                0 | 1 => {
                    // Apart by minutes, so that the order by expiry does not hang on milliseconds.
                    let ttl = dice.one(&[1000, 5000, 9_000_000_000, 9_000_000_001, i64::MAX]);
                    grant(&mut both, id, ttl).await;
                }
                2 => {
                    both.same(format!("revoke {id}"), async |mut client| client.lease_revoke(id).await).await;
                }
                3 => {
                    let key = format!("key/{}", dice.below(6));
                    let options = PutOptions::new().with_lease(if dice.chance(30) { 0 } else { id });
                    both.same(format!("put {key} {options:?}"), async |mut client| {
                        client.put(key.as_str(), "", Some(options.clone())).await
                    })
                    .await;
                }
                4 => {
                    let key = format!("key/{}", dice.below(6));
                    both.same(format!("delete {key}"), async |mut client| {
                        client.delete(key.as_str(), None).await
                    })
                    .await;
                }
                5 => {
                    let mut options = LeaseTimeToLiveOptions::new();
                    if dice.chance(70) {
                        options = options.with_keys();
                    }
                    both.same(format!("time to live of {id}"), async |mut client| {
                        client.lease_time_to_live(id, Some(options.clone())).await
                    })
                    .await;
                }
                6 => {
                    both.same("leases".to_owned(), async |mut client| client.leases().await).await;
                }
                _ => {
                    both.same(format!("renew {id}"), async |mut client| {
                        // Opening the stream renews once already.
                        let (mut keeper, mut stream) = client.lease_keep_alive(id).await?;
                        keeper.keep_alive().await?;
                        Ok(stream.message().await?.expect("an answer"))
                    })
                    .await;
                }
            }
        }
        let everything = GetOptions::new().with_all_keys();
        both.same("all keys".to_owned(), async |mut client| client.get("", Some(everything.clone())).await)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_without_an_id_gets_one_and_a_short_one_becomes_longer() {
    let mut both = Both::start(0).await;
    for ttl in [-1, 0, 1, 2, 3] {
        let mut ttls = Vec::new();
        for client in [&mut both.real, &mut both.embedded] {
            let granted = client.lease_grant(ttl, None).await.expect("a lease");
            assert!(granted.id() > 0);
            ttls.push(granted.ttl());
        }
        assert_eq!(ttls[0], ttls[1], "asked for {ttl}");
    }
    for client in [&mut both.real, &mut both.embedded] {
        assert_eq!(client.leases().await.expect("leases").leases().len(), 5);
    }
}

/// Leases that expire one after the other: each deletes its keys in one revision, in the order of the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_deletes_the_keys_of_a_lease_in_one_revision() {
    let mut both = Both::start(0).await;
    let watch = WatchOptions::new().with_all_keys().with_prev_key();
    let mut streams = Vec::new();
    for client in [&mut both.real, &mut both.embedded] {
        let mut stream = client.watch("", Some(watch.clone())).await.expect("a watch stream");
        // The watch may begin only after its stream is there.
        let created = timeout(Duration::from_secs(60), stream.message()).await.expect("soon");
        assert!(created.expect("open").expect("an answer").created());
        streams.push(stream);
    }
    for (id, ttl) in [(1, 6), (2, 9)] {
        both.same("grant".to_owned(), async |mut client| {
            client.lease_grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await
        })
        .await;
    }
    for (key, id) in [("d", 1), ("b", 2), ("c", 1), ("a", 1), ("e", 0), ("a", 2)] {
        both.same("put".to_owned(), async |mut client| {
            client.put(key, "", Some(PutOptions::new().with_lease(id))).await
        })
        .await;
    }
    let mut told = Vec::new();
    for stream in &mut streams {
        let mut responses = Vec::new();
        while responses.len() < 8 {
            let response = timeout(Duration::from_secs(60), stream.message()).await.expect("soon");
            let mut response = response.expect("open").expect("more").0;
            anonymous(&mut response.header);
            responses.push(response);
        }
        told.push(responses);
    }
    assert_eq!(told[1], told[0]);
    let counts: Vec<usize> = told[1].iter().map(|response| response.events.len()).collect();
    assert_eq!(counts, [1, 1, 1, 1, 1, 1, 2, 2]);
    both.same("leases".to_owned(), async |mut client| client.leases().await).await;
    let renewed = both.embedded.lease_time_to_live(1, None).await;
    assert!(shown(&renewed).contains("ttl: -1"));
}
