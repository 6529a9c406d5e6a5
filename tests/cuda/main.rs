//! The network on a GPU: on a simulated one (`driver.cpp`, `dnn.cpp`), which every machine has, and on a real one
//! (`cargo test --release --test cuda -- --ignored`).

#[path = "../parity_nn/fixture.rs"]
mod fixture;
mod networks;
mod real;
mod several;
mod simulated;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The folder of the simulated libraries, compiled on the first call.
fn simulator() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulated_gpu");
        medseg::io::atomic::create_folder(&folder).unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda");
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nn/cuda/kernels.ptx");
        for (source, library) in [
            ("driver.cpp", "libcuda.so.1"),
            ("dnn.cpp", "libcudnn.so.9"),
            ("nvrtc.cpp", "libnvrtc.so.13"),
        ] {
            let output = Command::new("c++")
                // Sums round after the product, as the GPU is told to.
                .args([
                    "-std=c++17",
                    "-O3",
                    "-ffp-contract=off",
                    "-shared",
                    "-fPIC",
                    "-pthread",
                ])
                .arg(format!("-DKERNELS_PTX=\"{}\"", kernels.display()))
                .arg("-o")
                .arg(folder.join(library))
                .arg(format!("-Wl,-soname,{library}"))
                .arg(sources.join(source))
                // The simulated cuDNN queues its work in the simulated driver.
                .args((library != "libcuda.so.1").then(|| folder.join("libcuda.so.1")))
                .output()
                .expect("these tests need a C++ compiler called c++");
            assert!(
                output.status.success(),
                "{source}: {}",
                text(&output.stderr)
            );
        }
        folder
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The program in `folder` with libraries from `libraries`.
fn medseg(folder: &Path, libraries: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medseg"));
    command
        .current_dir(folder)
        .env("MEDSEG_NO_PROGRESS", "1")
        .env("LD_LIBRARY_PATH", libraries)
        .env_remove("MEDSEG_THREADS")
        .env_remove("MEDSEG_ISA")
        .env_remove("MEDSEG_MEMORY_LIMIT")
        .env_remove("MEDSEG_MODELS");
    command
}

/// Runs the program on the simulated GPU with such settings of the simulator.
fn run(folder: &Path, arguments: &str, settings: &[(&str, &str)]) -> Output {
    medseg(folder, simulator())
        .args(arguments.split_whitespace())
        .envs(settings.iter().copied())
        .output()
        .expect("the program starts")
}

/// The same, which must end with exit code 0.
fn succeed(folder: &Path, arguments: &str, settings: &[(&str, &str)]) -> Output {
    let output = run(folder, arguments, settings);
    let code = output.status.code();
    assert_eq!(
        code,
        Some(0),
        "medseg {arguments}: {}",
        text(&output.stderr)
    );
    output
}
