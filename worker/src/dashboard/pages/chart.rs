//! Charts as SVG, drawn on the server: no script is needed to see them.

use maud::{Markup, PreEscaped, html};

/// The lengths of a queue over the last minutes, as a small line.
pub(crate) fn sparkline(points: &[u64], label: &str) -> Markup {
    const WIDTH: f64 = 96.0;
    const HEIGHT: f64 = 22.0;
    if points.len() < 2 {
        return html! { svg.spark viewBox="0 0 96 24" role="img" aria-label=(label) {} };
    }
    let values: Vec<f64> = points.iter().map(|point| *point as f64).collect();
    let most = values.iter().copied().fold(1.0, f64::max);
    let line = path(&values, most, WIDTH, HEIGHT, 1.0);
    let area = format!("{line} L{WIDTH} 24 L0 24 Z");
    html! {
        svg.spark viewBox="0 0 96 24" preserveAspectRatio="none" role="img" aria-label=(label) {
            path.area d=(area) {}
            path.line d=(line) {}
        }
    }
}

/// One line of a chart.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    /// The style: `good`, `bad`, `first`, `second`.
    pub(crate) tone: &'a str,
    pub(crate) values: &'a [f64],
}

/// Lines over the last hour with one scale, from left to right.
pub(crate) fn lines(title: &str, lines: &[Line<'_>], shown: impl Fn(f64) -> String, from: &str) -> Markup {
    const WIDTH: f64 = 600.0;
    const HEIGHT: f64 = 120.0;
    let most =
        lines.iter().flat_map(|line| line.values).copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
    let scale = nice(most);
    let last = |line: &Line<'_>| line.values.iter().rev().find(|v| v.is_finite()).copied();
    let label = lines.iter().map(|line| format!("{} {}", line.name, last(line).map_or("–".into(), &shown)));
    let label = format!("{title}: {}", label.collect::<Vec<_>>().join(", "));
    html! {
        figure.chart {
            figcaption {
                span.title { (title) }
                @for line in lines {
                    span class={ "key " (line.tone) } { (line.name) " " b { (last(line).map_or("–".into(), &shown)) } }
                }
            }
            div.plot {
                svg viewBox="0 0 600 120" preserveAspectRatio="none" role="img" aria-label=(label) {
                    @for part in [0.0, 0.5, 1.0] {
                        @let y = 1.0 + (HEIGHT - 2.0) * part;
                        line.grid x1="0" x2="600" y1=(y) y2=(y) {}
                    }
                    @for (index, line) in lines.iter().enumerate() {
                        @let drawn = path(line.values, scale, WIDTH, HEIGHT - 2.0, 1.0);
                        @if index == 0 {
                            path class={ "area " (line.tone) } d=(PreEscaped(format!("{drawn} L{WIDTH} {HEIGHT} L0 {HEIGHT} Z"))) {}
                        }
                        path class={ "line " (line.tone) } d=(PreEscaped(drawn)) {}
                    }
                }
                span.top { (shown(scale)) }
            }
            div.axis { span { (from) } span { "now" } }
        }
    }
}

/// A path through values from left to right; an unknown value is drawn as the one before it.
fn path(values: &[f64], most: f64, width: f64, height: f64, top: f64) -> String {
    use std::fmt::Write;
    let step = width / (values.len().max(2) - 1) as f64;
    let mut text = String::new();
    let mut before = 0.0;
    for (index, value) in values.iter().enumerate() {
        let value = if value.is_finite() { *value } else { before };
        before = value;
        let (x, y) = (
            step * index as f64,
            top + height - height * (value / most.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0),
        );
        let command = if index == 0 { 'M' } else { 'L' };
        let _ = write!(text, "{command}{x:.1} {y:.1} ");
    }
    text.trim_end().to_owned()
}

/// Rounds up to the next of 1, 2, 5, 10, 20 …
fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|nice| *nice >= most * 0.999)
        .unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_ends_at_a_round_number() {
        for (most, expected) in [(0.0, 1.0), (0.7, 1.0), (1.0, 1.0), (3.0, 5.0), (12.0, 20.0), (99.0, 100.0)]
        {
            assert_eq!(nice(most), expected);
        }
    }

    #[test]
    fn a_path_stays_inside() {
        assert_eq!(
            path(&[0.0, 5.0, 10.0, f64::NAN], 10.0, 30.0, 10.0, 1.0),
            "M0.0 11.0 L10.0 6.0 L20.0 1.0 L30.0 1.0"
        );
        assert_eq!(path(&[], 0.0, 1.0, 1.0, 0.0), "");
    }
}
