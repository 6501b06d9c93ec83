//! Equality as JSON Schema defines it: numbers by value, objects whatever the order of their keys.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::number;

/// Whether two values are equal.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => number::compare(a, b) == Some(Ordering::Equal),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            canonical(a) == canonical(b)
        }
        _ => a == b,
    }
}

/// Whether no two of the values are equal. Sorted, not compared in pairs: the length is the publisher's choice.
pub fn all_different(values: &[Value]) -> bool {
    let mut seen = BTreeSet::new();
    values.iter().all(|value| seen.insert(canonical(value)))
}

/// Text that is the same for equal values and only for them.
fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Number(number) => match number::whole(number) {
            Some(whole) => append(out, whole),
            None => append(out, number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(properties) => {
            let sorted: std::collections::BTreeMap<_, _> = properties.iter().collect();
            out.push('{');
            for (key, item) in sorted {
                append(out, format_args!("{key:?}:"));
                write_canonical(item, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => append(out, value),
    }
}

#[expect(clippy::let_underscore_must_use, reason = "writing to a String does not fail")]
fn append(out: &mut String, part: impl std::fmt::Display) {
    let _ = write!(out, "{part}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equality_is_by_value() {
        for (a, b, expected) in [
            (json!(1), json!(1.0), true),
            (json!([1, { "a": 2.0 }]), json!([1.0, { "a": 2 }]), true),
            (json!({ "a": 1, "b": 2 }), json!({ "b": 2, "a": 1 }), true),
            (json!("1"), json!(1), false),
            (json!(0), json!(false), false),
            (json!([]), json!({}), false),
            (json!(["a,", "b"]), json!(["a", ",b"]), false),
        ] {
            assert_eq!(equal(&a, &b), expected, "{a} and {b}");
        }
    }

    #[test]
    fn a_repeated_value_is_found() {
        assert!(all_different(&[json!(1), json!("1"), json!([1]), json!(true)]));
        assert!(!all_different(&[json!({ "a": 1 }), json!(2), json!({ "a": 1.0 })]));
    }
}
