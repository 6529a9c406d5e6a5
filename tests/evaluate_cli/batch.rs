//! Sets of cases: broken files, shards, threads, interruptions.

use super::nifti::File;
use super::{evaluate, json, medseg};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Saves `count` pairs that all differ.
fn make_pairs(folder: &Path, count: u16) {
    for number in 0..count {
        let name = format!("case_{number:03}.nii");
        let x = 2 + number % 3;
        File::with_box(1, [x, 2, 2], [x + 4, 6, 3 + number % 4])
            .save(&folder.join("p").join(&name));
        File::with_box(1, [2, 2, 2], [6, 6, 5]).save(&folder.join("r").join(&name));
    }
}

/// A batch of `count` cases, of which five cannot be scored, against the single runs of the others.
fn check_broken_batch(count: u16) {
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name);
    make_pairs(here.path(), count);
    let cut = std::fs::read(at("p/case_001.nii")).unwrap();
    std::fs::write(at("p/case_001.nii"), &cut[..600]).unwrap();
    std::fs::write(at("r/case_003.nii"), b"this is no image").unwrap();
    let mut wrong = cut.clone();
    wrong[70..72].copy_from_slice(&999_i16.to_le_bytes());
    std::fs::write(at("p/case_004.nii"), wrong).unwrap();
    std::fs::remove_file(at("r/case_005.nii")).unwrap();
    std::fs::create_dir(at("r/case_005.nii")).unwrap();
    std::fs::remove_file(at("p/case_006.nii")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("p/case_006.nii")).unwrap();
    std::fs::copy(at("p/case_002.nii"), at("p/case_002.nii.gz")).unwrap();

    evaluate(here.path(), &["-p", "p", "-r", "r", "-o", "all.json"], 3);
    let all = json(&at("all.json"));
    let failures: Vec<[&str; 2]> = all["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| ["case", "kind"].map(|key| failure[key].as_str().unwrap()))
        .collect();
    let broken = failures.iter().map(|[case, _]| *case).collect::<Vec<_>>();
    assert_eq!(
        broken,
        [
            "case_001", "case_002", "case_003", "case_004", "case_005", "case_006"
        ]
    );
    assert_eq!(failures[1][1], "ambiguous");
    for failure in all["failures"].as_array().unwrap() {
        let (case, reason) = (
            failure["case"].as_str().unwrap(),
            failure["reason"].as_str().unwrap(),
        );
        assert!(
            reason.contains(case) && !reason.contains("/tmp"),
            "{reason}"
        );
    }
    let scored = all["cases"].as_array().unwrap();
    assert_eq!(scored.len(), usize::from(count) - 6);
    for case in scored {
        let name = case["case"].as_str().unwrap();
        let [p, r] = ["p", "r"].map(|side| format!("{side}/{name}.nii"));
        evaluate(
            here.path(),
            &["-p", &p, "-r", &r, "-o", "one.json", "--force"],
            0,
        );
        assert_eq!(json(&at("one.json"))["cases"][0], *case);
    }
}

#[test]
fn broken_files_are_named_and_the_rest_is_scored() {
    check_broken_batch(14);
}

#[test]
#[ignore = "starts the program 300 times: cargo test --release --test evaluate_cli -- --ignored"]
fn broken_files_in_a_set_of_300() {
    check_broken_batch(300);
}

#[test]
fn threads_and_shards_leave_no_trace() {
    let here = tempfile::tempdir().unwrap();
    make_pairs(here.path(), 11);
    let score = |output: &str, more: &[&str]| {
        let pair = ["-p", "p", "-r", "r", "-o", output];
        evaluate(here.path(), &[&pair[..], more].concat(), 0);
        std::fs::read(here.path().join(output)).unwrap()
    };
    let single = score("single.json", &["--threads", "1"]);
    for threads in ["2", "3", "8"] {
        assert_eq!(
            score(&format!("{threads}.json"), &["--threads", threads]),
            single
        );
    }
    for count in [1, 2, 5, 13] {
        let parts: Vec<String> = (1..=count)
            .map(|index| format!("{index}of{count}.json"))
            .collect();
        for (index, part) in parts.iter().enumerate() {
            score(part, &["--shard", &format!("{}/{count}", index + 1)]);
        }
        let mut merge = vec!["-o", "merged.json", "--force", "--merge"];
        merge.extend(parts.iter().map(String::as_str));
        evaluate(here.path(), &merge, 0);
        assert_eq!(
            std::fs::read(here.path().join("merged.json")).unwrap(),
            single,
            "{count}"
        );
    }
}

/// Lines of finished cases in the journal; the first line is about settings.
fn finished(journal: &Path) -> usize {
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    text.matches('\n').count().saturating_sub(1)
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bytes() {
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name);
    make_pairs(here.path(), 24);
    // Larger files keep the run going long enough to be interrupted.
    for number in 0..60 {
        let name = format!("large_{number:02}.nii");
        for (side, edge) in [("p", 40), ("r", 50)] {
            let large = File::new([110, 110, 70], |[x, y, z]| {
                u16::from(
                    [x, y, z].iter().all(|&at| (9..edge).contains(&at)) && (x * y + z) % 97 > 1,
                )
            });
            if number == 0 {
                large.save(&at(side).join(&name));
            } else {
                std::fs::hard_link(at(side).join("large_00.nii"), at(side).join(&name)).unwrap();
            }
        }
    }
    let pair = ["-p", "p", "-r", "r", "-o"];
    evaluate(here.path(), &[&pair[..], &["whole.json"]].concat(), 0);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let output = format!("{code}.json");
        let journal = at(&format!("{output}.partial"));
        let mut child = medseg(here.path(), &[&pair[..], &[&output]].concat())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while finished(&journal) < 26 && started.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let id = child.id().to_string();
        std::process::Command::new("kill")
            .args([signal, &id])
            .status()
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!at(&output).exists(), "ended before the signal");
        let kept = finished(&journal);
        assert!((26..84).contains(&kept), "{kept}");
        evaluate(
            here.path(),
            &[&pair[..], &[&output, "--resume"]].concat(),
            0,
        );
        assert_eq!(
            std::fs::read(at(&output)).unwrap(),
            std::fs::read(at("whole.json")).unwrap()
        );
        assert!(!journal.exists());
    }
    // Other settings do not mix with what was kept.
    std::fs::write(at("x.json.partial"), "other\n").unwrap();
    evaluate(
        here.path(),
        &[&pair[..], &["x.json", "--resume"]].concat(),
        1,
    );
}
