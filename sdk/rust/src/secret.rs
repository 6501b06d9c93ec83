//! Secrets by name.

use crate::host;

/// A secret that the operator has granted. None when there is no such secret or it is not granted; the two look the
/// same.
pub fn secret(name: &str) -> Option<Vec<u8>> {
    host::secret(name)
}
