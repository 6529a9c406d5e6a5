//! The workbook: numbers, parts of the file, text that stays text.

use super::{folder, phantoms, results, run};
use calamine::{Data, Range, Reader, Xlsx};
use medseg::report::source::{Model, score_names};
use medseg::report::workbook::{Limits, document};
use medseg::report::{Language, Report};
use std::io::{Cursor, Read};
use std::path::Path;

fn open(bytes: Vec<u8>) -> Xlsx<Cursor<Vec<u8>>> {
    Xlsx::new(Cursor::new(bytes)).unwrap()
}

fn made(here: &Path, arguments: &str) -> Vec<u8> {
    run(
        here,
        &format!("report {arguments} -o report.xlsx --force"),
        0,
    );
    std::fs::read(here.join("report.xlsx")).unwrap()
}

/// A cell must hold exactly `expected`, and `n/a` where there is no number.
fn same(sheet: &Range<Data>, at: (usize, usize), expected: Option<f64>) {
    let found = sheet.get(at).unwrap_or(&Data::Empty);
    match expected {
        Some(expected) => match found {
            Data::Float(value) => assert_eq!(*value, expected, "{at:?}"),
            Data::Int(value) => assert_eq!(*value as f64, expected, "{at:?}"),
            other => panic!("{at:?}: {other:?} instead of {expected}"),
        },
        None => assert_eq!(found, &Data::String("n/a".to_owned()), "{at:?}"),
    }
}

fn text(sheet: &Range<Data>, at: (usize, usize)) -> String {
    match sheet.get(at) {
        Some(Data::String(text)) => text.clone(),
        other => panic!("{at:?}: {other:?} is no text"),
    }
}

