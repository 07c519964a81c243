//! Users, roles, and who may do what. Pure: the time is passed in.
//!
//! As in etcd, a change of users or roles has a revision of its own, and a user with the role `root` may do everything.

use super::permissions::{Access, Permissions};
use super::refusal::RpcError;
use super::span::Span;
use super::tokens::Tokens;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// The user, and the role, that may do everything.
const ROOT: &str = "root";

/// On whose behalf something is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Caller {
    /// The server itself, or a test.
    #[default]
    Trusted,
    /// A client without a token.
    Nobody,
    User(String),
}

#[derive(Clone, Debug)]
struct User {
    /// `None`: who has no password is not let in by one.
    password: Option<String>,
    roles: BTreeSet<String>,
}

/// A permission, as a role has it: the kind as the protocol numbers it, the key, and the end of the range.
pub(super) type Granted = (i32, Vec<u8>, Vec<u8>);

/// All users and roles of a server.
#[derive(Clone, Debug)]
pub(super) struct Auth {
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Vec<Granted>>,
    enabled: bool,
    revision: u64,
    pub(super) tokens: Tokens,
}

impl Auth {
    pub(super) fn new() -> Self {
        Self {
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            enabled: false,
            revision: 1,
            tokens: Tokens::default(),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes of users and roles.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whom a token stands for. As in etcd 3.4.23, one that is not known is refused also while authentication is off.
    pub(super) fn caller(&mut self, token: Option<&str>, now: Instant) -> Result<Caller, RpcError> {
        match token {
            None => Ok(Caller::Nobody),
            Some(token) => self.tokens.user(token, now).map(Caller::User).ok_or(RpcError::INVALID_AUTH_TOKEN),
        }
    }

    pub(super) fn enable(&mut self) -> Result<(), RpcError> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(RpcError::ROOT_USER_NOT_EXIST)?;
        if !root.roles.contains(ROOT) {
            return Err(RpcError::ROOT_ROLE_NOT_EXIST);
        }
        self.enabled = true;
        Ok(())
    }

    pub(super) fn disable(&mut self) {
        if std::mem::take(&mut self.enabled) {
            self.revision += 1;
            self.tokens.forget();
        }
    }

    /// A token for a user with this password.
    pub(super) fn authenticate(
        &mut self,
        name: &str,
        password: &str,
        now: Instant,
    ) -> Result<String, RpcError> {
        if !self.enabled {
            return Err(RpcError::AUTH_NOT_ENABLED);
        }
        match &self.users.get(name).ok_or(RpcError::AUTH_FAILED)?.password {
            None => Err(RpcError::NO_PASSWORD_USER),
            Some(known) if known != password => Err(RpcError::AUTH_FAILED),
            Some(_) => Ok(self.tokens.give(name, now)),
        }
    }

    pub(super) fn add_user(&mut self, name: &str, password: Option<&str>) -> Result<(), RpcError> {
        if name.is_empty() {
            return Err(RpcError::USER_EMPTY);
        }
        if self.users.contains_key(name) {
            return Err(RpcError::USER_EXISTS);
        }
        let user = User { password: password.map(str::to_owned), roles: BTreeSet::new() };
        self.users.insert(name.to_owned(), user);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn delete_user(&mut self, name: &str) -> Result<(), RpcError> {
        if self.enabled && name == ROOT {
            return Err(RpcError::INVALID_AUTH_MGMT);
        }
        self.users.remove(name).ok_or(RpcError::USER_NOT_FOUND)?;
        self.tokens.forget_user(name);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn change_password(&mut self, name: &str, password: &str) -> Result<(), RpcError> {
        let user = self.users.get_mut(name).ok_or(RpcError::USER_NOT_FOUND)?;
        if user.password.is_some() {
            user.password = Some(password.to_owned());
        }
        self.tokens.forget_user(name);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn grant_role(&mut self, name: &str, role: &str) -> Result<(), RpcError> {
        let user = self.users.get_mut(name).ok_or(RpcError::USER_NOT_FOUND)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(RpcError::ROLE_NOT_FOUND);
        }
        if user.roles.insert(role.to_owned()) {
            self.revision += 1;
        }
        Ok(())
    }

    pub(super) fn revoke_role(&mut self, name: &str, role: &str) -> Result<(), RpcError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(RpcError::INVALID_AUTH_MGMT);
        }
        let user = self.users.get_mut(name).ok_or(RpcError::USER_NOT_FOUND)?;
        if !user.roles.remove(role) {
            return Err(RpcError::ROLE_NOT_GRANTED);
        }
        self.revision += 1;
        Ok(())
    }

    /// The roles of a user, for the user itself and for those who may do everything.
    pub(super) fn user(&self, caller: &Caller, name: &str) -> Result<Vec<String>, RpcError> {
        let own = matches!(caller, Caller::User(caller) if caller == name);
        self.check_admin(caller).or_else(|refusal| if own { Ok(()) } else { Err(refusal) })?;
        let user = self.users.get(name).ok_or(RpcError::USER_NOT_FOUND)?;
        Ok(user.roles.iter().cloned().collect())
    }

    pub(super) fn users(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    pub(super) fn add_role(&mut self, role: &str) -> Result<(), RpcError> {
        if role.is_empty() {
            return Err(RpcError::ROLE_EMPTY);
        }
        if self.roles.contains_key(role) {
            return Err(RpcError::ROLE_EXISTS);
        }
        self.roles.insert(role.to_owned(), Vec::new());
        self.revision += 1;
        Ok(())
    }

    pub(super) fn delete_role(&mut self, role: &str) -> Result<(), RpcError> {
        if self.enabled && role == ROOT {
            return Err(RpcError::INVALID_AUTH_MGMT);
        }
        self.roles.remove(role).ok_or(RpcError::ROLE_NOT_FOUND)?;
        for user in self.users.values_mut() {
            user.roles.remove(role);
        }
        self.revision += 1;
        Ok(())
    }

    /// The permissions of a role, for its users and for those who may do everything.
    pub(super) fn role(&self, caller: &Caller, role: &str) -> Result<Vec<Granted>, RpcError> {
        let own = matches!(caller, Caller::User(caller)
            if self.users.get(caller).is_some_and(|user| user.roles.contains(role)));
        self.check_admin(caller).or_else(|refusal| if own { Ok(()) } else { Err(refusal) })?;
        self.roles.get(role).cloned().ok_or(RpcError::ROLE_NOT_FOUND)
    }

    pub(super) fn roles(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    pub(super) fn grant_permission(&mut self, role: &str, new: Granted) -> Result<(), RpcError> {
        let granted = self.roles.get_mut(role).ok_or(RpcError::ROLE_NOT_FOUND)?;
        let (kind, key, end) = new;
        let at = granted.partition_point(|(_, other, _)| *other < key);
        match granted.get_mut(at).filter(|(_, other, its_end)| *other == key && *its_end == end) {
            Some(same) => same.0 = kind,
            None => {
                granted.push((kind, key, end));
                granted.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
            }
        }
        self.revision += 1;
        Ok(())
    }

    pub(super) fn revoke_permission(&mut self, role: &str, key: &[u8], end: &[u8]) -> Result<(), RpcError> {
        let granted = self.roles.get_mut(role).ok_or(RpcError::ROLE_NOT_FOUND)?;
        let before = granted.len();
        granted.retain(|(_, its_key, its_end)| its_key != key || its_end != end);
        if granted.len() == before {
            return Err(RpcError::PERMISSION_NOT_GRANTED);
        }
        self.revision += 1;
        Ok(())
    }

    /// Who asks may manage users and roles.
    pub(super) fn check_admin(&self, caller: &Caller) -> Result<(), RpcError> {
        let name = match caller {
            _ if !self.enabled => return Ok(()),
            Caller::Trusted => return Ok(()),
            Caller::Nobody => return Err(RpcError::USER_EMPTY),
            Caller::User(name) => name,
        };
        let user = self.users.get(name).ok_or(RpcError::USER_NOT_FOUND)?;
        if user.roles.contains(ROOT) { Ok(()) } else { Err(RpcError::PERMISSION_DENIED) }
    }

    /// Who asks may read, or write, all of these keys.
    pub(super) fn check(&self, caller: &Caller, access: Access, span: &Span) -> Result<(), RpcError> {
        let name = match caller {
            _ if !self.enabled => return Ok(()),
            Caller::Trusted => return Ok(()),
            Caller::Nobody => return Err(RpcError::USER_EMPTY),
            Caller::User(name) => name,
        };
        let user = self.users.get(name).ok_or(RpcError::PERMISSION_DENIED)?;
        if user.roles.contains(ROOT) {
            return Ok(());
        }
        let granted = user.roles.iter().filter_map(|role| self.roles.get(role)).flatten();
        let allowed = Permissions::of(granted, access);
        if allowed.cover(span) { Ok(()) } else { Err(RpcError::PERMISSION_DENIED) }
    }

    /// How long a token lives without being used.
    pub(super) fn set_token_ttl(&mut self, ttl: Duration) {
        self.tokens.set_ttl(ttl);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: i32 = 1;
    const READ_WRITE: i32 = 2;

    fn with_users() -> Auth {
        let mut auth = Auth::new();
        auth.add_user("root", Some("secret")).unwrap();
        auth.grant_role("root", "root").unwrap();
        auth.add_user("ada", Some("pass")).unwrap();
        auth.add_role("keeper").unwrap();
        auth.grant_role("ada", "keeper").unwrap();
        auth.grant_permission("keeper", (READ_WRITE, b"a".to_vec(), b"c".to_vec())).unwrap();
        auth
    }

    #[test]
    fn authentication_is_enabled_when_there_is_somebody_to_manage_it() {
        let mut auth = Auth::new();
        assert_eq!(auth.enable(), Err(RpcError::ROOT_USER_NOT_EXIST));
        auth.add_user("root", Some("")).unwrap();
        assert_eq!(auth.enable(), Err(RpcError::ROOT_ROLE_NOT_EXIST));
        auth.grant_role("root", "root").unwrap();
        assert_eq!(auth.enable(), Ok(()));
        assert_eq!(auth.delete_user("root"), Err(RpcError::INVALID_AUTH_MGMT));
    }

    #[test]
    fn who_has_no_permission_for_all_of_a_range_has_none_for_it() {
        let mut auth = with_users();
        let ada = Caller::User("ada".to_owned());
        let span = |key: &str, end: &str| Span::new(key.as_bytes(), end.as_bytes());
        assert_eq!(auth.check(&Caller::Nobody, Access::Write, &span("z", "")), Ok(()), "not enabled");
        auth.enable().unwrap();
        let check = |auth: &Auth, key, end| auth.check(&ada, Access::Read, &span(key, end));
        assert_eq!(auth.check(&Caller::Nobody, Access::Read, &span("a", "")), Err(RpcError::USER_EMPTY));
        assert_eq!(check(&auth, "a", ""), Ok(()));
        assert_eq!(check(&auth, "c", ""), Err(RpcError::PERMISSION_DENIED));
        assert_eq!(check(&auth, "b", "d"), Err(RpcError::PERMISSION_DENIED));
        auth.grant_permission("keeper", (READ_WRITE, b"c".to_vec(), b"e".to_vec())).unwrap();
        assert_eq!(check(&auth, "b", "d"), Ok(()), "two that touch are one");
        auth.grant_permission("keeper", (WRITE, b"c".to_vec(), b"e".to_vec())).unwrap();
        assert_eq!(check(&auth, "b", "d"), Err(RpcError::PERMISSION_DENIED), "to write is not to read");
    }

    #[test]
    fn a_token_ends_when_it_is_not_used_and_with_the_password() {
        let mut auth = with_users();
        auth.enable().unwrap();
        auth.set_token_ttl(Duration::from_secs(3));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(auth.authenticate("ada", "other", start), Err(RpcError::AUTH_FAILED));
        let token = auth.authenticate("ada", "pass", start).unwrap();
        let ada = Ok(Caller::User("ada".to_owned()));
        assert_eq!(auth.caller(Some(&token), after(2)), ada);
        assert_eq!(auth.caller(Some(&token), after(4)), ada, "its use prolongs it");
        assert_eq!(auth.caller(Some(&token), after(8)), Err(RpcError::INVALID_AUTH_TOKEN));
        let token = auth.authenticate("ada", "pass", after(8)).unwrap();
        auth.change_password("ada", "new").unwrap();
        assert_eq!(auth.caller(Some(&token), after(8)), Err(RpcError::INVALID_AUTH_TOKEN));
    }
}
