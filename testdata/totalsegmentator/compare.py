"""Runs TotalSegmentator itself and medseg on one CT with the same stand-in weights and compares the label maps.

    pip install TotalSegmentator==2.18.0 pyarrow
    python testdata/totalsegmentator/make_weights.py HOME/nnunet/results
    python testdata/totalsegmentator/compare.py CT.nii.gz HOME WORK_FOLDER [--medseg PATH]

Offline: downloads and usage statistics of TotalSegmentator are replaced by nothing. Prints a table of differing
voxels, CPU seconds and peak memory of both; exit code 1 where more than 10 voxels in a million differ.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

RUNS = {
    "totalseg:fastest": ({"fastest": True}, []),
    "totalseg:fast, small blobs removed": ({"fast": True, "remove_small_blobs": True}, ["--remove-small-blobs", "200"]),
    "totalseg": ({"statistics": True}, []),
    "totalseg, 2 labels": ({"roi_subset": ["liver", "femur_left"]}, ["--roi-subset", "liver,femur_left"]),
    "body": ({"task": "body"}, []),
}

PEER = """
import os, sys, json
from pathlib import Path
import torch
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
import totalsegmentator.python_api as api
api.download_pretrained_weights = lambda *a, **k: None
api.send_usage_stats = lambda *a, **k: None
if __name__ == "__main__":
    options = json.loads(sys.argv[3])
    api.totalsegmentator(Path(sys.argv[1]), Path(sys.argv[2]), ml=True, device="cpu", quiet=True, nr_thr_resamp=1,
                         nr_thr_saving=1, **options)
"""


def timed(command, env):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--medseg", default="medseg")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--only", help="a run by name")
    args = parser.parse_args()
    import nibabel
    import numpy

    args.work.mkdir(parents=True, exist_ok=True)
    peer = args.work / "peer.py"
    peer.write_text(PEER)
    env = {**os.environ, "TOTALSEG_HOME_DIR": str(args.home), "OMP_NUM_THREADS": args.threads, "MEDSEG_MODELS": str(args.home)}
    failed = False
    print("| run | voxels | labels found | differing | CPU s TotalSegmentator | CPU s medseg |\n|---|---|---|---|---|---|")
    for name, (options, flags) in RUNS.items():
        if args.only and args.only != name:
            continue
        theirs, ours = args.work / "theirs.nii.gz", args.work / "ours.nii.gz"
        theirs_s = timed([sys.executable, str(peer), str(args.ct), str(theirs), json.dumps(options)], env)
        task = name.split(",")[0]
        command = [args.medseg, "infer", "--task", task, "-i", str(args.ct), "-o", str(ours), "--force", "-q", "--threads", args.threads]
        if options.get("statistics"):
            command += ["--statistics", str(args.work / "ours.json")]
        ours_s = timed(command + flags, env)
        a = numpy.asarray(nibabel.load(theirs).dataobj).astype(int)
        b = numpy.asarray(nibabel.load(ours).dataobj).astype(int)
        assert a.shape == b.shape, (a.shape, b.shape)
        assert (nibabel.load(theirs).affine == nibabel.load(ours).affine).all()
        differing = int((a != b).sum())
        found = len(numpy.unique(a)) - 1
        print(f"| `{name}` | {a.size} | {found} | {differing} | {theirs_s:.1f} | {ours_s:.1f} |", flush=True)
        failed |= differing > 10e-6 * a.size
        if options.get("statistics"):
            failed |= compare_statistics(args.work / "statistics.json", args.work / "ours.json")
    sys.exit(failed)


def compare_statistics(theirs, ours):
    """Volumes and means of structures that TotalSegmentator measures: those away from the border."""
    theirs = json.loads(theirs.read_text())
    ours = {row["name"]: row for rows in json.loads(ours.read_text()).values() for row in rows}
    measured = wrong = 0
    for name, row in theirs.items():
        if row["volume"] == 0:
            continue
        measured += 1
        own = ours[name]
        close = abs(own["volume_ml"] * 1000 - row["volume"]) <= 1e-5 * row["volume"] + 10 * 27
        wrong += not (close and abs(own["mean_intensity"] - row["intensity"]) < 0.5)
    print(f"  statistics: {measured} of {len(theirs)} structures measured by both, {wrong} differ", file=sys.stderr)
    return wrong > 0


if __name__ == "__main__":
    main()
