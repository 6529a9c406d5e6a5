#!/usr/bin/env python3
"""dicom_judges.py MEDSEG SERIES [SERIES ...] - our DICOM objects before independent readers.

For every series a label map of several shapes (blocks, shells with holes, single voxels, an empty first and last
slice) is written as a segmentation and as a structure set, and read back:
  segmentation   dciodvfy (no error), highdicom by source image, pydicom by frame, dcmqi segimage2itkimage: voxel for
                 voxel the label map; medseg itself: on the grid of the series
  structure set  dciodvfy (no error), every coordinate a valid DS, a fill by pixel centres (volume error in percent, at most
                 1), and rt-utils opens it
Needs dciodvfy (Debian package dicom3tools) and pip install highdicom dcmqi pydicom rt-utils SimpleITK. Exit code 1 when
any judge objects.
"""
import glob
import os
import subprocess
import sys
import tempfile
import warnings

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk

warnings.filterwarnings("ignore")


def slices_of(series):
    """The headers of a series of single-frame files, sorted along the normal; pixels are not read."""
    files = [path for path in glob.glob(os.path.join(series, "**"), recursive=True) if os.path.isfile(path)]
    images = [pydicom.dcmread(path, force=True, stop_before_pixels=True) for path in files]
    images = [image for image in images if "ImagePositionPatient" in image]
    axes = np.array(images[0].ImageOrientationPatient, float)
    normal = np.cross(axes[:3], axes[3:])
    images.sort(key=lambda image: float(np.dot(normal, np.array(image.ImagePositionPatient, float))))
    return images


def painted(shape):
    """A label map with everything that is easy to get wrong."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(x**2 + y**2)
    labels = np.zeros(shape, np.uint8)
    labels[(radius < 0.8) & (radius > 0.5)] = 9
    labels[(np.abs(x) < 0.2) & (np.abs(y) < 0.3)] = 3
    labels[(np.abs(x - 0.65) < 0.1) & (np.abs(y) < 0.1)] = 0
    labels[:, 1, 1] = 11
    labels[:, 2, 2] = 11
    if shape[0] > 2:
        labels[0] = 0
        labels[-1] = 0
    return labels


def uid_of(image):
    return str(image.get("SOPInstanceUID") or image.file_meta.MediaStorageSOPInstanceUID)


def errors_of(path):
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def judge_segmentation(medseg, path, labels, images, scratch):
    """One line for every judge: name, verdict, whether it holds."""
    numbers = sorted(set(np.unique(labels)) - {0})
    dense = np.zeros_like(labels)
    for segment, label in enumerate(numbers, 1):
        dense[labels == label] = segment
    errors = errors_of(path)
    yield "dciodvfy", "%d errors %s" % (len(errors), errors[:2]), not errors
    read = highdicom.seg.segread(path)
    uids = [uid_of(image) for image in images]
    pixels = read.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True)
    yield "highdicom", "%d voxels differ" % (pixels != dense).sum(), bool((pixels == dense).all())
    data = pydicom.dcmread(path)
    frames = data.pixel_array.reshape(-1, *labels.shape[1:])
    found = np.zeros_like(labels)
    for frame, groups in zip(frames, data.PerFrameFunctionalGroupsSequence):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[uids.index(source)][frame > 0] = segment
    yield "pydicom", "%d voxels differ" % (found != dense).sum(), bool((found == dense).all())
    tool = os.path.join(os.path.dirname(sys.executable), "segimage2itkimage")
    out = os.path.join(scratch, "dcmqi")
    os.mkdir(out)
    subprocess.run([tool, "--inputDICOM", path, "--outputDirectory", out, "-t", "nrrd", "--mergeSegments"],
                   capture_output=True, check=False)
    volumes = sorted(glob.glob(os.path.join(out, "*.nrrd")))
    if not volumes:
        yield "dcmqi", "wrote nothing", False
    else:
        grid = sitk.ReadImage(os.path.join(scratch, "labels.nii.gz"))
        merged = sitk.Cast(sitk.ReadImage(volumes[0]), sitk.sitkUInt8)
        merged = sitk.Resample(merged, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        array = sitk.GetArrayFromImage(merged)
        yield "dcmqi", "%d voxels differ" % (array != dense).sum(), bool((array == dense).all())
    compared = subprocess.run([medseg, "compare", "--label-maps", os.path.join(scratch, "labels.nii.gz"), path],
                              capture_output=True, text=True, check=False)
    yield "medseg", "compare exits %d" % compared.returncode, compared.returncode == 0


def filled(polygon, shape):
    """Pixels whose centres lie within a polygon of (x, y) points, by the even-odd rule."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0)):
        if ay == by:
            continue
        crosses = ((ay > y) != (by > y)) & (x < ax + (y - ay) / (by - ay) * (bx - ax))
        inside ^= crosses
    return inside


