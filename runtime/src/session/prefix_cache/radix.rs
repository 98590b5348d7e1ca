//! A radix tree: maps sequences of tokens to values, and finds the values of a sequence's prefixes.

use std::collections::BTreeMap;

use crate::session::common_prefix;

/// Index of a node.
pub(super) type NodeId = usize;

const ROOT: NodeId = 0;

/// A map from sequences of tokens to values. Common prefixes are stored once.
pub(super) struct RadixTree<V> {
    /// Never empty: the root is first.
    nodes: Vec<Node<V>>,
    /// Free slots in `nodes`.
    free: Vec<NodeId>,
}

struct Node<V> {
    /// The tokens that this node appends to its parent's sequence. Empty only for the root.
    label: Vec<u32>,
    parent: NodeId,
    /// By the first token of their labels.
    children: BTreeMap<u32, NodeId>,
    value: Option<V>,
}

impl<V> Node<V> {
    fn new(parent: NodeId, label: &[u32]) -> Self {
        Self { label: label.to_vec(), parent, children: BTreeMap::new(), value: None }
    }
}

impl<V> RadixTree<V> {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::new(ROOT, &[])], free: Vec::new() }
    }

    /// The node at the end of the longest path that `key` follows, how much of `key` that covers,
    /// and if `key` continues into a child's label, the child and how far.
    fn walk(&self, key: &[u32]) -> (NodeId, usize, Option<(NodeId, usize)>) {
        let (mut node, mut done) = (ROOT, 0);
        while let Some(&child) =
            key.get(done).and_then(|token| self.nodes[node].children.get(token))
        {
            let label = &self.nodes[child].label;
            let common = common_prefix(label, &key[done..]);
            if common < label.len() {
                return (node, done, Some((child, common)));
            }
            (node, done) = (child, done + common);
        }
        (node, done, None)
    }

    /// The node of `key`, if it has a value.
    pub(super) fn find(&self, key: &[u32]) -> Option<NodeId> {
        let (node, done, _) = self.walk(key);
        (done == key.len() && self.nodes[node].value.is_some()).then_some(node)
    }

    /// The nodes with values whose sequences are prefixes of `key`, shortest first, with the
    /// lengths of these sequences.
    pub(super) fn prefixes(&self, key: &[u32]) -> Vec<(usize, NodeId)> {
        let (mut node, mut len, _) = self.walk(key);
        let mut found = Vec::new();
        loop {
            if self.nodes[node].value.is_some() {
                found.push((len, node));
            }
            if node == ROOT {
                break;
            }
            len -= self.nodes[node].label.len();
            node = self.nodes[node].parent;
        }
        found.reverse();
        found
    }

    /// The longest common prefix of `key` with any sequence that has a value, and the node of that
    /// sequence.
    pub(super) fn nearest(&self, key: &[u32]) -> Option<(usize, NodeId)> {
        let (node, done, partial) = self.walk(key);
        let (mut node, common) = match partial {
            Some((child, common)) => (child, done + common),
            None => (node, done),
        };
        // Every leaf has a value.
        while self.nodes[node].value.is_none() {
            node = *self.nodes[node].children.values().next()?;
        }
        Some((common, node))
    }

    /// Finds or creates the node of `key`. A new node has no value until it is set.
    fn place(&mut self, key: &[u32]) -> NodeId {
        let (node, done, partial) = self.walk(key);
        let parent = match partial {
            None => node,
            Some((child, common)) => self.split(child, common),
        };
        let rest = match partial {
            None => &key[done..],
            Some((_, common)) => &key[done + common..],
        };
        let Some(&first) = rest.first() else { return parent };
        let new = self.allocate(Node::new(parent, rest));
        self.nodes[parent].children.insert(first, new);
        new
    }

    /// Inserts a node before `child` that takes the first `at` tokens of its label.
    fn split(&mut self, child: NodeId, at: usize) -> NodeId {
        let parent = self.nodes[child].parent;
        let label = self.nodes[child].label[..at].to_vec();
        let middle = self.allocate(Node::new(parent, &label));
        self.nodes[child].label.drain(..at);
        self.nodes[child].parent = middle;
        let first = self.nodes[child].label[0];
        self.nodes[middle].children.insert(first, child);
        self.nodes[parent].children.insert(label[0], middle);
        middle
    }

    fn allocate(&mut self, node: Node<V>) -> NodeId {
        match self.free.pop() {
            Some(place) => {
                self.nodes[place] = node;
                place
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Sets the value of `key` and returns the old one.
    pub(super) fn insert(&mut self, key: &[u32], value: V) -> Option<V> {
        let node = self.place(key);
        self.nodes[node].value.replace(value)
    }

    /// Removes the value of a node, and the nodes that only led to it.
    pub(super) fn remove(&mut self, node: NodeId) -> Option<V> {
        let value = self.nodes.get_mut(node)?.value.take()?;
        let mut node = node;
        while node != ROOT && self.nodes[node].value.is_none() {
            let Node { parent, children, .. } = &self.nodes[node];
            let parent = *parent;
            let mut ids = children.values().copied();
            match (ids.next(), ids.next()) {
                (None, _) => {
                    let first = self.nodes[node].label[0];
                    self.nodes[parent].children.remove(&first);
                    self.release(node);
                    node = parent;
                }
                (Some(child), None) => {
                    self.join(node, child);
                    break;
                }
                _ => break,
            }
        }
        Some(value)
    }

    /// Merges `node`, which has a single child, into that child.
    fn join(&mut self, node: NodeId, child: NodeId) {
        let parent = self.nodes[node].parent;
        let mut label = std::mem::take(&mut self.nodes[node].label);
        self.nodes[parent].children.insert(label[0], child);
        label.append(&mut self.nodes[child].label);
        self.nodes[child].label = label;
        self.nodes[child].parent = parent;
        self.release(node);
    }

    fn release(&mut self, node: NodeId) {
        self.nodes[node] = Node::new(ROOT, &[]);
        self.free.push(node);
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&V> {
        self.nodes.get(node)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut V> {
        self.nodes.get_mut(node)?.value.as_mut()
    }

    /// All values with their nodes, in arbitrary order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &V)> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| Some((id, node.value.as_ref()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }

    /// Number of tokens held in labels.
    pub(super) fn tokens(&self) -> usize {
        self.nodes.iter().map(|node| node.label.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudorandom sequences that often share prefixes.
    struct Lcg(u64);

    impl Lcg {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % n
        }

        fn key(&mut self) -> Vec<u32> {
            (0..self.below(7)).map(|_| self.below(3) as u32).collect()
        }
    }

    #[test]
    fn is_what_a_list_would_be() {
        let mut random = Lcg(1);
        let mut tree = RadixTree::new();
        let mut list: BTreeMap<Vec<u32>, u64> = BTreeMap::new();
        for turn in 0..20_000 {
            let key = random.key();
            match random.below(3) {
                0 => assert_eq!(tree.insert(&key, turn), list.insert(key, turn)),
                1 => {
                    let removed = tree.find(&key).and_then(|node| tree.remove(node));
                    assert_eq!(removed, list.remove(&key));
                }
                _ => {
                    let found = tree.find(&key).and_then(|node| tree.get(node).copied());
                    assert_eq!(found, list.get(&key).copied());
                    let prefixes: Vec<(usize, u64)> = tree
                        .prefixes(&key)
                        .into_iter()
                        .map(|(len, node)| (len, *tree.get(node).unwrap()))
                        .collect();
                    let expected: Vec<(usize, u64)> = (0..=key.len())
                        .filter_map(|len| Some((len, *list.get(&key[..len])?)))
                        .collect();
                    assert_eq!(prefixes, expected);
                    let nearest = list.keys().map(|other| common_prefix(other, &key)).max();
                    let found = tree.nearest(&key);
                    assert_eq!(found.map(|(common, _)| common), nearest);
                    if let Some((common, node)) = found {
                        let value = tree.get(node).unwrap();
                        let (sequence, _) = list.iter().find(|(_, v)| *v == value).unwrap();
                        assert_eq!(common_prefix(sequence, &key), common);
                    }
                }
            }
            assert_eq!(tree.len(), list.len());
        }
        // Removed nodes are reused, and labels are merged.
        let nodes: Vec<NodeId> = tree.iter().map(|(node, _)| node).collect();
        nodes.into_iter().for_each(|node| {
            tree.remove(node);
        });
        assert_eq!((tree.len(), tree.tokens()), (0, 0));
        assert!(tree.nodes.len() < 2000, "{}", tree.nodes.len());
    }
}
