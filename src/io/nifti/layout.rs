//! The header of an output, field by field.

use super::super::error::{Error, Result};
use super::super::{metaimage, nrrd};
use super::{Compression, Datatype, Extension, Format, Geometry, Version};

/// What a file is to hold, before its voxels are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Shape of each volume, `[z, y, x]`.
    pub shape: [usize; 3],
    /// Number of volumes; more than 1 makes a 4-D file.
    pub channels: usize,
    /// Type of the voxels.
    pub datatype: Datatype,
    /// Position fields, written bit for bit.
    pub geometry: Geometry,
    /// Header extensions. A label table among them is kept by NRRD as well; MetaImage keeps none.
    pub extensions: Vec<Extension>,
    /// Kind of file.
    pub format: Format,
}

impl Layout {
    /// One volume without extensions.
    pub fn new(shape: [usize; 3], datatype: Datatype, geometry: Geometry) -> Self {
        Self {
            shape,
            channels: 1,
            datatype,
            geometry,
            extensions: Vec::new(),
            format: Format::Nifti,
        }
    }

    pub(super) fn voxel_count(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product::<u64>() * self.channels as u64
    }

    /// The header with its extensions: everything before the voxels.
    pub(super) fn encode(&self, file: &str, compression: Compression) -> Result<Vec<u8>> {
        if self.voxel_count() == 0 {
            return Err(Error::Parameter(format!(
                "{file}: shape {:?} has no voxels",
                self.shape
            )));
        }
        match self.format {
            Format::Nifti => Ok(self.encode_nifti()),
            Format::Nrrd => nrrd::header(self, compression, file),
            Format::MetaImage => metaimage::header(self, file),
            Format::Picture => Err(Error::Parameter(format!(
                "{file}: only label maps are written as pictures"
            ))),
            Format::Dicom => Err(Error::Parameter(format!(
                "{file}: DICOM is no format of one volume in one file"
            ))),
        }
    }

    fn encode_nifti(&self) -> Vec<u8> {
        let [z, y, x] = self.shape;
        let axes = if self.channels > 1 {
            4
        } else if z == 1 {
            self.geometry.axes
        } else {
            3
        };
        let dim = [axes, x, y, z, self.channels, 1, 1, 1];
        let mut head = match self.geometry.version {
            Version::One if dim.iter().all(|&n| n <= 32767) => self.encode_nifti1(dim),
            _ => self.encode_nifti2(dim),
        };
        let flag = u8::from(!self.extensions.is_empty());
        head.extend([flag, 0, 0, 0]);
        for extension in &self.extensions {
            extension.encode(&mut head);
        }
        head
    }

    fn vox_offset(&self, header: u64) -> u64 {
        let extensions: u64 = self.extensions.iter().map(Extension::stored_bytes).sum();
        header + 4 + extensions
    }

    fn encode_nifti1(&self, dim: [usize; 8]) -> Vec<u8> {
        let g = &self.geometry;
        let mut out = Encoder::new(348);
        out.i32(348);
        out.zeros(35);
        out.bytes(&[g.dim_info]);
        for size in dim {
            out.i16(size as i64);
        }
        out.zeros(14); // intent
        out.i16(i64::from(self.datatype.code()));
        out.i16(self.datatype.bytes() as i64 * 8);
        out.zeros(2); // slice_start
        for value in g.pixdim {
            out.f32(value);
        }
        out.f32(self.vox_offset(348) as f64);
        out.f32(1.0); // scl_slope
        out.f32(0.0); // scl_inter
        out.zeros(3); // slice_end, slice_code
        out.bytes(&[g.xyzt_units as u8]);
        out.zeros(24 + 80 + 24); // calibration, times, description, aux_file
        out.i16(i64::from(g.qform_code));
        out.i16(i64::from(g.sform_code));
        for &value in g
            .quatern
            .iter()
            .chain(&g.qoffset)
            .chain(g.srow.iter().flatten())
        {
            out.f32(value);
        }
        out.zeros(16); // intent_name
        out.bytes(b"n+1\0");
        out.out
    }

    fn encode_nifti2(&self, dim: [usize; 8]) -> Vec<u8> {
        let g = &self.geometry;
        let mut out = Encoder::new(540);
        out.i32(540);
        out.bytes(b"n+2\0\r\n\x1a\n");
        out.i16(i64::from(self.datatype.code()));
        out.i16(self.datatype.bytes() as i64 * 8);
        for size in dim {
            out.i64(size as i64);
        }
        out.zeros(24); // intent parameters
        for value in g.pixdim {
            out.f64(value);
        }
        out.i64(self.vox_offset(540) as i64);
        out.f64(1.0); // scl_slope
        out.f64(0.0); // scl_inter
        out.zeros(32 + 16 + 80 + 24); // calibration, times, slices, description, aux_file
        out.i32(g.qform_code);
        out.i32(g.sform_code);
        for &value in g
            .quatern
            .iter()
            .chain(&g.qoffset)
            .chain(g.srow.iter().flatten())
        {
            out.f64(value);
        }
        out.zeros(4); // slice_code
        out.i32(g.xyzt_units);
        out.zeros(4 + 16); // intent
        out.bytes(&[g.dim_info]);
        out.zeros(15);
        out.out
    }
}

/// Little-endian fields one after the other.
struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    fn new(bytes: usize) -> Self {
        Self {
            out: Vec::with_capacity(bytes + 4),
        }
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
    fn zeros(&mut self, count: usize) {
        self.out.resize(self.out.len() + count, 0);
    }
    fn i16(&mut self, value: i64) {
        self.bytes(&(value as i16).to_le_bytes());
    }
    fn i32(&mut self, value: i32) {
        self.bytes(&value.to_le_bytes());
    }
    fn i64(&mut self, value: i64) {
        self.bytes(&value.to_le_bytes());
    }
    fn f32(&mut self, value: f64) {
        self.bytes(&(value as f32).to_le_bytes());
    }
    fn f64(&mut self, value: f64) {
        self.bytes(&value.to_le_bytes());
    }
}
