#!/usr/bin/env python3
"""faults_long.py MEDSEG [--only F2,F8] [--small] - the long part of the fault suite, on the real binary.

  F2   10,000 damaged DICOM files, each in a process of at most 512 MiB of address space and half a second of CPU
  F6   every kind of output killed (SIGKILL) at random moments: whole or absent, nothing left beside it
  F8   a batch interrupted (SIGINT, SIGTERM) at 50 random moments: 130 or 143 within 2 s, resumed to the same bytes
  F9   512 x 512 x 300 voxels in 0.5, 1 and 2 GB of address space: done, or an error that says what is needed
  F10  every command with 1, 2, 3, 4 and 8 threads and five times: the same bytes
  F13  300 cases of which 3 are damaged, 1 unreadable: exit 3, the others as alone; two of one name are refused
  F17  empty, full, one-voxel, thin and NaN volumes through every command: a result or one line of error

--small does a tenth of it. Python standard library only; about 6 minutes. Exit code 1 when anything misbehaves; one line
for each with its numbers.
"""
import gzip
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

MEDSEG = os.path.abspath(sys.argv[1])
SMALL = "--small" in sys.argv
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
VESSEL = ["vessel-connect", "--label", "artery", "--labels", "abdomen"]


def medseg(*arguments, address_space=None, **options):
    def limit():
        if address_space:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    return subprocess.run([MEDSEG, *map(str, arguments)], preexec_fn=limit, check=False, **QUIET, **options)


def must(condition, text):
    if not condition:
        raise AssertionError(text)


def hashes(folder):
    found = {}
    for root, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(root, name)
            with open(path, "rb") as handle:
                found[os.path.relpath(path, folder)] = hashlib.sha256(handle.read()).hexdigest()
    return found


def nifti(path, shape, values, kind="B"):
    """A NIfTI-1 file; kind is a struct code: B is uint8, f float32."""
    code, bits = {"B": (2, 8), "f": (16, 32), "H": (512, 16)}[kind]
    x, y, z = shape
    head = struct.pack("<i10s18sihcB8h3f4h", 348, b"", b"", 0, 0, b"r", 0, 3, x, y, z, 1, 1, 1, 1, 0, 0, 0, 0, code, bits, 0)
    head += struct.pack("<8f4f", 1, 1, 1, 1, 1, 0, 0, 0, 352, 1, 0, 0) + bytes(2) + b"\0\2"
    head = head.ljust(252, b"\0") + struct.pack("<2h6f12f", 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    body = head.ljust(344, b"\0") + b"n+1\0" + bytes(4) + struct.pack("<%d%s" % (x * y * z, kind), *values)
    with open(path, "wb") as handle:
        handle.write(gzip.compress(body, 1) if path.endswith(".gz") else body)


def dicom(path):
    """A 64 x 64 CT slice with a nested sequence, explicit little-endian."""
    def element(group, number, kind, value):
        if len(value) % 2:
            value += b"\0" if kind == b"UI" else b" "
        if kind in (b"SQ", b"OW"):
            return struct.pack("<HH2sHI", group, number, kind, 0, len(value)) + value
        return struct.pack("<HH2sH", group, number, kind, len(value)) + value
    item = element(8, 0x100, b"SH", b"113691") + element(8, 0x104, b"LO", b"IEC Body")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    short = lambda value: struct.pack("<H", value)
    data = b"".join([
        element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.2"), element(8, 0x18, b"UI", b"1.2.3.4"),
        element(8, 0x60, b"CS", b"CT"), element(8, 0x1140, b"SQ", item), element(0x20, 0xE, b"UI", b"1.2.3"),
        element(0x20, 0x32, b"DS", b"-10\\20\\5.5"), element(0x20, 0x37, b"DS", b"1\\0\\0\\0\\1\\0"),
        element(0x28, 2, b"US", short(1)), element(0x28, 4, b"CS", b"MONOCHROME2"), element(0x28, 0x10, b"US", short(64)),
        element(0x28, 0x11, b"US", short(64)), element(0x28, 0x30, b"DS", b"0.8\\0.8"), element(0x28, 0x100, b"US", short(16)),
        element(0x28, 0x101, b"US", short(12)), element(0x28, 0x102, b"US", short(11)), element(0x28, 0x103, b"US", short(0)),
        element(0x7FE0, 0x10, b"OW", bytes(range(256)) * 32)])
    meta = element(2, 2, b"UI", b"1.2.840.10008.5.1.4.1.1.2") + element(2, 3, b"UI", b"1.2.3.4")
    meta += element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1")
    with open(path, "wb") as handle:
        handle.write(bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + data)


def f2(here):
    """Damaged DICOM headers."""
    sound = os.path.join(here, "sound.dcm")
    dicom(sound)
    must(medseg("info", sound).returncode == 0, "the sound file is refused")
    with open(sound, "rb") as handle:
        whole = handle.read()
    dice, rounds, slowest, accepted = random.Random(2), 1_000 if SMALL else 10_000, 0.0, 0
    path = os.path.join(here, "mutant.dcm")
    peak = 0
    for _ in range(rounds):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(132, min(len(data), 2_400))
            data[at:at + dice.choice([1, 2, 4])] = dice.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", dice.randbytes(4)])
        with open(path, "wb") as handle:
            handle.write(data[:dice.randrange(200, len(data))] if dice.random() < 0.2 else data)
        child = subprocess.Popen([MEDSEG, "info", "--threads", "1", path], **QUIET,
                                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20)))
        error = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        child.stdout.close()
        child.stderr.close()
        seconds = usage.ru_utime + usage.ru_stime
        slowest, peak = max(slowest, seconds), max(peak, usage.ru_maxrss)
        must(child.returncode in (0, 1) and b"panicked" not in error, "exit %d: %s" % (child.returncode, error[:300]))
        accepted += child.returncode == 0
    must(slowest < 0.5, "%.3f s for one file" % slowest)
    return "%d files, %d readable all the same, slowest %.3f s of CPU, peak %d MiB in all" % (
        rounds, accepted, slowest, peak >> 10)


