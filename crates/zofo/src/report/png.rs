//! A chart as PNG: its SVG, read by `usvg`, which makes outlines of text, and painted by `tiny-skia`.

use super::chart::{Chart, STYLE};
use super::error::ReportError;
use std::sync::Arc;
use tiny_skia::{Color, Paint, Pixmap, Transform};
use usvg::fontdb::{Database, Family, Query};

/// Pixels for one of the SVG's, so that print and large screens show it sharply.
const SCALE: f32 = 2.0;

/// Families that have the letters and signs of charts, if the system's own choice is not installed.
const FAMILIES: [&str; 6] = ["DejaVu Sans", "Noto Sans", "Liberation Sans", "Segoe UI", "Helvetica", "Arial"];

/// The fonts of charts as PNG.
pub struct Fonts(Arc<Database>);

impl Fonts {
    /// Those of the system.
    ///
    /// # Errors
    ///
    /// [`ReportError::NoFont`] if there is none.
    pub fn of_system() -> Result<Self, ReportError> {
        let mut database = Database::new();
        database.load_system_fonts();
        Self::of(database)
    }

    /// What the system calls sans-serif need not be installed, and text without a font would be left out in silence.
    fn of(mut database: Database) -> Result<Self, ReportError> {
        let has = |family: Family| database.query(&Query { families: &[family], ..Query::default() }).is_some();
        if !has(Family::SansSerif) {
            let known = FAMILIES.into_iter().find(|family| has(Family::Name(family))).map(str::to_owned);
            let any = || database.faces().find_map(|face| Some(face.families.first()?.0.clone()));
            let family = known.or_else(any).ok_or(ReportError::NoFont)?;
            database.set_sans_serif_family(family);
        }
        Ok(Self(Arc::new(database)))
    }
}

impl Chart {
    /// The chart as a PNG file, in light colours on white.
    ///
    /// # Errors
    ///
    /// [`ReportError::Draw`], and [`ReportError::NoFont`] if no font has any of its letters.
    pub fn png(&self, fonts: &Fonts) -> Result<Vec<u8>, ReportError> {
        let failed = |reason: String| ReportError::Draw { title: self.title.clone(), reason };
        let options = usvg::Options { fontdb: fonts.0.clone(), ..usvg::Options::default() };
        let tree = usvg::Tree::from_str(&self.with_style(&light_style())?, &options);
        let tree = tree.map_err(|error| failed(error.to_string()))?;
        if !tree.has_text_nodes() {
            return Err(ReportError::NoFont);
        }
        let [width, height] = [tree.size().width(), tree.size().height()].map(|side| (side * SCALE).ceil() as u32);
        let pixmap = Pixmap::new(width, height);
        let mut pixmap = pixmap.ok_or_else(|| failed(format!("it would have {width} by {height} pixels")))?;
        pixmap.fill(Color::WHITE);
        paint_group(tree.root(), 1.0, &mut pixmap).map_err(|what| failed(format!("{what} cannot be painted")))?;
        // On white nothing is transparent, so that colours need not be divided by their opacity.
        let png = lodepng::encode32(pixmap.data(), width as usize, height as usize);
        png.map_err(|error| failed(error.to_string()))
    }
}

/// The style of charts in light colours, with its variables replaced by their values: `usvg` knows none.
fn light_style() -> String {
    let (variables, rules) = STYLE.split_once('\n').unwrap_or((STYLE, ""));
    let variables = variables.trim_start_matches("svg{").trim_end_matches('}').split(';');
    let replace = |style: String, (name, value): (&str, &str)| style.replace(&format!("var({name})"), value);
    let rules = rules.lines().filter(|rule| !rule.starts_with("@media")).collect::<Vec<_>>().join("\n");
    variables.filter_map(|variable| variable.split_once(':')).fold(rules, replace)
}

/// Paints a group, whose opacity counts with that of what it is in. Shapes of one group do not overlap in charts, so that
/// each may have the group's opacity for itself.
fn paint_group(group: &usvg::Group, opacity: f32, pixmap: &mut Pixmap) -> Result<(), &'static str> {
    let opacity = opacity * group.opacity().get();
    for node in group.children() {
        match node {
            usvg::Node::Group(group) => paint_group(group, opacity, pixmap)?,
            usvg::Node::Path(path) => paint_path(path, opacity, pixmap)?,
            usvg::Node::Text(text) => paint_group(text.flattened(), opacity, pixmap)?,
            usvg::Node::Image(_) => return Err("an image"),
        }
    }
    Ok(())
}

fn paint_path(path: &usvg::Path, opacity: f32, pixmap: &mut Pixmap) -> Result<(), &'static str> {
    let transform = Transform::from_scale(SCALE, SCALE).pre_concat(path.abs_transform());
    let paint = |paint: &usvg::Paint, its: usvg::Opacity| {
        let usvg::Paint::Color(color) = paint else { return Err("a pattern") };
        let mut paint = Paint { anti_alias: path.rendering_mode().use_shape_antialiasing(), ..Paint::default() };
        let alpha = (255.0 * opacity * its.get()).round() as u8;
        paint.set_color_rgba8(color.red, color.green, color.blue, alpha);
        Ok(paint)
    };
    let bounds = path.data().bounds();
    // A line has no inside.
    let has_inside = bounds.width() > 0.0 && bounds.height() > 0.0;
    if let Some(fill) = path.fill().filter(|_| path.is_visible() && has_inside) {
        let rule = match fill.rule() {
            usvg::FillRule::NonZero => tiny_skia::FillRule::Winding,
            usvg::FillRule::EvenOdd => tiny_skia::FillRule::EvenOdd,
        };
        pixmap.fill_path(path.data(), &paint(fill.paint(), fill.opacity())?, rule, transform, None);
    }
    if let Some(stroke) = path.stroke().filter(|_| path.is_visible()) {
        let paint = paint(stroke.paint(), stroke.opacity())?;
        pixmap.stroke_path(path.data(), &paint, &stroke.to_tiny_skia(), transform, None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chart::{Mark, Series};
    use crate::report::series::Band;

    #[test]
    fn no_font_is_an_error_and_no_chart_without_text() {
        assert!(matches!(Fonts::of(Database::new()), Err(ReportError::NoFont)));
        let point = Band { x: 1.0, mean: 1.0, low: 1.0, high: 1.0, count: 1 };
        let series = Series { label: "a".to_owned(), colour: 0, mark: Mark::Points, points: vec![point] };
        let [name, title, description, x, y] = ["name", "title", "description", "x", "y"].map(str::to_owned);
        let chart = Chart { name, title, description, x, y, logarithmic: [false; 2], series: vec![series] };
        let error = chart.png(&Fonts(Arc::new(Database::new()))).unwrap_err();
        assert!(matches!(error, ReportError::NoFont) && error.to_string().contains("install one"), "{error}");
    }

    #[test]
    fn the_light_style_has_no_variables_left() {
        let style = light_style();
        assert!(style.contains(".ct{fill:#24292f}") && style.contains(".s0{stroke:#0b62b8}"), "{style}");
        assert!(!style.contains("var(") && !style.contains("--") && !style.contains("@media"), "{style}");
    }
}
