//! Connected components of masks and label maps.
//!
//! Volumes are reduced to *runs*: maximal stretches of equal, non-background values along x. Anatomy
//! has far fewer runs than voxels, so everything after one scan of the volume works on short lists.
//! Runs that touch are joined by union-find. The root of a component is always its first run in scan
//! order, whatever the number of threads, and numbering roots in order numbers components by their
//! first voxel, as `scipy.ndimage.label` and `cc3d.connected_components` do.
//!
//! Memory: 16 bytes per run. A volume of labels is only made when asked for.

use super::runs::{Run, find_runs, join_runs};
use crate::geometry::bounds::BoundingBox;
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;
use std::ops::Range;

/// Which of the 26 surrounding voxels count as touching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connectivity {
    /// Shared faces. SciPy's default structure.
    Six,
    /// Shared faces or edges.
    Eighteen,
    /// Shared faces, edges or corners. cc3d's default.
    TwentySix,
}

/// One connected component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component<T> {
    /// The value that its voxels hold: `true`, or the label.
    pub value: T,
    /// Number of voxels.
    pub voxels: u64,
    /// Smallest box that holds it.
    pub bounds: BoundingBox,
    /// Its first voxel in scan order, `[z, y, x]`.
    pub first_voxel: [usize; 3],
}

/// The connected components of a volume, in order of their first voxels.
#[derive(Debug, Clone)]
pub struct Components<T> {
    shape: [usize; 3],
    runs: Vec<Run>,
    /// Index of the first run of every row (z, y), and the number of runs at the end.
    rows: Vec<usize>,
    list: Vec<Component<T>>,
}

/// Too many pieces to number with 32 bits, or an axis too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a volume of {shape:?} voxels (z, y, x) has more pieces than 32 bits can number")]
pub struct TooManyRuns {
    /// Shape of the volume, `[z, y, x]`.
    pub shape: [usize; 3],
}

/// Finds the connected components of `volume` (`[z, y, x]`).
///
/// Background is `T::default()` (`false` or 0). Touching voxels belong together when they hold the
/// same value, so a label map gives the components of every label at once, as `cc3d` does; a mask is
/// the case of one label. Components are ordered by their first voxel in scan order (x fastest).
/// Volumes without voxels or of background only have none.
///
/// Cost: one scan, slices in parallel, plus near-linear work in the number of runs; 16 bytes per run.
///
/// # Errors
/// [`TooManyRuns`] beyond `u32::MAX` runs or voxels along x.
pub fn label_components<T>(
    volume: ArrayView3<'_, T>,
    connectivity: Connectivity,
) -> Result<Components<T>, TooManyRuns>
where
    T: Copy + Default + PartialEq + Send + Sync,
{
    let shape: [usize; 3] = volume.dim().into();
    let too_many = TooManyRuns { shape };
    if u32::try_from(shape[2]).is_err() {
        return Err(too_many);
    }
    let (mut runs, values, rows) = find_runs(volume);
    if u32::try_from(runs.len()).is_err() {
        return Err(too_many);
    }
    join_runs(&mut runs, &values, &rows, shape, connectivity);
    let list = number_components(&mut runs, &values, &rows, shape);
    Ok(Components {
        shape,
        runs,
        rows,
        list,
    })
}

/// Replaces roots by component numbers and gathers sizes and boxes.
fn number_components<T: Copy>(
    runs: &mut [Run],
    values: &[T],
    rows: &[usize],
    shape: [usize; 3],
) -> Vec<Component<T>> {
    let height = shape[1].max(1);
    let mut list: Vec<Component<T>> = Vec::new();
    for (row, range) in rows.windows(2).enumerate() {
        let (z, y) = (row / height, row % height);
        for index in range[0]..range[1] {
            let run = runs[index];
            let (start, end) = (run.start as usize, run.end as usize);
            let parent = run.component as usize;
            // Parents come earlier and already hold their component's number.
            let component = if parent == index {
                list.push(Component {
                    value: values[index],
                    voxels: 0,
                    bounds: BoundingBox {
                        start: [z, y, start],
                        end: [z + 1, y + 1, end],
                    },
                    first_voxel: [z, y, start],
                });
                (list.len() - 1) as u32
            } else {
                runs[parent].component
            };
            runs[index].component = component;
            let known = &mut list[component as usize];
            known.voxels += (end - start) as u64;
            let bounds = &mut known.bounds;
            bounds.start[1] = bounds.start[1].min(y);
            bounds.start[2] = bounds.start[2].min(start);
            bounds.end[0] = z + 1;
            bounds.end[1] = bounds.end[1].max(y + 1);
            bounds.end[2] = bounds.end[2].max(end);
        }
    }
    list
}

