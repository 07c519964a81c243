//! The messages of etcd's protocol as the JSON gateway needs them: the number, the name and the kind of each field.

/// A message, by its fields.
pub(super) struct Message(pub(super) &'static [Field]);

pub(super) struct Field {
    pub(super) number: u32,
    /// As the protocol's definition writes it.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
}

/// How a field is written, in bytes and in JSON.
pub(super) enum Kind {
    Bytes,
    Text,
    Flag,
    /// Of 64 bits: a string in JSON.
    Int,
    /// Of 64 bits, without a sign: a string in JSON.
    Uint,
    /// Of 32 bits, without a sign: a number in JSON.
    Small,
    /// One of these names, from 0 on.
    Name(&'static [&'static str]),
    Of(&'static Message),
}

use Kind::{Bytes, Flag, Int, Name, Of, Small, Text, Uint};

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: true }
}

pub(super) static EMPTY: Message = Message(&[]);

/// What has a header and nothing else.
pub(super) static HEADER_ONLY: Message = Message(&[one(1, "header", Of(&HEADER))]);

static HEADER: Message = Message(&[
    one(1, "cluster_id", Uint),
    one(2, "member_id", Uint),
    one(3, "revision", Int),
    one(4, "raft_term", Uint),
]);

static KEY_VALUE: Message = Message(&[
    one(1, "key", Bytes),
    one(2, "create_revision", Int),
    one(3, "mod_revision", Int),
    one(4, "version", Int),
    one(5, "value", Bytes),
    one(6, "lease", Int),
]);

pub(super) static RANGE_REQUEST: Message = Message(&[
    one(1, "key", Bytes),
    one(2, "range_end", Bytes),
    one(3, "limit", Int),
    one(4, "revision", Int),
    one(5, "sort_order", Name(&["NONE", "ASCEND", "DESCEND"])),
    one(6, "sort_target", Name(&["KEY", "VERSION", "CREATE", "MOD", "VALUE"])),
    one(7, "serializable", Flag),
    one(8, "keys_only", Flag),
    one(9, "count_only", Flag),
    one(10, "min_mod_revision", Int),
    one(11, "max_mod_revision", Int),
    one(12, "min_create_revision", Int),
    one(13, "max_create_revision", Int),
]);

pub(super) static RANGE_RESPONSE: Message = Message(&[
    one(1, "header", Of(&HEADER)),
    many(2, "kvs", Of(&KEY_VALUE)),
    one(3, "more", Flag),
    one(4, "count", Int),
]);

pub(super) static PUT_REQUEST: Message = Message(&[
    one(1, "key", Bytes),
    one(2, "value", Bytes),
    one(3, "lease", Int),
    one(4, "prev_kv", Flag),
    one(5, "ignore_value", Flag),
    one(6, "ignore_lease", Flag),
]);

pub(super) static PUT_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), one(2, "prev_kv", Of(&KEY_VALUE))]);

pub(super) static DELETE_REQUEST: Message =
    Message(&[one(1, "key", Bytes), one(2, "range_end", Bytes), one(3, "prev_kv", Flag)]);

pub(super) static DELETE_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), one(2, "deleted", Int), many(3, "prev_kvs", Of(&KEY_VALUE))]);

static REQUEST_OP: Message = Message(&[
    one(1, "request_range", Of(&RANGE_REQUEST)),
    one(2, "request_put", Of(&PUT_REQUEST)),
    one(3, "request_delete_range", Of(&DELETE_REQUEST)),
    one(4, "request_txn", Of(&TXN_REQUEST)),
]);

static RESPONSE_OP: Message = Message(&[
    one(1, "response_range", Of(&RANGE_RESPONSE)),
    one(2, "response_put", Of(&PUT_RESPONSE)),
    one(3, "response_delete_range", Of(&DELETE_RESPONSE)),
    one(4, "response_txn", Of(&TXN_RESPONSE)),
]);

