//! Task files as they are read, and what is wrong with them.

use super::*;

fn read(text: &str) -> Result<Task, FileError> {
    let lung = |name: &str| {
        (name == "lung").then(|| {
            parse(
                "channels = ['CT']\nlabels = ['left_lobe', 'right_lobe', 'air']\n[[models]]\nmodel = 7\nlabels = 'numbers'",
                name,
                "other.toml",
                &Sources {
                    scheme: &|_| None,
                    task: &|_| Ok(None),
                },
            )
        })
    };
    let sources = Sources {
        scheme: &LabelTable::built_in,
        task: &|name| lung(name).transpose(),
    };
    parse(text, "mine", "mine.toml", &sources)
}

#[test]
fn a_task_of_models() {
    let task = read(
        "channels = ['A', 'P']\nlabels = { kidney = 1, tumor = 3 }\npriority = ['tumor']\n\
         spacing_mm = [1.0, 2.0, 3.0]\n[[models]]\nmodel = 12\nchannels = ['P']\n\
         labels = { mass = 'tumor' }\n[[models]]\nmodel = 'Dataset013_K'\nlabels = ['kidney']\n\
         [[steps]]\nstep = 'remove-small'\nlabels = ['tumor']\nvolume_mm3 = 10.0",
    )
    .unwrap();
    let Work::Models { input, models, .. } = &task.work else {
        panic!("{task:?}")
    };
    assert_eq!((task.name.as_str(), &task.priority[..]), ("mine", &[3][..]));
    assert_eq!(input.spacing_mm, Some([3.0, 2.0, 1.0]));
    assert!(input.canonical);
    assert_eq!(
        (models[0].model.dataset.as_str(), &models[0].channels[..]),
        ("12", &[1][..])
    );
    let names = BTreeMap::from([("mass".to_owned(), 3)]);
    assert_eq!(models[0].labels, LabelMapping::ByName(names));
    assert_eq!(
        models[1].labels,
        LabelMapping::ByNumber(BTreeMap::from([(1, 1)]))
    );
    assert_eq!(models[1].channels, [0, 1]);
}

#[test]
fn a_task_of_tasks() {
    let task = read(
        "channels = ['A']\nlabels = { lung = 9 }\n[[tasks]]\ntask = 'lung'\nlabels = { '*_lobe' = 'lung' }",
    )
    .unwrap();
    let Work::Tasks(tasks) = &task.work else {
        panic!("{task:?}")
    };
    assert_eq!(tasks[0].labels, BTreeMap::from([(1, 9), (2, 9)]));
    assert_eq!(tasks[0].task.kept, Some(vec![1, 2]));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let model = "\n[[models]]\nmodel = 1";
    for (text, expected) in [
        ("channels = 3", "line 1: invalid type"),
        (
            "channels = ['A']\nlabels = []\nspelled = 1",
            "unknown field `spelled`",
        ),
        (
            "channels = ['A']\nlabels = []",
            "expected [[models]] or [[tasks]]",
        ),
        (
            &format!("channels = []\nlabels = []{model}"),
            "at least one name",
        ),
        (
            &format!("channels = ['A', 'A']\nlabels = []{model}"),
            "A comes twice",
        ),
        (
            &format!("channels = ['A']\nlabels = 'belly'{model}"),
            "no label scheme belly",
        ),
        (
            &format!("channels = ['A']\nlabels = {{ a = 1, b = 1 }}{model}"),
            "a and b are both 1",
        ),
        (
            &format!("channels = ['A']\nlabels = {{ a = 0 }}{model}"),
            "which is background",
        ),
        (
            &format!("channels = ['A']\nlabels = []\nstep = 1.5{model}"),
            "step is 1.5",
        ),
        (
            &format!("channels = ['A']\nlabels = []\nspacing_mm = [1.0, 0.0, 1.0]{model}"),
            "spacing_mm is 0",
        ),
        (
            &format!("channels = ['A']\nlabels = []{model}\nchannels = ['B']"),
            "no channel B among A",
        ),
        (
            &format!("channels = ['A']\nlabels = []{model}\nlabels = ['x']"),
            "no label x",
        ),
        (
            &format!("channels = ['A']\nlabels = []{model}\nlabels = 'same'"),
            "found same",
        ),
        (
            "channels = ['A']\nlabels = ['x']\n[[tasks]]\ntask = 'lungs'\nlabels = {}",
            "no task lungs",
        ),
        (
            "channels = ['A']\nlabels = ['x']\n[[tasks]]\ntask = 'lung'\nlabels = { rib = 'x' }",
            "lung has no label rib",
        ),
        (
            "channels = ['A', 'P']\nlabels = ['x']\n[[tasks]]\ntask = 'lung'\nchannels = ['P']\nlabels = { air = 'x' }",
            "its first channel must be A",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(
            error.starts_with("mine.toml: ") && !error.contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn patterns() {
    assert!(matches("rib_*", "rib_left_1") && matches("*", "x") && matches("a*b", "ab"));
    assert!(!matches("rib_*", "rib") && !matches("a*a", "a") && !matches("rib", "ribs"));
}
