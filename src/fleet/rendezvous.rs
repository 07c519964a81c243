//! The hash by which members are ordered. Engines of different versions must agree on it, so it never changes.
//!
//! - A lock key without its namespace, as UTF-8, is hashed by **FNV-1a** with 64 bits: offset basis
//!   `cbf29ce484222325`, prime `100000001b3`. There is no seed.
//! - `mix` is the finalizer of **SplitMix64**: `x ^= x >> 30; x *= bf58476d1ce4e5b9; x ^= x >> 27;
//!   x *= 94d049bb133111eb; x ^= x >> 31`, modulo 2^64.
//! - The score of a member for a key is `mix(hash of the key ^ mix(id of the member))`. The greatest score comes first;
//!   of equal scores, the greater id.
//!
//! This is rendezvous hashing: a member that comes takes from each of the others an equal part, and one that goes
//! leaves its part to the others. Nothing else moves.

use super::member::MemberId;

/// The hash of a lock key without its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockKeyHash(u64);

impl LockKeyHash {
    pub(crate) fn of(key: &str) -> Self {
        Self(fnv(key.as_bytes()))
    }
}

/// FNV-1a with 64 bits.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Who has the greatest comes first. Scores of different members are different.
pub(crate) fn score(LockKeyHash(key): LockKeyHash, member: MemberId) -> (u64, MemberId) {
    (mix(key ^ mix(member.get())), member)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These are in `docs/scaling.md`, for whoever writes an engine in another language.
    #[test]
    fn the_hash_is_what_it_has_always_been() {
        for (key, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv(key.as_bytes()), hash, "{key}");
        }
        for (number, mixed) in [(0, 0), (1, 0x5692_161d_100b_05e5), (u64::MAX, 0xb4d0_55fc_f2cb_bd7b)] {
            assert_eq!(mix(number), mixed, "{number}: {:x}", mix(number));
        }
        for (key, member, scored) in VECTORS {
            let (score, _) = score(LockKeyHash::of(key), MemberId::new(*member));
            assert_eq!(score, *scored, "{key} {member:x}: {score:x}");
        }
    }

    const VECTORS: &[(&str, u64, u64)] = &[
        ("lock/poll/7", 1, 0xd26c_9d49_38a6_6826),
        ("lock/poll/7", 2, 0x04e1_4d3c_0ad7_83df),
        ("lock//ams/poll", 0x0123_4567_89ab_cdef, 0xf0c1_1bb3_cceb_a7bd),
    ];

    fn owner(key: &str, members: &[MemberId]) -> MemberId {
        members.iter().map(|member| score(LockKeyHash::of(key), *member)).max().unwrap().1
    }

    fn members(count: u64) -> Vec<MemberId> {
        // As random ids are.
        (1..=count).map(|number| MemberId::new(number.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect()
    }

    fn keys() -> impl Iterator<Item = String> {
        (0..10_000).map(|number| format!("lock/poll/{number}"))
    }

    #[test]
    fn shares_are_even() {
        for count in 2..=8 {
            let members = members(count);
            let mut shares = std::collections::BTreeMap::new();
            keys().for_each(|key| *shares.entry(owner(&key, &members)).or_insert(0u64) += 1);
            let even = 10_000 / count;
            for share in shares.values() {
                assert!(share.abs_diff(even) * 100 <= 15 * even, "{count} members: {shares:?}");
            }
            assert_eq!(shares.len() as u64, count);
        }
    }

    #[test]
    fn a_member_that_comes_or_goes_moves_only_its_own_share() {
        for count in 1..8 {
            let all = members(count + 1);
            for gone in 0..all.len() {
                let left: Vec<MemberId> = all.iter().copied().filter(|member| *member != all[gone]).collect();
                for key in keys().take(1000) {
                    let (with, without) = (owner(&key, &all), owner(&key, &left));
                    assert!(with == without || with == all[gone], "{key}");
                }
            }
        }
    }
}
