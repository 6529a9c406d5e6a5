#!/usr/bin/env python3
"""dicom_series.py MEDSEG SERIES [--slices 512] [--pairs 7] - a long compressed series, medseg against SimpleITK (GDCM).

Makes a series of that many slices out of the slices of SERIES, once as they are compressed and once in RLE, and reads it in
turns: `medseg convert -o /dev/shm/…nii`, and a fresh Python process that lists, reads and writes the same with SimpleITK. The
time of Python's start and imports is measured apart and taken off. Prints the medians, the ratio and the peak memory of both.
pip install pydicom SimpleITK numpy pylibjpeg pylibjpeg-openjpeg
"""
import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time

import pydicom
from pydicom.uid import RLELossless

PEER = """
import sys, SimpleITK as sitk
if len(sys.argv) > 1:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
    sitk.WriteImage(reader.Execute(), sys.argv[2])
"""


def make(source, folder, count, syntax):
    images = [pydicom.dcmread(os.path.join(source, name)) for name in sorted(os.listdir(source))]
    images = [image for image in images if "ImagePositionPatient" in image]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    step = abs(float(images[1].ImagePositionPatient[2]) - float(images[0].ImagePositionPatient[2]))
    if syntax is not None:
        for image in images:
            image.decompress()
            image.compress(syntax)
    os.mkdir(folder)
    for number in range(count):
        image = copy.copy(images[number % len(images)])
        x, y, _ = images[0].ImagePositionPatient
        image.ImagePositionPatient = [x, y, "%.4f" % (step * number)]
        image.SeriesInstanceUID = "1.2.3.4"
        image.InstanceNumber = number + 1
        image.SOPInstanceUID = "1.2.3.4.%d" % (number + 1)
        image.save_as(os.path.join(folder, "IM%04d" % number))


def run(command):
    """Wall seconds and peak MiB."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit("failed: %s" % " ".join(command))
    child.returncode = 0
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("medseg")
    parser.add_argument("series")
    parser.add_argument("--slices", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as here:
        for name, syntax in (("as compressed", None), ("RLE", RLELossless)):
            folder, out = os.path.join(here, "series"), os.path.join(here, "out.nii")
            make(args.series, folder, args.slices, syntax)
            ours, theirs, starts = [], [], []
            for _ in range(args.pairs):
                ours.append(run([args.medseg, "convert", "-q", "--force", "-i", folder, "-o", out]))
                theirs.append(run([sys.executable, "-c", PEER, folder, out]))
                starts.append(run([sys.executable, "-c", PEER])[0])
            start = statistics.median(starts)
            ratios = [(peer[0] - start) / mine[0] for mine, peer in zip(ours, theirs)]
            print("%s, %d slices: medseg %.2f s, SimpleITK %.2f s (+ %.2f s start), ratio %.2f (%.2f to %.2f); peak %.0f and %.0f MiB" % (
                name, args.slices, statistics.median(t for t, _ in ours), statistics.median(t for t, _ in theirs) - start,
                start, statistics.median(ratios), min(ratios), max(ratios),
                max(m for _, m in ours), max(m for _, m in theirs)), flush=True)
            subprocess.run(["rm", "-r", folder, out], check=True)


if __name__ == "__main__":
    main()
