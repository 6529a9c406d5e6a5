"""The whole task `totalseg` on a large CT: TotalSegmentator itself and medseg in turn, wall seconds and peak memory.

    pip install TotalSegmentator==2.18.0 pyarrow
    python testdata/totalsegmentator/make_weights.py HOME/nnunet/results
    medseg phantom -o CT.nii.gz --size 512,512,600 --spacing 0.8,0.8,0.8
    python testdata/totalsegmentator/large.py CT.nii.gz HOME WORK_FOLDER [--medseg PATH] [--repeats 1]

Memory is that of all processes of a run together, sampled four times a second; a run above --most-gib is ended and said so. Offline, as
compare.py. Exit code 1 where medseg is not 4 times faster, takes more than 4 GiB or differs by more than 10 voxels in a million.
On a quiet machine with 2 threads 512x512x600 takes TotalSegmentator some 10 minutes and medseg one.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

spec = importlib.util.spec_from_file_location("compare", Path(__file__).parent / "compare.py")
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)


def tree_bytes(root):
    """Resident bytes of a process and all below it; pages that several share count once."""
    children = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    pending, total = [root], 0
    while pending:
        number = pending.pop()
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            lines = []
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        pending += children.get(number, [])
    return total


def measured(command, env, most_gib):
    """Wall seconds, peak GiB; None for a run that was ended because of its memory."""
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid))
        if peak > most_gib * 2**30:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None, peak / 2**30
        time.sleep(0.25)
    if process.returncode:
        sys.exit(f"{command[0]} failed with {process.returncode}")
    return time.monotonic() - start, peak / 2**30


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--medseg", default="medseg")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--most-gib", type=float, default=22)
    args = parser.parse_args()
    import nibabel
    import numpy

    args.work.mkdir(parents=True, exist_ok=True)
    peer = args.work / "peer.py"
    peer.write_text(compare.PEER)
    theirs, ours = args.work / "theirs.nii.gz", args.work / "ours.nii.gz"
    env = {**os.environ, "TOTALSEG_HOME_DIR": str(args.home), "OMP_NUM_THREADS": args.threads, "MEDSEG_MODELS": str(args.home)}
    other = [sys.executable, str(peer), str(args.ct), str(theirs), json.dumps({})]
    own = [args.medseg, "infer", "--task", "totalseg", "-i", str(args.ct), "-o", str(ours), "--force", "-q", "--threads",
           args.threads, "--memory-limit", "4GiB"]
    failed = False
    print("| voxels | s TotalSegmentator | GiB | s medseg | GiB | times faster | differing |\n|---|---|---|---|---|---|---|")
    for _ in range(args.repeats):
        own_s, own_gib = measured(own, env, args.most_gib)
        other_s, other_gib = measured(other, env, args.most_gib)
        shape = "x".join(str(n) for n in nibabel.load(args.ct).shape)
        if other_s is None:
            print(f"| {shape} | ended above {other_gib:.1f} GiB | | {own_s:.1f} | {own_gib:.2f} | | |", flush=True)
            sys.exit("TotalSegmentator takes too much memory here: choose a smaller CT")
        a, b = (numpy.asarray(nibabel.load(path).dataobj) for path in (theirs, ours))
        differing = int((a != b).sum())
        print(f"| {shape} | {other_s:.1f} | {other_gib:.2f} | {own_s:.1f} | {own_gib:.2f} | {other_s / own_s:.2f} | "
              f"{differing} of {a.size} |", flush=True)
        failed |= other_s < 4 * own_s or own_gib > 4 or differing > 10e-6 * a.size
    sys.exit(failed)


if __name__ == "__main__":
    main()
