//! Cases spread over several simulated GPUs.

use crate::{medseg, run, simulator, succeed, text};
use medseg::io::{Overwrite, atomic};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

const THREE: [(&str, &str); 1] = [("MEDSEG_SIM_DEVICES", "3")];

fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A folder with `images/` of six cases of two channels, and the arguments that segment them.
fn six_cases() -> (tempfile::TempDir, String) {
    let here = tempfile::tempdir().unwrap();
    std::fs::create_dir(here.path().join("images")).unwrap();
    for (number, name) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        for channel in 0..2 {
            let (depth, seed) = (14 + 2 * (number % 3), 10 * number + channel);
            let arguments = format!(
                "phantom -q -o images/{name}_000{channel}.nii --size 20,18,{depth} --spacing 2,2,3 --seed {seed}"
            );
            succeed(here.path(), &arguments, &[]);
        }
    }
    let model = repository("testdata/model_tiny/nnUNetTrainer__nnUNetPlans__3d_fullres");
    let arguments = format!("infer -i images -m {}", model.display());
    (here, arguments)
}

fn write(path: &Path, content: &[u8]) {
    atomic::write(path, Overwrite::Force, content).unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Names and contents of the files in a folder, in order.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// What a field of every case says, in the order of the report.
fn of_cases(report: &Value, field: &str) -> Vec<String> {
    let cases = report["cases"].as_array().unwrap().iter();
    cases
        .map(|case| case[field].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn any_number_of_gpus_gives_the_same_bytes_and_the_same_report() {
    let (here, arguments) = six_cases();
    let here = here.path();
    let go = |name: &str, device: &str| {
        let arguments = format!(
            "{arguments} -o {name} --device {device} --uncertainty --statistics {name}.s.json --report {name}.json"
        );
        let told = text(&succeed(here, &arguments, &THREE).stderr);
        (json(&here.join(format!("{name}.json"))), told)
    };
    let (one, _) = go("one", "cuda");
    let expected = files(&here.join("one"));
    assert_eq!(expected.len(), 12);
    for (name, device, used) in [
        ("all", "cuda:all", &["cuda:0", "cuda:1", "cuda:2"][..]),
        ("list", "cuda:2,0", &["cuda:2", "cuda:0"]),
    ] {
        let (several, told) = go(name, device);
        assert!(files(&here.join(name)) == expected, "{device}: other bytes");
        let statistics = |name: &str| std::fs::read(here.join(format!("{name}.s.json"))).unwrap();
        assert!(statistics(name) == statistics("one"), "{device}");
        for field in ["case", "status"] {
            assert_eq!(of_cases(&several, field), of_cases(&one, field));
        }
        for (case, alone) in several["cases"]
            .as_array()
            .unwrap()
            .iter()
            .zip(one["cases"].as_array().unwrap())
        {
            assert_eq!(case["inputs"], alone["inputs"]);
            assert_eq!(case["uncertainty"], alone["uncertainty"]);
            let name = case["case"].as_str().unwrap();
            let output = case["outputs"][0].as_str().unwrap();
            assert!(output.ends_with(&format!("{name}.nii.gz")), "{output}");
        }
        let labels: Vec<String> = used
            .iter()
            .map(|id| format!("{id} (Simulated GPU)"))
            .collect();
        assert_eq!(several["settings"]["device"], labels.join(", "));
        let devices = of_cases(&several, "device");
        for label in &labels {
            assert!(devices.contains(label), "{label} did nothing: {devices:?}");
        }
        assert!(
            devices.iter().all(|device| labels.contains(device)),
            "{devices:?}"
        );
        // Every case is told on a line of its own, with its number and device.
        for (number, (case, device)) in of_cases(&several, "case").iter().zip(&devices).enumerate()
        {
            let start = format!("[{}/6] wrote {name}/{case}.nii.gz (", number + 1);
            let end = format!(" s, {})", device.split(' ').next().unwrap());
            let lines = told
                .lines()
                .filter(|line| line.starts_with(&start) && line.ends_with(&end));
            assert_eq!(lines.count(), 1, "{told}");
        }
    }
    // One GPU is not spoken of.
    assert_eq!(one["settings"]["device"], "cuda:0 (Simulated GPU)");
    assert!(
        of_cases(&one, "device")
            .iter()
            .all(|device| device == "cuda:0 (Simulated GPU)")
    );
    let output = succeed(
        here,
        &format!("{arguments} -o v --device cuda:0,1 -v"),
        &THREE,
    );
    let told = text(&output.stderr);
    for case in ["a", "b", "c", "d", "e", "f"] {
        let block = format!("\n{case}:\n  read: ");
        assert!(told.contains(&block), "{told}");
    }
}

#[test]
fn a_broken_case_costs_only_itself_and_a_resumed_run_ends_the_same() {
    let (here, arguments) = six_cases();
    let here = here.path();
    let sound = std::fs::read(here.join("images/c_0000.nii")).unwrap();
    write(&here.join("images/c_0000.nii"), &sound[..sound.len() / 2]);
    let go = |name: &str, device: &str, more: &str| {
        let arguments = format!(
            "{arguments} -o {name} --device {device} --statistics {name}.s.json --report {name}.json {more}"
        );
        run(here, &arguments, &THREE)
    };
    let [one, several] = [("one", "cuda"), ("several", "cuda:all")].map(|(name, device)| {
        let output = go(name, device, "");
        assert_eq!(output.status.code(), Some(3));
        let told = text(&output.stderr);
        let summary = told.find("1 of 6 cases failed:\n  c: ").unwrap();
        let report = json(&here.join(format!("{name}.json")));
        (files(&here.join(name)), told[summary..].to_owned(), report)
    });
    assert_eq!(one.0.len(), 5);
    assert!(one.0 == several.0);
    assert_eq!(one.1, several.1);
    for field in ["case", "status", "error"] {
        assert_eq!(of_cases(&one.2, field), of_cases(&several.2, field));
    }
    assert_eq!(of_cases(&several.2, "status")[2], "failed");
    let statistics = |name: &str| std::fs::read(here.join(format!("{name}.s.json"))).unwrap();
    assert!(statistics("one") == statistics("several"));
    // Only the case that is missing is done.
    write(&here.join("images/c_0000.nii"), &sound);
    let output = go("several", "cuda:0,1,2", "--skip-existing --force");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    std::fs::remove_file(here.join("several.s.json")).unwrap();
    let output = go("several", "cuda:0,1,2", "--skip-existing");
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(told.matches(": exists, skipped\n").count(), 5);
    assert!(told.contains("[3/6] wrote several/c.nii.gz"), "{told}");
    let report = json(&here.join("several.json"));
    assert_eq!(report["settings"]["device"], "cuda:0 (Simulated GPU)");
    let statuses = of_cases(&report, "status");
    assert_eq!(statuses.iter().filter(|it| *it == "skipped").count(), 5);
    assert_eq!(statuses[2], "done");
    assert_eq!(files(&here.join("several")).len(), 6);
}

#[test]
fn an_interrupted_run_leaves_whole_files_and_can_be_resumed() {
    let (here, arguments) = six_cases();
    let here = here.path();
    // Enough that many are left when the first is written.
    for name in ["a", "b", "c", "d", "e", "f"] {
        for (copy, channel) in [("1", 0), ("1", 1), ("2", 0), ("2", 1)] {
            let from = here.join(format!("images/{name}_000{channel}.nii"));
            let to = here.join(format!("images/{name}{copy}_000{channel}.nii"));
            symlink(from, to).unwrap();
        }
    }
    succeed(
        here,
        &format!("{arguments} -o expected --device cuda"),
        &THREE,
    );
    let expected = files(&here.join("expected"));
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let output = format!("out{code}");
        let arguments = format!("{arguments} -o {output} --device cuda:0,1");
        let mut child = medseg(here, simulator())
            .args(arguments.split_whitespace())
            .envs(THREE)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The first case is written: others are under way.
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        told.find(|line| line.as_ref().unwrap().contains("] wrote "))
            .unwrap()
            .unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        // A reader that stays, so that nobody hears of a closed pipe first.
        let rest = std::thread::spawn(move || told.count());
        assert_eq!(child.wait().unwrap().code(), Some(code));
        rest.join().unwrap();
        let written = files(&here.join(&output));
        assert!(!written.is_empty());
        assert!(written.iter().all(|file| expected.contains(file)));
        succeed(here, &format!("{arguments} --skip-existing"), &THREE);
        assert!(files(&here.join(&output)) == expected);
    }
}

#[test]
fn a_gpu_that_fails_costs_its_case_and_gets_no_other() {
    let (here, arguments) = six_cases();
    let here = here.path();
    let arguments = format!("{arguments} -o out --device cuda:all --report r.json");
    // After the checks of three GPUs, and before any case could be done.
    let faults = [
        THREE[0],
        ("MEDSEG_SIM_FAULT", "launch"),
        ("MEDSEG_SIM_AFTER", "330"),
    ];
    let output = run(here, &arguments, &faults);
    assert_eq!(output.status.code(), Some(3));
    let told = text(&output.stderr);
    assert!(files(&here.join("out")).is_empty());
    let report = json(&here.join("r.json"));
    assert_eq!(of_cases(&report, "case"), ["a", "b", "c", "d", "e", "f"]);
    let devices = of_cases(&report, "device");
    for (device, error) in devices.iter().zip(of_cases(&report, "error")) {
        let start = format!("{device}: images/");
        assert!(error.starts_with(&start), "{error}");
        assert!(
            error.contains("failed: an illegal memory access"),
            "{error}"
        );
    }
    // All fail; the last that is left goes on trying.
    let left = told.lines().filter_map(|line| {
        let device = line.strip_prefix("warning: ")?;
        device.strip_suffix(": gets no further cases, others do them")
    });
    let left: Vec<&str> = left.collect();
    assert!(left.len() < 3, "{told}");
    for device in left {
        assert_eq!(devices.iter().filter(|it| *it == device).count(), 1);
    }
}

#[test]
fn memory_is_divided_and_a_case_that_needs_more_waits_for_it() {
    let (here, arguments) = six_cases();
    let here = here.path();
    let dry = |more: &str| {
        let arguments = format!("{arguments} -o dry --dry-run --device cuda:all {more}");
        text(&succeed(here, &arguments, &THREE).stdout)
    };
    let plan = dry("--memory-limit 3GiB");
    assert_eq!(plan.matches("GiB of 1.00 GiB\n").count(), 6, "{plan}");
    // A part of 10 MiB is less than the program itself takes: then the whole is what a case may take.
    let plan = dry("--memory-limit 30MiB");
    assert_eq!(plan.matches("GiB of 0.03 GiB\n").count(), 6, "{plan}");
    assert!(!here.join("dry").exists());
    succeed(here, &format!("{arguments} -o one --device cuda"), &THREE);
    for (name, limit) in [("two_at_a_time", "30MiB"), ("one_at_a_time", "12MiB")] {
        let arguments = format!(
            "{arguments} -o {name} --device cuda:all --report {name}.json --memory-limit {limit}"
        );
        succeed(here, &arguments, &THREE);
        assert!(
            files(&here.join(name)) == files(&here.join("one")),
            "{name}"
        );
        let report = json(&here.join(format!("{name}.json")));
        let memory = &report["memory"];
        let bytes = |field: &str| memory[field].as_u64().unwrap();
        assert!(bytes("predicted_peak_bytes") > 10 << 20);
        assert!(bytes("predicted_peak_bytes") <= bytes("limit_bytes"));
    }
    let tight = format!("{arguments} -o none --memory-limit 9MiB --device");
    let output = run(here, &format!("{tight} cuda:all"), &THREE);
    assert_eq!(output.status.code(), Some(3));
    let told = |output: &std::process::Output| {
        let told = text(&output.stderr);
        let summary = told.find("6 of 6 cases failed:").unwrap();
        told[summary..].to_owned()
    };
    let alone = run(here, &format!("{tight} cuda"), &THREE);
    assert_eq!(told(&output), told(&alone));
}

#[test]
fn a_gpu_without_memory_for_the_model_is_left_out() {
    let (here, arguments) = six_cases();
    let here = here.path();
    for name in ["c", "d", "e", "f"] {
        for channel in 0..2 {
            std::fs::remove_file(here.join(format!("images/{name}_000{channel}.nii"))).unwrap();
        }
    }
    let arguments = format!("{arguments} -o out --force --device cuda:0,1 --report r.json");
    // The simulated GPUs share one memory: at some sizes it holds the model once, but not twice, or the model twice, but
    // not what two cases take.
    let (mut left_out, mut helped) = (None, None);
    for size in 0..60 {
        let memory = (8000.0 * 1.12_f64.powi(size)) as usize;
        let memory = memory.to_string();
        let settings = [THREE[0], ("MEDSEG_SIM_MEMORY", memory.as_str())];
        let told = text(&succeed(here, &arguments, &settings).stderr);
        let report = json(&here.join("r.json"));
        assert!(of_cases(&report, "status").iter().all(|it| it == "done"));
        let is_of_second = |line: &str| {
            line.starts_with("warning: cuda:1 (Simulated GPU): out of GPU memory")
                && line.ends_with(": left out")
        };
        if told.lines().any(is_of_second) {
            left_out.get_or_insert((told, report));
        } else if told
            .contains(" (Simulated GPU): gets no further cases, others do them: out of GPU memory")
        {
            helped.get_or_insert((told, report));
        }
        if left_out.is_some() && helped.is_some() {
            break;
        }
    }
    let (told, report) = left_out.expect("a memory that holds one copy");
    assert_eq!(
        report["settings"]["device"], "cuda:0 (Simulated GPU)",
        "{told}"
    );
    let devices = of_cases(&report, "device");
    assert!(
        devices
            .iter()
            .all(|device| device == "cuda:0 (Simulated GPU)")
    );
    let (told, report) = helped.expect("a memory that holds two copies and one case");
    assert!(told.contains(": the processor goes on\n"), "{told}");
    let problems = of_cases(&report, "gpu_problem");
    let out_of_memory = |problem: &String| problem.contains("out of GPU memory");
    assert!(problems.iter().any(out_of_memory), "{problems:?}");
}

#[test]
fn one_case_takes_one_gpu() {
    let (here, arguments) = six_cases();
    let here = here.path();
    let model = arguments.split_whitespace().last().unwrap();
    let one = "-i images/a_0000.nii,images/a_0001.nii";
    let arguments = format!("infer {one} -m {model} -o one.nii --device cuda:1,2 --report r.json");
    let told = text(&succeed(here, &arguments, &THREE).stderr);
    assert!(
        told.contains("[1/1] wrote one.nii (") && !told.contains("cuda"),
        "{told}"
    );
    let report = json(&here.join("r.json"));
    assert_eq!(report["settings"]["device"], "cuda:1 (Simulated GPU)");
    assert_eq!(of_cases(&report, "device"), ["cuda:1 (Simulated GPU)"]);
}

#[test]
fn devices_that_are_not_there_are_errors_before_work() {
    let (here, arguments) = six_cases();
    let here = here.path();
    let refuse = |device: &str, settings: &[(&str, &str)], code: i32, expected: &str| {
        let arguments = format!("{arguments} -o x --device {device}");
        let output = run(here, &arguments, settings);
        assert_eq!(output.status.code(), Some(code));
        let told = text(&output.stderr);
        assert!(told.starts_with(expected), "{device}: {told}");
        assert!(!here.join("x").exists());
    };
    let none = [("MEDSEG_SIM_DEVICES", "0")];
    let old = [("MEDSEG_SIM_FAULT", "old")];
    refuse(
        "cuda:1,2,1",
        &THREE,
        2,
        "error: invalid value 'cuda:1,2,1' for '--device <DEVICE>': cuda:1 is named twice\n",
    );
    refuse(
        "cuda:0,",
        &THREE,
        2,
        "error: invalid value 'cuda:0,' for '--device <DEVICE>': expected auto, cpu, cuda, ",
    );
    refuse(
        "cuda:0,3",
        &THREE,
        1,
        "error: --device cuda:0,3: there is no GPU cuda:3: this machine has 3, counted from cuda:0\n",
    );
    refuse(
        "cuda:all",
        &none,
        1,
        "error: --device cuda:all: the NVIDIA driver finds no GPU\n",
    );
    refuse(
        "cuda:all",
        &old,
        1,
        "error: --device cuda:all: cuda:0 (Simulated GPU): has compute capability 6.1, at least 7.5 is needed\n",
    );
    let wrong = [THREE[0], ("MEDSEG_SIM_FAULT", "wrong")];
    for device in ["cuda:all", "cuda:0,1"] {
        refuse(
            device,
            &wrong,
            1,
            "error: cuda:0 (Simulated GPU) computes other numbers than the processor",
        );
    }
}

#[test]
fn a_cascade_runs_both_stages_on_every_gpu() {
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let case = repository("testdata/parity/configurations/cascade");
    std::fs::create_dir(here.join("images")).unwrap();
    for name in ["a", "b", "c", "d"] {
        let link = here.join(format!("images/{name}_0000.nii.gz"));
        symlink(case.join("input/case_0000.nii.gz"), link).unwrap();
    }
    let model = case.join("model/nnUNetTrainer__nnUNetPlans__3d_cascade_fullres");
    for (name, device) in [("one", "cuda"), ("two", "cuda:0,1")] {
        let arguments = format!(
            "infer -i images -m {} --no-mirroring -o {name} --device {device} --report {name}.json",
            model.display()
        );
        succeed(here, &arguments, &THREE);
    }
    assert_eq!(files(&here.join("one")).len(), 4);
    assert!(files(&here.join("one")) == files(&here.join("two")));
    let devices = of_cases(&json(&here.join("two.json")), "device");
    for device in ["cuda:0 (Simulated GPU)", "cuda:1 (Simulated GPU)"] {
        assert!(devices.iter().any(|it| it == device), "{devices:?}");
    }
}

#[test]
fn a_task_is_spread_too() {
    let (here, _) = six_cases();
    let here = here.path();
    let models = here.join("models/Dataset900_Two");
    std::fs::create_dir_all(&models).unwrap();
    let name = "nnUNetTrainer__nnUNetPlans__3d_fullres";
    symlink(
        repository("testdata/model_tiny").join(name),
        models.join(name),
    )
    .unwrap();
    write(
        &here.join("two.toml"),
        b"channels = ['A', 'P']\nlabels = { kidney = 1, tumor = 2 }\nmirroring = false\n[[models]]\nmodel = 900\n",
    );
    let go = |name: &str, device: &str, more: &str, settings: &[(&str, &str)]| {
        let arguments = format!(
            "infer --task two.toml -i images -o {name} --model-dir models --device {device} --statistics {name}.s.json --report {name}.json {more}"
        );
        run(here, &arguments, settings)
    };
    for (name, device) in [("one", "cuda"), ("all", "cuda:all")] {
        let output = go(name, device, "", &THREE);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert_eq!(files(&here.join("one")).len(), 6);
    assert!(files(&here.join("one")) == files(&here.join("all")));
    let statistics = |name: &str| std::fs::read(here.join(format!("{name}.s.json"))).unwrap();
    assert!(statistics("one") == statistics("all"));
    let [one, all] = ["one", "all"].map(|name| json(&here.join(format!("{name}.json"))));
    assert_eq!(of_cases(&one, "case"), of_cases(&all, "case"));
    let devices = of_cases(&all, "device");
    for id in 0..3 {
        let label = format!("cuda:{id} (Simulated GPU)");
        assert!(devices.contains(&label), "{label} did nothing: {devices:?}");
    }
    let plan = text(&go("dry", "cuda:all", "--dry-run --memory-limit 3GiB", &THREE).stdout);
    assert_eq!(plan.matches("GiB of 1.00 GiB\n").count(), 6, "{plan}");
    let wrong = [THREE[0], ("MEDSEG_SIM_FAULT", "wrong")];
    let output = go("wrong", "cuda:all", "", &wrong);
    assert_eq!(output.status.code(), Some(3));
    for error in of_cases(&json(&here.join("wrong.json")), "error") {
        assert!(
            error.contains("computes other numbers than the processor"),
            "{error}"
        );
    }
}

#[test]
fn evaluate_takes_the_first_gpu_and_bench_measures_each() {
    let (here, arguments) = six_cases();
    let here = here.path();
    succeed(
        here,
        &format!("{arguments} -o reference --device cuda"),
        &THREE,
    );
    let model = arguments.split_whitespace().last().unwrap();
    let arguments = format!(
        "evaluate --image images -r reference --model {model} -o scores.json --device cuda:2,0"
    );
    let told = text(&succeed(here, &arguments, &THREE).stderr);
    let note = "note: --device cuda:2,0: evaluate uses one GPU, cuda:2 (Simulated GPU); infer spreads cases over several\n";
    assert!(told.contains(note), "{told}");
    let arguments =
        format!("bench model -m {model} --repeats 1 --device cuda:all --precision fp32 --json");
    let output = succeed(here, &arguments, &THREE);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = result["runs"].as_array().unwrap().iter();
    let devices: Vec<&str> = runs.map(|run| run["device"].as_str().unwrap()).collect();
    let expected = [0, 1, 2].map(|id| format!("cuda:{id} (Simulated GPU)"));
    assert_eq!(devices, expected);
}
