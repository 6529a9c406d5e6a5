"""Betti numbers of every reference mask and of its skeleton by scikit-image (Lee): python make.py SHARED > betti.json

Components are 26-connected, cavities are 6-connected background, tunnels follow from the Euler characteristic.
The versions used are in the file."""
import glob, json, os, sys
import nibabel, numpy as np, scipy, skimage
from scipy import ndimage
from skimage.measure import euler_number
from skimage.morphology import skeletonize


def betti(mask):
    mask = np.pad(mask, 1)
    components = ndimage.label(mask, np.ones((3, 3, 3)))[1]
    cavities = ndimage.label(~mask)[1] - 1
    return [int(components), int(components + cavities - euler_number(mask, connectivity=3)), int(cavities)]


shared = sys.argv[1]
cases = []
names = sorted(glob.glob(shared + "/reference/topology/[uv]*/*/[bt]r*.nii.gz"))
names += sorted(glob.glob(shared + "/reference/mesh/*/mask.nii.gz"))
names += sorted(glob.glob(shared + "/data/ct_aorta_dissection/*.nii.gz"))
for name in names:
    if "ct_cropped" in name:
        continue
    values = np.asarray(nibabel.load(name).dataobj)
    wanted = [1, 2, 6] if "topology" in name else sorted(int(v) for v in np.unique(values) if v > 0)
    for label in wanted:
        mask = values == label
        if not mask.any():
            continue
        box = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in ndimage.find_objects(mask.astype(np.uint8))[0])
        mask = np.ascontiguousarray(mask[box])
        lee = skeletonize(mask, method="lee").astype(bool)
        cases.append({"file": os.path.relpath(name, shared), "label": label, "voxels": int(mask.sum()), "mask": betti(mask),
                      "lee": betti(lee), "lee_voxels": int(lee.sum())})
versions = {"scikit-image": skimage.__version__, "scipy": scipy.__version__, "nibabel": nibabel.__version__}
print(json.dumps({"versions": versions, "cases": cases}, indent=1))
