//! Winograd's minimal filtering along z, y and x (or y and x): 3.4 to 8 times fewer products.
//!
//! Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4, nested to three
//! dimensions. A cell of `outputs + 2` staged inputs per axis becomes as many points per axis
//! (`input_cell`); each point is multiplied with its own transformed weights - a matrix product over channels,
//! run by the same kernels as everything else - and the outputs are sums of the products (`output_cell`).
//!
//! | per axis | points | products per output, 3-D | relative error of a layer |
//! |---|---|---|---|
//! | F(2, 3): 0, 1, -1, infinity | 4 | 8 | 3e-7: the direct f32 sum has 2e-7 to 1e-6 |
//! | F(4, 3): 0, +-3/4, +-3/2, infinity | 6 | 3.4 | 1.6e-6 |
//! | stride 2 | 3 | 15.6 of 27 | as the direct sum |
//!
//! All coefficients of data are exact in f32; weights are transformed in f64. The points of F(4, 3) are those of
//! least error among a dozen simple ones: the usual 0, +-1, +-2 has 4.8e-6. (Errors: root mean square over 64
//! channels of normal numbers, bent as by LeakyReLU, all three axes alike.)
//!
//! **Stride 2.** Even inputs meet the outer taps, odd ones the middle tap. Two outputs need `x0 - x2`, `x1`, `x2`,
//! `x4 - x2` and `x3`: five products instead of six per axis, summed to three points before anything is transformed
//! back (`y0 = p0 + p1`, `y1 = p1 + p2`), 1.7 times fewer products in 3-D, with no coefficient but 1.
//!
//! F(4, 3) mixes all inputs of a cell into all outputs, so inputs beyond the volume must be zero, not garbage.

// Indexed loops of constant length are what the compiler turns into registers.
#![allow(clippy::needless_range_loop)]

mod vector;

use std::mem::MaybeUninit;

use self::vector::Vector;
use super::isa::{Isa, Vectors};

/// Channels per lane vector.
const LANES: usize = 16;

/// Outputs of a cell along z and along both y and x: 2 or 4, and 1 along z for kernels of one plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Along z.
    pub planes: usize,
    /// Along y and x.
    pub edge: usize,
    /// Stride of the convolution, along z only where the cell is thicker than a plane.
    pub stride: usize,
}

/// Transformed inputs whose products are summed to one point, along an axis of stride 2.
const STRIDED_PARTS: [&[usize]; 3] = [&[0, 1], &[2], &[3, 4]];

/// Most points of a cell.
const MOST_POINTS: usize = 216;

impl Cell {
    /// Outputs `[z, y, x]`.
    pub fn outputs(self) -> [usize; 3] {
        [self.planes, self.edge, self.edge]
    }

    /// Points `[z, y, x]`.
    pub fn points(self) -> [usize; 3] {
        let wide = |n: usize| if self.stride == 2 { 3 } else { n + 2 };
        self.outputs().map(|n| if n == 1 { 1 } else { wide(n) })
    }

    /// Points in all.
    pub fn count(self) -> usize {
        self.points().iter().product()
    }

    /// Transformed inputs `[z, y, x]`, which is also the extent of the inputs: as many as points or more.
    pub fn inputs(self) -> [usize; 3] {
        let wide = |n: usize| if self.stride == 2 { 5 } else { n };
        self.points().map(|n| if n == 1 { 1 } else { wide(n) })
    }

    /// Transformed inputs in all.
    pub fn input_count(self) -> usize {
        self.inputs().iter().product()
    }

    /// Inputs `[z, y, x]` from one output to the next.
    pub fn steps(self) -> [usize; 3] {
        self.outputs().map(|n| if n == 1 { 1 } else { self.stride })
    }

    /// The transformed inputs `[z, y, x]` whose products are summed to `point`.
    pub fn parts(self, point: [usize; 3]) -> Vec<[usize; 3]> {
        let extent = self.points();
        let [z, y, x]: [Vec<usize>; 3] = std::array::from_fn(|axis| {
            if self.stride == 2 && extent[axis] > 1 {
                STRIDED_PARTS[point[axis]].to_vec()
            } else {
                vec![point[axis]]
            }
        });
        let mut parts = Vec::with_capacity(z.len() * y.len() * x.len());
        for &z in &z {
            for &y in &y {
                parts.extend(x.iter().map(|&x| [z, y, x]));
            }
        }
        parts
    }
}

/// The three weights of a tap row seen from a point.
type Row = [f64; 3];

