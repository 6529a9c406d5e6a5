"""Known motions of images, found by `medseg infer --register` and by SimpleITK: error in the body, CPU seconds.

    pip install SimpleITK==2.5.7 nibabel scipy
    python testdata/registration/compare.py WORK_FOLDER IMAGE.nii.gz... [--motions 3] [--medseg PATH] [--mr]

Every image is the first phase. The second one is the same image turned and shifted (the first motion by 15 degrees and 20 mm, the
last by nothing), in another contrast, with noise, on a grid of its own. The error of a motion is the mean distance from where the
known one takes 2000 places of the body. SimpleITK: Mattes' information with 50 bins and 10 % of the voxels, regular-step gradient
descent, shrunk by 4, 2 and 1, started as the images lie. `infer` runs the embedded model's shape of task; its time is that of the
phase `register` alone times threads. Exit code 1 where medseg errs by 1 mm or more.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).resolve().parents[2]
TASK = """channels = ["A", "P"]
labels = { kidney = 1, tumor = 2 }
mirroring = false
step = 1.0
[[models]]
model = "MODEL"
"""


def cpu_s(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def known_motion(rng, affine, shape, number, motions):
    degrees, millimetres = (15, 20) if number == 0 else (rng.uniform(0, 15), rng.uniform(0, 20))
    if number == motions - 1:
        degrees = millimetres = 0
    axis, shift = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
    turn = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    motion = np.eye(4)
    motion[:3, :3] = turn
    motion[:3, 3] = centre - turn @ centre + millimetres * shift
    return motion


def second_phase(rng, voxels, affine, motion, is_mr):
    back = np.linalg.inv(affine) @ np.linalg.inv(motion) @ affine
    places = back[:3, :3] @ np.indices(voxels.shape).reshape(3, -1) + back[:3, 3:]
    moved = map_coordinates(voxels, places, order=1, mode="constant", cval=float(voxels.min())).reshape(voxels.shape)
    if is_mr:
        return np.sqrt(moved - moved.min()) * 30 + rng.normal(0, 3, voxels.shape)
    soft = (moved > 20) & (moved < 300)
    moved[soft] = 20 + (moved[soft] - 20) * rng.uniform(0.4, 1.8) + 10 * np.sin((moved[soft] - 20) / 30)
    return moved + rng.normal(0, 15, voxels.shape)


def simple_itk(first, second):
    """The motion in RAS+ mm."""
    fixed, moving = (SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32) for path in (first, second))
    start = SimpleITK.CenteredTransformInitializer(fixed, fixed, SimpleITK.Euler3DTransform())
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(fixed, moving)
    flip = np.diag([-1.0, -1, 1])
    origin = np.array(found.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(found.TransformPoint(tuple(map(float, unit)))) - origin for unit in np.eye(3)]
    motion = np.eye(4)
    motion[:3, :3] = flip @ np.array(columns).T @ flip
    motion[:3, 3] = flip @ origin
    return motion


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--motions", type=int, default=3)
    parser.add_argument("--medseg", default="medseg")
    parser.add_argument("--mr", action="store_true", help="the contrast of the second phase is that of another sequence")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    task, report = args.work / "task.toml", args.work / "report.json"
    model = ROOT / "testdata/model_tiny/nnUNetTrainer__nnUNetPlans__3d_fullres"
    task.write_text(TASK.replace("MODEL", str(model)))
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    rng = np.random.default_rng(5)
    failed = False
    print("| image | as they lie mm | medseg mm | verdict | s | SimpleITK mm | CPU s |\n|---|---|---|---|---|---|---|")
    for path in args.images:
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
        body = voxels > (np.percentile(voxels, 60) if args.mr else -300)
        places = np.argwhere(body)
        places = places[rng.integers(0, len(places), 2000)] @ image.affine[:3, :3].T + image.affine[:3, 3]
        first, second = args.work / "first.nii.gz", args.work / "second.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), first)
        for number in range(args.motions):
            motion = known_motion(rng, image.affine, voxels.shape, number, args.motions)
            phase = second_phase(rng, voxels, image.affine, motion, args.mr)
            nibabel.save(nibabel.Nifti1Image(phase.astype(np.float32), image.affine), second)
            subprocess.run([args.medseg, "infer", "--task", str(task), "-i", f"{first},{second}", "-o",
                            str(args.work / "o.nii.gz"), "--register", "--report", str(report), "--force", "-q"], check=True)
            case = json.loads(report.read_text())["cases"][0]
            found = case["registration"][0]
            seconds = next(phase["seconds"] for phase in case["phases"] if phase["name"].startswith("register"))
            own = np.vstack([found["matrix"], [0, 0, 0, 1]]) if found["verdict"] == "moved" else np.eye(4)
            start = cpu_s(resource.RUSAGE_SELF)
            other = simple_itk(first, second)
            other_s = cpu_s(resource.RUSAGE_SELF) - start

            def error(candidate):
                difference = candidate - motion
                return np.linalg.norm(places @ difference[:3, :3].T + difference[:3, 3], axis=1).mean()

            print(f"| {path.name} | {error(np.eye(4)):.2f} | {error(own):.3f} | {found['verdict']} | {seconds:.1f} | "
                  f"{error(other):.3f} | {other_s:.1f} |", flush=True)
            failed |= error(own) >= 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
