"""The network engine against PyTorch: every layer shape and the whole standard network.

    cargo build --release --bins --examples
    python benches/engine.py speed   --rounds 3 [--patch 128]   # on a quiet machine
    python benches/engine.py exact   [--patch 64]

Needs torch 2.15 and dynamic_network_architectures 0.4.4. The network is nnU-Net's usual 3-D one (32, 64, 128, 256,
320, 320 features, one channel, three classes) with seeded random weights, written as a model folder to
target/engine_bench. `speed` runs rounds of one pass per engine, so that all engines see the same machine, and prints
medians over rounds and their ratios. A layer is a block: convolution, instance norm and LeakyReLU in PyTorch; in
medseg the layer's own time inside the network, with the normalisation of its input and the statistics of its
output. PyTorch gets the better of its two memory layouts (cf channels_first, cl channels_last_3d).
"""
import argparse, json, statistics, subprocess, time
from pathlib import Path

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "target" / "engine_bench"
MEDSEG = ROOT / "target" / "release" / "medseg"
FORWARD = ROOT / "target" / "release" / "examples" / "nn_forward"
FEATURES = (32, 64, 128, 256, 320, 320)
# name in the network: input channels, output channels, edge of the input, stride (0: transposed)
LAYERS = {
    "encoder.stages.0.0.convs.0": (1, 32, 128, 1),
    "encoder.stages.0.0.convs.1": (32, 32, 128, 1),
    "encoder.stages.1.0.convs.0": (32, 64, 128, 2),
    "encoder.stages.1.0.convs.1": (64, 64, 64, 1),
    "encoder.stages.2.0.convs.0": (64, 128, 64, 2),
    "encoder.stages.2.0.convs.1": (128, 128, 32, 1),
    "encoder.stages.3.0.convs.1": (256, 256, 16, 1),
    "encoder.stages.4.0.convs.1": (320, 320, 8, 1),
    "decoder.transpconvs.4": (64, 32, 64, 0),
    "decoder.transpconvs.3": (128, 64, 32, 0),
    "decoder.transpconvs.1": (320, 256, 8, 0),
}


def network():
    torch.manual_seed(0)
    return PlainConvUNet(
        1, 6, FEATURES, torch.nn.Conv3d, 3, [1, 2, 2, 2, 2, 2], 2, 3, 2, conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=False,
    ).eval()


