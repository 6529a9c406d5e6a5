#!/usr/bin/env python3
"""What check_live.py leaves out, against other programs in the same run.

usage: check_others.py MEDSEG [--cases 20] [--seed 1]

- --nnunet-summary against nnU-Net 2.8.1's own evaluator on the same folders: all keys and values, 1e-12;
  foreground_mean is NaN there and a number here where a label occurs in no case;
- --compare against scipy.stats.wilcoxon 1.17 (statistic exact, p 1e-12) and Holm's correction written out;
- --tubes: Betti errors against SciPy's labelling and scikit-image's Euler number (exact); clDice against its
  definition with scikit-image's centre lines, which run through other voxels (0.1 on average).

Ends with 1 when anything is beyond its tolerance.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import nibabel as nib
import numpy as np
from scipy import ndimage as ndi
from scipy.stats import wilcoxon
from skimage.measure import euler_number
from skimage.morphology import skeletonize

SHAPE = (40, 36, 30)


def scene(rng):
    """Labels 1 and 2 are tubes, 3 is a blob; label 4 of the data set never occurs."""
    out = np.zeros(SHAPE, np.uint8)
    for label in (1, 2):
        ends = rng.uniform(5, np.array(SHAPE) - 5, (4, 3))
        for a, b in zip(ends, ends[1:]):
            for t in np.linspace(0, 1, 120):
                x, y, z = np.rint(a + t * (b - a)).astype(int)
                out[x - 1:x + 2, y - 1:y + 2, z - 1:z + 2] = label
    center = rng.uniform(10, 25, 3)
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0)
    blob = ((grid - center) ** 2).sum(-1) < rng.uniform(3, 7) ** 2
    out[blob & (out == 0)] = 3
    return out


def damaged(rng, labels, strength):
    out = np.roll(labels, rng.integers(-1, 2), rng.integers(0, 3))
    for _ in range(strength):
        at = [rng.integers(0, n - 6) for n in SHAPE]
        out[at[0]:at[0] + 6, at[1]:at[1] + 6, at[2]:at[2] + 6] = rng.choice([0, 0, 1, 2, 3])
    return out


def save(path, labels):
    nib.save(nib.Nifti1Image(labels, np.diag([0.8, 1.1, 2.0, 1.0])), path)


def run(medseg, *arguments):
    subprocess.run([medseg, "evaluate", "-q", *arguments], check=True, stdout=subprocess.DEVNULL)


def betti(mask):
    pieces = ndi.label(mask, np.ones((3, 3, 3)))[1]
    cavities = ndi.label(~np.pad(mask, 1))[1] - 1
    return pieces, pieces + cavities - euler_number(mask, connectivity=3)


def cldice(prediction, reference):
    lines = [skeletonize(np.pad(mask, 1))[1:-1, 1:-1, 1:-1] > 0 for mask in (prediction, reference)]
    precision, recall = (lines[0] & reference).sum() / lines[0].sum(), (lines[1] & prediction).sum() / lines[1].sum()
    return 2 * precision * recall / (precision + recall)


def differences(ours, theirs, path=""):
    if isinstance(theirs, dict):
        for key in theirs:
            if key in ("prediction_file", "reference_file"):
                continue
            yield from differences(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), path
        for index, (a, b) in enumerate(zip(ours, theirs)):
            yield from differences(a, b, f"{path}/{index}")
    elif math.isnan(theirs):
        if not math.isnan(ours) and not path.startswith("/foreground_mean"):
            yield path, math.inf
    else:
        yield path, abs(ours - theirs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("medseg")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    failed = False

    def check(what, worst, tolerance):
        nonlocal failed
        failed |= not worst <= tolerance
        print(f"{what}: {worst:.3g} (at most {tolerance:g})")

    with tempfile.TemporaryDirectory() as work:
        at = lambda *parts: os.path.join(work, *parts)
        for folder in ("r", "a", "b"):
            os.mkdir(at(folder))
        for number in range(args.cases):
            truth = scene(rng)
            save(at("r", f"{number:03}.nii.gz"), truth)
            save(at("a", f"{number:03}.nii.gz"), damaged(rng, truth, 3))
            save(at("b", f"{number:03}.nii.gz"), damaged(rng, truth, 6))
        with open(at("dataset.json"), "w") as file:
            names = {"background": 0, "one": 1, "two": 2, "three": 3, "four": 4}
            json.dump({"labels": names, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}, "numTraining": 1}, file)
        for name in "ab":
            run(args.medseg, "-p", at(name), "-r", at("r"), "-o", at(f"{name}.json"), "--labels", "1,2,3,4",
                "--tubes", "1,2", "--nnunet-summary", at(f"{name}_summary.json"))

        from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
        from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
        compute_metrics_on_folder(at("r"), at("a"), at("nnunet.json"), NibabelIO(), ".nii.gz", [1, 2, 3, 4], num_processes=1)
        ours, theirs = (json.load(open(at(name))) for name in ("a_summary.json", "nnunet.json"))
        check("summary.json against nnU-Net", max(d for _, d in differences(ours, theirs)), 1e-12)

        run(args.medseg, "--compare", at("a.json"), at("b.json"), "-o", at("c.json"), "--score", "dice,hd95,cldice,volume_difference")
        compared = json.load(open(at("c.json")))
        cases = [json.load(open(at(f"{name}.json")))["cases"] for name in "ab"]
        worst, worst_holm = 0, 0
        for pair in compared["pairs"]:
            p_values = []
            tested = []
            for row in pair["labels"]:
                values = [[label["scores"].get(pair["score"]) for case in side for label in case["labels"]
                           if label["label"] == row["label"]] for side in cases]
                d = np.array([b - a for a, b in zip(*values) if a is not None and b is not None])
                if not d.any():
                    assert row["n"] == len(d) and row["test"] is None, row
                    continue
                tested.append(row)
                expected = wilcoxon(d)
                assert row["n"] == len(d) and row["test"]["statistic"] == expected.statistic, (pair["score"], row, expected)
                worst = max(worst, abs(row["test"]["p"] - expected.pvalue), abs(row["mean_difference"] - d.mean()))
                p_values.append(expected.pvalue)
            order, largest = np.argsort(p_values), 0
            for rank, index in enumerate(order):
                largest = max(largest, min(1, p_values[index] * (len(p_values) - rank)))
                worst_holm = max(worst_holm, abs(tested[index]["p_holm"] - largest))
        check("Wilcoxon p and mean differences against SciPy", worst, 1e-12)
        check("Holm", worst_holm, 1e-12)

        lines, wrong = [], 0
        for number, case in enumerate(cases[0]):
            p, r = (np.asarray(nib.load(at(side, f"{number:03}.nii.gz")).dataobj) for side in "ar")
            for label in case["labels"][:2]:
                masks = [volume == label["numbers"][0] for volume in (p, r)]
                if not all(mask.any() for mask in masks):
                    continue
                numbers = [betti(mask) for mask in masks]
                for index in (0, 1):
                    wrong += label["scores"][f"betti{index}_error"] != abs(numbers[0][index] - numbers[1][index])
                lines.append(abs(label["scores"]["cldice"] - cldice(*masks)))
        check("Betti errors that differ from SciPy's and scikit-image's", wrong, 0)
        check("clDice against scikit-image's centre lines, mean difference", np.mean(lines), 0.1)
        print(f"  (largest {max(lines):.3f}, {len(lines)} pairs of tubes)")
    sys.exit(failed)


if __name__ == "__main__":
    main()
