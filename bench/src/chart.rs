//! The chart: goals first, each as a share of its bar, then every figure that contenders share, as bars side by side.
//!
//! Bars and letters are drawn here, pixel by pixel: that needs no font of the system and no library of it.

use crate::figure::Figure;
use crate::goal::{Bound, Goal, Reached};
use crate::report::{AreaReport, shown};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// A colour as PNG has it: red, green, blue.
type Colour = [u8; 3];

const WHITE: Colour = [255, 255, 255];
const BLACK: Colour = [30, 30, 30];
const GREY: Colour = [176, 182, 190];
const RED: Colour = [200, 80, 70];
const GREEN: Colour = [80, 160, 90];
const BLUE: Colour = [60, 120, 200];

const FONT: RasterHeight = RasterHeight::Size16;
const WEIGHT: FontWeight = FontWeight::Regular;
/// Pixels of one line of the chart, of a bar in it, and around everything.
const LINE: usize = 24;
const BAR: usize = 16;
const MARGIN: usize = 16;
/// Characters of the longest label; longer ones are cut.
const LABEL: usize = 62;
/// Pixels of the longest bar, and the room for what stands behind one.
const LONGEST: usize = 400;
const BEHIND: usize = 300;
/// A goal's bar ends here: at twice what was asked for.
const SHARE_MAX: f64 = 2.0;
/// The contender whose bars stand out.
const OURS: &str = "weft";

/// One line of the chart.
#[derive(Clone, PartialEq, Debug)]
enum Line {
    Title(String),
    Bar {
        label: String,
        /// Of the longest.
        share: f64,
        colour: Colour,
        text: String,
        /// Where limits stand, as shares too.
        marks: Vec<f64>,
    },
}

/// The chart of an area as a PNG file; `None` when it has no goals.
///
/// # Errors
/// When the encoder refuses, which it does only for pictures of other sizes.
pub fn draw(area: &AreaReport) -> anyhow::Result<Option<Vec<u8>>> {
    let lines = lines(area);
    if lines.is_empty() {
        return Ok(None);
    }
    let bars_begin = MARGIN + LABEL * get_raster_width(WEIGHT, FONT) + MARGIN;
    let mut canvas = Canvas::new(
        bars_begin + LONGEST + BEHIND + MARGIN,
        2 * MARGIN + lines.len() * LINE,
    );
    for (at, line) in lines.iter().enumerate() {
        let top = MARGIN + at * LINE;
        match line {
            Line::Title(text) => canvas.text(MARGIN, top, text),
            Line::Bar {
                label,
                share,
                colour,
                text,
                marks,
            } => {
                let pixels = |share: f64| (share.clamp(0.0, 1.0) * LONGEST as f64).round() as usize;
                canvas.text(MARGIN, top, &label.chars().take(LABEL).collect::<String>());
                canvas.fill((bars_begin, top), (pixels(*share), BAR), *colour);
                for mark in marks {
                    canvas.fill((bars_begin + pixels(*mark), top - 3), (2, BAR + 6), BLACK);
                }
                let end = marks.iter().copied().fold(*share, f64::max);
                canvas.text(bars_begin + pixels(end) + MARGIN / 2, top, text);
            }
        }
    }
    canvas.png().map(Some)
}

fn lines(area: &AreaReport) -> Vec<Line> {
    let mut lines: Vec<Line> = area.figures.iter().filter_map(goal_line).collect();
    if lines.is_empty() {
        return lines;
    }
    let title = format!("{}: shares of the bar; marks: bar and moonshot", area.area);
    lines.insert(0, Line::Title(title));
    let mut shared: Vec<&str> = Vec::new();
    for figure in &area.figures {
        if let Some((what, _)) = contender(figure)
            && !shared.contains(&what)
        {
            shared.push(what);
        }
    }
    for what in shared {
        let of = |figure: &&Figure| contender(figure).is_some_and(|(its, _)| its == what);
        let group: Vec<&Figure> = area.figures.iter().filter(of).collect();
        let longest = group
            .iter()
            .map(|figure| figure.median)
            .fold(f64::MIN_POSITIVE, f64::max);
        lines.push(Line::Title(what.to_owned()));
        for figure in group {
            let name = contender(figure).map_or("", |(_, name)| name);
            lines.push(Line::Bar {
                label: format!("  {name}"),
                share: figure.median / longest,
                colour: if name == OURS { BLUE } else { GREY },
                text: format!("{} {}", shown(figure.median), figure.unit),
                marks: Vec::new(),
            });
        }
    }
    lines
}

