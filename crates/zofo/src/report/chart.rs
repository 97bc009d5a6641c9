//! A chart, drawn as SVG by `plotters`, whose colours are left to style sheets.

use super::error::ReportError;
use super::series::Band;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::fmt::Write as _;
use std::ops::Range;

/// Colours that a style sheet has for series.
const COLOURS: usize = 8;

const WIDTH: u32 = 420;
/// Of the plot with its axes.
const HEIGHT: u32 = 270;
/// Of a line of the legend.
const LINE: u32 = 20;
/// Characters of a legend's line.
const LEGEND_CHARACTERS: usize = 54;

/// What is drawn is given these, which stand for classes of the style sheet, and are replaced by them.
const TEXT: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(1, 1, 2);
const AXIS: RGBColor = RGBColor(1, 1, 3);

/// The style of a chart that stands alone, in light and in dark.
pub(super) const STYLE: &str = include_str!("chart.css");

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// A line with its band.
    Line,
    /// The same, dashed.
    Dashed,
    /// Points without a line.
    Points,
    /// A line through points with their bands as bars.
    Bars,
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) label: String,
    /// Of the style sheet; beyond the last they begin again, with another mark.
    pub(super) colour: usize,
    pub(super) mark: Mark,
    pub(super) points: Vec<Band>,
}

/// A chart: axes and series.
#[derive(Clone, Debug)]
pub struct Chart {
    /// A name for its file.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The same in words, for those who do not see it.
    pub description: String,
    pub(super) x: String,
    pub(super) y: String,
    /// Whether the axes are logarithmic: x, y.
    pub(super) logarithmic: [bool; 2],
    pub(super) series: Vec<Series>,
}

impl Chart {
    /// Whether there is anything to draw.
    pub(super) fn has_points(&self) -> bool {
        self.series.iter().any(|series| !series.points.is_empty())
    }

    /// The chart as an `<svg>` element that takes its colours from the page's style sheet.
    ///
    /// # Errors
    ///
    /// [`ReportError::Draw`].
    pub fn svg(&self) -> Result<String, ReportError> {
        let height = HEIGHT + LINE * self.series.len() as u32;
        let mut svg = String::new();
        let failed = |reason: String| ReportError::Draw { title: self.title.clone(), reason };
        self.draw(SVGBackend::with_string(&mut svg, (WIDTH, height))).map_err(failed)?;
        Ok(self.with_classes(&svg))
    }

    /// The chart as a file of its own, with its colours in it.
    ///
    /// # Errors
    ///
    /// [`ReportError::Draw`].
    pub fn file(&self) -> Result<String, ReportError> {
        self.with_style(STYLE)
    }

    /// The chart with a style sheet in it.
    pub(super) fn with_style(&self, style: &str) -> Result<String, ReportError> {
        let svg = self.svg()?;
        let end = svg.find('>').map_or(0, |end| end + 1);
        Ok(format!("{}\n<style>{style}</style>{}", &svg[..end], &svg[end..]))
    }

    fn draw(&self, backend: SVGBackend) -> Result<(), String> {
        let root = backend.into_drawing_area();
        let (plot, legend) = root.split_vertically(HEIGHT);
        let bands = || self.series.iter().flat_map(|series| &series.points);
        // Points would lie on the axes; lines may begin there.
        let has_lines = self.series.iter().any(|series| matches!(series.mark, Mark::Line | Mark::Dashed));
        let x = || bands().map(|band| band.x);
        let y = || bands().flat_map(|band| [band.low, band.high, band.mean]);
        let linear_x = || padded(x(), if has_lines { 0.0 } else { 0.06 });
        // Where it was measured.
        let logarithmic_x = || stretched(x(), 0.06).log_scale().with_key_points(ticks(x()));
        let (linear_y, logarithmic_y) = (|| padded(y(), 0.06), || stretched(y(), 0.06).log_scale());
        let drawn = match self.logarithmic {
            [false, false] => self.plot(&plot, linear_x(), linear_y()),
            [false, true] => self.plot(&plot, linear_x(), logarithmic_y()),
            [true, false] => self.plot(&plot, logarithmic_x(), linear_y()),
            [true, true] => self.plot(&plot, logarithmic_x(), logarithmic_y()),
        };
        drawn.and_then(|()| self.legend(&legend)).map_err(|error| error.to_string())?;
        root.present().map_err(|error| error.to_string())
    }

