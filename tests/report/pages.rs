//! The page, the Markdown summary and previews.

use super::{folder, phantoms, results, run};

#[test]
fn names_in_the_page_are_shown_and_not_run() {
    let here = folder();
    let files = "-o report.xlsx --html page.html --markdown page.md";
    run(
        here.path(),
        &format!("report -i results.json more.json {files}"),
        0,
    );
    let page = std::fs::read_to_string(here.path().join("page.html")).unwrap();
    assert!(!page.contains("<script>alert"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(!page.contains("tumor <b>"));
    // One script, ours, and nothing from elsewhere.
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains("default-src 'none'"));
    for outside in ["http:", "https:", "src=\"/", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let known = results("results.json");
    let rows: usize = known.cases.iter().map(|case| case.labels.len()).sum();
    assert_eq!(page.matches("<tr data-status=").count(), 2 * rows);
    for target in known.cases.iter().flat_map(|case| &case.labels) {
        for value in target.scores.values().flatten() {
            let shown = [
                format!("<td>{value:.4}"),
                format!("<td>{value:.2}"),
                format!(">{value:.4}<"),
            ];
            assert!(shown.iter().any(|text| page.contains(text)), "{value}");
        }
    }
    let summary = std::fs::read_to_string(here.path().join("page.md")).unwrap();
    assert!(!summary.contains("<script>"));
    assert!(summary.contains("### difference: more - results"));
    for target in &known.summary.labels {
        let mean = target.scores["dice"].distribution.unwrap().mean;
        assert!(summary.contains(&format!("{mean:.4}")), "{mean}");
    }
}

#[test]
fn the_page_speaks_korean() {
    let here = folder();
    run(
        here.path(),
        "report -i results.json -o r.xlsx --html page.html --lang ko",
        0,
    );
    let page = std::fs::read_to_string(here.path().join("page.html")).unwrap();
    assert!(page.contains("<html lang=\"ko\">") && page.contains("분할 평가 보고서"));
}

#[test]
fn a_preview_has_planes_montage_and_legend() {
    let here = phantoms();
    run(
        here.path(),
        "preview p1/ct.nii.gz p1/label.nii.gz -o all.png --montage 6",
        0,
    );
    run(
        here.path(),
        "preview p1/ct.nii.gz -o plain.png --montage 0 --window 40,400",
        0,
    );
    let read = |name: &str| {
        let bytes = std::fs::read(here.path().join(name)).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let info = reader.info();
        (info.width, info.height, pixels)
    };
    let (width, height, pixels) = read("all.png");
    let (plain_width, plain_height, plain) = read("plain.png");
    assert_eq!(width, plain_width);
    assert!(height > plain_height);
    // Liver colour of the scheme, pure, in outlines and in the legend; none without a mask.
    let liver = |pixels: &[u8]| {
        pixels
            .chunks(3)
            .filter(|pixel| **pixel == [160, 60, 50])
            .count()
    };
    assert!(liver(&pixels) > 100);
    assert_eq!(liver(&plain), 0);
    run(
        here.path(),
        "preview p1/ct.nii.gz p1/label.nii.gz -o again.png --montage 6 --threads 1",
        0,
    );
    assert_eq!(read("again.png").2, pixels);
}
