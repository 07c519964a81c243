//! A snapshot of the embedded server is a file on which a real etcd starts.

use crate::support::etcd::EtcdProcess;
use etcd_client::{
    Client, CompactionOptions, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp,
};
use etcd_rules::embedded::EmbeddedEtcd;
use sha2::{Digest, Sha256};

/// Takes a snapshot, and checks what is told beside it: how much is to come, and the hash of the file in the end.
async fn snapshot(client: &mut Client) -> Vec<u8> {
    let mut stream = client.snapshot().await.expect("a stream");
    let (mut pieces, mut remaining) = (Vec::new(), Vec::new());
    while let Some(piece) = stream.message().await.expect("a piece") {
        pieces.push(piece.blob().to_vec());
        remaining.push(piece.remaining_bytes() as usize);
    }
    let hash = pieces.pop().expect("the hash");
    remaining.pop();
    let sizes: Vec<usize> = pieces.iter().map(Vec::len).collect();
    let rest = (1..=sizes.len()).map(|told| sizes[told..].iter().sum());
    assert_eq!(remaining, rest.collect::<Vec<usize>>());
    let file = pieces.concat();
    assert_eq!(hash, Sha256::digest(&file).to_vec());
    file
}

/// The keys of a server at a revision, with all that is told of them.
async fn keys(client: &mut Client, revision: i64) -> Result<Vec<String>, String> {
    let options = GetOptions::new().with_all_keys().with_revision(revision);
    let found = client.get("", Some(options)).await.map_err(|error| error.to_string())?;
    Ok(found.kvs().iter().map(|kv| format!("{kv:?}")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_etcd_goes_on_from_a_snapshot() {
    let etcd = EmbeddedEtcd::start().await.expect("a free port");
    let mut embedded = etcd.client().await.expect("a connection");
    embedded.lease_grant(3600, Some(LeaseGrantOptions::new().with_id(77))).await.unwrap();
    for round in 0..3 {
        for id in 0..400 {
            embedded.put(format!("/keys/{id}"), format!("{round}"), None).await.unwrap();
        }
    }
    let together = [TxnOp::put("/a", "1", None), TxnOp::put("/b", "2", None), TxnOp::delete("/keys/7", None)];
    embedded.txn(Txn::new().and_then(together)).await.unwrap();
    embedded.put("/leased", "", Some(PutOptions::new().with_lease(77))).await.unwrap();
    embedded.compact(1000, Some(CompactionOptions::new().with_physical())).await.unwrap();
    embedded.put("/large", vec![b'x'; 1_000_000], None).await.unwrap();
    embedded.put("/large", vec![b'y'; 1_000_000], None).await.unwrap();
    embedded.delete("/keys/8", None).await.unwrap();
    let revision = embedded.get("/a", None).await.unwrap().header().unwrap().revision();

    let file = snapshot(&mut embedded).await;
    let real = EtcdProcess::options().launch_on_file(&file).await.unwrap_or_else(|error| panic!("{error}"));
    let mut restored = Client::connect([real.endpoint()], None).await.unwrap();
    assert_eq!(restored.get("/a", None).await.unwrap().header().unwrap().revision(), revision);
    // Before the compaction, at it, in between, and now.
    for at in [999, 1000, 1001, 1150, revision - 4, revision - 1, revision, revision + 1] {
        assert_eq!(keys(&mut restored, at).await, keys(&mut embedded, at).await, "at {at}");
    }
    let lease =
        restored.lease_time_to_live(77, Some(LeaseTimeToLiveOptions::new().with_keys())).await.unwrap();
    assert_eq!((lease.granted_ttl(), lease.keys()), (3600, [b"/leased".to_vec()].as_slice()));
    restored.lease_revoke(77).await.unwrap();
    assert_eq!(restored.get("/leased", None).await.unwrap().count(), 0);

    // Nothing is in it, and it goes on.
    let empty = EmbeddedEtcd::start().await.expect("a free port");
    let file = snapshot(&mut empty.client().await.expect("a connection")).await;
    let real = EtcdProcess::options().launch_on_file(&file).await.unwrap_or_else(|error| panic!("{error}"));
    let mut restored = Client::connect([real.endpoint()], None).await.unwrap();
    assert_eq!(restored.put("/a", "", None).await.unwrap().header().unwrap().revision(), 2);
}
