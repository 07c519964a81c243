//! Takes out of a text what may not be shown. Pure.

use crate::value::Value;
use std::borrow::Cow;
use std::collections::HashSet;

/// Replaces something hidden.
pub(crate) const HIDDEN: &str = "…";

/// Secrets of this many characters or more are also hidden within words.
const LONG: usize = 4;

/// A text that is longer is not looked through. It is hidden as a whole, if anything of it must be.
const SEARCHED: usize = 64 << 10;

/// Of a text, so many bytes are shown. There may be one for each instance, and in every line of the log.
const SHOWN: usize = 2 << 10;

/// A value is shown as a list of numbers only if it is not longer.
const NUMBERS: usize = 4 << 10;

/// What may not be shown.
#[derive(Debug, Default)]
pub(crate) struct Secrets<'a> {
    /// They are hidden as a whole.
    pub(crate) words: Vec<&'a str>,
    /// Words in them are hidden as well, because a part of a value may be as secret as all of it.
    pub(crate) values: Vec<&'a Value>,
}

impl Secrets<'_> {
    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.values.is_empty()
    }

    /// The beginning of the text, without the secrets.
    pub(crate) fn hide_in<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.is_empty() {
            return shorten(Cow::Borrowed(text));
        }
        if text.len() > SEARCHED {
            return Cow::Borrowed(HIDDEN);
        }
        let mut all: Vec<Cow<'_, str>> = self.words.iter().copied().flat_map(written).collect();
        for value in &self.values {
            let text = value.to_string_lossy();
            all.extend(written(text.trim()).map(|form| Cow::Owned(form.into_owned())));
            // As `{:?}` writes a value, which is cut at some length, and as it writes bytes.
            all.push(Cow::Owned(format!("{value:?}").split('"').nth(1).unwrap_or_default().to_owned()));
            if value.len() <= NUMBERS {
                let numbers = format!("{:?}", value.as_bytes());
                all.push(Cow::Owned(numbers.trim_matches(['[', ']']).to_owned()));
            }
        }
        let text = hide_whole(text, all);
        shorten(self.hide_parts(text))
    }

    /// Hides each word of the text that is a word of a value.
    fn hide_parts<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        let words: HashSet<&str> = words(&text).map(|(_, word)| word).collect();
        let values: Vec<Cow<'_, str>> = self.values.iter().map(|value| value.to_string_lossy()).collect();
        let known = values.iter().flat_map(|value| self::words(value)).map(|(_, word)| word);
        let secret: HashSet<&str> = known.filter(|word| words.contains(word)).collect();
        let found: Vec<(usize, usize)> = self::words(&text)
            .filter(|(_, word)| secret.contains(word))
            .map(|(at, word)| (at, word.len()))
            .collect();
        if found.is_empty() {
            return text;
        }
        let mut text = text.into_owned();
        for (at, length) in found.into_iter().rev() {
            text.replace_range(at..at + length, HIDDEN);
        }
        Cow::Owned(text)
    }
}

/// A secret as a text may have it: as it is, or with escapes as `{:?}` writes it.
fn written(secret: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let escaped = secret.escape_debug().to_string();
    let escaped = (escaped != secret).then_some(Cow::Owned(escaped));
    std::iter::once(Cow::Borrowed(secret)).chain(escaped)
}

/// The words of a text that are not short, with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let words =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().nth(LONG - 1).is_some());
    words.map(move |word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

/// The text without the secrets.
fn hide_whole<'t>(text: &'t str, mut secrets: Vec<Cow<'_, str>>) -> Cow<'t, str> {
    secrets.retain(|secret| !secret.is_empty() && secret.len() <= text.len());
    // Longer secrets come first, because they may contain shorter ones.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let stands_alone = |at: usize| {
            let (before, after) = (text[..at].chars().next_back(), text[at + secret.len()..].chars().next());
            secret.chars().nth(LONG - 1).is_some() || !(word(before) || word(after))
        };
        let found: Vec<usize> =
            text.match_indices(&*secret).map(|(at, _)| at).filter(|at| stands_alone(*at)).collect();
        for at in found.into_iter().rev() {
            text.to_mut().replace_range(at..at + secret.len(), HIDDEN);
        }
    }
    text
}

fn shorten(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= SHOWN {
        return text;
    }
    let end = (0..=SHOWN).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    Cow::Owned(format!("{}{HIDDEN}", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_words(text: &str, words: Vec<&str>) -> String {
        Secrets { words, values: vec![] }.hide_in(text).into_owned()
    }

    fn without_value(text: &str, value: impl Into<Value>) -> String {
        Secrets { words: vec![], values: vec![&value.into()] }.hide_in(text).into_owned()
    }

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
            ("on \"a\\nb\"", vec!["a\nb"], "on \"…\""),
        ] {
            assert_eq!(without_words(text, secrets.clone()), expected, "{text:?} without {secrets:?}");
        }
    }

    #[test]
    fn a_value_is_hidden_however_it_is_written_and_so_are_its_parts() {
        let json = r#"{"user": "alice", "pin": "4711", "n": 12}"#;
        for (text, value, expected) in [
            ("bad value: down\n", Value::from("down\n"), "bad value: …\n"),
            ("no such user: alice", json.into(), "no such …: …"),
            ("expected a number, got \"4711\"", json.into(), "expected a number, got \"…\""),
            ("12 tries", json.into(), "12 tries"),
            (r#"on "{\"user\": \"alice\", \"pin\": \"4711\", \"n\": 12}""#, json.into(), "on \"…\""),
            ("on \"\\xff\\x00ab\"", vec![0xff, 0, b'a', b'b'].into(), "on \"…\""),
            ("on [255, 0, 97, 98]", vec![0xff, 0, b'a', b'b'].into(), "on […]"),
            ("on \u{fffd}ab!", vec![0xff, b'a', b'b'].into(), "on …!"),
            ("nothing of it", json.into(), "nothing of it"),
        ] {
            assert_eq!(without_value(text, value), expected, "{text}");
        }
        let long = Value::from("x".repeat(1000));
        assert_eq!(without_value(&format!("on {long:?}"), long), "on \"…\"… (1000 bytes)");
    }

    #[test]
    fn a_long_text_is_cut_and_a_very_long_one_is_hidden_if_anything_must_be() {
        let long = "ü".repeat(SEARCHED);
        let shown = without_words(&long, vec![]);
        assert_eq!((shown.len(), shown.ends_with("ü…")), (SHOWN + HIDDEN.len(), true));
        assert_eq!(without_words(&long, vec!["secret"]), HIDDEN);
        let secret = "s".repeat(100);
        let cut = format!("{}{secret}", "- ".repeat(SHOWN / 2 - 20));
        assert!(!without_words(&cut, vec![&secret]).contains('s'), "hidden before it is cut");
    }
}
