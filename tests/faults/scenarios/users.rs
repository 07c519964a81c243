//! What happens to users, passwords, permissions, tokens and certificates.

use crate::access::PASSWORD;
use crate::history::Expect;
use crate::jobs::{self, Job};
use crate::scenario::Scenario;
use crate::world::{Settings, World};
use etcd_client::{Client, ConnectOptions, Permission};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

pub fn all() -> Vec<Scenario> {
    let mut all = vec![
        Scenario {
            settings: || with_users(vec!["--auth-token-ttl=3".to_owned()]),
            ..Scenario::new(
                "tokens-expire",
                "simple tokens live for 3 s, and users are added meanwhile, which outdates all tokens",
                |world| Box::pin(tokens(world)),
            )
        },
        Scenario {
            // The default cost: who checks a password for every callback has the servers do nothing else.
            settings: || Settings { flags: vec!["--auth-token-ttl=3".to_owned()], ..with_users(Vec::new()) },
            ..Scenario::new(
                "tokens-expire-at-full-cost",
                "simple tokens live for 3 s, and to check a password costs the servers what it costs by default",
                |world| Box::pin(tokens(world)),
            )
        },
        Scenario {
            settings: || Settings { jwt: Some(4), ..with_users(Vec::new()) },
            ..Scenario::new(
                "signed-tokens-expire",
                "signed tokens (JWT) live for 4 s, and users are added meanwhile",
                |world| Box::pin(tokens(world)),
            )
        },
        Scenario {
            // For up to 3 s no lease can be renewed: 2 s until the new password is there, and 1 s until it is asked
            // for.
            settings: || Settings { lock_ttl: 10 * SECOND, ..with_users(Vec::new()) },
            ..Scenario::new(
                "password-changed",
                "the engines' password changes again and again, in etcd first, and for engines a moment later",
                |world| Box::pin(password(world)),
            )
        },
        Scenario {
            settings: || Settings { wide: true, ..with_users(Vec::new()) },
            // A current server renews no lease with keys that the user may not change.
            expect: || Expect { cancels: true, ..Expect::default() },
            ..Scenario::new(
                "permission-lost",
                "the engines' role loses what it may, gets it back in part, and then all of it",
                |world| Box::pin(permission(world)),
            )
        },
    ];
    if cfg!(feature = "tls") {
        all.extend(certificates::all());
    }
    all
}

fn with_users(mut flags: Vec<String>) -> Settings {
    // A password costs the servers a few milliseconds, so that those who watch are served whatever engines do.
    flags.push("--bcrypt-cost=6".to_owned());
    Settings { members: 3, engines: 2, rate: 10, users: true, flags, ..Settings::default() }
}

async fn tokens(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 12 * SECOND).await;
    // They read after their tokens have ended.
    let job = Job { work_ms: 9_000, reads: 3, ..Job::default() };
    world.load.ask(jobs::LOCKED, job, 40).await;
    let mut old = world.client().await;
    sleep(6 * SECOND).await;
    let refused = old.get("\0", None).await.is_err();
    world.felt("a token that was not used has ended", u64::from(refused));
    let end = Instant::now() + 10 * SECOND;
    let mut added = 0;
    while Instant::now() < end {
        let name = format!("other{added}");
        persist(world, async |client| match client.user_add(name.as_str(), PASSWORD, None).await {
            // It was added by a try whose answer did not come.
            Err(error) if error.to_string().contains("already exists") => Ok(()),
            done => done.map(drop),
        })
        .await;
        added += 1;
        world.note("a user is added");
        world.pause(0.5..2.5).await;
    }
    world.felt("users were added", added);
}

/// Does something as the administrator, however often that has to be tried: servers that check many passwords are busy.
async fn persist(world: &World, act: impl AsyncFn(&mut Client) -> Result<(), etcd_client::Error>) {
    let deadline = Instant::now() + 90 * SECOND;
    loop {
        let mut client = world.client().await;
        match act(&mut client).await {
            Ok(()) => return,
            Err(error) => assert!(Instant::now() < deadline, "the administrator is not served: {error}"),
        }
    }
}

/// Whether the engines' user is let in, with the password that engines have.
async fn engine_client(world: &World) -> Result<Client, etcd_client::Error> {
    let options = ConnectOptions::new().with_user("engine", PASSWORD);
    Client::connect([world.cluster.members[0].address().to_string()], Some(options)).await
}

async fn change_password(world: &World, password: &str) {
    persist(world, async |client| client.user_change_password("engine", password).await.map(drop)).await;
}

async fn password(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 15 * SECOND).await;
    for round in 0..3 {
        let password = format!("another{round}");
        change_password(world, &password).await;
        world.note("the password is another one");
        world.pause(0.0..2.0).await;
        world.tell_password(&password);
        world.note("engines find the new one");
        world.pause(2.0..4.0).await;
    }
    world.felt("the old password is refused", u64::from(engine_client(world).await.is_err()));
}

