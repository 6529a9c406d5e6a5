//! The program on the simulated GPU: results, memory, and what goes wrong.

use crate::{medseg, run, simulator, succeed, text};
use medseg::io::{Limits, nifti};
use medseg::volume::LabelTable;
use serde_json::Value;
use std::path::Path;

/// The log of the simulator: launches, the most memory in use, and launches of graphs.
fn log(path: &Path) -> [usize; 3] {
    let line = std::fs::read_to_string(path).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        [words[0], words[2], words[4]],
        ["launches", "peak", "graphs"]
    );
    [1, 3, 5].map(|word| words[word].parse().unwrap())
}

fn labels(path: &Path) -> Vec<u16> {
    let (map, _) = nifti::read_label_map(path, LabelTable::default(), &Limits::UNLIMITED).unwrap();
    map.volume.as_slice().to_vec()
}

/// Part of the voxels that differ; the first must hold several labels.
fn difference(first: &Path, second: &Path) -> f64 {
    let (a, b) = (labels(first), labels(second));
    assert!(a.iter().any(|&label| label > 0), "no label was found");
    let different = a.iter().zip(&b).filter(|(a, b)| a != b).count();
    different as f64 / a.len() as f64
}

/// A folder with `ct.nii`, `pet.nii` and `cpu.nii`, what the processor makes of them with a model that mirrors, and
/// the arguments that segment them.
fn mirrored_case() -> (tempfile::TempDir, String) {
    let here = tempfile::tempdir().unwrap();
    for (name, seed) in [("ct", 1), ("pet", 2)] {
        let arguments =
            format!("phantom -o {name}.nii --size 20,18,16 --spacing 2,2,3 --seed {seed}");
        succeed(here.path(), &arguments, &[]);
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/model_tiny/nnUNetTrainer__nnUNetPlans__3d_fullres");
    let arguments = format!("infer -i ct.nii,pet.nii -m {}", model.display());
    succeed(
        here.path(),
        &format!("{arguments} -o cpu.nii --device cpu"),
        &[],
    );
    (here, arguments)
}

#[test]
fn a_gpu_finds_what_the_processor_finds() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    for (precision, allowed) in [
        ("fp32", 1e-4),
        ("tf32", 0.02),
        ("fp16", 0.02),
        ("bf16", 0.05),
    ] {
        let arguments = format!(
            "{arguments} -o {precision}.nii --device cuda --precision {precision} --report r.json"
        );
        succeed(here, &arguments, &[("MEDSEG_SIM_LOG", "log")]);
        let part = difference(
            &here.join("cpu.nii"),
            &here.join(format!("{precision}.nii")),
        );
        assert!(part <= allowed, "{precision}: {part}");
        assert!(log(&here.join("log"))[0] > 100);
        let report: Value =
            serde_json::from_slice(&std::fs::read(here.join("r.json")).unwrap()).unwrap();
        assert_eq!(report["settings"]["device"], "cuda:0 (Simulated GPU)");
        assert_eq!(report["settings"]["versions"], "CUDA 13.0, cuDNN 9.10.0");
        assert_eq!(report["settings"]["precision"], precision);
        assert!(!report["warnings"].to_string().contains("processor"));
    }
}

