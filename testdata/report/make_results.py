"""Results documents for tests and measurements of `medseg report`, without any image.

    python3 make_results.py OUT.json [CASES] [SLICES] [SEED]

The numbers are consistent (Dice from counts, means from cases), random and reproducible. Names of the
first cases and one label are hostile on purpose: formulas, markup, Korean, a quote and a pipe.
"""
import json
import math
import random
import sys

LABELS = ["liver", "=kidney & co", "tumor <b>", "ureter", "대동맥"]
HOSTILE = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "<script>alert(1)</script>", "환자_007"]


def scores(tp, fp, fn, random_):
    union = tp + fp + fn
    both = tp > 0 or (fp > 0 and fn > 0)
    found = {
        "dice": 2 * tp / (2 * tp + fp + fn) if union else None,
        "iou": tp / union if union else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "volume_reference_ml": (tp + fn) * 1.5e-3,
        "volume_prediction_ml": (tp + fp) * 1.5e-3,
        "volume_difference_ml": (fp - fn) * 1.5e-3,
    }
    error = (fp + fn) / max(1, union)
    for mm in (1, 2, 3):
        found[f"nsd@{mm}"] = (1 - error) ** (1 / mm) if both else (0.0 if union else None)
    for name, factor in (("hd_mm", 60), ("hd95_mm", 30), ("assd_mm", 4)):
        found[name] = factor * error * (0.5 + random_.random()) if both else None
    return dict(sorted(found.items()))


def status(tp, fp, fn):
    reference, prediction = tp + fn, tp + fp
    if reference and prediction:
        return "ok"
    return "missed" if reference else "spurious" if prediction else "both_empty"


def describe(values):
    values = sorted(values)
    n = len(values)
    if not n:
        return {}

    def percentile(q):
        place = (n - 1) * q
        low = math.floor(place)
        high = min(low + 1, n - 1)
        return values[low] + (values[high] - values[low]) * (place - low)

    mean = sum(values) / n
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    half = 1.96 * sd / math.sqrt(n) if n > 1 else None
    return {
        "n": n, "mean": mean, "sd": sd, "median": percentile(0.5), "q1": percentile(0.25),
        "q3": percentile(0.75), "min": values[0], "max": values[-1],
        "mean_ci95": [mean - half, mean + half] if n > 1 else None,
    }


def summary(label, targets):
    names = sorted({name for target in targets for name in target["scores"]})
    kinds = [target["status"] for target in targets]
    tp, fp, fn = (sum(target[key] for target in targets) for key in ("tp", "fp", "fn"))
    return {
        "label": label,
        "cases": {kind: kinds.count(kind) for kind in ("ok", "missed", "spurious", "both_empty")},
        "scores": {
            name: describe([t["scores"][name] for t in targets if t["scores"][name] is not None])
            | {"left_out": sum(t["scores"][name] is None for t in targets)}
            for name in names
        },
        "pooled_dice": 2 * tp / (2 * tp + fp + fn),
        "pooled_iou": tp / (tp + fp + fn),
    }


def make(cases, slices, seed):
    random_ = random.Random(seed)
    documents = []
    for index in range(cases):
        name = HOSTILE[index] if index < len(HOSTILE) else f"patient_{index:03}"
        quality = random_.betavariate(8, 1.5)
        targets, by_slice = [], {}
        for number, label in enumerate(LABELS, 1):
            tables = {key: [] for key in ("both", "dice", "iou", "prediction", "reference")}
            whim = random_.random()
            for z in range(slices):
                size = int(900 * math.sin(math.pi * (z + 1) / (slices + 1)) ** 2 * number) + 1
                wrong = min(0.9, (1 - quality) * random_.uniform(0.5, 1.5))
                reference = 0 if whim < 0.02 or whim > 0.99 else size
                prediction = 0 if whim < 0.02 or 0.02 <= whim < 0.04 else int(size * random_.uniform(0.9, 1.1))
                both = int(min(reference, prediction) * (1 - wrong))
                total = reference + prediction
                tables["both"].append(both)
                tables["dice"].append(2 * both / total if total else None)
                tables["iou"].append(both / (total - both) if total else None)
                tables["prediction"].append(prediction)
                tables["reference"].append(reference)
            tp = sum(tables["both"])
            fp = sum(tables["prediction"]) - tp
            fn = sum(tables["reference"]) - tp
            found = scores(tp, fp, fn, random_)
            kind = status(tp, fp, fn)
            target = {
                "label": label, "numbers": [number], "status": kind,
                "tp": tp, "fp": fp, "fn": fn, "tn": 512 * 512 * slices - tp - fp - fn, "scores": found,
            }
            reasons = {
                "missed": "the prediction is empty", "spurious": "the reference is empty",
                "both_empty": "reference and prediction are empty",
            }
            missing = [key for key, value in found.items() if value is None]
            if missing:
                target["undefined"] = {key: reasons.get(kind, "not a number") for key in missing}
            targets.append(target)
            by_slice[label] = tables
        labels = list(range(len(LABELS) + 1))
        matrix = [[0] * len(labels) for _ in labels]
        matrix[0][0] = 512 * 512 * slices
        for number, target in enumerate(targets, 1):
            matrix[number][number] = target["tp"]
            matrix[number][0] = target["fn"]
            matrix[0][number] = target["fp"]
        documents.append({
            "case": name, "prediction": f"{name}.nii.gz", "reference": f"{name}.nii.gz",
            "diagonal_mm": 600.0, "shape_xyz": [512, 512, slices], "spacing_xyz_mm": [0.75, 0.75, 2.0],
            "labels": targets, "slices": {"labels": dict(sorted(by_slice.items())), "z": list(range(slices))},
            "confusion": {"labels": labels, "matrix": matrix},
        })
    documents.sort(key=lambda case: case["case"].encode())
    every = [target for case in documents for target in case["labels"]]
    rows = [summary("*", every)]
    for index, label in enumerate(LABELS):
        rows.append(summary(label, [case["labels"][index] for case in documents]))
    size = len(LABELS) + 1
    total = [[sum(c["confusion"]["matrix"][r][p] for c in documents) for p in range(size)] for r in range(size)]
    dice = rows[0]["scores"]["dice"]["mean"]
    return {
        "schema": "medseg-results", "version": 1, "medseg": "0.1.0",
        "settings": {
            "definition": "medseg", "nsd_tolerances_mm": [1.0, 2.0, 3.0], "targets": [],
            "grid_tolerance_mm": 0.001, "policy": {"empty": "nan", "seed": 0},
        },
        "cases": documents,
        "failures": [
            {"case": "patient_lost", "kind": "missing_prediction", "reason": "no prediction for patient_lost.nii.gz"},
            {"case": "patient_turned", "kind": "geometry",
             "reason": "corner voxel is 5.00 mm from its counterpart, expected at most 0.001 mm"},
        ],
        "summary": {
            "cases": len(documents), "labels": rows,
            "confusion": {"labels": list(range(size)), "matrix": total},
        },
        "checks": [
            {"expression": "dice=0.7", "holds": dice >= 0.7, "value": dice, "text": f"mean dice of all labels {dice:.4f} >= 0.7"},
            {"expression": "missed=0", "holds": False, "value": 3.0, "text": "missed structures 3 = 0"},
        ],
    }


if __name__ == "__main__":
    cases, slices, seed = (int(text) for text in (sys.argv[2:] + ["300", "150", "1"][len(sys.argv) - 2:]))
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(make(cases, slices, seed), file, ensure_ascii=False)
