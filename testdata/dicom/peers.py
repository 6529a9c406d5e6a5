#!/usr/bin/env python3
"""peers.py MEDSEG FOLDER - every series below FOLDER as medseg, SimpleITK (GDCM) and dicom2nifti read it.

Prints a Markdown table: for each series what medseg makes of it and whether the peers give the same voxels at the same
places (turned to RAS+; places within 0.01 mm, values within 0.01), or what they do instead. nibabel reads what medseg
and dicom2nifti wrote, and the affine of the first slice by nibabel.nicom where it has one.
pip install SimpleITK dicom2nifti nibabel pydicom python-gdcm pylibjpeg-libjpeg pylibjpeg-openjpeg
"""
import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import warnings

import nibabel
import numpy as np
import SimpleITK as sitk

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
sitk.ProcessObject.SetGlobalWarningDisplay(False)


def canonical(data, affine):
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.asarray(data, np.float32), affine))
    return np.asarray(image.dataobj), image.affine


def of_medseg(medseg, series, here):
    path = os.path.join(here, "medseg.nii.gz")
    done = subprocess.run([medseg, "convert", "-q", "-i", series, "-o", path, "--force"], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip().removeprefix("error: ").replace(series, "")[:150])
    image = nibabel.load(path)
    return canonical(image.dataobj, image.affine)


def of_simpleitk(series, _):
    reader = sitk.ImageSeriesReader()
    ids = reader.GetGDCMSeriesIDs(series)
    if len(ids) > 1:
        raise ValueError("%d series, reads the one named" % len(ids))
    names = reader.GetGDCMSeriesFileNames(series, ids[0]) if ids else [
        os.path.join(series, name) for name in sorted(os.listdir(series))]
    if len(names) == 1:
        image = sitk.ReadImage(names[0])
    else:
        reader.SetFileNames(names)
        image = reader.Execute()
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    affine = np.diag([-1, -1, 1, 1]) @ affine
    return canonical(sitk.GetArrayFromImage(image).squeeze().transpose(2, 1, 0) if sitk.GetArrayFromImage(image).ndim == 3
                     else sitk.GetArrayFromImage(image), affine)


def of_dicom2nifti(series, here):
    import dicom2nifti
    path = os.path.join(here, "dicom2nifti.nii.gz")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        dicom2nifti.dicom_series_to_nifti(series, path, reorient_nifti=False)
    image = nibabel.load(path)
    return canonical(image.dataobj, image.affine)


def verdict(ours, theirs):
    if isinstance(ours, Exception) and isinstance(theirs, Exception):
        return "refuses too: %s" % theirs
    if isinstance(theirs, Exception):
        return "refuses: %s" % theirs
    if isinstance(ours, Exception):
        return "reads %s" % " x ".join(map(str, theirs[0].shape))
    (data, affine), (other, place) = ours, theirs
    if data.shape != other.shape:
        return "another shape: %s" % " x ".join(map(str, other.shape))
    corners = np.array([[x, y, z, 1] for x in (0, data.shape[0] - 1) for y in (0, data.shape[1] - 1)
                        for z in (0, data.shape[2] - 1)], float)
    apart = np.abs(corners @ affine.T - corners @ place.T).max()
    differ = np.abs(data - other) > 0.01
    if apart < 0.01 and not differ.any():
        return "the same"
    return "up to %.3g mm apart, %d voxels differ (up to %.4g)" % (apart, differ.sum(), np.abs(data - other).max())


def attempt(read, *arguments):
    try:
        return read(*arguments)
    except Exception as problem:  # noqa: BLE001 - every way to refuse is a result here
        text = " ".join(str(problem).split()) or type(problem).__name__
        return ValueError(text.split("Exception thrown")[-1][:90])


def main():
    medseg, root = sys.argv[1], os.path.abspath(sys.argv[2])
    folders = sorted({folder for folder, _, files in os.walk(root) if any(not name.endswith((".json", ".gz", ".nrrd", ".jpg"))
                                                                      for name in files)})
    print("| series | medseg | SimpleITK (GDCM) | dicom2nifti |\n|---|---|---|---|")
    for series in folders:
        if series == root:
            continue
        with tempfile.TemporaryDirectory() as here:
            ours = attempt(of_medseg, medseg, series, here)
            shown = "refuses: %s" % ours if isinstance(ours, Exception) else " x ".join(map(str, ours[0].shape))
            cells = [verdict(ours, attempt(read, series, here)) for read in (of_simpleitk, of_dicom2nifti)]
            name = os.path.relpath(series, root)
            print("| %s |" % " | ".join([name, shown, *cells]).replace("\n", " ").replace(root, ""), flush=True)


if __name__ == "__main__":
    main()