#[test]
fn a_gpu_is_taken_where_there_is_one_and_not_spoken_of() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    let none = [("MEDSEG_SIM_DEVICES", "0")];
    let go = |name: &str, more: &str, settings: &[(&str, &str)]| {
        let arguments = format!("{arguments} -o {name}.nii --device auto {more}");
        text(&succeed(here, &arguments, settings).stderr)
    };
    let with = go("gpu", "", &[("MEDSEG_SIM_LOG", "log")]);
    assert!(log(&here.join("log"))[0] > 100);
    let without = go("none", "", &none);
    for told in [with, without] {
        assert!(!told.contains("device") && !told.contains("GPU"), "{told}");
    }
    let read = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert_eq!(read("none.nii"), read("cpu.nii"));
    // Nobody gets a GPU unasked.
    let log_file = [("MEDSEG_SIM_LOG", "unasked")];
    succeed(here, &format!("{arguments} -o unasked.nii"), &log_file);
    assert!(!here.join("unasked").exists());
    assert_eq!(read("unasked.nii"), read("cpu.nii"));
    let told = go("v", "-v", &none);
    assert!(
        told.contains("device cpu: the NVIDIA driver finds no GPU"),
        "{told}"
    );
    let told = go("w", "-v", &[]);
    assert!(
        told.contains("device cuda:0 (Simulated GPU), CUDA 13.0, cuDNN 9.10.0"),
        "{told}"
    );
    // An instruction set is the processor's.
    let told = go("x", "-v --isa scalar", &[]);
    assert!(
        told.contains("device cpu: an instruction set was asked for"),
        "{told}"
    );
}

#[test]
fn short_memory_halves_the_passes_and_never_loses_a_case() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    let read = |name: &str| std::fs::read(here.join(name)).unwrap();
    let gpu = |name: &str, memory: usize| {
        let memory = memory.to_string();
        let arguments = format!("{arguments} -o {name}.nii --device cuda");
        let settings = [
            ("MEDSEG_SIM_LOG", "log"),
            ("MEDSEG_SIM_MEMORY", memory.as_str()),
        ];
        let output = succeed(here, &arguments, &settings);
        (log(&here.join("log")), text(&output.stderr))
    };
    let (full, _) = gpu("full", 8 << 30);
    assert!(difference(&here.join("cpu.nii"), &here.join("full.nii")) <= 1e-4);
    // Fewer tiles together, fewer passes of each, and at last sums on the host: more launches, always the same voxels.
    let mut launches = full[0];
    for (name, percent) in [("fewer", 70), ("one", 40), ("four", 15), ("two", 8)] {
        let limit = full[1] * percent / 100;
        let (found, told) = gpu(name, limit);
        assert!(
            found[1] <= limit && found[0] > launches,
            "{name}: {found:?} {full:?}"
        );
        launches = found[0];
        assert!(!told.contains("goes on"), "{told}");
        assert_eq!(read(&format!("{name}.nii")), read("full.nii"), "{name}");
    }
    let (found, told) = gpu("host", full[1] / 20);
    assert!(found[0] > 100 && found[0] < launches, "{found:?}");
    assert!(!told.contains("goes on"), "{told}");
    assert_eq!(read("host.nii"), read("full.nii"));
    // Not even the weights fit: the processor does it, and it is said.
    let (_, told) = gpu("none", 1 << 16);
    assert!(
        told.contains("warning: cuda:0 (Simulated GPU): out of GPU memory"),
        "{told}"
    );
    assert!(told.contains("the processor goes on"), "{told}");
    assert_eq!(read("none.nii"), read("cpu.nii"));
    // cuDNN itself may find out that memory is short.
    let short = [("MEDSEG_SIM_FAULT", "memory")];
    let output = succeed(
        here,
        &format!("{arguments} -o inner.nii --device cuda"),
        &short,
    );
    assert!(
        !text(&output.stderr).contains("goes on"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(read("inner.nii"), read("full.nii"));
}

#[test]
fn a_gpu_that_computes_something_else_is_not_believed() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    let wrong = [("MEDSEG_SIM_FAULT", "wrong")];
    for precision in ["fp32", "tf32", "fp16", "bf16"] {
        let arguments = format!("{arguments} -o wrong.nii --device cuda --precision {precision}");
        let output = run(here, &arguments, &wrong);
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        assert!(
            told.contains("error: cuda:0 (Simulated GPU) computes other numbers than the processor: relative difference"),
            "{told}"
        );
        assert!(!here.join("wrong.nii").exists());
    }
    let output = succeed(
        here,
        &format!("{arguments} -o auto.nii --device auto"),
        &wrong,
    );
    let told = text(&output.stderr);
    assert!(told.contains("warning: cuda:0 (Simulated GPU)"), "{told}");
    assert!(told.contains("the processor goes on"), "{told}");
    assert_eq!(
        std::fs::read(here.join("auto.nii")).unwrap(),
        std::fs::read(here.join("cpu.nii")).unwrap()
    );
}

