//! One self-contained page: tables that sort and filter, charts, worst cases slice by slice.
//!
//! Everything is inside the file; a content policy forbids the page to load anything and to run any
//! script but its own, so that a case named like markup stays a name even if escaping failed.

mod charts;
mod encode;
mod sections;
mod tables;

use super::Report;
use super::source::{headline_scores, label_names, score_names};
use encode::{base64, escape};
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What all sections are written from.
struct Page<'a> {
    report: &'a Report<'a>,
    labels: Vec<String>,
    scores: Vec<String>,
    headlines: Vec<String>,
}

impl Page<'_> {
    fn word(&self, english: &'static str) -> &'static str {
        self.report.language.word(english)
    }
}

/// The page as HTML.
pub fn document(report: &Report<'_>) -> String {
    let page = Page {
        report,
        labels: label_names(report.models),
        scores: score_names(report.models),
        headlines: headline_scores(report.models),
    };
    let title = page.word("Segmentation report");
    let allowed = base64(&Sha256::digest(SCRIPT));
    let mut text = format!(
        "<!doctype html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'; script-src 'sha256-{allowed}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        report.language.code()
    );
    text.push_str(&format!(
        "<header><h1>{title}</h1><button id=\"theme\" type=\"button\">{}</button></header>\n<main>\n",
        page.word("light and dark")
    ));
    sections::verdicts(&page, &mut text);
    tables::summary(&page, &mut text);
    sections::distributions(&page, &mut text);
    sections::comparison(&page, &mut text);
    sections::worst(&page, &mut text);
    tables::patients(&page, &mut text);
    tables::confusion(&page, &mut text);
    tables::failures(&page, &mut text);
    tables::run(&page, &mut text);
    text.push_str(&format!(
        "</main>\n<footer>medseg {}. {}</footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        escape(env!("CARGO_PKG_VERSION")),
        page.word("Research use only; not a medical device.")
    ));
    text
}