def f6(here):
    """Killed writers."""
    case = os.path.join(here, "case")
    must(medseg("phantom", "-o", case, "--size", "96,96,64", "--damaged").returncode == 0, "phantom")
    label, image = os.path.join(case, "label.nii.gz"), os.path.join(case, "ct.nii.gz")
    scored = os.path.join(here, "r.json")
    must(medseg("evaluate", "-p", label, "-r", label, "-o", scored, "--labels", "abdomen").returncode == 0, "evaluate")
    jobs = {
        "nii.gz": ["convert", "-i", image, "-o"], "nrrd": ["convert", "-i", image, "-o"],
        "mha": ["convert", "-i", image, "-o"], "json": ["evaluate", "-p", label, "-r", label, "--labels", "abdomen", "-o"],
        "xlsx": ["report", "-i", scored, "-o"], "png": ["preview", image, "-o"]}
    dice, kills, done = random.Random(6), 10 if SMALL else 100, []
    for ending, job in jobs.items():
        folder = os.path.join(here, ending)
        os.mkdir(folder)
        path = os.path.join(folder, "out." + ending)
        started = time.monotonic()
        first = medseg(*job, path)
        must(first.returncode == 0, "%s: %s" % (ending, first.stderr[:300]))
        length = time.monotonic() - started
        with open(path, "rb") as handle:
            whole = handle.read()
        finished = 0
        for _ in range(kills):
            os.unlink(path) if os.path.exists(path) else None
            child = subprocess.Popen([MEDSEG, *job, path], **QUIET)
            time.sleep(dice.uniform(0, 1.1 * length))
            child.kill()
            child.communicate()
            if os.path.exists(path):
                finished += 1
                with open(path, "rb") as handle:
                    must(handle.read() == whole, "%s: another content under the final name" % ending)
            must(set(os.listdir(folder)) <= {"out." + ending}, "left %s" % os.listdir(folder))
        done.append("%s %d of %d finished" % (ending, finished, kills))
    return "0 partial, 0 left behind; " + ", ".join(done)