#[test]
fn a_gpu_that_fails_while_it_runs_costs_a_case_only_where_it_was_insisted_on() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    let fails = [("MEDSEG_SIM_FAULT", "launch")];
    let output = run(
        here,
        &format!("{arguments} -o stop.nii --device cuda"),
        &fails,
    );
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains("Launch")
            && told.contains(" failed: an illegal memory access was encountered (code 700)"),
        "{told}"
    );
    assert!(!here.join("stop.nii").exists());
    let output = succeed(
        here,
        &format!("{arguments} -o auto.nii --device auto"),
        &fails,
    );
    assert!(
        text(&output.stderr).contains("the processor goes on"),
        "{}",
        text(&output.stderr)
    );
    assert!(difference(&here.join("cpu.nii"), &here.join("auto.nii")) <= 1e-4);
    // Whenever it fails, also while it is waited for: what it finished is kept.
    for after in ["40", "120", "150", "170", "190"] {
        for fault in ["launch", "late"] {
            let settings = [("MEDSEG_SIM_FAULT", fault), ("MEDSEG_SIM_AFTER", after)];
            let arguments = format!("{arguments} -o later.nii --device auto --force");
            let output = succeed(here, &arguments, &settings);
            let told = text(&output.stderr);
            assert!(
                told.contains("the processor goes on"),
                "{fault} {after}: {told}"
            );
            assert!(difference(&here.join("cpu.nii"), &here.join("later.nii")) <= 1e-4);
        }
    }
}

#[test]
fn work_that_cannot_be_recorded_is_queued_one_by_one() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    let go = |name: &str, fault: &str| {
        let settings = [("MEDSEG_SIM_LOG", "log"), ("MEDSEG_SIM_FAULT", fault)];
        succeed(
            here,
            &format!("{arguments} -o {name} --device cuda"),
            &settings,
        );
        (
            log(&here.join("log")),
            std::fs::read(here.join(name)).unwrap(),
        )
    };
    let ([launches, _, graphs], recorded) = go("recorded.nii", "none");
    let ([same, _, none], plain) = go("plain.nii", "capture");
    assert!(graphs > 0);
    assert_eq!((same, none), (launches, 0));
    assert_eq!(recorded, plain);
}

#[test]
fn what_cudnn_cannot_do_is_done_another_way() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    for (fault, precision) in [
        ("layout", "fp16"),
        ("layout_first", "fp32"),
        ("promise", "fp32"),
        ("promise", "fp16"),
    ] {
        let name = format!("{fault}_{precision}.nii");
        let arguments = format!("{arguments} -o {name} --device cuda --precision {precision}");
        let output = succeed(here, &arguments, &[("MEDSEG_SIM_FAULT", fault)]);
        assert!(
            !text(&output.stderr).contains("goes on"),
            "{}",
            text(&output.stderr)
        );
        let allowed = if precision == "fp32" { 1e-4 } else { 0.02 };
        let part = difference(&here.join("cpu.nii"), &here.join(&name));
        assert!(part <= allowed, "{name}: {part}");
    }
}

