#!/usr/bin/env python3
"""Makes an nnU-Net model folder with random weights, for measurements of time and memory on large images.

    python make.py OUT --classes 118 --features 8,16,16,16 --patch 128,128,128 --spacing 1,0.8,0.8

Needs torch 2.15.0 and nnunetv2 2.8.1. The network comes from nnunetv2's own get_network_from_plans, the checkpoint has
the keys that nnUNetTrainer.save_checkpoint writes; nothing was trained. CLASSES counts the background. Models are made
where they are needed and are no part of the repository. Licence: MIT OR Apache-2.0, as medseg.
"""
import argparse
import json
import pathlib

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

parser = argparse.ArgumentParser()
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--classes", type=int, default=25)
parser.add_argument("--features", default="8,16,16,16")
parser.add_argument("--convolutions", type=int, default=2, help="per stage")
parser.add_argument("--patch", default="128,128,128")
parser.add_argument("--spacing", default="1,0.8,0.8", help="z,y,x in mm")
parser.add_argument("--mirroring", action="store_true")
parser.add_argument("--seed", type=int, default=7)
args = parser.parse_args()

features = [int(n) for n in args.features.split(",")]
stages = len(features)
architecture = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": stages, "features_per_stage": features, "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages, "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [args.convolutions] * stages, "n_conv_per_stage_decoder": [args.convolutions] * (stages - 1),
        "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
intensity = {"max": 1500.0, "mean": 90.0, "median": 88.0, "min": -1000.0, "percentile_00_5": -900.0,
             "percentile_99_5": 400.0, "std": 120.5}
resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
plans = {
    "dataset_name": "Dataset998_Large", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
    "configurations": {"3d_fullres": {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [int(n) for n in args.patch.split(",")], "spacing": [float(n) for n in args.spacing.split(",")],
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": architecture, "batch_dice": False,
    }},
    "foreground_intensity_properties_per_channel": {"0": intensity},
    "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
}
labels = {"background": 0, **{f"class_{n}": n for n in range(1, args.classes)}}
dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}

torch.manual_seed(args.seed)
kwargs = architecture["arch_kwargs"]
network = get_network_from_plans(architecture["network_class_name"], kwargs, architecture["_kw_requires_import"], 1,
                                 args.classes, deep_supervision=False)
folder = args.out / "nnUNetTrainer__nnUNetPlans__3d_fullres"
(folder / "fold_0").mkdir(parents=True, exist_ok=True)
(folder / "plans.json").write_text(json.dumps(plans, indent=1))
(folder / "dataset.json").write_text(json.dumps(dataset, indent=1))
torch.save({
    "network_weights": network.state_dict(), "optimizer_state": {}, "grad_scaler_state": None, "logging": {},
    "_best_ema": None, "current_epoch": 1,
    "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset,
                  "device": torch.device("cpu")},
    "trainer_name": "nnUNetTrainer",
    "inference_allowed_mirroring_axes": (0, 1, 2) if args.mirroring else None,
}, folder / "fold_0" / "checkpoint_final.pth")
print(folder)
