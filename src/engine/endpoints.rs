//! What an endpoint may look like. What is wrong is said without the credentials that somebody may have put into it.

use crate::error::ConfigError;
use std::net::Ipv6Addr;

/// The longest name that DNS has.
const MAX_NAME: usize = 253;

/// The most of an endpoint that a mistake shows.
const MAX_SHOWN: usize = 100;

pub(super) fn check_endpoints(endpoints: &[String], mistakes: &mut Vec<ConfigError>) {
    if endpoints.is_empty() {
        mistakes.push(ConfigError::NoEndpoint);
    }
    for endpoint in endpoints {
        if let Err(reason) = check(endpoint) {
            let (endpoint, reason) = (shown(endpoint), reason.to_owned());
            mistakes.push(ConfigError::Endpoint { endpoint, reason });
        }
    }
}

fn check(endpoint: &str) -> Result<(), &'static str> {
    let authority = match endpoint.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", rest)) if cfg!(any(feature = "tls", feature = "tls-roots")) => rest,
        Some(("https", _)) => return Err("`https://` needs the feature `tls` of this crate"),
        Some(_) => return Err("the scheme may be `http://` or `https://`"),
        None => endpoint,
    };
    if authority.contains('@') {
        return Err("a user and a password have no place in it: give them to `credentials`, or to \
                    `connect_options`");
    }
    if authority.contains(',') {
        return Err("it is a list: give each endpoint by itself");
    }
    if authority.contains(['/', '?', '#', '\\']) || authority.contains(char::is_whitespace) {
        return Err("only a host and a port may follow the scheme");
    }
    let port = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((host, rest)) = rest.split_once(']') else {
                return Err("the closing bracket is missing");
            };
            if host.parse::<Ipv6Addr>().is_err() {
                return Err("what stands in brackets is no IPv6 address");
            }
            match rest.strip_prefix(':') {
                Some(port) => port,
                None if rest.is_empty() => return Err("the port is missing, such as `:2379`"),
                None => return Err("only a port may follow the brackets"),
            }
        }
        None => {
            let Some((host, port)) = authority.rsplit_once(':') else {
                return Err("the port is missing, such as `:2379`");
            };
            if host.contains(':') {
                return Err("an IPv6 address stands in brackets, as in `[::1]:2379`");
            }
            check_host(host)?;
            port
        }
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if digits => Ok(()),
        _ => Err("the port is not a number from 1 to 65535"),
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match host {
        "" => Err("the host is missing"),
        _ if host.len() > MAX_NAME => Err("the name of the host is longer than a name can be"),
        _ if !host.chars().all(plain) => {
            Err("the name of a host has ASCII letters, digits, `-`, `_` and `.` alone")
        }
        _ => Ok(()),
    }
}

/// The endpoint without what may be a user and a password, on one line, and not too long.
fn shown(endpoint: &str) -> String {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), endpoint),
    };
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => rest.to_owned(),
    };
    let whole = format!("{scheme}{rest}");
    let mut shown: String = whole.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if whole.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_allowed_and_nothing_else() {
        for (endpoint, reason) in [
            ("127.0.0.1:2379", ""),
            ("etcd-0.etcd_x.svc:2379", ""),
            ("http://h:1", ""),
            ("[::1]:65535", ""),
            ("http://[fe80::1]:2379", ""),
            ("h:1,i:2", "it is a list"),
            ("http://h:1,http://i:2", "it is a list"),
            ("::1:2379", "in brackets"),
            ("fe80::1", "in brackets"),
            ("[::1]", "the port is missing"),
            ("[::1]2379", "only a port may follow"),
            ("[::1", "the closing bracket"),
            ("[h]:2379", "no IPv6 address"),
            ("[]:2379", "no IPv6 address"),
            ("[fe80::1%eth0]:2379", "no IPv6 address"),
            ("h", "the port is missing"),
            ("h:", "the port is not a number"),
            ("h:x", "the port is not a number"),
            ("h:+1", "the port is not a number"),
            ("h:0", "the port is not a number"),
            ("h:65536", "the port is not a number"),
            (":2379", "the host is missing"),
            ("", "the port is missing"),
            ("ftp://h:1", "the scheme"),
            ("HTTP://h:1", "the scheme"),
            ("unix:///run/etcd.sock", "the scheme"),
            ("h:1/path", "only a host and a port"),
            ("h:1?x", "only a host and a port"),
            ("h :1", "only a host and a port"),
            ("h:1\n", "only a host and a port"),
            ("bücher.example:2379", "ASCII letters"),
            ("h%41:1", "ASCII letters"),
            ("user:pw@h:2379", "a user and a password"),
            ("http://user:pw@h:2379", "a user and a password"),
        ] {
            match check(endpoint) {
                Ok(()) => assert_eq!(reason, "", "{endpoint:?}"),
                Err(found) => assert!(!reason.is_empty() && found.contains(reason), "{endpoint:?}: {found}"),
            }
        }
        let long = format!("{}:1", "h".repeat(MAX_NAME + 1));
        assert!(check(&long).is_err());
        let secure = check("https://h:1");
        assert_eq!(secure.is_ok(), cfg!(any(feature = "tls", feature = "tls-roots")), "{secure:?}");
    }

    #[test]
    fn no_mistake_shows_a_password_or_more_than_a_line() {
        for (endpoint, text) in [
            ("user:pw@h:2379", "…@h:2379"),
            ("http://user:p@w/x@h:2379", "http://…@h:2379"),
            ("h:1\n\u{1b}[31m", "h:1\\n\\u{1b}[31m"),
        ] {
            assert_eq!(shown(endpoint), text);
        }
        assert_eq!(shown(&"h".repeat(1 << 20)).chars().count(), MAX_SHOWN + 1);
    }
}
