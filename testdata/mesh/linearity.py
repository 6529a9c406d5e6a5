#!/usr/bin/env python3
"""Time and memory of `medseg smooth` over surface sizes, as a Markdown table.

    python linearity.py MEDSEG [ROUNDS]

Needs numpy and nibabel. Maps of 256 x 256 x 256 voxels hold 1, 8, 64 and 512 balls of equal size, ten labels in turn; the surface
grows with the number. Runs are interleaved, a row has the medians. What does not grow with the surface is taken off with a map of one
voxel: the last columns are per million triangles.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import nibabel
import numpy

SIZE = 256


def make(path, per_axis):
    data = numpy.zeros((SIZE,) * 3, numpy.uint8)
    if per_axis == 0:
        data[9, 9, 9] = 1
    else:
        z, y, x = (numpy.arange(SIZE).reshape([-1 if axis == at else 1 for axis in range(3)]) for at in range(3))
        # One radius for all: 512 of them still fit side by side.
        cell = SIZE // 8
        balls = [(a, b, c) for a in range(per_axis) for b in range(per_axis) for c in range(per_axis)]
        for index, place in enumerate(balls):
            low = [cell * at for at in place]
            part = tuple(slice(start, start + cell) for start in low)
            grid = sum((axis - (cell - 1) / 2) ** 2 for axis in (z[:cell], y[:, :cell], x[:, :, :cell]))
            data[part][grid < (0.47 * cell) ** 2] = index % 10 + 1
    nibabel.save(nibabel.Nifti1Image(data, numpy.eye(4)), path)


def run(medseg, path, output):
    command = [medseg, "smooth", "-q", "-i", path, "-o", output, "--force", "--json"]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, child.returncode
    triangles = sum(row["triangles"] for row in json.loads(text)["labels"])
    return triangles, time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    medseg, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    sizes = [0, 1, 2, 4, 8]
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: os.path.join(folder, f"{size}.nii") for size in sizes}
        for size, path in paths.items():
            make(path, size)
        runs = {size: [] for size in sizes}
        for _ in range(rounds):
            for size, path in paths.items():
                runs[size].append(run(medseg, path, os.path.join(folder, "out")))
    medians = {size: [statistics.median(column) for column in zip(*runs[size])] for size in sizes}
    _, _, base_cpu, base_mib = medians[0]
    print("| balls | triangles | wall s | processor s | peak MiB | processor s per M | MiB per M |")
    print("|---|---|---|---|---|---|---|")
    for size in sizes[1:]:
        triangles, wall, cpu, mib = medians[size]
        million = triangles / 1e6
        print(f"| {size**3} | {triangles:.0f} | {wall:.2f} | {cpu:.2f} | {mib:.0f} | {(cpu - base_cpu) / million:.2f} | {(mib - base_mib) / million:.0f} |")


if __name__ == "__main__":
    main()