impl<T: Copy + Sync> Components<T> {
    /// The components, by first voxel in scan order. Component `i` has number `i + 1` in
    /// [`numbers`](Self::numbers).
    pub fn list(&self) -> &[Component<T>] {
        &self.list
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether the volume is background only.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Shape of the volume, `[z, y, x]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Index into [`list`](Self::list) of the component with most voxels; the first of equals.
    pub fn largest(&self) -> Option<usize> {
        (0..self.list.len()).max_by_key(|&index| {
            let component = &self.list[index];
            (component.voxels, std::cmp::Reverse(index))
        })
    }

    /// The stretches along x of all components in scan order: index into [`list`](Self::list), `[z, y]`, and x.
    pub fn runs(&self) -> impl Iterator<Item = (usize, [usize; 2], Range<usize>)> + '_ {
        let height = self.shape[1].max(1);
        let rows = self.rows.windows(2).enumerate();
        rows.flat_map(move |(row, range)| {
            self.runs[range[0]..range[1]].iter().map(move |run| {
                let x = run.start as usize..run.end as usize;
                (run.component as usize, [row / height, row % height], x)
            })
        })
    }

    /// Index into [`list`](Self::list) of the component that holds a voxel, `[z, y, x]`; `None` for background and
    /// outside of the volume.
    pub fn component_at(&self, [z, y, x]: [usize; 3]) -> Option<usize> {
        let row = (z < self.shape[0] && y < self.shape[1]).then(|| z * self.shape[1] + y)?;
        let runs = &self.runs[self.rows[row]..self.rows[row + 1]];
        let run = runs.get(runs.partition_point(|run| run.end as usize <= x))?;
        (run.start as usize <= x).then_some(run.component as usize)
    }

    /// Component numbers as a volume: 0 for background, `i + 1` for `list()[i]`.
    /// Memory: 4 bytes per voxel.
    pub fn numbers(&self) -> Array3<u32> {
        self.paint(|index| index as u32 + 1)
    }

    /// Mask of the components for which `keep(index, component)` holds. Memory: 1 byte per voxel.
    pub fn mask(&self, keep: impl Fn(usize, &Component<T>) -> bool) -> Array3<bool> {
        let chosen: Vec<bool> = self
            .list
            .iter()
            .enumerate()
            .map(|(index, component)| keep(index, component))
            .collect();
        self.paint(|index| chosen[index])
    }

    /// The volume with the components for which `keep(index, component)` does not hold set to
    /// background.
    pub fn retained(&self, keep: impl Fn(usize, &Component<T>) -> bool) -> Array3<T>
    where
        T: Default + Send,
    {
        let kept: Vec<T> = self
            .list
            .iter()
            .enumerate()
            .map(|(index, component)| {
                if keep(index, component) {
                    component.value
                } else {
                    T::default()
                }
            })
            .collect();
        self.paint(|index| kept[index])
    }

    /// A volume with `value(component)` in every voxel of a component, slices in parallel.
    fn paint<U>(&self, value: impl Fn(usize) -> U + Sync) -> Array3<U>
    where
        U: Copy + Default + Send + Sync,
    {
        // Zeroed pages, first touched by the threads that paint.
        let mut array = Array3::from_elem(self.shape, U::default());
        let [_, height, width] = self.shape;
        if let Some(voxels) = array.as_slice_mut().filter(|voxels| !voxels.is_empty()) {
            voxels
                .par_chunks_mut(height * width)
                .enumerate()
                .for_each(|(z, slice)| {
                    for (y, row) in slice.chunks_exact_mut(width).enumerate() {
                        let index = z * height + y;
                        for run in &self.runs[self.rows[index]..self.rows[index + 1]] {
                            row[run.start as usize..run.end as usize]
                                .fill(value(run.component as usize));
                        }
                    }
                });
        }
        array
    }
}

/// The component of `mask` with most voxels; of equals the one whose first voxel comes first. An
/// empty mask stays empty. Cost as [`label_components`].
///
/// # Errors
/// [`TooManyRuns`].
pub fn largest_component(
    mask: ArrayView3<'_, bool>,
    connectivity: Connectivity,
) -> Result<Array3<bool>, TooManyRuns> {
    let components = label_components(mask, connectivity)?;
    let largest = components.largest();
    Ok(components.mask(|index, _| Some(index) == largest))
}

/// `volume` (a mask or a label map, `[z, y, x]`) without components of fewer than `least_voxels`
/// voxels. Components are those of [`label_components`]: a small piece of one label inside another
/// becomes background. Cost as [`label_components`].
///
/// # Errors
/// [`TooManyRuns`].
pub fn remove_small<T>(
    volume: ArrayView3<'_, T>,
    connectivity: Connectivity,
    least_voxels: u64,
) -> Result<Array3<T>, TooManyRuns>
where
    T: Copy + Default + PartialEq + Send + Sync,
{
    let components = label_components(volume, connectivity)?;
    Ok(components.retained(|_, component| component.voxels >= least_voxels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::s;
    use proptest::prelude::*;

    const ALL: [Connectivity; 3] = [
        Connectivity::Six,
        Connectivity::Eighteen,
        Connectivity::TwentySix,
    ];

    fn mask(shape: [usize; 3], voxels: &[[usize; 3]]) -> Array3<bool> {
        let mut mask = Array3::default(shape);
        for &voxel in voxels {
            mask[voxel] = true;
        }
        mask
    }

    #[test]
    fn faces_edges_and_corners() {
        let count = |voxels: &[[usize; 3]]| {
            ALL.map(|connectivity| {
                label_components(mask([3; 3], voxels).view(), connectivity)
                    .unwrap()
                    .len()
            })
        };
        assert_eq!(count(&[[1, 1, 1], [1, 1, 2]]), [1, 1, 1]);
        assert_eq!(count(&[[1, 1, 1], [0, 1, 1]]), [1, 1, 1]);
        assert_eq!(count(&[[1, 1, 1], [1, 2, 2]]), [2, 1, 1]);
        assert_eq!(count(&[[1, 1, 1], [2, 0, 1]]), [2, 1, 1]);
        assert_eq!(count(&[[1, 1, 1], [2, 1, 0]]), [2, 1, 1]);
        assert_eq!(count(&[[1, 1, 1], [2, 2, 2]]), [2, 2, 1]);
        assert_eq!(count(&[[1, 1, 1], [0, 0, 2]]), [2, 2, 1]);
        assert_eq!(count(&[[0, 0, 0], [2, 2, 2]]), [2, 2, 2]);
        assert_eq!(count(&[]), [0, 0, 0]);
    }

    #[test]
    fn sizes_boxes_and_order() {
        let mask = mask(
            [2, 3, 4],
            &[[0, 0, 3], [0, 2, 0], [0, 2, 1], [1, 0, 3], [1, 1, 3]],
        );
        let components = label_components(mask.view(), Connectivity::Six).unwrap();
        let [first, second] = components.list() else {
            panic!("two components: {components:?}");
        };
        assert_eq!((first.voxels, first.first_voxel), (3, [0, 0, 3]));
        assert_eq!(first.bounds.start, [0, 0, 3]);
        assert_eq!(first.bounds.end, [2, 2, 4]);
        assert_eq!((second.voxels, second.first_voxel), (2, [0, 2, 0]));
        assert_eq!(components.numbers()[[1, 1, 3]], 1);
        assert_eq!(components.numbers()[[0, 2, 1]], 2);
        assert_eq!(components.largest(), Some(0));
    }

    #[test]
    fn touching_labels_stay_apart() {
        let labels = Array3::from_shape_vec([1, 2, 3], vec![1_u16, 1, 2, 0, 2, 2]).unwrap();
        let components = label_components(labels.view(), Connectivity::TwentySix).unwrap();
        let values: Vec<_> = components
            .list()
            .iter()
            .map(|c| (c.value, c.voxels))
            .collect();
        assert_eq!(values, [(1, 2), (2, 3)]);
    }

    #[test]
    fn of_equal_sizes_the_first_is_largest() {
        let mask = mask([1, 1, 5], &[[0, 0, 0], [0, 0, 2], [0, 0, 4]]);
        let largest = largest_component(mask.view(), Connectivity::Six).unwrap();
        assert_eq!(
            largest.as_slice().unwrap(),
            [true, false, false, false, false]
        );
        let none = largest_component(Array3::default([2, 2, 2]).view(), Connectivity::Six).unwrap();
        assert!(!none.iter().any(|&voxel| voxel));
    }

    #[test]
    fn small_pieces_go_and_equal_ones_stay() {
        let labels = Array3::from_shape_vec([1, 1, 7], vec![1_u8, 0, 2, 2, 0, 3, 1]).unwrap();
        let kept = remove_small(labels.view(), Connectivity::Six, 2).unwrap();
        assert_eq!(kept.as_slice().unwrap(), [0, 0, 2, 2, 0, 0, 0]);
    }

    #[test]
    fn empty_axes_are_fine() {
        for shape in [[0, 3, 3], [3, 0, 3], [3, 3, 0]] {
            let components =
                label_components(Array3::<bool>::default(shape).view(), Connectivity::Six).unwrap();
            assert!(components.is_empty());
            assert!(components.numbers().is_empty());
        }
    }

    /// The plain version: flood from every voxel in scan order.
    fn flood<T: Copy + Default + PartialEq>(
        volume: &Array3<T>,
        connectivity: Connectivity,
    ) -> Array3<u32> {
        let largest_steps = match connectivity {
            Connectivity::Six => 1,
            Connectivity::Eighteen => 2,
            Connectivity::TwentySix => 3,
        };
        let mut numbers = Array3::<u32>::zeros(volume.dim());
        let mut next = 0;
        for ((z, y, x), &value) in volume.indexed_iter() {
            if value == T::default() || numbers[[z, y, x]] > 0 {
                continue;
            }
            next += 1;
            let mut open = vec![[z, y, x]];
            numbers[[z, y, x]] = next;
            while let Some(at) = open.pop() {
                for code in 0..27_usize {
                    let step = [code / 9, code / 3 % 3, code % 3];
                    let steps: usize = step.iter().map(|&s| s.abs_diff(1)).sum();
                    let to: [usize; 3] =
                        std::array::from_fn(|axis| (at[axis] + step[axis]).wrapping_sub(1));
                    if steps <= largest_steps
                        && volume.get(to).is_some_and(|&other| other == value)
                        && numbers[to] == 0
                    {
                        numbers[to] = next;
                        open.push(to);
                    }
                }
            }
        }
        numbers
    }

    proptest! {
        #[test]
        fn numbers_equal_flooding(
            shape in [1_usize..40, 1_usize..6, 1_usize..9],
            seed in prop::collection::vec(0_u8..4, 40 * 6 * 9),
            labels in 1_u8..4,
        ) {
            let count = shape.iter().product();
            let values = seed[..count].iter().map(|&value| if value > labels { 0 } else { value });
            let volume = Array3::from_shape_vec(shape, values.collect()).unwrap();
            for connectivity in ALL {
                let components = label_components(volume.view(), connectivity).unwrap();
                let numbers = components.numbers();
                prop_assert_eq!(&numbers, &flood(&volume, connectivity));
                for (index, component) in components.list().iter().enumerate() {
                    let voxels = numbers.iter().filter(|&&n| n as usize == index + 1).count();
                    prop_assert_eq!(component.voxels, voxels as u64);
                }
                prop_assert_eq!(components.retained(|_, _| true), volume.clone());
                for ((z, y, x), &number) in numbers.indexed_iter() {
                    let expected = (number as usize).checked_sub(1);
                    prop_assert_eq!(components.component_at([z, y, x]), expected);
                }
                prop_assert_eq!(components.component_at([0, 0, shape[2]]), None);
                let mut painted = Array3::zeros(shape);
                for (index, [z, y], xs) in components.runs() {
                    painted.slice_mut(s![z, y, xs]).fill(index as u32 + 1);
                }
                prop_assert_eq!(painted, numbers);
            }
        }
    }
}
