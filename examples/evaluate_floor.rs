//! The least that scoring a set of gzipped label maps can cost: inflate every file once, look at every voxel once.
//!
//! ```sh
//! cargo run --release --example evaluate_floor -- predictions/ references/ 2
//! ```
//!
//! Threads take pairs in turn; each inflates both files of a pair into memory that it uses again and then counts the bytes
//! that differ. No header is read, nothing is checked beyond the checksum, no label is told from another. Prints seconds and
//! milliseconds per pair; docs/measurements/evaluate.md holds `medseg evaluate` against it.

use flate2::bufread::GzDecoder;
use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

fn files(folder: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let entries = std::fs::read_dir(folder)?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn inflate(path: &Path, into: &mut Vec<u8>) -> std::io::Result<()> {
    into.clear();
    let input = BufReader::with_capacity(256 << 10, File::open(path)?);
    GzDecoder::new(input).read_to_end(into).map(drop)
}

fn differing(a: &[u8], b: &[u8]) -> u64 {
    let words = a.as_chunks::<64>().0.iter().zip(b.as_chunks::<64>().0);
    words
        .map(|(a, b)| {
            let bytes = a.iter().zip(b);
            u64::from(bytes.map(|(a, b)| u8::from(a != b)).sum::<u8>())
        })
        .sum()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [predictions, references, threads] = arguments.as_slice() else {
        return Err("expected two folders and a number of threads".into());
    };
    let pairs: Vec<(PathBuf, PathBuf)> = files(predictions)?
        .into_iter()
        .zip(files(references)?)
        .collect();
    let (next, total) = (AtomicUsize::new(0), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.parse().unwrap_or(1) {
            scope.spawn(|| {
                let mut buffers = [Vec::new(), Vec::new()];
                while let Some((a, b)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let [x, y] = &mut buffers;
                    if inflate(a, x).and_then(|()| inflate(b, y)).is_err() {
                        eprintln!("{}: cannot be read", a.display());
                        continue;
                    }
                    total.fetch_add(differing(x, y), Ordering::Relaxed);
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} pairs, {} bytes differ: {seconds:.4} s, {:.2} ms a pair",
        pairs.len(),
        total.into_inner(),
        1000.0 * seconds / pairs.len().max(1) as f64
    );
    Ok(())
}
