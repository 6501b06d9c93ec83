//! What is read, what is told, and the same answers as another implementation.

use boon::{Compiler, Schemas};
use serde_json::{Value, json};

use super::*;

fn schema(schema: &Value) -> Schema {
    schema.to_string().parse().unwrap_or_else(|error| panic!("{schema}: {error}"))
}

fn told(asked: Value, value: Value) -> String {
    schema(&asked).check(&value).unwrap_err().to_string()
}

#[test]
fn a_mismatch_names_its_place_and_kind_but_never_the_value() {
    let asked = json!({
        "required": ["id", "sender"],
        "properties": {
            "id": { "type": "integer" },
            "tags": { "items": { "type": ["string", "null"] } },
            "a/b~c": { "maxLength": 2 }
        }
    });
    let value = json!({ "id": "s3cret", "tags": ["x", null, 3], "a/b~c": "abc" });
    assert_eq!(
        told(asked, value),
        "(root): lacks `sender`; /a~1b~0c: has 3 character(s), at most 2 are allowed; \
         /id: is a string, not an integer; /tags/2: is a number, not a string or null"
    );
}

#[test]
fn only_the_first_few_mismatches_are_told() {
    let told = told(json!({ "items": { "type": "string" } }), json!([1, 2, 3, 4, 5, 6, 7]));
    assert!(told.ends_with("/4: is a number, not a string; and 2 more"), "{told}");
}

