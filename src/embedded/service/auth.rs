//! Users, roles, and tokens. The method `AuthStatus` has messages that etcd-client keeps to itself, so that there is
//! no stub of the whole service: each method is found by its path.

use super::{Leader, Service};
use crate::embedded::plan::RequestKind;
use crate::embedded::refusal::RpcError;
use crate::embedded::shared::Inner;
use etcd_client::proto::{
    PbAuthDisableRequest, PbAuthDisableResponse, PbAuthEnableRequest, PbAuthEnableResponse,
    PbAuthRoleAddRequest, PbAuthRoleAddResponse, PbAuthRoleDeleteRequest, PbAuthRoleDeleteResponse,
    PbAuthRoleGetRequest, PbAuthRoleGetResponse, PbAuthRoleGrantPermissionRequest,
    PbAuthRoleGrantPermissionResponse, PbAuthRoleListResponse, PbAuthRoleRevokePermissionRequest,
    PbAuthRoleRevokePermissionResponse, PbAuthUserAddRequest, PbAuthUserAddResponse,
    PbAuthUserChangePasswordRequest, PbAuthUserChangePasswordResponse, PbAuthUserDeleteRequest,
    PbAuthUserDeleteResponse, PbAuthUserGetRequest, PbAuthUserGetResponse, PbAuthUserGrantRoleRequest,
    PbAuthUserGrantRoleResponse, PbAuthUserListResponse, PbAuthUserRevokeRoleRequest,
    PbAuthUserRevokeRoleResponse, PbAuthenticateRequest, PbAuthenticateResponse, PbResponseHeader,
};
use etcd_client::{Permission, PermissionType};
use prost::Message;
use std::convert::Infallible;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Finds the method of a request.
#[derive(Clone)]
pub(super) struct Users(pub(super) Service);

impl NamedService for Users {
    const NAME: &'static str = "etcdserverpb.Auth";
}

/// A request without content.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct AuthStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

/// What a method does, and with which kind of request.
struct Method<Q, A> {
    service: Service,
    kind: RequestKind,
    apply: fn(&mut Inner, &Q, Instant) -> Result<A, RpcError>,
}

impl<Q: Message + Default + 'static, A: Message + 'static> UnaryService<Q> for Method<Q, A> {
    type Response = A;
    type Future = BoxFuture<Response<A>, Status>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (service, kind, apply) = (self.service.clone(), self.kind, self.apply);
        Box::pin(async move { service.unary(kind, Leader::Needed, request, apply).await })
    }
}

impl tonic::codegen::Service<http::Request<Body>> for Users {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self(service) = self.clone();
        Box::pin(async move { Ok(answer(service, request).await) })
    }
}

async fn answer(service: Service, request: http::Request<Body>) -> http::Response<Body> {
    const PREFIX: &str = "/etcdserverpb.Auth/";
    let method = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
    macro_rules! methods {
        ($($name:literal $kind:ident $apply:expr;)*) => {
            match method.as_str() {
                $($name => {
                    let method = Method { service, kind: RequestKind::$kind, apply: $apply };
                    Grpc::new(ProstCodec::default()).unary(method, request).await
                })*
                _ => Status::unimplemented(format!("unknown method {method} for service etcdserverpb.Auth"))
                    .into_http(),
            }
        };
    }
    methods! {
        "Authenticate" Authenticate authenticate;
        "AuthEnable" Auth enable;
        "AuthDisable" Auth disable;
        "AuthStatus" Auth status;
        "UserAdd" Auth user_add;
        "UserGet" Auth user_get;
        "UserList" Auth user_list;
        "UserDelete" Auth user_delete;
        "UserChangePassword" Auth user_change_password;
        "UserGrantRole" Auth user_grant_role;
        "UserRevokeRole" Auth user_revoke_role;
        "RoleAdd" Auth role_add;
        "RoleGet" Auth role_get;
        "RoleList" Auth role_list;
        "RoleDelete" Auth role_delete;
        "RoleGrantPermission" Auth role_grant_permission;
        "RoleRevokePermission" Auth role_revoke_permission;
    }
}

/// Refuses who may not manage users.
fn admin(inner: &Inner) -> Result<(), RpcError> {
    inner.member.auth.check_admin(&inner.member.caller)
}

fn header(inner: &Inner) -> Option<PbResponseHeader> {
    Some(inner.member.header())
}

fn authenticate(
    inner: &mut Inner,
    request: &PbAuthenticateRequest,
    now: Instant,
) -> Result<PbAuthenticateResponse, RpcError> {
    let token = inner.member.auth.authenticate(&request.name, &request.password, now)?;
    Ok(PbAuthenticateResponse { header: header(inner), token })
}

fn enable(inner: &mut Inner, _: &PbAuthEnableRequest, _: Instant) -> Result<PbAuthEnableResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.enable()?;
    Ok(PbAuthEnableResponse { header: header(inner) })
}

fn disable(
    inner: &mut Inner,
    _: &PbAuthDisableRequest,
    _: Instant,
) -> Result<PbAuthDisableResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.disable();
    Ok(PbAuthDisableResponse { header: header(inner) })
}

