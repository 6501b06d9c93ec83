//! Numbers as JSON Schema compares them: by value, not by how they are written, so that 1 and 1.0 are one number.
//!
//! Whole numbers are compared exactly. As soon as a fraction takes part it is double precision, which is also what a
//! publisher that writes fractions in JSON can count on.

use std::cmp::Ordering;

use serde_json::Number;

/// How far a quotient may be from a whole number, in parts of itself, and still count as one: what is lost when two
/// decimal fractions are rounded to double precision and divided.
const QUOTIENT_TOLERANCE: f64 = 4.0 * f64::EPSILON;

/// The number as a whole number, when it is one that can be held exactly.
pub fn whole(number: &Number) -> Option<i128> {
    if let Some(value) = number.as_i64() {
        return Some(value.into());
    }
    if let Some(value) = number.as_u64() {
        return Some(value.into());
    }
    let value = number.as_f64()?;
    // Beyond 2^53 a double is whole by lack of room, but it is still that whole number.
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the bound")]
    (value.fract() == 0.0 && value.abs() < 1e30).then_some(value as i128)
}

/// Whether the number is an integer in the sense of `"type": "integer"`.
pub fn is_integer(number: &Number) -> bool {
    number.as_f64().is_some_and(|value| value.fract() == 0.0)
}

/// By value.
pub fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

/// Whether `number` is `divisor` times a whole number. The divisor is above zero.
pub fn is_multiple(number: &Number, divisor: &Number) -> bool {
    if let (Some(number), Some(divisor)) = (whole(number), whole(divisor)) {
        return number % divisor == 0;
    }
    let (Some(number), Some(divisor)) = (number.as_f64(), divisor.as_f64()) else {
        return false;
    };
    let quotient = number / divisor;
    (quotient - quotient.round()).abs() <= QUOTIENT_TOLERANCE * quotient.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn numbers_are_compared_by_value() {
        for (a, b, expected) in [
            ("1", "1.0", Ordering::Equal),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("18446744073709551615", "-1", Ordering::Greater),
            ("0.1", "1", Ordering::Less),
            ("1e300", "1e301", Ordering::Less),
        ] {
            assert_eq!(compare(&number(a), &number(b)), Some(expected), "{a} and {b}");
        }
    }

    #[test]
    fn multiples_are_found_for_whole_numbers_and_for_decimal_fractions() {
        for (value, divisor, expected) in [
            ("10", "5", true),
            ("7", "5", false),
            ("7.0", "3.5", true),
            ("0.0075", "0.0001", true),
            ("0.00751", "0.0001", false),
            ("19.99", "0.01", true),
            ("1000000000000.5", "1", false),
            ("0", "0.5", true),
        ] {
            assert_eq!(is_multiple(&number(value), &number(divisor)), expected, "{value} by {divisor}");
        }
    }

    #[test]
    fn a_number_without_a_fraction_is_an_integer_however_it_is_written() {
        for (text, expected) in [("1", true), ("1.0", true), ("1e3", true), ("1.5", false), ("1e300", true)] {
            assert_eq!(is_integer(&number(text)), expected, "{text}");
        }
    }
}