def batch(here, count, size="24,20,16"):
    """Label maps of phantoms under count names."""
    folder = os.path.join(here, "masks")
    os.mkdir(folder)
    for seed in range(4):
        case = os.path.join(here, "case%d" % seed)
        must(medseg("phantom", "-o", case, "--size", size, "--seed", seed, "--damaged").returncode == 0, "phantom")
    for number in range(count):
        source = os.path.join(here, "case%d" % (number % 4), "pred.nii.gz")
        shutil.copyfile(source, os.path.join(folder, "case_%03d_x.nii.gz" % number))
    return folder


def f8(here):
    """Interrupted batches."""
    masks, moments = batch(here, 12, "64,64,48"), 5 if SMALL else 50
    clean = os.path.join(here, "clean")
    started = time.monotonic()
    must(medseg(*VESSEL, "-i", masks, "-o", clean).returncode == 0, "the batch itself fails")
    length, expected, dice = time.monotonic() - started, hashes(clean), random.Random(8)
    kept, slowest, codes = 0, 0.0, {}
    for moment in range(moments):
        out = os.path.join(here, "out%d" % moment)
        child = subprocess.Popen([MEDSEG, *VESSEL, "-i", masks, "-o", out], **QUIET)
        time.sleep(dice.uniform(0.02, length))
        which = signal.SIGINT if moment % 2 else signal.SIGTERM
        sent = time.monotonic()
        child.send_signal(which)
        child.communicate()
        slowest = max(slowest, time.monotonic() - sent)
        # Before the handler is there the signal itself ends the process; after the last case the work is done.
        must(child.returncode in (0, 128 + which, -which), "exit %d after signal %d" % (child.returncode, which))
        codes[child.returncode] = codes.get(child.returncode, 0) + 1
        found = hashes(out) if os.path.isdir(out) else {}
        must(all(expected.get(name) == value for name, value in found.items()), "another content in %s" % out)
        kept += len(found)
        must(medseg(*VESSEL, "-i", masks, "-o", out, "--skip-existing").returncode == 0, "resuming fails")
        must(hashes(out) == expected, "resumed to other bytes")
        shutil.rmtree(out)
    must(slowest < 2.0, "%.1f s to end" % slowest)
    return "%d moments, exits %s, %d finished cases kept, slowest end %.2f s, all resumed to the same bytes" % (
        moments, codes, kept, slowest)


def f9(here):
    """Little address space."""
    case = os.path.join(here, "case")
    size = "256,256,150" if SMALL else "512,512,300"
    must(medseg("phantom", "-o", case, "--size", size, "--damaged").returncode == 0, "phantom")
    label, image = os.path.join(case, "pred.nii.gz"), os.path.join(case, "ct.nii.gz")
    jobs = [["info", image], ["convert", "-i", image, "-o", os.path.join(here, "o.nii.gz"), "--force"],
            [*VESSEL, "-i", label, "-o", os.path.join(here, "o.nii.gz"), "--force"],
            ["fat", "-i", label, "--image", image, "-o", os.path.join(here, "o.nii.gz"), "--force"],
            ["smooth", "-i", label, "-o", os.path.join(here, "meshes"), "--force"],
            ["evaluate", "-p", label, "-r", label, "-o", os.path.join(here, "r.json"), "--force"],
            ["infer", "-i", image, "-o", os.path.join(here, "o.nii.gz"), "--force", "--no-mirroring", "--step", "1"]]
    told = []
    for gigabytes in (0.5, 1, 2):
        for job in jobs:
            done = medseg(*job, address_space=int(gigabytes * 1e9))
            error = done.stderr.decode("utf-8", "replace")
            must(done.returncode in (0, 1), "%s in %s GB: exit %d: %s" % (job[0], gigabytes, done.returncode, error[-300:]))
            must("panicked" not in error, error[-300:])
            must(done.returncode == 0 or "GiB" in error or "memory" in error, "%s: %s" % (job[0], error[-300:]))
            told.append("%s %s" % (job[0], "done" if done.returncode == 0 else "refused"))
        told.append("(%s GB)" % gigabytes)
    return ", ".join(told)


