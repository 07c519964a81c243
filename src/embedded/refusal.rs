//! What a request is refused with: etcd's own codes and messages.

use tonic::{Code, Status};

/// A gRPC code and a message, as a request is refused with.
///
/// The constants are those of etcd's `api/v3rpc/rpctypes/error.go`; [`RpcError::new`] makes others, for
/// [faults](super::Fault).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RpcError {
    code: i32,
    message: &'static str,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:ident $message:literal;)*) => {
        impl RpcError {
            $($(#[$doc])* pub const $name: Self = Self { code: Code::$code as i32, message: $message };)*
        }
    };
}

refusals! {
    /// A request without a key.
    EMPTY_KEY = InvalidArgument "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` for a key that is absent, or an empty operation.
    KEY_NOT_FOUND = InvalidArgument "etcdserver: key not found";
    /// `ignore_value` together with a value.
    VALUE_PROVIDED = InvalidArgument "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LEASE_PROVIDED = InvalidArgument "etcdserver: lease is provided";
    /// More operations in a transaction than a server takes.
    TOO_MANY_OPS = InvalidArgument "etcdserver: too many operations in txn request";
    /// A key that one transaction puts twice, or deletes and puts.
    DUPLICATE_KEY = InvalidArgument "etcdserver: duplicate key given in txn request";
    /// A revision before the last compaction.
    COMPACTED = OutOfRange "etcdserver: mvcc: required revision has been compacted";
    /// A revision that is not reached yet.
    FUTURE_REVISION = OutOfRange "etcdserver: mvcc: required revision is a future revision";
    /// The alarm about space is raised.
    NO_SPACE = ResourceExhausted "etcdserver: mvcc: database space exceeded";
    /// A lease that never was, expired, or was revoked.
    LEASE_NOT_FOUND = NotFound "etcdserver: requested lease not found";
    /// A lease id that is taken.
    LEASE_EXISTS = FailedPrecondition "etcdserver: lease already exists";
    /// A lease for longer than 285 years.
    LEASE_TTL_TOO_LARGE = OutOfRange "etcdserver: too large lease TTL";
    /// A request of more than 1.5 MiB.
    REQUEST_TOO_LARGE = InvalidArgument "etcdserver: request is too large";
    /// A server with too much to do.
    TOO_MANY_REQUESTS = ResourceExhausted "etcdserver: too many requests";
    /// A request that needs authentication to be on.
    AUTH_NOT_ENABLED = FailedPrecondition "etcdserver: authentication is not enabled";
    /// Authentication can't be enabled without somebody to manage it.
    ROOT_USER_NOT_EXIST = FailedPrecondition "etcdserver: root user does not exist";
    /// Authentication can't be enabled without somebody who may manage it.
    ROOT_ROLE_NOT_EXIST = FailedPrecondition "etcdserver: root user does not have root role";
    /// A user that exists already.
    USER_EXISTS = FailedPrecondition "etcdserver: user name already exists";
    /// A request without a user, while authentication is enabled, or a user without a name.
    USER_EMPTY = InvalidArgument "etcdserver: user name is empty";
    /// A user that does not exist.
    USER_NOT_FOUND = FailedPrecondition "etcdserver: user name not found";
    /// A role that exists already.
    ROLE_EXISTS = FailedPrecondition "etcdserver: role name already exists";
    /// A role that does not exist.
    ROLE_NOT_FOUND = FailedPrecondition "etcdserver: role name not found";
    /// A role without a name.
    ROLE_EMPTY = InvalidArgument "etcdserver: role name is empty";
    /// A password that is not the user's.
    AUTH_FAILED = InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    /// A password of a user who has none; etcd hands this one on without a code.
    NO_PASSWORD_USER = Unknown "auth: authentication failed, password was given for no password user";
    /// A grant of no permission.
    PERMISSION_NOT_GIVEN = InvalidArgument "etcdserver: permission not given";
    /// A role that the user does not have.
    ROLE_NOT_GRANTED = FailedPrecondition "etcdserver: role is not granted to the user";
    /// A permission that the role does not have.
    PERMISSION_NOT_GRANTED = FailedPrecondition "etcdserver: permission is not granted to the role";
    /// What would leave nobody to manage users, or no permission at all.
    INVALID_AUTH_MGMT = InvalidArgument "etcdserver: invalid auth management";
    /// A user that may not do this.
    PERMISSION_DENIED = PermissionDenied "etcdserver: permission denied";
    /// A token that is unknown or has expired.
    INVALID_AUTH_TOKEN = Unauthenticated "etcdserver: invalid auth token";
    /// A token from before the last change of users and roles.
    AUTH_OLD_REVISION = InvalidArgument "etcdserver: revision of auth store is old";
    /// A member without a leader.
    NO_LEADER = Unavailable "etcdserver: no leader";
    /// A request that met a change of the leader.
    LEADER_CHANGED = Unavailable "etcdserver: leader changed";
    /// A server that is going away.
    STOPPED = Unavailable "etcdserver: server stopped";
    /// A request that found no quorum in time.
    TIMED_OUT = Unavailable "etcdserver: request timed out";
    /// A connection that ended; this one is the client library's message, not etcd's.
    CONNECTION_LOST = Unavailable "transport is closing";
}

impl RpcError {
    /// A refusal with any gRPC code (14 is "unavailable").
    pub const fn new(code: i32, message: &'static str) -> Self {
        Self { code, message }
    }

    /// The gRPC code.
    pub fn code(&self) -> i32 {
        self.code
    }

    /// The message.
    pub fn message(&self) -> &'static str {
        self.message
    }
}

impl RpcError {
    /// What a server answers with it. It is no conversion, so that tonic is no part of what users see of this type.
    pub(super) fn status(self) -> Status {
        Status::new(Code::from_i32(self.code), self.message)
    }
}
