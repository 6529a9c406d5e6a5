"""`infer --task kidney` against its four tasks run one by one: CPU and wall seconds, peak memory, models, readings.

    pip install TotalSegmentator==2.18.0
    python testdata/totalsegmentator/make_weights.py MODELS --tasks 291,292,293,294,295,901,902,903 --base 4
    medseg phantom -o A.nii.gz --size 512,512,600 --spacing 0.8,0.8,0.8
    medseg phantom -o P.nii.gz --size 512,512,600 --spacing 0.8,0.8,0.8
    python testdata/totalsegmentator/kidney.py A.nii.gz P.nii.gz MODELS WORK_FOLDER [--medseg PATH] [--repeats 1]

Exit code 1 where the single runs are not 25 % slower together, or the largest takes less than 1/1.1 of the memory.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("arterial", type=Path)
parser.add_argument("portal", type=Path)
parser.add_argument("models", type=Path)
parser.add_argument("work", type=Path)
parser.add_argument("--medseg", default="medseg")
parser.add_argument("--threads", default="2")
parser.add_argument("--repeats", type=int, default=1)
args = parser.parse_args()
args.work.mkdir(parents=True, exist_ok=True)


def measured(task):
    """CPU s, wall s, peak MiB and the run report of a task."""
    both = f"{args.arterial},{args.portal}"
    report = args.work / f"{task}.json"
    command = [args.medseg, "infer", "--task", task, "-i", both if task in ("vessel", "kidney") else str(args.arterial),
               "-o", str(args.work / f"{task}.nii.gz"), "--force", "-q", "--threads", args.threads, "--report", str(report),
               "--model-dir", str(args.models)]
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{task} failed")
    return (used.ru_utime + used.ru_stime, time.monotonic() - start, used.ru_maxrss / 1024), json.loads(report.read_text())


print("| run | CPU s | wall s | peak MiB | readings | models |\n|---|---|---|---|---|---|")
failed = False
for _ in range(args.repeats):
    single = []
    for task in ("totalseg", "vessel", "ureter", "tumor", "kidney"):
        figures, report = measured(task)
        phases = [phase["name"] for phase in report["cases"][0]["phases"]]
        predicted = sum(name.startswith("predict ") for name in phases)
        row = f"| `{task}` | {figures[0]:.1f} | {figures[1]:.1f} | {figures[2]:.0f} | {phases.count('read')} | {predicted} |"
        print(row, flush=True)
        if task != "kidney":
            single.append(figures)
    cpu, wall = (sum(run[column] for run in single) for column in (0, 1))
    peak = max(run[2] for run in single)
    print(f"| `kidney` to the single runs | {figures[0] / cpu:.3f} | {figures[1] / wall:.3f} | {figures[2] / peak:.3f} | | |")
    failed |= figures[1] > 0.75 * wall or figures[2] > 1.1 * peak
sys.exit(failed)
