//! Files that are not plugins, or not for this host: each is refused by its own cause. And the cache of compiled ones.
#![expect(clippy::panic, clippy::unwrap_used, reason = "test code: what can not be set up ends the test")]

use busway_core::{Attempt, FailureClass, Handler as _};
use busway_engine::{
    Engine, EngineConfig, EngineError, Grants, LoadError, Plugin, PluginSpec, TrialError, inspect,
};
use busway_sandbox_tests::*;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
};

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
    let cached =
        Engine::new(EngineConfig { cache_dir: Some(folder.path().join("cache")), ..EngineConfig::default() })
            .unwrap();
    cached.load(&component(&echo("out.x"))).unwrap();
    let file = compiled_file(&folder.path().join("cache"));
    let native = fs::read(&file).unwrap().split_off(32);
    assert!(native.starts_with(b"\x7fELF"));
    assert!(refused(&native).contains("precompiled native code"));
    let by_somebody_else = [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 256]].concat();
    assert!(refused(&by_somebody_else).contains("precompiled native code"));
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
        ("(func (param v128) (result v128) (i32x4.relaxed_trunc_f32x4_s (local.get 0)))", "relaxed simd"),
        (
            "(func (param i64) (result i64 i64) (i64.mul_wide_s (local.get 0) (local.get 0)))",
            "wide arithmetic",
        ),
        ("(memory 1 (pagesize 1))", "custom page sizes"),
        ("(type $f (func)) (func (param (ref $f)))", "function references"),
    ];
    for (definition, name) in table {
        let core = wat::parse_str(format!("(module {definition})")).unwrap();
        let component = in_component(&core);
        let told = refused(&component);
        assert!(told.contains("a WebAssembly proposal that this host keeps off"), "{definition}: {told}");
        assert!(told.to_lowercase().contains(name), "{definition}: {told}");
    }
    let asynchronous = wat::parse_str("(component (type (stream u8)))").unwrap();
    let told = refused(&asynchronous);
    assert!(told.contains("keeps off") && told.contains("component model async"), "{told}");
}

/// What every component begins with.
const HEAD: &[u8] = b"\0asm\x0d\0\x01\0";

/// A component that contains a core module and nothing else.
fn in_component(core: &[u8]) -> Vec<u8> {
    let mut bytes = HEAD.to_vec();
    push_section(&mut bytes, 1, core);
    bytes
}

fn push_section(bytes: &mut Vec<u8>, id: u8, content: &[u8]) {
    bytes.push(id);
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
}

#[test]
fn a_part_beyond_its_bound_is_refused_before_anything_is_compiled() {
    // A18, A19
    let whole = |fields: &str| component(&guest("", fields, OK));
    let many = str::repeat;
    let table = [
        (
            format!("(func (local {}))", many("i64 ", 10_001)),
            "10001 locals in one function, more than the 10000",
        ),
        (
            format!("(func {})", many("(drop (i64.const 1))", 400_000)),
            "bytes in one function, more than the 1048576",
        ),
        (many("(func)", 50_001), "functions, more than the 50000"),
        (many("(type (func))", 50_001), "types, more than the 50000"),
    ];
    for (fields, expected) in table {
        let started = std::time::Instant::now();
        let told = refused(&whole(&fields));
        assert!(told.contains(expected), "{told}");
        // Compiling any of them takes longer.
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}: {told}", started.elapsed());
    }
}

