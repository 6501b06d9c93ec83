//! Who may depend on whom: the table that keeps the architecture from dissolving.
//!
//! Two tables. [`allowed`] says which of our own crates each crate may use; a crate that is in no row is a breach, so that
//! a new one gets its row. [`KEPT`] says which crates from outside are kept to a few places. Edges of tests count too, for
//! a test that reaches past a seam dissolves it as well; what only tests may have is in [`FOR_TESTS`].

use cargo_metadata::{Dependency, DependencyKind, Package};

use crate::repository::Repository;

/// A crate from outside (its name, or the start of it with `*`), where it may be used, and why nowhere else.
struct Kept {
    what: &'static str,
    only_in: &'static [&'static str],
    why: &'static str,
}

const KEPT: &[Kept] = &[
    Kept { what: "wasmtime*", only_in: &["host/engine"], why: "only the engine knows the sandbox" },
    Kept {
        what: "async-nats",
        only_in: &["host/transport", "tests/e2e", "tests/demo", "tests/chaos", "tests/sim"],
        why: "only the transport knows the broker",
    },
    Kept {
        what: "anyhow",
        only_in: &["host/app", "xtask", "tests/"],
        why: "libraries have errors that can be matched",
    },
    Kept { what: "clap", only_in: &["host/app"], why: "only the program has a command line" },
    Kept { what: "toml", only_in: &["host/app"], why: "only the program reads configuration files" },
    Kept {
        what: "tokio*",
        only_in: &["host/dispatch", "host/engine", "host/failpoints", "host/transport", "host/app", "tests/"],
        why: "core is pure, and plugins have no runtime",
    },
];

/// What the tests inside a host crate may have besides: the kit starts a real broker for the transport's.
const FOR_TESTS: &[(&str, &str)] = &[("host/transport", "busway-testkit"), ("host/transport", "anyhow")];

/// Which of our crates the one in this folder may use; none where the folder is in no row.
fn allowed(folder: &str) -> Option<&'static [&'static str]> {
    Some(match folder {
        "host/core" | "sdk/rust/macros" | "xtask" => &[],
        "host/dispatch" | "host/engine" | "host/failpoints" | "host/transport" => &["busway-core"],
        "host/app" => {
            &["busway-core", "busway-dispatch", "busway-engine", "busway-failpoints", "busway-transport"]
        }
        "sdk/rust" => &["busway-sdk-macros"],
        "tests/kit" => &["busway-core", "busway-dispatch", "busway-transport"],
        "tests/path" => &["busway-core", "busway-dispatch", "busway-failpoints", "busway-testkit"],
        "tests/sim" => &["busway-core", "busway-dispatch", "busway-testkit"],
        "tests/sandbox" => &["busway-core", "busway-engine", "busway-testkit"],
        // For its guests, written by hand.
        "tests/e2e" => &["busway-sandbox-tests", "busway-testkit"],
        "tests/conformance" => &["busway-testkit"],
        "tests/demo" => &[],
        "tests/chaos" => &["busway-testkit"],
        "bench" => &["busway-core", "busway-dispatch", "busway-engine", "busway-transport", "busway-testkit"],
        other => {
            let shelves = ["plugins/", "examples/", "tests/guests/"];
            return shelves.iter().any(|shelf| other.starts_with(shelf)).then_some(&["busway-sdk"]);
        }
    })
}

/// Every edge of the workspace that is in no table.
pub fn breaches(repository: &Repository) -> Vec<String> {
    let packages = &repository.metadata.packages;
    let ours: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut breaches = Vec::new();
    for package in packages {
        let folder = folder(repository, package);
        for dependency in &package.dependencies {
            if is_for_tests(&folder, dependency) {
                continue;
            }
            let is_ours = ours.contains(&dependency.name.as_str());
            breaches.extend(if is_ours { own(&folder, dependency) } else { outside(&folder, dependency) });
        }
        if allowed(&folder).is_none() {
            breaches.push(format!(
                "{folder}: in no row of xtask/src/tidy/edges.rs; say there what it may depend on"
            ));
        }
    }
    breaches
}

/// The crate's folder below the root, with `/` between the names.
fn folder(repository: &Repository, package: &Package) -> String {
    let folder =
        package.manifest_path.parent().map(|folder| folder.as_std_path().to_path_buf()).unwrap_or_default();
    let below = folder.strip_prefix(&repository.root).unwrap_or(&folder);
    below.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn is_for_tests(folder: &str, dependency: &Dependency) -> bool {
    dependency.kind == DependencyKind::Development && FOR_TESTS.contains(&(folder, dependency.name.as_str()))
}

fn own(folder: &str, dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    match allowed(folder) {
        Some(allowed) if !allowed.contains(&name) => Some(format!("{folder} must not depend on {name}")),
        _ => None,
    }
}

fn outside(folder: &str, dependency: &Dependency) -> Option<String> {
    let kept = KEPT.iter().find(|kept| matches(kept.what, &dependency.name))?;
    let fits = kept
        .only_in
        .iter()
        .any(|place| folder == *place || (place.ends_with('/') && folder.starts_with(place)));
    (!fits).then(|| format!("{folder} must not depend on {}: {}", dependency.name, kept.why))
}

fn matches(what: &str, name: &str) -> bool {
    match what.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(name: &str) -> Dependency {
        serde_json::from_value(serde_json::json!({
            "name": name, "req": "*", "kind": null, "optional": false,
            "uses_default_features": true, "features": [],
        }))
        .unwrap()
    }

    #[test]
    fn an_edge_outside_the_table_is_a_breach() {
        for (folder, name) in [
            ("host/core", "busway-engine"),
            ("host/dispatch", "busway-engine"),
            ("plugins/validate", "busway-core"),
            ("xtask", "busway-core"),
        ] {
            assert!(own(folder, &dependency(name)).is_some(), "{folder} → {name}");
        }
        assert_eq!(own("host/app", &dependency("busway-engine")), None);
        assert_eq!(own("plugins/validate", &dependency("busway-sdk")), None);
    }

    #[test]
    fn a_crate_from_outside_stays_where_it_is_kept() {
        for (folder, name) in [
            ("host/app", "wasmtime-wasi"),
            ("tests/path", "async-nats"),
            ("host/core", "tokio"),
            ("host/engine", "anyhow"),
            ("plugins/route", "anyhow"),
        ] {
            assert!(outside(folder, &dependency(name)).is_some(), "{folder} → {name}");
        }
        for (folder, name) in [
            ("host/engine", "wasmtime"),
            ("tests/e2e", "async-nats"),
            ("tests/kit", "anyhow"),
            ("host/core", "sha2"),
        ] {
            assert_eq!(outside(folder, &dependency(name)), None, "{folder} → {name}");
        }
    }

    #[test]
    fn what_only_tests_may_have_is_a_breach_elsewhere() {
        let mut kit = dependency("busway-testkit");
        assert!(!is_for_tests("host/transport", &kit));
        kit.kind = DependencyKind::Development;
        assert!(is_for_tests("host/transport", &kit));
        assert!(!is_for_tests("host/core", &kit));
    }

    #[test]
    fn a_crate_in_no_row_is_a_breach() {
        assert!(allowed("host/new").is_none());
        assert!(allowed("examples/hello-rust").is_some());
    }
}
