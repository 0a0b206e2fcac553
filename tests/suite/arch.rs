//! The rules of "What may import what", held over `cargo metadata`.
//!
//! What a crate may reach is judged by its normal and build dependencies, of which a user's binary is made. Layers are
//! held for development dependencies too.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use trireme_tests::{Program, repository};

/// What the crates of a folder may import of ours, beside the crates of the same folder. The first match counts.
const LAYERS: &[(&str, &[&str])] = &[
    ("engine/spec", &[]),
    ("engine/pki", &[]),
    ("engine/core", &["engine/pki", "engine/spec"]),
    ("engine/exchange", &["engine/core", "engine/pki", "engine/spec"]),
    (
        "engine/batch",
        &["engine/exchange", "engine/core", "engine/pki", "engine/spec"],
    ),
    (
        "engine/stream",
        &["engine/exchange", "engine/core", "engine/pki", "engine/spec"],
    ),
    (
        "engine/tasks",
        &["engine/exchange", "engine/core", "engine/pki", "engine/spec"],
    ),
    // The binary joins them all.
    (
        "engine",
        &[
            "engine/batch",
            "engine/stream",
            "engine/tasks",
            "engine/exchange",
            "engine/core",
            "engine/pki",
            "engine/spec",
        ],
    ),
    ("operator", &["engine/pki", "engine/spec"]),
    // What we are measured against must not change when we do.
    ("bench", &[]),
    ("tests", &[]),
    ("e2e", &["engine/spec"]),
];

/// Crates that bring Kubernetes' API or a client for it. `kube-cel` is none: it evaluates rules and knows no cluster.
const KUBERNETES: &str = "kube kube-client kube-core kube-derive kube-runtime k8s-openapi";

/// The beginnings of the names of the crates that compute on Arrow data.
const ENGINES: &str = "arrow parquet datafusion ballista";

/// Crates that wait or speak, which a crate that only describes has no use for.
const HEAVY: &str = "tokio tonic hyper object_store";

/// Decisions take time and chance as arguments and never wait or speak: none of these may come near a pure crate.
const IMPURE: &str = "tokio async-std smol futures-timer mio socket2 hyper tonic reqwest rustix nix crossbeam-channel rayon \
                      rand fastrand getrandom oorandom uuid ulid chrono time jiff";

/// The crates in which nothing but decisions happen.
const PURE: &[&str] = &["trireme-batch-schedule"];

#[test]
fn layers_import_downward_only() {
    let broken = Graph::ours().upward_imports();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_data_plane_knows_nothing_of_kubernetes() {
    Graph::ours().forbid(
        |member| member.folder.starts_with("engine"),
        |name| is_one(KUBERNETES, name),
    );
}

#[test]
fn the_control_plane_computes_nothing() {
    Graph::ours().forbid(|member| member.folder.starts_with("operator"), is_engine);
}

#[test]
fn what_both_planes_share_is_light() {
    let heavy = |name: &str| is_engine(name) || is_one(KUBERNETES, name) || is_one(HEAVY, name);
    Graph::ours().forbid(|member| member.folder == "engine/spec", heavy);
}

#[test]
fn decisions_are_pure() {
    let graph = Graph::ours();
    for name in PURE {
        assert!(
            graph.members().any(|member| member.name == *name),
            "no crate {name}: rename it here too"
        );
    }
    graph.forbid(
        |member| PURE.contains(&member.name.as_str()),
        |name| is_one(IMPURE, name),
    );
}

#[test]
fn tests_from_outside_link_no_engine() {
    Graph::ours().forbid(|member| is_outside(&member.folder), is_engine);
}

/// A development dependency that switches on a feature of a shared crate would have `cargo test` build that crate, and all
/// that stands on it, a second time: with DataFusion, that is most of an hour of two cores.
#[test]
fn tests_build_what_ships() {
    let tree = |edges: &str| {
        let arguments = [
            "tree",
            "--workspace",
            "--locked",
            "--prefix",
            "none",
            "--format",
            "{p} {f}",
            "--edges",
            edges,
        ];
        let lines = cargo(&arguments).run().succeeded().stdout;
        lines
            .lines()
            .map(|line| line.trim_end_matches(" (*)").to_owned())
            .collect::<BTreeSet<_>>()
    };
    let tested = tree("normal,build,dev");
    let rebuilt: Vec<_> = tree("normal,build")
        .into_iter()
        .filter(|package| !tested.contains(package))
        .collect();
    assert!(
        rebuilt.is_empty(),
        "with other features in tests:\n{}",
        rebuilt.join("\n")
    );
}

/// The rules above hold on a healthy tree; this is a sick one.
#[test]
fn broken_rules_are_found() {
    let ours = |name: &str, folder: &str| json!({ "id": name, "name": name, "source": null, "manifest_path": format!("/r/{folder}/Cargo.toml") });
    let theirs = |name: &str| json!({ "id": name, "name": name, "source": "registry", "manifest_path": format!("/cargo/{name}/Cargo.toml") });
    let node = |name: &str, dependency: &str, kind: Value| json!({ "id": name, "deps": [{ "pkg": dependency, "dep_kinds": [{ "kind": kind }] }] });
    let graph = Graph::parse(&json!({
        "workspace_root": "/r",
        "packages": [
            ours("batch", "engine/batch"), ours("journal", "engine/batch/journal"), ours("stream", "engine/stream"),
            theirs("glue"), theirs("kube"),
        ],
        "resolve": { "nodes": [
            node("batch", "journal", Value::Null), node("journal", "glue", json!("build")),
            node("glue", "kube", Value::Null), node("stream", "batch", json!("dev")),
        ]},
    }));
    assert_eq!(graph.upward_imports(), ["stream imports batch"]);
    let path = |member: &str| graph.path(&graph.packages[member], |name| is_one(KUBERNETES, name));
    assert_eq!(path("batch").as_deref(), Some("batch -> journal -> glue -> kube"));
    assert_eq!(
        path("stream"),
        None,
        "a development dependency is not built into anything"
    );
}

fn cargo(arguments: &[&str]) -> Program {
    let program = Program::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments);
    // It may have to fetch the manifests of crates that this machine never built.
    program
        .whole_environment()
        .limit(Duration::from_secs(300))
        .directory(repository())
}

