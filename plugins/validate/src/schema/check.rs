//! Measures a value against a schema.
//!
//! Mismatches are told by place and kind and never quote the value: the reason of a dead letter is read by more people
//! than its payload. Only the first few are kept. Inside `anyOf`, `oneOf`, `not`, `if` and `contains` only whether there
//! is one matters, so their own mismatches are counted and not told.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Number, Value};

use super::Node;
use super::keywords::{Keywords, Type};
use super::{equal, number};

const TOLD_MAX: usize = 5;
/// A reference can lead back to itself, and a guest's stack is small.
const DEPTH_MAX: u32 = 256;

/// What is wrong with a value: `/sender/id: is a string, not an integer; (root): lacks `ref``.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    told: Vec<String>,
    more: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.told.join("; "))?;
        match self.more {
            0 => Ok(()),
            more => write!(out, "; and {more} more"),
        }
    }
}

/// Measures `value` against the schema with this root.
pub fn check(root: &Node, value: &Value) -> Result<(), Mismatch> {
    let mut findings = Findings { told: Vec::new(), count: 0, room: TOLD_MAX };
    let place = Place { parent: None, step: Step::Stay, depth: 0 };
    let check = Check { root };
    if check.node(root, value, &place, &mut findings).is_err() {
        let told = vec![format!(
            "is nested through more than {DEPTH_MAX} schemas, or a `$ref` leads back to itself"
        )];
        return Err(Mismatch { told, more: 0 });
    }
    match findings.count {
        0 => Ok(()),
        count => Err(Mismatch { more: count - findings.told.len(), told: findings.told }),
    }
}

/// More than [`DEPTH_MAX`] schemas, one inside the other. Not a finding: `not` would turn it around.
struct TooDeep;

struct Check<'schema> {
    root: &'schema Node,
}

/// Where in the value we are, and how many schemas deep.
struct Place<'up> {
    parent: Option<&'up Place<'up>>,
    step: Step<'up>,
    depth: u32,
}

enum Step<'up> {
    Stay,
    Key(&'up str),
    Index(usize),
}

impl<'up> Place<'up> {
    fn then(&'up self, step: Step<'up>) -> Self {
        Self { parent: Some(self), step, depth: self.depth + 1 }
    }

    fn write_pointer(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write_pointer(out);
        }
        match self.step {
            Step::Stay => {}
            Step::Key(key) => {
                out.push('/');
                out.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Step::Index(index) => {
                out.push('/');
                out.push_str(&index.to_string());
            }
        }
    }
}

struct Findings {
    told: Vec<String>,
    count: usize,
    room: usize,
}

impl Findings {
    fn add(&mut self, place: &Place<'_>, what: fmt::Arguments<'_>) {
        self.count += 1;
        if self.told.len() < self.room {
            let mut pointer = String::new();
            place.write_pointer(&mut pointer);
            let pointer = if pointer.is_empty() { "(root)" } else { &pointer };
            self.told.push(format!("{pointer}: {what}"));
        }
    }
}

