//! Surface points of structures, in world millimetres.

use super::{Error, Input, Patient};
use crate::geometry::bounds::BoundingBox;
use crate::topology::{Connectivity, label_components};
use crate::volume::Grid;
use ndarray::{Array3, ArrayView3};

/// Most surface points of a kidney, of the patient's bones, of the template's bones.
const KIDNEY_POINTS: usize = 800;
const BONE_POINTS: usize = 1500;
const TEMPLATE_BONE_POINTS: usize = 2000;
/// Points of a kidney this near to a tumour are not trusted.
const TUMOR_MM: f64 = 6.0;
/// Most surface points of a tumour.
const TUMOR_POINTS: usize = 1500;
/// Fewer voxels than this have no shape.
const LEAST_VOXELS: usize = 8;
/// Fewer points than this away from a tumour are not enough: then all count.
const LEAST_TRUSTED: usize = 50;
/// Radius of the ball whose inside and outside tell a normal.
const NORMAL_MM: f64 = 6.0;
/// Compact bone and most spongy bone of the trunk.
const BONE_HU: f32 = 220.0;
/// Smaller pieces above [`BONE_HU`] are contrast, calcification or noise.
const LEAST_BONE_MM3: f64 = 3000.0;

/// A point of a surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SurfacePoint {
    /// RAS+ mm.
    pub(super) at_mm: [f64; 3],
    /// Unit vector out of the structure; zero where inside and outside are alike on all sides.
    pub(super) normal: [f64; 3],
    /// Whether it is the structure's own surface, not a tumour's.
    pub(super) is_trusted: bool,
}

/// A structure as points.
#[derive(Debug, Clone)]
pub(super) struct Cloud {
    /// Points of the surface, spread evenly over the scan order.
    pub(super) surface: Vec<SurfacePoint>,
    /// Mean of all voxels.
    pub(super) centre_mm: [f64; 3],
    /// Root mean square distance from the centre.
    pub(super) radius_mm: f64,
}

/// A structure's voxels inside of a box of a volume.
struct Body<'a> {
    mask: Array3<bool>,
    /// Where the box begins, `[z, y, x]`.
    start: [usize; 3],
    grid: &'a Grid,
}

impl<'a> Body<'a> {
    fn of(input: &Input<'a>, inside: impl Fn(u16) -> bool + Sync) -> Option<Self> {
        let bounds = BoundingBox::of(input.map, |&v| inside(v))?;
        Some(Self {
            mask: bounds.view(&input.map).ok()?.mapv(inside),
            start: bounds.start,
            grid: input.grid,
        })
    }

    fn world_mm(&self, [z, y, x]: [usize; 3]) -> [f64; 3] {
        self.grid.affine.apply([
            (x + self.start[2]) as f64,
            (y + self.start[1]) as f64,
            (z + self.start[0]) as f64,
        ])
    }

    /// Voxels with a face neighbour outside. The border of the volume cuts a structure and is no surface of it.
    fn surface(&self) -> Vec<[usize; 3]> {
        let shape: [usize; 3] = self.mask.dim().into();
        let is_outside = |at: [usize; 3], axis: usize, forwards: bool| {
            let is_last = at[axis] == if forwards { shape[axis] - 1 } else { 0 };
            if is_last {
                let place = self.start[axis] + at[axis];
                return place
                    != if forwards {
                        self.grid.shape[axis] - 1
                    } else {
                        0
                    };
            }
            let mut near = at;
            near[axis] = if forwards { at[axis] + 1 } else { at[axis] - 1 };
            !self.mask[near]
        };
        (self.mask.indexed_iter())
            .filter(|&(_, &inside)| inside)
            .map(|((z, y, x), _)| [z, y, x])
            .filter(|&at| {
                (0..3).any(|axis| is_outside(at, axis, false) || is_outside(at, axis, true))
            })
            .collect()
    }

    /// The direction away from the inside of a ball around a voxel.
    fn normal(&self, at: [usize; 3]) -> [f64; 3] {
        let shape: [usize; 3] = self.mask.dim().into();
        let [x, y, z] = self.grid.affine.column_norms_mm();
        let reach = [z, y, x].map(|mm| (NORMAL_MM / mm).ceil());
        let range = |axis: usize| {
            let reach = reach[axis] as usize;
            at[axis].saturating_sub(reach)..(at[axis] + reach + 1).min(shape[axis])
        };
        let mut inwards = [0.0; 3];
        for z in range(0) {
            for y in range(1) {
                for x in range(2) {
                    if !self.mask[[z, y, x]] {
                        continue;
                    }
                    let offset = self.grid.affine.apply_vector([
                        x as f64 - at[2] as f64,
                        y as f64 - at[1] as f64,
                        z as f64 - at[0] as f64,
                    ]);
                    if length(offset) <= NORMAL_MM {
                        for (sum, part) in inwards.iter_mut().zip(offset) {
                            *sum += part;
                        }
                    }
                }
            }
        }
        let length = length(inwards);
        if length > 0.0 {
            inwards.map(|part| -part / length)
        } else {
            [0.0; 3]
        }
    }

