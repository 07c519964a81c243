//! A target of [`fuzz`](crate::fuzz): the query of a request.

use super::handler::ApiError;
use super::page;
use super::query::Parameters;
use hyper::StatusCode;

/// A query is understood or refused. Links lead back to it, and a page that quotes it has no markup of its own.
pub(crate) fn attack(query: &str) {
    let parameters = Parameters::parse(query);
    let message = match parameters.instances() {
        Ok(_) => query.to_owned(),
        Err(refused) => format!("{refused}: {query}"),
    };
    let link = parameters.link("/instances");
    assert!(link.chars().all(|c| c.is_ascii_graphic() && !"<>\"'".contains(c)), "{link}");
    let known = Parameters::parse(link.split_once('?').map_or("", |(_, query)| query));
    assert_eq!(known.attributes(), parameters.attributes());
    assert_eq!(known.link("/instances"), link, "a link of a link is the same");
    let shown = page::refused(&ApiError { status: StatusCode::BAD_REQUEST, message }).into_string();
    let plain =
        page::refused(&ApiError { status: StatusCode::BAD_REQUEST, message: "x".into() }).into_string();
    assert_eq!(shown.matches('<').count(), plain.matches('<').count(), "markup that was not there: {shown}");
}
