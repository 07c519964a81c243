//! Credentials that change under a running engine: it asks the application, and nothing is lost or cancelled for it.

use crate::support::{Etcd, Proxy, eventually};
use etcd_client::{Client, GetOptions};
use etcd_rules::health::Reason;
use etcd_rules::{
    Credentials, Engine, EngineBuilder, Error, Firing, Health, Outcome, Rule, RunningEngine, key,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const CALLBACKS: usize = 10;
const NAMESPACES: [&str; 2] = ["/etcd-rules/", "/todo/"];

/// What the application has for the engine, and how often it was asked.
#[derive(Clone, Default)]
struct Secrets(Arc<Mutex<Secret>>, Arc<AtomicUsize>);

#[derive(Clone, Debug, Default)]
enum Secret {
    #[default]
    None,
    Password(&'static str),
    Fails,
    Panics,
    Hangs,
}

#[derive(Debug, thiserror::Error)]
#[error("the file with the password is gone")]
struct NoFile;

impl Secrets {
    fn set(&self, secret: Secret) {
        *self.0.lock().unwrap() = secret;
    }

    fn asked(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    async fn load(self) -> Result<Credentials, NoFile> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let secret = self.0.lock().unwrap().clone();
        match secret {
            Secret::None => Ok(Credentials::new()),
            Secret::Password(password) => Ok(Credentials::new().user("engine", password)),
            Secret::Fails => Err(NoFile),
            Secret::Panics => panic!("there is no file"),
            Secret::Hangs => std::future::pending().await,
        }
    }
}

/// Callbacks that began, by attempt, and those that came to their end.
#[derive(Default)]
struct Work {
    attempts: Mutex<Vec<u32>>,
    ended: AtomicUsize,
}

impl Work {
    fn begun(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }

    /// Nothing was cancelled, and nothing failed.
    fn assert_undisturbed(&self, jobs: usize) {
        assert_eq!(*self.attempts.lock().unwrap(), vec![1; jobs]);
        assert_eq!(self.ended.load(Ordering::SeqCst), jobs);
    }
}

/// A rule with callbacks that take so long, and read something then.
fn working(builder: EngineBuilder, time: Duration) -> (EngineBuilder, Arc<Work>) {
    let work = Arc::new(Work::default());
    let counted = work.clone();
    let rule = Rule::new("work").when(key("/todo/:id").exists()).run(move |firing: Firing| {
        let work = counted.clone();
        async move {
            work.attempts.lock().unwrap().push(firing.attempt());
            sleep(time).await;
            firing.get("/todo/:id").await?;
            work.ended.fetch_add(1, Ordering::SeqCst);
            Ok::<Outcome, Error>(firing.commit().delete("/todo/:id").into())
        }
    });
    // A current server renews no lease while it refuses the token.
    (builder.lock_ttl(10 * SECOND).rule(rule), work)
}

async fn ask_for_work(etcd: &Etcd, name: &str) {
    let client = administrator(etcd).await;
    for id in 0..CALLBACKS {
        client.kv_client().put(format!("/todo/{name}{id}"), "", None).await.unwrap();
    }
}

async fn is_done(etcd: &Etcd) -> bool {
    let client = administrator(etcd).await;
    let options = GetOptions::new().with_prefix().with_count_only();
    client.kv_client().get("/todo/", Some(options)).await.unwrap().count() == 0
}

async fn ready(engine: &RunningEngine) {
    eventually(30 * SECOND, "ready", async || engine.health() == Health::Ready).await;
}

/// A new one each time: tokens end.
async fn administrator(etcd: &Etcd) -> Client {
    etcd.client_with(etcd.connect_options().with_user("root", "secret")).await
}

async fn change_password(etcd: &Etcd, password: &str) {
    administrator(etcd).await.auth_client().user_change_password("engine", password).await.unwrap();
}

/// The password changes in etcd first, and a moment later in the file.
async fn password_changes_under_a_running_engine(etcd: &Etcd) {
    etcd.enable_auth(&NAMESPACES).await;
    let secrets = Secrets::default();
    secrets.set(Secret::Password("secret"));
    let given = secrets.clone();
    let builder = Engine::builder("credentials", [etcd.endpoint()]).credentials(move || given.clone().load());
    let (builder, work) = working(builder, 6 * SECOND);
    let engine = builder.build().unwrap().start().await.unwrap();
    ready(&engine).await;
    for (round, password) in ["rotated once", "rotated twice"].into_iter().enumerate() {
        ask_for_work(etcd, password).await;
        let begun = (round + 1) * CALLBACKS;
        eventually(20 * SECOND, "all run", async || work.begun() == begun).await;
        change_password(etcd, password).await;
        sleep(2 * SECOND).await;
        secrets.set(Secret::Password(password));
        eventually(40 * SECOND, "everything is done", async || is_done(etcd).await).await;
        ready(&engine).await;
        assert!(!engine.health().to_string().contains("rotated"));
    }
    work.assert_undisturbed(2 * CALLBACKS);
    let old = etcd_client::Client::connect(
        [etcd.endpoint()],
        Some(etcd.connect_options().with_user("engine", "secret")),
    );
    assert!(old.await.is_err(), "the first password is of no use any more");
    engine.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_changes_under_a_running_engine() {
    password_changes_under_a_running_engine(&Etcd::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_changes_where_tokens_are_signed() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "the secret of these tokens").unwrap();
    let flag = format!("--auth-token=jwt,priv-key={},sign-method=HS256,ttl=3s", key.path().display());
    password_changes_under_a_running_engine(&Etcd::builder().flag(flag).start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_load_or_is_refused_leaves_the_old_in_use() {
    let etcd = Etcd::start().await;
    etcd.enable_auth(&NAMESPACES).await;
    let proxy = Proxy::start(etcd.endpoint());
    let secrets = Secrets::default();
    secrets.set(Secret::Fails);
    let given = secrets.clone();
    let builder = Engine::builder("credentials", [proxy.endpoint()])
        .request_timeout(2 * SECOND)
        .credentials(move || given.clone().load());
    let (builder, work) = working(builder, SECOND);
    let engine = builder.build().unwrap().start().await.unwrap();
    let says = async |text: &str| {
        eventually(20 * SECOND, text, async || {
            engine.health().has(Reason::Auth) && engine.health().to_string().contains(text)
        })
        .await;
    };
    says("credentials could not be loaded: the file with the password is gone").await;
    secrets.set(Secret::Password("secret"));
    ready(&engine).await;
    for (secret, told) in [
        (Secret::Fails, "the file with the password is gone"),
        (Secret::Panics, "panicked"),
        (Secret::Hangs, "nothing came within 2s"),
        (Secret::Password("wrong"), "the new credentials are refused, and the old ones are in use"),
    ] {
        // It is asked once a second at most.
        sleep(2 * SECOND).await;
        secrets.set(secret.clone());
        // All connections are new, and so each asks.
        proxy.cut();
        proxy.heal();
        let before = Instant::now();
        ask_for_work(&etcd, "a").await;
        eventually(20 * SECOND, "it works", async || is_done(&etcd).await).await;
        assert!(before.elapsed() < 10 * SECOND, "{secret:?}: {:?}", before.elapsed());
        says(told).await;
        let (asked, since) = (secrets.asked(), Instant::now());
        sleep(5 * SECOND).await;
        let asked = secrets.asked() - asked;
        assert!(
            (1..=5).contains(&asked),
            "{secret:?}: with back-off: {asked} times in {:?}",
            since.elapsed()
        );
        secrets.set(Secret::Password("secret"));
        ready(&engine).await;
    }
    // What was refused is good a little later.
    sleep(2 * SECOND).await;
    secrets.set(Secret::Password("another"));
    proxy.cut();
    proxy.heal();
    says("the new credentials are refused").await;
    change_password(&etcd, "another").await;
    ready(&engine).await;
    ask_for_work(&etcd, "b").await;
    eventually(20 * SECOND, "it works", async || is_done(&etcd).await).await;
    work.assert_undisturbed(5 * CALLBACKS);
    assert!(!engine.health().to_string().contains("another"));
    engine.shutdown(5 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_users_nothing_of_it_is_needed() {
    let etcd = Etcd::start().await;
    let secrets = Secrets::default();
    let given = secrets.clone();
    let builder = Engine::builder("credentials", [etcd.endpoint()]);
    let (builder, work) = working(builder.credentials(move || given.clone().load()), SECOND);
    let engine = builder.build().unwrap().start().await.unwrap();
    ready(&engine).await;
    for id in 0..CALLBACKS {
        etcd.put(&format!("/todo/{id}"), "").await;
    }
    eventually(20 * SECOND, "it works", async || etcd.keys("/todo/").await.is_empty()).await;
    work.assert_undisturbed(CALLBACKS);
    assert!((1..=3).contains(&secrets.asked()), "{}: three links at the same time", secrets.asked());
    engine.shutdown(5 * SECOND).await.unwrap();
}

/// With TLS, on both sides, and users.
#[cfg(feature = "tls")]
mod certificates {
    use super::*;
    use crate::support::Certificates;

    /// Reads the files each time.
    fn load(files: &[std::path::PathBuf; 3], password: &'static str) -> std::io::Result<Credentials> {
        let [authority, certificate, key] = files.each_ref().map(std::fs::read);
        Ok(Credentials::new().user("engine", password).authority(authority?).certificate(certificate?, key?))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn certificates_are_replaced_one_connection_after_the_other() {
        let certificates = Certificates::make();
        let etcd = Etcd::builder().certificates(&certificates).start().await;
        etcd.enable_auth(&NAMESPACES).await;
        let proxy = Proxy::start(etcd.endpoint());
        let (files, password) = (certificates.client_files(), Arc::new(Mutex::new("secret")));
        let given = password.clone();
        // The first one ends soon. A connection that is open stays open.
        certificates.issue("client", Some(6 * SECOND));
        let builder = Engine::builder("credentials", [format!("https://{}", proxy.endpoint())]).credentials(
            move || {
                let loaded = load(&files, *given.lock().unwrap());
                async { loaded }
            },
        );
        let (builder, work) = working(builder, 14 * SECOND);
        let engine = builder.build().unwrap().start().await.unwrap();
        ready(&engine).await;
        ask_for_work(&etcd, "a").await;
        eventually(20 * SECOND, "all run", async || work.begun() == CALLBACKS).await;
        assert_eq!(proxy.accepted(), 3);
        sleep(6 * SECOND).await;

        // A password that etcd refuses has the engine ask, and it finds new certificates too.
        certificates.issue("client", None);
        *password.lock().unwrap() = "another";
        change_password(&etcd, "another").await;
        // Somebody has to need a token.
        administrator(&etcd).await.kv_client().put("/todo/last", "", None).await.unwrap();
        eventually(20 * SECOND, "three new connections", async || proxy.accepted() == 6).await;
        eventually(20 * SECOND, "the old ones are closed", async || proxy.connections() == 3).await;
        eventually(40 * SECOND, "everything is done", async || is_done(&etcd).await).await;
        work.assert_undisturbed(CALLBACKS + 1);
        ready(&engine).await;
        assert_eq!(proxy.accepted(), 6, "each was replaced once");

        // All connections are lost. With the first certificate, which has expired, nobody would be let in.
        proxy.cut();
        proxy.heal();
        ask_for_work(&etcd, "b").await;
        eventually(40 * SECOND, "it works", async || is_done(&etcd).await).await;
        work.assert_undisturbed(2 * CALLBACKS + 1);

        // A file that is none: the old ones stay in use.
        std::fs::write(&certificates.client_files()[1], "no certificate").unwrap();
        proxy.cut();
        proxy.heal();
        eventually(20 * SECOND, "it is told", async || {
            engine
                .health()
                .to_string()
                .contains("the new credentials are refused, and the old ones are in use")
        })
        .await;
        ask_for_work(&etcd, "c").await;
        eventually(40 * SECOND, "it works", async || is_done(&etcd).await).await;
        certificates.issue("client", None);
        ready(&engine).await;
        work.assert_undisturbed(3 * CALLBACKS + 1);
        engine.shutdown(5 * SECOND).await.unwrap();
    }
}
