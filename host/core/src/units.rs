//! Durations and sizes as people write them: a number and a unit, never a bare number.

use std::{fmt, str::FromStr, time::Duration};

/// A duration as written in a file: `250ms`, `5s`, `2m`, `1h`, `7d`.
///
/// # Errors
/// A sentence that names the units, for a person to read.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let number: u64 = number.parse().map_err(|_| duration_help(text))?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => return Err(duration_help(text)),
    };
    milliseconds.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long a time"))
}

fn duration_help(text: &str) -> String {
    format!(
        "{text:?} is not a duration: write a whole number and a unit, ms, s, m, h or d, such as \"250ms\" or \"5s\""
    )
}

/// A duration in the largest unit that holds it exactly: the inverse of [`parse_duration`].
pub fn write_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

/// Bytes; written `512B`, `64KiB`, `64MiB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// A number of mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "{text:?} is not a size: write a whole number and a unit, B, KiB, MiB or GiB, such as \"64MiB\""
            )
        };
        let (number, unit) = split(text);
        let number: u64 = number.parse().map_err(|_| help())?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(help()),
        };
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

fn split(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_back_what_they_write() {
        for text in ["250ms", "5s", "2m", "1h", "7d", "0ms"] {
            assert_eq!(parse_duration(text).map(write_duration), Ok(text.to_owned()));
        }
        for text in ["512B", "64KiB", "64MiB", "2GiB"] {
            assert_eq!(text.parse::<ByteSize>().map(|size| size.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused_with_the_units() {
        for text in ["5", "", "s", "5 s", "-5s", "5sec", "1.5s", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        for text in ["64", "64MB", "MiB", "-1B", "99999999999GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
        assert!(parse_duration("5").unwrap_err().contains("\"5s\""));
    }
}
