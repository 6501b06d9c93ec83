//! The demo's folder: everything that `busway up` needs, made anew, so that it can be read and run by hand.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::time::{Instant, sleep};

use crate::settings::Settings;

/// The files that are copied from the repository, as they are.
const FILES: [(&str, &str); 2] = [
    ("busway.toml", include_str!("../folder/busway.toml")),
    ("github.schemas.json", include_str!("../folder/github.schemas.json")),
];
/// The plugins that the configuration names.
const PLUGINS: [&str; 2] = ["validate.wasm", "route.wasm"];

/// How long a host that is ending, and what it started, may take to leave the folder.
const END_WAIT: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The folder of a host.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder, in the place of an older one.
    ///
    /// # Errors
    /// A host that an earlier demo left behind still runs there; a plugin is not built; the disk.
    pub async fn make(settings: &Settings) -> anyhow::Result<Self> {
        let folder = Self { root: settings.folder.clone() };
        folder.refuse_if_in_use().await?;
        let root = &folder.root;
        let failed = || format!("the folder {} can't be made", root.display());
        if root.exists() {
            fs::remove_dir_all(root).with_context(failed)?;
        }
        fs::create_dir_all(root.join("plugins")).with_context(failed)?;
        for (name, text) in FILES {
            fs::write(root.join(name), text).with_context(failed)?;
        }
        for name in PLUGINS {
            let built = settings.guests.join(name);
            fs::copy(&built, root.join("plugins").join(name))
                .with_context(|| format!("the plugin {} can't be copied", built.display()))?;
        }
        Ok(folder)
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("busway.toml")
    }

    /// What the host says.
    pub fn log(&self) -> PathBuf {
        self.root.join("host.log")
    }

    /// The process id of a host that was left running.
    pub fn pid(&self) -> PathBuf {
        self.root.join("host.pid")
    }

    /// How the private broker is reached, while it runs.
    pub fn access(&self) -> PathBuf {
        self.state().join("broker.json")
    }

    fn state(&self) -> PathBuf {
        self.root.join(".busway")
    }

    /// The broker's folder is locked while host or broker live, whatever became of the demo that started them.
    async fn refuse_if_in_use(&self) -> anyhow::Result<()> {
        let lock = self.state().join("broker").join("lock");
        let until = Instant::now() + END_WAIT;
        while is_locked(&lock)? {
            if Instant::now() > until {
                return Err(self.in_use());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn in_use(&self) -> anyhow::Error {
        let pid = fs::read_to_string(self.pid()).unwrap_or_default();
        match pid.trim() {
            "" => anyhow!("another demo runs in {}; let it end", self.root.display()),
            pid => anyhow!(
                "the host of an earlier demo still runs in {}; stop it with `kill {pid}`",
                self.root.display()
            ),
        }
    }
}

fn is_locked(file: &Path) -> anyhow::Result<bool> {
    if !file.exists() {
        return Ok(false);
    }
    let opened = File::open(file).with_context(|| format!("{} can't be opened", file.display()))?;
    match opened.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(why)) => {
            Err(why).with_context(|| format!("{} can't be locked", file.display()))
        }
    }
}