impl Check<'_> {
    fn node(
        &self,
        node: &Node,
        value: &Value,
        place: &Place<'_>,
        findings: &mut Findings,
    ) -> Result<(), TooDeep> {
        if place.depth > DEPTH_MAX {
            return Err(TooDeep);
        }
        let keywords = match node {
            Node::Always => return Ok(()),
            Node::Never => {
                findings.add(place, format_args!("may not be there"));
                return Ok(());
            }
            Node::Keywords(keywords) => keywords,
        };
        any_type(keywords, value, place, findings);
        match value {
            Value::Number(number) => numeric(keywords, number, place, findings),
            Value::String(text) => textual(keywords, text, place, findings),
            Value::Array(items) => self.array(keywords, items, place, findings)?,
            Value::Object(properties) => self.object(keywords, properties, place, findings)?,
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(keywords, value, place, findings)
    }

    /// Whether the node accepts the value, without telling why not.
    fn accepts(&self, node: &Node, value: &Value, place: &Place<'_>) -> Result<bool, TooDeep> {
        let mut findings = Findings { told: Vec::new(), count: 0, room: 0 };
        self.node(node, value, &place.then(Step::Stay), &mut findings)?;
        Ok(findings.count == 0)
    }

    fn count_accepting(&self, nodes: &[Node], value: &Value, place: &Place<'_>) -> Result<usize, TooDeep> {
        let mut count = 0;
        for node in nodes {
            count += usize::from(self.accepts(node, value, place)?);
        }
        Ok(count)
    }

    fn array(
        &self,
        keywords: &Keywords,
        items: &[Value],
        place: &Place<'_>,
        findings: &mut Findings,
    ) -> Result<(), TooDeep> {
        in_bounds("item", items.len(), (keywords.min_items, keywords.max_items), place, findings);
        if keywords.unique_items && !equal::all_different(items) {
            findings.add(place, format_args!("has equal items"));
        }
        for (index, item) in items.iter().enumerate() {
            if let Some(node) = keywords.prefix_items.get(index).or(keywords.items.as_ref()) {
                self.node(node, item, &place.then(Step::Index(index)), findings)?;
            }
        }
        if let Some(wanted) = &keywords.contains {
            let mut count = 0;
            for item in items {
                count += usize::from(self.accepts(wanted, item, place)?);
            }
            let bounds = (Some(keywords.min_contains.unwrap_or(1)), keywords.max_contains);
            in_bounds("item of those that `contains` asks for", count, bounds, place, findings);
        }
        Ok(())
    }

    fn object(
        &self,
        keywords: &Keywords,
        properties: &Map<String, Value>,
        place: &Place<'_>,
        findings: &mut Findings,
    ) -> Result<(), TooDeep> {
        in_bounds(
            "property",
            properties.len(),
            (keywords.min_properties, keywords.max_properties),
            place,
            findings,
        );
        present(&keywords.required, properties, place, findings);
        for (key, required) in &keywords.dependent_required {
            if properties.contains_key(key) {
                present(required, properties, place, findings);
            }
        }
        for (key, value) in properties {
            let here = place.then(Step::Key(key));
            if let Some(names) = &keywords.property_names
                && !self.accepts(names, &Value::String(key.clone()), place)?
            {
                findings.add(&here, format_args!("has a name that is not allowed"));
            }
            for node in keywords.for_property(key) {
                self.node(node, value, &here, findings)?;
            }
        }
        Ok(())
    }

    /// The keywords that hold other schemas against the same value.
    fn combined(
        &self,
        keywords: &Keywords,
        value: &Value,
        place: &Place<'_>,
        findings: &mut Findings,
    ) -> Result<(), TooDeep> {
        let reference = keywords.reference.as_ref().and_then(|reference| self.root.definition(reference));
        for node in reference.into_iter().chain(&keywords.all_of) {
            self.node(node, value, &place.then(Step::Stay), findings)?;
        }
        if let Value::Object(properties) = value {
            for (key, node) in &keywords.dependent_schemas {
                if properties.contains_key(key) {
                    self.node(node, value, &place.then(Step::Stay), findings)?;
                }
            }
        }
        self.alternatives(keywords, value, place, findings)?;
        if let Some(condition) = &keywords.condition {
            let branch =
                if self.accepts(condition, value, place)? { &keywords.then } else { &keywords.otherwise };
            if let Some(node) = branch {
                self.node(node, value, &place.then(Step::Stay), findings)?;
            }
        }
        Ok(())
    }

    fn alternatives(
        &self,
        keywords: &Keywords,
        value: &Value,
        place: &Place<'_>,
        findings: &mut Findings,
    ) -> Result<(), TooDeep> {
        if let Some(nodes) = &keywords.any_of
            && self.count_accepting(nodes, value, place)? == 0
        {
            findings.add(place, format_args!("is none of what `anyOf` allows"));
        }
        if let Some(nodes) = &keywords.one_of {
            match self.count_accepting(nodes, value, place)? {
                0 => findings.add(place, format_args!("is none of what `oneOf` allows")),
                1 => {}
                count => findings.add(place, format_args!("is {count} of what `oneOf` allows, not one")),
            }
        }
        if let Some(node) = &keywords.not
            && self.accepts(node, value, place)?
        {
            findings.add(place, format_args!("is what `not` forbids"));
        }
        Ok(())
    }
}