fn goal_line(figure: &Figure) -> Option<Line> {
    let (goal, reached) = figure.goal.zip(figure.reached)?;
    let of_bar = |value: f64| share(goal, value) / SHARE_MAX;
    let limits = [Some(goal.bar), goal.moonshot]
        .into_iter()
        .flatten()
        .map(Bound::limit);
    Some(Line::Bar {
        label: figure.what.clone(),
        share: of_bar(figure.median),
        colour: match reached {
            Reached::Nothing => RED,
            Reached::Bar => GREEN,
            Reached::Moonshot => BLUE,
        },
        text: match figure.unit {
            "ratio" => shown(figure.median),
            unit => format!("{} {unit}", shown(figure.median)),
        },
        marks: limits.map(of_bar).collect(),
    })
}

/// How much of the bar a value is: 1 is just enough.
fn share(goal: Goal, value: f64) -> f64 {
    match goal.bar {
        Bound::AtLeast(limit) => value / limit,
        Bound::AtMost(limit) => limit / value,
    }
}

/// What a figure is about, and whose it is. Ratios are nobody's.
fn contender(figure: &Figure) -> Option<(&str, &str)> {
    let parts = figure.what.rsplit_once(": ")?;
    (figure.unit != "ratio").then_some(parts)
}

struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            pixels: WHITE.repeat(width * height),
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: Colour) {
        let at = (y * self.width + x) * colour.len();
        if x < self.width
            && let Some(pixel) = self.pixels.get_mut(at..at + colour.len())
        {
            pixel.copy_from_slice(&colour);
        }
    }

    fn fill(&mut self, (left, top): (usize, usize), (width, height): (usize, usize), colour: Colour) {
        for y in top..top + height {
            for x in left..left + width {
                self.set(x, y, colour);
            }
        }
    }

    /// Letters that the font lacks are left out.
    fn text(&mut self, left: usize, top: usize, text: &str) {
        let mut begin = left;
        for letter in text.chars() {
            let Some(raster) = get_raster(letter, WEIGHT, FONT) else {
                continue;
            };
            for (y, row) in raster.rows().enumerate() {
                for (x, ink) in row.iter().enumerate().filter(|(_, ink)| **ink > 0) {
                    let mix = |paper: u8, letter: u8| {
                        let (paper, letter, ink) = (u16::from(paper), u16::from(letter), u16::from(*ink));
                        // Between the two, so it fits.
                        ((paper * (255 - ink) + letter * ink) / 255) as u8
                    };
                    let colour = std::array::from_fn(|at| mix(WHITE[at], BLACK[at]));
                    self.set(begin + x, top + y, colour);
                }
            }
            begin += raster.width();
        }
    }

    fn png(&self) -> anyhow::Result<Vec<u8>> {
        let mut file = Vec::new();
        let (width, height) = (u32::try_from(self.width)?, u32::try_from(self.height)?);
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Sample;

    fn area(samples: Vec<Sample>) -> AreaReport {
        AreaReport {
            area: "sleeve",
            figures: Figure::of_runs(&[samples]),
            notes: Vec::new(),
        }
    }

    #[test]
    fn goals_are_shares_of_their_bar_and_contenders_of_the_best() {
        let area = area(vec![
            Sample::new("TCP: weft", "Gbit/s", 6.0),
            Sample::new("TCP: other", "Gbit/s", 8.0),
            Sample::new("TCP: weft / other", "ratio", 0.75).goal(Goal::at_least(0.5, 1.0)),
            Sample::new("round trip: weft", "µs", 180.0).goal(Goal::at_most(90.0, 60.0)),
        ]);
        let bars: Vec<(String, f64, Colour, Vec<f64>)> = lines(&area)
            .into_iter()
            .filter_map(|line| match line {
                Line::Bar {
                    label,
                    share,
                    colour,
                    marks,
                    ..
                } => Some((label.trim().to_owned(), share, colour, marks)),
                Line::Title(_) => None,
            })
            .collect();
        assert_eq!(
            bars,
            [
                ("TCP: weft / other".into(), 0.75, GREEN, vec![0.5, 1.0]),
                ("round trip: weft".into(), 0.25, RED, vec![0.5, 0.75]),
                ("weft".into(), 0.75, BLUE, vec![]),
                ("other".into(), 1.0, GREY, vec![]),
                ("weft".into(), 1.0, BLUE, vec![]),
            ]
        );
    }

    #[test]
    fn the_chart_is_a_picture_with_ink_in_it() {
        let goal = Goal::at_most(90.0, 60.0);
        let area = area(vec![Sample::new("round trip: weft", "µs", 45.0).goal(goal)]);
        let file = draw(&area).unwrap().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        for colour in [WHITE, BLUE, BLACK] {
            let count = pixels.chunks_exact(3).filter(|pixel| **pixel == colour).count();
            assert!(count > 100, "{colour:?}: {count}");
        }
    }

    #[test]
    fn an_area_without_goals_has_no_chart() {
        assert!(draw(&area(vec![Sample::new("x", "µs", 1.0)])).unwrap().is_none());
    }
}
