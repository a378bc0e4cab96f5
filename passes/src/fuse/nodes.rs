//! What is known of each node of a graph, found by its index: fusion asks for it again and again.

use std::ops::Index;

use lith_ir::NodeId;

/// A map from nodes.
#[derive(Clone, Debug)]
pub(super) struct NodeMap<T>(Vec<Option<T>>);

impl<T> Default for NodeMap<T> {
    fn default() -> Self {
        NodeMap(Vec::new())
    }
}

impl<T> NodeMap<T> {
    pub fn get(&self, node: &NodeId) -> Option<&T> {
        self.0.get(node.index())?.as_ref()
    }

    pub fn get_mut(&mut self, node: &NodeId) -> Option<&mut T> {
        self.0.get_mut(node.index())?.as_mut()
    }

    pub fn contains_key(&self, node: &NodeId) -> bool {
        self.get(node).is_some()
    }

    pub fn insert(&mut self, node: NodeId, value: T) {
        if self.0.len() <= node.index() {
            self.0.resize_with(node.index() + 1, || None);
        }
        self.0[node.index()] = Some(value);
    }

    pub fn remove(&mut self, node: &NodeId) -> Option<T> {
        self.0.get_mut(node.index())?.take()
    }
}

impl<T> Index<&NodeId> for NodeMap<T> {
    type Output = T;

    fn index(&self, node: &NodeId) -> &T {
        self.get(node).expect("a node that is known")
    }
}

impl<T> FromIterator<(NodeId, T)> for NodeMap<T> {
    fn from_iter<I: IntoIterator<Item = (NodeId, T)>>(items: I) -> Self {
        let mut map = NodeMap::default();
        items.into_iter().for_each(|(node, value)| map.insert(node, value));
        map
    }
}