#[test]
fn a_schema_that_can_not_be_obeyed_in_full_is_refused() {
    for (text, why) in [
        (r#"{ "unevaluatedProperties": false }"#, "unknown field `unevaluatedProperties`"),
        (r#"{ "items": [{}] }"#, "in the schema at `items`: invalid type: sequence, expected a schema"),
        (
            r#"{ "properties": { "a": { "typ": "string" } } }"#,
            "in the schema at `properties.a.typ`: unknown field",
        ),
        (r#"{ "type": "text" }"#, "the name of a type, or a list of them"),
        (r#"{ "pattern": "(" }"#, "`(` is no regular expression"),
        (r#"{ "patternProperties": { "(": true } }"#, "`(` is no regular expression"),
        (r#"{ "multipleOf": 0 }"#, "`multipleOf` must be above zero"),
        (r##"{ "$ref": "#/$defs/nowhere" }"##, "`$ref` leads nowhere: #/$defs/nowhere"),
        (r##"{ "not": { "$ref": "#/$defs/nowhere" } }"##, "`$ref` leads nowhere: #/$defs/nowhere"),
        (r#"{ "$ref": "https://example.com/schema" }"#, "`$ref` can lead to `#` and to `#/$defs/name` only"),
        (r#"{ "$schema": "http://json-schema.org/draft-04/schema#" }"#, "unknown variant"),
        (r#"{ "minLength": -1 }"#, "invalid value: integer `-1`"),
        ("{} {}", "trailing characters"),
        ("[]", "a schema: an object, true or false"),
    ] {
        let error = text.parse::<Schema>().unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn annotations_are_read_over() {
    let annotated = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/a", "$comment": "c",
        "title": "t", "description": "d", "default": 1, "examples": [1], "deprecated": true, "readOnly": true,
        "writeOnly": true, "format": "email", "contentEncoding": "base64", "contentMediaType": "text/plain"
    });
    assert_eq!(schema(&annotated).check(&json!("anything")), Ok(()));
}

#[test]
fn a_reference_that_leads_back_to_itself_is_told_and_does_not_hang() {
    for endless in [json!({ "$ref": "#" }), json!({ "not": { "$ref": "#" } })] {
        assert!(told(endless, json!(1)).contains("leads back to itself"));
    }
}

#[test]
fn a_recursive_schema_follows_a_value_as_deep_as_json_is_read() {
    let tree = schema(&json!({ "type": "array", "items": { "$ref": "#" } }));
    let deep = format!("{}{}", "[".repeat(96), "]".repeat(96));
    assert_eq!(tree.check(&serde_json::from_str(&deep).unwrap()), Ok(()));
    let wrong = format!("{}1{}", "[".repeat(90), "]".repeat(90));
    let told = tree.check(&serde_json::from_str(&wrong).unwrap()).unwrap_err().to_string();
    assert!(told.ends_with("/0/0: is a number, not an array"), "{told}");
}

/// Every schema below, held against every value below, must get the answer that `boon` gives. (Whole numbers beyond
/// 2^53 are left out: boon rounds them where we don't.)
#[test]
fn the_answers_are_those_of_another_implementation() {
    let values = values();
    let mut refused = 0;
    for asked in schemas() {
        let ours = schema(&asked);
        let mut theirs = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.add_resource("schema.json", asked.clone()).unwrap();
        let index = compiler.compile("schema.json", &mut theirs).unwrap();
        for value in &values {
            let expected = theirs.validate(value, index).is_ok();
            assert_eq!(ours.check(value).is_ok(), expected, "{asked} against {value}");
            refused += usize::from(!expected);
        }
    }
    assert_eq!((schemas().len(), values.len()), (51, 43), "the README says how many");
    assert!(refused > 500, "only {refused} of the pairs are mismatches: the comparison says little");
}

fn schemas() -> Vec<Value> {
    let types = ["null", "boolean", "integer", "number", "string", "array", "object"];
    let mut all: Vec<Value> = types.iter().map(|name| json!({ "type": name })).collect();
    all.extend([
        json!(true),
        json!(false),
        json!({}),
        json!({ "type": ["integer", "null"] }),
        json!({ "enum": [1, "a", null, [1, 2], { "a": 1 }] }),
        json!({ "enum": [] }),
        json!({ "const": 1.0 }),
        json!({ "const": null }),
        json!({ "const": { "b": [1], "a": 1 } }),
        json!({ "minimum": 1, "maximum": 3 }),
        json!({ "exclusiveMinimum": 1, "exclusiveMaximum": 2.5 }),
        json!({ "multipleOf": 2 }),
        json!({ "multipleOf": 0.25 }),
        json!({ "minLength": 1, "maxLength": 3 }),
        json!({ "pattern": "^a+$" }),
        json!({ "pattern": "b" }),
        json!({ "minItems": 1, "maxItems": 2 }),
        json!({ "uniqueItems": true }),
        json!({ "items": { "type": "integer" } }),
        json!({ "items": false }),
        json!({ "prefixItems": [{ "type": "string" }, true], "items": { "type": "number" } }),
        json!({ "contains": { "const": 1 } }),
        json!({ "contains": { "type": "integer" }, "minContains": 2, "maxContains": 3 }),
        json!({ "contains": { "type": "string" }, "minContains": 0 }),
        json!({ "minProperties": 1, "maxProperties": 2 }),
        json!({ "required": ["a", "b"] }),
        json!({ "properties": { "a": { "type": "integer" }, "b": false } }),
        json!({ "properties": { "a": true }, "additionalProperties": false }),
        json!({ "properties": { "a": true }, "additionalProperties": { "type": "string" } }),
        json!({ "patternProperties": { "^a": { "type": "integer" } }, "additionalProperties": false }),
        json!({ "properties": { "a": { "minimum": 2 } }, "patternProperties": { "a": { "maximum": 2 } } }),
        json!({ "propertyNames": { "maxLength": 1 } }),
        json!({ "dependentRequired": { "a": ["b"] } }),
        json!({ "dependentSchemas": { "a": { "required": ["c"] } } }),
        json!({ "allOf": [{ "type": "number" }, { "minimum": 2 }] }),
        json!({ "anyOf": [{ "type": "string" }, { "minimum": 2 }] }),
        json!({ "oneOf": [{ "type": "number" }, { "minimum": 2 }] }),
        json!({ "not": { "type": ["string", "object"] } }),
        json!({ "if": { "type": "number" }, "then": { "minimum": 2 }, "else": { "type": "string" } }),
        json!({ "if": { "required": ["a"] }, "then": { "required": ["b"] } }),
        json!({ "then": false }),
        json!({ "$ref": "#/$defs/small", "type": "integer", "$defs": { "small": { "maximum": 2 } } }),
        json!({ "type": ["array", "integer"], "items": { "$ref": "#" } }),
        json!({ "properties": { "a": { "$ref": "#" } }, "additionalProperties": { "type": "array" } }),
    ]);
    all
}

fn values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(1.0),
        json!(2),
        json!(2.25),
        json!(2.5),
        json!(3),
        json!(4),
        json!(-1),
        json!(1e300),
        json!(""),
        json!("a"),
        json!("aaa"),
        json!("abc"),
        json!("grün"),
        json!("äöü"),
        json!("1"),
        json!([]),
        json!([1]),
        json!([1, 2]),
        json!([1, 1.0]),
        json!([1, 2, 3]),
        json!([1, 2, 3, 4]),
        json!(["a", null, 1]),
        json!(["a", 1, "b"]),
        json!([[1], [[2]]]),
        json!([{ "a": 1, "b": 2 }, { "b": 2.0, "a": 1 }]),
        json!({}),
        json!({ "a": 1 }),
        json!({ "a": 1.0, "b": [1] }),
        json!({ "a": 2, "b": "x" }),
        json!({ "a": "x" }),
        json!({ "a": { "a": { "b": [] } } }),
        json!({ "a": { "a": { "b": 1 } } }),
        json!({ "ab": 1 }),
        json!({ "ab": "x", "c": 1 }),
        json!({ "a": 1, "c": "x" }),
        json!({ "a": 1, "b": 2, "c": 3 }),
        json!({ "b": 1 }),
        json!({ "": 1 }),
    ]
}
