//! The parameters of a request, and links with parameters. Pure.

use crate::inspect::{Cursor, InstanceQuery, StateKind};
use crate::pattern::Attributes;

/// The prefix of parameters that are attributes.
pub(super) const ATTRIBUTE: &str = "attr.";

/// The parameters of a request, in their order; empty ones count as not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// Whether it is given, with a value or without.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| &**value)
    }

    pub(super) fn attributes(&self) -> Attributes {
        let named = |(name, value): &(String, String)| {
            let name = name.strip_prefix(ATTRIBUTE)?;
            (!value.is_empty()).then(|| (name.to_owned(), value.clone()))
        };
        self.0.iter().filter_map(named).collect()
    }

    /// Which instances are asked for, or what is wrong with that.
    pub(super) fn instances(&self) -> Result<InstanceQuery, String> {
        let mut query = InstanceQuery::new();
        if let Some(rule) = self.get("rule") {
            query = query.rule(rule);
        }
        for state in self.all("state") {
            let known = || {
                let names: Vec<&str> = StateKind::ALL.iter().map(|kind| kind.name()).collect();
                format!("the states are {}", names.join(", "))
            };
            query = query.state(state.parse().map_err(|_| known())?);
        }
        for (name, value) in self.attributes().iter() {
            query = query.attribute(name, value);
        }
        if let Some(limit) = self.get("limit") {
            query = query.limit(limit.parse().map_err(|_| "limit is not a number".to_owned())?);
        }
        if let Some(after) = self.get("after") {
            query = query.after(after.parse::<Cursor>().map_err(|_| "after is not from a page".to_owned())?);
        }
        Ok(query)
    }

    /// The same with another value of a parameter.
    pub(super) fn with(&self, name: &str, value: impl ToString) -> Self {
        let mut other = self.without(name);
        other.0.push((name.to_owned(), value.to_string()));
        other
    }

    pub(super) fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|(known, _)| known != name).cloned().collect())
    }

    /// A link to a path with these parameters.
    pub(super) fn link(&self, path: &str) -> String {
        let given = self.0.iter().filter(|(_, value)| !value.is_empty());
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_back_to_their_parameters() {
        let hostile = "<script>&\"' /?#ü";
        let parameters = Parameters::default().with("rule", hostile).with("attr.id", "a b");
        let link = parameters.link("/instances");
        assert!(link.chars().all(|c| c.is_ascii_graphic() && !"<>\"'".contains(c)), "{link}");
        let (path, query) = link.split_once('?').unwrap();
        assert_eq!((path, Parameters::parse(query)), ("/instances", parameters));
        assert_eq!(Parameters::default().link("/"), "/");
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let query = |text: &str| Parameters::parse(text).instances();
        assert!(query("rule=r&state=waiting&state=held&attr.id=7&limit=5&after=12").is_ok());
        assert!(query("rule=&state=&limit=&after=").is_ok(), "an empty field of a form is not given");
        for (text, message) in [
            ("state=true", "the states are untrue, queued"),
            ("limit=many", "limit is not a number"),
            ("after=x", "after is not from a page"),
        ] {
            let error = query(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn one_parameter_is_replaced_and_the_others_stay() {
        let parameters = Parameters::parse("rule=a&state=held&after=7");
        assert_eq!(parameters.with("rule", "b").without("after").link("/x"), "/x?state=held&rule=b");
        assert_eq!(parameters.all("state").collect::<Vec<_>>(), ["held"]);
        assert!(Parameters::parse("verbose").has("verbose"));
    }
}