/// `G` of F(2, 3).
const G2: [Row; 4] = [
    [1.0, 0.0, 0.0],
    [0.5, 0.5, 0.5],
    [0.5, -0.5, 0.5],
    [0.0, 0.0, 1.0],
];

/// Squares of the points of F(4, 3): 3/4 and 3/2.
const NEAR: f64 = 9.0 / 16.0;
const FAR: f64 = 9.0 / 4.0;

/// `G` of F(4, 3): the powers of each point divided by its distances to the others.
const G4: [Row; 6] = {
    const fn row(point: f64, divisor: f64) -> Row {
        [1.0 / divisor, point / divisor, point * point / divisor]
    }
    let (near, far) = (2.0 * NEAR * (NEAR - FAR), 2.0 * FAR * (FAR - NEAR));
    [
        row(0.0, NEAR * FAR),
        row(0.75, near),
        row(-0.75, near),
        row(1.5, far),
        row(-1.5, far),
        [0.0, 0.0, 1.0],
    ]
};

/// The weights that the five transformed inputs of stride 2 meet.
const STRIDED: [Row; 5] = [
    [1.0, 0.0, 0.0],
    [0.0, 1.0, 0.0],
    [1.0, 0.0, 1.0],
    [0.0, 0.0, 1.0],
    [0.0, 1.0, 0.0],
];

/// `G` for `outputs` per axis; a single tap stays what it is.
fn weight_rows(outputs: usize, stride: usize) -> &'static [Row] {
    match outputs {
        1 => &[[1.0, 0.0, 0.0]],
        _ if stride == 2 => &STRIDED,
        2 => &G2,
        _ => &G4,
    }
}

/// The transformed weights of one 3x3x3 (or 1x3x3) kernel, `[z][y][x]`.
pub(crate) fn transform_weights(kernel: &[f32], cell: Cell) -> Vec<f32> {
    let mut values: Vec<f64> = kernel.iter().map(|&tap| f64::from(tap)).collect();
    let mut shape = [if cell.planes == 1 { 1 } else { 3 }, 3, 3];
    for (axis, outputs) in cell.outputs().into_iter().enumerate().rev() {
        let rows = weight_rows(outputs, cell.stride);
        let behind: usize = shape[axis + 1..].iter().product();
        let taps = shape[axis];
        let mut next = Vec::with_capacity(values.len() / taps * rows.len());
        for line in values.chunks(taps * behind) {
            for row in rows {
                for at in 0..behind {
                    let sum = (0..taps).map(|tap| row[tap] * line[tap * behind + at]);
                    next.push(sum.sum::<f64>());
                }
            }
        }
        shape[axis] = rows.len();
        values = next;
    }
    values.into_iter().map(|value| value as f32).collect()
}

/// `B^T d`, in place; five inputs are those of stride 2.
///
/// # Safety
///
/// The instruction set of `V` is there.
#[inline(always)]
unsafe fn forward<V: Vector, const N: usize>(d: &mut [V; N]) {
    // SAFETY: by contract.
    unsafe {
        if N == 4 {
            let [a, b, c, e] = [d[0], d[1], d[2], d[3]];
            d[0] = a.minus(c);
            d[1] = b.plus(c);
            d[2] = c.minus(b);
            d[3] = b.minus(e);
        } else if N == 5 {
            let [a, b, c, e, f] = [d[0], d[1], d[2], d[3], d[4]];
            d[0] = a.minus(c);
            d[1] = b;
            d[2] = c;
            d[3] = f.minus(c);
            d[4] = e;
        } else if N == 6 {
            const A: f32 = NEAR as f32;
            const B: f32 = FAR as f32;
            let [i, j, k, l, m, n] = [d[0], d[1], d[2], d[3], d[4], d[5]];
            // Even and odd parts of the points +-3/4 and +-3/2.
            let (near, near_odd) = (m.plus_scaled(-B, k), l.plus_scaled(-B, j));
            let (far, far_odd) = (m.plus_scaled(-A, k), l.plus_scaled(-A, j));
            d[0] = m.plus_scaled(-(A + B), k).plus_scaled(A * B, i);
            d[1] = near.plus_scaled(0.75, near_odd);
            d[2] = near.plus_scaled(-0.75, near_odd);
            d[3] = far.plus_scaled(1.5, far_odd);
            d[4] = far.plus_scaled(-1.5, far_odd);
            d[5] = n.plus_scaled(-(A + B), l).plus_scaled(A * B, j);
        }
    }
}