#[test]
fn a_gpu_that_cannot_be_used_is_explained_or_passed_over() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    type Case = (
        &'static str,
        [(&'static str, &'static str); 1],
        &'static str,
    );
    let cases: [Case; 4] = [
        (
            "cuda",
            [("MEDSEG_SIM_FAULT", "old")],
            "error: --device cuda: cuda:0 (Simulated GPU): has compute capability 6.1, at least 7.5 is needed",
        ),
        (
            "cuda:0",
            [("MEDSEG_SIM_FAULT", "ptx")],
            "error: --device cuda:0: cuda:0 (Simulated GPU): cuModuleLoadData failed: the provided PTX was compiled with an unsupported toolchain. (code 222)",
        ),
        (
            "cuda",
            [("MEDSEG_SIM_DEVICES", "0")],
            "error: --device cuda: the NVIDIA driver finds no GPU",
        ),
        (
            "cuda:2",
            [("MEDSEG_SIM_DEVICES", "2")],
            "error: --device cuda:2: there is no GPU cuda:2: this machine has 2, counted from cuda:0",
        ),
    ];
    for (device, setting, expected) in cases {
        let output = run(
            here,
            &format!("{arguments} -o x.nii --device {device}"),
            &setting,
        );
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stderr).trim_end(), expected);
        if device != "cuda:2" {
            let output = succeed(
                here,
                &format!("{arguments} -o auto.nii --device auto --force"),
                &setting,
            );
            assert!(
                !text(&output.stderr).contains("goes on"),
                "{}",
                text(&output.stderr)
            );
            assert_eq!(
                std::fs::read(here.join("auto.nii")).unwrap(),
                std::fs::read(here.join("cpu.nii")).unwrap()
            );
        }
    }
    // A precision of GPUs only.
    let output = run(here, &format!("{arguments} -o x.nii --precision fp16"), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no GPU was asked for"));
    let output = run(
        here,
        &format!("{arguments} -o x.nii --device auto --precision fp16"),
        &[("MEDSEG_SIM_DEVICES", "0")],
    );
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    assert!(told.contains("--precision fp16 is for GPUs, and the network runs on the processor (the NVIDIA driver finds no GPU)"), "{told}");
    let output = run(here, &format!("{arguments} -o x.nii --device gpu"), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("expected auto, cpu, cuda, cuda:N, cuda:N,M or cuda:all")
    );
}

#[test]
fn missing_and_broken_libraries_are_named() {
    let (here, arguments) = mirrored_case();
    let here = here.path();
    let libraries = here.join("libraries");
    medseg::io::atomic::create_folder(&libraries).unwrap();
    let insist = |expected: &[&str]| {
        let mut command = medseg(here, &libraries);
        let output = command
            .args(format!("{arguments} -o x.nii --device cuda").split_whitespace())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        for part in expected {
            assert!(told.contains(part), "{told}");
        }
        let mut command = medseg(here, &libraries);
        let output = command
            .args(format!("{arguments} -o auto.nii --device auto --force").split_whitespace())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(
            !text(&output.stderr).contains("goes on"),
            "{}",
            text(&output.stderr)
        );
    };
    let put = |name: &str, bytes: &[u8]| {
        medseg::io::atomic::write(&libraries.join(name), medseg::io::Overwrite::Force, bytes)
            .unwrap();
    };
    // Stands before any driver of the machine.
    put("libcuda.so.1", b"no library");
    insist(&["error: --device cuda: no NVIDIA driver: ", "libcuda.so.1"]);
    let driver = std::fs::read(simulator().join("libcuda.so.1")).unwrap();
    put("libcuda.so.1", &driver);
    put("libcudnn.so.9", b"no library");
    insist(&[
        "error: --device cuda: no cuDNN 9: ",
        "libcudnn.so.9",
        "LD_LIBRARY_PATH",
    ]);
    // Another library under the name: it has none of the functions.
    put("libcudnn.so.9", &driver);
    insist(&["error: --device cuda: no cuDNN 9: libcudnn.so.9 has no function cudnnGetVersion"]);
}

#[test]
fn the_program_needs_no_library_of_nvidia_to_start() {
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_medseg")).unwrap();
    let output = std::process::Command::new("ldd")
        .arg(env!("CARGO_BIN_EXE_medseg"))
        .output();
    if let Ok(output) = output {
        let needed = text(&output.stdout).to_lowercase();
        assert!(
            !needed.contains("cuda") && !needed.contains("cudnn") && !needed.contains("nvidia"),
            "{needed}"
        );
    }
    // It does look for them later.
    let name = b"libcudnn.so.9";
    assert!(bytes.windows(name.len()).any(|window| window == name));
}

