//! Holds the module map of `src/lib.rs`: who may use whom, how long a file may get, and that
//! algorithms know nothing of files, terminals, clocks or the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every library module and the modules it may use. No cycles: a module only names modules above it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("volume", &[]),
    ("progress", &[]),
    ("geometry", &["volume"]),
    ("io", &["geometry", "volume"]),
    ("dicom", &["io", "geometry", "volume"]),
    ("topology", &["geometry", "volume"]),
    ("mesh", &["topology", "geometry", "volume", "progress"]),
    ("template", &["topology", "geometry", "volume"]),
    ("tissue", &["topology", "geometry", "volume"]),
    ("metrics", &["geometry", "volume"]),
    ("registration", &["geometry", "volume", "progress"]),
    ("nn", &["volume", "progress"]),
    (
        "nnunet",
        &[
            "nn", "topology", "metrics", "geometry", "volume", "progress",
        ],
    ),
    (
        "tasks",
        &["nnunet", "topology", "geometry", "volume", "progress"],
    ),
    ("evaluate", &["metrics", "topology", "geometry", "volume"]),
    ("report", &["evaluate", "metrics", "geometry", "volume"]),
    ("phantom", &["geometry", "volume"]),
    ("provenance", &["io"]),
];

/// What only `io`, `provenance` and the binary may touch.
const OUTSIDE_WORLD: &[&str] = &[
    "std::env",
    "std::process",
    "std::time",
    "println!",
    "print!(",
    "std::fs",
];

/// Files that touch the outside world for a stated reason.
const EXCEPTIONS: &[(&str, &str)] = &[(
    "src/nnunet/model/files.rs",
    "reads the model folder that it is given; the algorithms see it as a trait",
)];

const MAX_LINES: usize = 600;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(root().join("src")).unwrap();
    let first = relative.components().next().unwrap();
    let name = first.as_os_str().to_str().unwrap();
    name.trim_end_matches(".rs").to_owned()
}

/// The code of a file without comments and without its test module.
fn code_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn crate_modules_named_in(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (position, _) in code.match_indices("crate::") {
        let rest = &code[position + "crate::".len()..];
        // `use crate::{a, b::c}` names several modules at once.
        let list = rest.strip_prefix('{').map_or(rest, |list| {
            list.split_once('}').map_or(list, |(inside, _)| inside)
        });
        let single = !rest.starts_with('{');
        for part in list.split(',').take(if single { 1 } else { usize::MAX }) {
            let name: String = part
                .trim()
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            if !name.is_empty() {
                named.push(name);
            }
        }
    }
    named
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let module = module_of(&path);
        if module == "lib" || module == "bin" {
            continue;
        }
        let Some(may_use) = allowed.get(module.as_str()) else {
            panic!("{}: module `{module}` is not in MAY_USE", path.display());
        };
        for used in crate_modules_named_in(&code_of(&path)) {
            if used != module
                && allowed.contains_key(used.as_str())
                && !may_use.contains(&used.as_str())
            {
                wrong.push(format!(
                    "{}: `{module}` may not use `{used}`",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_has_no_cycles_and_every_module_exists() {
    let mut known: Vec<&str> = Vec::new();
    for (module, may_use) in MAY_USE {
        let folder = root().join("src").join(module);
        let file = root().join("src").join(format!("{module}.rs"));
        assert!(folder.is_dir() || file.is_file(), "no module `{module}`");
        known.push(module);
        let _ = may_use;
    }
    // Repeatedly remove modules that use only removed ones; what stays is a cycle.
    let mut left: BTreeMap<&str, Vec<&str>> = MAY_USE
        .iter()
        .map(|(module, may_use)| (*module, may_use.to_vec()))
        .collect();
    while let Some(free) = left.iter().find_map(|(module, uses)| {
        uses.iter()
            .all(|u| !left.contains_key(u))
            .then_some(*module)
    }) {
        left.remove(free);
    }
    assert!(left.is_empty(), "cycle among {left:?}");
}

#[test]
fn algorithms_do_not_touch_the_outside_world() {
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let module = module_of(&path);
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
        if ["io", "dicom", "provenance", "bin"].contains(&module.as_str())
            || EXCEPTIONS.iter().any(|(file, _)| *file == relative)
        {
            continue;
        }
        let code = code_of(&path);
        for banned in OUTSIDE_WORLD {
            if code.contains(banned) {
                wrong.push(format!("{relative}: uses `{banned}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_binary_uses_only_the_public_library() {
    for path in sources(&root().join("src/bin")) {
        let code = code_of(&path);
        assert!(
            !code.contains("#[path"),
            "{}: reaches around the library",
            path.display()
        );
    }
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for folder in ["src", "tests", "examples"] {
        for path in sources(&root().join(folder)) {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            if lines > MAX_LINES {
                long.push(format!("{} has {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "split these files:\n{}", long.join("\n"));
}
