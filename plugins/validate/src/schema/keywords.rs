//! The keywords that are implemented, each with the form its value must have.

use std::collections::BTreeMap;
use std::fmt;

use regex_lite::Regex;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::Node;

/// One schema object. What is left out asks for nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Keywords {
    #[serde(rename = "$ref")]
    pub reference: Option<Reference>,
    #[serde(rename = "$defs", alias = "definitions", default)]
    pub definitions: BTreeMap<String, Node>,

    #[serde(rename = "type")]
    pub types: Option<Types>,
    #[serde(rename = "enum")]
    pub any_value_of: Option<Vec<Value>>,
    #[serde(rename = "const", default, deserialize_with = "even_null")]
    pub constant: Option<Value>,

    pub minimum: Option<Number>,
    pub maximum: Option<Number>,
    pub exclusive_minimum: Option<Number>,
    pub exclusive_maximum: Option<Number>,
    pub multiple_of: Option<Divisor>,

    pub min_length: Option<usize>,
    pub max_length: Option<usize>,
    pub pattern: Option<Pattern>,

    pub min_items: Option<usize>,
    pub max_items: Option<usize>,
    #[serde(default)]
    pub unique_items: bool,
    #[serde(default)]
    pub prefix_items: Vec<Node>,
    pub items: Option<Node>,
    pub contains: Option<Node>,
    pub min_contains: Option<usize>,
    pub max_contains: Option<usize>,

    pub min_properties: Option<usize>,
    pub max_properties: Option<usize>,
    #[serde(default)]
    pub required: Vec<String>,
    #[serde(default)]
    pub dependent_required: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub properties: BTreeMap<String, Node>,
    #[serde(default)]
    pub pattern_properties: PatternProperties,
    pub additional_properties: Option<Node>,
    pub property_names: Option<Node>,
    #[serde(default)]
    pub dependent_schemas: BTreeMap<String, Node>,

    #[serde(default)]
    pub all_of: Vec<Node>,
    pub any_of: Option<Vec<Node>>,
    pub one_of: Option<Vec<Node>>,
    pub not: Option<Node>,
    #[serde(rename = "if")]
    pub condition: Option<Node>,
    pub then: Option<Node>,
    #[serde(rename = "else")]
    pub otherwise: Option<Node>,

    #[serde(rename = "$schema")]
    _dialect: Option<Dialect>,
    #[serde(rename = "$id")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "$comment")]
    _comment: Option<IgnoredAny>,
    #[serde(rename = "title")]
    _title: Option<IgnoredAny>,
    #[serde(rename = "description")]
    _description: Option<IgnoredAny>,
    #[serde(rename = "default")]
    _default: Option<IgnoredAny>,
    #[serde(rename = "examples")]
    _examples: Option<IgnoredAny>,
    #[serde(rename = "deprecated")]
    _deprecated: Option<IgnoredAny>,
    #[serde(rename = "readOnly")]
    _read_only: Option<IgnoredAny>,
    #[serde(rename = "writeOnly")]
    _write_only: Option<IgnoredAny>,
    #[serde(rename = "format")]
    _format: Option<IgnoredAny>,
    #[serde(rename = "contentEncoding")]
    _content_encoding: Option<IgnoredAny>,
    #[serde(rename = "contentMediaType")]
    _content_media_type: Option<IgnoredAny>,
}

impl Keywords {
    /// The schemas for a property: those that name it and those whose pattern it matches, else the one for the rest.
    pub fn for_property(&self, key: &str) -> Vec<&Node> {
        let matching = self.pattern_properties.0.iter().filter(|(pattern, _)| pattern.0.is_match(key));
        let known: Vec<_> =
            self.properties.get(key).into_iter().chain(matching.map(|(_, node)| node)).collect();
        if known.is_empty() { self.additional_properties.iter().collect() } else { known }
    }

    /// The schemas inside this one.
    pub fn parts(&self) -> impl Iterator<Item = &Node> {
        let maps = [&self.definitions, &self.properties, &self.dependent_schemas];
        let lists = [self.any_of.as_ref(), self.one_of.as_ref()];
        let single = [
            &self.items,
            &self.contains,
            &self.additional_properties,
            &self.property_names,
            &self.not,
            &self.condition,
            &self.then,
            &self.otherwise,
        ];
        (maps.into_iter().flat_map(BTreeMap::values))
            .chain(self.pattern_properties.0.iter().map(|(_, node)| node))
            .chain(self.prefix_items.iter().chain(&self.all_of))
            .chain(lists.into_iter().flatten().flatten())
            .chain(single.into_iter().flatten())
    }
}

/// `"const": null` asks for null; it is not the same as no `const`.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Where a `$ref` may lead.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Reference {
    /// `#`
    Root,
    /// `#/$defs/name` or `#/definitions/name`
    Definition(String),
}

impl TryFrom<String> for Reference {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "#" {
            return Ok(Self::Root);
        }
        let name = text.strip_prefix("#/$defs/").or_else(|| text.strip_prefix("#/definitions/"));
        match name {
            Some(name) if !name.contains(['/', '~', '%']) => Ok(Self::Definition(name.to_owned())),
            _ => Err(format!("`$ref` can lead to `#` and to `#/$defs/name` only, not to `{text}`")),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => out.write_str("#"),
            Self::Definition(name) => write!(out, "#/$defs/{name}"),
        }
    }
}

/// The dialects in which the keywords above mean what `check.rs` makes of them.
#[derive(Debug, Deserialize)]
enum Dialect {
    #[serde(rename = "https://json-schema.org/draft/2020-12/schema")]
    Draft202012,
    #[serde(rename = "https://json-schema.org/draft/2019-09/schema")]
    Draft201909,
    #[serde(
        rename = "http://json-schema.org/draft-07/schema#",
        alias = "http://json-schema.org/draft-07/schema"
    )]
    Draft7,
}

/// The value of `type`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the name of a type, or a list of them")]
pub enum Types {
    /// One name.
    One(Type),
    /// A list of names.
    Any(Vec<Type>),
}

impl Types {
    /// All the names.
    pub fn as_slice(&self) -> &[Type] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Any(several) => several,
        }
    }
}

/// The types of JSON, with JSON Schema's `integer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number without a fraction, however it is written.
    Integer,
    /// Any number.
    Number,
    /// Text.
    String,
    /// A list.
    Array,
    /// Names and values.
    Object,
}

impl Type {
    /// As it stands in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A divisor: a number above zero.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Number")]
pub struct Divisor(pub Number);

impl TryFrom<Number> for Divisor {
    type Error = &'static str;

    fn try_from(number: Number) -> Result<Self, Self::Error> {
        if number.as_f64().is_some_and(|value| value > 0.0) {
            Ok(Self(number))
        } else {
            Err("`multipleOf` must be above zero")
        }
    }
}

/// A regular expression, not anchored.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(pub Regex);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Regex::new(&text).map(Self).map_err(|error| format!("`{text}` is no regular expression: {error}"))
    }
}

/// Schemas for the properties whose names match.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, Node>")]
pub struct PatternProperties(pub Vec<(Pattern, Node)>);

impl TryFrom<BTreeMap<String, Node>> for PatternProperties {
    type Error = String;

    fn try_from(authored: BTreeMap<String, Node>) -> Result<Self, String> {
        let pairs = authored.into_iter().map(|(pattern, node)| Ok((pattern.try_into()?, node)));
        pairs.collect::<Result<_, String>>().map(Self)
    }
}
