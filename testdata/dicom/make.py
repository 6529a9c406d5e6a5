"""What SimpleITK (GDCM) reads in real DICOM series: sizes, places and checksums.

    python make.py DICOM_FOLDER > shared.json

SimpleITK 2.5 sorts by position as we do; series that it reads although a slice is missing or the
gantry is tilted are written as refused, with the word that our message holds.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

FOLDERS = [
    "ct_abdomen_20", "mr_4slices_plain", "mr_4slices_implicit", "mr_4slices_compressed", "mr_4slices_compressed_j2k",
    "mr_4slices_compressed_jpeg", "mr_4slices_compressed_rle", "mr_nonisotropic", "mr_too_few_slices",
    "dcmqi_23x38x3/image", "dcmqi_ct3slice",
]
FILES = [
    "dcmqi_23x38x3/multiframe/mf.dcm", "pydicom_single/MR_small.dcm", "pydicom_single/MR_small_RLE.dcm",
    "pydicom_single/MR_small_bigendian.dcm", "pydicom_single/MR_small_implicit.dcm", "pydicom_single/CT_small.dcm",
    "pydicom_single/MR_small_jp2klossless.dcm", "highdicom/ct_image.dcm", "mr_enhanced_philips",
]
REFUSED = {
    "ct_gantry_tilt": "tilted gantry", "ct_missing_slice": "missing slice", "pydicom_77654033/CT2": "missing slices",
    "pydicom_77654033": "choose one with --series", "pydicom_77654033/CR1": "ImageOrientationPatient",
    "pydicom_single/MR_truncated.dcm": "truncated",
    "pydicom_single/rtdose.dcm": "ImagePositionPatient",
}


def describe(image):
    values = np.ascontiguousarray(sitk.GetArrayFromImage(image).astype("<f4"))
    return {
        "size_xyz": image.GetSize(), "spacing_mm_xyz": image.GetSpacing(), "origin_lps_mm": image.GetOrigin(),
        "direction_lps": image.GetDirection(), "sha256_f32": hashlib.sha256(values.tobytes()).hexdigest(),
    }


root = Path(sys.argv[1])
found = {name: {"refused": word} for name, word in REFUSED.items()}
for name in FOLDERS:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(root / name)))
    found[name] = describe(reader.Execute())
for name in FILES:
    path = root / name
    path = next(path.iterdir()) if path.is_dir() else path
    image = sitk.ReadImage(str(path))
    found[name] = describe(image[:, :, :, 0] if image.GetDimension() == 4 else image)
json.dump(found, sys.stdout, indent=1)
print()
