//! `cargo xtask tidy`: the rules of the house that a program can hold. Also an ordinary test, so that nobody forgets it.
//!
//! `edges` reads the dependency graph, `sources` the files; `code` is how a file is read without being fooled by a
//! comment or a string. All breaches are told at once, each with its place and the mend.

mod code;
mod edges;
mod sources;

use anyhow::bail;

use crate::repository::Repository;

/// Checks everything.
///
/// # Errors
/// When a rule is broken: one line for each breach.
pub fn run(repository: &Repository) -> anyhow::Result<()> {
    let mut breaches = edges::breaches(repository);
    breaches.extend(sources::breaches(repository)?);
    if !breaches.is_empty() {
        bail!("the rules of the house are broken:\n  {}", breaches.join("\n  "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_keeps_the_rules_of_the_house() {
        if let Err(breaches) = run(&Repository::find().unwrap()) {
            panic!("{breaches}");
        }
    }
}
