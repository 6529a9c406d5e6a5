//! Charts as inline SVG. Colours come from the style sheet, so that they follow light and dark.

use super::encode::escape;
use std::fmt::Write;

/// Width of a chart, and of its column of names.
const WIDTH: f64 = 600.0;
const NAMES: f64 = 160.0;
const RIGHT: f64 = 20.0;
const ROW: f64 = 26.0;
/// Characters of a name that fit its column.
const NAME_CHARACTERS: usize = 20;
/// More cases than this are not drawn one by one.
const MOST_DOTS: usize = 600;

/// A box with its whiskers, its mean with the interval, and single cases.
pub struct BoxRow {
    pub name: String,
    /// Index of the model, which chooses the colour.
    pub model: usize,
    /// Minimum, first quartile, median, third quartile, maximum.
    pub five: [f64; 5],
    pub mean: f64,
    pub interval: Option<[f64; 2]>,
    pub values: Vec<f64>,
}

/// An axis from 0 that ends at a round number.
struct Axis {
    end: f64,
    step: f64,
}

impl Axis {
    fn to(most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let power = 10_f64.powf((most / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| most / step <= 5.000_001)
            .unwrap_or(power * 10.0);
        Self {
            end: (most / step).ceil() * step,
            step,
        }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (step, count) = (self.step, (self.end / self.step).round() as usize);
        (0..=count).map(move |index| index as f64 * step)
    }

    fn decimals(&self) -> usize {
        (-self.step.log10().floor()).max(0.0) as usize
    }
}

/// Horizontal boxes on one axis; `unit` names the axis. Shares end at 1.
pub fn boxes(rows: &[BoxRow], unit: &str, share: bool) -> String {
    let most = rows.iter().map(|row| row.five[4]).fold(0.0, f64::max);
    let axis = Axis::to(if share { 1.0 } else { most });
    let height = ROW * rows.len() as f64;
    let at = |value: f64| NAMES + value / axis.end * (WIDTH - NAMES - RIGHT);
    let mut svg = start(WIDTH, height + 44.0, unit);
    for tick in axis.ticks() {
        let x = at(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height:.1}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick:.*}</text>",
            height + 15.0,
            axis.decimals()
        );
    }
    let _ = write!(
        svg,
        "<text class=\"unit\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (NAMES + WIDTH - RIGHT) / 2.0,
        height + 35.0,
        escape(unit)
    );
    for (index, row) in rows.iter().enumerate() {
        let middle = ROW * (index as f64 + 0.5);
        let [min, q1, median, q3, max] = row.five.map(at);
        let (top, mean) = (middle - 7.0, at(row.mean));
        let _ = write!(
            svg,
            "<g class=\"m{}\"><title>{}: {:.4}</title>\
             <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <line class=\"whisker\" x1=\"{min:.1}\" x2=\"{max:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <rect class=\"box\" x=\"{q1:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"14\"/>\
             <line class=\"median\" x1=\"{median:.1}\" x2=\"{median:.1}\" y1=\"{top:.1}\" y2=\"{:.1}\"/>",
            row.model % 6,
            escape(&row.name),
            row.mean,
            NAMES - 8.0,
            middle + 4.0,
            escape(&shortened(&row.name)),
            (q3 - q1).max(1.0),
            top + 14.0
        );
        if row.values.len() <= MOST_DOTS {
            for value in &row.values {
                let _ = write!(
                    svg,
                    "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"2\"/>",
                    at(*value)
                );
            }
        }
        if let Some([low, high]) = row.interval.map(|ends| ends.map(at)) {
            let _ = write!(
                svg,
                "<line class=\"interval\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>"
            );
        }
        let _ = write!(
            svg,
            "<path class=\"mean\" d=\"M{mean:.1} {:.1}l4 4-4 4-4-4z\"/></g>",
            middle - 4.0
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Dice over the slices of a case; `mark` is the slice that is shown first.
pub fn profile(
    z: &[usize],
    dice: &[Option<f64>],
    mark: Option<usize>,
    [x_title, y_title]: [&str; 2],
) -> String {
    let (width, height, left, top) = (480.0, 130.0, 44.0, 8.0);
    let (first, last) = (
        z.first().copied().unwrap_or(0),
        z.last().copied().unwrap_or(0),
    );
    let at_x = |z: usize| {
        let share = (z - first) as f64 / (last - first).max(1) as f64;
        left + share * (width - left - 12.0)
    };
    let at_y = |dice: f64| top + (1.0 - dice) * (height - top - 36.0);
    let mut svg = start(width, height, y_title);
    for tick in [0.0, 0.5, 1.0] {
        let y = at_y(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.1}</text>",
            width - 12.0,
            left - 5.0,
            y + 4.0
        );
    }
    for z in if first == last {
        vec![first]
    } else {
        vec![first, last]
    } {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{z}</text>",
            at_x(z),
            height - 18.0
        );
    }
    let _ = write!(
        svg,
        "<text class=\"unit\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text class=\"unit\" x=\"10\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 10 {:.1})\">{}</text>",
        f64::midpoint(left, width - 12.0),
        height - 4.0,
        escape(x_title),
        at_y(0.5),
        at_y(0.5),
        escape(y_title)
    );
    if let Some(mark) = mark.filter(|mark| (first..=last).contains(mark)) {
        let x = at_x(mark);
        let _ = write!(
            svg,
            "<line class=\"marked\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{:.1}\"/>",
            at_y(0.0)
        );
    }
    let points = z
        .iter()
        .zip(dice)
        .map(|(&z, dice)| dice.map(|dice| (at_x(z), at_y(dice))));
    svg.push_str(&course(points));
    svg.push_str("</svg>");
    svg
}

