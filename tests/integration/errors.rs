//! Errors of a real etcd: what kind they are, and that etcd's own answer is their source.

use crate::support::{Etcd, eventually};
use etcd_client::{
    Client, CompactionOptions, ConnectOptions, Error as EtcdClientError, GetOptions, LeaseGrantOptions,
    PutOptions, Txn, TxnOp,
};
use etcd_rules::firing::EtcdError;
use etcd_rules::{Engine, Error, ErrorKind, Firing, Outcome, Rule, key};
use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// What etcd said, if the source tells.
fn said(error: &EtcdError) -> Option<(tonic::Code, String)> {
    match error.source()?.downcast_ref::<EtcdClientError>()? {
        EtcdClientError::GRpcStatus(status) => Some((status.code(), status.message().to_owned())),
        _ => None,
    }
}

/// Checks what an error is, by what etcd said.
fn is<T: std::fmt::Debug>(what: &str, refused: Result<T, EtcdClientError>, kind: ErrorKind) {
    let error = EtcdError::from(refused.expect_err(what));
    let (code, message) = said(&error).unwrap_or_else(|| panic!("{what}: {error:?}"));
    assert!(message.contains(what), "{what}: etcd says {message} ({code:?})");
    assert_eq!(error.kind(), kind, "{message} ({code:?})");
    assert_eq!(error.to_string(), format!("a request to etcd failed: {kind}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_told_by_etcds_own_words() {
    use ErrorKind::{Compacted, NotFound, Refused, TooLarge, Unauthenticated};
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
    let (mut kv, mut lease, mut auth) = (client.kv_client(), client.lease_client(), client.auth_client());
    is("key is not provided", kv.put("", "", None).await, Refused);
    let keep = PutOptions::new().with_ignore_value();
    is("key not found", kv.put("/absent", "", Some(keep.clone())).await, Refused);
    is("value is provided", kv.put("/a", "x", Some(keep)).await, Refused);
    let keep = PutOptions::new().with_ignore_lease().with_lease(7);
    is("lease is provided", kv.put("/a", "", Some(keep)).await, Refused);
    let puts =
        |count| (0..count).map(|number| TxnOp::put(format!("/{number}"), "", None)).collect::<Vec<_>>();
    is("too many operations", kv.txn(Txn::new().and_then(puts(129))).await, TooLarge);
    let twice = [TxnOp::put("/a", "", None), TxnOp::put("/a", "", None)];
    is("duplicate key", kv.txn(Txn::new().and_then(twice)).await, Refused);
    is("request is too large", kv.put("/a", vec![0; 1_600_000], None).await, TooLarge);
    is("larger than max", kv.put("/a", vec![0; 3_000_000], None).await, TooLarge);
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    is("required revision is a future revision", kv.get("/a", at(999)).await, Refused);
    for _ in 0..5 {
        kv.put("/a", "", None).await.unwrap();
    }
    kv.compact(4, Some(CompactionOptions::new().with_physical())).await.unwrap();
    is("required revision has been compacted", kv.get("/a", at(2)).await, Compacted);
    let under = PutOptions::new().with_lease(77);
    is("requested lease not found", kv.put("/a", "", Some(under)).await, NotFound);
    is("requested lease not found", lease.revoke(77).await, NotFound);
    let id = |id| Some(LeaseGrantOptions::new().with_id(id));
    lease.grant(60, id(5)).await.unwrap();
    is("lease already exists", lease.grant(60, id(5)).await, Refused);
    is("too large lease TTL", lease.grant(10_000_000_000, id(6)).await, Refused);
    is("member not found", client.cluster_client().member_remove(1).await, Refused);
    is("root user does not exist", auth.auth_enable().await, Refused);
    auth.user_add("root", "secret", None).await.unwrap();
    is("root user does not have root role", auth.auth_enable().await, Refused);
    is("user name already exists", auth.user_add("root", "secret", None).await, Refused);
    is("user name is empty", auth.user_add("", "secret", None).await, Unauthenticated);
    is("user name not found", auth.user_delete("nobody").await, Unauthenticated);
    auth.role_add("some").await.unwrap();
    is("role name already exists", auth.role_add("some").await, Refused);
    is("role name not found", auth.role_delete("other").await, Refused);
    is("role name is empty", auth.role_add("").await, Refused);
    is("role is not granted to the user", auth.user_revoke_role("root", "some").await, Refused);
    is(
        "permission is not granted to the role",
        auth.role_revoke_permission("some", "/a", None).await,
        Refused,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_why() {
    use ErrorKind::{PermissionDenied, Unauthenticated};
    let etcd = Etcd::start().await;
    let stranger = etcd.client().await;
    let root = etcd.enable_auth(&["/mine/"]).await;
    is("user name is empty", stranger.kv_client().get("/a", None).await, Unauthenticated);
    let user = |password: &str| Some(ConnectOptions::new().with_user("engine", password));
    let wrong = Client::connect([etcd.endpoint()], user("guess")).await;
    is("authentication failed, invalid user ID or password", wrong.map(drop), Unauthenticated);
    let engine = Client::connect([etcd.endpoint()], user("secret")).await.unwrap();
    engine.kv_client().put("/mine/a", "", None).await.unwrap();
    is("permission denied", engine.kv_client().put("/other", "", None).await, PermissionDenied);
    // With its password a user's tokens end.
    root.auth_client().user_change_password("engine", "other").await.unwrap();
    is("invalid auth token", engine.kv_client().put("/mine/a", "", None).await, Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_etcd_from_answering_is_told() {
    let mut etcd = Etcd::builder().flag("--quota-backend-bytes=16777216").start().await;
    let options = ConnectOptions::new().with_timeout(SECOND);
    let client = Client::connect([etcd.endpoint()], Some(options)).await.unwrap();
    // The client's own limit of time, and its limit of answers.
    etcd.put("/large", vec![0; 100_000]).await;
    let limited = client.kv_client().max_decoding_message_size(1_000).get("/large", None).await;
    is("decoded message length too large", limited, ErrorKind::TooLarge);
    etcd.fill().await;
    is("database space exceeded", client.kv_client().put("/a", "", None).await, ErrorKind::NoSpace);
    etcd.pause();
    let late = EtcdError::from(client.kv_client().get("/a", None).await.expect_err("it stands still"));
    assert_eq!(late.kind(), ErrorKind::TimedOut, "{late:?}");
    etcd.resume();
    etcd.kill();
    let gone = EtcdError::from(client.kv_client().get("/a", None).await.expect_err("it is gone"));
    assert_eq!(gone.kind(), ErrorKind::Unreachable, "{gone:?}");
    assert!(gone.source().is_some());
}

/// What a callback gets from the engine's own requests has etcd's answer as its source too.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_can_look_at_what_etcd_said_to_the_engine() {
    let etcd = Etcd::start().await;
    let root = etcd.enable_auth(&["/etcd-rules/", "/jobs/"]).await;
    let shown = Arc::new(Mutex::new(Vec::new()));
    let showing = shown.clone();
    let rule = Rule::new("read").when(key("/jobs/:id").exists()).run(move |firing: Firing| {
        let showing = showing.clone();
        async move {
            let refused = Error::from(firing.get("/forbidden").await.expect_err("it is forbidden"));
            let code = refused.source().and_then(|source| match source.downcast_ref()? {
                EtcdClientError::GRpcStatus(status) => Some(status.code()),
                _ => None,
            });
            showing.lock().unwrap().push((refused.kind(), refused.to_string(), code));
            Ok::<Outcome, Error>(firing.commit().delete("/jobs/:id").into())
        }
    });
    let options = ConnectOptions::new().with_user("engine", "secret");
    let builder = Engine::builder("app", [etcd.endpoint()]).connect_options(options).rule(rule);
    let engine = builder.build().unwrap().start().await.unwrap();
    root.kv_client().put("/jobs/1", "", None).await.unwrap();
    eventually(20 * SECOND, "it has read", async || !shown.lock().unwrap().is_empty()).await;
    let (kind, text, code) = shown.lock().unwrap()[0].clone();
    assert_eq!(
        (kind, &*text, code),
        (ErrorKind::PermissionDenied, "etcd get: permission denied", Some(tonic::Code::PermissionDenied))
    );
    engine.shutdown(5 * SECOND).await.unwrap();
}