#[test]
fn components_nested_without_end_are_refused_before_they_cost_anything() {
    // A18: half a megabyte of this took all memory there is while it was compiled.
    let nested = |depth: usize| {
        let mut inner = HEAD.to_vec();
        for _ in 0..depth {
            let mut outer = HEAD.to_vec();
            push_section(&mut outer, 4, &inner);
            inner = outer;
        }
        let mut whole = component(&echo("out.x"));
        push_section(&mut whole, 4, &inner);
        whole
    };
    engine().load(&nested(50)).unwrap();
    for depth in [100, 1_000, 20_000] {
        assert!(matches!(engine().load(&nested(depth)), Err(LoadError::TooDeep)), "{depth}");
    }
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
    assert!(told.ends_with("it imports what this host does not know: acme:teapot/brew@1.0.0"), "{told}");
    for (name, hint) in [
        ("wasi:io/stream@0.2.0", "wasi:io/stream@0.2.0; of wasi:io it knows error, poll, streams"),
        ("wasi:loging/logging", "wasi:loging/logging; is wasi:logging/logging meant?"),
        ("run", "does not know: run"),
    ] {
        let text = format!(r#"(component (import "{name}" (instance)))"#);
        let told = refused(&wat::parse_str(&text).unwrap());
        assert!(told.ends_with(hint), "{told}");
    }
}

#[tokio::test]
async fn a_handler_of_another_shape_is_refused_by_the_trial() {
    // A21: the name is right, the parameters are not.
    let text = r#"(component
      (core module $m (func (export "handle")))
      (core instance $m (instantiate $m))
      (func $handle (canon lift (core func $m "handle")))
      (instance $handler (export "handle" (func $handle)))
      (export "busway:plugin/handler@0.1.0" (instance $handler)))"#;
    let plugin = plugin(&wat::parse_str(text).unwrap(), short()).unwrap();
    let Err(TrialError::Failed(failed)) = plugin.trial().await else { panic!("the trial passes") };
    assert_eq!(failed.code, "contract");
    assert!(failed.reason.contains("busway:plugin/handler@0.1.0 has another shape"), "{failed:?}");
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

#[tokio::test]
async fn a_plugin_made_of_two_components_that_pass_text_to_each_other_works() {
    // A46: with another setting of the engine the compiler panics at the adapter between them.
    let plugin = plugin(&composed(1), short()).unwrap();
    plugin.trial().await.unwrap();
    let report = plugin.call(&event(b""), Attempt(1)).await;
    let failed = failure(&report);
    assert_eq!((failed.class, &*failed.code), (FailureClass::Reject, "!rders.created"));
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
    let engine =
        || Engine::new(EngineConfig { cache_dir: Some(cache.clone()), ..EngineConfig::default() }).unwrap();
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
    let refused =
        Engine::new(EngineConfig { cache_dir: Some(folder.path().to_owned()), ..EngineConfig::default() });
    assert!(matches!(refused, Err(EngineError::Cache { .. })));
}

#[test]
fn a_cache_folder_or_a_key_that_somebody_else_made_is_refused() {
    // Who may give files away can make one that is somebody else's; for everybody else the root folder is.
    let folder = tempfile::tempdir().unwrap();
    let given_away = chown(folder.path(), Some(12_345), None).is_ok();
    let theirs = if given_away { folder.path() } else { Path::new("/") };
    let refused = Engine::new(EngineConfig { cache_dir: Some(theirs.to_owned()), ..EngineConfig::default() });
    assert!(matches!(refused, Err(EngineError::Cache { .. })));

    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(folder.path().join("key"), [7; 64]).unwrap();
    fs::set_permissions(folder.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused =
        Engine::new(EngineConfig { cache_dir: Some(folder.path().to_owned()), ..EngineConfig::default() });
    assert!(
        matches!(&refused, Err(EngineError::Cache { why, .. }) if why.to_string().contains("key")),
        "{refused:?}"
    );
    fs::remove_file(folder.path().join("key")).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    symlink(&elsewhere, folder.path().join("key")).unwrap();
    let refused =
        Engine::new(EngineConfig { cache_dir: Some(folder.path().to_owned()), ..EngineConfig::default() });
    assert!(refused.is_err() && !elsewhere.exists());
}

async fn works(engine: &Engine, bytes: &[u8]) {
    let loaded = engine.load(bytes).unwrap();
    let spec = PluginSpec {
        name: "guest".parse().unwrap(),
        limits: short(),
        grants: Grants { publish: vec!["out.>".parse().unwrap()], ..Grants::default() },
        config: BTreeMap::new(),
        payload_bytes_max: 1 << 20,
    };
    let plugin = Plugin::new(engine, &loaded, spec).unwrap();
    assert!(is_ok(&plugin.call(&event(b"x"), Attempt(1)).await));
}

fn compiled_file(cache: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|file| file.extension().is_some_and(|end| end == "compiled")).unwrap()
}
