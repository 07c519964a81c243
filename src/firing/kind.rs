//! What kind of error it is, whichever type tells of it.

use std::fmt;

/// What went wrong, in one word, for code that decides what to do about it; [`Error::kind`](crate::Error::kind)
/// and the like tell it.
///
/// ```
/// use etcd_rules::{Error, ErrorKind, Firing, Outcome};
/// use std::time::Duration;
///
/// async fn copy(firing: Firing) -> Result<Outcome, Error> {
///     match firing.get("/from/:id").await {
///         Ok(value) => Ok(firing.commit().put("/to/:id", value).into()),
///         Err(error) => match error.kind() {
///             ErrorKind::NotFound => Ok(Outcome::done()),
///             ErrorKind::NoLeader | ErrorKind::TimedOut => Ok(Outcome::retry_after(Duration::from_secs(1))),
///             ErrorKind::PermissionDenied => Ok(Outcome::give_up("not allowed to read it")),
///             _ => Err(error.into()),
///         },
///     }
/// }
/// # let _ = copy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// etcd has no leader, or it changed during the request. What was asked for may have taken effect.
    NoLeader,
    /// There was no answer in time: from etcd (what was asked for may have taken effect), or from the engine.
    TimedOut,
    /// There is no connection to etcd, or it broke. What was asked for may have taken effect.
    Unreachable,
    /// etcd does not know who asks: credentials are missing, wrong or outdated.
    Unauthenticated,
    /// The user may not do this in etcd.
    PermissionDenied,
    /// etcd's space quota is exceeded.
    NoSpace,
    /// Something is larger than a limit of etcd's or of a connection: a request, an answer, a number of operations.
    TooLarge,
    /// etcd has too many requests.
    Overloaded,
    /// The endpoint's store is not that of the engine's cluster: nothing was done there.
    WrongStore,
    /// The revision asked for has been compacted away.
    Compacted,
    /// There is no such key, lease or rule.
    NotFound,
    /// etcd refused the request for what is in it.
    Refused,
    /// What was given makes no sense: a pattern, an attribute, a value of an option.
    InvalidInput,
    /// A value, or an attribute, is not what the callback expects: no number, no such JSON.
    InvalidValue,
    /// The commit has a mistake.
    InvalidCommit,
    /// The configuration has mistakes.
    InvalidConfig,
    /// The engine was not ready in time.
    NotReady,
    /// The engine has failed or ended, or its parts start again.
    Stopped,
    /// Callbacks did not end although they were cancelled.
    Unfinished,
    /// Code of the application panicked.
    Panicked,
    /// Something of the process is missing: a runtime, a thread, an address, the place of a metrics recorder.
    Setup,
}

impl ErrorKind {
    /// The kind in a few words.
    pub fn words(self) -> &'static str {
        match self {
            ErrorKind::NoLeader => "etcd has no leader",
            ErrorKind::TimedOut => "no answer in time",
            ErrorKind::Unreachable => "no connection to etcd",
            ErrorKind::Unauthenticated => "etcd does not accept the credentials",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::NoSpace => "etcd has no space",
            ErrorKind::TooLarge => "too large",
            ErrorKind::Overloaded => "etcd has too many requests",
            ErrorKind::WrongStore => "the endpoint has another cluster's store",
            ErrorKind::Compacted => "the revision has been compacted",
            ErrorKind::NotFound => "not found",
            ErrorKind::Refused => "etcd refused the request",
            ErrorKind::InvalidInput => "invalid input",
            ErrorKind::InvalidValue => "a value is not what was expected",
            ErrorKind::InvalidCommit => "invalid commit",
            ErrorKind::InvalidConfig => "invalid configuration",
            ErrorKind::NotReady => "the engine is not ready",
            ErrorKind::Stopped => "the engine has stopped",
            ErrorKind::Unfinished => "callbacks did not end",
            ErrorKind::Panicked => "code of the application panicked",
            ErrorKind::Setup => "something of the process is missing",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}
