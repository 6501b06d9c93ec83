//! A JSON Schema: how it is read.
//!
//! Reading is strict. A keyword that is not implemented here is an error of the configuration, because a schema that is
//! half obeyed lets through what its author meant to stop. Annotations are read over. References go to `#` and to the
//! root's `$defs`; that covers schemas written in one piece, and needs no registry of documents.
//!
//! `check.rs` is how a value is measured against it, `number.rs` and `equal.rs` are JSON Schema's own idea of numbers
//! and equality.

mod check;
mod equal;
mod keywords;
mod number;

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use check::Mismatch;
use keywords::{Keywords, Reference};

/// A schema that can be used: every keyword is known and every reference leads somewhere.
#[derive(Debug)]
pub struct Schema {
    root: Node,
}

/// A schema or one of its parts.
#[derive(Debug)]
enum Node {
    /// `true`: accepts every value.
    Always,
    /// `false`: accepts none.
    Never,
    /// The usual case.
    Keywords(Box<Keywords>),
}

impl Schema {
    /// Measures a value.
    ///
    /// # Errors
    /// Where the value is not what the schema asks for, the first few places by JSON pointer.
    pub fn check(&self, value: &Value) -> Result<(), Mismatch> {
        check::check(&self.root, value)
    }
}

/// From JSON text. The error says where in the schema and what.
impl FromStr for Schema {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let root: Node = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| format!("in the schema at `{}`: {}", error.path(), error.inner()))?;
        deserializer.end().map_err(|error| error.to_string())?;
        check_references(&root, &root)?;
        Ok(Self { root })
    }
}

fn check_references(root: &Node, node: &Node) -> Result<(), String> {
    let Node::Keywords(keywords) = node else {
        return Ok(());
    };
    if let Some(reference) = &keywords.reference
        && root.definition(reference).is_none()
    {
        return Err(format!("`$ref` leads nowhere: {reference}"));
    }
    keywords.parts().try_for_each(|part| check_references(root, part))
}

impl Node {
    /// What a reference leads to, seen from the root.
    fn definition(&self, reference: &Reference) -> Option<&Node> {
        match (reference, self) {
            (Reference::Root, root) => Some(root),
            (Reference::Definition(name), Node::Keywords(keywords)) => keywords.definitions.get(name),
            (Reference::Definition(_), Node::Always | Node::Never) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a schema: an object, true or false")
    }

    fn visit_bool<E>(self, accepts: bool) -> Result<Node, E> {
        Ok(if accepts { Node::Always } else { Node::Never })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Node, A::Error> {
        let keywords = Keywords::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Node::Keywords(Box::new(keywords)))
    }
}

#[cfg(test)]
mod tests;
