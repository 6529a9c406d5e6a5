"""Writes src/tasks/builtin/totalsegmentator.toml from the tables of TotalSegmentator 2.18.0 (Apache-2.0).

    pip install TotalSegmentator==2.18.0
    python testdata/totalsegmentator/make_tasks.py > src/tasks/builtin/totalsegmentator.toml

Only facts are taken: numbers and names of classes, dataset numbers, trainers, spacings, crops.
Auxiliary labels need no mention: a label that has no name in the task is left out.
"""

import json

from totalsegmentator.map_tasks_config import DEFAULT_CONFIG, TASK_CONFIGS
from totalsegmentator.map_to_binary import (
    class_map,
    class_map_5_parts,
    class_map_5_parts_total_v3,
    class_map_parts_headneck_muscles,
    class_map_parts_mr,
    map_taskid_to_partname_ct,
    map_taskid_to_partname_ct_v3,
    map_taskid_to_partname_headneck_muscles,
    map_taskid_to_partname_mr,
)

PARTS = {
    "total": (class_map_5_parts, map_taskid_to_partname_ct),
    "total_v3": (class_map_5_parts_total_v3, map_taskid_to_partname_ct_v3),
    "total_mr": (class_map_parts_mr, map_taskid_to_partname_mr),
    "headneck_muscles": (class_map_parts_headneck_muscles, map_taskid_to_partname_headneck_muscles),
}

# Not plain nnU-Nets: postprocessing of their own, or a second input, or no published weights.
LEFT_OUT = {"test", "total_highres_test", "vertebrae_pp", "vertebrae_pp_refined", "heartchambers_highres"}

# How the task is called here.
OURS = {"total": "totalseg"}


def names(classes):
    numbers = sorted(classes)
    assert numbers == list(range(1, len(numbers) + 1)), classes
    return json.dumps([classes[number] for number in numbers])


def spacing(resample):
    if resample is None:
        return None
    values = resample if isinstance(resample, list) else [resample] * 3
    return [float(value) for value in values]


def crop_of(task, config):
    crop = config["crop"]
    if crop is None:
        return None
    if config["crop_model"]:
        return {"task": config["crop_model"], "labels": crop, "margin_mm": config["crop_addon"]}
    if task.endswith("_mr"):
        rough = "total_mr:fast"
    elif "body_trunc" in crop:
        rough = "body:fast"
    else:
        rough = "totalseg:fast" if config["robust_crop"] else "totalseg:fastest"
    return {"task": rough, "labels": crop, "margin_mm": [20, 20, 20]}


def show(value):
    return json.dumps(value)


print("# Written by testdata/totalsegmentator/make_tasks.py from TotalSegmentator 2.18.0 (Apache-2.0).")
for task, raw in TASK_CONFIGS.items():
    if task in LEFT_OUT:
        continue
    modes = raw.get("sub_modes", {"default": raw})
    for mode, fields in sorted(modes.items()):
        config = dict(DEFAULT_CONFIG)
        config.update(fields)
        assert not config["cascade"] and not config["remove_outside"] and not config["plans"], task
        name = OURS.get(task, task) + ("" if mode == "default" else f":{mode}")
        modality = "MR" if task.endswith("_mr") or task == "brain_aneurysm" else "CT"
        ids = config["task_id"]
        classes = class_map[task]
        print(f'\n["{name}"]')
        commercial = "; the weights need a licence of their makers" if raw.get("commercial") else ""
        grid = spacing(config["resample"])
        at = "the image's spacing" if grid is None else f"{grid[0]:.3g} mm" if len(set(grid)) == 1 else "x".join(f"{v:.3g}" for v in grid) + " mm"
        print(f'description = "TotalSegmentator {task}: {len(classes)} classes at {at}{commercial}"')
        print(f'channels = ["{modality}"]')
        print(f"labels = {names(classes)}")
        print("canonical = true")
        if grid:
            print(f"spacing_mm = {show(grid)}")
        if task in ("total", "total_v3", "total_mr"):
            print("step = 0.8")
        print("mirroring = false")
        crop = crop_of(task, config)
        if crop:
            print(f'crop = {{ task = "{crop["task"]}", labels = {show(crop["labels"])}, margin_mm = {show([float(v) for v in crop["margin_mm"]])} }}')
        if task in ("total", "total_mr"):
            print(f'subset_crop = "{"total_mr:fast" if modality == "MR" else "totalseg:fastest"}"')
        many = isinstance(ids, list)
        for number in ids if many else [ids]:
            print(f'[["{name}".models]]')
            print(f"model = {number}")
            print(f'trainer = "{config["trainer"]}"')
            print('plans = "nnUNetPlans"')
            print(f'configuration = "{config["model"]}"')
            if config["folds"] is not None:
                print(f"folds = {show(config['folds'])}")
            if many:
                parts, part_of = PARTS[task]
                print(f"labels = {names(parts[part_of[number]])}")
            else:
                print('labels = "numbers"')
        if task == "body":
            print(f'[["{name}".steps]]\nstep = "keep-largest"\nlabels = ["body_trunc"]')
            print(f'[["{name}".steps]]\nstep = "remove-small"\nlabels = ["body_extremities"]\nvolume_mm3 = 50000.0')
