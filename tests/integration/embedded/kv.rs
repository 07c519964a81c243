//! Random ranges, puts, deletions, transactions and compactions, compared with a real etcd.

use super::both::{Both, Dice, seeds};
use etcd_client::{
    AlarmAction, AlarmType, CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions,
    LeaseGrantOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
};

pub const KEYS: [&str; 9] = ["a", "a/1", "a/2", "a/3", "b", "b/1", "b/2", "c", "~"];
const VALUES: [&str; 4] = ["", "x", "y", "a longer value"];
const LEASES: [i64; 4] = [0, 11, 12, 99];
const OPERATIONS: u64 = 3000;

/// Makes operations; knows how far the revisions are.
pub struct Maker {
    pub dice: Dice,
    pub revision: i64,
    /// Whether deletions in the transaction being made may run from a key on. Puts that keep the value or
    /// the lease of a key are left out then: where the key is deleted before, etcd 3.4.23 panics.
    pub from_key: bool,
    /// Where ranges end that end at a key.
    pub ends: &'static [&'static str],
}

impl Maker {
    pub fn key(&mut self) -> String {
        if self.dice.chance(2) { String::new() } else { self.dice.one(&KEYS).to_owned() }
    }

    /// Zero mostly, otherwise somewhere in the past, sometimes in the future or below zero.
    pub fn revision(&mut self) -> i64 {
        match self.dice.below(20) {
            0 => self.revision + 1 + self.dice.below(3) as i64,
            1 => -(self.dice.below(3) as i64),
            2..6 => self.revision - self.dice.below(30) as i64,
            _ => 0,
        }
    }

    fn bound(&mut self) -> i64 {
        if self.dice.chance(80) { 0 } else { self.revision - self.dice.below(40) as i64 }
    }

    pub fn get(&mut self) -> GetOptions {
        let mut options = GetOptions::new().with_revision(self.revision());
        options = match self.dice.below(8) {
            0..3 => options.with_prefix(),
            3 => options.with_from_key(),
            4 => options.with_range(self.dice.one(self.ends)),
            5 => options.with_all_keys(),
            _ => options,
        };
        if self.dice.chance(30) {
            options = options.with_limit(self.dice.below(6) as i64 - 1);
        }
        if self.dice.chance(30) {
            let target = self.dice.one(&[
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ]);
            options = options
                .with_sort(target, self.dice.one(&[SortOrder::None, SortOrder::Ascend, SortOrder::Descend]));
        }
        if self.dice.chance(20) {
            options = options.with_keys_only();
        }
        if self.dice.chance(10) {
            options = options.with_count_only();
        }
        if self.dice.chance(20) {
            options = options.with_serializable();
        }
        options
            .with_min_mod_revision(self.bound())
            .with_max_mod_revision(self.bound())
            .with_min_create_revision(self.bound())
            .with_max_create_revision(self.bound())
    }

    pub fn put(&mut self) -> (String, &'static str, PutOptions) {
        let mut options = PutOptions::new();
        let mut value = self.dice.one(&VALUES);
        if self.dice.chance(25) {
            options = options.with_lease(self.dice.one(&LEASES));
        }
        if self.dice.chance(25) {
            options = options.with_prev_key();
        }
        if !self.from_key && self.dice.chance(8) {
            options = options.with_ignore_value();
            value = if self.dice.chance(80) { "" } else { value };
        }
        if !self.from_key && self.dice.chance(8) {
            options = options.with_ignore_lease();
        }
        (self.key(), value, options)
    }

    pub fn delete(&mut self) -> (String, DeleteOptions) {
        let mut options = DeleteOptions::new();
        options = match self.dice.below(10) {
            0 | 1 => options.with_prefix(),
            2 => options.with_range(self.dice.one(self.ends)),
            3 => options.with_from_key(),
            _ => options,
        };
        if self.dice.chance(30) {
            options = options.with_prev_key();
        }
        (self.key(), options)
    }

