//! Whole networks against PyTorch: fixtures made by `testdata/nn_make.py` (versions and seed there).

#[path = "parity_nn/fixture.rs"]
mod fixture;

use fixture::{FIXTURES, load, mirrored};
use medseg::nn::arch::UnetSpec;
use medseg::nn::{Compute, Error, Isa, Network, Precision};

/// Largest error of a logit as a fraction of the largest logit. The fixtures are float64 results; PyTorch's own
/// fp32 run of these networks differs from them by up to 2e-6.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::Fp32 => 2e-6,
        Precision::Fast32 => 2e-5,
        // Each of ten layers rounds its results to 8 bits.
        Precision::Bf16 => 2e-2,
    }
}

#[test]
fn logits_agree_with_pytorch_on_every_instruction_set_in_every_precision() {
    for name in FIXTURES {
        let case = load(name);
        let largest = case.logits.iter().fold(0f32, |most, v| most.max(v.abs()));
        let isas = Isa::available();
        for (isa, precision) in isas.flat_map(|isa| Precision::ALL.map(|p| (isa, p))) {
            let compute = Compute { isa, precision };
            let network =
                Network::with_compute(&case.spec, &case.weights, compute, Some(case.patch))
                    .unwrap();
            let mut executor = network.executor(case.patch).unwrap();
            let mut output = vec![f32::NAN; case.logits.len()];
            // The second run finds the arena full of the first one's leftovers.
            for _ in 0..2 {
                executor.run(&case.input, &mut output).unwrap();
                let worst = output
                    .iter()
                    .zip(&case.logits)
                    .map(|(a, b)| (a - b).abs())
                    .fold(
                        0f32,
                        |most, d| if d > most || d.is_nan() { d } else { most },
                    );
                assert!(
                    worst <= tolerance(precision) * largest,
                    "{name} {compute:?}: {worst:e} of {largest}"
                );
            }
        }
    }
}

#[test]
fn mirroring_equals_mirrored_copies_exactly_and_accumulates() {
    for name in FIXTURES {
        let case = load(name);
        let network = Network::new(&case.spec, &case.weights).unwrap();
        let mut executor = network.executor(case.patch).unwrap();
        for bits in 0..8 {
            let flip = std::array::from_fn(|axis| bits >> axis & 1 == 1);
            let mut direct = vec![0.0; case.logits.len()];
            let copy = mirrored(&case.input, case.patch, flip);
            executor.run(&copy, &mut direct).unwrap();
            let expected = mirrored(&direct, case.patch, flip);
            let mut output = vec![f32::NAN; case.logits.len()];
            executor
                .run_flipped(&case.input, flip, &mut output)
                .unwrap();
            assert!(output == expected, "{name} {flip:?}");
            executor
                .run_accumulate(&case.input, flip, &mut output)
                .unwrap();
            assert!(
                output
                    .iter()
                    .zip(&expected)
                    .all(|(sum, one)| *sum == one + one)
            );
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for name in ["iso", "flat", "blocks", "wide", "residual"] {
        let case = load(name);
        let isas = Isa::available();
        for (isa, precision) in isas.flat_map(|isa| Precision::ALL.map(|p| (isa, p))) {
            let compute = Compute { isa, precision };
            let network = Network::with_compute(&case.spec, &case.weights, compute, None).unwrap();
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| {
                    let mut executor = network.executor(case.patch).unwrap();
                    let mut output = vec![0.0; case.logits.len()];
                    executor.run(&case.input, &mut output).unwrap();
                    output
                })
            };
            let alone = run(1);
            assert!(alone == run(2) && alone == run(7), "{name} {compute:?}");
        }
    }
}

#[test]
fn a_plan_says_what_the_executor_allocates() {
    let case = load("iso");
    let network = Network::new(&case.spec, &case.weights).unwrap();
    for patch in [case.patch, [4, 4, 4], [32, 16, 64]] {
        let plan = network.plan(patch).unwrap();
        let executor = network.executor(patch).unwrap();
        assert_eq!(plan.arena_bytes(), executor.arena_bytes());
        assert_eq!(plan.patch(), patch);
        assert!(plan.total_bytes(2) > plan.arena_bytes());
    }
}