def commands(case, out):
    label, pred, image = (os.path.join(case, name) for name in ("label.nii.gz", "pred.nii.gz", "ct.nii.gz"))
    to = lambda name: os.path.join(out, name)
    return {
        "phantom": ["phantom", "-o", to("p"), "--size", "32,28,24"],
        "infer": ["infer", "-i", image, "-o", to("i.nii.gz"), "--no-mirroring"],
        "smooth": ["smooth", "-i", label, "-o", to("s")],
        "fat": ["fat", "-i", label, "--image", image, "-o", to("f.nii.gz")],
        "vessel-connect": [*VESSEL, "-i", pred, "-o", to("v.nii.gz")],
        "ureter-connect": ["ureter-connect", "-i", pred, "-o", to("u.nii.gz"), "--labels", "abdomen"],
        "sample": ["sample", "-i", label, "--template", label, "-o", to("t.nii.gz"), "--labels", "abdomen"],
        "skeleton": ["skeleton", "-i", label, "-o", to("k.json"), "--label", "artery", "--labels", "abdomen"],
        "evaluate": ["evaluate", "-p", pred, "-r", label, "-o", to("e.json"), "--labels", "abdomen"],
        "convert": ["convert", "-i", image, "-o", to("c.nii.gz")],
        "preview": ["preview", image, "-o", to("w.png")],
    }


def f10(here):
    """Threads and repeats."""
    case = os.path.join(here, "case")
    must(medseg("phantom", "-o", case, "--size", "64,56,48", "--damaged").returncode == 0, "phantom")
    same = []
    for name in commands(case, here):
        seen = set()
        for threads in [1, 2, 3, 4, 8] + [2] * (1 if SMALL else 5):
            with tempfile.TemporaryDirectory(dir=here) as out:
                done = medseg(*commands(case, out)[name], "--threads", threads)
                must(done.returncode == 0, "%s: %s" % (name, done.stderr[-300:]))
                found = hashes(out)
                must(found, "%s wrote nothing" % name)
                seen.add(json.dumps(found, sort_keys=True))
        must(len(seen) == 1, "%s gives %d results" % (name, len(seen)))
        same.append(name)
    return "the same bytes: " + ", ".join(same)


def f13(here):
    """A batch with broken cases."""
    count = 30 if SMALL else 300
    masks = batch(here, count)
    path = lambda number: os.path.join(masks, "case_%03d_x.nii.gz" % number)
    with open(path(3), "r+b") as handle:
        handle.truncate(200)
    with open(path(7), "r+b") as handle:
        handle.seek(60)
        handle.write(b"\xff" * 40)
    with open(path(11), "wb") as handle:
        handle.write(b"not a volume")
    os.unlink(path(13))
    os.symlink("/proc/self/mem", path(13))
    twin = os.path.join(masks, "case_017_x.nii")
    with gzip.open(path(17)) as packed, open(twin, "wb") as plain:
        plain.write(packed.read())
    out = os.path.join(here, "out")
    refused = medseg(*VESSEL, "-i", masks, "-o", out)
    must(refused.returncode == 1 and b"case_017_x.nii" in refused.stderr, "two of one name: %s" % refused.stderr[:200])
    must(not os.path.isdir(out) or not os.listdir(out), "worked before refusing")
    os.unlink(twin)
    report = os.path.join(here, "report.json")
    done = medseg(*VESSEL, "-i", masks, "-o", out, "--report", report)
    must(done.returncode == 3, "exit %d: %s" % (done.returncode, done.stderr[-300:]))
    with open(report, encoding="utf-8") as handle:
        cases = json.load(handle)["cases"]
    failed = sorted(case["case"] for case in cases if case["status"] == "failed")
    must(failed == ["case_%03d_x" % number for number in (3, 7, 11, 13)], "failed: %s" % failed)
    found = hashes(out)
    must(len(found) == count - 4, "%d outputs" % len(found))
    alone = {}
    for seed in range(4):
        single = os.path.join(here, "single%d.nii.gz" % seed)
        must(medseg(*VESSEL, "-i", path(20 + seed), "-o", single).returncode == 0, "alone")
        alone[seed] = hashlib.sha256(open(single, "rb").read()).hexdigest()
    for name, value in found.items():
        must(value == alone[int(name[5:8]) % 4], "%s differs from its single run" % name)
    return "%d cases: exit 3, %d outputs as alone, 4 named as failed; two of one name refused before work" % (count, len(found))


