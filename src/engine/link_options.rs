//! The options of the link to etcd: its credentials, its cluster, and what it waits for.

use super::builder::EngineBuilder;
use crate::etcd::{Credentials, CredentialsOption};
use crate::firing::BoxError;
use etcd_client::ConnectOptions;
use std::sync::Arc;
use std::time::Duration;

impl EngineBuilder {
    /// The prefix under which the engine works, and which its patterns don't spell out, as with etcd's own namespace
    /// client. With `/prod`, the pattern `/servers/:id` means the keys `/prod/servers/…`. At most 1000 bytes; default:
    /// none. So two environments share a cluster.
    ///
    /// It is before every key: those that rules and callbacks read, those that commits write, and those of the engine's
    /// own [namespace](EngineBuilder::namespace). Engines under different prefixes know nothing of each other. Keys are
    /// told as patterns spell them, in logs, events, explanations and pages; the prefix is told by
    /// [`EngineHandle::key_prefix`](crate::EngineHandle::key_prefix), by the overview of the
    /// [endpoint](crate::http), and in the log when the engine starts. Only a callback's own
    /// [client](crate::Firing::client) has no prefix: [`Firing::key_prefix`](crate::Firing::key_prefix) tells it.
    ///
    /// It is put before the key as it is. If patterns begin with a slash, it needs none at its end: `/prod` and not
    /// `/prod/`. Without any slash between, keys of the prefix `/a` may be those of `/ab`.
    ///
    /// The user of the engine needs permission for the keys as they are in etcd.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// Credentials, TLS and other options of `etcd_client`. By default none are set.
    ///
    /// The engine itself sets require-leader, HTTP/2 keep-alive and the
    /// [connect time-out](EngineBuilder::connect_timeout), whatever the options say. TLS, and endpoints that
    /// begin with `https://`, need the feature `tls`.
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.connect_options = Some(options);
        self
    }

    /// Where the engine gets its credentials from, so that they can change while it runs: an async function
    /// that returns the present ones, which it reads from a file or asks a service for. By default the engine
    /// has those of its [`connect_options`](EngineBuilder::connect_options) for ever.
    ///
    /// It is asked for each new connection and whenever etcd has refused the password, at most once a second.
    /// So it needs no watch on the file. New certificates replace the connections one after the other;
    /// nothing is lost for that, and no callback is cancelled.
    ///
    /// It runs on the runtime of the [callbacks](EngineBuilder::runtime), and has the [request
    /// time-out](EngineBuilder::request_timeout) for its answer. If it fails, or if etcd refuses what it
    /// returned but not what is in use, the latter stays in use. Then the engine's health says
    /// [`auth`](crate::health::Reason::Auth) with the error's text, and the function is asked again, every 8
    /// s at the latest. So let no error contain a secret.
    ///
    /// On a [channel](crate::Engine::builder_with_channel) of the application only the user has an effect.
    ///
    /// ```
    /// use etcd_rules::{Credentials, Engine, Error, Firing, Rule, key};
    /// use tokio::fs::read_to_string;
    ///
    /// # async fn check(_: Firing) -> Result<(), Error> { Ok(()) }
    /// let engine = Engine::builder("checker", ["127.0.0.1:2379"])
    ///     .rule(Rule::new("check").when(key("/servers/:id").exists()).run(check))
    ///     .credentials(|| async {
    ///         let password = read_to_string("/run/secrets/etcd/password").await?;
    ///         Ok::<_, std::io::Error>(Credentials::new().user("checker", password.trim_end()))
    ///     })
    ///     .build()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn credentials<F, Fut, E>(mut self, load: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.credentials = Some(CredentialsOption::new(Arc::new(move || {
            let loading = load();
            Box::pin(async move { loading.await.map_err(Into::into) })
        })));
        self
    }

    /// How long making a connection to etcd may take. It is more than zero; the default is 2 s. It has no
    /// effect on a [channel](crate::Engine::builder_with_channel) of the application.
    ///
    /// If it is too short, a distant etcd is never reached. If it is too long, the engine moves to the next
    /// endpoint late.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long one request to etcd may take, and how long the answer to a keep-alive ping. It is more than
    /// zero; the default is 5 s.
    ///
    /// Keep it below the lock TTL. Over a connection that is not silent, a lock or commit whose answer was
    /// lost is sent again only after this time, and by then the lock may be lost too. If it is too short,
    /// requests fail that a busy etcd would have answered, and the engine moves from endpoint to endpoint.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// The id of the cluster that the endpoints are of, as `etcdctl endpoint status -w fields` tells it.
    /// Default: the one that more than half of the endpoints name when the engine starts; without such a
    /// majority it is not [ready](crate::EngineHandle::ready), and its health names every id.
    ///
    /// An endpoint of another cluster is left before anything is written there. If no endpoint has named the
    /// known cluster for 10 s, an engine that was not told its id starts again with the other one. One that
    /// was told never does: a wrong id keeps it from starting, and so does a cluster that was made anew.
    pub fn cluster_id(mut self, id: u64) -> Self {
        self.options.cluster_id = Some(id);
        self
    }

    /// After this time of silence, a watch is asked for a sign of life. If none comes within the same time
    /// again, it is opened anew on another endpoint. The time is more than zero; the default is 10 s.
    ///
    /// A shorter time means more requests on quiet watches, and the engine gives up streams that are only
    /// slow. With a longer time, changes come late after a stream has died silently. No change is lost either
    /// way.
    pub fn watch_silence(mut self, silence: Duration) -> Self {
        self.options.watch_silence = silence;
        self
    }

    /// A link that had to leave its member goes back there within this time of the member's return, at a
    /// random moment of the second half. So engines that fled from a member don't stay together on the
    /// others. More than zero; default: 10 minutes.
    ///
    /// A move costs a connection and a request for each watch. Nothing is lost or cancelled for it. With a
    /// short time, a member that comes and goes makes the links come and go too. With a long one, the other
    /// members carry more until then.
    pub fn rebalance(mut self, within: Duration) -> Self {
        self.options.rebalance = within;
        self
    }
}
