"""Whole runs of `medseg infer`: against nnU-Net, over sizes, under a memory limit; resampling against nnU-Net's.

    cargo build --release --bins --examples
    python benches/whole.py peers    --model MODEL --images CASE_FOLDER... [--rounds 2] [--medseg-only]
    python benches/whole.py linear   [--model MODEL] [--tall 1 2 4]
    python benches/whole.py limits   --work FOLDER
    python benches/whole.py resample [--rounds 3]

Needs nnunetv2 2.8.1 and torch 2.15 (`peers`, `limits` to make the models, `resample`). On a quiet machine. `peers` runs
the two commands in turn on every folder of one case (`*_0000.nii.gz`) and prints seconds and peak resident memory.
`linear` predicts phantoms twice as wide as the patch of a model (the embedded one) and so many times as tall, and compares
the time with that of the passes alone (`bench model`, before and after). `limits` predicts 512x512x600 with 25 classes and 512x512x300 with 118 under `--memory-limit 4GiB`.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEDSEG = ROOT / "target" / "release" / "medseg"
RESAMPLE = ROOT / "target" / "release" / "examples" / "resample_times"


def measured(command, **environment):
    """Seconds and peak resident GB of a command."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], env={**os.environ, **environment},
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed: {errors.decode()[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def peers(args):
    row("case", "medseg s", "medseg GB", "nnU-Net s", "nnU-Net GB", "times faster", "times less memory")
    row(*["---"] * 7)
    with tempfile.TemporaryDirectory() as work:
        for folder in args.images:
            image = next(Path(folder).glob("*_0000.nii.gz"))
            own, other = [], []
            for _ in range(args.rounds):
                own.append(measured([MEDSEG, "--threads", args.threads, "infer", "-i", image, "-m", args.model,
                                     "-o", f"{work}/own.nii.gz", "--force", "-q"]))
                if not args.medseg_only:
                    paths = {f"nnUNet_{name}": work for name in ("raw", "preprocessed", "results")}
                    other.append(measured(
                        [Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder", "-i", folder, "-o",
                         f"{work}/other", "-m", args.model, "-device", "cpu", "-f", "0", "-npp", "1", "-nps", "1",
                         "--disable_progress_bar"], OMP_NUM_THREADS=str(args.threads), **paths))
            own = [statistics.median(values) for values in zip(*own)]
            if args.medseg_only:
                row(Path(folder).name, f"{own[0]:.1f}", f"{own[1]:.2f}", "", "", "", "")
                continue
            other = [statistics.median(values) for values in zip(*other)]
            row(Path(folder).name, f"{own[0]:.1f}", f"{own[1]:.2f}", f"{other[0]:.1f}", f"{other[1]:.2f}",
                f"{other[0] / own[0]:.2f}", f"{other[1] / own[1]:.2f}")


def linear(args):
    model = Path(args.model or next((ROOT / "testdata" / "embedded_model").glob("*__3d_fullres")))
    plan = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]
    patch, spacing = plan["patch_size"], ",".join(str(mm) for mm in plan["spacing"][::-1])
    common = ["--isa", args.isa, "--precision", args.precision]

    def pass_s():
        command = [MEDSEG, "--threads", str(args.threads), "bench", "model", "-m", model, "--json", "--repeats", "5", *common]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["runs"][0]["median_ms"] / 1e3

    row("slices", "voxels", "tiles", "infer s", "predict s", "passes alone s", "over the passes", "ns per voxel")
    row(*["---"] * 8)
    with tempfile.TemporaryDirectory() as work:
        for tall in args.tall:
            image, report = f"{work}/ct{tall}.nii", f"{work}/r.json"
            # The model's own spacing: nothing is resampled.
            shape = [patch[0] * tall, patch[1] * 2, patch[2] * 2]
            subprocess.run([MEDSEG, "phantom", "-o", image, "--size", ",".join(map(str, shape[::-1])), "--spacing",
                            spacing, "-q"], check=True)
            before = pass_s()
            seconds, _ = measured([MEDSEG, "--threads", args.threads, "infer", "-i", image, "-m", model, "-o",
                                   f"{work}/o.nii", "--force", "--no-mirroring", "--report", report, "-q", *common])
            tile_s = (before + pass_s()) / 2
            phases = json.loads(Path(report).read_text())["cases"][0]["phases"]
            predict = next(phase["seconds"] for phase in phases if phase["name"] == "predict")
            # Along an axis of n voxels and a patch of p: ceil((n - p) / (p / 2)) + 1 tiles.
            tiles = (2 * tall - 1) * 3 * 3
            passes, voxels = tiles * tile_s, shape[0] * shape[1] * shape[2]
            row(shape[0], voxels, tiles, f"{seconds:.2f}", f"{predict:.2f}", f"{passes:.2f}",
                f"{predict / passes - 1:+.1%}", f"{seconds / voxels * 1e9:.0f}")


def limits(args):
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    row("classes", "image", "seconds", "peak GB")
    row(*["---"] * 4)
    for classes, slices in ((25, 600), (118, 300)):
        model = work / f"classes{classes}"
        if not model.exists():
            subprocess.run([sys.executable, ROOT / "testdata" / "large_cases" / "make.py", model, "--classes",
                            str(classes)], check=True, stdout=subprocess.DEVNULL)
        folder = next(path for path in model.rglob("plans.json")).parent
        image = work / f"ct{slices}.nii"
        if not image.exists():
            subprocess.run([MEDSEG, "phantom", "-o", image, "--size", f"512,512,{slices}", "--spacing", "0.8,0.8,1",
                            "-q"], check=True)
        seconds, peak = measured([MEDSEG, "--threads", args.threads, "--memory-limit", "4GiB", "infer", "-i", image,
                                  "-m", folder, "-o", work / "out.nii.gz", "--force", "-q"])
        row(classes, f"512x512x{slices}", f"{seconds:.0f}", f"{peak:.2f}")


def resample(args):
    import numpy as np
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg
    source, target = (256, 256, 256), (200, 320, 320)
    data = np.random.default_rng(0).standard_normal(source).astype(np.float32).cumsum(0)
    row("what", "medseg ms", "nnU-Net ms", "times faster")
    row(*["---"] * 4)
    with tempfile.TemporaryDirectory() as work:
        file = f"{work}/data.f32"
        data.tofile(file)
        for kind, order, type_ in (("image", 3, np.float32), ("logits", 1, np.float16)):
            own, other = [], []
            for _ in range(args.rounds):
                command = [RESAMPLE, file, ",".join(map(str, source)), ",".join(map(str, target)), kind]
                own.append(float(subprocess.run(command, check=True, capture_output=True,
                                                env={**os.environ, "RAYON_NUM_THREADS": str(args.threads)}).stdout))
                volume = data[None].astype(type_)
                start = time.perf_counter()
                resample_data_or_seg(volume, target, is_seg=False, axis=None, order=order, do_separate_z=False)
                other.append((time.perf_counter() - start) * 1e3)
            own, other = statistics.median(own), statistics.median(other)
            row(kind, f"{own:.0f}", f"{other:.0f}", f"{other / own:.1f}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["peers", "linear", "limits", "resample"])
parser.add_argument("--model")
parser.add_argument("--images", nargs="+", default=[])
parser.add_argument("--medseg-only", action="store_true")
parser.add_argument("--tall", nargs="+", type=int, default=[1, 2, 4])
parser.add_argument("--precision", default="fp32")
parser.add_argument("--work", default=str(ROOT / "target" / "large_cases"))
parser.add_argument("--rounds", type=int, default=2)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--isa", default="avx512")
arguments = parser.parse_args()
globals()[arguments.what](arguments)
