//! Evaluation: the truth of a condition, and the witness that proves it.

use super::compile::{Compiled, Slot};
use super::leaf::{Leaf, Test};
use super::tree::{Node, Tree};
use crate::change::Seen;
use crate::typed_index::typed_index;
use smallvec::{SmallVec, smallvec};

/// A transaction compares values of up to this many bytes directly, and longer ones by their revision.
pub(crate) const MAX_VALUE_IN_CHECK: usize = 256;

/// Something that a transaction can compare. It is kept small because every decision carries several of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The key does not exist.
    Absent(Slot),
    /// The key exists.
    Exists(Slot),
    /// The key exists with the value that was seen.
    ValueIs(Slot),
    /// The key exists, and its value is not the one that this leaf compares it with.
    ValueIsNot(Slot, LeafNumber),
    /// The key has the modification revision that was seen.
    Unchanged(Slot),
}

/// The place of a leaf among those of its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeafNumber(u32);
typed_index!(LeafNumber(u32));

/// Checks that together prove the truth of a condition: whenever all of them hold, the condition has this
/// truth. There is at most one check for a slot, so a witness always fits into a transaction. It is empty if
/// nothing needs proof.
pub(crate) type Witness = SmallVec<[Check; 4]>;

/// The truth of a condition and the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evaluation {
    pub(crate) truth: bool,
    pub(crate) witness: Witness,
}

/// What was seen of a slot, or `None` if the key is absent. A slot past the end counts as absent.
pub(super) fn seen_at(seen: &[Option<Seen>], slot: Slot) -> Option<&Seen> {
    seen.get(slot.index()).and_then(Option::as_ref)
}

/// `seen` is indexed by slot. The user's closures run in these methods and may panic. The caller has to catch
/// that.
impl Compiled {
    /// The truth alone. This allocates nothing, except for tests of JSON fields.
    pub(crate) fn truth(&self, seen: &[Option<Seen>]) -> bool {
        self.truth_by(&mut |leaf| self.leaf_truth(leaf, seen))
    }

    /// The truth, given a function for the truth of each leaf. Leaves that can't change the result are not
    /// asked for.
    pub(crate) fn truth_by(&self, leaf_truth: &mut impl FnMut(LeafNumber) -> bool) -> bool {
        self.node_truth(Tree::ROOT, leaf_truth)
    }

    /// The truth of one leaf, by its place.
    pub(crate) fn leaf_truth(&self, leaf: LeafNumber, seen: &[Option<Seen>]) -> bool {
        self.leaves[leaf.index()].holds(seen)
    }

    /// The value that a leaf compares its key with. It is empty if the leaf is not a comparison with a value.
    pub(crate) fn literal(&self, leaf: LeafNumber) -> &[u8] {
        match &self.leaves[leaf.index()].test {
            Test::Equals(literal) => literal.as_bytes(),
            _ => &[],
        }
    }

    /// Reads the memory that an evaluation needs first, so that it is in the processor's cache by then.
    pub(crate) fn touch(&self) -> u32 {
        /// Later leaves are read in order, so the processor prefetches them by itself.
        const FIRST: usize = 2;
        let literal = |leaf: &Leaf| match &leaf.test {
            Test::Equals(literal) => literal.as_bytes().first().copied().unwrap_or(0),
            _ => 0,
        };
        let literals = self.leaves.iter().take(FIRST).fold(0, |all, leaf| all ^ literal(leaf));
        u32::from(literals) ^ u32::from(self.tree.node(Tree::ROOT) == Node::All)
    }

    /// The truth, and a witness of few checks. It may run leaves that [`Compiled::truth`] skips.
    pub(crate) fn evaluate(&self, seen: &[Option<Seen>]) -> Evaluation {
        self.verdict(Tree::ROOT, seen)
    }

    fn node_truth(&self, at: usize, leaf_truth: &mut impl FnMut(LeafNumber) -> bool) -> bool {
        let mut children = self.tree.children(at);
        match self.tree.node(at) {
            Node::Leaf(leaf) => leaf_truth(leaf),
            Node::All => children.all(|child| self.node_truth(child, leaf_truth)),
            Node::Any => children.any(|child| self.node_truth(child, leaf_truth)),
            Node::Not => !children.any(|child| self.node_truth(child, leaf_truth)),
        }
    }