def model_folder(edge):
    """A model folder of the network."""
    folder = HERE / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    source = ROOT / "testdata" / "embedded_model" / folder.name
    plans = json.loads((source / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [edge] * 3
    kernels, strides = [[3] * 3] * 6, [[1] * 3] + [[2] * 3] * 5
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=6, features_per_stage=list(FEATURES), kernel_sizes=kernels, strides=strides,
        n_conv_per_stage=[2] * 6, n_conv_per_stage_decoder=[2] * 5)
    dataset = json.loads((source / "dataset.json").read_text())
    dataset["labels"] = {"background": 0, "a": 1, "b": 2}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.save(
        {"network_weights": network().state_dict(), "trainer_name": "nnUNetTrainer",
         "init_args": {"configuration": "3d_fullres", "plans": plans, "dataset_json": dataset, "fold": 0},
         "inference_allowed_mirroring_axes": (0, 1, 2)},
        folder / "fold_0" / "checkpoint_final.pth")
    return folder


def timed(work):
    with torch.inference_mode():
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3


def half(work):
    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            work()
    return run


def block(cin, cout, stride):
    if stride == 0:
        return torch.nn.ConvTranspose3d(cin, cout, 2, 2)
    return torch.nn.Sequential(
        torch.nn.Conv3d(cin, cout, 3, stride, 1), torch.nn.InstanceNorm3d(cout, affine=True),
        torch.nn.LeakyReLU(0.01, inplace=True))


def torch_works(edge):
    """What PyTorch runs in a round: (name, type, layout) -> callable."""
    works = {}
    shapes = {"network": None, **(LAYERS if edge == 128 else {})}
    for name, shape in shapes.items():
        for layout in ("cf", "cl"):
            format = torch.contiguous_format if layout == "cf" else torch.channels_last_3d
            module = network() if shape is None else block(shape[0], shape[1], shape[3])
            size = (1, edge) if shape is None else (shape[0], shape[2])
            module = module.eval().to(memory_format=format)
            x = torch.randn(1, size[0], size[1], size[1], size[1]).to(memory_format=format)
            work = lambda module=module, x=x: module(x)
            works[name, "fp32", layout] = work
            works[name, "bf16", layout] = half(work)
    return works


def medseg(folder, isa, precision, threads):
    command = [MEDSEG, "--threads", str(threads), "bench", "model", "-m", folder, "--isa", isa,
               "--precision", precision, "--repeats", "2", "--json"]
    run = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["runs"][0]
    times = {layer["name"]: layer["median_ms"] for layer in run["layers"]}
    return run, {"network": run["median_ms"], **times}


def speed(args):
    folder = model_folder(args.patch)
    torch.set_num_threads(args.threads)
    works = torch_works(args.patch)
    engines = [(isa, precision) for isa in ("avx512", "avx2") for precision in ("fp32", "fast32", "bf16")]
    if "amx_bf16" in Path("/proc/cpuinfo").read_text():
        engines.append(("amx", "bf16"))
    theirs, ours = {key: [] for key in works}, {engine: [] for engine in engines}
    for key, work in works.items():
        if key[0] != "network":
            timed(work)
    for _ in range(args.rounds):
        for key, work in works.items():
            theirs[key].append(timed(work))
        for engine in engines:
            run, times = medseg(folder, *engine, args.threads)
            ours[engine].append(times)
            ours[engine + ("run",)] = run
    theirs = {key: statistics.median(values) for key, values in theirs.items()}
    names = dict.fromkeys(key[0] for key in works)
    best = lambda name, type: min(theirs[name, type, layout] for layout in ("cf", "cl"))
    print(f"patch {args.patch}^3, {args.threads} threads, {args.rounds} rounds; ms, in brackets PyTorch / medseg\n")
    print("| | PyTorch fp32 | PyTorch bf16 | " + " | ".join(" ".join(engine) for engine in engines) + " |")
    print("|---|" + "---|" * (2 + len(engines)))
    ratios = {engine: [] for engine in engines}
    for name in names:
        cells = [f"{best(name, 'fp32'):.1f}", f"{best(name, 'bf16'):.1f}"]
        for engine in engines:
            own = statistics.median(times[name] for times in ours[engine])
            ratio = best(name, "bf16" if engine[1] == "bf16" else "fp32") / own
            if name != "network":
                ratios[engine].append(ratio)
            cells.append(f"{own:.1f} ({ratio:.2f})")
        shape = LAYERS.get(name)
        title = "whole network" if shape is None else "{} -> {} {}^3 {}".format(
            shape[0], shape[1], shape[2], {0: "transposed", 1: "", 2: "stride 2"}[shape[3]])
        print(f"| {title} | " + " | ".join(cells) + " |")
    if args.patch == 128:
        means = [f"{statistics.geometric_mean(ratios[engine]):.2f}" for engine in engines]
        print("| geometric mean of layers | | | " + " | ".join(means) + " |")
    print()
    for engine in engines:
        run = ours[engine + ("run",)]
        work = 2 * run["giga_multiply_adds_per_s"] / args.threads
        print(f"{' '.join(engine)}: activations {run['activation_bytes'] / 1e6:.0f} MB, weights "
              f"{run['weight_bytes'] / 1e6:.0f} MB, {work:.0f} GFLOP/s of the plain sums per thread")


def exact(args):
    from safetensors.torch import save_file
    HERE.mkdir(parents=True, exist_ok=True)
    state = {name: value.clone() for name, value in network().state_dict().items()
             if not name.startswith("decoder.encoder") and "all_modules" not in name}
    save_file(state, HERE / "weights.safetensors")
    stages = [dict(features=n, kernel=[3] * 3, stride=[1 if i == 0 else 2] * 3, encoder_convs=2,
                   decoder_convs=2 if i < 5 else 0) for i, n in enumerate(FEATURES)]
    (HERE / "spec.json").write_text(json.dumps(dict(
        spatial_dims=3, in_channels=1, out_channels=3, stages=stages, conv_bias=True, norm_eps=1e-5,
        norm_affine=True, negative_slope=0.01)))
    edge = args.patch
    x = torch.randn(1, 1, edge, edge, edge, generator=torch.Generator().manual_seed(1))
    x.numpy().tofile(HERE / "input.f32")
    with torch.inference_mode():
        single = network()(x)[0].numpy()
        half_ = [0]
        half(lambda: half_.__setitem__(0, network()(x)[0].float().numpy()))()
        double = network().double()(x.double())[0].numpy() if edge <= 64 else single
    def row(name, logits):
        against = [f"{np.abs(logits - other).max() / np.abs(other).max():.1e}" for other in (double, single)]
        norm = np.linalg.norm(logits - double) / np.linalg.norm(double)
        same = (logits.argmax(0) == single.argmax(0)).mean()
        print(f"| {name} | {against[0]} | {norm:.1e} | {against[1]} | {same:.6f} |")
    print("| engine | largest to fp64 | norm to fp64 | largest to PyTorch fp32 | arg-max as PyTorch fp32 |\n|---|---|---|---|---|")
    row("PyTorch fp32", single)
    row("PyTorch autocast bf16", half_[0])
    bf16 = ("amx",) if "amx_bf16" in Path("/proc/cpuinfo").read_text() else ()
    for isa in ("avx512", "avx2") + bf16 + (("scalar",) if edge <= 64 else ()):
        for precision in ("fp32", "fast32", "bf16"):
            subprocess.run(
                [FORWARD, HERE / "spec.json", HERE / "weights.safetensors", f"{edge},{edge},{edge}", "--isa", isa,
                 "--precision", precision, "--input", HERE / "input.f32", "--output", HERE / "logits.f32"],
                check=True, capture_output=True)
            logits = np.fromfile(HERE / "logits.f32", np.float32).reshape(single.shape)
            row(f"{isa} {precision}", logits)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["speed", "exact"])
parser.add_argument("--patch", type=int, default=128)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()
speed(arguments) if arguments.what == "speed" else exact(arguments)