static COMPARE: Message = Message(&[
    one(1, "result", Name(&["EQUAL", "GREATER", "LESS", "NOT_EQUAL"])),
    one(2, "target", Name(&["VERSION", "CREATE", "MOD", "VALUE", "LEASE"])),
    one(3, "key", Bytes),
    one(4, "version", Int),
    one(5, "create_revision", Int),
    one(6, "mod_revision", Int),
    one(7, "value", Bytes),
    one(8, "lease", Int),
    one(64, "range_end", Bytes),
]);

pub(super) static TXN_REQUEST: Message = Message(&[
    many(1, "compare", Of(&COMPARE)),
    many(2, "success", Of(&REQUEST_OP)),
    many(3, "failure", Of(&REQUEST_OP)),
]);

pub(super) static TXN_RESPONSE: Message = Message(&[
    one(1, "header", Of(&HEADER)),
    one(2, "succeeded", Flag),
    many(3, "responses", Of(&RESPONSE_OP)),
]);

pub(super) static COMPACTION_REQUEST: Message = Message(&[one(1, "revision", Int), one(2, "physical", Flag)]);

pub(super) static WATCH_REQUEST: Message = Message(&[
    one(1, "create_request", Of(&WATCH_CREATE)),
    one(2, "cancel_request", Of(&WATCH_CANCEL)),
    one(3, "progress_request", Of(&EMPTY)),
]);

static WATCH_CREATE: Message = Message(&[
    one(1, "key", Bytes),
    one(2, "range_end", Bytes),
    one(3, "start_revision", Int),
    one(4, "progress_notify", Flag),
    many(5, "filters", Name(&["NOPUT", "NODELETE"])),
    one(6, "prev_kv", Flag),
    one(7, "watch_id", Int),
    one(8, "fragment", Flag),
]);

static WATCH_CANCEL: Message = Message(&[one(1, "watch_id", Int)]);

pub(super) static WATCH_RESPONSE: Message = Message(&[
    one(1, "header", Of(&HEADER)),
    one(2, "watch_id", Int),
    one(3, "created", Flag),
    one(4, "canceled", Flag),
    one(5, "compact_revision", Int),
    one(6, "cancel_reason", Text),
    one(7, "fragment", Flag),
    many(11, "events", Of(&EVENT)),
]);

static EVENT: Message = Message(&[
    one(1, "type", Name(&["PUT", "DELETE"])),
    one(2, "kv", Of(&KEY_VALUE)),
    one(3, "prev_kv", Of(&KEY_VALUE)),
]);

pub(super) static LEASE_GRANT_REQUEST: Message = Message(&[one(1, "TTL", Int), one(2, "ID", Int)]);

pub(super) static LEASE_GRANT_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), one(2, "ID", Int), one(3, "TTL", Int), one(4, "error", Text)]);

/// Of a revocation, and of a renewal.
pub(super) static LEASE_ID: Message = Message(&[one(1, "ID", Int)]);

pub(super) static LEASE_KEEP_ALIVE_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), one(2, "ID", Int), one(3, "TTL", Int)]);

pub(super) static LEASE_TIME_TO_LIVE_REQUEST: Message = Message(&[one(1, "ID", Int), one(2, "keys", Flag)]);

pub(super) static LEASE_TIME_TO_LIVE_RESPONSE: Message = Message(&[
    one(1, "header", Of(&HEADER)),
    one(2, "ID", Int),
    one(3, "TTL", Int),
    one(4, "grantedTTL", Int),
    many(5, "keys", Bytes),
]);

pub(super) static LEASE_LEASES_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), many(2, "leases", Of(&LEASE_ID))]);

pub(super) static LOCK_REQUEST: Message = Message(&[one(1, "name", Bytes), one(2, "lease", Int)]);
pub(super) static LOCK_RESPONSE: Message = Message(&[one(1, "header", Of(&HEADER)), one(2, "key", Bytes)]);
pub(super) static UNLOCK_REQUEST: Message = Message(&[one(1, "key", Bytes)]);