    fn delete_below(&mut self) -> (String, DeleteOptions) {
        let options = DeleteOptions::new();
        match self.dice.below(8) {
            0 | 1 => (self.dice.one(&KEYS).to_owned(), options.with_prefix()),
            2 => (self.key(), options.with_range(self.dice.one(self.ends))),
            3 => (self.key(), options.with_prev_key()),
            _ => (self.key(), options),
        }
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let op = self.dice.one(&[CompareOp::Equal, CompareOp::NotEqual, CompareOp::Greater, CompareOp::Less]);
        let past = if self.dice.chance(30) { 0 } else { self.revision - self.dice.below(10) as i64 };
        let compare = match self.dice.below(5) {
            0 => Compare::version(key, op, self.dice.below(4) as i64),
            1 => Compare::create_revision(key, op, past),
            2 => Compare::mod_revision(key, op, past),
            3 => Compare::value(key, op, self.dice.one(&VALUES)),
            _ => Compare::lease(key, op, self.dice.one(&LEASES)),
        };
        match self.dice.below(6) {
            0 => compare.with_prefix(),
            1 => compare.with_range(self.dice.one(self.ends)),
            _ => compare,
        }
    }

    fn branch(&mut self, depth: u64) -> Vec<TxnOp> {
        let length = self.dice.below(4);
        (0..length)
            .map(|_| match self.dice.below(if depth == 0 { 8 } else { 10 }) {
                0..4 => {
                    let (key, value, options) = self.put();
                    TxnOp::put(key, value, Some(options))
                }
                4 | 5 => {
                    let (key, options) = if self.from_key { self.delete() } else { self.delete_below() };
                    TxnOp::delete(key, Some(options))
                }
                6 | 7 => TxnOp::get(self.key(), Some(self.get())),
                _ => TxnOp::txn(self.txn(depth - 1)),
            })
            .collect()
    }

    pub fn txn(&mut self, depth: u64) -> Txn {
        let compares: Vec<_> = (0..self.dice.below(3)).map(|_| self.compare()).collect();
        Txn::new().when(compares).and_then(self.branch(depth)).or_else(self.branch(depth))
    }
}

/// One random operation of keys at both; keeps the maker's revision up to date.
pub async fn one_operation(both: &mut Both, maker: &mut Maker) {
    let header = match maker.dice.below(100) {
        0..30 => {
            let (key, value, options) = maker.put();
            let what = format!("put {key:?} {value:?} {options:?}");
            let put = async |mut client: etcd_client::Client| {
                client.put(key.as_str(), value, Some(options.clone())).await
            };
            both.same(what, put).await.and_then(|done| done.0.header)
        }
        30..40 => {
            let (key, options) = maker.delete();
            let what = format!("delete {key:?} {options:?}");
            let delete = async |mut client: etcd_client::Client| {
                client.delete(key.as_str(), Some(options.clone())).await
            };
            both.same(what, delete).await.and_then(|done| done.0.header)
        }
        40..65 => {
            let (key, options) = (maker.key(), maker.get());
            let what = format!("get {key:?} {options:?}");
            let get =
                async |mut client: etcd_client::Client| client.get(key.as_str(), Some(options.clone())).await;
            both.same(what, get).await.and_then(|done| done.0.header)
        }
        _ => {
            maker.from_key = maker.dice.chance(30);
            let txn = maker.txn(2);
            maker.from_key = false;
            let what = format!("{txn:?}");
            let run = async |mut client: etcd_client::Client| client.txn(txn.clone()).await;
            both.same(what, run).await.and_then(|done| done.0.header)
        }
    };
    maker.revision = header.map_or(maker.revision, |header| header.revision);
}

pub async fn grant(both: &mut Both, id: i64, ttl: i64) {
    both.same(format!("grant {id} for {ttl} s"), async |mut client| {
        client.lease_grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await
    })
    .await;
}

