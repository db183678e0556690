//! The picture: one bar for each ratio, and a line where both are equal.

use std::fmt::Write;

use crate::plan::Comparison;

const LINE: usize = 26;
const LEFT: f64 = 290.0;
const WIDTH: f64 = 760.0;
/// The largest ratio that is drawn to scale; longer bars are cut.
const MOST: f64 = 3.0;

/// An SVG that needs no style sheet and is readable on light and dark pages.
pub(crate) fn bars(comparison: &Comparison) -> String {
    let height = 50 + LINE * comparison.rows.len();
    let scale = (WIDTH - LEFT - 60.0) / MOST;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\" fill=\"#777\">\n<text x=\"{LEFT}\" y=\"18\">mq-worker : raw client (1 = equal)</text>\n"
    );
    for (index, row) in comparison.rows.iter().enumerate() {
        let y = 34 + LINE * index;
        let colour = if row.more_is_better { "#2b8a3e" } else { "#1971c2" };
        let length = row.ratio.min(MOST) * scale;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
            LEFT - 8.0,
            y + 14,
            row.what,
            LEFT + length + 6.0,
            y + 14,
            row.ratio
        );
    }
    let equal = LEFT + scale;
    let _ = writeln!(
        svg,
        "<line x1=\"{equal}\" x2=\"{equal}\" y1=\"28\" y2=\"{}\" stroke=\"#777\" stroke-dasharray=\"4 3\"/>\n\
         <text x=\"{LEFT}\" y=\"{}\">green: rates, longer is better; blue: time and memory, shorter is better</text>\n</svg>",
        height - 18,
        height - 4
    );
    svg
}
