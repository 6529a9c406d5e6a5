#!/usr/bin/env python3
"""topology.py MEDSEG TOPOLOGY_TIMES MASK [--label 1] [--pairs 7] [--full] - skeletons and repaired vessels against Python, in turns.

Three races on one label map, a fresh process for every run, always one of each kind after the other:

chain    components + distance + skeleton: `examples/topology_times.rs` (which also lists the voxels and finds their box) against
         cc3d + edt (two threads) + Lee thinning of scikit-image on the bounding box
slow     the same against SciPy's label and distance transform and Lee thinning, on the box; with --full on the whole volume
         (minutes, 4 GB)
command  `medseg vessel-connect` of MASK with twenty holes cut into it against `medseg convert` of the same file, whole processes,
         with their processor time and what the repair takes above the conversion in bytes per voxel

The peers count their calls alone: no start, imports, reading, nor finding the box. Prints medians and the range of the paired ratios.
pip install numpy nibabel scipy scikit-image connected-components-3d edt
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

# Cuts balls of eight voxels out of the structure at twenty of its voxels, and prints the number of voxels of the volume. A process
# of its own, as is every peer: what this one held in memory would count as that of the programs it starts.
HOLES = """
import sys, nibabel, numpy
path, label, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
image = nibabel.load(path)
voxels = numpy.asarray(image.dataobj).copy()
places = numpy.argwhere(voxels == label)
ball = numpy.indices((21, 21, 21)) - 10
ball = (ball ** 2).sum(0) <= 64
for place in places[numpy.random.default_rng(3).integers(len(places), size=20)]:
    low = place - 10
    if (low < 0).any() or (low + 21 > voxels.shape).any():
        continue
    around = voxels[tuple(slice(start, start + 21) for start in low)]
    around[ball & (around == label)] = 0
nibabel.save(nibabel.Nifti1Image(voxels, image.affine), out)
print(voxels.size)
"""

PEER = """
import sys, time, json, nibabel, numpy
from scipy import ndimage
from skimage.morphology import skeletonize
import cc3d, edt
kind, path, label = sys.argv[1], sys.argv[2], int(sys.argv[3])
image = nibabel.load(path)
spacing = tuple(float(mm) for mm in image.header.get_zooms()[:3])
mask = (numpy.asarray(image.dataobj) == label).astype(numpy.uint8)
laps = [time.perf_counter()]
def lap():
    laps.append(time.perf_counter())
if kind != "full":
    box = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in ndimage.find_objects(mask)[0])
    mask = numpy.ascontiguousarray(mask[box])
lap()
if kind == "best":
    cc3d.connected_components(mask, connectivity=26)
    lap()
    edt.edt(mask, anisotropy=spacing, parallel=2)
else:
    ndimage.label(mask, numpy.ones((3, 3, 3)))
    lap()
    ndimage.distance_transform_edt(mask, sampling=spacing)
lap()
skeletonize(mask.astype(bool), method="lee")
lap()
print(json.dumps(dict(zip(("box", "components", "distance", "thinning"), numpy.diff(laps)), whole=laps[-1] - laps[1])))
"""


def last_line(command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def process(command):
    """Wall seconds, processor seconds and peak bytes."""
    started = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    if status:
        sys.exit("failed: %s" % " ".join(command))
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def ratios(above, below):
    pairs = [a / b for a, b in zip(above, below)]
    return "%.2f (%.2f to %.2f)" % (statistics.median(pairs), min(pairs), max(pairs))


def stages(runs):
    return ", ".join("%s %.3f" % (stage, statistics.median(run[stage] for run in runs)) for stage in runs[0])


def chain(args, kind, pairs):
    ours, theirs = [], []
    for _ in range(pairs):
        mine = last_line([args.times, args.mask, str(args.label), "1"])
        ours.append({stage: mine[stage] for stage in ("list", "components", "distance", "thinning", "whole")})
        theirs.append(last_line([sys.executable, "-c", PEER, kind, args.mask, str(args.label)]))
    print("%s: medseg %s; peer %s; peer over medseg %s" % (
        kind, stages(ours), stages(theirs), ratios([t["whole"] for t in theirs], [o["whole"] for o in ours])), flush=True)


def command(args):
    with tempfile.TemporaryDirectory() as here:
        cut = os.path.join(here, "cut.nii.gz")
        voxels = last_line([sys.executable, "-c", HOLES, args.mask, str(args.label), cut])
        both = [["convert"], ["vessel-connect", "--label", str(args.label)]]
        runs = [[], []]
        for _ in range(args.pairs):
            for what, found in zip(both, runs):
                out = os.path.join(here, what[0] + ".nii.gz")
                found.append(process([args.medseg, *what, "-q", "--force", "-i", cut, "-o", out]))
        for what, found in zip(both, runs):
            print("%s: %s s, %s s of processor time, peak %.0f MiB" % (
                what[0], *("%.3f" % statistics.median(run[at] for run in found) for at in (0, 1)),
                max(run[2] for run in found) / 2 ** 20))
        convert, connect = runs
        above = statistics.median(b[2] - a[2] for a, b in zip(convert, connect)) / voxels
        print("vessel-connect over convert %s, processor time %s, %.2f bytes per voxel above it" % (
            ratios([b[0] for b in connect], [a[0] for a in convert]),
            ratios([b[1] for b in connect], [a[1] for a in convert]), above), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("medseg")
    parser.add_argument("times", metavar="TOPOLOGY_TIMES")
    parser.add_argument("mask")
    parser.add_argument("--label", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    command(args)
    chain(args, "best", args.pairs)
    chain(args, "box", min(args.pairs, 3))
    if args.full:
        chain(args, "full", 1)


if __name__ == "__main__":
    main()
