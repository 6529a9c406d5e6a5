"""Every reference case of nnU-Net with every instruction set of this machine, or its GPU, and every precision.

    python3 tests/every_isa.py target/release/medseg REFERENCE [--sets scalar avx2 avx512 amx cuda] [--precisions ...]

REFERENCE is the folder with the cases (`A`, `C`, ...). In `fp32` and `fast32` at most 10 voxels in a million may differ
from what nnU-Net predicted; in `bf16` the Dice with `fp32` of the same instruction set must be 0.999 or more for every
class of more than 1000 voxels; `tf32` and `fp16`, which only GPUs have, 0.99, and `bf16` there, whose products have 8
bits, 0.98. The portable kernels (`scalar`), which take long, and the GPU (`cuda`) are left out unless named. Prints a
table; exit code 1 if a line does not hold.
"""
import argparse, json, subprocess, sys, tempfile
from pathlib import Path

PRECISIONS = ("fp32", "fast32", "bf16")
GPU_PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def least_dice(isa, precision):
    """What is asked of a precision with fewer bits; None where differing voxels are counted."""
    if isa == "cuda":
        return {"tf32": 0.99, "fp16": 0.99, "bf16": 0.98}.get(precision)
    return 0.999 if precision == "bf16" else None


def compare(medseg, a, b):
    """Differing voxels in a million, and the least Dice of large classes."""
    result = subprocess.run([medseg, "compare", a, b, "--json"], capture_output=True, text=True)
    if result.returncode not in (0, 4):
        sys.exit(result.stderr)
    found = json.loads(result.stdout)
    large = [label["dice"] for label in found["labels"] if max(label["a_voxels"], label["b_voxels"]) > 1000]
    return found["different"] / found["voxels"] * 1e6, min(large, default=1.0)


def predict(medseg, case, isa, precision, output):
    """The label map, or None if this machine lacks the instruction set."""
    facts = json.loads((case / "case.json").read_text())
    model = next((case / "model").iterdir())
    images = ",".join(str(path) for path in sorted((case / "input").iterdir()))
    where = ["--device", "cuda"] if isa == "cuda" else ["--isa", isa]
    command = [medseg, "infer", "-i", images, "-m", model, "-o", output, *where, "--precision", precision, "-q",
               "--folds", ",".join(map(str, facts["folds"]))]
    if "--disable_tta" in facts["command"]:
        command.append("--no-mirroring")
    result = subprocess.run(command, capture_output=True, text=True)
    if "is not available on this machine" in result.stderr:
        return None
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {result.stderr}")
    return output


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("medseg")
    parser.add_argument("reference", type=Path)
    parser.add_argument("--sets", nargs="+", default=["avx2", "avx512", "amx"])
    parser.add_argument("--precisions", nargs="+", help="only these; fp32 is the one that others are compared with")
    arguments = parser.parse_args()
    cases = sorted(path for path in arguments.reference.iterdir() if (path / "case.json").exists() and
                   (path / "model").exists())
    if not cases:
        sys.exit(f"no cases in {arguments.reference}")
    failures = 0
    print("| case | set | precision | differing voxels in 10^6 | least Dice with fp32 |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for case in cases:
            expected = next((case / "expected").glob("*.nii.gz"))
            for isa in arguments.sets:
                fp32 = None
                known = GPU_PRECISIONS if isa == "cuda" else PRECISIONS
                for precision in [name for name in known if name in (arguments.precisions or known)]:
                    found = predict(arguments.medseg, case, isa, precision, f"{work}/{case.name}_{isa}_{precision}.nii")
                    if found is None:
                        break
                    fp32 = fp32 or found
                    differing, _ = compare(arguments.medseg, expected, found)
                    _, dice = compare(arguments.medseg, fp32, found)
                    least = least_dice(isa, precision)
                    holds = differing <= 10 if least is None else dice >= least
                    failures += not holds
                    print(f"| {case.name} | {isa} | {precision} | {differing:.1f} | {dice:.5f} |"
                          f"{'' if holds else ' does not hold'}", flush=True)
    sys.exit(failures > 0)


main()