def f17(here):
    """Degenerate volumes."""
    shapes = {"empty": ((6, 5, 4), lambda n: [0] * n), "full": ((6, 5, 4), lambda n: [5] * n),
              "one": ((1, 1, 1), lambda n: [5] * n), "thin": ((1, 1, 9), lambda n: [5, 0, 7] * (n // 3)),
              "flat": ((9, 8, 1), lambda n: [1, 5] * (n // 2))}
    count, refused = 0, []
    for name, (shape, values) in shapes.items():
        case = os.path.join(here, name)
        os.mkdir(case)
        voxels = shape[0] * shape[1] * shape[2]
        for file in ("label.nii.gz", "pred.nii.gz"):
            nifti(os.path.join(case, file), shape, values(voxels))
        nifti(os.path.join(case, "ct.nii.gz"), shape, [-1000.0, 40.0, 300.0] * (voxels // 3) + [0.0] * (voxels % 3), "f")
        out = os.path.join(case, "out")
        os.mkdir(out)
        jobs = dict(commands(case, out))
        del jobs["phantom"]
        for command, job in jobs.items():
            done = medseg(*job)
            error = done.stderr.decode("utf-8", "replace")
            must(done.returncode in (0, 1) and "panicked" not in error, "%s %s: exit %d: %s" % (
                command, name, done.returncode, error[-300:]))
            errors = [line for line in error.splitlines() if line.startswith("error")]
            must(len(errors) == (done.returncode != 0), "%s %s: %s" % (command, name, error[-300:]))
            refused += ["%s %s" % (command, name)] if done.returncode else []
            count += 1
        for file in os.listdir(out):
            if file.endswith(".json"):
                with open(os.path.join(out, file), encoding="utf-8") as handle:
                    text = handle.read()
                json.loads(text, parse_constant=lambda word: must(False, "%s in %s" % (word, file)))
    nan = os.path.join(here, "nan.nii.gz")
    nifti(nan, (4, 4, 4), [float("nan")] * 64, "f")
    for job in (["info", nan, "--json"], ["infer", "-i", nan, "-o", os.path.join(here, "x.nii.gz")],
                [*VESSEL, "-i", nan, "-o", os.path.join(here, "y.nii.gz")]):
        done = medseg(*job)
        must(done.returncode in (0, 1) and b"panicked" not in done.stderr, "all NaN: %s" % done.stderr[-300:])
        must(b"NaN" not in done.stdout.split(b'"nan_voxels"')[0][-20:], "NaN in JSON")
    return "%d runs, %d refused with one line: %s" % (count, len(refused), ", ".join(refused))


def main():
    chosen = sys.argv[sys.argv.index("--only") + 1].split(",") if "--only" in sys.argv else None
    failed = 0
    for test in (f2, f6, f8, f9, f10, f13, f17):
        name = test.__name__.upper()
        if chosen and name not in chosen:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as here:
            try:
                verdict = "ok    " + test(here)
            except AssertionError as problem:
                failed += 1
                verdict = "FAIL  " + str(problem)
        print("%-4s %s (%.0f s)" % (name, verdict, time.monotonic() - started), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
