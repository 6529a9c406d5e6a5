"""Stand-in weights in the folder layout of TotalSegmentator: small plain U-Nets with random values.

    pip install TotalSegmentator==2.18.0
    python testdata/totalsegmentator/make_weights.py FOLDER [--tasks 291,292,...] [--base 8]

901, 902 and 903 are models for the tasks `vessel`, `ureter` and `tumor`: FOLDER/Dataset901_vessel and so on.

Writes FOLDER/DatasetNNN_standin/<trainer>__<plans>__3d_fullres with plans.json, dataset.json and fold_0. Nothing is
learnt: the label maps are noise shaped by the image, which is what a comparison of two programs needs. A last
bias makes background likely, so that organs are blobs and not everything.
"""

import argparse
import json
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from totalsegmentator.map_to_binary import class_map, class_map_5_parts, map_taskid_to_partname_ct

PARTS = {number: class_map_5_parts[part] for number, part in map_taskid_to_partname_ct.items() if part != "test"}
MODELS = {
    **{number: (PARTS[number], "nnUNetTrainerNoMirroring", 1.5) for number in PARTS if number in (291, 292, 293, 294, 295)},
    297: (class_map["total"], "nnUNetTrainer_4000epochs_NoMirroring", 3.0),
    298: (class_map["total"], "nnUNetTrainer_4000epochs_NoMirroring", 6.0),
    299: (class_map["body"], "nnUNetTrainer", 1.5),
    300: (class_map["body"], "nnUNetTrainer", 6.0),
    8: (class_map["liver_vessels"], "nnUNetTrainer", 1.5),
    901: ({1: "kidney", 2: "artery", 3: "vein"}, "nnUNetTrainer", 3.0),
    902: ({1: "ureter", 2: "bladder"}, "nnUNetTrainer", 3.0),
    903: ({1: "tumor", 2: "cyst"}, "nnUNetTrainer", 3.0),
}
NAMES = {901: "vessel", 902: "ureter", 903: "tumor"}
CHANNELS = {901: ["CT", "CT"]}


def plans(number, spacing, patch, features, channels):
    stages = len(features)
    kernels = [[3, 3, 3]] * stages
    strides = [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": f"Dataset{number:03d}_standin",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing] * 3,
        "original_median_shape_after_transp": patch,
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): {"max": 3000.0, "mean": 50.0, "median": 50.0, "min": -1024.0, "percentile_00_5": -1000.0,
                           "percentile_99_5": 1000.0, "std": 250.0} for channel in range(channels)
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": patch,
                "median_image_size_in_voxels": patch,
                "spacing": [spacing] * 3,
                "normalization_schemes": ["CTNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": stages,
                        "features_per_stage": features,
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": kernels,
                        "strides": strides,
                        "n_conv_per_stage": [2] * stages,
                        "n_conv_per_stage_decoder": [2] * (stages - 1),
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                "batch_dice": False,
            }
        },
    }


def make(root, number, base, patch):
    classes, trainer, spacing = MODELS[number]
    torch.manual_seed(number)
    features = [base, 2 * base, 4 * base, 4 * base]
    channels = CHANNELS.get(number, ["CT"])
    plan = plans(number, spacing, patch, features, len(channels))
    arch = plan["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    net = PlainConvUNet(
        len(channels), arch["n_stages"], features, torch.nn.Conv3d, arch["kernel_sizes"], arch["strides"],
        arch["n_conv_per_stage"], len(classes) + 1, arch["n_conv_per_stage_decoder"], True,
        torch.nn.InstanceNorm3d, {"eps": 1e-5, "affine": True}, None, None, torch.nn.LeakyReLU, {"inplace": True},
    )
    with torch.no_grad():
        for name, values in net.named_parameters():
            if values.ndim > 1:
                values.copy_(torch.randn_like(values) / values[0].numel() ** 0.5)
            elif name.endswith("norm.weight"):
                values.copy_(1 + 0.1 * torch.randn_like(values))
            else:
                values.copy_(0.1 * torch.randn_like(values))
        # Background wins where no class stands out.
        net.decoder.seg_layers[-1].bias[0] += 4.0 if number in NAMES else 1.0
    folder = root / f"Dataset{number:03d}_{NAMES.get(number, 'standin')}" / f"{trainer}__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plan, indent=1))
    labels = {"background": 0, **{name: label for label, name in sorted(classes.items())}}
    dataset = {"channel_names": dict(enumerate(channels)), "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=1))
    torch.save(
        {
            "network_weights": net.state_dict(),
            "trainer_name": trainer,
            "init_args": {"configuration": "3d_fullres", "fold": 0},
            "inference_allowed_mirroring_axes": None if number in NAMES else (0, 1, 2),
        },
        folder / "fold_0" / "checkpoint_final.pth",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", default="291,292,293,294,295,297,298,299,300", help="dataset numbers")
    parser.add_argument("--base", type=int, default=8, help="features of the first stage")
    parser.add_argument("--patch", default="64,64,64", help="z,y,x")
    args = parser.parse_args()
    for number in args.tasks.split(","):
        make(args.folder, int(number), args.base, [int(n) for n in args.patch.split(",")])
        print(f"Dataset{int(number):03d}")
