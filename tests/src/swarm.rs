//! Several nodes that know each other.

use std::ops::{Index, IndexMut};

use crate::Node;

/// Nodes of one swarm, started, each connected to all others. The first one is root.
pub struct Swarm {
    nodes: Vec<Node>,
}

impl Swarm {
    /// So many nodes, joined by one token.
    #[must_use]
    pub fn of(count: usize) -> Self {
        Self::configured(count, "")
    }

    /// So many nodes, each with these lines in its `ipdc.toml`.
    #[must_use]
    pub fn configured(count: usize, toml: &str) -> Self {
        let mut first = Node::first();
        first.configure(toml);
        first.start();
        let token = if count > 1 { first.invite(count - 1) } else { String::new() };
        let mut nodes = vec![first];
        for _ in 1..count {
            let mut node = Node::joined(&token);
            node.configure(toml);
            node.start();
            nodes.push(node);
        }
        let swarm = Swarm { nodes };
        swarm.wait_connected();
        swarm
    }

    /// One more node: its index.
    pub fn join(&mut self) -> usize {
        let mut node = Node::joined(&self.nodes[0].invite(1));
        node.start();
        self.nodes.push(node);
        self.wait_connected();
        self.nodes.len() - 1
    }

    /// Waits until each node is connected to all others.
    pub fn wait_connected(&self) {
        for node in &self.nodes {
            node.wait_peers(self.nodes.len() - 1);
        }
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The index of a node other than `not` that runs attempts of the job now, if there is one.
    #[must_use]
    pub fn worker_of(&self, job: &str, not: &[usize]) -> Option<usize> {
        (0..self.nodes.len())
            .filter(|i| !not.contains(i))
            .find(|&i| self.nodes[i].attempts_of(job) > 0)
    }
}

impl Index<usize> for Swarm {
    type Output = Node;
    fn index(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}

impl IndexMut<usize> for Swarm {
    fn index_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }
}
