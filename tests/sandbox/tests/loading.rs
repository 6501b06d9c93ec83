//! Files that are not plugins, or not for this host: each is refused by its own cause. And the cache of compiled ones.
#![expect(clippy::panic, clippy::unwrap_used, reason = "test code: what can not be set up ends the test")]

use busway_core::{Attempt, Handler as _, Ran};
use busway_engine::{Engine, EngineConfig, EngineError, Grants, LoadError, Plugin, PluginSpec, inspect};
use busway_sandbox_tests::*;
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

/// What the engine says of these bytes.
fn refused(bytes: &[u8]) -> String {
    match engine().load(bytes) {
        Ok(_) => panic!("it loads"),
        Err(why) => why.to_string(),
    }
}

#[test]
fn what_is_no_component_is_told_by_what_it_is() {
    // A23
    let whole = component(&echo("out.x"));
    let core = wat::parse_str("(module)").unwrap();
    let table: &[(&[u8], &str)] = &[
        (b"", "the file is empty"),
        (&core, "a core WebAssembly module, not a component: build it with `busway build`"),
        (b"(component)", "text format: assemble it first"),
        (b"  ;; a comment\n(module)", "text format"),
        (b"PK\x03\x04rest", "not a WebAssembly component: a zip archive"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"#!/bin/sh\n", "bytes that do not begin as WebAssembly does"),
        (b"\0asm", "a damaged or cut component"),
        (&whole[..whole.len() / 2], "a damaged or cut component, at byte"),
        (&whole[..whole.len() - 1], "a damaged or cut component, at byte"),
    ];
    for (bytes, expected) in table {
        let told = refused(bytes);
        assert!(told.contains(expected), "{:?}: {told}", &bytes[..bytes.len().min(12)]);
    }
    assert!(refused(&vec![0; LoadError::BYTES_MAX + 1]).contains("at most 64 MiB"));
}

#[test]
fn random_and_mutated_bytes_are_refused_and_never_more_than_that() {
    // A23
    let whole = component(&echo("out.x"));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let noise: Vec<u8> = (0..random() % 512).map(|_| random() as u8).collect();
        assert!(engine().load(&noise).is_err());
        let mut mutated = whole.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() as usize % mutated.len();
            mutated[at] = random() as u8;
        }
        // A changed name or constant may leave a component that loads; what counts is that the host survives.
        drop(engine().load(&mutated));
    }
}

#[test]
fn native_code_is_refused_before_anything_is_mapped() {
    // A24: what wasmtime itself writes, taken from a cache, without the cache's code in front.
    let folder = tempfile::tempdir().unwrap();
    let cached = Engine::new(EngineConfig { cache_dir: Some(folder.path().join("cache")) }).unwrap();
    cached.load(&component(&echo("out.x"))).unwrap();
    let file = compiled_file(&folder.path().join("cache"));
    let native = fs::read(&file).unwrap().split_off(32);
    assert!(native.starts_with(b"\x7fELF"));
    assert!(refused(&native).contains("precompiled native code"));
}

#[test]
fn a_proposal_that_is_off_is_told_by_its_name() {
    // A20
    let table = [
        ("(type $s (struct (field i32)))", "gc"),
        ("(memory $shared 1 1 shared)", "threads"),
        ("(memory $wide i64 1)", "memory64"),
        ("(tag $t)", "exceptions"),
        ("(func $f (return_call $f))", "tail call"),
    ];
    for (definition, name) in table {
        let core = wat::parse_str(format!("(module {definition})")).unwrap();
        let component = in_component(&core);
        let told = refused(&component);
        assert!(told.contains("a WebAssembly proposal that this host keeps off"), "{definition}: {told}");
        assert!(told.to_lowercase().contains(name), "{definition}: {told}");
    }
}

/// A component that contains a core module and nothing else.
fn in_component(core: &[u8]) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0\x01".to_vec();
    let mut length = core.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(core);
    bytes
}