    /// `count` points of the surface and the moments of the whole, `None` with hardly a voxel.
    fn cloud(&self, count: usize) -> Option<Cloud> {
        let voxels = || {
            (self.mask.indexed_iter())
                .filter(|&(_, &inside)| inside)
                .map(|((z, y, x), _)| self.world_mm([z, y, x]))
        };
        let number = voxels().count();
        if number < LEAST_VOXELS {
            return None;
        }
        let mut centre_mm = [0.0; 3];
        for place in voxels() {
            for (sum, part) in centre_mm.iter_mut().zip(place) {
                *sum += part / number as f64;
            }
        }
        let squared = voxels().map(|place| distance(place, centre_mm).powi(2));
        let radius_mm = (squared.sum::<f64>() / number as f64).sqrt();
        let surface = thinned(self.surface(), count).into_iter();
        let surface = surface.map(|at| SurfacePoint {
            at_mm: self.world_mm(at),
            normal: self.normal(at),
            is_trusted: true,
        });
        Some(Cloud {
            surface: surface.collect(),
            centre_mm,
            radius_mm,
        })
    }
}

fn length(vector: [f64; 3]) -> f64 {
    vector.iter().map(|part| part * part).sum::<f64>().sqrt()
}

/// Straight distance between two points.
pub(super) fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    length(std::array::from_fn(|axis| a[axis] - b[axis]))
}

/// `count` of the points at equal distances in the list.
fn thinned<T: Copy>(points: Vec<T>, count: usize) -> Vec<T> {
    if points.len() <= count {
        return points;
    }
    (0..count)
        .map(|index| points[index * points.len() / count])
        .collect()
}

/// A kidney of the template.
pub(super) fn template_kidney(input: &Input<'_>, label: u16) -> Option<Cloud> {
    Body::of(input, |v| v != 0 && v == label)?.cloud(KIDNEY_POINTS)
}

/// The template's bones.
pub(super) fn template_bones(input: &Input<'_>, labels: &[u16]) -> Option<Cloud> {
    Body::of(input, |v| v != 0 && labels.contains(&v))?.cloud(TEMPLATE_BONE_POINTS)
}

/// A kidney of the patient with the tumours that touch it. Points near a tumour are not trusted. The tumour
/// counts for centre and radius while it is smaller than half of the kidney.
pub(super) fn patient_kidney(patient: &Patient<'_>, label: u16) -> Result<Option<Cloud>, Error> {
    let input = &patient.input;
    let is_tumor = |v: u16| v != 0 && patient.tumors.contains(&v);
    let Some(own) = Body::of(input, |v| v != 0 && v == label) else {
        return Ok(None);
    };
    let Some(mut whole) = Body::of(input, |v| v != 0 && v == label || is_tumor(v)) else {
        return Ok(None);
    };
    let pieces = label_components(whole.mask.view(), Connectivity::Six)?;
    let numbers = pieces.numbers();
    let mut touches = vec![false; pieces.len()];
    for (((z, y, x), &number), &inside) in numbers.indexed_iter().zip(&whole.mask) {
        let [z0, y0, x0] = whole.start;
        if inside && number > 0 && input.map[[z + z0, y + y0, x + x0]] == label {
            touches[number as usize - 1] = true;
        }
    }
    whole.mask = pieces.mask(|number, _| touches[number]);
    let Some(mut cloud) = whole.cloud(KIDNEY_POINTS) else {
        return Ok(None);
    };
    if let Some(tumor) = Body::of(input, is_tumor) {
        let tumor = thinned(tumor.surface(), TUMOR_POINTS)
            .into_iter()
            .map(|at| tumor.world_mm(at))
            .collect::<Vec<_>>();
        for point in &mut cloud.surface {
            let is_far = |&other: &[f64; 3]| distance(point.at_mm, other) > TUMOR_MM;
            point.is_trusted = tumor.iter().all(is_far);
        }
        if (cloud.surface.iter().filter(|point| point.is_trusted)).count() < LEAST_TRUSTED {
            for point in &mut cloud.surface {
                point.is_trusted = true;
            }
        }
    }
    let voxels = |body: &Body<'_>| body.mask.iter().filter(|&&inside| inside).count();
    if voxels(&whole) * 2 >= voxels(&own) * 3
        && let Some(alone) = own.cloud(0)
    {
        cloud.centre_mm = alone.centre_mm;
        cloud.radius_mm = alone.radius_mm;
    }
    Ok(Some(cloud))
}

/// The bones in the patient's CT: large bright pieces without a given label.
pub(super) fn patient_bones(patient: &Patient<'_>) -> Option<Cloud> {
    let image: ArrayView3<'_, f32> = patient.image?;
    let given = |v: u16| patient.kidneys.contains(&v) || patient.tumors.contains(&v);
    let mut mask = image.mapv(|hu| hu > BONE_HU);
    mask.zip_mut_with(&patient.input.map, |bone, &v| *bone &= !given(v));
    let voxel_mm3 = patient.input.grid.affine.determinant().abs();
    let pieces = label_components(mask.view(), Connectivity::TwentySix).ok()?;
    let mask = pieces.mask(|_, piece| piece.voxels as f64 * voxel_mm3 >= LEAST_BONE_MM3);
    let body = Body {
        mask,
        start: [0; 3],
        grid: patient.input.grid,
    };
    body.cloud(BONE_POINTS)
}
