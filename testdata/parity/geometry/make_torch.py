"""What nnU-Net's resample_torch_fornnunet makes of the label maps in resample.json: writes torch_labels.json.

nnunetv2 2.8.1, torch 2.15.0: python testdata/parity/geometry/make_torch.py
"""

import json
import pathlib

import numpy as np
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

HERE = pathlib.Path(__file__).parent
cases = []
for case in json.loads((HERE / "resample.json").read_text())["cases"]:
    labels = np.array(case["labels"], dtype=np.int16).reshape(case["shape"])
    results = {}
    for name, force in (("automatic", None), ("always", True), ("never", False)):
        resampled = resample_torch_fornnunet(labels[None], case["target"], case["current_mm"], case["new_mm"],
                                             is_seg=True, num_threads=1, force_separate_z=force)[0]
        results[name] = resampled.astype(int).ravel().tolist()
    cases.append(results)
(HERE / "torch_labels.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
