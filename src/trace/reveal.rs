//! What of the application's data may be told in logs, spans and the HTTP endpoint.

use crate::change::Snapshot;
use crate::pattern::Attributes;
use serde::Serialize;
use std::borrow::Cow;

/// What logs, spans and the HTTP endpoint may tell of the data in etcd; set by
/// [`EngineBuilder::reveal`](crate::EngineBuilder::reveal).
///
/// The configuration is always told: ids of rules, patterns, watched prefixes, endpoints. What a callback's
/// error or panic says is told too (but for the endpoint, from [`Keys`](Reveal::Keys) on); before that, the
/// values of the instance's attributes and of its keys are removed from the text wherever they stand as
/// words, as far as they may not be told. Other data that the application itself puts into such a text is
/// told: keep it out of there.
///
/// It concerns what the engine tells by itself. Functions of the API, such as
/// [`explain`](crate::EngineHandle::explain), hold nothing back; neither do errors that callbacks get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reveal {
    /// No keys, no values: the default.
    #[default]
    Nothing,
    /// Keys and attributes: which instance it is.
    Keys,
    /// Keys and their values.
    Values,
}

impl Reveal {
    /// The instance, if that may be told.
    pub(crate) fn instance(self, attributes: &Attributes) -> Option<String> {
        (self >= Reveal::Keys).then(|| attributes.to_string())
    }

    /// What an error of the instance says, without what may not be told.
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

/// What stands in the place of something hidden.
pub(crate) const HIDDEN: &str = "…";

/// From this length on, a secret is also hidden within words.
const LONG: usize = 4;

/// The text without the secrets.
fn hide<'a>(text: &'a str, mut secrets: Vec<&str>) -> Cow<'a, str> {
    secrets.retain(|secret| !secret.is_empty());
    // The longer ones first, that may contain shorter ones.
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
        let seen = Seen { value: "10.0.0.1\n".into(), mod_revision: 1 };
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
