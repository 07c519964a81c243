//! Which path of the gateway is which method of the protocol.

use super::schema::*;

/// A method that answers `POST` at a path.
pub(super) struct Method {
    /// Behind `/v3`.
    pub(super) path: &'static str,
    /// The path of the method in gRPC.
    pub(super) method: &'static str,
    pub(super) request: &'static Message,
    pub(super) response: &'static Message,
    /// Its answers are a stream: each is one line.
    pub(super) streams: bool,
}

macro_rules! methods {
    ($($service:literal { $($method:literal $request:ident -> $response:ident: $($path:literal),+;)* })*) => {
        static UNARY: &[Method] = &[$($($(Method {
            path: $path,
            method: concat!("/", $service, "/", $method),
            request: &$request,
            response: &$response,
            streams: false,
        },)+)*)*];
    };
}

methods! {
    "etcdserverpb.KV" {
        "Range" RANGE_REQUEST -> RANGE_RESPONSE: "/kv/range";
        "Put" PUT_REQUEST -> PUT_RESPONSE: "/kv/put";
        "DeleteRange" DELETE_REQUEST -> DELETE_RESPONSE: "/kv/deleterange";
        "Txn" TXN_REQUEST -> TXN_RESPONSE: "/kv/txn";
        "Compact" COMPACTION_REQUEST -> HEADER_ONLY: "/kv/compaction";
    }
    "etcdserverpb.Lease" {
        "LeaseGrant" LEASE_GRANT_REQUEST -> LEASE_GRANT_RESPONSE: "/lease/grant";
        "LeaseRevoke" LEASE_ID -> HEADER_ONLY: "/lease/revoke", "/kv/lease/revoke";
        "LeaseTimeToLive" LEASE_TIME_TO_LIVE_REQUEST -> LEASE_TIME_TO_LIVE_RESPONSE:
            "/lease/timetolive", "/kv/lease/timetolive";
        "LeaseLeases" EMPTY -> LEASE_LEASES_RESPONSE: "/lease/leases", "/kv/lease/leases";
    }
    "v3lockpb.Lock" {
        "Lock" LOCK_REQUEST -> LOCK_RESPONSE: "/lock/lock";
        "Unlock" UNLOCK_REQUEST -> HEADER_ONLY: "/lock/unlock";
    }
    "etcdserverpb.Cluster" {
        "MemberList" MEMBER_LIST_REQUEST -> MEMBERS_RESPONSE: "/cluster/member/list";
    }
    "etcdserverpb.Maintenance" {
        "Alarm" ALARM_REQUEST -> ALARM_RESPONSE: "/maintenance/alarm";
        "Status" EMPTY -> STATUS_RESPONSE: "/maintenance/status";
        "Defragment" EMPTY -> HEADER_ONLY: "/maintenance/defragment";
        "HashKV" HASH_KV_REQUEST -> HASH_KV_RESPONSE: "/maintenance/hashkv";
    }
    "etcdserverpb.Auth" {
        "AuthEnable" EMPTY -> HEADER_ONLY: "/auth/enable";
        "AuthDisable" EMPTY -> HEADER_ONLY: "/auth/disable";
        "AuthStatus" EMPTY -> AUTH_STATUS_RESPONSE: "/auth/status";
        "Authenticate" NAME_AND_PASSWORD -> AUTHENTICATE_RESPONSE: "/auth/authenticate";
        "UserAdd" USER_ADD_REQUEST -> HEADER_ONLY: "/auth/user/add";
        "UserGet" NAMED -> ROLES_RESPONSE: "/auth/user/get";
        "UserList" EMPTY -> USERS_RESPONSE: "/auth/user/list";
        "UserDelete" NAMED -> HEADER_ONLY: "/auth/user/delete";
        "UserChangePassword" NAME_AND_PASSWORD -> HEADER_ONLY: "/auth/user/changepw";
        "UserGrantRole" USER_GRANT_REQUEST -> HEADER_ONLY: "/auth/user/grant";
        "UserRevokeRole" USER_REVOKE_REQUEST -> HEADER_ONLY: "/auth/user/revoke";
        "RoleAdd" NAMED -> HEADER_ONLY: "/auth/role/add";
        "RoleGet" ROLE -> ROLE_RESPONSE: "/auth/role/get";
        "RoleList" EMPTY -> ROLES_RESPONSE: "/auth/role/list";
        "RoleDelete" ROLE -> HEADER_ONLY: "/auth/role/delete";
        "RoleGrantPermission" ROLE_GRANT_REQUEST -> HEADER_ONLY: "/auth/role/grant";
        "RoleRevokePermission" ROLE_REVOKE_REQUEST -> HEADER_ONLY: "/auth/role/revoke";
    }
}

static STREAMS: &[Method] = &[
    Method {
        path: "/watch",
        method: "/etcdserverpb.Watch/Watch",
        request: &WATCH_REQUEST,
        response: &WATCH_RESPONSE,
        streams: true,
    },
    Method {
        path: "/lease/keepalive",
        method: "/etcdserverpb.Lease/LeaseKeepAlive",
        request: &LEASE_ID,
        response: &LEASE_KEEP_ALIVE_RESPONSE,
        streams: true,
    },
    Method {
        path: "/maintenance/snapshot",
        method: "/etcdserverpb.Maintenance/Snapshot",
        request: &EMPTY,
        response: &SNAPSHOT_RESPONSE,
        streams: true,
    },
];

/// The method at a path behind `/v3`.
pub(super) fn find(path: &str) -> Option<&'static Method> {
    UNARY.iter().chain(STREAMS).find(|method| method.path == path)
}
