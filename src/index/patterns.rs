//! Finds the patterns that a new key matches. A radix trie holds the literal prefixes of all patterns, and
//! each prefix has a tree of the segments that follow. The cost depends on the length of the key, and not on
//! the number of rules.

use crate::compiled::Use;
use crate::pattern::{Pattern, Segment};
use crate::typed_index::typed_index;
use foldhash::fast::FixedState;
use radix_trie::{Trie, TrieCommon};
use smallvec::SmallVec;
use std::cell::Cell;
use std::collections::HashMap;

/// Segments of a key captured by attributes, left to right.
pub(crate) type KeySegments<'k> = SmallVec<[&'k str; 8]>;

/// The place of a node among all nodes.
#[derive(Clone, Copy, PartialEq)]
struct NodeIndex(u32);
typed_index!(NodeIndex(u32));

/// The place of a prefix among all prefixes.
#[derive(Clone, Copy, PartialEq)]
struct PrefixIndex(u32);
typed_index!(PrefixIndex(u32));

#[derive(Default)]
struct Node {
    literal: HashMap<Box<str>, NodeIndex, FixedState>,
    any: Option<NodeIndex>,
    ends: Vec<Use>,
    rest: Vec<Use>,
}

struct Prefix {
    text: Box<str>,
    /// The longest of the other prefixes that this one begins with.
    shorter: Option<PrefixIndex>,
    /// Whether another prefix begins with this one.
    has_longer: bool,
    root: NodeIndex,
}

pub(crate) struct Patterns {
    trie: Trie<String, PrefixIndex>,
    prefixes: Vec<Prefix>,
    nodes: Vec<Node>,
    /// The prefix that was found last. Keys of one kind often come together.
    last: Cell<Option<PrefixIndex>>,
}

impl Patterns {
    /// Builds the index of all uses. They can't change afterwards.
    pub(crate) fn new<'a>(uses: impl IntoIterator<Item = (&'a Pattern, Use)>) -> Self {
        let mut this =
            Self { trie: Trie::new(), prefixes: Vec::new(), nodes: Vec::new(), last: Cell::new(None) };
        for (pattern, usage) in uses {
            this.insert(pattern, usage);
        }
        this.chain();
        this
    }

    fn insert(&mut self, pattern: &Pattern, usage: Use) {
        let text = pattern.literal_prefix();
        let prefix = match self.trie.get(text) {
            Some(&prefix) => prefix,
            None => {
                let prefix = PrefixIndex::new(self.prefixes.len());
                let root = self.node();
                self.prefixes.push(Prefix { text: text.into(), shorter: None, has_longer: false, root });
                self.trie.insert(text.to_owned(), prefix);
                prefix
            }
        };
        let mut at = self.prefixes[prefix.index()].root;
        let first = pattern.segments().iter().position(|s| !matches!(s, Segment::Literal(_)));
        let tail = first.map_or(&[][..], |first| &pattern.segments()[first..]);
        for segment in tail {
            at = match segment {
                Segment::Literal(text) => match self.nodes[at.index()].literal.get(text) {
                    Some(&next) => next,
                    None => {
                        let next = self.node();
                        self.nodes[at.index()].literal.insert(text.clone(), next);
                        next
                    }
                },
                Segment::Attribute(_) => match self.nodes[at.index()].any {
                    Some(next) => next,
                    None => {
                        let next = self.node();
                        self.nodes[at.index()].any = Some(next);
                        next
                    }
                },
                Segment::Rest(_) => return self.nodes[at.index()].rest.push(usage),
            };
        }
        self.nodes[at.index()].ends.push(usage);
    }

    fn node(&mut self) -> NodeIndex {
        self.nodes.push(Node::default());
        NodeIndex::new(self.nodes.len() - 1)
    }

    /// Links every prefix to the longest other one that it begins with.
    fn chain(&mut self) {
        for prefix in &mut self.prefixes {
            let last = prefix.text.char_indices().next_back();
            prefix.shorter = last.and_then(|(at, _)| lookup(&self.trie, &prefix.text[..at]));
        }
        for prefix in 0..self.prefixes.len() {
            if let Some(shorter) = self.prefixes[prefix].shorter {
                self.prefixes[shorter.index()].has_longer = true;
            }
        }
    }

    /// Calls `found` for every use of a pattern that `key` matches.
    pub(crate) fn matching<'k>(&self, key: &'k str, mut found: impl FnMut(&Use, &KeySegments<'k>)) {
        let mut next = self.longest_prefix(key);
        let mut captures = KeySegments::new();
        while let Some(prefix) = next {
            let Prefix { text, shorter, root, .. } = &self.prefixes[prefix.index()];
            let tail = &key[text.len()..];
            let root = &self.nodes[root.index()];
            if tail.is_empty() {
                offer(&root.ends, &captures, &mut found);
            } else {
                self.descend(root, tail, &mut captures, &mut found);
            }
            next = *shorter;
        }
    }

    fn longest_prefix(&self, key: &str) -> Option<PrefixIndex> {
        let fits = |prefix: &Prefix| !prefix.has_longer && key.starts_with(&*prefix.text);
        if let Some(last) = self.last.get().filter(|&last| fits(&self.prefixes[last.index()])) {
            return Some(last);
        }
        let found = lookup(&self.trie, key);
        self.last.set(found);
        found
    }

    fn descend<'k>(
        &self,
        node: &Node,
        tail: &'k str,
        captures: &mut KeySegments<'k>,
        found: &mut impl FnMut(&Use, &KeySegments<'k>),
    ) {
        if !node.rest.is_empty() && !tail.is_empty() {
            captures.push(tail);
            offer(&node.rest, captures, found);
            captures.pop();
        }
        let (segment, tail) = match tail.split_once('/') {
            Some((segment, tail)) => (segment, Some(tail)),
            None => (tail, None),
        };
        let mut step = |next: NodeIndex, captures: &mut KeySegments<'k>| {
            let next = &self.nodes[next.index()];
            match tail {
                Some(tail) => self.descend(next, tail, captures, found),
                None => offer(&next.ends, captures, found),
            }
        };
        if let Some(&next) = node.literal.get(segment) {
            step(next, captures);
        }
        if let (Some(next), false) = (node.any, segment.is_empty()) {
            captures.push(segment);
            step(next, captures);
            captures.pop();
        }
    }
}

fn offer<'k>(uses: &[Use], captures: &KeySegments<'k>, found: &mut impl FnMut(&Use, &KeySegments<'k>)) {
    for usage in uses {
        let equal = usage.equal.iter().all(|&(a, b)| captures[a as usize] == captures[b as usize]);
        if equal && usage.limits.iter().all(|(at, limit)| limit.allows(captures[*at as usize])) {
            found(usage, captures);
        }
    }
}

/// The longest prefix in the trie that `key` begins with.
fn lookup(trie: &Trie<String, PrefixIndex>, key: &str) -> Option<PrefixIndex> {
    trie.get_ancestor(key).and_then(|found| found.value().copied())
}