/// All files of the archive whose name contains `part`, together.
fn part(bytes: &[u8], part: &str) -> String {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut all = String::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        if file.name().unwrap().contains(part) {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            all.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    all
}

#[test]
fn every_number_is_that_of_the_results() {
    let here = folder();
    let known = results("results.json");
    let mut book = open(made(here.path(), "-i results.json"));
    let names = [
        "Summary",
        "Patients",
        "Slices",
        "Confusion",
        "Distribution",
        "Worst",
        "Charts",
        "Failures",
        "Run",
    ];
    assert_eq!(book.sheet_names(), names);
    let model = Model {
        name: String::new(),
        sha256: String::new(),
        results: known.clone(),
    };
    let scores = score_names(&[model]);

    let patients = book.worksheet_range("Patients").unwrap();
    let mut row = 1;
    let mut numbers = 0;
    for case in &known.cases {
        for target in &case.labels {
            assert_eq!(text(&patients, (row, 0)), case.case);
            assert_eq!(text(&patients, (row, 1)), target.label);
            for (index, score) in scores.iter().enumerate() {
                let value = target.scores[score];
                same(&patients, (row, 4 + index), value);
                numbers += usize::from(value.is_some());
            }
            for (index, count) in [target.tp, target.fp, target.fn_].into_iter().enumerate() {
                same(
                    &patients,
                    (row, 4 + scores.len() + index),
                    Some(count as f64),
                );
            }
            row += 1;
        }
    }
    assert!(numbers > 400, "{numbers}");

    let slices = book.worksheet_range("Slices").unwrap();
    let mut row = 2;
    for case in &known.cases {
        let found = case.slices.as_ref().unwrap();
        for (index, &z) in found.z.iter().enumerate() {
            same(&slices, (row, 1), Some(z as f64));
            same(&slices, (row, 2), Some(z as f64 * case.spacing_xyz_mm[2]));
            for (place, target) in case.labels.iter().enumerate() {
                let table = &found.labels[&target.label];
                let col = 3 + 4 * place;
                if table.reference[index] + table.prediction[index] == 0 {
                    assert!(matches!(slices.get((row, col)), None | Some(Data::Empty)));
                    continue;
                }
                same(&slices, (row, col), table.dice[index]);
                same(&slices, (row, col + 1), table.iou[index]);
                same(&slices, (row, col + 2), Some(table.reference[index] as f64));
                same(
                    &slices,
                    (row, col + 3),
                    Some(table.prediction[index] as f64),
                );
            }
            row += 1;
        }
    }

    let distribution = book.worksheet_range("Distribution").unwrap();
    let mut row = 1;
    for score in &scores {
        for target in &known.summary.labels {
            let found = &target.scores[score];
            let numbers = found.distribution;
            let interval = numbers.and_then(|numbers| numbers.mean_ci95);
            let expected = [
                Some(numbers.map_or(0, |numbers| numbers.n) as f64),
                Some(found.left_out as f64),
                numbers.map(|numbers| numbers.mean),
                numbers.and_then(|numbers| numbers.sd),
                interval.map(|ends| ends[0]),
                interval.map(|ends| ends[1]),
                numbers.map(|numbers| numbers.min),
                numbers.map(|numbers| numbers.q1),
                numbers.map(|numbers| numbers.median),
                numbers.map(|numbers| numbers.q3),
                numbers.map(|numbers| numbers.max),
            ];
            for (index, value) in expected.into_iter().enumerate() {
                same(&distribution, (row, 2 + index), value);
            }
            row += 1;
        }
    }

    let confusion = book.worksheet_range("Confusion").unwrap();
    for (row, counts) in known.summary.confusion.matrix.iter().enumerate() {
        for (col, &count) in counts.iter().enumerate() {
            same(&confusion, (2 + row, 1 + col), Some(count as f64));
        }
    }
    let failures = book.worksheet_range("Failures").unwrap();
    for (row, failure) in known.failures.iter().enumerate() {
        assert_eq!(text(&failures, (1 + row, 0)), failure.case);
        assert_eq!(text(&failures, (1 + row, 2)), failure.reason);
    }
}

#[test]
fn names_are_text_and_the_parts_are_there() {
    let here = folder();
    let bytes = made(here.path(), "-i results.json more.json");
    let sheets = part(&bytes, "xl/worksheets/sheet");
    assert!(!sheets.contains("<f>"), "a formula");
    assert!(!sheets.contains("t=\"e\""), "an error cell");
    for needed in [
        "sparkline",
        "type=\"column\"",
        "conditionalFormatting",
        "iconSet",
        "colorScale",
        "dataBar",
        "<pane ",
        "fitToPage",
        "hyperlink",
        "autoFilter",
    ] {
        assert!(sheets.contains(needed), "no {needed}");
    }
    let charts = part(&bytes, "xl/charts/chart");
    for needed in ["c:errBars", "c:scatterChart", "c:barChart", "c:valAx"] {
        assert!(charts.contains(needed), "no {needed}");
    }
    assert!(part(&bytes, "xl/tables/table").contains("autoFilter"));
    assert!(part(&bytes, "xl/drawings/drawing").contains("descr="));
    let mut book = open(bytes);
    assert!(book.sheet_names().contains(&"Compare".to_owned()));
    let patients = book.worksheet_range("Patients").unwrap();
    let shown: Vec<String> = (1..patients.height())
        .map(|row| text(&patients, (row, 1)))
        .collect();
    for name in [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "<script>alert(1)</script>",
    ] {
        assert!(shown.iter().any(|found| found == name), "{name}");
    }
}

#[test]
fn same_input_same_bytes_for_every_number_of_threads() {
    let here = folder();
    let first = made(here.path(), "-i results.json more.json --threads 1");
    assert!(first == made(here.path(), "-i results.json more.json --threads 4"));
    let core = part(&first, "docProps/core.xml");
    assert!(core.contains("2000-01-01"), "{core}");
}

#[test]
fn korean_headings() {
    let here = folder();
    let mut book = open(made(here.path(), "-i results.json --lang ko"));
    assert_eq!(book.sheet_names()[..2], ["요약", "환자"]);
    let patients = book.worksheet_range("환자").unwrap();
    assert_eq!(text(&patients, (0, 0)), "사례");
}

#[test]
fn sheets_are_split_before_their_limit() {
    let known = results("results.json");
    let models = [Model {
        name: "one".to_owned(),
        sha256: String::new(),
        results: known.clone(),
    }];
    let report = Report {
        models: &models,
        worst: &[],
        language: Language::English,
        flag_below: 0.7,
    };
    let limits = Limits {
        rows: 20,
        ..Limits::default()
    };
    let mut book = open(document(&report, limits).unwrap());
    let mut rows = 0;
    for name in book.sheet_names() {
        let sheet = book.worksheet_range(&name).unwrap();
        if name.starts_with("Patients") {
            assert!(sheet.height() <= 20, "{name}");
            rows += sheet.height() - 1;
        }
        if name.starts_with("Slices") {
            assert!(sheet.height() <= 20, "{name}");
        }
    }
    assert_eq!(rows, known.cases.len() * known.cases[0].labels.len());
}

#[test]
fn pictures_stand_in_the_cells() {
    let here = phantoms();
    let sets = "--images images --predictions predictions --references references";
    let bytes = made(
        here.path(),
        &format!("-i results.json {sets} --html page.html --worst 1"),
    );
    let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let mut pictures = 0;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        if file.name().unwrap().ends_with(".png") {
            let mut png_bytes = Vec::new();
            file.read_to_end(&mut png_bytes).unwrap();
            let reader = png::Decoder::new(Cursor::new(png_bytes))
                .read_info()
                .unwrap();
            assert_eq!(reader.info().width, 486);
            pictures += 1;
        }
    }
    assert!(pictures > 0);
    // As large as its cell of 240 by 500 pixels allows, in units of 1/9525 pixel.
    let places = part(&bytes, "xl/drawings/drawing");
    let drawn = places.matches("cy=\"2286000\"").count();
    let wide = places.matches("cx=\"4762500\"").count();
    assert!(drawn + wide >= pictures, "{drawn} and {wide} of {pictures}");
    let page = std::fs::read_to_string(here.path().join("page.html")).unwrap();
    assert!(page.contains("data:image/png;base64,iVBOR"));
}
