//! Shows measured rows: a Markdown table on the terminal for each server, and a picture of the rows with a
//! goal for the first server.
//!
//! `cargo bench -p benches --bench results -- target/bench.json benches/results.svg`

#[path = "../shared/report.rs"]
mod report;

use report::Row;
use std::fmt::Write;

fn main() {
    let Some((files, _)) = report::arguments() else { return };
    let [json, svg] = &files[..] else {
        panic!("name the file with the rows and the file for the picture");
    };
    let text = std::fs::read(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    let rows: Vec<Row> = serde_json::from_slice(&text).expect("a list of rows");
    // Rows that need no server are shown with the first one.
    let needs_none = |row: &Row| row.server == "none";
    let mut servers: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| !needs_none(row)) {
        if !servers.contains(&row.server.as_str()) {
            servers.push(&row.server);
        }
    }
    let first = servers.first().copied().unwrap_or("none");
    println!("The floor's source: {}.", report::hash_of(include_str!("../etcd/floor.rs")));
    println!("The hash map's source: {}.\n", report::hash_of(include_str!("../shared/hash_map.rs")));
    table(rows.iter().filter(|row| needs_none(row) || row.server == first));
    for server in servers.iter().skip(1) {
        println!("\n{server}:\n");
        table(rows.iter().filter(|row| row.server == *server));
    }
    let drawn = rows.iter().filter(|row| needs_none(row) || row.server == first);
    std::fs::write(svg, picture(drawn)).unwrap_or_else(|error| panic!("{svg}: {error}"));
}

fn table<'r>(rows: impl Iterator<Item = &'r Row>) {
    println!("| what | engine | floor | ratio | goal | unit |\n|---|---|---|---|---|---|");
    for row in rows {
        if let Some(why) = &row.not_measured {
            println!("| {} | not measured: {why} |  |  |  |  |", row.name);
            continue;
        }
        let number = |value: Option<f64>| value.map_or(String::new(), short);
        let goal = match row.met() {
            None => String::new(),
            Some(true) => format!("{}: met", row.goal.as_deref().unwrap_or("")),
            Some(false) => format!("{}: missed", row.goal.as_deref().unwrap_or("")),
        };
        println!(
            "| {} | {}{} | {}{} | {} | {goal} | {} |",
            row.name,
            short(row.ours),
            spread(row.ours_spread),
            number(row.floor),
            spread(row.floor_spread),
            number(row.ratio),
            row.unit,
        );
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn spread(spread: Option<(f64, f64)>) -> String {
    spread.map_or(String::new(), |(low, high)| format!(" ({} to {})", short(low), short(high)))
}

/// Draws each row that has a floor and a goal as a bar: the engine relative to the floor, and a mark at the
/// goal.
fn picture<'r>(rows: impl Iterator<Item = &'r Row>) -> String {
    const LINE: usize = 26;
    const LEFT: f64 = 400.0;
    /// The length of the floor in pixels.
    const FLOOR: f64 = 130.0;
    const MOST: f64 = 3.0;
    let drawn: Vec<(&Row, f64)> =
        rows.filter(|row| row.goal.is_some()).filter_map(|row| Some((row, row.ratio?))).collect();
    let height = LINE * (drawn.len() + 2);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"880\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"880\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"18\">the engine as a multiple of the floor (grey line); the goal is the dark mark</text>\n"
    );
    let mut line = |text: String| writeln!(svg, "{text}").expect("a string takes all");
    for (at, (row, ratio)) in drawn.iter().enumerate() {
        let y = LINE * (at + 1) + 4;
        let goal = row.goal.as_deref().unwrap_or("").trim_start_matches(['<', '>', '=']);
        let goal: f64 = goal.parse().unwrap_or(0.0);
        let color = if row.met() == Some(true) { "#2a9d60" } else { "#d9822b" };
        let name = row.name.replace('&', "&amp;").replace('<', "&lt;");
        line(format!("<text x=\"10\" y=\"{}\">{name}</text>", y + 15));
        line(format!(
            "<rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"16\" fill=\"{color}\"/>",
            y + 2,
            ratio.min(MOST) * FLOOR
        ));
        line(format!(
            "<rect x=\"{:.1}\" y=\"{y}\" width=\"3\" height=\"20\" fill=\"#222\"/>",
            LEFT + goal.min(MOST) * FLOOR
        ));
        line(format!("<text x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>", LEFT + MOST * FLOOR + 20.0, y + 15));
    }
    line(format!(
        "<line x1=\"{0}\" x2=\"{0}\" y1=\"{LINE}\" y2=\"{height}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>\n</svg>",
        LEFT + FLOOR
    ));
    svg
}
