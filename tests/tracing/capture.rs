//! Keeps what the process records through `tracing`, and finds what is of an engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, OnceLock};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

type Fields = BTreeMap<String, String>;

/// A span as it was when it closed, or an event.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) target: String,
    pub(super) level: Level,
    pub(super) fields: Fields,
    /// Names of the spans around it, the outermost first, and their fields.
    pub(super) around: Vec<(String, Fields)>,
    pub(super) is_span: bool,
}

impl Told {
    pub(super) fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    /// The engines that it is of, each told by a field of its own or of a span around it.
    fn engines(&self) -> BTreeSet<&str> {
        let all = std::iter::once(&self.fields).chain(self.around.iter().map(|(_, fields)| fields));
        all.filter_map(|fields| fields.get("engine").map(String::as_str)).collect()
    }

    pub(super) fn path(&self) -> String {
        let mut names: Vec<&str> = self.around.iter().map(|(name, _)| name.as_str()).collect();
        names.push(&self.name);
        names.join("/")
    }
}

/// Keeps everything that is told of an engine in this process, by the engine's name. The rest, of which the crates
/// below etcd-rules tell much, is of no test: a look at one engine must not go through it while engines wait to tell.
#[derive(Clone, Default)]
pub(super) struct Capture(Arc<Mutex<HashMap<String, Vec<Told>>>>);

struct Seen<'a>(&'a mut Fields);

impl Visit for Seen<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Seen(&mut fields));
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        values.record(&mut Seen(extensions.get_mut().unwrap()));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Seen(&mut fields));
        let scope = context.event_scope(event);
        let around = scope.into_iter().flat_map(|scope| scope.from_root());
        let around = around.map(|span| (span.name().to_owned(), fields_of(&span))).collect();
        let name = fields.get("message").cloned().unwrap_or_default();
        self.keep(event.metadata(), name, fields, around, false);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let around = span.scope().from_root().map(|span| (span.name().to_owned(), fields_of(&span)));
        let mut around: Vec<_> = around.collect();
        let (name, fields) = around.pop().unwrap();
        self.keep(span.metadata(), name, fields, around, true);
    }
}

fn fields_of<S: for<'a> LookupSpan<'a>>(span: &tracing_subscriber::registry::SpanRef<'_, S>) -> Fields {
    span.extensions().get::<Fields>().cloned().unwrap_or_default()
}

impl Capture {
    fn keep(
        &self,
        metadata: &tracing::Metadata<'_>,
        name: String,
        fields: Fields,
        around: Vec<(String, Fields)>,
        is_span: bool,
    ) {
        let (target, level) = (metadata.target().to_owned(), *metadata.level());
        let told = Told { name, target, level, fields, around, is_span };
        let engines = told.engines();
        if engines.is_empty() {
            return;
        }
        let mut kept = self.0.lock().unwrap();
        for engine in engines {
            kept.entry(engine.to_owned()).or_default().push(told.clone());
        }
    }

    /// The one of this process: engines have threads of their own, so that it must be the global one.
    pub(super) fn installed() -> &'static Self {
        static CAPTURE: OnceLock<Capture> = OnceLock::new();
        CAPTURE.get_or_init(|| {
            let capture = Capture::default();
            let subscriber = tracing_subscriber::registry().with(capture.clone());
            tracing::subscriber::set_global_default(subscriber).unwrap();
            capture
        })
    }

    /// What was told of an engine with this name, by it or by callbacks.
    pub(super) fn of(&self, engine: &str) -> Vec<Told> {
        self.those(engine, |_| true)
    }

    pub(super) fn spans(&self, engine: &str, name: &str) -> Vec<Told> {
        self.those(engine, |told| told.is_span && told.name == name)
    }

    pub(super) fn lines(&self, engine: &str, message: &str) -> Vec<Told> {
        self.those(engine, |told| !told.is_span && told.name == message)
    }

    fn those(&self, engine: &str, wanted: impl Fn(&Told) -> bool) -> Vec<Told> {
        let kept = self.0.lock().unwrap();
        kept.get(engine).into_iter().flatten().filter(|told| wanted(told)).cloned().collect()
    }
}
