#!/usr/bin/env python3
"""bad_inputs.py MEDSEG MAKE_BAD_INPUTS WORK_DIR - the malformed-input gate, on the real binary.

Generates the malformed inputs into WORK_DIR, gives every volume, DICOM, plans, dataset, .pth and safetensors entry to
`medseg info`, masks also to `medseg compare` with themselves and pairs to `medseg compare`, and checks for each:
  error  : exit code 1, one line on stderr that names the file, no panic, peak memory under the entry's limit
  ok     : exit code 0
  policy : either of the two, never a panic, a hang or a crash
Python standard library only. Exit code 1 when any entry misbehaves.
"""
import json
import os
import subprocess
import sys
import tempfile
import threading

KINDS = {"nifti", "nrrd", "mha", "mhd", "dicom", "dicom-series", "plans", "dataset", "pth", "safetensors", "config"}
SECONDS = 60


def run(arguments):
    """Exit code (negative for a signal), stdout, stderr and peak memory in MiB of one command."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        killer = threading.Timer(SECONDS, child.kill)
        killer.start()
        _, status, usage = os.wait4(child.pid, 0)
        killer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return (child.returncode, out.read().decode("utf-8", "replace"),
                err.read().decode("utf-8", "replace"), usage.ru_maxrss / 1024)


def complaints(entry, outcome):
    """What is wrong with this outcome for this entry; empty when it behaves."""
    code, _, err, peak_mib = outcome
    found = []
    if "panicked" in err or "PICKLE RAN" in err + outcome[1]:
        found.append("panic or executed pickle")
    if code not in (0, 1, 4):
        found.append("exit code %d" % code)
    if entry["expect"] == "error" and code == 0:
        found.append("accepted, but an error was expected")
    if entry["expect"] == "ok" and code == 1:
        found.append("refused, but it is valid")
    if code == 1:
        lines = [line for line in err.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error:")]
        if len(errors) != 1:
            found.append("%d error lines" % len(errors))
        elif not any(word in errors[0] for word in entry["mention"]):
            found.append("does not name %s" % " or ".join(entry["mention"]))
    if peak_mib > entry["max_rss_mb"]:
        found.append("peak memory %.0f MiB, limit %d MiB" % (peak_mib, entry["max_rss_mb"]))
    return found


def commands(entry, medseg, root):
    """The command lines that this entry goes through."""
    path = os.path.join(root, entry["path"])
    if "pair" in entry:
        yield [medseg, "compare", path, os.path.join(root, entry["pair"])]
        return
    if entry["kind"] == "config":
        if path.endswith(".csv"):
            yield [medseg, "evaluate", "--list", path, "-o", os.devnull]
        else:
            mask = os.path.join(root, "control", "good_mask.nii.gz")
            yield [medseg, "evaluate", "-p", mask, "-r", mask, "--labels", path, "-o", os.devnull]
        return
    if entry.get("used_as") == "mask":
        yield [medseg, "compare", "--label-maps", path, path]
        return
    yield [medseg, "info", path, "--json"]


def main():
    medseg, generator, root = sys.argv[1:4]
    subprocess.run([sys.executable, generator, root], check=True)
    with open(os.path.join(root, "EXPECTED.json"), encoding="utf-8") as handle:
        entries = [e for e in json.load(handle)["entries"] if e["kind"] in KINDS]
    failed = 0
    for entry in entries:
        before = sorted(os.listdir(os.path.dirname(os.path.join(root, entry["path"]))))
        for command in commands(entry, medseg, root):
            outcome = run(command)
            found = complaints(entry, outcome)
            after = sorted(os.listdir(os.path.dirname(os.path.join(root, entry["path"]))))
            if after != before:
                found.append("left a file behind")
            if found:
                failed += 1
                print("FAIL %s (%s; expect %s): %s\n     exit %d: %s" % (
                    entry["path"], entry["defect"], entry["expect"], "; ".join(found),
                    outcome[0], outcome[2].strip()[:300]))
    print("%d passed, %d failed" % (len(entries) - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
