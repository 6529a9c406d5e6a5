"""Reads a workbook of `medseg report` with openpyxl and compares every number with its results file.

    medseg report -i results.json -o report.xlsx && python3 check_workbook.py results.json report.xlsx

Exits with 1 at the first cell that differs. Made for openpyxl 3.1.
"""
import json
import sys
import zipfile

import openpyxl


def titles(scores):
    fixed = {"dice": "Dice", "iou": "IoU", "hd_mm": "HD (mm)", "hd95_mm": "HD95 (mm)", "assd_mm": "ASSD (mm)"}
    return {name: fixed.get(name, f"NSD {name[4:]} mm" if name.startswith("nsd@") else None) for name in scores}


def main(results_file, workbook_file):
    results = json.load(open(results_file))
    book = openpyxl.load_workbook(workbook_file, read_only=True)
    compared = 0

    def same(where, found, expected):
        nonlocal compared
        compared += 1
        expected = "n/a" if expected is None else expected
        if found != expected:
            sys.exit(f"{where}: {found!r} in the workbook, {expected!r} in the results")

    targets = [(case, target) for case in results["cases"] for target in case["labels"]]
    rows = book["Patients"].iter_rows(values_only=True)
    heads = next(rows)
    known = {name: heads.index(title) for name, title in titles(targets[0][1]["scores"]).items() if title}
    for row, (case, target) in zip(rows, targets, strict=True):
        where = f"Patients, {case['case']}, {target['label']}"
        same(where, row[0], case["case"])
        same(where, row[1], target["label"])
        for name, column in known.items():
            same(f"{where}, {name}", row[column], target["scores"][name])
        for name in ("tp", "fp", "fn"):
            same(f"{where}, {name}", row[heads.index(name.upper())], target[name])

    slices = (row for name in book.sheetnames if name.startswith("Slices")
              for row in book[name].iter_rows(min_row=3, values_only=True))
    for case in results["cases"]:
        tables = case["slices"]["labels"]
        for index, z in enumerate(case["slices"]["z"]):
            row = next(slices)
            where = f"Slices, {case['case']}, {z}"
            same(where, row[:2], (case["case"], z))
            for place, target in enumerate(case["labels"]):
                table = tables[target["label"]]
                cells = row[3 + 4 * place:7 + 4 * place]
                values = [table[key][index] for key in ("dice", "iou", "reference", "prediction")]
                if values[2] + values[3] == 0:
                    values = [None] * 4
                    same(where, tuple(cells), tuple(values))
                    continue
                for cell, value in zip(cells, values):
                    same(where, cell, value)
    if next(slices, None) is not None:
        sys.exit("Slices: more rows than slices")

    matrix = results["summary"]["confusion"]["matrix"]
    for row, counts in zip(book["Confusion"].iter_rows(min_row=3, values_only=True), matrix):
        for cell, count in zip(row[1:], counts):
            same("Confusion", cell, count)

    rows = book["Distribution"].iter_rows(min_row=2, values_only=True)
    wanted = {title: name for name, title in titles(known).items()}
    labels = {entry["label"]: entry for entry in results["summary"]["labels"]}
    for row in rows:
        if row[0] is None:
            break
        if row[0] not in wanted:
            continue
        entry = labels["*" if row[1] == "all labels" else row[1]]["scores"][wanted[row[0]]]
        for offset, name in enumerate(("mean", "sd")):
            same(f"Distribution, {row[:2]}, {name}", row[4 + offset], entry.get(name))
        for offset, name in enumerate(("min", "q1", "median", "q3", "max")):
            same(f"Distribution, {row[:2]}, {name}", row[8 + offset], entry.get(name))

    archive = zipfile.ZipFile(workbook_file)
    names = archive.namelist()
    sheets = b"".join(archive.read(name) for name in names if name.startswith("xl/worksheets/sheet"))
    parts = {
        "charts": sum(name.startswith("xl/charts/chart") for name in names),
        "pictures": sum(name.startswith("xl/media/") for name in names),
        "sparklines": sheets.count(b"<x14:sparkline>"),
        "conditional formats": sheets.count(b"<conditionalFormatting"),
    }
    for formula in (b"<f>", b't="e"'):
        if formula in sheets:
            sys.exit(f"the workbook holds {formula.decode()}")
    print(f"{compared} cells equal; " + ", ".join(f"{count} {name}" for name, count in parts.items()))


main(*sys.argv[1:])
