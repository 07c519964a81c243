//! Which of the application's data may be shown in logs, spans and the HTTP endpoint.

use crate::change::Snapshot;
use crate::pattern::Attributes;
use serde::Serialize;
use std::borrow::Cow;

/// What logs, spans and the HTTP endpoint may show of the data in etcd. It is set by
/// [`EngineBuilder::reveal`](crate::EngineBuilder::reveal).
///
/// The configuration is always shown: ids of rules, patterns, watched prefixes, endpoints.
///
/// The text of a callback's error or panic is shown too; the HTTP endpoint shows it from
/// [`Keys`](Reveal::Keys) on. Values of the instance's attributes and of its keys that may not be shown are
/// removed from the text where they stand as words. Other data that the application puts into such a text is
/// shown, so keep secrets out of it.
///
/// This setting is about what the engine shows by itself. Functions of the API, such as
/// [`explain`](crate::EngineHandle::explain), and errors that callbacks get hide nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
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

    /// The text of an error of the instance, without what may not be shown.
    pub(crate) fn error<'a>(
        self,
        text: &'a str,
        attributes: &Attributes,
        snapshot: &Snapshot,
    ) -> Cow<'a, str> {
        let mut secrets: Vec<&str> = Vec::new();
        if self < Reveal::Keys {
            secrets.extend(attributes.iter().map(|(_, value)| value));
        }
        if self < Reveal::Values {
            secrets.extend(snapshot.iter().flatten().filter_map(|seen| seen.value.as_str()).map(str::trim));
        }
        hide(text, secrets)
    }
}

/// Replaces something hidden.
pub(crate) const HIDDEN: &str = "…";

/// Secrets of this length or more are also hidden within words.
const LONG: usize = 4;

/// The text without the secrets.
fn hide<'a>(text: &'a str, mut secrets: Vec<&str>) -> Cow<'a, str> {
    secrets.retain(|secret| !secret.is_empty());
    // Longer secrets come first, because they may contain shorter ones.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let stands_alone = |at: usize| {
            let (before, after) = (text[..at].chars().next_back(), text[at + secret.len()..].chars().next());
            secret.chars().count() >= LONG || !(word(before) || word(after))
        };
        let found: Vec<usize> =
            text.match_indices(secret).map(|(at, _)| at).filter(|at| stands_alone(*at)).collect();
        for at in found.into_iter().rev() {
            text.to_mut().replace_range(at..at + secret.len(), HIDDEN);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Revision;
    use crate::change::Seen;

    #[test]
    fn secrets_are_hidden_where_they_stand_as_words() {
        for (text, secrets, expected) in [
            ("the key `/jobs/7/state` does not exist", vec!["7"], "the key `/jobs/…/state` does not exist"),
            ("no answer within 75 s", vec!["7", "5"], "no answer within 75 s"),
            ("user_alice42 is unknown", vec!["alice"], "user_…42 is unknown"),
            ("a,b", vec!["a", "b"], "…,…"),
            ("alice and al", vec!["al", "alice"], "… and …"),
            ("nothing to hide", vec!["", "secret"], "nothing to hide"),
            ("grün", vec!["grün"], "…"),
            ("x/y/z", vec!["y/z"], "x/…"),
        ] {
            assert_eq!(hide(text, secrets.clone()), expected, "{text:?} without {secrets:?}");
        }
    }

    #[test]
    fn each_level_tells_more() {
        let attributes = Attributes::from([("id", "web-1")]);
        let seen = Seen { value: "10.0.0.1\n".into(), mod_revision: Revision::new(1) };
        let snapshot: Snapshot = vec![Some(seen), None].into();
        let text = "the server web-1 does not answer at 10.0.0.1";
        for (reveal, instance, error) in [
            (Reveal::Nothing, None, "the server … does not answer at …"),
            (Reveal::Keys, Some("id=web-1"), "the server web-1 does not answer at …"),
            (Reveal::Values, Some("id=web-1"), text),
        ] {
            assert_eq!(reveal.instance(&attributes).as_deref(), instance);
            assert_eq!(reveal.error(text, &attributes, &snapshot), error);
        }
        assert_eq!(Reveal::default(), Reveal::Nothing);
    }
}
