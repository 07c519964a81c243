//! Values and keys between an engine and its application: JSON, attributes as types, literal keys, state of callbacks.

use crate::support::{Etcd, eventually};
use etcd_rules::firing::Effect;
use etcd_rules::pattern::AttributeError;
use etcd_rules::testing::Trial;
use etcd_rules::{
    Attributes, BoxError, Engine, Error, ErrorKind, Firing, FiringError, Outcome, Rule, Value, key,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Order {
    cpus: u32,
    tags: Vec<String>,
}

/// A trial of a rule over the order of one server in one zone.
async fn order<E, Fut>(text: &str, callback: impl Fn(Firing) -> Fut + Send + Sync + 'static) -> Trial
where
    Fut: Future<Output = Result<Outcome, E>> + Send + 'static,
    E: Into<BoxError>,
{
    let rule = Rule::new("order").when(key("/orders/:zone/:id").exists()).run(callback);
    let keys = [("/orders/north/7", text), ("/later/7", text), ("/on-net/:id", "taken")];
    Trial::of(rule).unwrap().attribute("zone", "north").attribute("id", "7").keys(keys)
}

#[tokio::test]
async fn json_goes_in_and_out() {
    let trial = order(r#"{"cpus": 8, "tags": ["a"]}"#, async |firing: Firing| -> Result<Outcome, Error> {
        let shown: Order = firing.json("/orders/:zone/:id")?;
        assert_eq!(firing.get_json::<Order>("/later/:id").await?, shown);
        assert_eq!(firing.get_json_opt::<Order>("/nowhere/:id").await?, None);
        let doubled = Order { cpus: 2 * shown.cpus, ..shown };
        let plain = Value::from(serde_json::json!({"done": true}));
        Ok(firing.commit().put_json("/doubled/:id", &doubled).put("/plain/:id", plain).into())
    });
    let tried = trial.await.run().await.unwrap();
    assert_eq!(tried.keys["/doubled/7"], r#"{"cpus":16,"tags":["a"]}"#);
    assert_eq!(tried.keys["/plain/7"], r#"{"done":true}"#);
}

#[tokio::test]
async fn what_is_no_such_json_names_the_key_and_has_its_source() {
    let trial = order("{\"cpus\": true}", async |firing: Firing| -> Result<Outcome, Error> {
        let error = firing.json::<Order>("/orders/:zone/:id").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert!(error.to_string().contains("`/orders/north/7` is not the JSON"), "{error}");
        let source = std::error::Error::source(&error).expect("a source");
        assert!(
            source.downcast_ref::<Arc<serde_json::Error>>().is_some() || source.is::<serde_json::Error>()
        );
        assert!(matches!(firing.get_json::<Order>("/later/:id").await, Err(FiringError::Json { .. })));
        // Keys that are no text can't be written: nothing of the commit takes effect.
        Ok(firing.commit().put("/a/:id", "").put_json("/b/:id", &BTreeMap::from([((1, 2), 3)])).into())
    });
    let tried = trial.await.run().await.unwrap();
    let text = format!("{:?}", tried.outcome);
    assert!(text.contains("can't be written as JSON") && !tried.keys.contains_key("/a/7"), "{text}");
}

#[tokio::test]
async fn attributes_have_types() {
    #[derive(Deserialize)]
    struct Place<'a> {
        zone: &'a str,
        id: u16,
    }
    let trial = order("", async |firing: Firing| -> Result<Outcome, Error> {
        assert_eq!(firing.attribute_as::<u8>("id")?, 7);
        let error = firing.attribute_as::<u8>("zone").unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains(":zone")), (ErrorKind::InvalidValue, true));
        assert!(matches!(firing.attribute_as::<u8>("nothing"), Err(FiringError::UnknownAttribute(_))));
        let place: Place<'_> = firing.attributes().deserialize().map_err(FiringError::from)?;
        assert_eq!((place.zone, place.id), ("north", 7));
        Ok(Outcome::done())
    });
    trial.await.run().await.unwrap();
}

