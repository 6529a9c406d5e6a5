//! Sound files to damage, and a seeded source of damage.

use flate2::write::{GzEncoder, ZlibEncoder};
use medseg::io::nifti::{
    Compression, Datatype, Extension, Format, Geometry, Layout, SliceWriter, Version,
};
use medseg::volume::Grid;
use std::io::Write;

/// Numbers that headers choke on, as 32-bit patterns.
pub const NASTY: [u32; 12] = [
    0,
    1,
    7,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fc0_0000, // NaN
    0x7f80_0000, // infinity
    0x7f7f_ffff, // largest f32
];

/// xorshift64*: small, seeded, the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }
}

/// An int16 volume of 16 x 12 x 10 voxels, uncompressed NIfTI.
pub fn plain(version: Version, extensions: Vec<Extension>) -> Vec<u8> {
    volume(version, extensions, Format::Nifti, Compression::None)
}

fn volume(
    version: Version,
    extensions: Vec<Extension>,
    format: Format,
    compression: Compression,
) -> Vec<u8> {
    let grid = Grid::with_spacing([10, 12, 16], [2.5, 0.8, 0.7]);
    let mut geometry = Geometry::from_grid(&grid);
    geometry.version = version;
    let layout = Layout {
        extensions,
        format,
        ..Layout::new(grid.shape, Datatype::I16, geometry)
    };
    let mut writer = SliceWriter::new(Vec::new(), "x", &layout, compression).unwrap();
    let mut random = Random::new(5);
    let voxels: Vec<i16> = (0..grid.voxel_count())
        .map(|index| (index % 900) as i16 - 400 + random.below(64) as i16)
        .collect();
    writer.append(&voxels).unwrap();
    writer.finish().unwrap()
}

/// One gzip member as most tools write it.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Every kind of single file, with a name for messages.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let extensions = vec![
        Extension::from_text(6, "a comment that is a little longer than one block"),
        Extension::from_text(0, "<CaretExtension/>"),
    ];
    let one = plain(Version::One, Vec::new());
    let two = plain(Version::Two, Vec::new());
    let extended = plain(Version::One, extensions);
    let mut members = gzip(&one[..1000]);
    members.extend(gzip(&one[1000..]));
    let other = |format, compression| volume(Version::One, Vec::new(), format, compression);
    let nrrd = other(Format::Nrrd, Compression::None);
    vec![
        ("packed.nrrd", other(Format::Nrrd, Compression::IMAGES)),
        ("plain.nrrd", nrrd),
        ("plain.mha", other(Format::MetaImage, Compression::None)),
        ("zlib.mha", zlib_metaimage()),
        ("one.nii.gz", gzip(&one)),
        ("two.nii.gz", gzip(&two)),
        ("members.nii.gz", members),
        ("one.nii", one),
        ("two.nii", two),
        ("extended.nii", extended),
    ]
}

/// As ITK writes a compressed MetaImage.
fn zlib_metaimage() -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    let voxels: Vec<u8> = (0..2 * 16 * 12 * 10_u32).map(|n| (n % 251) as u8).collect();
    encoder.write_all(&voxels).unwrap();
    let packed = encoder.finish().unwrap();
    let head = format!(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n\
         CompressedData = True\nCompressedDataSize = {}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n\
         Offset = 1 2 3\nElementSpacing = 0.7 0.8 2.5\nDimSize = 16 12 10\n\
         ElementType = MET_SHORT\nElementDataFile = LOCAL\n",
        packed.len()
    );
    [head.into_bytes(), packed].concat()
}
