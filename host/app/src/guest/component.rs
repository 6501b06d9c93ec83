//! Wraps a core module as a component, and embeds the manifest.
//!
//! A module built with `busway-sdk` (or with `wit-bindgen` itself) carries its world in a custom section; `wit-component`
//! reads that and makes the component, and validates it. The manifest goes in last, as a custom section at the end: a
//! component is a list of sections, so that is an append.

use anyhow::{Context as _, bail};
use wit_component::{ComponentEncoder, DecodedWasm};

/// Makes a component of a core module.
///
/// # Errors
/// When the module is not valid, carries no world, or imports what its world does not have.
pub fn from_core(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let component = ComponentEncoder::default().validate(true).module(module)?.encode()?;
    // A module without a world becomes a component that exports nothing: valid, and of no use to anyone.
    let DecodedWasm::Component(resolve, world) = wit_component::decode(&component)? else {
        bail!("not a component");
    };
    let world = resolve.worlds.get(world).context("a component without a world")?;
    if world.exports.is_empty() {
        bail!(
            "it exports nothing: put the attribute #[busway_sdk::handler] on the function that handles events"
        );
    }
    Ok(component)
}

/// Appends a custom section.
pub fn embed(mut component: Vec<u8>, name: &str, content: &[u8]) -> Vec<u8> {
    let mut section = Vec::with_capacity(content.len() + name.len() + 5);
    push_length(&mut section, name.len());
    section.extend_from_slice(name.as_bytes());
    section.extend_from_slice(content);
    component.push(0); // the kind of a custom section
    push_length(&mut component, section.len());
    component.extend_from_slice(&section);
    component
}

/// Unsigned LEB128, the binary format's way to write a length.
fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest module, and the smallest component.
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn a_module_without_a_world_is_refused_with_what_to_write() {
        let error = from_core(MODULE).unwrap_err().to_string();
        assert!(error.contains("exports nothing"), "{error}");
    }

    #[test]
    fn random_bytes_are_refused() {
        assert!(from_core(b"not wasm").is_err());
    }

    #[test]
    fn an_embedded_section_stands_at_the_end_with_its_lengths() {
        let made = embed(COMPONENT.to_vec(), "n", &[7; 300]);
        assert_eq!(made.get(..8), Some(COMPONENT));
        assert_eq!(made.get(8..13), Some([0, 0xae, 0x02, 1, b'n'].as_slice()));
        assert_eq!(made.len(), 13 + 300);
    }
}
