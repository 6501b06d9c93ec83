//! How large the parts of a component may be.
//!
//! Validation takes time in proportion to the bytes, compilation does not: 75 KiB of locals and loops took a code
//! generator a hundred seconds and nearly a gigabyte. So each part has a bound, far above what the largest known plugin
//! (a Python run-time: 918 imports, some ten thousand functions) has. What passes can still be expensive; that is bounded
//! where it is compiled.

use crate::component::LoadError;
use wasmparser::{BinaryReaderError, FunctionBody, Payload};

/// Functions with a body, over all modules inside.
const FUNCTIONS_MAX: u64 = 50_000;
/// Bytes of one function's body.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Locals of one function.
const LOCALS_MAX: u64 = 10_000;
/// Imports, over all components and modules inside.
const IMPORTS_MAX: u64 = 10_000;
/// Types, over all components and modules inside.
const TYPES_MAX: u64 = 50_000;

/// What was counted so far.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    functions: u64,
    imports: u64,
    types: u64,
}

impl Parts {
    /// Counts a part.
    ///
    /// # Errors
    /// [`LoadError::TooComplex`] as soon as a bound is passed, [`LoadError::Malformed`] for what can't be read.
    pub(crate) fn count(&mut self, payload: &Payload<'_>) -> Result<(), LoadError> {
        match payload {
            Payload::CodeSectionStart { count, .. } => {
                self.functions += u64::from(*count);
                within("functions", self.functions, FUNCTIONS_MAX)
            }
            Payload::CodeSectionEntry(body) => {
                within("bytes in one function", body.range().len() as u64, BODY_BYTES_MAX)?;
                within("locals in one function", locals(body).map_err(LoadError::malformed)?, LOCALS_MAX)
            }
            Payload::ImportSection(imports) => self.more_imports(imports.count()),
            Payload::ComponentImportSection(imports) => self.more_imports(imports.count()),
            Payload::TypeSection(types) => self.more_types(types.count()),
            Payload::ComponentTypeSection(types) => self.more_types(types.count()),
            Payload::CoreTypeSection(types) => self.more_types(types.count()),
            _ => Ok(()),
        }
    }

    fn more_imports(&mut self, count: u32) -> Result<(), LoadError> {
        self.imports += u64::from(count);
        within("imports", self.imports, IMPORTS_MAX)
    }

    fn more_types(&mut self, count: u32) -> Result<(), LoadError> {
        self.types += u64::from(count);
        within("types", self.types, TYPES_MAX)
    }
}

fn locals(body: &FunctionBody<'_>) -> Result<u64, BinaryReaderError> {
    body.get_locals_reader()?.into_iter().try_fold(0u64, |sum, group| Ok(sum + u64::from(group?.0)))
}

fn within(what: &'static str, found: u64, most: u64) -> Result<(), LoadError> {
    if found <= most { Ok(()) } else { Err(LoadError::TooComplex { what, found, most }) }
}
