//! A plugin's path from its file to a sandbox: bytes → digest → validation → compilation → configuration → trial.
//!
//! Every mistake of every plugin is told at once, with the line of the configuration it comes from. `busway check` walks
//! the same path and stops before events arrive.

use crate::{
    cli::compile,
    config::{Config, Located, Mistake, PluginConfig, Refused, reader::FreeText},
};
use anyhow::Context as _;
use busway_core::{Digest, SubjectFilter};
use busway_engine::{
    ChildCompiler, CompileBounds, Compiling, ConfigType, Engine, EngineConfig, Grants, LoadError, Loaded,
    Manifest, Plugin, PluginSpec,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

/// Bytes of one configuration value of a plugin.
const VALUE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of all configuration values of a plugin.
const VALUES_BYTES_MAX: usize = 1024 * 1024;

/// A plugin that is ready for events.
pub struct Ready<'c> {
    /// Its part of the configuration.
    pub config: &'c PluginConfig,
    /// The sandboxed plugin.
    pub plugin: Arc<Plugin>,
    /// What the operator should know and may ignore.
    pub warnings: Vec<String>,
}

/// The engine of a host: what plugins are compiled to is kept in the state folder, and compiled in a child of this program.
///
/// # Errors
/// This machine can't run it, or the folder can't be used.
pub fn engine(config: &Config) -> anyhow::Result<Engine> {
    let bounds = CompileBounds::default();
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let child = ChildCompiler { program, arguments: compile::arguments(bounds), bounds };
    let config = EngineConfig { cache_dir: Some(config.cache()), compiling: Compiling::Child(child) };
    Ok(Engine::new(config)?)
}

/// Loads every plugin and runs each one's trial. `mistakes` are those found in the configuration before.
///
/// # Errors
/// Every mistake, those of the configuration and those of every plugin.
pub async fn load_all<'c>(
    engine: &Engine,
    config: &'c Config,
    mut mistakes: Vec<Mistake>,
    payload_bytes_max: u64,
) -> Result<Vec<Ready<'c>>, Refused> {
    let mut ready = Vec::new();
    for plugin in &config.plugins {
        match load(engine, config, plugin, payload_bytes_max).await {
            Ok(loaded) => ready.push(loaded),
            Err(found) => mistakes.extend(found),
        }
    }
    Refused::if_any(mistakes).map(|()| ready)
}

async fn load<'c>(
    engine: &Engine,
    config: &'c Config,
    plugin: &'c PluginConfig,
    payload_bytes_max: u64,
) -> Result<Ready<'c>, Vec<Mistake>> {
    let one = |place: &Located<_>, what: String| vec![plugin.mistake(place, what)];
    let path = config.resolve(&plugin.source.value);
    // Read once: the bytes that are hashed are the bytes that are compiled.
    let bytes = read_file(&path)
        .map_err(|why| one(&plugin.source, format!("{}: can't be read: {why}", path.display())))?;
    check_digest(plugin, &bytes)?;
    let loaded = {
        let engine = engine.clone();
        let compiling = tokio::task::spawn_blocking(move || engine.load(&bytes)).await;
        let loaded = compiling.map_err(|why| one(&plugin.source, format!("{}: {why}", path.display())))?;
        loaded.map_err(|why| one(&plugin.source, format!("{}: {}", path.display(), chain(&why))))?
    };
    let mut warnings = Vec::new();
    let values = values(config, plugin, loaded.manifest(), &mut warnings)?;
    let sandboxed = sandbox(engine, &loaded, plugin, values, payload_bytes_max)
        .map_err(|why| one(&plugin.source, format!("{}: {}", path.display(), chain(&why))))?;
    sandboxed.trial().await.map_err(|why| {
        one(&plugin.source, format!("{}: the trial failed: {}", path.display(), chain(&why)))
    })?;
    Ok(Ready { config: plugin, plugin: Arc::new(sandboxed), warnings })
}

fn sandbox(
    engine: &Engine,
    loaded: &Loaded,
    plugin: &PluginConfig,
    config: BTreeMap<String, String>,
    payload_bytes_max: u64,
) -> Result<Plugin, busway_engine::LoadError> {
    let filters =
        |granted: &[Located<SubjectFilter>]| granted.iter().map(|filter| filter.value.clone()).collect();
    let spec = PluginSpec {
        name: plugin.name.value.clone(),
        limits: plugin.limits,
        grants: Grants {
            publish: filters(&plugin.publish),
            publish_core: filters(&plugin.publish_core),
            request: filters(&plugin.request),
        },
        config,
        payload_bytes_max,
    };
    Plugin::new(engine, loaded, spec)
}

