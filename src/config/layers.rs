//! A policy as layers: what it says itself, what those say that it builds on, and what we say.

use super::{
    build::named,
    tree::{Node, Spot},
};

/// The policy that everything builds on.
pub(super) const BUILT_IN: &str = "default";

/// How deep policies build on each other; a circle ends there.
pub(super) const LAYERS_MAX: usize = 16;

/// The layers of a policy, the topmost first.
pub(super) struct Layers<'a>(Vec<&'a Node>);

impl<'a> Layers<'a> {
    /// Those of a policy, which need not be there.
    pub(super) fn of(name: &str, main: &'a Node, built_in: &'a Node) -> Self {
        let mut layers = Vec::new();
        let mut next = Some(name.to_owned());
        while let Some(name) = next
            && layers.len() < LAYERS_MAX
        {
            next = match layer(main, &name) {
                None => None,
                Some((_, node)) => {
                    layers.push(node);
                    let parent = node.get("extends").and_then(Node::text);
                    let parent = parent.unwrap_or(BUILT_IN);
                    (parent != name).then(|| parent.to_owned())
                }
            };
        }
        layers.extend(layer(built_in, BUILT_IN).map(|(_, node)| node));
        Self(layers)
    }

    /// What the topmost layer that says something says of a key.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        self.0.iter().find_map(|layer| layer.get(key))
    }
}

/// A policy as it was written, and where its name was.
pub(super) fn layer<'a>(main: &'a Node, name: &str) -> Option<(&'a Spot, &'a Node)> {
    named(main, "policy").find(|(known, ..)| *known == name).map(|(_, spot, node)| (spot, node))
}
