//! Evaluation: the truth of a condition, and the witness that proves it.

use super::compile::{Compiled, Slot};
use super::leaf::{Leaf, Test};
use super::tree::{Node, Tree};
use crate::change::Seen;
use smallvec::{SmallVec, smallvec};

/// A value up to this many bytes is compared in a transaction as it is; a longer one by its revision.
pub(crate) const MAX_VALUE_IN_CHECK: usize = 256;

/// Something that a transaction can compare. Small, since every decision carries some along the path of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The key does not exist.
    Absent(Slot),
    /// The key exists.
    Exists(Slot),
    /// The key exists with the value that was seen.
    ValueIs(Slot),
    /// The key exists with another value than the one that this leaf of the condition compares it with.
    ValueIsNot(Slot, LeafNumber),
    /// The key has the modification revision that was seen.
    Unchanged(Slot),
}

/// The place of a leaf among those of its condition.
pub(crate) type LeafNumber = u32;

/// Checks that together prove the truth of a condition: whenever all of them hold, it has this truth. There is
/// at most one check for a slot, so a witness always fits a transaction. Empty if nothing needs proof.
pub(crate) type Witness = SmallVec<[Check; 4]>;

/// The truth of a condition and the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) truth: bool,
    pub(crate) witness: Witness,
}

/// What was seen of a slot; `None` if the key is absent. A slot past the end is absent.
pub(super) fn seen_at(seen: &[Option<Seen>], slot: Slot) -> Option<&Seen> {
    seen.get(usize::from(slot)).and_then(Option::as_ref)
}

/// `seen` is indexed by slot. Closures of the user run here and may panic: that is not caught, the caller does.
impl Compiled {
    /// The truth alone. Allocates nothing, but for tests of JSON fields.
    pub(crate) fn truth(&self, seen: &[Option<Seen>]) -> bool {
        self.truth_by(&mut |leaf| self.leaf_truth(leaf, seen))
    }

    /// The truth, given the truth of each leaf, which is asked for only if it matters.
    pub(crate) fn truth_by(&self, leaf_truth: &mut impl FnMut(usize) -> bool) -> bool {
        self.node_truth(Tree::ROOT, leaf_truth)
    }

    /// The truth of one leaf, by its index in `leaves`.
    pub(crate) fn leaf_truth(&self, leaf: usize, seen: &[Option<Seen>]) -> bool {
        self.leaves[leaf].holds(seen)
    }

    /// What a leaf compares its key with: nothing, if it is of another kind.
    pub(crate) fn literal(&self, leaf: LeafNumber) -> &[u8] {
        match &self.leaves[leaf as usize].test {
            Test::Equals(literal) => literal.as_bytes(),
            _ => &[],
        }
    }

    /// Reads what evaluating it will need first, so that it is in the processor's cache by then.
    pub(crate) fn touch(&self) -> u32 {
        /// Those after them are read in order, which the processor foresees.
        const FIRST: usize = 2;
        let literal = |leaf: &Leaf| match &leaf.test {
            Test::Equals(literal) => literal.as_bytes().first().copied().unwrap_or(0),
            _ => 0,
        };
        let literals = self.leaves.iter().take(FIRST).fold(0, |all, leaf| all ^ literal(leaf));
        u32::from(literals) ^ u32::from(self.tree.node(Tree::ROOT) == Node::All)
    }

    /// The truth with a witness of few checks. May run leaves that [`Compiled::truth`] passes over.
    pub(crate) fn evaluate(&self, seen: &[Option<Seen>]) -> Verdict {
        self.verdict(Tree::ROOT, seen)
    }

    fn node_truth(&self, at: usize, leaf_truth: &mut impl FnMut(usize) -> bool) -> bool {
        let mut children = self.tree.children(at);
        match self.tree.node(at) {
            Node::Leaf(leaf) => leaf_truth(leaf as usize),
            Node::All => children.all(|child| self.node_truth(child, leaf_truth)),
            Node::Any => children.any(|child| self.node_truth(child, leaf_truth)),
            Node::Not => !children.any(|child| self.node_truth(child, leaf_truth)),
        }
    }

    fn verdict(&self, at: usize, seen: &[Option<Seen>]) -> Verdict {
        match self.tree.node(at) {
            Node::Leaf(leaf) => self.leaves[leaf as usize].verdict(leaf, seen),
            Node::All => self.join(at, true, seen),
            Node::Any => self.join(at, false, seen),
            Node::Not => {
                // Of one child, either way of joining is the child itself.
                let Verdict { truth, witness } = self.join(at, true, seen);
                Verdict { truth: !truth, witness }
            }
        }
    }

    /// A true `and`, and a false `or`, need every child: the witness is the union. In the opposite case one
    /// child decides: the first of those with the fewest checks.
    fn join(&self, at: usize, unanimous: bool, seen: &[Option<Seen>]) -> Verdict {
        let mut union = Witness::new();
        let mut deciding: Option<Witness> = None;
        for child in self.tree.children(at) {
            let Verdict { truth, witness } = self.verdict(child, seen);
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
            Some(witness) => Verdict { truth: !unanimous, witness },
            None => Verdict { truth: unanimous, witness: union },
        }
    }
}

impl Leaf {
    fn verdict(&self, number: LeafNumber, seen: &[Option<Seen>]) -> Verdict {
        let truth = self.holds(seen);
        let value = |slot: Slot| seen_at(seen, slot).map(|seen| &seen.value);
        let witness = match (&self.test, &self.slots[..]) {
            // Two keys that differ are proof enough.
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
        Verdict { truth, witness }
    }
}

/// The check that a key is there, or is not, as it was seen.
fn presence(slot: Slot, seen: &[Option<Seen>]) -> Check {
    if seen_at(seen, slot).is_some() { Check::Exists(slot) } else { Check::Absent(slot) }
}

/// The check that fixes everything that was seen of a key.
fn pin(slot: Slot, seen: &[Option<Seen>]) -> Check {
    match seen_at(seen, slot) {
        None => Check::Absent(slot),
        Some(seen) if seen.value.len() <= MAX_VALUE_IN_CHECK => Check::ValueIs(slot),
        Some(_) => Check::Unchanged(slot),
    }
}

/// Adds a check that holds to a witness that holds, one for each slot: the stronger of two stays, and two
/// values that a key does not have become the value that it has.
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
    /// The key it is about.
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