fn check_digest(plugin: &PluginConfig, bytes: &[u8]) -> Result<(), Vec<Mistake>> {
    let (Some(pinned), actual) = (&plugin.digest, Digest::of(bytes)) else { return Ok(()) };
    if pinned.value == actual {
        return Ok(());
    }
    let what = format!("the file's digest is {actual}: it is not the one that was pinned, or it was changed");
    Err(vec![plugin.mistake(pinned, what)])
}

/// The plugin's own configuration: what is written, and the defaults of what is not.
fn values(
    config: &Config,
    plugin: &PluginConfig,
    manifest: Option<&Manifest>,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut values = BTreeMap::new();
    for (key, text) in &plugin.config {
        match read_value(config, plugin, text) {
            Ok(value) => drop(values.insert(key.clone(), value)),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if values.values().map(String::len).sum::<usize>() > VALUES_BYTES_MAX {
        mistakes.push(plugin.mistake(&plugin.name, "its configuration is larger than 1 MiB in all"));
    }
    match manifest {
        Some(manifest) => declared(plugin, manifest, &mut values, warnings, &mut mistakes),
        None => warnings.push("the component has no manifest: built without `busway build`?".to_owned()),
    }
    if mistakes.is_empty() { Ok(values) } else { Err(mistakes) }
}

fn read_value(config: &Config, plugin: &PluginConfig, text: &Located<FreeText>) -> Result<String, Mistake> {
    let value = match &text.value {
        FreeText::Literal(value) => value.clone(),
        FreeText::File(file) => {
            let path = config.resolve(file);
            fs::read_to_string(&path)
                .map_err(|why| plugin.mistake(text, format!("{}: can't be read: {why}", path.display())))?
        }
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(plugin.mistake(text, format!("{} bytes; a value has at most 256 KiB", value.len())));
    }
    Ok(value)
}

/// Holds the values to what the plugin's manifest says of them.
fn declared(
    plugin: &PluginConfig,
    manifest: &Manifest,
    values: &mut BTreeMap<String, String>,
    warnings: &mut Vec<String>,
    mistakes: &mut Vec<Mistake>,
) {
    for (key, declared) in &manifest.config {
        if let (Some(text), Some(value)) = (plugin.config.get(key), values.get(key))
            && let Err(what) = fits(declared.kind, value)
        {
            mistakes.push(plugin.mistake(text, what));
        }
        if values.contains_key(key) {
            continue;
        }
        match &declared.default {
            Some(default) => drop(values.insert(key.clone(), default.clone())),
            None if declared.required => {
                let about = declared.description.as_deref().unwrap_or("the plugin requires it");
                let what = format!("`config.{key}` is missing: {about}");
                mistakes.push(plugin.mistake(&plugin.name, what));
            }
            None => {}
        }
    }
    for key in plugin.config.keys().filter(|key| !manifest.config.contains_key(*key)) {
        let known: Vec<_> = manifest.config.keys().map(String::as_str).collect();
        warnings.push(format!("the plugin knows no `config.{key}`; it knows: {}", known.join(", ")));
    }
}

fn fits(kind: ConfigType, value: &str) -> Result<(), String> {
    match kind {
        ConfigType::Text => Ok(()),
        ConfigType::Json => match serde_json::from_str::<serde::de::IgnoredAny>(value) {
            Ok(_) => Ok(()),
            Err(why) => Err(format!("must be JSON: {why}")),
        },
        ConfigType::Number if value.trim().parse::<f64>().is_ok() => Ok(()),
        ConfigType::Number => Err(format!("must be a number, is {value:?}")),
        ConfigType::Boolean if matches!(value, "true" | "false") => Ok(()),
        ConfigType::Boolean => Err(format!("must be \"true\" or \"false\", is {value:?}")),
    }
}

/// The bytes of a plugin's file, and no more of a larger one than the engine needs to refuse it.
///
/// # Errors
/// The file can't be read.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LoadError::BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An error with its causes, as one sentence.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_that_is_too_large_no_more_is_read_than_it_takes_to_refuse_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.wasm");
        fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let bytes = read_file(&path).unwrap();
        assert_eq!(bytes.len(), LoadError::BYTES_MAX + 1);
        assert!(matches!(busway_engine::inspect(&bytes), Err(LoadError::TooLarge)));
    }
}