    fn verdict(&self, at: usize, seen: &[Option<Seen>]) -> Evaluation {
        match self.tree.node(at) {
            Node::Leaf(leaf) => self.leaves[leaf.index()].verdict(leaf, seen),
            Node::All => self.join(at, true, seen),
            Node::Any => self.join(at, false, seen),
            Node::Not => {
                // With a single child, both ways of joining give the child's own verdict.
                let Evaluation { truth, witness } = self.join(at, true, seen);
                Evaluation { truth: !truth, witness }
            }
        }
    }

    /// A true `and` and a false `or` depend on every child, so their witness is the union. Otherwise one
    /// child decides. The first child with the fewest checks is taken.
    fn join(&self, at: usize, unanimous: bool, seen: &[Option<Seen>]) -> Evaluation {
        let mut union = Witness::new();
        let mut deciding: Option<Witness> = None;
        for child in self.tree.children(at) {
            let Evaluation { truth, witness } = self.verdict(child, seen);
            if truth != unanimous {
                let fewest = deciding.as_ref().map_or(usize::MAX, SmallVec::len);
                if witness.len() < fewest {
                    let enough = witness.len() <= 1;
                    deciding = Some(witness);
                    if enough {
                        break;
                    }
                }
            } else if deciding.is_none() {
                witness.into_iter().for_each(|check| add(&mut union, check, seen));
            }
        }
        match deciding {
            Some(witness) => Evaluation { truth: !unanimous, witness },
            None => Evaluation { truth: unanimous, witness: union },
        }
    }
}

impl Leaf {
    fn verdict(&self, number: LeafNumber, seen: &[Option<Seen>]) -> Evaluation {
        let truth = self.holds(seen);
        let value = |slot: Slot| seen_at(seen, slot).map(|seen| &seen.value);
        let witness = match (&self.test, &self.slots[..]) {
            // Two keys that differ prove that not all are equal.
            (Test::AllEqual, &[first, ref others @ ..]) if !truth => {
                let other = others.iter().copied().find(|other| value(*other) != value(first));
                let either_absent =
                    value(first).is_none() || other.is_some_and(|other| value(other).is_none());
                let check = |slot| if either_absent { presence(slot, seen) } else { pin(slot, seen) };
                [first].into_iter().chain(other).map(check).collect()
            }
            (Test::Absent | Test::Exists, &[slot]) => smallvec![presence(slot, seen)],
            (Test::Equals(literal), &[slot])
                if !truth && literal.len() <= MAX_VALUE_IN_CHECK && value(slot).is_some() =>
            {
                smallvec![Check::ValueIsNot(slot, number)]
            }
            (_, slots) => slots.iter().map(|slot| pin(*slot, seen)).collect(),
        };
        Evaluation { truth, witness }
    }
}

/// The check that a key still exists, or is still absent, as it was seen.
fn presence(slot: Slot, seen: &[Option<Seen>]) -> Check {
    if seen_at(seen, slot).is_some() { Check::Exists(slot) } else { Check::Absent(slot) }
}

/// The check that a key is exactly as it was seen.
fn pin(slot: Slot, seen: &[Option<Seen>]) -> Check {
    match seen_at(seen, slot) {
        None => Check::Absent(slot),
        Some(seen) if seen.value.len() <= MAX_VALUE_IN_CHECK => Check::ValueIs(slot),
        Some(_) => Check::Unchanged(slot),
    }
}

/// Adds a check to a witness. Both hold for what was seen. A slot keeps one check: the stronger of two. Two
/// different "the value is not" checks are replaced by a check of the value that was seen.
fn add(witness: &mut Witness, check: Check, seen: &[Option<Seen>]) {
    let slot = check.slot();
    match witness.iter_mut().find(|known| known.slot() == slot) {
        None => witness.push(check),
        Some(known) if *known == check || matches!(check, Check::Exists(_)) => {}
        Some(known) if matches!(known, Check::Exists(_)) => *known = check,
        Some(known) => *known = pin(slot, seen),
    }
}

impl Check {
    /// The slot of the key that it checks.
    pub(crate) fn slot(&self) -> Slot {
        match self {
            Self::Absent(slot)
            | Self::Exists(slot)
            | Self::ValueIs(slot)
            | Self::ValueIsNot(slot, _)
            | Self::Unchanged(slot) => *slot,
        }
    }
}