def judge_structures(path, labels, images, series):
    errors = errors_of(path)
    yield "dciodvfy", "%d errors %s" % (len(errors), errors[:2]), not errors
    data = pydicom.dcmread(path)
    first = images[0]
    axes = np.array(first.ImageOrientationPatient, float)
    spacing = np.array(first.PixelSpacing, float)
    positions = np.array([image.ImagePositionPatient for image in images], float)
    normal = np.cross(axes[:3], axes[3:])
    numbers = sorted(set(np.unique(labels)) - {0})
    longest = 0
    for label, region in zip(numbers, data.ROIContourSequence):
        mask = np.zeros(labels.shape, bool)
        for contour in region.ContourSequence:
            longest = max([longest] + [len(str(value)) for value in contour.ContourData])
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            z = int(np.argmin(np.abs((positions - points[0]) @ normal)))
            moved = points - positions[z]
            plane = np.stack([moved @ axes[:3] / spacing[1], moved @ axes[3:] / spacing[0]], 1)
            mask[z] ^= filled(plane, labels.shape[1:])
        expected = int((labels == label).sum())
        error = 100.0 * abs(int(mask.sum()) - expected) / expected
        wrong = int((mask != (labels == label)).sum())
        yield "centres, label %d" % label, "%d voxels differ, volume error %.3f %%" % (wrong, error), error <= 1.0
    yield "DS", "longest value %d bytes" % longest, longest <= 16
    try:
        from rt_utils import RTStructBuilder
        structures = RTStructBuilder.create_from(dicom_series_path=series, rt_struct_path=path)
        names = structures.get_roi_names()
        yield "rt-utils", "opens, %d regions" % len(names), len(names) == len(numbers)
    except Exception as problem:  # noqa: BLE001 - it refuses series without a StudyInstanceUID
        yield "rt-utils", "not applicable: %s" % str(problem)[:80], True


def main():
    medseg, failed = sys.argv[1], 0
    for series in sys.argv[2:]:
        images = slices_of(series)
        with tempfile.TemporaryDirectory() as scratch:
            volume = os.path.join(scratch, "image.nii.gz")
            subprocess.run([medseg, "convert", "-q", "-i", series, "-o", volume], check=True)
            image = sitk.ReadImage(volume)
            labels = painted(sitk.GetArrayFromImage(image).shape)
            written = sitk.GetImageFromArray(labels)
            written.CopyInformation(image)
            mask = os.path.join(scratch, "labels.nii.gz")
            sitk.WriteImage(written, mask)
            convert = [medseg, "convert", "-q", "-i", mask, "--reference", series, "--labels", "abdomen", "-o"]
            segmentation = os.path.join(scratch, "seg.dcm")
            structures = os.path.join(scratch, "rt.dcm")
            subprocess.run(convert + [segmentation], check=True)
            subprocess.run(convert + [structures, "--to", "rtstruct"], check=True)
            print(series, labels.shape)
            judges = list(judge_segmentation(medseg, segmentation, labels, images, scratch))
            judges += judge_structures(structures, labels, images, series)
            for name, verdict, holds in judges:
                failed += not holds
                print("  %-4s %s: %s" % ("ok" if holds else "FAIL", name, verdict))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
