# Every recipe is one plain line that can be copied; nothing needs `just`.

# list the recipes
default:
    @just --list

# optimised binary in target/release/medseg
build:
    cargo build --release

# the whole suite
test:
    cargo test --release

# also the tests that need a process to themselves (needs MEDSEG_SHARED)
test-all:
    cargo test --release && cargo test --release --test parity_nnunet memory -- --ignored --test-threads 1

# format and lint, as CI does
lint:
    cargo fmt --check && cargo clippy --release --all-targets -- -D warnings

# API documentation
doc:
    cargo doc --no-deps --open

# comparisons with the reference tools' numbers (needs MEDSEG_SHARED)
parity:
    cargo test --release --test 'parity*'

# the GPU's kernels as text for the driver, after a change of src/nn/cuda/kernels.cu (no GPU needed)
ptx:
    src/nn/cuda/make_ptx.sh

# what only a machine with an NVIDIA GPU and cuDNN 9 can show
gpu:
    cargo test --release --test cuda -- --ignored

# hostile files, full disks, killed writers
faults:
    cargo test --release --test 'faults*'

# the long part of the fault suite: 10,000 DICOM mutants, killed and interrupted runs, 300-case batches (6 minutes)
faults-long:
    cargo build --release && python3 tests/faults_long.py target/release/medseg

# DICOM objects before dciodvfy, highdicom, dcmqi, pydicom and rt-utils (needs dicom3tools and the Python packages)
dicom-judges *SERIES:
    cargo build --release && python3 tests/dicom_judges.py target/release/medseg {{SERIES}}

# examples/slurm and examples/snakemake for real, 300 cases on one machine (root on Debian; installs Slurm; 2 minutes)
slurm:
    cargo build --release && tests/slurm/run.sh target/release/medseg 300

# the whole chain on a synthetic case
demo:
    cargo run --release -- demo --force

# the stripped, link-time optimised binary
dist:
    cargo build --profile dist

# what CI runs
release-check:
    .ci/run
