"""Small NRRD and MetaImage files with what SimpleITK reads in them.

    python make.py FOLDER [REAL]

writes the files and expected.json into FOLDER with SimpleITK 2.5, all synthetic; with REAL, a folder
of real NRRD files, also what is in those (sizes, places and checksums only) as shared.json.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

out = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
rng = np.random.default_rng(7)


def rotation(a, b):
    ca, sa, cb, sb = math.cos(a), math.sin(a), math.cos(b), math.sin(b)
    return (np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cb, -sb], [0, sb, cb]])).ravel()


def image(dtype, shape=(3, 4, 5), vector=False):
    info = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else None
    low, high = (max(info.min, -1000), min(info.max, 3000)) if info else (-2, 2)
    values = rng.uniform(low, high, shape).astype(dtype)
    made = sitk.GetImageFromArray(values, isVector=vector)
    made.SetSpacing((0.7, 0.8, 2.5))
    made.SetOrigin((-11.25, 33.1, 1e-3))
    made.SetDirection(rotation(0.3, -0.2))
    return made


plain = image(np.int16)
for name, compressed in [
    ("plain.nrrd", False), ("gzip.nrrd", True), ("detached.nhdr", False), ("detached_gzip.nhdr", True),
    ("plain.mha", False), ("zlib.mha", True), ("detached.mhd", False), ("detached_zlib.mhd", True),
]:
    sitk.WriteImage(plain, str(out / name), compressed)
for dtype in (np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64):
    sitk.WriteImage(image(dtype), str(out / f"{np.dtype(dtype).name}.nrrd"), True)
    sitk.WriteImage(image(dtype), str(out / f"{np.dtype(dtype).name}.mha"), True)
sitk.WriteImage(image(np.int16, (3, 4, 5, 2), vector=True), str(out / "vector.nrrd"), True)
sitk.WriteImage(image(np.int16, (3, 4, 5, 2), vector=True), str(out / "vector.mha"), True)

# Header variants that writers other than ITK make; SimpleITK says what they mean.
values = sitk.GetArrayFromImage(plain)
big = values.astype(">i2").tobytes()
(out / "big_endian.nrrd").write_bytes(
    b"NRRD0005\n# a comment\ntype: int16_t\ndimension: 3\nspace: RAS\nsizes: 5 4 3\n"
    b"space directions: (-0.5,0,0) (0,0.5,0) (0.1,0,3)\nendian: big\nencoding: raw\nspace origin: (1,2,3)\n\n" + big)
(out / "left_anterior.nrrd").write_bytes(
    b"NRRD0004\ntype: short\ndimension: 3\nspace: left-anterior-superior\nsizes: 5 4 3\n"
    b"space directions: (0.5,0,0) (0,0.5,0) (0,0,3)\nendian: little\nencoding: raw\nspace origin: (1,2,3)\n\n"
    + values.astype("<i2").tobytes())
(out / "spacings.nrrd").write_bytes(
    b"NRRD0001\ntype: short\ndimension: 3\nsizes: 5 4 3\nspacings: 0.5 0.25 2\nendian: little\nencoding: raw\n\n"
    + values.astype("<i2").tobytes())
(out / "big_endian.mha").write_bytes(
    b"NDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\nElementSize = 0.5 0.25 2\nPosition = 1 2 3\n"
    b"ElementByteOrderMSB = True\nElementDataFile = LOCAL\n" + big)

def describe(path):
    read = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(read)
    channels = read.GetNumberOfComponentsPerPixel()
    if channels > 1:
        array = np.moveaxis(array, -1, 0)
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    return {
        "datatype": array.dtype.name,
        "size_xyz": read.GetSize(),
        "channels": channels,
        "spacing_mm_xyz": read.GetSpacing(),
        "origin_lps_mm": read.GetOrigin(),
        "direction_lps": read.GetDirection(),
        "sha256": hashlib.sha256(little.tobytes()).hexdigest(),
    }


def describe_all(folder):
    endings = (".nrrd", ".nhdr", ".mha", ".mhd")
    return {path.name: describe(path) for path in sorted(folder.iterdir()) if path.suffix in endings}


expected = describe_all(out)
(out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
if len(sys.argv) > 2:
    (out / "shared.json").write_text(json.dumps(describe_all(Path(sys.argv[2])), indent=1) + "\n")
