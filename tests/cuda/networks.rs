//! Networks on the simulated GPU against PyTorch's logits, with the tolerances of the processor's own test.

use crate::fixture::{FIXTURES, load, mirrored};
use crate::simulator;
use medseg::nn::cuda::{self, Arithmetic, Gpu, Level, Logits, Sums, SumsForm};
use medseg::nn::{Error, Network};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::slice::from_ref;

/// The simulated GPU in this process: libraries that are loaded already are found by their names.
fn gpu() -> Gpu {
    for library in ["libcuda.so.1", "libcudnn.so.9"] {
        let path = simulator().join(library);
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends with NUL; the library's initialisers only make maps.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null());
    }
    let gpu = Gpu::open(0).unwrap();
    assert_eq!(gpu.label(), "cuda:0 (Simulated GPU)");
    gpu
}

/// Largest difference as a fraction of the largest expected number.
pub fn worst(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
    let pairs = found.iter().zip(expected);
    let differences = pairs.map(|(a, b)| (a - b).abs());
    let worse = |most: f32, d: f32| if d > most || d.is_nan() { d } else { most };
    differences.fold(0f32, worse) / largest
}

/// Runs every fixture on `gpu` in every arithmetic, three times: the second run finds the first one's leftovers and is
/// recorded, the third repeats the recording. All must give the same logits, within the tolerance of PyTorch's. Returns
/// how far each is from them.
pub fn check_logits(
    gpu: &Gpu,
    tolerances: [(Arithmetic, f32); 4],
) -> Vec<(&'static str, Arithmetic, f32)> {
    let mut distances = Vec::new();
    for name in FIXTURES {
        let case = load(name);
        let host = Network::new(&case.spec, &case.weights).unwrap();
        for (arithmetic, tolerance) in tolerances {
            let network =
                cuda::Network::checked(gpu, &host, &case.weights, arithmetic, case.patch).unwrap();
            let mut executor = cuda::Executor::new(from_ref(&network), case.patch, &[[false; 3]]);
            let mut run = || {
                let mut logits = vec![f32::NAN; case.logits.len()];
                executor.run(0, &case.input, &mut logits).unwrap();
                logits
            };
            let (first, second, third) = (run(), run(), run());
            assert!(
                first == second && second == third,
                "{name} {arithmetic:?}: runs differ"
            );
            let worst = worst(&third, &case.logits);
            println!("{name} {}: {worst:.1e}", arithmetic.name());
            assert!(worst <= tolerance, "{name} {arithmetic:?}: {worst:e}");
            distances.push((name, arithmetic, worst));
        }
    }
    distances
}

#[test]
fn logits_agree_with_pytorch_in_every_arithmetic() {
    // As for the processor; PyTorch's own fp32 differs by up to 2e-6. The others round every layer's numbers.
    let tolerances = [
        (Arithmetic::Fp32, 2e-6),
        (Arithmetic::Tf32, 5e-3),
        (Arithmetic::Fp16, 5e-3),
        (Arithmetic::Bf16, 4e-2),
    ];
    for (name, arithmetic, worst) in check_logits(&gpu(), tolerances) {
        // Rounding shows: the arithmetic is not fp32 by mistake.
        assert!(
            arithmetic == Arithmetic::Fp32 || worst > 1e-5,
            "{name} {arithmetic:?}"
        );
    }
}