/// The same without axes, 100 by 20, for a row of a table.
pub fn spark(z: &[usize], dice: &[Option<f64>]) -> String {
    let (Some(&first), Some(&last)) = (z.first(), z.last()) else {
        return String::new();
    };
    let span = (last - first).max(1) as f64;
    let points = z.iter().zip(dice).map(|(&z, dice)| {
        dice.map(|dice| ((z - first) as f64 / span * 98.0 + 1.0, 19.0 - 18.0 * dice))
    });
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 100 20\" aria-hidden=\"true\">{}</svg>",
        course(points)
    )
}

/// A line with gaps where there is no value; lone values are dots.
fn course(points: impl Iterator<Item = Option<(f64, f64)>>) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for point in points {
        match point {
            Some((x, y)) => {
                let letter = if drawing { 'L' } else { 'M' };
                let _ = write!(path, "{letter}{x:.1} {y:.1}");
                if !drawing {
                    path.push_str("h.1");
                }
                drawing = true;
            }
            None => drawing = false,
        }
    }
    format!("<path class=\"course\" d=\"{path}\"/>")
}

/// Dice of two models, with the line of equal scores.
pub fn scatter(points: &[(f64, f64)], [x_title, y_title]: [&str; 2]) -> String {
    let (size, left) = (380.0, 52.0);
    let at_x = |value: f64| left + value * (size - left - 14.0);
    let at_y = |value: f64| 10.0 + (1.0 - value) * (size - left - 14.0);
    let mut svg = start(size, size, y_title);
    for tick in [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] {
        let (x, y) = (at_x(tick), at_y(tick));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <line class=\"grid\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick:.1}</text>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.1}</text>",
            at_y(1.0),
            at_y(0.0),
            at_x(0.0),
            at_x(1.0),
            at_y(0.0) + 16.0,
            left - 6.0,
            y + 4.0
        );
    }
    let _ = write!(
        svg,
        "<line class=\"whisker\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        at_x(0.0),
        at_y(0.0),
        at_x(1.0),
        at_y(1.0)
    );
    for &(x, y) in points {
        let _ = write!(
            svg,
            "<circle class=\"point\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
            at_x(x),
            at_y(y)
        );
    }
    let middle = at_y(0.5);
    let _ = write!(
        svg,
        "<text class=\"unit\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text class=\"unit\" x=\"14\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {middle:.1})\">{}</text></svg>",
        at_x(0.5),
        size - 6.0,
        escape(&shortened(x_title)),
        escape(&shortened(y_title))
    );
    svg
}

fn start(width: f64, height: f64, label: &str) -> String {
    format!(
        "<svg class=\"chart\" role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {width} {height:.0}\" width=\"{width}\" height=\"{height:.0}\">",
        escape(label)
    )
}

fn shortened(name: &str) -> String {
    let mut wide = 0;
    for (index, character) in name.char_indices() {
        wide += if u32::from(character) >= 0x1100 { 2 } else { 1 };
        if wide > NAME_CHARACTERS {
            return format!("{}…", &name[..index]);
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, end, step) in [
            (1.0, 1.0, 0.2),
            (37.0, 40.0, 10.0),
            (0.0, 1.0, 0.2),
            (5.0, 5.0, 1.0),
        ] {
            let axis = Axis::to(most);
            assert!(
                (axis.end - end).abs() < 1e-9 && (axis.step - step).abs() < 1e-9,
                "{most}"
            );
        }
    }

    #[test]
    fn slices_without_a_value_are_gaps() {
        let line = spark(&[0, 1, 2, 3], &[Some(1.0), Some(0.5), None, Some(0.0)]);
        assert_eq!(line.matches('M').count(), 2);
        assert_eq!(line.matches('L').count(), 1);
    }
}
