//! Results as JUnit XML, which every CI system shows.
//!
//! One suite of checks (a check that does not hold is a failure), one of cases that could not be scored
//! (errors), and one per label with a test per case: skipped where the label is in neither mask.

use super::case::Status;
use super::results::Results;
use std::fmt::Write;

/// Text for XML: markup escaped, control characters that XML 1.0 forbids replaced.
fn escaped(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            match c {
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '&' => out.push_str("&amp;"),
                '"' => out.push_str("&quot;"),
                '\t' | '\n' | '\r' => out.push(' '),
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
                c => out.push(c),
            }
            out
        })
}

struct Suite {
    name: String,
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
    body: String,
}

impl Suite {
    fn new(name: &str) -> Self {
        Self {
            name: escaped(name),
            tests: 0,
            failures: 0,
            errors: 0,
            skipped: 0,
            body: String::new(),
        }
    }

    fn test(&mut self, name: &str, content: &str) {
        self.tests += 1;
        let (name, class) = (escaped(name), &self.name);
        let _ = writeln!(
            self.body,
            "    <testcase name=\"{name}\" classname=\"{class}\">{content}</testcase>"
        );
    }
}

/// The document.
pub fn document(results: &Results) -> String {
    let mut suites = Vec::new();
    let mut checks = Suite::new("checks");
    for verdict in &results.checks {
        let text = escaped(&verdict.text);
        if verdict.holds {
            checks.test(
                &verdict.expression,
                &format!("<system-out>{text}</system-out>"),
            );
        } else {
            checks.failures += 1;
            checks.test(
                &verdict.expression,
                &format!("<failure message=\"{text}\"/>"),
            );
        }
    }
    if let Some(baseline) = &results.baseline {
        for worse in &baseline.regressions {
            let name = format!("{} {} {}", worse.case, worse.label, worse.score);
            let text = escaped(&format!("was {}, is {}", worse.before, worse.now));
            checks.failures += 1;
            checks.test(&name, &format!("<failure message=\"{text}\"/>"));
        }
        let lost = [
            &baseline.lost_cases,
            &baseline.lost_labels,
            &baseline.lost_scores,
        ];
        for case in lost.into_iter().flatten() {
            checks.failures += 1;
            checks.test(
                case,
                "<failure message=\"in the baseline, but not scored now\"/>",
            );
        }
    }
    suites.push(checks);
    let mut failed = Suite::new("cases that could not be scored");
    for failure in &results.failures {
        failed.errors += 1;
        let reason = escaped(&failure.reason);
        failed.test(&failure.case, &format!("<error message=\"{reason}\"/>"));
    }
    suites.push(failed);
    let labels = results.cases.first().map_or(0, |case| case.labels.len());
    for index in 0..labels {
        let targets = results
            .cases
            .iter()
            .filter_map(|case| Some((case, case.labels.get(index)?)));
        let mut suite: Option<Suite> = None;
        for (case, target) in targets {
            let suite = suite.get_or_insert_with(|| Suite::new(&target.label));
            let content = if target.status == Status::BothEmpty {
                suite.skipped += 1;
                "<skipped message=\"in neither mask\"/>".to_owned()
            } else {
                let dice = target.scores.get("dice").copied().flatten().unwrap_or(0.0);
                format!(
                    "<system-out>{}, dice {dice}</system-out>",
                    target.status.name()
                )
            };
            suite.test(&case.case, &content);
        }
        suites.extend(suite);
    }
    let sum = |pick: fn(&Suite) -> usize| suites.iter().map(pick).sum::<usize>();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"medseg evaluate\" tests=\"{}\" failures=\"{}\" errors=\"{}\">\n",
        sum(|s| s.tests),
        sum(|s| s.failures),
        sum(|s| s.errors)
    );
    for suite in suites.iter().filter(|suite| suite.tests > 0) {
        let Suite {
            name,
            tests,
            failures,
            errors,
            skipped,
            body,
        } = suite;
        let _ = write!(
            text,
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">\n{body}  </testsuite>\n"
        );
    }
    text.push_str("</testsuites>\n");
    text
}
