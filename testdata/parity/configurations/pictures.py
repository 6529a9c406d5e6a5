#!/usr/bin/env python3
"""pictures.py - PNG and TIFF cases predicted by nnU-Net itself: versions and layout as make.py tells.

    python -P testdata/parity/configurations/pictures.py

The result has the ending of the input: expected.png, expected.tif with expected.json, the spacing of a stack.
"""
import importlib.util
import json
import pathlib
import shutil
import tempfile

import numpy as np
import tifffile
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from skimage import io

HERE = pathlib.Path(__file__).parent
spec = importlib.util.spec_from_file_location("make", HERE / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


def case(name, ending, write, plan, data, config, seed, spacing=None, axes=None):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "input").mkdir(parents=True)
    write(folder / "input" / f"case_0000{ending}")
    if spacing:
        (folder / "input" / "case.json").write_text(json.dumps({"spacing": spacing}) + "\n")
    model = make.write_model(folder / "model", plan, {**data, "file_ending": ending}, config, seed, axes=axes)
    predictor = nnUNetPredictor(use_mirroring=axes is not None, perform_everything_on_device=False,
                                device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        predictor.predict_from_files_sequential([[str(folder / "input" / f"case_0000{ending}")]], [str(scratch / "case")],
                                                save_probabilities=True, overwrite=True)
        shutil.copy(scratch / f"case{ending}", folder / f"expected{ending}")
        shutil.copy(scratch / "case.npz", folder / "probabilities.npz")
        if spacing:
            shutil.copy(scratch / "case.json", folder / "expected.json")
    labels = io.imread(folder / f"expected{ending}")
    facts = {"folds": [0], "mirroring": axes is not None, "checkpoint": "checkpoint_final.pth",
             "label_counts": {str(k): int(v) for k, v in zip(*np.unique(labels, return_counts=True))}}
    (folder / "case.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(name, labels.shape, labels.dtype, facts["label_counts"])


def main():
    rng = np.random.default_rng(11)
    flat = lambda schemes, spacing: {"2d": make.configuration([16, 16], spacing, schemes=schemes, arch=make.small(dims=2))}
    colour = np.stack([np.clip(make.image(rng, (37, 41), low=10, high=240), 0, 255) for _ in range(3)], -1).astype(np.uint8)
    rgb = ("RGBTo01Normalization",) * 3
    case("picture_rgb", ".png", lambda path: io.imsave(path, colour, check_contrast=False),
         make.plans(flat(rgb, [1.0, 1.0]), reader="NaturalImage2DIO", channels=3), make.dataset(make.LABELS, ("R", "G", "B")),
         "2d", 300, axes=(0, 1))
    grey = make.image(rng, (44, 35), low=300, high=40000).astype(np.uint16)
    case("picture_grey", ".tif", lambda path: tifffile.imwrite(path, grey, compression="zlib"),
         make.plans(flat(("ZScoreNormalization",), [1.3, 1.2]), reader="NaturalImage2DIO"),
         make.dataset(make.LABELS, ("grey",)), "2d", 310)
    volume = make.image(rng, (14, 20, 22), low=0, high=900).astype(np.int16)
    case("picture_stack", ".tif", lambda path: tifffile.imwrite(path, volume),
         make.plans({"3d_fullres": make.configuration([12, 16, 16], [2.0, 1.5, 1.5], arch=make.small())}, reader="Tiff3DIO"),
         make.dataset(make.LABELS), "3d_fullres", 320, spacing=[2.5, 1.6, 1.7])


main()
