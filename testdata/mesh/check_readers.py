#!/usr/bin/env python3
"""Open what `medseg smooth` writes in other programs' readers and compare counts, names, colours and places.

    python check_readers.py MEDSEG [FOLDER]

Needs numpy, nibabel, trimesh, vtk and pygltflib; `assimp-py` is used where it is installed. Makes a label map with three named labels
on an oblique grid, writes it in every format, one file per label and merged, and reads each file back. The run report of medseg says
how many vertices and triangles there should be. Exits 1 when a reader disagrees.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy
import pygltflib
import trimesh
import vtk

try:
    import assimp_py
except ImportError:
    assimp_py = None

NAMES = {1: ("left kidney", (200, 90, 40)), 4: ("tumor", (10, 250, 128)), 9: ("liver", (33, 66, 99))}
FORMATS = ["obj", "stl", "ply", "glb"]
TOLERANCE_MM = 0.002
problems = []


def expect(what, found, wanted):
    if found != wanted:
        problems.append(f"{what}: found {found}, expected {wanted}")


def near(what, found, wanted, tolerance=TOLERANCE_MM):
    difference = numpy.abs(numpy.asarray(found, float) - numpy.asarray(wanted, float)).max()
    if not difference <= tolerance:
        problems.append(f"{what}: {difference} apart, at most {tolerance} expected")


def make_case(folder):
    z, y, x = numpy.mgrid[:30, :32, :34]
    data = numpy.zeros(z.shape, numpy.uint8)
    data[(z - 14) ** 2 + (y - 15) ** 2 + (x - 16) ** 2 < 150] = 9
    data[(z - 14) ** 2 + (y - 15) ** 2 + (x - 24) ** 2 < 30] = 4
    data[3:9, 3:8, 2:6] = 1
    affine = numpy.array([[-0.7, 0.1, 0, 90], [0.05, -0.8, 0.1, 120], [0, 0.1, 1.5, -700], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(data.transpose(2, 1, 0), affine), folder / "map.nii.gz")
    rows = ["index\tname\tcolor"]
    rows += [f"{number}\t{name}\t#{r:02x}{g:02x}{b:02x}" for number, (name, (r, g, b)) in NAMES.items()]
    (folder / "table.tsv").write_text("\n".join(rows) + "\n")


def smooth(medseg, folder, output, *flags):
    command = [medseg, "smooth", "-q", "-i", "map.nii.gz", "-o", output, "--labels", "table.tsv", "--json", "--format", ",".join(FORMATS)]
    text = subprocess.run(command + list(flags), cwd=folder, check=True, capture_output=True, text=True).stdout
    return json.loads(text)["labels"]


def vtk_read(path):
    reader = {"obj": vtk.vtkOBJReader, "stl": vtk.vtkSTLReader, "ply": vtk.vtkPLYReader}[path.suffix[1:]]()
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()


def check_label(folder, row):
    stem = f"{row['label']}_{row['name'].replace(' ', '_')}"
    wanted = (row["vertices"], row["triangles"])
    meshes = {}
    for ending in FORMATS:
        path = folder / f"{stem}.{ending}"
        # STL has no shared vertices: a reader that does not join them finds three per triangle.
        counts = (3 * wanted[1], wanted[1]) if ending == "stl" else wanted
        mesh = trimesh.load(path, process=False, force="mesh")
        meshes[ending] = mesh
        expect(f"trimesh {path.name} counts", (len(mesh.vertices), len(mesh.faces)), counts)
        near(f"trimesh {path.name} volume, mL", mesh.volume / 1000 * (1e9 if ending == "glb" else 1), row["volume_out_ml"], 0.01)
        if ending != "glb":
            found = vtk_read(path)
            # VTK's STL reader joins equal corners.
            expect(f"vtk {path.name} counts", (found.GetNumberOfPoints(), found.GetNumberOfCells()), wanted)
        if assimp_py is not None:
            flags = assimp_py.Process_JoinIdenticalVertices if ending == "stl" else 0
            scene = assimp_py.import_file(str(path), flags)
            faces = sum(mesh.num_faces for mesh in scene.meshes)
            expect(f"assimp {path.name} triangles", faces, wanted[1])
    near(f"{stem}: OBJ and PLY", meshes["obj"].vertices, meshes["ply"].vertices)
    # glTF is in metres with y up: (x, z, -y) / 1000.
    x, y, z = meshes["ply"].vertices.T
    near(f"{stem}: PLY and GLB", meshes["glb"].vertices * 1000, numpy.stack([x, z, -y], 1))
    if not numpy.array_equal(meshes["obj"].faces, meshes["ply"].faces):
        problems.append(f"{stem}: triangles of OBJ and PLY differ")
    colour = meshes["ply"].visual.vertex_colors
    expect(f"trimesh {stem}.ply colour", {tuple(map(int, c[:3])) for c in colour}, {tuple(row["rgb"])})
    near(f"trimesh {stem}.obj colour", meshes["obj"].visual.material.diffuse[:3], row["rgb"], 1)


def srgb(linear):
    return [255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055) for v in linear]


def check_merged(folder, rows):
    wanted = {f"{row['label']}_{row['name'].replace(' ', '_')}": row for row in rows}
    # Named nodes with their own mesh and material.
    document = pygltflib.GLTF2().load(str(folder / "labels.glb"))
    nodes = {node.name: node for node in document.nodes if node.mesh is not None}
    expect("pygltflib names", sorted(nodes), sorted(wanted))
    for name, row in wanted.items():
        if name not in nodes:
            continue
        (primitive,) = document.meshes[nodes[name].mesh].primitives
        counts = (document.accessors[primitive.attributes.POSITION].count, document.accessors[primitive.indices].count // 3)
        expect(f"pygltflib {name} counts", counts, (row["vertices"], row["triangles"]))
        factor = document.materials[primitive.material].pbrMetallicRoughness.baseColorFactor
        near(f"pygltflib {name} colour", srgb(factor[:3]), row["rgb"], 1)
    for ending in ["obj", "glb"]:
        scene = trimesh.load(folder / f"labels.{ending}", process=False, split_objects=True, group_material=False)
        # The names of a scene's geometries come from objects in OBJ and from meshes in glTF.
        found = {name: len(mesh.faces) for name, mesh in scene.geometry.items()}
        expect(f"trimesh labels.{ending}", sorted(found.values()), sorted(row["triangles"] for row in rows))
        expect(f"trimesh names in labels.{ending}", sorted(found), sorted(wanted))
    total = (sum(row["vertices"] for row in rows), sum(row["triangles"] for row in rows))
    for ending in ["obj", "stl", "ply"]:
        found = vtk_read(folder / f"labels.{ending}")
        points = found.GetNumberOfPoints() if ending != "stl" else total[0]
        expect(f"vtk labels.{ending} counts", (points, found.GetNumberOfCells()), total)
    importer = vtk.vtkGLTFReader()
    importer.SetFileName(str(folder / "labels.glb"))
    importer.Update()
    flat = vtk.vtkCompositeDataGeometryFilter()
    flat.SetInputData(importer.GetOutput())
    flat.Update()
    expect("vtk labels.glb counts", (flat.GetOutput().GetNumberOfPoints(), flat.GetOutput().GetNumberOfCells()), total)


def main():
    medseg = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else temporary)
        make_case(folder)
        for flags in [[], ["--simplify", "0.1vox"], ["--normals"]]:
            tag = "-".join(flags).replace("--", "") or "plain"
            rows = smooth(medseg, folder, f"each-{tag}", "--force", *flags)
            expect("labels", [row["label"] for row in rows], sorted(NAMES))
            for row in rows:
                expect(f"rgb of {row['name']}", tuple(row["rgb"]), NAMES[row["label"]][1])
                check_label(folder / f"each-{tag}", row)
            check_merged(folder / f"merged-{tag}", smooth(medseg, folder, f"merged-{tag}", "--force", "--merge", *flags))
    readers = [f"trimesh {trimesh.__version__}", f"vtk {vtk.vtkVersion().GetVTKVersion()}", f"pygltflib {pygltflib.__version__}"]
    readers += ["assimp-py"] if assimp_py is not None else []
    print(f"{', '.join(readers)}: {len(problems)} differences")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
