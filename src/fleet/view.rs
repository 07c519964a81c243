//! All members as one engine sees them: what their keys say.

use super::load::LoadClass;
use super::member::{Abilities, MemberId, MemberLoad};
use super::rendezvous::fnv;
use crate::change::Change;
use crate::lock::sentinel::FORMAT;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the keys of members are. Those of engines whose keys have another form are elsewhere: such engines fire
/// nothing beside these.
pub(crate) fn prefix_of_members(namespace: &str) -> String {
    format!("{namespace}members/{FORMAT}/")
}

/// What the name of a member's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberKey {
    Able,
    Busyness,
}

impl MemberKey {
    /// The key of a member below the [prefix](prefix_of_members) of all.
    pub(crate) fn of(self, prefix: &str, member: MemberId) -> String {
        let name = match self {
            Self::Able => "able",
            Self::Busyness => "load",
        };
        format!("{prefix}{member}/{name}")
    }

    /// What is behind the prefix; `None` if no engine writes such a key.
    fn parse(rest: &[u8]) -> Option<(MemberId, Self)> {
        let (id, name) = std::str::from_utf8(rest).ok()?.split_once('/')?;
        let key = match name {
            "able" => Self::Able,
            "load" => Self::Busyness,
            _ => return None,
        };
        Some((MemberId::parse(id)?, key))
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// `None`: this engine can't read them. It is alive, and able for nothing that is known here.
    pub(crate) abilities: Option<Arc<Abilities>>,
    /// The hash of what is written, which is equal in all views.
    hash: u64,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FleetView {
    members: Arc<BTreeMap<MemberId, Member>>,
    loads: BTreeMap<MemberId, MemberLoad>,
}

impl FleetView {
    /// Takes in a change of a key below `prefix`.
    pub(crate) fn apply(&mut self, prefix: &str, change: Change) {
        let Some((id, key)) = change.key().strip_prefix(prefix.as_bytes()).and_then(MemberKey::parse) else {
            return;
        };
        match (key, change) {
            (MemberKey::Able, Change::Put { value, .. }) => {
                let value = value.as_bytes();
                let abilities = serde_json::from_slice(value).ok().map(Arc::new);
                Arc::make_mut(&mut self.members).insert(id, Member { abilities, hash: fnv(value) });
            }
            (MemberKey::Able, Change::Delete { .. }) => {
                Arc::make_mut(&mut self.members).remove(&id);
            }
            (MemberKey::Busyness, Change::Put { value, .. }) => {
                self.loads.insert(id, serde_json::from_slice(value.as_bytes()).unwrap_or_default());
            }
            (MemberKey::Busyness, Change::Delete { .. }) => {
                self.loads.remove(&id);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn has(&self, member: MemberId) -> bool {
        self.members.contains_key(&member)
    }

    /// The name of a member, if it can be read.
    pub(crate) fn name(&self, member: MemberId) -> Option<&Arc<str>> {
        self.members.get(&member)?.abilities.as_ref().map(|abilities| &abilities.engine)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// Members in which something waits, and by rule up to which revision they have come.
    pub(crate) fn behind(&self) -> impl Iterator<Item = (MemberId, &BTreeMap<Arc<str>, i64>)> {
        let loads = self.loads.iter().filter(|(_, load)| !load.backlog.is_empty());
        loads.map(|(member, load)| (*member, &load.backlog))
    }

    /// Nothing waits long in this member for a slot, as it says.
    pub(crate) fn keeps_up(&self, member: MemberId) -> bool {
        self.loads.get(&member).is_none_or(|load| load.class < LoadClass::Behind)
    }

    /// What the member says of its load; of one that says nothing, that it is free and sees nothing.
    pub(crate) fn load(&self, member: MemberId) -> MemberLoad {
        self.loads.get(&member).cloned().unwrap_or_default()
    }

    /// Whether both have the same members, which can do the same.
    pub(crate) fn has_same_members(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.members, &other.members) || self.members == other.members
    }

    /// Equal for all who see the same members, which can do the same. The loads don't count.
    pub(crate) fn digest(&self) -> String {
        let mut bytes = Vec::with_capacity(16 * self.members.len());
        for (id, member) in self.members.iter() {
            bytes.extend(id.get().to_be_bytes());
            bytes.extend(member.hash.to_be_bytes());
        }
        format!("{:016x}", fnv(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Deletion, Revision};

    const PREFIX: &str = "/ns/members/";

    fn put(view: &mut FleetView, key: &str, value: &str) {
        let change = Change::Put {
            key: format!("{PREFIX}{key}").into_bytes(),
            value: value.into(),
            revision: Revision::new(1),
        };
        view.apply(PREFIX, change);
    }

    fn delete(view: &mut FleetView, key: &str) {
        let key = format!("{PREFIX}{key}").into_bytes();
        view.apply(PREFIX, Change::Delete { key, revision: Revision::new(2), how: Deletion::Delivered });
    }

    const ABLE: &str = r#"{"engine":"a","version":"0","rules":{}}"#;

    #[test]
    fn views_of_the_same_members_are_equal_however_they_came_about() {
        let (mut one, mut other) = (FleetView::default(), FleetView::default());
        let empty = one.digest();
        put(&mut one, "0000000000000001/able", ABLE);
        put(&mut one, "0000000000000002/able", ABLE);
        put(&mut other, "0000000000000002/able", ABLE);
        assert_ne!(one.digest(), other.digest());
        put(&mut other, "0000000000000003/able", ABLE);
        put(&mut other, "0000000000000001/able", ABLE);
        delete(&mut other, "0000000000000003/able");
        put(&mut other, "0000000000000001/load", r#"{"class":"behind","view":"x"}"#);
        assert!(one.has_same_members(&other));
        assert_eq!(one.digest(), other.digest());
        assert_ne!(one.digest(), empty);
        assert_eq!(other.load(MemberId::new(1)).class, LoadClass::Behind);
        assert_eq!(other.load(MemberId::new(2)), MemberLoad::default());
    }

    #[test]
    fn what_no_engine_writes_is_no_member_and_what_cannot_be_read_is_one() {
        let mut view = FleetView::default();
        for key in ["", "1/able", "0000000000000001", "0000000000000001/other", "0000000000000001/able/x"] {
            put(&mut view, key, ABLE);
        }
        assert_eq!(view.len(), 0);
        put(&mut view, "0000000000000001/load", r#"{"class":"free","view":""}"#);
        assert_eq!(view.len(), 0, "it is a member by what it can do");
        put(&mut view, "0000000000000001/able", r#"{"form":"of a later version"}"#);
        assert_eq!(view.members().next().unwrap().1.abilities, None);
    }
}
