//! Users, roles, permissions and tokens, compared with a real etcd.

use super::both::{Both, Dice, seeds};
use super::kv::{Maker, grant, one_operation};
use etcd_client::{
    Client, Compare, CompareOp, Permission, PermissionType, PutOptions, RoleRevokePermissionOptions, Txn,
    TxnOp, UserAddOptions, WatchOptions,
};
use etcd_rules::embedded::EmbeddedEtcd;
use std::time::Duration;

const USERS: [&str; 4] = ["ada", "bob", "eve", "nobody"];
const ROLES: [&str; 4] = ["reader", "writer", "keeper", "none"];
const KEYS: [&str; 7] = ["a", "a/1", "a/2", "b", "b/1", "c", "~"];
const OPERATIONS: u64 = 250;

/// Root, who may do everything, and authentication enabled.
async fn enable(both: &mut Both) {
    for step in 0..4 {
        both.same(format!("enable, step {step}"), async |mut client| client.auth_enable().await).await;
        match step {
            0 => both
                .same("add".to_owned(), async |mut c| c.user_add("root", "secret", None).await)
                .await
                .map(drop),
            1 => both.same("role".to_owned(), async |mut c| c.role_add("root").await).await.map(drop),
            2 => both
                .same("grant".to_owned(), async |mut c| c.user_grant_role("root", "root").await)
                .await
                .map(drop),
            _ => None,
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles_are_managed_as_in_etcd() {
    let mut both = Both::start(0).await;
    both.same("disable".to_owned(), async |mut client| client.auth_disable().await).await;
    both.same("roles".to_owned(), async |mut client| client.role_list().await).await;
    enable(&mut both).await;
    both.same("nobody puts".to_owned(), async |mut client| client.put("a", "1", None).await).await;
    both.same("nobody reads".to_owned(), async |mut client| client.get("a", None).await).await;
    both.same("nobody asks for users".to_owned(), async |mut client| client.user_list().await).await;
    both.same("nobody disables".to_owned(), async |mut client| client.auth_disable().await).await;
    both.same("nobody grants a lease".to_owned(), async |mut client| {
        client.lease_grant(600, None).await.map(|_| ())
    })
    .await;
    both.come_in("root", "secret").await;
    for name in ["root", "", "ada"] {
        for _ in 0..2 {
            both.same(format!("add {name:?}"), async |mut c| c.user_add(name, "pass", None).await).await;
        }
    }
    let without = || Some(UserAddOptions::new().with_no_pwd());
    both.same("add one without a password".to_owned(), async |mut c| c.user_add("eve", "", without()).await)
        .await;
    both.same("delete root".to_owned(), async |mut c| c.user_delete("root").await).await;
    both.same("revoke root".to_owned(), async |mut c| c.user_revoke_role("root", "root").await).await;
    both.same("delete the role root".to_owned(), async |mut c| c.role_delete("root").await).await;
    both.same("read the role root".to_owned(), async |mut c| c.role_get("root").await).await;
    both.same("read root".to_owned(), async |mut c| c.user_get("root").await).await;
    both.same("an odd role".to_owned(), async |mut c| c.role_add("").await).await;
    for name in ["ada", "eve", "other"] {
        both.same(format!("password of {name}"), async |mut c| c.user_change_password(name, "new").await)
            .await;
    }
    for (name, password) in [("ada", "pass"), ("ada", "new"), ("eve", ""), ("eve", "new"), ("other", "new")] {
        both.same_entry(name, password).await;
    }
    both.come_in("ada", "new").await;
    both.same("ada lists users".to_owned(), async |mut c| c.user_list().await).await;
    both.same("ada reads ada".to_owned(), async |mut c| c.user_get("ada").await).await;
    both.same("ada reads root".to_owned(), async |mut c| c.user_get("root").await).await;
    both.same("ada reads a role".to_owned(), async |mut c| c.role_get("root").await).await;
    both.same("ada compacts".to_owned(), async |mut c| c.compact(1, None).await).await;
    both.come_in("root", "secret").await;
    both.same("users".to_owned(), async |mut c| c.user_list().await).await;
    both.same("disable".to_owned(), async |mut client| client.auth_disable().await).await;
    // With a token, and without authentication.
    both.same("read".to_owned(), async |mut c| c.get("a", None).await).await;
    both.same_entry("root", "secret").await;
}

async fn manage(both: &mut Both, dice: &mut Dice) {
    let (user, role) = (dice.one(&USERS), dice.one(&ROLES));
    let (key, end) = (dice.one(&KEYS), dice.one(&["", "", "b", "c", "\0"]));
    let what = format!("{user} {role} {key:?} {end:?}");
    match dice.below(12) {
        0 => both
            .same(format!("add user {what}"), async |mut c| c.user_add(user, "pass", None).await)
            .await
            .map(drop),
        1 => {
            both.same(format!("delete user {what}"), async |mut c| c.user_delete(user).await).await.map(drop)
        }
        2 => both.same(format!("add role {what}"), async |mut c| c.role_add(role).await).await.map(drop),
        3 if dice.chance(30) => {
            both.same(format!("delete role {what}"), async |mut c| c.role_delete(role).await).await.map(drop)
        }
        3..6 => both
            .same(format!("grant role {what}"), async |mut c| c.user_grant_role(user, role).await)
            .await
            .map(drop),
        6 => both
            .same(format!("revoke role {what}"), async |mut c| c.user_revoke_role(user, role).await)
            .await
            .map(drop),
        7..10 => {
            let kind = dice.one(&[PermissionType::Read, PermissionType::Write, PermissionType::Readwrite]);
            let permission = match end {
                "" => Permission::new(kind, key),
                "\0" => Permission::new(kind, key).with_from_key(),
                // Whether one that ends before it starts is refused depends on the version.
                end if end <= key => Permission::new(kind, key).with_prefix(),
                end => Permission::new(kind, key).with_range_end(end),
            };
            let granting = async |mut c: Client| c.role_grant_permission(role, permission.clone()).await;
            both.same(format!("grant permission {what} {kind:?}"), granting).await.map(drop)
        }
        10 => {
            let end = || Some(RoleRevokePermissionOptions::new().with_range_end(end));
            let revoking = async |mut c: Client| c.role_revoke_permission(role, key, end()).await;
            both.same(format!("revoke permission {what}"), revoking).await.map(drop)
        }
        _ => {
            both.same(format!("read role {what}"), async |mut c| c.role_get(role).await).await;
            both.same(format!("read user {what}"), async |mut c| c.user_get(user).await).await.map(drop)
        }
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_do_what_is_decided_as_by_etcd() {
    for seed in seeds() {
        let mut both = Both::start(seed).await;
        // No range ends before it starts: what etcd makes of permissions for those is an accident.
        let mut maker = Maker { dice: Dice(seed), revision: 1, from_key: true, ends: &["~~"] };
        grant(&mut both, 11, 600).await;
        enable(&mut both).await;
        both.come_in("root", "secret").await;
        for role in ROLES {
            both.same(format!("add {role}"), async |mut c| c.role_add(role).await).await;
        }
        for _ in 0..8 {
            for _ in 0..12 {
                manage(&mut both, &mut maker.dice).await;
            }
            // Some of them exist, and some of those have their password.
            let user = maker.dice.one(&USERS);
            if both.same_entry(user, "pass").await {
                both.come_in(user, "pass").await;
                for _ in 0..OPERATIONS / 8 {
                    one_operation(&mut both, &mut maker).await;
                }
                both.same("own roles".to_owned(), async |mut c| c.user_get(user).await).await;
                both.same("revoke 11".to_owned(), async |mut c| c.lease_revoke(11).await).await;
                watches(&mut both, &mut maker.dice).await;
                both.come_in("root", "secret").await;
                // It may have been revoked just now.
                grant(&mut both, 11, 600).await;
            }
        }
    }
}

/// Whether a watch is allowed, and what is said if it is not.
async fn watches(both: &mut Both, dice: &mut Dice) {
    for _ in 0..6 {
        let key = dice.one(&KEYS);
        let options = match dice.below(4) {
            0 => WatchOptions::new().with_prefix(),
            1 => WatchOptions::new().with_from_key(),
            2 => WatchOptions::new().with_all_keys(),
            _ => WatchOptions::new(),
        };
        let watching = async |mut client: Client| {
            let told = client.watch(key, Some(options.clone())).await;
            // An error that the client makes of the refusal, and else nothing.
            told.map(drop)
        };
        both.same(format!("watch {key:?} {options:?}"), watching).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_revoked_by_who_may_delete_its_keys() {
    let mut both = Both::start(0).await;
    grant(&mut both, 11, 600).await;
    for key in ["a", "b"] {
        let lease = || Some(PutOptions::new().with_lease(11));
        both.same(format!("put {key}"), async |mut client| client.put(key, "", lease()).await).await;
    }
    enable(&mut both).await;
    both.come_in("root", "secret").await;
    both.same("add".to_owned(), async |mut c| c.user_add("ada", "pass", None).await).await;
    both.same("role".to_owned(), async |mut c| c.role_add("keeper").await).await;
    both.same("grant".to_owned(), async |mut c| c.user_grant_role("ada", "keeper").await).await;
    for (key, kind) in [("a", PermissionType::Readwrite), ("c", PermissionType::Write)] {
        let permission = Permission::new(kind, key);
        both.same(key.to_owned(), async |mut c| c.role_grant_permission("keeper", permission.clone()).await)
            .await;
    }
    both.come_in("ada", "pass").await;
    let put = async |mut client: Client| client.put("a", "1", Some(PutOptions::new().with_lease(11))).await;
    both.same("put under a lease with a key of others".to_owned(), put).await;
    let txn = Txn::new().when([Compare::version("a", CompareOp::Greater, 0)]).and_then([TxnOp::put(
        "a",
        "2",
        Some(PutOptions::new().with_lease(11)),
    )]);
    both.same("the same in a transaction".to_owned(), async |mut client| client.txn(txn.clone()).await).await;
    for (key, kind) in [("c", "a key to write"), ("a", "a key to read too"), ("b", "neither")] {
        let previous = || Some(PutOptions::new().with_prev_key());
        both.same(format!("put with the previous value: {kind}"), async |mut c| {
            c.put(key, "", previous()).await
        })
        .await;
        let forbidden = Txn::new().or_else([TxnOp::get(key, None)]);
        both.same(format!("a branch that is not taken: {kind}"), async |mut c| {
            c.txn(forbidden.clone()).await
        })
        .await;
        let nested = Txn::new().and_then([TxnOp::txn(Txn::new().and_then([TxnOp::get(key, None)]))]);
        both.same(format!("nested: {kind}"), async |mut c| c.txn(nested.clone()).await).await;
    }
    both.same("revoke".to_owned(), async |mut client| client.lease_revoke(11).await).await;
    both.same("defragment".to_owned(), async |mut client| client.defragment().await.map(drop)).await;
    let snapshot = async |mut client: Client| client.snapshot().await?.message().await.map(drop);
    both.same("snapshot".to_owned(), snapshot).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_by_the_clock_and_when_it_is_forgotten() {
    const SECOND: Duration = Duration::from_secs(1);
    let etcd = EmbeddedEtcd::in_process();
    let mut root = etcd.client().await.unwrap();
    root.user_add("root", "secret", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    etcd.faults().set_token_ttl(3 * SECOND);
    root.auth_enable().await.unwrap();
    let options = || etcd_client::ConnectOptions::new().with_user("root", "secret");
    let refused =
        async |client: &mut Client| client.get("a", None).await.err().map(|error| error.to_string());
    let mut client = etcd.client_with(options()).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(refused(&mut client).await, None);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(refused(&mut client).await, None, "its use prolonged it");
    tokio::time::sleep(4 * SECOND).await;
    assert!(refused(&mut client).await.unwrap().contains("invalid auth token"));
    let mut client = etcd.client_with(options()).await.unwrap();
    assert_eq!(refused(&mut client).await, None);
    etcd.faults().forget_tokens();
    assert!(refused(&mut client).await.unwrap().contains("invalid auth token"));
    let mut client = etcd.client_with(options()).await.unwrap();
    etcd.faults().restart();
    assert!(refused(&mut client).await.is_some(), "a restarted server knows no tokens");
}
