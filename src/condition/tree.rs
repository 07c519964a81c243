//! The expression over the leaves of a condition, stored in one piece. Each node comes before its children.
//!
//! An engine with many rules doesn't fit into the processor's nearest caches. Each separate allocation of a
//! rule would cost one more wait for memory.

use super::evaluate::LeafNumber;
use smallvec::SmallVec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Leaf(LeafNumber),
    All,
    Any,
    /// It has one child.
    Not,
}

/// The nodes, the root first. Each stores the index just past its last descendant. The most common
/// expression, an `and` of two leaves, needs no allocation.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree(SmallVec<[(Node, u32); 3]>);

impl Tree {
    pub(super) const ROOT: usize = 0;

    /// Adds a node. Nodes that are added before it is [closed](Self::close) are its descendants.
    pub(super) fn open(&mut self, node: Node) -> usize {
        self.0.push((node, 0));
        self.0.len() - 1
    }

    pub(super) fn close(&mut self, at: usize) {
        self.0[at].1 = self.0.len() as u32;
    }

    pub(super) fn node(&self, at: usize) -> Node {
        self.0[at].0
    }

    /// The places of a node's children.
    pub(super) fn children(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let behind = |at: usize| self.0[at].1 as usize;
        let end = behind(at);
        let first = (at + 1 < end).then_some(at + 1);
        std::iter::successors(first, move |child| Some(behind(*child)).filter(|next| *next < end))
    }
}
