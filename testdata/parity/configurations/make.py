#!/usr/bin/env python3
"""make.py - small cases of every nnU-Net configuration, predicted by nnU-Net itself (nnunetv2 2.8.1, torch 2.15.0, CPU).

    python -P testdata/parity/configurations/make.py [CASE...]

Each folder beside this file holds input/, model/<Trainer__Plans__configuration>/, expected.nii.gz (written by nnU-Net) and
probabilities.npz (key probabilities, float32, as --save_probabilities writes it). The networks have random
weights from fixed seeds; heads are scaled so that labels form regions. Images are smooth phantoms with noise.
The cases of pictures.py (PNG and TIFF in and out) are made by it in the same way.
cascade/ has a second model, 3d_lowres, whose label map previous.nii.gz is the cascade's further input.
"""
import copy
import json
import os
import pathlib
import shutil
import sys
import tempfile

for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(key, tempfile.gettempdir())

import nibabel
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import gaussian_filter

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)


def image(rng, shape, smooth=2.0, low=-200.0, high=400.0):
    """Smooth blobs [x, y, z] with a border of the lowest value."""
    field = gaussian_filter(rng.standard_normal(shape), smooth)
    field = (field - field.min()) / (field.max() - field.min())
    return np.round(low + (high - low) * field + rng.normal(0, 4, shape)).astype(np.int16)


