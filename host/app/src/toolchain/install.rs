//! What every install has in common: one at a time, staged, and told.
//!
//! An install holds the lock of its folder, builds in a new folder below `staging/` and moves the result to its place
//! with one rename. So two commands never install over each other, and what a killed install left behind is never taken
//! for a tool. The next install removes it as far as it can: a compiler that outlived its killed parent may still write
//! there, which is why the folder of each install is a new one.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};

/// How many lines of a failed command's output are shown.
const TAIL_LINES: usize = 25;

/// The right to install into one folder. Held until dropped, or until the process ends.
#[derive(Debug)]
pub struct Install {
    staging: PathBuf,
    _lock: File,
}

impl Install {
    /// Creates `dir` where it is missing, waits until no other process installs there, and makes a staging folder.
    ///
    /// # Errors
    /// When a folder can't be created or locked.
    pub fn begin(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join("install.lock");
        let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say(&format!("waiting for another install into {}", dir.display()));
                lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let all = dir.join("staging");
        drop(fs::remove_dir_all(&all));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let staging = all.join(format!("{}-{now}", std::process::id()));
        fs::create_dir_all(&staging).with_context(|| format!("cannot create {}", staging.display()))?;
        Ok(Self { staging, _lock: lock })
    }

    /// An empty folder on the same file system as the final place.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Moves a finished file or folder out of staging to `place`, in one step. A folder already there is removed first.
    ///
    /// # Errors
    /// When the parent can't be created or the move fails.
    pub fn publish(&self, finished: &Path, place: &Path) -> anyhow::Result<()> {
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        if place.is_dir() {
            fs::remove_dir_all(place).with_context(|| format!("cannot replace {}", place.display()))?;
        }
        fs::rename(finished, place)
            .with_context(|| format!("cannot move {} to {}", finished.display(), place.display()))
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        // What stays behind costs only space, and the next install tries again.
        drop(fs::remove_dir_all(&self.staging));
        drop(self.staging.parent().map(fs::remove_dir));
    }
}

/// Runs a command without input. Its output is kept back, and shown (its last lines) only when it fails.
///
/// # Errors
/// When the command can't be started, or ends with anything but 0.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut told = String::from_utf8_lossy(&output.stdout).into_owned();
    told.push_str(&String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = told.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n    ");
    bail!("{name} failed ({}):\n    {tail}", output.status)
}

/// The standard output of a command that must end with 0, or why there is none.
///
/// # Errors
/// A phrase for people: the command can't be started, failed, or did not print UTF-8.
pub fn read(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot be run: {error}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(format!("failed ({}): {}", output.status, told.lines().next().unwrap_or_default()));
    }
    String::from_utf8(output.stdout).map_err(|_| "printed something that is not UTF-8".to_owned())
}

/// Whether a program of this name is on `PATH`, and where.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| is_executable(candidate))
}

/// Whether a file is there that this system would run.
pub fn is_executable(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    {
        path.is_file()
    }
}

/// Tells the person at the terminal what is going on; on standard error, so that the output stays clean.
pub fn say(text: &str) {
    eprintln!("busway: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_install_left_in_staging_is_gone_at_the_next() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("staging/half")).unwrap();
        let install = Install::begin(dir.path()).unwrap();
        assert!(!dir.path().join("staging/half").exists());
        assert!(install.staging().is_dir());
    }

    #[test]
    fn a_finished_folder_is_moved_out_of_staging_and_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let install = Install::begin(dir.path()).unwrap();
        let place = dir.path().join("tools/thing");
        for content in ["one", "two"] {
            let made = install.staging().join("made");
            fs::create_dir(&made).unwrap();
            fs::write(made.join("file"), content).unwrap();
            install.publish(&made, &place).unwrap();
            assert_eq!(fs::read_to_string(place.join("file")).unwrap(), content);
        }
    }

    #[test]
    fn a_second_install_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Install::begin(dir.path()).unwrap();
        let path = dir.path().to_path_buf();
        let second =
            std::thread::spawn(move || Install::begin(&path).map(|_| std::time::Instant::now()).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(50));
        let released = std::time::Instant::now();
        drop(first);
        assert!(second.join().unwrap() >= released);
    }

    #[test]
    fn a_failed_command_shows_what_it_said() {
        let error =
            run(Command::new("sh").args(["-c", "echo the cause >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("the cause") && error.contains('3'), "{error}");
    }
}