async fn permission(world: &mut World) {
    world.begin_long_work(jobs::LOCKED, 12, 10 * SECOND).await;
    let prefixes = ["/todo/", "/done/", crate::world::NAMESPACE];
    for prefix in prefixes {
        persist(world, async |client| {
            let end = etcd_client::RoleRevokePermissionOptions::new().with_prefix();
            client.role_revoke_permission("engine", prefix, Some(end)).await.map(drop)
        })
        .await;
    }
    world.note("the engines may nothing");
    world.pause(3.0..10.0).await;
    let refused = match engine_client(world).await {
        Ok(mut client) => client.get("/todo/x", None).await.is_err(),
        Err(_) => true,
    };
    world.felt("the engines' user is refused", u64::from(refused));
    // All that the rules need which do the jobs, and not what covers it: one watch was of all of it.
    let kinds = jobs::KINDS.map(|kind| jobs::todo(kind, ""));
    let parts = kinds.iter().map(String::as_str).chain(["/done/", crate::world::NAMESPACE]);
    for prefix in parts {
        grant(world, Permission::read_write(prefix).with_prefix()).await;
    }
    world.note("the engines may do jobs, and see no other kinds");
    let asked = world.load.ask(jobs::LOCKED, Job::default(), 20).await;
    world.felt("jobs are done without permission for what covers them", done_of(world, &asked).await);
    grant(world, Permission::read_write("/todo/").with_prefix()).await;
    world.note("the engines may everything again");
}

async fn grant(world: &World, permission: Permission) {
    persist(world, async |client| client.role_grant_permission("engine", permission.clone()).await.map(drop))
        .await;
}

/// How many of these jobs are done, if all are within the time that engines need to start again.
async fn done_of(world: &World, ids: &[String]) -> u64 {
    let deadline = Instant::now() + 60 * SECOND;
    let mut client = world.client().await;
    loop {
        let mut done = 0;
        for id in ids {
            let found = client.get(jobs::done(jobs::LOCKED, id), None).await;
            done += u64::from(found.is_ok_and(|found| found.count() > 0));
        }
        if done == ids.len() as u64 {
            return done;
        }
        if Instant::now() > deadline {
            return 0;
        }
        sleep(SECOND / 2).await;
    }
}

#[cfg(not(feature = "tls"))]
mod certificates {
    pub fn all() -> Vec<super::Scenario> {
        Vec::new()
    }
}

/// What needs TLS.
#[cfg(feature = "tls")]
mod certificates {
    use super::*;
    use crate::proxy::Proxy;

    pub fn all() -> Vec<Scenario> {
        vec![
            Scenario {
                settings: || Settings { tls: true, ..with_users(Vec::new()) },
                ..Scenario::new(
                    "certificates-rotated",
                    "members and clients get new certificates of the same authority, and connections are reset",
                    |world| Box::pin(rotated(world)),
                )
            },
            Scenario {
                settings: || Settings { tls: true, ..Settings::default() },
                ..Scenario::new(
                    "certificates-expired",
                    "the members' certificate expires, connections are reset, and a new one comes",
                    |world| Box::pin(expired(world)),
                )
            },
        ]
    }

    async fn rotated(world: &mut World) {
        world.begin_long_work(jobs::LOCKED, 12, 12 * SECOND).await;
        let certificates = world.cluster.access.tls.clone().expect("the cluster has certificates");
        for round in 0..3 {
            certificates.issue("server", None);
            // What was used before is not good for long.
            certificates.issue("client", (round < 2).then_some(6 * SECOND));
            world.note("there are new certificates");
            world.links.iter().flatten().for_each(Proxy::reset);
            world.pause(2.0..4.0).await;
        }
        let reset = world.sum_of_links(|felt| felt.reset);
        world.felt("connections were made anew", reset);
    }

    async fn expired(world: &mut World) {
        world.begin_long_work(jobs::LOCKED, 12, 12 * SECOND).await;
        let certificates = world.cluster.access.tls.clone().expect("the cluster has certificates");
        certificates.issue("server", Some(2 * SECOND));
        sleep(3 * SECOND).await;
        world.links.iter().flatten().for_each(Proxy::reset);
        world.note("the certificate of the members has expired");
        world.pause(3.0..12.0).await;
        let address = world.cluster.members[0].address().to_string();
        let refused = match world.cluster.access.stranger(&address).await {
            Ok(mut client) => client.get("\0", None).await.is_err(),
            Err(_) => true,
        };
        world.felt("a fresh client refuses the members", u64::from(refused));
        certificates.issue("server", None);
        world.note("there is a new certificate");
    }
}
