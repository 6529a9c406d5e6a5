//! The kernels of every instruction set against plain sums.

use super::*;

/// The sets with kernels for products of 16-bit floats.
const HALVES: [Isa; 2] = [Isa::Scalar, Isa::Amx];

/// Reproducible whole numbers in -8..8: their products and sums are exact in every arithmetic.
fn whole(seed: usize) -> f32 {
    ((seed.wrapping_mul(2_654_435_761) >> 7) % 17) as f32 - 8.0
}

/// A slab of positions, the runs over it, and the weights of `width` channels.
fn check(isa: Isa, factors: Factors, width: usize, stride: usize) {
    let kernel = Kernel::select(isa, factors, width, stride);
    let pack = kernel.pack;
    let numbers = 3 * stride;
    let runs = [
        Run {
            offset: 0,
            steps: numbers.next_multiple_of(2) / pack,
        },
        Run {
            offset: 40 * stride,
            steps: 2 * stride.next_multiple_of(2) / pack,
        },
    ];
    let steps = runs.iter().map(|run| run.steps).sum();
    let chunk = Chunk {
        runs: 0..2,
        steps: 0..steps,
        reach: 40 * stride + runs[1].steps * pack,
    };
    let slab: Vec<f32> = (0..90 * stride + 4).map(whole).collect();
    let weights: Vec<f32> = (0..steps * pack * width).map(|i| whole(i + 77)).collect();
    let halves = |list: &[f32]| list.iter().copied().map(bf16::from_f32).collect::<Vec<_>>();
    let (half_slab, half_weights) = (halves(&slab), halves(&weights));
    let (slab_in, weights_in) = match factors {
        Factors::Single => (Stored::Single(&slab[..]), Stored::Single(&weights[..])),
        Factors::Half => (
            Stored::Half(&half_slab[..]),
            Stored::Half(&half_weights[..]),
        ),
    };
    for rows in 1..=kernel.max_rows() {
        let slot = kernel.tiles(rows).next().expect("one tile");
        for accumulate in [false, true] {
            let mut c = vec![2.0; kernel.max_rows() * width];
            kernel.ready().run(
                slot, slab_in, 1, &runs, &chunk, weights_in, &mut c, accumulate,
            );
            for (index, &sum) in c[..rows * width].iter().enumerate() {
                let (m, n) = (index / width, index % width);
                let mut expected = if accumulate { 2.0 } else { 0.0 };
                let mut row = 0;
                for run in &runs {
                    for i in 0..run.steps * pack {
                        let weight = weights[(row + i / pack) * pack * width + n * pack + i % pack];
                        expected += slab[(1 + m) * stride + run.offset + i] * weight;
                    }
                    row += run.steps;
                }
                let name = isa.name();
                assert_eq!(sum, expected, "{name} {factors:?} {width} {stride} {rows}");
            }
        }
    }
}

#[test]
fn kernels_sum_the_products_of_their_runs() {
    for isa in Isa::available() {
        for width in [8, 16, 32] {
            if Kernel::widths(isa, width, 16.min(width)) != [width] {
                continue;
            }
            for stride in [1, 2, 4, 8, 16] {
                check(isa, Factors::Single, width, stride);
            }
            if width >= 16 && HALVES.contains(&isa) {
                check(isa, Factors::Half, width, 16);
            }
        }
    }
}

#[test]
fn products_of_halves_are_added_in_single_precision() {
    let slab: Vec<bf16> = (0..2000)
        .map(|i| bf16::from_f32((i as f32 * 0.7).sin()))
        .collect();
    let weights: Vec<bf16> = (0..64 * 64)
        .map(|i| bf16::from_f32((i as f32 * 1.3).cos()))
        .collect();
    let runs = [Run {
        offset: 0,
        steps: 64,
    }];
    let chunk = Chunk {
        runs: 0..1,
        steps: 0..64,
        reach: 128,
    };
    for isa in Isa::available() {
        if !HALVES.contains(&isa) {
            continue;
        }
        let kernel = Kernel::select(isa, Factors::Half, Kernel::widths(isa, 32, 16)[0], 16);
        let mut c = vec![0.0; kernel.max_rows() * kernel.width];
        let slot = kernel.tiles(4).next().expect("one tile");
        let (a, w) = (Stored::Half(&slab[..]), Stored::Half(&weights[..]));
        kernel
            .ready()
            .run(slot, a, 0, &runs, &chunk, w, &mut c, false);
        for (index, &sum) in c[..4 * kernel.width].iter().enumerate() {
            let (m, n) = (index / kernel.width, index % kernel.width);
            let products = (0..128).map(|i| {
                let weight = weights[i / 2 * 2 * kernel.width + 2 * n + i % 2];
                f64::from(slab[m * 16 + i]) * f64::from(weight)
            });
            let expected: f64 = products.sum();
            // 128 roundings of a sum of at most 64; 16-bit sums would be off by 0.1.
            let distance = (f64::from(sum) - expected).abs();
            assert!(distance < 1e-4, "{} {index}: {distance}", isa.name());
        }
    }
}
