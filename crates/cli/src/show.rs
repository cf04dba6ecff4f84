//! People look before they read: tables and colours on a terminal, plain text elsewhere.

use std::io::IsTerminal;

use serde_json::Value;

/// A colour, where standard output is a terminal and NO_COLOR isn't set.
#[derive(Clone, Copy)]
pub enum Paint {
    Red,
    Green,
    Yellow,
    Dim,
    Bold,
}

/// `text` in that colour, for standard output.
pub fn paint(paint: Paint, text: &str) -> String {
    painted(std::io::stdout().is_terminal(), paint, text)
}

/// `text` in that colour, for standard error.
pub fn paint_error(paint: Paint, text: &str) -> String {
    painted(std::io::stderr().is_terminal(), paint, text)
}

fn painted(is_terminal: bool, paint: Paint, text: &str) -> String {
    if !is_terminal || std::env::var_os("NO_COLOR").is_some() {
        return text.to_owned();
    }
    let code = match paint {
        Paint::Red => 31,
        Paint::Green => 32,
        Paint::Yellow => 33,
        Paint::Dim => 2,
        Paint::Bold => 1,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// `1.5 GB`: powers of ten, as drives are sold.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} PB")
}

/// `3 min`, `2.5 h`.
pub fn duration(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{:.1} h", secs as f64 / 3600.0),
        _ => format!("{} days", secs / 86_400),
    }
}

/// Rows below a heading, columns as wide as their widest cell; numbers to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| {
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            let number = cell.chars().next().is_some_and(|first| first.is_ascii_digit());
            if number { format!("{gap}{cell}") } else { format!("{cell}{gap}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let heading: Vec<String> = heading.iter().map(|text| (*text).to_owned()).collect();
    let mut lines = vec![paint(Paint::Bold, &line(&heading))];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

/// The text of a field, or a dash.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000_000), "1.5 GB");
        assert_eq!(duration(90), "90 s");
        assert_eq!(duration(600), "10 min");
        assert_eq!(duration(9000), "2.5 h");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "10".to_owned()], vec!["longer".to_owned(), "5".to_owned()]];
        assert_eq!(table(&["name", "count"], &rows), "name    count\na          10\nlonger      5");
    }
}