/// Attributes are made of whatever has pairs.
#[test]
fn attributes_come_from_maps() {
    let expected = Attributes::from([("geo", "eu"), ("id", "7")]);
    let pairs = || [("id".to_owned(), "7".to_owned()), ("geo".to_owned(), "eu".to_owned())];
    assert_eq!(Attributes::from(HashMap::from(pairs())), expected);
    assert_eq!(Attributes::from(BTreeMap::from(pairs())), expected);
    assert_eq!(Attributes::from(Vec::from(pairs())), expected);
    assert_eq!(pairs().into_iter().collect::<Attributes>(), expected);
    let error: AttributeError = expected.deserialize::<BTreeMap<&str, u8>>().unwrap_err();
    assert!(error.to_string().contains(":geo"), "{error}");
}

/// The value `:id` is a name like any other, as long as no key made of it is read as a pattern.
#[tokio::test]
async fn a_key_made_of_a_value_is_literal() {
    let trial = order(":id", async |firing: Firing| -> Result<Outcome, Error> {
        let net = format!("/on-net/{}", firing.value("/orders/:zone/:id")?);
        assert_eq!(firing.format(&net)?, "/on-net/7", "as a pattern it is another key");
        assert_eq!(firing.get_key(&net).await?, "taken");
        assert_eq!(firing.get_key_opt("/on-net/7").await?, None);
        assert!(matches!(firing.get_key("/on-net/7").await, Err(FiringError::Absent { .. })));
        assert!(matches!(firing.get_key_opt("").await, Err(FiringError::EmptyKey)));
        let (ttl, gone) = (Duration::from_secs(9), format!("{net}/gone"));
        Ok(firing.commit().put_key(&*net, "new").put_key_ttl("//:a/", "", ttl).delete_key(gone).into())
    });
    let tried = trial.await.run().await.unwrap();
    let put = |key: &str, value: &str, ttl| Effect::Put { key: key.into(), value: value.into(), ttl };
    let expected = [
        put("/on-net/:id", "new", None),
        put("//:a/", "", Some(Duration::from_secs(9))),
        Effect::Delete { key: "/on-net/:id/gone".into() },
    ];
    assert_eq!(tried.effects, expected);
}

#[derive(Debug, thiserror::Error)]
enum OwnError {
    #[error("no network is left")]
    Full,
    #[error(transparent)]
    Rules(#[from] FiringError),
}

struct Provisioner {
    done: AtomicUsize,
}

impl Provisioner {
    async fn provision(self: Arc<Self>, firing: Firing) -> Result<Outcome, OwnError> {
        if firing.attribute("id")? == "full" {
            return Err(OwnError::Full);
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        Ok(firing.commit().delete("/jobs/:id").into())
    }
}

/// Callbacks of every shape that an application has, on a real etcd: methods, captures, errors of its own.
#[tokio::test]
async fn callbacks_have_state_and_errors_of_their_own() {
    let etcd = Etcd::start().await;
    let provisioner = Arc::new(Provisioner { done: AtomicUsize::new(0) });
    let log = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = log.clone();
    let engine = Engine::builder("shapes", [etcd.endpoint()])
        .rule(
            Rule::new("jobs")
                .when(key("/jobs/:id").exists())
                .run_with(provisioner.clone(), Provisioner::provision),
        )
        .rule(Rule::new("notes").when(key("/notes/:id").exists()).run(move |firing| {
            let noted = noted.clone();
            async move {
                noted.lock().unwrap().push(firing.attribute("id")?.to_owned());
                Ok::<Outcome, FiringError>(firing.commit().delete("/notes/:id").into())
            }
        }))
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    for key in ["/jobs/1", "/jobs/2", "/jobs/full", "/notes/a"] {
        etcd.put(key, "").await;
    }
    eventually(Duration::from_secs(10), "all are done", async || {
        etcd.keys("/jobs/").await == ["/jobs/full"] && etcd.keys("/notes/").await.is_empty()
    })
    .await;
    assert_eq!((provisioner.done.load(Ordering::SeqCst), log.lock().unwrap().join("")), (2, "a".to_owned()));
    engine.shutdown(Duration::from_secs(5)).await.unwrap();
}