pub async fn compact(both: &mut Both, revision: i64) {
    both.same(format!("compact {revision}"), async |mut client| {
        client.compact(revision, Some(CompactionOptions::new().with_physical())).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_get_the_answers_of_etcd() {
    for seed in seeds() {
        let mut both = Both::start(seed).await;
        let mut maker = Maker { dice: Dice(seed), revision: 1, from_key: false, ends: &KEYS };
        for _ in 0..OPERATIONS {
            match maker.dice.below(200) {
                0 => {
                    let revision = maker.revision - maker.dice.below(60) as i64 + 2;
                    compact(&mut both, revision).await;
                }
                1..5 => {
                    let id = maker.dice.one(&[11, 12]);
                    if maker.dice.chance(70) {
                        grant(&mut both, id, 600).await;
                    } else {
                        both.same(format!("revoke {id}"), async |mut client| client.lease_revoke(id).await)
                            .await;
                    }
                }
                _ => one_operation(&mut both, &mut maker).await,
            }
        }
    }
}

/// A transaction of nested ones: `width` at each of `depth` levels of one path.
fn nested(width: usize, depth: usize) -> Txn {
    let mut operations: Vec<TxnOp> = (0..width).map(|i| TxnOp::get(format!("{depth}/{i}"), None)).collect();
    if depth > 1 {
        operations[0] = TxnOp::txn(nested(width, depth - 1));
    }
    Txn::new().and_then(operations)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_size_are_those_of_etcd() {
    let mut both = Both::start(0).await;
    for (width, depth) in [(128, 1), (129, 1), (64, 2), (65, 2), (32, 4), (33, 4), (43, 3), (42, 3)] {
        let txn = nested(width, depth);
        both.same(format!("{width} wide, {depth} deep"), async |mut client| client.txn(txn.clone()).await)
            .await;
    }
    for compares in [128, 129] {
        let compares: Vec<_> =
            (0..compares).map(|i| Compare::version(format!("{i}"), CompareOp::Equal, 0)).collect();
        let txn = Txn::new().when(compares);
        both.same("compares".to_owned(), async |mut client| client.txn(txn.clone()).await).await;
    }
    const LIMIT: usize = 1_572_864;
    for size in [LIMIT - 100, LIMIT + 1, LIMIT + 512 * 1024 + 1] {
        let value = vec![b'x'; size];
        both.same(format!("a value of {size} bytes"), async |client| {
            let mut kv = client.kv_client();
            kv.put("large", value.clone(), None).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alarm_about_space_refuses_what_etcd_refuses() {
    let mut both = Both::start(0).await;
    grant(&mut both, 11, 600).await;
    for client in [&mut both.real, &mut both.embedded] {
        client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await.expect("alarm");
    }
    let put = TxnOp::put("a", "1", None);
    let txns = [
        Txn::new().and_then([put.clone()]),
        Txn::new().or_else([put.clone()]),
        Txn::new().and_then([TxnOp::txn(Txn::new().and_then([put]))]),
        Txn::new().and_then([TxnOp::delete("a", None), TxnOp::get("a", None)]),
    ];
    for round in ["raised", "taken back"] {
        both.same(format!("put, {round}"), async |mut client| client.put("a", "1", None).await).await;
        both.same(format!("grant, {round}"), async |mut client| {
            client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(12))).await
        })
        .await;
        for txn in &txns {
            both.same(format!("{txn:?}, {round}"), async |mut client| client.txn(txn.clone()).await).await;
        }
        both.same(format!("delete, {round}"), async |mut client| client.delete("a", None).await).await;
        for client in [&mut both.real, &mut both.embedded] {
            client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.expect("alarm");
        }
    }
}

/// Without what differs between any two servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_alarms_and_members_are_told_as_by_etcd() {
    let mut both = Both::start(0).await;
    for round in ["healthy", "without space"] {
        let mut told = Vec::new();
        for client in [&mut both.real, &mut both.embedded] {
            let status = client.status().await.expect("status");
            let member = status.leader();
            let members = client.member_list().await.expect("members");
            let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("alarms");
            assert_eq!(status.header().expect("a header").member_id(), member);
            assert_eq!(members.members().iter().map(|m| m.id()).collect::<Vec<_>>(), [member]);
            assert!(status.version().starts_with("3.4."), "{}", status.version());
            let errors: Vec<_> = status
                .errors()
                .iter()
                .map(|error| error.replace(&member.to_string(), "the member"))
                .collect();
            let alarms: Vec<_> =
                alarms.alarms().iter().map(|a| (a.alarm(), a.member_id() == member)).collect();
            let header = status.header().expect("a header");
            told.push(format!("{:?}", (status.raft_term(), header.revision(), errors, alarms)));
        }
        assert_eq!(told[1], told[0], "{round}");
        for client in [&mut both.real, &mut both.embedded] {
            client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await.expect("alarm");
        }
    }
}
