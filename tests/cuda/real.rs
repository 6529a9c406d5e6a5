//! On the GPU of this machine, with its own driver and cuDNN. One test at a time: one of them takes nearly all memory.

use crate::networks::check_logits;
use medseg::io::{Limits, nifti};
use medseg::nn::cuda::{Arithmetic, Gpu};
use medseg::volume::LabelTable;
use std::ffi::{CStr, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The GPU for one test.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN 9"]
fn real_logits_agree_with_pytorch_in_every_arithmetic() {
    let _turn = turn();
    let gpu = Gpu::first().unwrap();
    println!("{} {}", gpu.label(), gpu.versions());
    assert!(
        !gpu.label().contains("Simulated"),
        "run these tests by themselves"
    );
    let tolerances = [
        (Arithmetic::Fp32, 4e-6),
        (Arithmetic::Tf32, 1e-2),
        (Arithmetic::Fp16, 1e-2),
        (Arithmetic::Bf16, 8e-2),
    ];
    check_logits(&gpu, tolerances);
}

/// Runs the program with the libraries of this machine.
fn succeed(folder: &Path, arguments: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_medseg"))
        .current_dir(folder)
        .env("MEDSEG_NO_PROGRESS", "1")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "medseg {arguments}: {told}");
    assert!(!told.contains("warning"), "medseg {arguments}: {told}");
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN 9"]
fn real_label_maps_are_those_of_the_processor() {
    let _turn = turn();
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    succeed(here, "phantom -o ct.nii --size 120,110,90 --spacing 3,3,3");
    succeed(here, "infer -i ct.nii -o cpu.nii --device cpu");
    let labels = |name: &str| -> Vec<u16> {
        let path = here.join(name);
        let (map, _) =
            nifti::read_label_map(&path, LabelTable::default(), &Limits::UNLIMITED).unwrap();
        map.volume.as_slice().to_vec()
    };
    let expected = labels("cpu.nii");
    for (precision, allowed) in [
        ("fp32", 1e-5),
        ("tf32", 1e-3),
        ("fp16", 1e-3),
        ("bf16", 5e-3),
    ] {
        succeed(
            here,
            &format!("infer -i ct.nii -o {precision}.nii --device cuda --precision {precision}"),
        );
        let found = labels(&format!("{precision}.nii"));
        let different = expected.iter().zip(&found).filter(|(a, b)| a != b).count();
        let part = different as f64 / expected.len() as f64;
        println!(
            "{precision}: {different} of {} voxels differ",
            expected.len()
        );
        assert!(part <= allowed, "{precision}: {part}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN 9"]
fn real_gpus_together_give_the_bytes_of_one() {
    let _turn = turn();
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    for seed in 1..9 {
        let arguments =
            format!("phantom -o images/{seed}.nii --size 40,36,32 --spacing 2,2,2 --seed {seed}");
        std::fs::create_dir_all(here.join("images")).unwrap();
        succeed(here, &arguments);
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(
        "testdata/parity/configurations/residual/model/nnUNetTrainer__nnUNetPlans__3d_fullres",
    );
    for (name, device) in [("one", "cuda"), ("all", "cuda:all")] {
        let arguments = format!(
            "infer -i images -m {} -o {name} --device {device} --report {name}.json",
            model.display()
        );
        succeed(here, &arguments);
    }
    for seed in 1..9 {
        let read = |name: &str| std::fs::read(here.join(format!("{name}/{seed}.nii.gz"))).unwrap();
        assert!(read("one") == read("all"), "{seed}: other bytes");
    }
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(here.join("all.json")).unwrap()).unwrap();
    for case in report["cases"].as_array().unwrap() {
        println!("{}: {}", case["case"], case["device"]);
    }
}

/// Memory of GPU 0 that nobody else gets.
struct Taken {
    bytes: usize,
    address: u64,
    free: extern "C" fn(u64) -> i32,
}

impl Drop for Taken {
    fn drop(&mut self) {
        (self.free)(self.address);
    }
}

/// Takes all memory of GPU 0 but so many bytes.
fn take_all_but(bytes: usize) -> Taken {
    // SAFETY: the library is NVIDIA's driver; see `function`.
    let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    let function = |name: &CStr| {
        // SAFETY: the handle is open, the name ends with NUL.
        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
        assert!(!address.is_null(), "{name:?}");
        address
    };
    let (mut context, mut free, mut total, mut address) = (std::ptr::null_mut(), 0, 0, 0);
    // SAFETY: the signatures are those of cuda.h; every pointer leads to one value of the type that is written.
    unsafe {
        let init: extern "C" fn(u32) -> i32 = std::mem::transmute(function(c"cuInit"));
        let retain: extern "C" fn(*mut *mut c_void, i32) -> i32 =
            std::mem::transmute(function(c"cuDevicePrimaryCtxRetain"));
        let enter: extern "C" fn(*mut c_void) -> i32 =
            std::mem::transmute(function(c"cuCtxSetCurrent"));
        let info: extern "C" fn(*mut usize, *mut usize) -> i32 =
            std::mem::transmute(function(c"cuMemGetInfo_v2"));
        let allocate: extern "C" fn(*mut u64, usize) -> i32 =
            std::mem::transmute(function(c"cuMemAlloc_v2"));
        let give_back: extern "C" fn(u64) -> i32 = std::mem::transmute(function(c"cuMemFree_v2"));
        assert_eq!(init(0), 0);
        assert_eq!(retain(&raw mut context, 0), 0);
        assert_eq!(enter(context), 0);
        assert_eq!(info(&raw mut free, &raw mut total), 0);
        let taken = free.saturating_sub(bytes);
        assert_eq!(allocate(&raw mut address, taken), 0);
        Taken {
            bytes: taken,
            address,
            free: give_back,
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN 9"]
fn real_memory_that_is_nearly_all_taken_loses_no_case() {
    let _turn = turn();
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    succeed(here, "phantom -o ct.nii --size 64,64,48 --spacing 5,5,5");
    let taken = take_all_but(2 << 30);
    println!("{} GiB taken", taken.bytes >> 30);
    for precision in ["fp32", "fp16"] {
        succeed(
            here,
            &format!("infer -i ct.nii -o {precision}.nii --device cuda:0 --precision {precision}"),
        );
        assert!(here.join(format!("{precision}.nii")).exists());
    }
}