#[test]
fn wrong_patches_and_slices_are_refused() {
    let case = load("iso");
    let network = Network::new(&case.spec, &case.weights).unwrap();
    for patch in [[8, 12, 18], [0, 4, 4], [1 << 20, 1 << 20, 1 << 20]] {
        assert!(network.plan(patch).is_err(), "{patch:?}");
    }
    let mut executor = network.executor(case.patch).unwrap();
    let error = executor.run(&case.input[1..], &mut case.logits.clone());
    assert!(matches!(error, Err(Error::Length { .. })));
    // Half a tebivoxel: planned without allocating, refused with its size.
    let error = network.executor([1 << 13, 1 << 13, 1 << 13]).err().unwrap();
    assert!(error.to_string().contains("GiB"), "{error}");
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let case = load("aniso");
    for name in case.weights.keys() {
        // Deep-supervision heads are in the file but never used.
        if name.starts_with("decoder.seg_layers.0.") {
            continue;
        }
        let mut without = case.weights.clone();
        without.remove(name);
        let error = Network::new(&case.spec, &without).err().unwrap();
        assert!(error.to_string().contains(name.as_str()), "{error}");
        let mut other = case.weights.clone();
        other.get_mut(name).unwrap().shape.push(1);
        let error = Network::new(&case.spec, &other).err().unwrap();
        assert!(error.to_string().contains(name.as_str()), "{error}");
    }
}

#[test]
fn unsupported_architectures_are_refused() {
    let case = load("iso");
    let changes: [fn(&mut UnetSpec); 6] = [
        |spec| spec.stages.truncate(1),
        |spec| spec.stages[1].kernel = [2, 3, 3],
        |spec| spec.stages[1].kernel = [9, 3, 3],
        |spec| spec.stages[2].stride = [4, 2, 2],
        |spec| spec.stages[0].stride = [2, 2, 2],
        |spec| spec.stages[0].decoder_convs = 0,
    ];
    for change in changes {
        let mut spec = case.spec.clone();
        change(&mut spec);
        assert!(matches!(
            Network::new(&spec, &case.weights),
            Err(Error::Unsupported(_))
        ));
    }
}

#[test]
fn a_layer_with_weights_that_are_no_numbers_is_named() {
    let case = load("iso");
    for (layer, tensor) in [
        ("encoder.stages.1.0.convs.0", "conv.weight"),
        ("encoder.stages.0.0.convs.0", "norm.bias"),
        ("decoder.transpconvs.0", "weight"),
    ] {
        for value in [f32::NAN, f32::INFINITY] {
            let mut weights = case.weights.clone();
            let name = format!("{layer}.{tensor}");
            weights.get_mut(&name).unwrap().data[0] = value;
            let network = Network::new(&case.spec, &weights).unwrap();
            let mut executor = network.executor(case.patch).unwrap();
            let mut output = vec![0.0; case.logits.len()];
            let error = executor.run(&case.input, &mut output).err().unwrap();
            assert!(
                matches!(&error, Error::LayerNotFinite { layer: named } if named == layer),
                "{name}: {error}"
            );
        }
    }
}

#[test]
fn a_layer_that_overflows_is_named_on_every_instruction_set_and_precision() {
    let case = load("iso");
    let (last, head) = (case.spec.stages.len() - 2, "decoder.seg_layers");
    let layers = [
        ("encoder.stages.1.0.convs.0".to_owned(), ".conv.weight"),
        ("decoder.transpconvs.0".to_owned(), ".weight"),
        (format!("decoder.stages.{last}.convs.0"), ".conv.weight"),
        (format!("{head}.{last}"), ".weight"),
    ];
    for (layer, suffix) in layers {
        let mut weights = case.weights.clone();
        for value in &mut weights.get_mut(&format!("{layer}{suffix}")).unwrap().data {
            *value = f32::MAX.copysign(*value);
        }
        for isa in Isa::available() {
            for precision in Precision::ALL {
                let compute = Compute { isa, precision };
                let network = Network::with_compute(&case.spec, &weights, compute, None).unwrap();
                let mut executor = network.executor(case.patch).unwrap();
                let mut output = vec![0.0; case.logits.len()];
                let error = executor.run(&case.input, &mut output).err().unwrap();
                assert!(
                    matches!(&error, Error::LayerNotFinite { layer: named } if *named == layer),
                    "{layer} {compute:?}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_patch_that_holds_no_numbers_is_blamed_itself() {
    let mut case = load("iso");
    case.input[7] = f32::NAN;
    let network = Network::new(&case.spec, &case.weights).unwrap();
    let mut executor = network.executor(case.patch).unwrap();
    let error = executor.run(&case.input, &mut case.logits).err().unwrap();
    assert!(matches!(error, Error::InputNotFinite), "{error}");
}
