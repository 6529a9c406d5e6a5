//! Voxels on a grid.
//!
//! A [`Volume`] is a 3-D array in `[z, y, x]` order (x fastest: the bytes of a NIfTI file and of an
//! `[N, C, D, H, W]` tensor) together with a [`Grid`] that places voxel `(i, j, k) = (x, y, z)` in
//! RAS+ millimetres. A [`LabelMap`] is a volume of unsigned integers with a [`LabelTable`] that says
//! what the numbers mean. This module knows no other module: no files, no algorithms.

mod affine;
mod grid;
mod label_map;
mod label_set;
mod label_table;

pub use affine::Affine;
pub use grid::{Grid, GridMismatch};
pub use label_map::{LabelError, LabelMap};
pub use label_set::LabelSet;
pub use label_table::{Label, LabelTable};

use ndarray::Array3;

/// Voxel values on a grid. `data` is `[z, y, x]` in standard layout and has the shape of `grid`.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume<T> {
    data: Array3<T>,
    grid: Grid,
}

/// The array handed to a volume does not fit its grid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("voxel array is {found:?} but the grid is {expected:?} (z, y, x)")]
pub struct ShapeMismatch {
    /// Shape of the array.
    pub found: [usize; 3],
    /// Shape of the grid.
    pub expected: [usize; 3],
}

impl<T> Volume<T> {
    /// Joins an array with its grid. An array in another memory order is copied into standard layout.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn new(data: Array3<T>, grid: Grid) -> Result<Self, ShapeMismatch>
    where
        T: Clone,
    {
        let found: [usize; 3] = data.dim().into();
        if found != grid.shape {
            return Err(ShapeMismatch {
                found,
                expected: grid.shape,
            });
        }
        let data = if data.is_standard_layout() {
            data
        } else {
            data.as_standard_layout().into_owned()
        };
        Ok(Self { data, grid })
    }

    /// A volume with every voxel set to `value`. Cost: one allocation of the grid's size.
    pub fn filled(value: T, grid: Grid) -> Self
    where
        T: Clone,
    {
        Self {
            data: Array3::from_elem(grid.shape, value),
            grid,
        }
    }

    /// The voxels, `[z, y, x]`, standard layout.
    pub fn data(&self) -> &Array3<T> {
        &self.data
    }

    /// The voxels for writing; shape and layout cannot change.
    pub fn data_mut(&mut self) -> ndarray::ArrayViewMut3<'_, T> {
        self.data.view_mut()
    }

    /// The voxels as one slice, x fastest.
    #[expect(
        clippy::missing_panics_doc,
        reason = "the constructor holds the invariant"
    )]
    pub fn as_slice(&self) -> &[T] {
        self.data
            .as_slice()
            .expect("a volume is always in standard layout")
    }

    /// The voxels as one mutable slice, x fastest.
    #[expect(
        clippy::missing_panics_doc,
        reason = "the constructor holds the invariant"
    )]
    pub fn as_slice_mut(&mut self) -> &mut [T] {
        self.data
            .as_slice_mut()
            .expect("a volume is always in standard layout")
    }

    /// Where the voxels are.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Shape `[z, y, x]`.
    pub fn shape(&self) -> [usize; 3] {
        self.grid.shape
    }

    /// Takes the volume apart.
    pub fn into_parts(self) -> (Array3<T>, Grid) {
        (self.data, self.grid)
    }

    /// The same grid with every voxel converted by `convert`.
    pub fn map<U>(&self, convert: impl FnMut(&T) -> U) -> Volume<U> {
        Volume {
            data: self.data.map(convert),
            grid: self.grid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_of_another_shape_is_refused() {
        let grid = Grid::with_spacing([2, 3, 4], [1.0; 3]);
        let error = Volume::new(Array3::<u8>::zeros([4, 3, 2]), grid).unwrap_err();
        assert_eq!(error.found, [4, 3, 2]);
        assert!(error.to_string().contains("[2, 3, 4]"));
    }

    #[test]
    fn a_transposed_array_is_stored_in_standard_layout() {
        let grid = Grid::with_spacing([2, 3, 4], [1.0; 3]);
        let array = Array3::from_shape_fn([4, 3, 2], |(x, y, z)| (z * 100 + y * 10 + x) as i32);
        let volume = Volume::new(array.permuted_axes([2, 1, 0]), grid).unwrap();
        assert_eq!(volume.as_slice()[..5], [0, 1, 2, 3, 10]);
    }
}
