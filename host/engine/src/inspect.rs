//! What a component exports, imports and says of itself, read without compiling it.

use crate::{
    component::LoadError,
    manifest::{Manifest, SECTION},
    structure::Parts,
};
use busway_core::Digest;
use wasmparser::{Encoding, Parser, Payload};

/// Components inside of components, the outermost and modules counted. What compiling takes grows with the square of it:
/// half a megabyte of nothing but nesting takes all memory there is.
const NESTING_MAX: usize = 100;

/// What was found in a component.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The sha256 of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: usize,
    /// The names that it exports.
    pub exports: Vec<String>,
    /// The names that it imports.
    pub imports: Vec<String>,
    /// What it says of itself, if anything.
    pub manifest: Option<Manifest>,
    /// Core modules inside, over all inner components.
    pub modules: usize,
}

/// Reads a component.
///
/// # Errors
/// Whatever is not a component, by its kind; a broken manifest.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    is_component(bytes)?;
    let mut found = Inspection {
        digest: Digest::of(bytes),
        size: bytes.len(),
        exports: Vec::new(),
        imports: Vec::new(),
        manifest: None,
        modules: 0,
    };
    let (mut depth, mut parts) = (0usize, Parts::default());
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(LoadError::malformed)?;
        parts.count(&payload)?;
        match payload {
            Payload::Version { .. } if depth == NESTING_MAX => return Err(LoadError::TooDeep),
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ModuleSection { .. } => found.modules += 1,
            Payload::ComponentImportSection(imports) if depth == 1 => {
                for import in imports {
                    found.imports.push(import.map_err(LoadError::malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if depth == 1 => {
                for export in exports {
                    found.exports.push(export.map_err(LoadError::malformed)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if depth == 1 && section.name() == SECTION => {
                found.manifest = Some(Manifest::parse(section.data())?);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Says what bytes are that are no component.
fn is_component(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if bytes.len() > LoadError::BYTES_MAX {
        return Err(LoadError::TooLarge);
    }
    if bytes.starts_with(b"\0asm") {
        let header = Parser::new(0).parse_all(bytes).next();
        return match header {
            Some(Ok(Payload::Version { encoding: Encoding::Component, .. })) => Ok(()),
            Some(Ok(Payload::Version { encoding: Encoding::Module, .. })) => Err(LoadError::CoreModule),
            Some(Err(why)) => Err(LoadError::malformed(why)),
            _ => Err(LoadError::NotWasm("a WebAssembly header and nothing else")),
        };
    }
    let text = bytes.trim_ascii_start();
    Err(match bytes {
        _ if wasmtime::Engine::detect_precompiled(bytes).is_some() => LoadError::Precompiled,
        _ if bytes.starts_with(b"\x7fELF") => LoadError::Precompiled,
        _ if text.starts_with(b"(component") || text.starts_with(b"(module") || text.starts_with(b";;") => {
            LoadError::TextFormat
        }
        _ if bytes.starts_with(b"PK") => LoadError::NotWasm("a zip archive"),
        _ if bytes.starts_with(b"\x1f\x8b") => LoadError::NotWasm("a gzip archive"),
        _ => LoadError::NotWasm("bytes that do not begin as WebAssembly does"),
    })
}
