//! The figures as a picture: a panel for each view, a group of bars for each workload.

use std::fmt::Write;

use super::stage::{Outcome, Results, Workload};
use super::stats::Figure;
use super::{number, outcome};

const WIDTH: f64 = 980.0;
/// Where bars begin and how far the longest of a group reaches.
const BARS: (f64, f64) = (400.0, 440.0);
const BAR: f64 = 15.0;
const GAP: f64 = 14.0;

/// Our own stands out; the kernel's share is grey.
fn color(runtime: &str) -> &'static str {
    match runtime {
        "orlop" => "#0b6e4f",
        "floor" => "#9aa5b1",
        "crun" => "#4a7fb5",
        "runc" => "#c98a2b",
        "umoci" => "#4a7fb5",
        "containerd" => "#c98a2b",
        "youki" | "buildah" => "#a35a8c",
        _ => "#6b7280",
    }
}

/// A complete SVG file.
pub(crate) fn draw(machine: &str, all: &[Results]) -> String {
    let mut page = Page::new("OCI runtimes side by side", machine);
    for results in all {
        page.heading(&format!("cgroup {} view", results.view.name()));
        page.legend(&results.runtimes);
        for workload in Workload::ALL {
            let bars: Vec<_> = results
                .runtimes
                .iter()
                .filter_map(|(name, _)| match outcome(results, workload, name)? {
                    Outcome::Figure(figure) => Some((name.clone(), *figure)),
                    Outcome::Failed(_) => None,
                })
                .collect();
            page.group(&format!("{} ({})", workload.title(), workload.unit()), &bars, |value| number(value, workload));
        }
    }
    page.end()
}

/// A complete SVG file of one panel: a legend of names and versions, and groups of bars under their titles.
pub(crate) fn draw_groups(
    title: &str,
    machine: &str,
    legend: &[(String, String)],
    groups: &[(String, Vec<(String, Figure)>)],
) -> String {
    let mut page = Page::new(title, machine);
    page.legend(legend);
    for (title, bars) in groups {
        page.group(title, bars, |value| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") });
    }
    page.end()
}

/// A page that grows downwards.
struct Page {
    body: String,
    y: f64,
}

impl Page {
    fn new(title: &str, machine: &str) -> Self {
        let mut page = Self { body: String::new(), y: 40.0 };
        text(&mut page.body, 24.0, page.y, 22.0, "bold", title);
        let about = "Bars are medians, lines the middle 80 in 100 samples; each group has its own scale. Of times, shorter is better.";
        for (words, down) in [(machine, 24.0), (about, 18.0)] {
            page.y += down;
            text(&mut page.body, 24.0, page.y, 13.0, "normal", words);
        }
        page
    }

    fn heading(&mut self, words: &str) {
        self.y += 44.0;
        text(&mut self.body, 24.0, self.y, 17.0, "bold", words);
    }

    fn legend(&mut self, names: &[(String, String)]) {
        for (name, version) in names {
            self.y += 18.0;
            let (y, color) = (self.y - 10.0, color(name));
            let _ = write!(self.body, r#"<rect x="24" y="{y}" width="11" height="11" fill="{color}"/>"#);
            text(&mut self.body, 42.0, self.y, 12.0, "normal", &format!("{name}: {version}"));
        }
        self.y += 14.0;
    }

    /// A title and its bars; nothing without bars.
    fn group(&mut self, title: &str, bars: &[(String, Figure)], number: impl Fn(f64) -> String) {
        if bars.is_empty() {
            return;
        }
        let (body, y) = (&mut self.body, &mut self.y);
        // A single wild sample range must not flatten the bars, so lines may be cut at the edge.
        let scale = BARS.1 / bars.iter().map(|(_, figure)| figure.median).fold(f64::MIN_POSITIVE, f64::max);
        *y += GAP;
        text(body, 24.0, *y + BAR - 3.0, 13.0, "bold", title);
        for (name, figure) in bars {
            let length = (figure.median * scale).max(1.0);
            let (x, middle) = (BARS.0, *y + BAR / 2.0);
            let _ = writeln!(
                body,
                r#"<text x="{}" y="{}" font-size="12" text-anchor="end">{}</text><rect x="{x}" y="{}" width="{length:.1}" height="{}" fill="{}"/>"#,
                x - 8.0,
                *y + BAR - 4.0,
                escape(name),
                *y + 1.0,
                BAR - 2.0,
                color(name)
            );
            let end = |value: f64| x + (value * scale).min(BARS.1 + 20.0);
            let mut label = x + length;
            if figure.samples > 1 {
                let (from, to) = (end(figure.p10), end(figure.p90));
                let _ = writeln!(
                    body,
                    r##"<path d="M{from:.1} {middle}H{to:.1}M{from:.1} {}v6M{to:.1} {}v6" stroke="#1f2933" stroke-width="1.2" fill="none"/>"##,
                    middle - 3.0,
                    middle - 3.0
                );
                label = label.max(to);
            }
            text(body, label + 8.0, *y + BAR - 4.0, 12.0, "normal", &number(figure.median));
            *y += BAR;
        }
    }

    fn end(self) -> String {
        let (body, height) = (self.body, self.y + 30.0);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"DejaVu Sans, Arial, sans-serif\" fill=\"#1f2933\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }
}

fn text(body: &mut String, x: f64, y: f64, size: f64, weight: &str, words: &str) {
    let words = escape(words);
    let _ = writeln!(body, r#"<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}">{words}</text>"#);
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::stage::View;
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_width_and_names_are_escaped() {
        let figure = |median| Outcome::Figure(Figure { median, p10: median, p90: median * 9.0, samples: 9 });
        let results = Results {
            view: View::V2,
            runtimes: vec![("a<b".to_owned(), "1 & 2".to_owned()), ("crun".to_owned(), "1".to_owned())],
            outcomes: [(
                Workload::Run.title().to_owned(),
                [("a<b".to_owned(), figure(4.0)), ("crun".to_owned(), figure(2.0))].into(),
            )]
            .into(),
        };
        let picture = draw("Linux", &[results]);
        assert!(picture.contains("width=\"440.0\"") && picture.contains("width=\"220.0\""));
        assert!(picture.contains("a&lt;b: 1 &amp; 2") && !picture.contains("a<b"));
    }
}