fn is_one(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|listed| listed == name)
}

fn is_engine(name: &str) -> bool {
    let family = |engine: &str| {
        name.strip_prefix(engine)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    ENGINES.split_whitespace().any(family)
}

/// Crates that hold nothing but tests: there, development dependencies are what is built.
fn is_outside(folder: &str) -> bool {
    folder == "tests" || folder == "e2e"
}

fn layer(folder: &str) -> (&'static str, &'static [&'static str]) {
    let inside = |top: &str| folder == top || folder.starts_with(&format!("{top}/"));
    let layer = LAYERS.iter().copied().find(|(top, _)| inside(top));
    layer.unwrap_or_else(|| panic!("the crate in {folder} is in no layer: add it to LAYERS"))
}

/// The resolved dependencies of the workspace, as cargo sees them for Linux.
struct Graph {
    packages: BTreeMap<String, Package>,
}

struct Package {
    name: String,
    /// Path below the repository; empty for crates of others.
    folder: String,
    /// Ids of its dependencies, development ones included.
    direct: BTreeSet<String>,
    /// Ids of its normal and build dependencies.
    built: BTreeSet<String>,
}

impl Package {
    fn member(&self) -> Option<&Package> {
        (!self.folder.is_empty()).then_some(self)
    }
}

impl Graph {
    /// The graph of this repository, asked for once.
    fn ours() -> &'static Graph {
        static OURS: OnceLock<Graph> = OnceLock::new();
        OURS.get_or_init(|| {
            let platform = format!("{}-unknown-linux-gnu", env::consts::ARCH);
            let arguments = [
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--filter-platform",
                &platform,
            ];
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            // It may have to fetch the manifests of crates that this machine never built.
            let program = Program::new(cargo, arguments)
                .whole_environment()
                .limit(Duration::from_secs(300));
            Graph::parse(&program.directory(repository()).run().succeeded().json())
        })
    }

    fn parse(metadata: &Value) -> Graph {
        let root = text(&metadata["workspace_root"]);
        let mut packages = BTreeMap::new();
        for package in array(&metadata["packages"]) {
            let mut folder = String::new();
            if package["source"].is_null() {
                let manifest = text(&package["manifest_path"]);
                let below = manifest
                    .strip_prefix(&root)
                    .expect("a crate without a source is one of ours");
                folder = below.trim_end_matches("Cargo.toml").trim_matches('/').to_owned();
            }
            let name = text(&package["name"]);
            let (direct, built) = (BTreeSet::new(), BTreeSet::new());
            packages.insert(
                text(&package["id"]),
                Package {
                    name,
                    folder,
                    direct,
                    built,
                },
            );
        }
        for node in array(&metadata["resolve"]["nodes"]) {
            let package = packages
                .get_mut(&text(&node["id"]))
                .expect("a node of the graph is a package");
            for dependency in array(&node["deps"]) {
                let id = text(&dependency["pkg"]);
                if array(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev") {
                    package.built.insert(id.clone());
                }
                package.direct.insert(id);
            }
        }
        Graph { packages }
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter_map(Package::member)
    }

    fn upward_imports(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for member in self.members() {
            let (own, allowed) = layer(&member.folder);
            for dependency in member.direct.iter().filter_map(|id| self.packages[id].member()) {
                let (theirs, _) = layer(&dependency.folder);
                if own != theirs && !allowed.contains(&theirs) {
                    broken.push(format!("{} imports {}", member.name, dependency.name));
                }
            }
        }
        broken
    }

    /// Fails the test when a member that `side` picks reaches a crate that `forbidden` names; shows the way to it.
    fn forbid(&self, side: impl Fn(&Package) -> bool, forbidden: impl Fn(&str) -> bool) {
        let picked = self.members().filter(|member| side(member));
        let paths: Vec<_> = picked.filter_map(|member| self.path(member, &forbidden)).collect();
        assert!(paths.is_empty(), "{}", paths.join("\n"));
    }

    /// The shortest way from `member` to a forbidden crate: `a -> b -> c`.
    fn path(&self, member: &Package, forbidden: impl Fn(&str) -> bool) -> Option<String> {
        let mut seen = BTreeSet::new();
        let mut wave = vec![(member, member.name.clone())];
        while !wave.is_empty() {
            let mut next = Vec::new();
            for (package, path) in wave {
                let edges = if is_outside(&package.folder) {
                    &package.direct
                } else {
                    &package.built
                };
                for id in edges.iter().filter(|id| seen.insert((*id).clone())) {
                    let dependency = &self.packages[id];
                    let path = format!("{path} -> {}", dependency.name);
                    if forbidden(&dependency.name) {
                        return Some(path);
                    }
                    next.push((dependency, path));
                }
            }
            wave = next;
        }
        None
    }
}

/// The items of an array; cargo leaves out what is empty.
fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().expect("cargo's metadata have a text here").to_owned()
}
