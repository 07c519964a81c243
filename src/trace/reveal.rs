//! Which of the application's data may be shown in logs, spans and the HTTP endpoint.

use crate::change::Snapshot;
use crate::pattern::Attributes;
use crate::trace::hide::{HIDDEN, Secrets};
use crate::value::Value;
use serde::{Deserialize, Serialize};

/// What logs, spans and the HTTP endpoint may show of the data in etcd. It is set by
/// [`EngineBuilder::reveal`](crate::EngineBuilder::reveal).
///
/// The configuration is always shown: ids of rules, patterns, watched prefixes, endpoints.
///
/// What an error, a panic or a reason to give up of a callback says is shown too, wherever the instance is: in the log,
/// by the HTTP endpoint, in events, and to other engines. What may not be shown is taken out of it first: the
/// instance's attributes, and the values of its keys and of those that the callback [read](crate::Firing::get), as a
/// whole and word by word. Words of fewer than four letters stay, unless they are all of a value. Other data that the
/// application puts into such a text is shown, so keep secrets out of it. A text is cut after 2 KiB. It is hidden as a
/// whole if the callback read more than a mebibyte, or had a [client](crate::Firing::client), whose reads nobody sees.
/// What a panic of the engine itself says is told only if values are, in the log, in health and over HTTP alike.
///
/// This setting is about what the engine shows by itself. The attributes and values that functions of the API return,
/// such as [`explain`](crate::EngineHandle::explain), and errors that callbacks get hide nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reveal {
    /// No keys and no values. This is the default.
    #[default]
    Nothing,
    /// Keys and attributes, which tell the instance.
    Keys,
    /// Keys and their values.
    Values,
}

impl Reveal {
    /// The instance as text, if it may be shown.
    pub(crate) fn instance(self, attributes: &Attributes) -> Option<String> {
        (self >= Reveal::Keys).then(|| attributes.to_string())
    }

    /// What a panic of the engine itself says. It may have anything in it.
    pub(crate) fn panic(self, text: &str) -> String {
        match self >= Reveal::Values {
            true => Secrets::default().hide_in(text).into_owned(),
            false => HIDDEN.to_owned(),
        }
    }

    /// What a text about the instance says, without what may not be shown. `read` has values that the callback read,
    /// or is `None` if those are too many to be looked for.
    pub(crate) fn text(
        self,
        text: &str,
        attributes: &Attributes,
        snapshot: &Snapshot,
        read: Option<&[Value]>,
    ) -> String {
        let mut secrets = Secrets::default();
        if self < Reveal::Keys {
            secrets.words.extend(attributes.iter().map(|(_, value)| value));
        }
        if self < Reveal::Values {
            let Some(read) = read else { return HIDDEN.to_owned() };
            secrets.values.extend(snapshot.iter().flatten().map(|seen| &seen.value));
            secrets.values.extend(read);
        }
        secrets.hide_in(text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Revision;
    use crate::change::Seen;

    #[test]
    fn each_level_tells_more() {
        let attributes = Attributes::from([("id", "web-1")]);
        let seen = Seen { value: "10.0.0.1\n".into(), mod_revision: Revision::new(1) };
        let snapshot: Snapshot = vec![Some(seen), None].into();
        let read = [Value::from("disk full")];
        let text = "the server web-1 does not answer at 10.0.0.1: disk full";
        for (reveal, instance, expected) in [
            (Reveal::Nothing, None, "the server … does not answer at …: …"),
            (Reveal::Keys, Some("id=web-1"), "the server web-1 does not answer at …: …"),
            (Reveal::Values, Some("id=web-1"), text),
        ] {
            assert_eq!(reveal.instance(&attributes).as_deref(), instance);
            assert_eq!(reveal.text(text, &attributes, &snapshot, Some(&read)), expected);
            let all = if reveal == Reveal::Values { text } else { HIDDEN };
            assert_eq!(reveal.text(text, &attributes, &snapshot, None), all, "too many to be looked for");
            assert_eq!(reveal.panic(text), all, "a panic of the engine");
        }
        assert_eq!(Reveal::default(), Reveal::Nothing);
    }
}
