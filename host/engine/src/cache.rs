//! Compiled plugins on disk.
//!
//! A compiled component is native code, and loading one that somebody else wrote is running it. So: the folder is this
//! user's alone, a file's name is made of the plugin's bytes, wasmtime's version and the engine's settings, and its
//! content carries a code that only a holder of this folder's key can make. What does not fit is compiled anew. A folder
//! or a key that somebody else made is refused, whatever its mode is now: what lies in it may have been planted.

use crate::engine::EngineError;
use busway_core::{Digest, event::base32};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, DirBuilder, OpenOptions},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use tracing::{debug, warn};
use wasmtime::component::Component;

const KEY_FILE: &str = "key";
/// One block of sha256.
const KEY_BYTES: usize = 64;
const CODE_BYTES: usize = 32;
/// Before the hash in a file's name: what the name is made of beside the plugin.
const WASMTIME: &str = "48.0.8";

/// The folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    settings: u64,
}

impl Cache {
    /// Opens the folder, and makes it and its key where they are missing.
    ///
    /// # Errors
    /// It belongs to or can be written by somebody else, or can't be made.
    pub(crate) fn open(folder: PathBuf, engine: &wasmtime::Engine) -> Result<Self, EngineError> {
        let mut settings = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut settings);
        match private_folder(&folder).and_then(|()| key(&folder)) {
            Ok(key) => Ok(Self { folder, key, settings: settings.finish() }),
            Err(why) => Err(EngineError::Cache { folder, why }),
        }
    }

    /// The compiled form of a plugin; none where there is none that this folder's key vouches for.
    pub(crate) fn get(&self, engine: &wasmtime::Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return None,
            Err(why) => {
                warn!(file = %path.display(), %why, "a compiled plugin can't be read; compiling again");
                return None;
            }
        };
        let vouched = bytes
            .split_at_checked(CODE_BYTES)
            .filter(|(code, compiled)| self.vouches(code, digest, compiled));
        let Some((_, compiled)) = vouched else {
            warn!(file = %path.display(), "a compiled plugin was not written by this host; compiling again");
            return None;
        };
        match deserialize(engine, compiled) {
            Ok(component) => Some(component),
            Err(why) => {
                debug!(file = %path.display(), %why, "a compiled plugin does not fit this engine; compiling again");
                None
            }
        }
    }

    /// Keeps a compiled plugin. Failing to is only slow.
    pub(crate) fn put(&self, digest: &Digest, component: &Component) {
        if let Err(why) = self.write(digest, component) {
            warn!(folder = %self.folder.display(), %why, "a compiled plugin could not be kept; it will be compiled again");
        }
    }

    fn write(&self, digest: &Digest, component: &Component) -> io::Result<()> {
        let compiled = component.serialize().map_err(|why| io::Error::other(format!("{why:#}")))?;
        let path = self.path(digest);
        let beside = path.with_extension(format!("{}.part", std::process::id()));
        let mut file = own_file(&beside)?;
        file.write_all(&self.code(digest, &compiled))?;
        file.write_all(&compiled)?;
        fs::rename(&beside, &path)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let mut name = Sha256::new();
        name.update(digest.as_bytes());
        name.update(WASMTIME);
        name.update(self.settings.to_be_bytes());
        name.update(std::env::consts::ARCH);
        self.folder.join(format!("{}.compiled", base32(&name.finalize())))
    }

    fn code(&self, digest: &Digest, compiled: &[u8]) -> [u8; CODE_BYTES] {
        self.mac(digest, compiled).finalize().into_bytes().into()
    }

    fn vouches(&self, code: &[u8], digest: &Digest, compiled: &[u8]) -> bool {
        self.mac(digest, compiled).verify_slice(code).is_ok()
    }

    fn mac(&self, digest: &Digest, compiled: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        mac.update(digest.as_bytes());
        mac.update(&self.settings.to_be_bytes());
        mac.update(compiled);
        mac
    }
}

#[expect(unsafe_code, reason = "loading native code is what a cache of compiled plugins is for")]
pub(crate) fn deserialize(engine: &wasmtime::Engine, compiled: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes must be what wasmtime itself wrote. There are two callers. `Cache::get` has just checked a code made
    // with a key that only this user can read, over these bytes and the engine's settings. `Engine::load` has them from a
    // child process that is this same program and was given nothing but a component.
    unsafe { Component::deserialize(engine, compiled) }
}

/// A file that is made here and now: never one that stood there before, never through a link.
fn own_file(path: &Path) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Err(why),
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Folder and key belong to the user that has just made a file beside them, and the key is nobody else's to read.
fn is_ours(us: u32, folder: &Path, key: &Path) -> io::Result<()> {
    if fs::symlink_metadata(folder)?.uid() != us {
        return Err(io::Error::other("it belongs to another user: name another folder"));
    }
    let found = fs::symlink_metadata(key)?;
    if found.is_file() && found.uid() == us && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::other("its key is not this user's alone: remove the folder, and it is made anew"))
}

/// A folder that nobody else may write to.
fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() {
        return Err(io::Error::other("it is not a folder"));
    }
    if found.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may have written to it: remove it, and it is made anew"));
    }
    Ok(())
}

/// The folder's key, made at first use.
fn key(folder: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = folder.join(KEY_FILE);
    let mut fresh = [0; KEY_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut fresh)?;
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let mut file = own_file(&beside)?;
    file.write_all(&fresh)?;
    let us = file.metadata()?.uid();
    // A link fails where the key is there already, so two hosts that start at once agree on one.
    let linked = fs::hard_link(&beside, &path);
    fs::remove_file(&beside)?;
    match linked {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
        Err(why) => return Err(why),
    }
    is_ours(us, folder, &path)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    fs::read(path)?.try_into().map_err(|_| io::Error::other("the key has a wrong length: remove the folder"))
}