/// `A^T m`: the outputs come first, the rest is left over; three points are those of stride 2.
///
/// # Safety
///
/// The instruction set of `V` is there.
#[inline(always)]
unsafe fn backward<V: Vector, const N: usize>(m: &mut [V; N]) {
    // SAFETY: by contract.
    unsafe {
        if N == 3 {
            let [a, b, c] = [m[0], m[1], m[2]];
            m[0] = a.plus(b);
            m[1] = b.plus(c);
        } else if N == 4 {
            let [a, b, c, d] = [m[0], m[1], m[2], m[3]];
            m[0] = a.plus(b.plus(c));
            m[1] = b.minus(c).minus(d);
        } else if N == 6 {
            const A: f32 = NEAR as f32;
            const B: f32 = FAR as f32;
            let (near, near_odd) = (m[1].plus(m[2]), m[1].minus(m[2]));
            let (far, far_odd) = (m[3].plus(m[4]), m[3].minus(m[4]));
            let last = m[5];
            m[0] = m[0].plus(near.plus(far));
            m[1] = near_odd.times(0.75).plus_scaled(1.5, far_odd);
            m[2] = near.times(A).plus_scaled(B, far);
            m[3] = last
                .plus_scaled(0.75 * A, near_odd)
                .plus_scaled(1.5 * B, far_odd);
        }
    }
}

/// # Safety
///
/// The instruction set of `V` is there; bounds as asserted by [`input_cell`].
#[inline(always)]
unsafe fn input_cell_impl<V: Vector, const Z: usize, const N: usize>(
    from: *const f32,
    plane: usize,
    row: usize,
    to: *mut f32,
    step: usize,
) {
    // SAFETY: all offsets are those `input_cell` asserts; `kept` holds `Z * N * N` vectors.
    unsafe {
        let mut kept = [MaybeUninit::<V>::uninit(); MOST_POINTS];
        for z in 0..Z {
            let mut cell = [[V::load(from); N]; N];
            for y in 0..N {
                let at = from.add(z * plane + y * row);
                for x in 0..N {
                    cell[y][x] = V::load(at.add(x * LANES));
                }
                forward(&mut cell[y]);
            }
            for x in 0..N {
                let mut column = [cell[0][x]; N];
                for y in 0..N {
                    column[y] = cell[y][x];
                }
                forward(&mut column);
                for y in 0..N {
                    if Z == 1 {
                        column[y].store(to.add((y * N + x) * step));
                    } else {
                        kept[(z * N + y) * N + x].write(column[y]);
                    }
                }
            }
        }
        if Z > 1 {
            for at in 0..N * N {
                let mut column = [kept[at].assume_init(); Z];
                for z in 1..Z {
                    column[z] = kept[z * N * N + at].assume_init();
                }
                forward(&mut column);
                for z in 0..Z {
                    column[z].store(to.add((z * N * N + at) * step));
                }
            }
        }
    }
}

/// # Safety
///
/// The instruction set of `V` is there; bounds as asserted by [`output_cell`].
#[inline(always)]
unsafe fn output_cell_impl<V: Vector, const Z: usize, const N: usize>(
    from: *const f32,
    step: usize,
    to: *mut f32,
    row: usize,
) {
    let (planes, edge) = (outputs_of(Z), outputs_of(N));
    // SAFETY: all offsets are those `output_cell` asserts; `kept` holds `planes * N * N` vectors.
    unsafe {
        let mut kept = [MaybeUninit::<V>::uninit(); MOST_POINTS];
        for at in 0..N * N {
            let mut column = [V::load(from.add(at * step)); Z];
            for z in 1..Z {
                column[z] = V::load(from.add((z * N * N + at) * step));
            }
            backward(&mut column);
            for z in 0..planes {
                kept[z * N * N + at].write(column[z]);
            }
        }
        for z in 0..planes {
            let mut rows = [[kept[0].assume_init(); N]; N];
            for x in 0..N {
                let mut column = [kept[z * N * N + x].assume_init(); N];
                for y in 1..N {
                    column[y] = kept[(z * N + y) * N + x].assume_init();
                }
                backward(&mut column);
                for y in 0..edge {
                    rows[y][x] = column[y];
                }
            }
            for y in 0..edge {
                backward(&mut rows[y]);
                for x in 0..edge {
                    rows[y][x].store(to.add((z * edge + y) * row + x * LANES));
                }
            }
        }
    }
}