#[test]
fn info_lists_devices_and_what_is_missing() {
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let list = |settings: &[(&str, &str)]| -> Value {
        let output = succeed(here, "info --devices --json", settings);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let found = list(&[("MEDSEG_SIM_DEVICES", "2")]);
    assert_eq!(found["driver"], "13.0");
    assert_eq!(found["cudnn"], "9.10.0");
    assert_eq!(found["devices"][0]["device"], "cpu");
    let second = &found["devices"][2];
    assert_eq!(second["device"], "cuda:1");
    assert_eq!(second["name"], "Simulated GPU");
    assert_eq!(second["compute_capability"], "9.0");
    assert_eq!(second["memory_bytes"], 8_u64 << 30);
    assert_eq!(second["free_bytes"], 8_u64 << 30);
    assert_eq!(second["usable"], true);
    let old = list(&[("MEDSEG_SIM_FAULT", "old")]);
    assert_eq!(old["devices"][1]["usable"], false);
    assert!(
        old["devices"][1]["problem"]
            .as_str()
            .unwrap()
            .contains("6.1")
    );
    let none = list(&[("MEDSEG_SIM_DEVICES", "0")]);
    assert_eq!(none["devices"].as_array().unwrap().len(), 1);
    assert_eq!(none["driver_problem"], "the NVIDIA driver finds no GPU");
    let lines = succeed(here, "info --devices", &[]);
    let lines = text(&lines.stdout);
    assert!(
        lines.contains("cuda:0: Simulated GPU, 8.0 GiB, usable, 8.0 GiB free\n"),
        "{lines}"
    );
    assert!(
        lines.contains("NVIDIA driver: CUDA 13.0\ncuDNN: 9.10.0\n"),
        "{lines}"
    );
    assert_eq!(
        run(here, "info --devices x.nii", &[]).status.code(),
        Some(2)
    );
}

#[test]
fn bench_measures_a_gpu() {
    let here = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/model_tiny/nnUNetTrainer__nnUNetPlans__3d_fullres");
    let bench = format!(
        "bench model -m {} --repeats 1 --device cuda",
        model.display()
    );
    let output = succeed(here.path(), &format!("{bench} --json"), &[]);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = result["runs"].as_array().unwrap();
    let precisions: Vec<&str> = runs
        .iter()
        .map(|run| run["precision"].as_str().unwrap())
        .collect();
    assert_eq!(precisions, ["fp32", "tf32", "bf16", "fp16"]);
    for run in runs {
        assert_eq!(run["device"], "cuda:0 (Simulated GPU)");
        assert!(run["median_ms"].as_f64().unwrap() > 0.0);
        assert!(run["activation_bytes"].as_u64().unwrap() > 1 << 12);
    }
    assert!(result["multiply_adds"].as_u64().unwrap() == 802_560);
    let arguments = format!("{bench} --precision fp16");
    let table = text(&succeed(here.path(), &arguments, &[]).stdout);
    assert!(table.contains("cuda:0 (Simulated GPU) fp16: "), "{table}");
    // Kernels under development.
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nn/cuda/kernels.cu");
    let compiled = format!("{bench} --precision fp32 --kernels {}", kernels.display());
    let table = text(&succeed(here.path(), &compiled, &[]).stdout);
    assert!(table.contains("cuda:0 (Simulated GPU) fp32: "), "{table}");
    medseg::io::atomic::write(
        &here.path().join("bad.cu"),
        medseg::io::Overwrite::Force,
        b"#error",
    )
    .unwrap();
    let output = run(here.path(), &format!("{bench} --kernels bad.cu"), &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("--kernels bad.cu"), "{told}");
    assert!(told.contains("the kernels do not compile: "), "{told}");
    assert!(told.contains("kernels.cu(1): error"), "{told}");
    let output = run(here.path(), "bench model --kernels bad.cu", &[]);
    assert_eq!(output.status.code(), Some(2));
}
