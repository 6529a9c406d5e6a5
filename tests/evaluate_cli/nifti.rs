//! NIfTI-1 files written by hand, so that what is unusual about them is not the doing of our own writer.

use std::path::Path;

/// How the voxels are stored.
#[derive(Clone, Copy)]
pub enum Stored {
    U8,
    U16,
    I16,
    I32,
    F32,
    F64,
}

/// A small label map and how its file is made.
#[derive(Clone)]
pub struct File {
    pub shape_xyz: [u16; 3],
    pub spacing_xyz_mm: [f32; 3],
    pub labels: Vec<u16>,
    pub stored: Stored,
    pub big_endian: bool,
    /// Stored values are labels divided by this.
    pub slope: f32,
    /// A fourth axis of length 1.
    pub trailing_axis: bool,
    /// The affine is in the quaternion; no sform.
    pub qform_only: bool,
    pub origin_mm: [f32; 3],
}

impl File {
    /// A little-endian `uint8` file with an sform.
    pub fn new(shape_xyz: [u16; 3], label: impl Fn([u16; 3]) -> u16) -> Self {
        let [nx, ny, nz] = shape_xyz;
        let voxels =
            (0..nz).flat_map(|z| (0..ny).flat_map(move |y| (0..nx).map(move |x| [x, y, z])));
        Self {
            shape_xyz,
            spacing_xyz_mm: [1.0, 1.5, 2.5],
            labels: voxels.map(label).collect(),
            stored: Stored::U8,
            big_endian: false,
            slope: 1.0,
            trailing_axis: false,
            qform_only: false,
            origin_mm: [10.0, -20.0, 30.0],
        }
    }

    /// A box of `label` from `start` to `end` (exclusive) in a volume of 12 x 10 x 8 voxels.
    pub fn with_box(label: u16, start: [u16; 3], end: [u16; 3]) -> Self {
        Self::new([12, 10, 8], |at| {
            let inside = (0..3).all(|axis| (start[axis]..end[axis]).contains(&at[axis]));
            if inside { label } else { 0 }
        })
    }

    pub fn save(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, self.bytes()).unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0_u8; 352];
        let (code, size) = match self.stored {
            Stored::U8 => (2, 1),
            Stored::I16 => (4, 2),
            Stored::I32 => (8, 4),
            Stored::F32 => (16, 4),
            Stored::F64 => (64, 8),
            Stored::U16 => (512, 2),
        };
        let [nx, ny, nz] = self.shape_xyz;
        let axes = if self.trailing_axis { 4 } else { 3 };
        self.put(&mut out, 0, &348_i32.to_be_bytes());
        for (index, value) in [axes, nx, ny, nz, 1, 1, 1, 1].into_iter().enumerate() {
            self.put(&mut out, 40 + 2 * index, &value.to_be_bytes());
        }
        self.put(&mut out, 70, &i16::to_be_bytes(code));
        self.put(&mut out, 72, &i16::to_be_bytes(size * 8));
        let [dx, dy, dz] = self.spacing_xyz_mm;
        for (index, value) in [1.0, dx, dy, dz].into_iter().enumerate() {
            self.put(&mut out, 76 + 4 * index, &value.to_be_bytes());
        }
        self.put(&mut out, 108, &352_f32.to_be_bytes());
        self.put(&mut out, 112, &self.slope.to_be_bytes());
        out[123] = 2; // millimetres
        let forms: [i16; 2] = if self.qform_only { [1, 0] } else { [0, 1] };
        self.put(&mut out, 252, &forms[0].to_be_bytes());
        self.put(&mut out, 254, &forms[1].to_be_bytes());
        for axis in 0..3 {
            let place = self.origin_mm[axis].to_be_bytes();
            if self.qform_only {
                self.put(&mut out, 268 + 4 * axis, &place);
            } else {
                let row = 280 + 16 * axis;
                self.put(
                    &mut out,
                    row + 4 * axis,
                    &self.spacing_xyz_mm[axis].to_be_bytes(),
                );
                self.put(&mut out, row + 12, &place);
            }
        }
        out[344..348].copy_from_slice(b"n+1\0");
        for &label in &self.labels {
            let value = f64::from(label) / f64::from(self.slope);
            let bytes = match self.stored {
                Stored::U8 => (value as u8).to_be_bytes().to_vec(),
                Stored::U16 => (value as u16).to_be_bytes().to_vec(),
                Stored::I16 => (value as i16).to_be_bytes().to_vec(),
                Stored::I32 => (value as i32).to_be_bytes().to_vec(),
                Stored::F32 => (value as f32).to_be_bytes().to_vec(),
                Stored::F64 => value.to_be_bytes().to_vec(),
            };
            let end = out.len();
            out.resize(end + bytes.len(), 0);
            self.put(&mut out, end, &bytes);
        }
        out
    }

    /// Puts big-endian bytes in the order of the file.
    fn put(&self, out: &mut [u8], at: usize, bytes: &[u8]) {
        let room = &mut out[at..at + bytes.len()];
        room.copy_from_slice(bytes);
        if !self.big_endian {
            room.reverse();
        }
    }
}