/// Outputs along an axis of so many points.
const fn outputs_of(points: usize) -> usize {
    match points {
        1 => 1,
        3 => 2,
        _ => points - 2,
    }
}

/// Expands to a match over the cells there are; stride 2 has `strided` inputs or points along an axis.
macro_rules! for_cell {
    ($cell:expr, $name:ident, $vector:ty, $strided:literal, ($($arg:expr),*)) => {
        match ($cell.planes, $cell.edge, $cell.stride) {
            (1, _, 2) => $name::<$vector, 1, $strided>($($arg),*),
            (_, _, 2) => $name::<$vector, $strided, $strided>($($arg),*),
            (1, 2, _) => $name::<$vector, 1, 4>($($arg),*),
            (2, 2, _) => $name::<$vector, 4, 4>($($arg),*),
            (1, _, _) => $name::<$vector, 1, 6>($($arg),*),
            _ => $name::<$vector, 6, 6>($($arg),*),
        }
    };
}

macro_rules! compile_for {
    ($module:ident, $vector:ty, $features:literal) => {
        #[cfg(target_arch = "x86_64")]
        mod $module {
            use super::{Cell, input_cell_impl, output_cell_impl};

            /// # Safety
            ///
            /// As [`input_cell_impl`].
            #[target_feature(enable = $features)]
            pub(super) unsafe fn input_cell(
                cell: Cell,
                from: *const f32,
                plane: usize,
                row: usize,
                to: *mut f32,
                step: usize,
            ) {
                // SAFETY: the caller's.
                unsafe {
                    for_cell!(
                        cell,
                        input_cell_impl,
                        $vector,
                        5,
                        (from, plane, row, to, step)
                    )
                }
            }

            /// # Safety
            ///
            /// As [`output_cell_impl`].
            #[target_feature(enable = $features)]
            pub(super) unsafe fn output_cell(
                cell: Cell,
                from: *const f32,
                step: usize,
                to: *mut f32,
                row: usize,
            ) {
                // SAFETY: the caller's.
                unsafe { for_cell!(cell, output_cell_impl, $vector, 3, (from, step, to, row)) }
            }
        }
    };
}

compile_for!(avx2, [std::arch::x86_64::__m256; 2], "avx2,fma");
compile_for!(
    avx512,
    std::arch::x86_64::__m512,
    "avx512f,avx512bw,avx512dq,avx512vl"
);

/// Transforms the staged inputs of a cell at `from[0]`, planes and rows `plane` and `row` floats apart, columns
/// 16; result `p` goes to `to[p * step]`.
pub(crate) fn input_cell(
    isa: Isa,
    cell: Cell,
    from: &[f32],
    [plane, row]: [usize; 2],
    to: &mut [f32],
    step: usize,
) {
    let [z, y, x] = cell.inputs();
    assert!(cell.input_count() <= MOST_POINTS);
    assert!(from.len() >= (z - 1) * plane + (y - 1) * row + x * LANES);
    assert!(to.len() >= (cell.input_count() - 1) * step + LANES);
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: the farthest reads and writes are asserted above; the instruction set was checked when the
    // network was built.
    unsafe {
        match isa.vectors() {
            Vectors::Scalar => {
                for_cell!(
                    cell,
                    input_cell_impl,
                    [f32; LANES],
                    5,
                    (from, plane, row, to, step)
                );
            }
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => avx2::input_cell(cell, from, plane, row, to, step),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => avx512::input_cell(cell, from, plane, row, to, step),
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("only the portable code exists on this machine"),
        }
    }
}

/// Adds the products `from[p * step]` up to the outputs of a cell; output row `[z][y]` goes to
/// `to[(edge * z + y) * row]`.
pub(crate) fn output_cell(
    isa: Isa,
    cell: Cell,
    from: &[f32],
    step: usize,
    to: &mut [f32],
    row: usize,
) {
    assert!(cell.count() <= MOST_POINTS);
    assert!(from.len() >= (cell.count() - 1) * step + LANES);
    assert!(to.len() >= (cell.planes * cell.edge - 1) * row + cell.edge * LANES);
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: as in `input_cell`.
    unsafe {
        match isa.vectors() {
            Vectors::Scalar => {
                for_cell!(
                    cell,
                    output_cell_impl,
                    [f32; LANES],
                    3,
                    (from, step, to, row)
                );
            }
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => avx2::output_cell(cell, from, step, to, row),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => avx512::output_cell(cell, from, step, to, row),
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("only the portable code exists on this machine"),
        }
    }
}