#[test]
fn a_component_without_our_handler_is_refused_with_what_it_exports_and_what_is_meant() {
    // A21
    let assembled = |text: &str| wat::parse_str(text).unwrap();
    let empty = refused(&assembled("(component)"));
    assert!(empty.contains("it exports no busway:plugin/handler@0.1.0; it exports: nothing"), "{empty}");
    for (name, hint) in [
        ("busway:plugin/handler@0.9.0", "busway:plugin/handler@0.9.0 is another version of the contract"),
        ("busway:plugin/batch-handler@0.1.0", "batches are not offered by this version"),
        ("my:own/handle-it", "is my:own/handle-it meant?"),
    ] {
        let told =
            refused(&assembled(&format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#)));
        assert!(told.contains(hint) && told.contains(&format!("it exports: {name}")), "{told}");
    }
}

#[test]
fn an_interface_that_the_host_does_not_know_is_refused_with_its_name() {
    // A21
    let imports = r#"(import "acme:teapot/brew@1.0.0" "brew" (func $brew))"#;
    let more = "import acme:teapot/brew@1.0.0;";
    let core = guest(imports, "", "(call $brew) (i32.const 1024)");
    let component =
        wrap_with_package(&core, more, "package acme:teapot@1.0.0; interface brew { brew: func(); }");
    let told = refused(&component);
    assert!(told.contains("it imports what this host does not know: acme:teapot/brew@1.0.0"), "{told}");
}

#[test]
fn an_interface_of_another_version_or_shape_is_refused() {
    let imports = r#"(import "wasi:logging/logging@9.0.0" "log" (func $log))"#;
    let core = guest(imports, "", "(call $log) (i32.const 1024)");
    let package = "package wasi:logging@9.0.0; interface logging { log: func(); }";
    let told = refused(&wrap_with_package(&core, "import wasi:logging/logging@9.0.0;", package));
    assert!(
        told.contains("it does not fit the contract") && told.contains("wasi:logging/logging@9.0.0"),
        "{told}"
    );
}

#[test]
fn a_component_made_of_two_that_pass_text_to_each_other_is_compiled_or_refused_and_never_worse() {
    // A46: the compiler of some settings panics at the adapter between them.
    let text = r#"(component
      (component $inner
        (core module $m (memory (export "m") 1) (func (export "r") (param i32 i32 i32 i32) (result i32) i32.const 8)
          (func (export "f") (param i32 i32) (result i32) (local.get 1)))
        (core instance $i (instantiate $m))
        (func (export "f") (param "s" string) (result u32)
          (canon lift (core func $i "f") (memory $i "m") (realloc (func $i "r")))))
      (component $outer
        (import "f" (func $f (param "s" string) (result u32)))
        (core module $mem (memory (export "m") 1))
        (core instance $mem (instantiate $mem))
        (core func $f (canon lower (func $f) (memory $mem "m")))
        (core module $m (import "" "f" (func $f (param i32 i32) (result i32))) (func (export "g") (result i32) (call $f (i32.const 0) (i32.const 3))))
        (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
        (func (export "g") (result u32) (canon lift (core func $i "g"))))
      (instance $a (instantiate $inner))
      (instance $b (instantiate $outer (with "f" (func $a "f"))))
      (instance $e (export "g" (func $b "g")))
      (export "busway:plugin/handler@0.1.0" (instance $e)))"#;
    let told = refused(&wat::parse_str(text).unwrap());
    assert!(
        told.contains("it does not fit the contract"),
        "compiled, then found to export something else: {told}"
    );
}

#[test]
fn inspecting_shows_exports_imports_and_digest_without_compiling() {
    let bytes = component(&echo("out.x"));
    let found = inspect(&bytes).unwrap();
    assert_eq!(found.exports, ["busway:plugin/handler@0.1.0"]);
    assert!(found.imports.iter().any(|name| name == "busway:plugin/bus@0.1.0"), "{found:?}");
    assert_eq!((found.size, found.manifest), (bytes.len(), None));
    assert!(matches!(inspect(b""), Err(LoadError::Empty)));
}

#[tokio::test]
async fn a_compiled_plugin_is_kept_and_a_file_that_was_tampered_with_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let bytes = component(&echo("out.x"));
    let engine = || Engine::new(EngineConfig { cache_dir: Some(cache.clone()) }).unwrap();
    engine().load(&bytes).unwrap();
    let file = compiled_file(&cache);
    let kept = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let before = fs::metadata(&file).unwrap().modified().unwrap();
    works(&engine(), &bytes).await;
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before, "a second load takes it as it is");

    for at in [0, 40, kept.len() - 1] {
        let mut tampered = kept.clone();
        tampered[at] ^= 1;
        fs::write(&file, &tampered).unwrap();
        works(&engine(), &bytes).await;
        assert_ne!(fs::read(&file).unwrap(), tampered, "it was compiled and written anew");
    }
    fs::write(&file, b"short").unwrap();
    works(&engine(), &bytes).await;
}

#[test]
fn a_cache_folder_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = Engine::new(EngineConfig { cache_dir: Some(folder.path().to_owned()) });
    assert!(matches!(refused, Err(EngineError::Cache { .. })));
}

async fn works(engine: &Engine, bytes: &[u8]) {
    let loaded = engine.load(bytes).unwrap();
    let spec = PluginSpec {
        name: "guest".parse().unwrap(),
        limits: short(),
        grants: Grants { publish: vec!["out.>".parse().unwrap()] },
        config: BTreeMap::new(),
        payload_bytes_max: 1 << 20,
    };
    let plugin = Plugin::new(engine, &loaded, spec).unwrap();
    assert!(matches!(plugin.call(&event(b"x"), Attempt(1)).await.ran, Ran::Ok(_)));
}

fn compiled_file(cache: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|file| file.extension().is_some_and(|end| end == "compiled")).unwrap()
}
