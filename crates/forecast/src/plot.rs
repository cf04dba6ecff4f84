//! Two drawings in one SVG: spare pieces over the time that passed, and what waited to be rebuilt day by day.

use std::fmt::Write;

use crate::report::{Report, bytes, years};

/// Pixels.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 720.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 30.0;
/// Top and bottom of each drawing.
const BARS: (f64, f64) = (80.0, 320.0);
const LINE: (f64, f64) = (430.0, 650.0);
/// The smallest share that is drawn: below it a bar has no height.
const SHARE_MIN: f64 = 1e-9;
const DARK: &str = "#1f6f8b";
const LIGHT: &str = "#e0a458";

/// Draws a report.
pub fn svg(report: &Report) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"14\" fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let tally = &report.tally;
    text(&mut out, (LEFT, 30.0), "start", 18, &title(report));
    bars(&mut out, report);
    backlog(&mut out, &tally.days.iter().map(|day| (f64::from(day.day), day.backlog_bytes)).collect::<Vec<_>>());
    out.push_str("</svg>\n");
    out
}

fn title(report: &Report) -> String {
    let tally = &report.tally;
    format!(
        "{} drives, {}, {}: {} died, {} of {} groups lost",
        tally.drives,
        report.code,
        years(tally.years),
        tally.deaths,
        tally.losses.len(),
        tally.groups
    )
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{what}</text>");
}

fn rule(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>");
}

/// Shares of the time, on a logarithmic scale, by spare pieces; from "lost with it" on.
fn bars(out: &mut String, report: &Report) {
    let tally = &report.tally;
    let (top, bottom) = BARS;
    let now: f64 = tally.by_spare.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let worst = (tally.after_worst.iter().sum::<f64>() + tally.after_worst_lost).max(f64::MIN_POSITIVE);
    let height = |share: f64| (share.max(SHARE_MIN) / SHARE_MIN).log10() / -SHARE_MIN.log10() * (bottom - top);
    for power in (-9..=0).step_by(3) {
        let y = bottom - height(10f64.powi(power));
        rule(out, (LEFT, y), (WIDTH - RIGHT, y), "#ddd");
        text(
            out,
            (LEFT - 8.0, y + 5.0),
            "end",
            12,
            if power == 0 { "all".into() } else { format!("1e{power}") }.as_str(),
        );
    }
    let slots = tally.by_spare.len() + 1;
    let slot = (WIDTH - LEFT - RIGHT) / slots as f64;
    for at in 0..slots {
        let x = LEFT + slot * at as f64;
        let (name, shares) = match at.checked_sub(1) {
            None => ("lost with it".to_owned(), [0.0, tally.after_worst_lost / worst]),
            Some(spare) => (spare.to_string(), [tally.by_spare[spare] / now, tally.after_worst[spare] / worst]),
        };
        text(out, (x + slot / 2.0, bottom + 18.0), "middle", 13, &name);
        for (bar, (share, colour)) in
            shares.into_iter().zip([DARK, LIGHT]).enumerate().filter(|(_, (share, _))| *share > 0.0)
        {
            let (x, tall) = (x + slot * (0.14 + 0.36 * bar as f64), height(share).max(1.0));
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{colour}\"/>",
                bottom - tall,
                slot * 0.34
            );
            text(out, (x + slot * 0.17, bottom - tall - 5.0), "middle", 11, &percent(share));
        }
    }
    rule(out, (LEFT, bottom), (WIDTH - RIGHT, bottom), "#222");
    text(out, (LEFT, 52.0), "start", 13, "Share of group-time (logarithmic) by spare pieces:");
    for (x, colour, what) in
        [(400.0, DARK, "as it was".to_owned()), (500.0, LIGHT, format!("if its worst {} vanished", tally.worst_domain))]
    {
        let _ = writeln!(out, "<rect x=\"{x}\" y=\"41\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
        text(out, (x + 18.0, 52.0), "start", 13, &what);
    }
    text(out, ((LEFT + WIDTH - RIGHT) / 2.0, bottom + 40.0), "middle", 13, "spare pieces of a group");
}

fn percent(share: f64) -> String {
    if share >= 1e-4 { format!("{:.2} %", share * 100.0) } else { format!("{share:.0e}") }
}

/// Bytes to rebuild at the end of each day.
fn backlog(out: &mut String, days: &[(f64, f64)]) {
    let (top, bottom) = LINE;
    let most = days.iter().map(|(_, bytes)| *bytes).fold(1.0, f64::max);
    let last = days.last().map_or(1.0, |(day, _)| *day);
    let at =
        |day: f64, bytes: f64| (LEFT + day / last * (WIDTH - LEFT - RIGHT), bottom - bytes / most * (bottom - top));
    text(out, (LEFT, top - 22.0), "start", 13, "Bytes that waited to be rebuilt, at the end of each day");
    for part in 0..=4 {
        let value = most * f64::from(part) / 4.0;
        let (_, y) = at(0.0, value);
        rule(out, (LEFT, y), (WIDTH - RIGHT, y), "#ddd");
        text(out, (LEFT - 8.0, y + 5.0), "end", 12, &bytes(value));
        let day = (last * f64::from(part) / 4.0).round();
        text(out, (at(day, 0.0).0, bottom + 18.0), "middle", 12, &format!("{day}"));
    }
    let points: Vec<String> =
        days.iter().map(|(day, bytes)| at(*day, *bytes)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{DARK}\" stroke-width=\"1.5\"/>",
        points.join(" ")
    );
    rule(out, (LEFT, bottom), (WIDTH - RIGHT, bottom), "#222");
    text(out, ((LEFT + WIDTH - RIGHT) / 2.0, bottom + 40.0), "middle", 13, "day");
}

#[cfg(test)]
mod tests {
    use crate::report::report;

    #[test]
    fn a_drawing_says_what_its_axes_are_and_is_well_formed() {
        let fleet = crate::read::parse(include_str!("../../../docs/examples/fleet.toml")).unwrap();
        let report = report(&fleet, 1.0, 1).unwrap();
        let drawn = super::svg(&report);
        for says in ["spare pieces of a group", "day</text>", "if its worst site vanished", "13 drives, 4+2", "rebuilt"]
        {
            assert!(drawn.contains(says), "{says}");
        }
        let points = drawn.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(points.split(' ').count(), 365);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
        assert_eq!(drawn.matches("<text").count(), drawn.matches("</text>").count());
        assert!(drawn.trim_end().ends_with("</svg>"));
    }
}