    fn plot<'a, X, Y>(&self, area: &Area<'a>, x: X, y: Y) -> Result<(), DrawError<'a>>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(14)
            .x_label_area_size(40)
            .y_label_area_size(62)
            .build_cartesian_2d(x, y)?;
        let text = ("sans-serif", 16).into_font().color(&TEXT);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|value| tick(*value))
            .y_label_formatter(&|value| tick(*value))
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_desc(&self.x)
            .y_desc(&self.y)
            .draw()?;
        for series in &self.series {
            let stroke = series.stroke();
            let fill = series.fill();
            let [_, is_logarithmic] = self.logarithmic;
            let visible: Vec<&Band> = series.points.iter().filter(|band| !is_logarithmic || band.mean > 0.0).collect();
            let floor = |value: f64, band: &Band| if is_logarithmic && value <= 0.0 { band.mean } else { value };
            let has_band = visible.iter().any(|band| band.high > band.low);
            if has_band && matches!(series.mark, Mark::Line | Mark::Dashed) {
                let lows = visible.iter().map(|band| (band.x, floor(band.low, band)));
                let highs = visible.iter().rev().map(|band| (band.x, band.high));
                let outline: Vec<(f64, f64)> = lows.chain(highs).collect();
                chart.draw_series(std::iter::once(Polygon::new(outline, fill.mix(0.16))))?;
            }
            if series.mark == Mark::Bars {
                let style = fill.filled().stroke_width(1);
                let bar = |band: &&Band| {
                    ErrorBar::new_vertical(band.x, floor(band.low, band), band.mean, band.high, style, 7)
                };
                chart.draw_series(visible.iter().map(bar))?;
            }
            let means = || visible.iter().map(|band| (band.x, band.mean));
            if series.mark != Mark::Points {
                chart.draw_series(LineSeries::new(means(), stroke.stroke_width(2)))?;
            }
            // Few points are measurements, and seen as such.
            let is_few = visible.len() <= 30;
            let size = match series.mark {
                Mark::Points => Some(5),
                Mark::Line => is_few.then_some(2),
                Mark::Dashed | Mark::Bars => None,
            };
            if let Some(size) = size {
                chart.draw_series(means().map(|point| Circle::new(point, size, fill.filled())))?;
            }
        }
        Ok(())
    }

    fn legend<'a>(&self, area: &Area<'a>) -> Result<(), DrawError<'a>> {
        let text = ("sans-serif", 16).into_font().color(&TEXT);
        for (row, series) in self.series.iter().enumerate() {
            let y = row as i32 * LINE as i32 + 8;
            if series.mark == Mark::Points {
                area.draw(&Circle::new((23, y), 5, series.fill().filled()))?;
            } else {
                area.draw(&PathElement::new(vec![(12, y), (34, y)], series.stroke().stroke_width(3)))?;
            }
            area.draw(&Text::new(shortened(&series.label), (42, y - 7), text.clone()))?;
        }
        Ok(())
    }

    /// Replaces the colours by classes, and says what is seen.
    fn with_classes(&self, svg: &str) -> String {
        let mut svg = svg.replace("fill=\"#010101\"", "class=\"ct\"").replace("stroke=\"#010102\"", "class=\"cg\"");
        svg = svg.replace("stroke=\"#010103\"", "class=\"ca\"");
        for colour in 0..COLOURS {
            svg = svg.replace(&format!("stroke=\"#0102{colour:02X}\""), &format!("class=\"s{colour}\""));
            svg = svg.replace(&format!("stroke=\"#0103{colour:02X}\""), &format!("class=\"s{colour} dash\""));
            svg = svg.replace(&format!("fill=\"#0102{colour:02X}\""), &format!("class=\"f{colour}\""));
        }
        let end = svg.find('>').unwrap_or_default();
        let mut text = svg[..end].to_owned();
        // Writing to a `String` cannot fail.
        let _ = write!(
            text,
            " role=\"img\" aria-labelledby=\"{0}-title {0}-desc\"><title id=\"{0}-title\">{1}</title><desc id=\"{0}-desc\">{2}</desc>{3}",
            self.name,
            escaped(&self.title),
            escaped(&self.description),
            &svg[end + 1..]
        );
        text
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

impl Series {
    fn stroke(&self) -> RGBColor {
        let again = self.colour / COLOURS % 2 == 1;
        let dashed = (self.mark == Mark::Dashed) != again;
        RGBColor(1, if dashed { 3 } else { 2 }, (self.colour % COLOURS) as u8)
    }

    fn fill(&self) -> RGBColor {
        RGBColor(1, 2, (self.colour % COLOURS) as u8)
    }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.map(|value| (value, value)).reduce(|(low, high), (value, _)| (low.min(value), high.max(value)))
}

/// The range of values, with a share of it on either side; one that is not empty if they are all the same.
fn padded(values: impl Iterator<Item = f64>, share: f64) -> Range<f64> {
    let (low, high) = extent(values).unwrap_or((0.0, 1.0));
    if high > low {
        let padding = (high - low) * share;
        low - padding..high + padding
    } else {
        let padding = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
        low - padding..high + padding
    }
}

/// The same for a logarithmic axis: of the values above 0, with a share of the distance of their logarithms.
fn stretched(values: impl Iterator<Item = f64>, share: f64) -> Range<f64> {
    let (low, high) = extent(values.filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
    let factor = if high > low { (high / low).powf(share) } else { 1.5 };
    low / factor..high * factor
}

/// The values, but for those whose labels would lie on others on a logarithmic axis.
fn ticks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    /// A label's width as a share of the axis.
    const ROOM: f64 = 0.13;
    let mut values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
    values.sort_by(f64::total_cmp);
    let whole = values.last().zip(values.first()).map_or(0.0, |(last, first)| (last / first).ln());
    let mut kept: Vec<f64> = Vec::new();
    for value in values {
        if kept.last().is_none_or(|last| (value / last).ln() > ROOM * whole) {
            kept.push(value);
        }
    }
    kept
}

/// A number at an axis.
fn tick(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        return "0".to_owned();
    }
    if !(1e-3..1e5).contains(&size) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A label on one line. The library keeps characters that XML does not have.
fn shortened(label: &str) -> String {
    let visible = label.chars().map(|character| if character.is_control() { ' ' } else { character });
    if label.chars().count() <= LEGEND_CHARACTERS {
        return visible.collect();
    }
    visible.take(LEGEND_CHARACTERS - 1).chain(['…']).collect()
}

/// Text for XML. Characters that XML does not have are replaced.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            character if character.is_control() => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}