def architecture(kind, dims, features, kernels, strides, blocks, decoder, more=None):
    conv = f"torch.nn.modules.conv.Conv{dims}d"
    norm = f"torch.nn.modules.instancenorm.InstanceNorm{dims}d"
    encoder = "n_blocks_per_stage" if kind.startswith("Residual") else "n_conv_per_stage"
    kwargs = {"n_stages": len(features), "features_per_stage": features, "conv_op": conv, "kernel_sizes": kernels,
              "strides": strides, encoder: blocks, "n_conv_per_stage_decoder": decoder, "conv_bias": True,
              "norm_op": norm, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
              "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}
    kwargs.update(more or {})
    return {"network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}", "arch_kwargs": kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"] + (["block"] if more else [])}


def small(kind="PlainConvUNet", dims=3, strides=None, kernels=None, more=None):
    strides = strides or [[1] * dims, [2] * dims]
    kernels = kernels or [[3] * dims] * 2
    return architecture(kind, dims, [4, 8], kernels, strides, [1, 2], [1], more)


def configuration(patch, spacing, schemes=("CTNormalization",), masks=None, arch=None):
    kwargs = lambda order, seg: {"is_seg": seg, "order": order, "order_z": 0, "force_separate_z": None}
    result = {"data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": patch,
              "median_image_size_in_voxels": patch, "spacing": spacing, "normalization_schemes": list(schemes),
              "use_mask_for_norm": masks or [False] * len(schemes), "batch_dice": False}
    for key, order, seg in (("data", 3, False), ("seg", 1, True), ("probabilities", 1, False)):
        result[f"resampling_fn_{key}"] = "resample_data_or_seg_to_shape"
        result[f"resampling_fn_{key}_kwargs"] = kwargs(order, seg)
    if arch:
        result["architecture"] = arch
    return result


def plans(configurations, reader="SimpleITKIO", transpose=(0, 1, 2), channels=1):
    backward = [list(transpose).index(axis) for axis in range(3)]
    properties = {"max": 900.0, "mean": 90.0, "median": 80.0, "min": -300.0, "percentile_00_5": -180.0,
                  "percentile_99_5": 380.0, "std": 120.0}
    return {"dataset_name": "Dataset001_Phantom", "plans_name": "nnUNetPlans", "label_manager": "LabelManager",
            "original_median_spacing_after_transp": [1.0] * 3, "original_median_shape_after_transp": [20] * 3,
            "image_reader_writer": reader, "transpose_forward": list(transpose), "transpose_backward": backward,
            "configurations": configurations, "experiment_planner_used": "ExperimentPlanner",
            "foreground_intensity_properties_per_channel": {str(c): properties for c in range(channels)}}


def dataset(labels, channels=("CT",), **more):
    return {"channel_names": {str(i): name for i, name in enumerate(channels)}, "labels": labels, "numTraining": 1,
            "file_ending": ".nii.gz", **more}


LABELS = {"background": 0, "liver": 1, "kidney": 2}


def write_model(folder, plan, data, config, seed, folds=(0,), axes=None, checkpoint="checkpoint_final.pth"):
    model = folder / f"nnUNetTrainer__nnUNetPlans__{config}"
    manager = PlansManager(copy.deepcopy(plan))
    settings = manager.get_configuration(config)
    labels = manager.get_label_manager(data)
    inputs = determine_num_input_channels(manager, settings, data)
    model.mkdir(parents=True)
    for name, content in (("plans.json", plan), ("dataset.json", data)):
        (model / name).write_text(json.dumps(content, indent=1) + "\n")
    for fold in folds:
        torch.manual_seed(seed + fold)
        network = get_network_from_plans(
            settings.network_arch_class_name, settings.network_arch_init_kwargs,
            settings.network_arch_init_kwargs_req_import, inputs, labels.num_segmentation_heads, deep_supervision=False)
        with torch.no_grad():
            for name, value in network.named_parameters():
                if "norm" in name or "all_modules.1" in name:
                    value.uniform_(0.5, 1.5) if name.endswith("weight") else value.uniform_(-0.5, 0.5)
                if "seg_layers" in name and name.endswith("weight"):
                    value.normal_(0, 1.5)
                if "seg_layers" in name and name.endswith("bias"):
                    value.zero_()
        (model / f"fold_{fold}").mkdir()
        torch.save({"network_weights": network.state_dict(), "optimizer_state": {}, "grad_scaler_state": None,
                    "logging": {}, "_best_ema": None, "current_epoch": 1, "trainer_name": "nnUNetTrainer",
                    "init_args": {"configuration": config, "fold": fold, "dataset_json": data},
                    "inference_allowed_mirroring_axes": axes}, model / f"fold_{fold}" / checkpoint)
    return model


def predict(model, files, out, folds, checkpoint, mirroring, previous=None, probabilities=None):
    predictor = nnUNetPredictor(tile_step_size=0.5, use_gaussian=True, use_mirroring=mirroring,
                                perform_everything_on_device=False, device=torch.device("cpu"), verbose=False,
                                allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds, checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        target = pathlib.Path(scratch) / "case.nii.gz"
        stage = None
        if previous:
            stage = str(pathlib.Path(scratch) / "previous")
            os.mkdir(stage)
            shutil.copy(previous, pathlib.Path(stage) / "case.nii.gz")
        predictor.predict_from_files_sequential([[str(f) for f in files]], [str(target).removesuffix(".nii.gz")],
                                                save_probabilities=probabilities is not None,
                                                overwrite=True, folder_with_segs_from_prev_stage=stage)
        shutil.copy(target, out)
        if probabilities:
            shutil.copy(pathlib.Path(scratch) / "case.npz", probabilities)


def case(name, images, plan, data, config, seed, affine=None, folds=(0,), axes=None, mirroring=False,
         checkpoint="checkpoint_final.pth", keep=True, lowres=None):
    if sys.argv[1:] and name not in sys.argv[1:]:
        return
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "input").mkdir(parents=True)
    files = []
    for index, voxels in enumerate(images):
        header = nibabel.Nifti1Image(voxels, affine)
        header.set_qform(affine, 1)
        header.set_sform(affine, 1)
        files.append(folder / "input" / f"case_{index:04d}.nii.gz")
        nibabel.save(header, files[-1])
    model = write_model(folder / "model", plan, data, config, seed, folds, axes, checkpoint)
    previous = None
    if lowres:
        low = write_model(folder / "model", plan, data, lowres, seed + 50, folds, axes, checkpoint)
        previous = folder / "previous.nii.gz"
        predict(low, files, previous, folds, checkpoint, mirroring)
    predict(model, files, folder / "expected.nii.gz", folds, checkpoint, mirroring, previous,
            folder / "probabilities.npz" if keep else None)
    labels = np.asarray(nibabel.load(folder / "expected.nii.gz").dataobj)
    facts = {"folds": list(folds), "mirroring": mirroring, "checkpoint": checkpoint,
             "label_counts": {str(k): int(v) for k, v in zip(*np.unique(labels, return_counts=True))}}
    (folder / "case.json").write_text(json.dumps(facts, indent=1) + "\n")
    largest = max(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(name, labels.shape, labels.dtype, facts["label_counts"] if len(facts["label_counts"]) < 9 else "...", largest)


def postprocess(folder):
    """What nnU-Net's own function makes of a result, and the file that asks for it."""
    steps = [{"labels_or_regions": [1, 2]}, {"labels_or_regions": 2}, {"labels_or_regions": 1}]
    result = nibabel.load(folder / "expected.nii.gz")
    labels = np.asarray(result.dataobj)
    kept = labels
    for step in steps:
        kept = remove_all_but_largest_component_from_segmentation(kept, **step)
    assert (kept != labels).any() and kept.any()
    nibabel.save(nibabel.Nifti1Image(kept, result.affine, result.header), folder / "postprocessed.nii.gz")
    content = {"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"] * len(steps),
               "postprocessing_kwargs": steps}
    (folder / "postprocessing.json").write_text(json.dumps(content, indent=1) + "\n")


def spaced(x, y, z, origin=(-10.5, 20.25, -300.0)):
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = origin
    return affine


def rotated(spacing, angles, origin):
    ax, ay, az = np.radians(angles)
    rx = np.array([[1, 0, 0], [0, np.cos(ax), -np.sin(ax)], [0, np.sin(ax), np.cos(ax)]])
    ry = np.array([[np.cos(ay), 0, np.sin(ay)], [0, 1, 0], [-np.sin(ay), 0, np.cos(ay)]])
    rz = np.array([[np.cos(az), -np.sin(az), 0], [np.sin(az), np.cos(az), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rz @ ry @ rx @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def main():
    rng = np.random.default_rng(9)
    one = lambda **k: {"3d_fullres": configuration(**k)}
    iso = dict(patch=[12, 16, 16], spacing=[2.0, 1.5, 1.5])

    case("residual", [image(rng, (22, 20, 14))], plans(one(**iso, arch=small("ResidualEncoderUNet"))), dataset(LABELS),
         "3d_fullres", 100, spaced(1.7, 1.6, 2.5))
    if not sys.argv[1:]:
        postprocess(HERE / "residual")
    bottleneck = small("ResidualEncoderUNet", more={
        "block": "dynamic_network_architectures.building_blocks.residual.BottleneckD", "bottleneck_channels": [2, 4],
        "stem_channels": 6})
    case("bottleneck", [image(rng, (22, 20, 14))], plans(one(**iso, arch=bottleneck)), dataset(LABELS), "3d_fullres",
         110, spaced(1.7, 1.6, 2.5), axes=(0, 1, 2), mirroring=True)

    flat = configuration([16, 16], [1.4, 1.4], arch=small(dims=2))
    case("flat", [image(rng, (22, 20, 7))], plans({"2d": flat}), dataset(LABELS), "2d", 120, spaced(1.7, 1.6, 5.0),
         axes=(0, 1), mirroring=True)

    aniso = configuration([6, 16, 16], [5.0, 1.2, 1.2], arch=small(strides=[[1, 1, 1], [1, 2, 2]],
                                                                  kernels=[[1, 3, 3], [3, 3, 3]]))
    case("anisotropic", [image(rng, (22, 20, 9))], plans({"3d_fullres": aniso}), dataset(LABELS), "3d_fullres", 130,
         spaced(1.0, 1.0, 6.5), axes=(0, 1, 2), mirroring=True)

    case("oblique", [image(rng, (14, 20, 22))],
         plans(one(patch=[12, 16, 16], spacing=[1.8, 1.6, 1.7], arch=small()), transpose=(2, 0, 1)), dataset(LABELS),
         "3d_fullres", 140, rotated([2.1, 1.7, 1.6], (8, -12, 20), (3, -7, 11)), folds=(0, 1, 2), axes=(0, 1, 2),
         mirroring=True)

    inherited = {"3d_fullres": configuration(**iso, arch=small()), "mine": {"inherits_from": "3d_fullres",
                                                                           "spacing": [2.5, 1.7, 1.7]}}
    case("ignore_best_inherits", [image(rng, (22, 20, 14))], plans(inherited), dataset({**LABELS, "ignore": 3}),
         "mine", 150, spaced(1.7, 1.6, 2.5), checkpoint="checkpoint_best.pth")

    old = configuration(**iso)
    old.update(UNet_class_name="PlainConvUNet", UNet_base_num_features=4, unet_max_num_features=6,
               n_conv_per_stage_encoder=[1, 1], n_conv_per_stage_decoder=[2], num_pool_per_axis=[1, 1, 1],
               pool_op_kernel_sizes=[[1, 1, 1], [2, 2, 2]], conv_kernel_sizes=[[3, 3, 3], [3, 3, 3]])
    oldest = plans({"3d_fullres": old})
    case("old_plans", [image(rng, (22, 20, 14))], oldest, dataset(LABELS), "3d_fullres", 160, spaced(1.7, 1.6, 2.5))

    mri = [np.where(np.indices((22, 20, 14)).min(axis=0) < 3, 0, image(rng, (22, 20, 14), low=10)).astype(np.int16)
           for _ in range(2)]
    regions = dataset({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, ("T1", "FLAIR"),
                      regions_class_order=[1, 2, 3])
    case("regions", mri, plans(one(**iso, schemes=("ZScoreNormalization",) * 2, masks=[True, True], arch=small()),
                               channels=2), regions, "3d_fullres", 170, spaced(1.7, 1.6, 2.5))

    schemes = ("NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization", "ZScoreNormalization")
    four = [image(rng, (20, 18, 12), low=0, high=3), image(rng, (20, 18, 12)),
            np.clip(image(rng, (20, 18, 12), low=10, high=240), 0, 255).astype(np.int16), image(rng, (20, 18, 12))]
    case("normalizations", four, plans(one(**iso, schemes=schemes, arch=small()), channels=4),
         dataset(LABELS, ("noNorm", "a", "rgb", "b")), "3d_fullres", 180, spaced(1.7, 1.6, 2.5))

    turned = np.array([[0, 0, -2.5, 9.0], [1.7, 0, 0, -4.0], [0, -1.6, 0, 30.0], [0, 0, 0, 1]])
    case("reorienting", [image(rng, (22, 20, 14))],
         plans(one(**iso, arch=small()), reader="NibabelIOWithReorient"), dataset(LABELS), "3d_fullres", 200, turned)
    case("nibabel", [image(rng, (22, 20, 14))], plans(one(**iso, arch=small()), reader="NibabelIO"), dataset(LABELS),
         "3d_fullres", 210, turned)

    many = {"background": 0, **{f"part_{n}": n for n in range(1, 300)}}
    case("uint16", [image(rng, (18, 17, 13))], plans(one(**iso, arch=small())), dataset(many), "3d_fullres", 220,
         spaced(1.7, 1.6, 2.5), keep=False)

    low = configuration([8, 12, 12], [4.0, 2.6, 2.6], arch=small())
    low["next_stage"] = "3d_cascade_fullres"
    cascade = {"3d_lowres": low, "3d_fullres": configuration(**iso, arch=small()),
               "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}}
    case("cascade", [image(rng, (22, 20, 14))], plans(cascade), dataset(LABELS), "3d_cascade_fullres", 230,
         spaced(1.7, 1.6, 2.5), lowres="3d_lowres")

    rng = np.random.default_rng(10)
    for stage in (low, cascade["3d_fullres"]):
        for key, seg in (("data", False), ("seg", True), ("probabilities", False)):
            stage[f"resampling_fn_{key}"] = "resample_torch_fornnunet"
            stage[f"resampling_fn_{key}_kwargs"] = {"is_seg": seg, "force_separate_z": None,
                                                    "memefficient_seg_resampling": False}
    case("torch_resampling", [image(rng, (22, 20, 14))], plans(cascade), dataset(LABELS), "3d_cascade_fullres", 240,
         spaced(1.7, 1.6, 2.5), lowres="3d_lowres")
    thick = {"3d_fullres": {**aniso, **{key: value for key, value in low.items() if key.startswith("resampling")}}}
    case("torch_anisotropic", [image(rng, (22, 20, 9))], plans(thick), dataset(LABELS), "3d_fullres", 250,
         spaced(1.0, 1.0, 6.5), axes=(0, 1, 2), mirroring=True)


if __name__ == "__main__":
    main()