#[test]
fn mirrored_passes_are_averaged_as_on_the_processor() {
    let gpu = gpu();
    let flips: Vec<[bool; 3]> = (0..8)
        .map(|bits| std::array::from_fn(|axis| bits >> axis & 1 == 1))
        .collect();
    for name in ["aniso", "flat", "residual"] {
        let case = load(name);
        let host = Network::new(&case.spec, &case.weights).unwrap();
        let mut on_host = host.executor(case.patch).unwrap();
        let mut expected = vec![0.0; case.logits.len()];
        for &flip in &flips {
            let mut one = vec![0.0; case.logits.len()];
            on_host
                .run(&mirrored(&case.input, case.patch, flip), &mut one)
                .unwrap();
            let one = mirrored(&one, case.patch, flip);
            expected
                .iter_mut()
                .zip(one)
                .for_each(|(sum, one)| *sum += one / 8.0);
        }
        let network =
            cuda::Network::checked(&gpu, &host, &case.weights, Arithmetic::Fp32, case.patch)
                .unwrap();
        let mut executor = cuda::Executor::new(from_ref(&network), case.patch, &flips);
        let mut logits = vec![f32::NAN; case.logits.len()];
        executor.run(0, &case.input, &mut logits).unwrap();
        assert_eq!(executor.batch(), [1, 8]);
        let worst = worst(&logits, &expected);
        assert!(worst < 2e-6, "{name}: {worst:e}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_blamed_on_input_or_layer() {
    let gpu = gpu();
    let case = load("iso");
    let host = Network::new(&case.spec, &case.weights).unwrap();
    let network =
        |weights| cuda::Network::checked(&gpu, &host, weights, Arithmetic::Fp32, case.patch);
    let good = network(&case.weights).unwrap();
    let mut logits = vec![0.0; case.logits.len()];
    let mut input = case.input.clone();
    input[17] = f32::NAN;
    let mut executor = cuda::Executor::new(from_ref(&good), case.patch, &[[false; 3]]);
    let error = executor.run(0, &input, &mut logits).unwrap_err();
    assert!(matches!(error, Error::InputNotFinite), "{error}");
    // And a good patch afterwards is as good as ever.
    executor.run(0, &case.input, &mut logits).unwrap();
    assert!(worst(&logits, &case.logits) < 2e-6);

    let mut broken = case.weights.clone();
    let name = "encoder.stages.1.0.convs.0";
    broken.get_mut(&format!("{name}.conv.weight")).unwrap().data[5] = f32::INFINITY;
    let error = network(&broken).err().unwrap();
    assert!(
        matches!(&error, Error::LayerNotFinite { layer } if layer == name),
        "{error}"
    );
}

#[test]
fn weights_of_another_network_are_noticed() {
    let gpu = gpu();
    let case = load("wide");
    let host = Network::new(&case.spec, &case.weights).unwrap();
    let layers = [
        "encoder.stages.0.0.convs.0.conv",
        "decoder.transpconvs.0",
        "decoder.stages.0.convs.0.conv",
    ];
    let all = [
        Arithmetic::Fp32,
        Arithmetic::Tf32,
        Arithmetic::Fp16,
        Arithmetic::Bf16,
    ];
    for arithmetic in all {
        let mut noticed = 0;
        for layer in layers {
            let mut other = case.weights.clone();
            let tensor = other.get_mut(&format!("{layer}.weight")).unwrap();
            tensor.data.reverse();
            let made = cuda::Network::checked(&gpu, &host, &other, arithmetic, case.patch);
            if let Err(error) = made {
                let error = error.to_string();
                assert!(
                    error.contains("computes other numbers than the processor"),
                    "{error}"
                );
                noticed += 1;
            }
        }
        // Of three wrong layers one may hide in the noise of 8 bits.
        let expected = if arithmetic == Arithmetic::Bf16 { 2 } else { 3 };
        assert!(noticed >= expected, "{arithmetic:?}: {noticed}");
    }
}

#[test]
fn places_that_no_tile_reaches_are_background_or_an_error() {
    let gpu = gpu();
    let case = load("iso");
    let host = Network::new(&case.spec, &case.weights).unwrap();
    let network =
        cuda::Network::checked(&gpu, &host, &case.weights, Arithmetic::Fp32, case.patch).unwrap();
    let mut executor = cuda::Executor::new(from_ref(&network), case.patch, &[[false; 3]]);
    let [depth, height, width] = case.patch;
    let voxels = depth * height * width;
    let classes = case.logits.len() / voxels;
    let background: Vec<f32> = (0..classes).map(|class| class as f32 - 0.5).collect();
    let importance = vec![2.0; voxels];
    // The right half of an image that is wider than its only tile.
    let mut form = SumsForm {
        half: false,
        image: [height, 2 * width],
        region: [0..height, width / 2..2 * width],
        finished: depth,
        tiles: 1,
        importance: &importance,
        background: Some(&background),
    };
    let mut image = vec![0.0; case.input.len() * 2];
    for (to, from) in image.chunks_mut(2 * width).zip(case.input.chunks(width)) {
        to[..width].copy_from_slice(from);
    }
    let level = Level {
        channels: image.chunks(2 * voxels).collect(),
        offset: [0; 3],
        first: 0,
        tiles: vec![[0, 0]],
        finished: 0..depth,
    };
    let across = 2 * width - width / 2;
    for is_air in [true, false] {
        let mut sums = Sums::new(&mut executor, &form).unwrap();
        sums.queue(&mut executor, &level).unwrap();
        while let Some(waited) = sums.wait_for_some() {
            waited.unwrap();
        }
        let mut slice = vec![f32::NAN; classes * height * across];
        for z in 0..depth {
            let finite = sums.read(0, z, Logits::Single(&mut slice)).unwrap();
            assert_eq!(finite, is_air);
            for (index, &found) in slice.iter().enumerate() {
                let (class, x) = (index / across / height, index % across + width / 2);
                let y = index / across % height;
                if x < width {
                    let place = ((class * depth + z) * height + y) * width + x;
                    assert!((found - case.logits[place]).abs() < 1e-4);
                } else if is_air {
                    assert_eq!(found, background[class]);
                } else {
                    assert!(found.is_nan());
                }
            }
        }
        form.background = None;
    }
    // Room of another type or size is refused.
    let mut sums = Sums::new(&mut executor, &form).unwrap();
    sums.queue(&mut executor, &level).unwrap();
    let mut short = vec![0.0; 3];
    assert!(sums.read(0, 0, Logits::Single(&mut short)).is_err());
    let mut halves = vec![half::f16::ZERO; classes * height * across];
    assert!(sums.read(0, 0, Logits::Half(&mut halves)).is_err());
}
