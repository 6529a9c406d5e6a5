//! The most multiply-adds a second that one core of this machine does in single precision, for the share of it
//! that the network engine reaches.
//!
//! `cargo run --release --example fma_peak`

#[cfg(target_arch = "x86_64")]
fn main() {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    use std::time::Instant;

    /// Register-sized chains that hide the latency of one another.
    const CHAINS: usize = 24;

    #[target_feature(enable = "avx512f")]
    fn passes(count: usize) -> f32 {
        let mut sums = [_mm512_set1_ps(0.0); CHAINS];
        let factor = _mm512_set1_ps(1e-3);
        for _ in 0..count {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(factor, factor, *sum);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    if !is_x86_feature_detected!("avx512f") {
        println!("this machine has no AVX-512");
        return;
    }
    let count = std::hint::black_box(20_000_000);
    for _ in 0..3 {
        let start = Instant::now();
        // SAFETY: the machine has AVX-512, as found out above.
        let sum = unsafe { passes(count) };
        let seconds = start.elapsed().as_secs_f64();
        let adds = (count * CHAINS * 16) as f64;
        println!(
            "{:.1} billion multiply-adds/s ({:.0} GFLOP/s) [{sum:e}]",
            adds / seconds / 1e9,
            2.0 * adds / seconds / 1e9
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("this machine has no AVX-512");
}