static MEMBER: Message = Message(&[
    one(1, "ID", Uint),
    one(2, "name", Text),
    many(3, "peerURLs", Text),
    many(4, "clientURLs", Text),
    one(5, "isLearner", Flag),
]);

pub(super) static MEMBER_LIST_REQUEST: Message = Message(&[one(1, "linearizable", Flag)]);

pub(super) static MEMBERS_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), many(2, "members", Of(&MEMBER))]);

const ALARMS: Kind = Name(&["NONE", "NOSPACE", "CORRUPT"]);

pub(super) static ALARM_REQUEST: Message = Message(&[
    one(1, "action", Name(&["GET", "ACTIVATE", "DEACTIVATE"])),
    one(2, "memberID", Uint),
    one(3, "alarm", ALARMS),
]);

static ALARM: Message = Message(&[one(1, "memberID", Uint), one(2, "alarm", ALARMS)]);

pub(super) static ALARM_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), many(2, "alarms", Of(&ALARM))]);

pub(super) static STATUS_RESPONSE: Message = Message(&[
    one(1, "header", Of(&HEADER)),
    one(2, "version", Text),
    one(3, "dbSize", Int),
    one(4, "leader", Uint),
    one(5, "raftIndex", Uint),
    one(6, "raftTerm", Uint),
    one(7, "raftAppliedIndex", Uint),
    many(8, "errors", Text),
    one(9, "dbSizeInUse", Int),
    one(10, "isLearner", Flag),
]);

pub(super) static HASH_KV_REQUEST: Message = Message(&[one(1, "revision", Int)]);

pub(super) static HASH_KV_RESPONSE: Message = Message(&[
    one(1, "header", Of(&HEADER)),
    one(2, "hash", Small),
    one(3, "compact_revision", Int),
    one(4, "hash_revision", Int),
]);

pub(super) static SNAPSHOT_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), one(2, "remaining_bytes", Uint), one(3, "blob", Bytes)]);

pub(super) static AUTH_STATUS_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), one(2, "enabled", Flag), one(3, "authRevision", Uint)]);

/// Of a user, or of a role that is added.
pub(super) static NAMED: Message = Message(&[one(1, "name", Text)]);

/// Of a role that is read or deleted.
pub(super) static ROLE: Message = Message(&[one(1, "role", Text)]);

pub(super) static NAME_AND_PASSWORD: Message = Message(&[one(1, "name", Text), one(2, "password", Text)]);

pub(super) static AUTHENTICATE_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), one(2, "token", Text)]);

static USER_OPTIONS: Message = Message(&[one(1, "no_password", Flag)]);

pub(super) static USER_ADD_REQUEST: Message =
    Message(&[one(1, "name", Text), one(2, "password", Text), one(3, "options", Of(&USER_OPTIONS))]);

pub(super) static USER_GRANT_REQUEST: Message = Message(&[one(1, "user", Text), one(2, "role", Text)]);
pub(super) static USER_REVOKE_REQUEST: Message = Message(&[one(1, "name", Text), one(2, "role", Text)]);

/// Of one user, and the list of all roles.
pub(super) static ROLES_RESPONSE: Message = Message(&[one(1, "header", Of(&HEADER)), many(2, "roles", Text)]);

pub(super) static USERS_RESPONSE: Message = Message(&[one(1, "header", Of(&HEADER)), many(2, "users", Text)]);

static PERMISSION: Message = Message(&[
    one(1, "permType", Name(&["READ", "WRITE", "READWRITE"])),
    one(2, "key", Bytes),
    one(3, "range_end", Bytes),
]);

pub(super) static ROLE_RESPONSE: Message =
    Message(&[one(1, "header", Of(&HEADER)), many(2, "perm", Of(&PERMISSION))]);

pub(super) static ROLE_GRANT_REQUEST: Message =
    Message(&[one(1, "name", Text), one(2, "perm", Of(&PERMISSION))]);

pub(super) static ROLE_REVOKE_REQUEST: Message =
    Message(&[one(1, "role", Text), one(2, "key", Bytes), one(3, "range_end", Bytes)]);
