"""postprocessing.pkl as nnU-Net 2.8.1 pickles what cross-validation chose (nnunetv2/postprocessing/remove_connected_components.py):
one for the parser, and the twin of the residual case's postprocessing.json.

    pip install nnunetv2==2.8.1
    python testdata/postprocessing/make.py
"""
import json
from pathlib import Path

from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.postprocessing.remove_connected_components import (
    remove_all_but_largest_component_from_segmentation as largest,
)

arguments = [{"labels_or_regions": [1, (2, 3)]}, {"labels_or_regions": 4, "background_label": 0}]
save_pickle(([largest, largest], arguments), str(Path(__file__).parent / "postprocessing.pkl"))

case = Path(__file__).parent.parent / "parity" / "configurations" / "residual"
chosen = json.loads((case / "postprocessing.json").read_text())
assert set(chosen["postprocessing_fns"]) == {largest.__name__}
arguments = chosen["postprocessing_kwargs"]
save_pickle(([largest] * len(arguments), arguments), str(case / "postprocessing.pkl"))