fn status(inner: &mut Inner, _: &Nothing, _: Instant) -> Result<AuthStatus, RpcError> {
    admin(inner)?;
    let auth = &inner.member.auth;
    let (enabled, auth_revision) = (auth.is_enabled(), auth.revision());
    Ok(AuthStatus { header: header(inner), enabled, auth_revision })
}

fn user_add(
    inner: &mut Inner,
    request: &PbAuthUserAddRequest,
    _: Instant,
) -> Result<PbAuthUserAddResponse, RpcError> {
    admin(inner)?;
    let without = request.options.as_ref().is_some_and(|options| options.no_password);
    let password = (!without).then_some(request.password.as_str());
    inner.member.auth.add_user(&request.name, password)?;
    Ok(PbAuthUserAddResponse { header: header(inner) })
}

fn user_get(
    inner: &mut Inner,
    request: &PbAuthUserGetRequest,
    _: Instant,
) -> Result<PbAuthUserGetResponse, RpcError> {
    let roles = inner.member.auth.user(&inner.member.caller, &request.name)?;
    Ok(PbAuthUserGetResponse { header: header(inner), roles })
}

fn user_list(inner: &mut Inner, _: &Nothing, _: Instant) -> Result<PbAuthUserListResponse, RpcError> {
    admin(inner)?;
    Ok(PbAuthUserListResponse { header: header(inner), users: inner.member.auth.users() })
}

fn user_delete(
    inner: &mut Inner,
    request: &PbAuthUserDeleteRequest,
    _: Instant,
) -> Result<PbAuthUserDeleteResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.delete_user(&request.name)?;
    Ok(PbAuthUserDeleteResponse { header: header(inner) })
}

fn user_change_password(
    inner: &mut Inner,
    request: &PbAuthUserChangePasswordRequest,
    _: Instant,
) -> Result<PbAuthUserChangePasswordResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.change_password(&request.name, &request.password)?;
    Ok(PbAuthUserChangePasswordResponse { header: header(inner) })
}

fn user_grant_role(
    inner: &mut Inner,
    request: &PbAuthUserGrantRoleRequest,
    _: Instant,
) -> Result<PbAuthUserGrantRoleResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.grant_role(&request.user, &request.role)?;
    Ok(PbAuthUserGrantRoleResponse { header: header(inner) })
}

fn user_revoke_role(
    inner: &mut Inner,
    request: &PbAuthUserRevokeRoleRequest,
    _: Instant,
) -> Result<PbAuthUserRevokeRoleResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.revoke_role(&request.name, &request.role)?;
    Ok(PbAuthUserRevokeRoleResponse { header: header(inner) })
}

fn role_add(
    inner: &mut Inner,
    request: &PbAuthRoleAddRequest,
    _: Instant,
) -> Result<PbAuthRoleAddResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.add_role(&request.name)?;
    Ok(PbAuthRoleAddResponse { header: header(inner) })
}

fn role_get(
    inner: &mut Inner,
    request: &PbAuthRoleGetRequest,
    _: Instant,
) -> Result<PbAuthRoleGetResponse, RpcError> {
    let granted = inner.member.auth.role(&inner.member.caller, &request.role)?;
    let permission = |(kind, key, end): (i32, Vec<u8>, Vec<u8>)| {
        let kind = match kind {
            0 => PermissionType::Read,
            1 => PermissionType::Write,
            _ => PermissionType::Readwrite,
        };
        let permission = Permission::new(kind, key);
        if end.is_empty() { permission } else { permission.with_range_end(end) }
    };
    let perm = granted.into_iter().map(|granted| permission(granted).into()).collect();
    Ok(PbAuthRoleGetResponse { header: header(inner), perm })
}

fn role_list(inner: &mut Inner, _: &Nothing, _: Instant) -> Result<PbAuthRoleListResponse, RpcError> {
    admin(inner)?;
    Ok(PbAuthRoleListResponse { header: header(inner), roles: inner.member.auth.roles() })
}

fn role_delete(
    inner: &mut Inner,
    request: &PbAuthRoleDeleteRequest,
    _: Instant,
) -> Result<PbAuthRoleDeleteResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.delete_role(&request.role)?;
    Ok(PbAuthRoleDeleteResponse { header: header(inner) })
}

fn role_grant_permission(
    inner: &mut Inner,
    request: &PbAuthRoleGrantPermissionRequest,
    _: Instant,
) -> Result<PbAuthRoleGrantPermissionResponse, RpcError> {
    admin(inner)?;
    let new = request.perm.as_ref().ok_or(RpcError::PERMISSION_NOT_GIVEN)?;
    let new = (new.perm_type, new.key.clone(), new.range_end.clone());
    inner.member.auth.grant_permission(&request.name, new)?;
    Ok(PbAuthRoleGrantPermissionResponse { header: header(inner) })
}

fn role_revoke_permission(
    inner: &mut Inner,
    request: &PbAuthRoleRevokePermissionRequest,
    _: Instant,
) -> Result<PbAuthRoleRevokePermissionResponse, RpcError> {
    admin(inner)?;
    inner.member.auth.revoke_permission(&request.role, &request.key, &request.range_end)?;
    Ok(PbAuthRoleRevokePermissionResponse { header: header(inner) })
}