fn any_type(keywords: &Keywords, value: &Value, place: &Place<'_>, findings: &mut Findings) {
    if let Some(types) = &keywords.types
        && !types.as_slice().iter().any(|wanted| is_of(*wanted, value))
    {
        let wanted: Vec<_> = types.as_slice().iter().map(|wanted| wanted.name()).collect();
        findings.add(place, format_args!("is {}, not {}", type_of(value).name(), wanted.join(" or ")));
    }
    if let Some(values) = &keywords.any_value_of
        && !values.iter().any(|wanted| equal::equal(wanted, value))
    {
        findings.add(place, format_args!("is none of the values of `enum`"));
    }
    if let Some(wanted) = &keywords.constant
        && !equal::equal(wanted, value)
    {
        findings.add(place, format_args!("is not the value of `const`"));
    }
}

fn numeric(keywords: &Keywords, value: &Number, place: &Place<'_>, findings: &mut Findings) {
    let is = |limit: &Number, ordering| number::compare(value, limit) == Some(ordering);
    if let Some(limit) = &keywords.minimum
        && is(limit, Ordering::Less)
    {
        findings.add(place, format_args!("is less than {limit}"));
    }
    if let Some(limit) = &keywords.maximum
        && is(limit, Ordering::Greater)
    {
        findings.add(place, format_args!("is more than {limit}"));
    }
    if let Some(limit) = &keywords.exclusive_minimum
        && !is(limit, Ordering::Greater)
    {
        findings.add(place, format_args!("is not more than {limit}"));
    }
    if let Some(limit) = &keywords.exclusive_maximum
        && !is(limit, Ordering::Less)
    {
        findings.add(place, format_args!("is not less than {limit}"));
    }
    if let Some(divisor) = &keywords.multiple_of
        && !number::is_multiple(value, &divisor.0)
    {
        findings.add(place, format_args!("is not a multiple of {}", divisor.0));
    }
}

fn textual(keywords: &Keywords, text: &str, place: &Place<'_>, findings: &mut Findings) {
    if keywords.min_length.is_some() || keywords.max_length.is_some() {
        let length = text.chars().count();
        in_bounds("character", length, (keywords.min_length, keywords.max_length), place, findings);
    }
    if let Some(pattern) = &keywords.pattern
        && !pattern.0.is_match(text)
    {
        findings.add(place, format_args!("does not match `{}`", pattern.0.as_str()));
    }
}

fn in_bounds(
    what: &str,
    count: usize,
    (min, max): (Option<usize>, Option<usize>),
    place: &Place<'_>,
    findings: &mut Findings,
) {
    if let Some(min) = min.filter(|min| count < *min) {
        findings.add(place, format_args!("has {count} {what}(s), at least {min} are needed"));
    }
    if let Some(max) = max.filter(|max| count > *max) {
        findings.add(place, format_args!("has {count} {what}(s), at most {max} are allowed"));
    }
}

fn present(required: &[String], properties: &Map<String, Value>, place: &Place<'_>, findings: &mut Findings) {
    for key in required {
        if !properties.contains_key(key) {
            findings.add(place, format_args!("lacks `{key}`"));
        }
    }
}

fn is_of(wanted: Type, value: &Value) -> bool {
    match (wanted, value) {
        (Type::Integer, Value::Number(number)) => number::is_integer(number),
        _ => wanted == type_of(value),
    }
}

fn type_of(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Boolean,
        Value::Number(_) => Type::Number,
        Value::String(_) => Type::String,
        Value::Array(_) => Type::Array,
        Value::Object(_) => Type::Object,
    }
}
