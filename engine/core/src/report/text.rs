//! The summary table for eyes: terminal and Markdown.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

use super::format::counted;
use super::grid::{Grid, Text};
use super::table::StudyTable;

/// Where a difference stands.
#[derive(Clone, Copy)]
enum Layout {
    /// `0.6123 (-0.0012)`
    Beside,
    /// On a line of its own.
    Below,
}

/// More cells than this nobody reads in a terminal.
const MOST_ROWS: usize = 40;

/// What a terminal shows of a table: its first rows, and what is said of the whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    grid: Grid,
    /// How many cells the table has besides those of the first rows.
    more: usize,
    /// Why there is nothing to show.
    nothing: Option<String>,
}

impl Overview {
    /// As many rows as a person reads.
    pub fn new(table: &StudyTable) -> Self {
        Self::first(table, MOST_ROWS)
    }

    fn first(table: &StudyTable, most: usize) -> Self {
        let nothing = table.columns.is_empty().then(|| {
            let no_results = table.rows.iter().all(|row| row.entries.is_empty());
            let why = if no_results { "no results yet" } else { "no headline metrics" };
            format!("`{}` has {why} to show\n", table.study)
        });
        Self { grid: Grid::new(table, most), more: table.rows.len().saturating_sub(most), nothing }
    }

    /// The table in at most `width` columns: differences move below their values if they must, and then the table is
    /// cut into several, each with the cells' names.
    pub fn text(&self, width: usize) -> String {
        if let Some(nothing) = &self.nothing {
            return nothing.clone();
        }
        let all: Vec<usize> = (0..self.grid.columns.len()).collect();
        let mut out = match drawn_within(&self.grid, &all, width) {
            Some(text) => text,
            None => in_parts(&self.grid, width),
        };
        if self.more > 0 {
            let cells = counted(self.more, "more cell");
            let _ = writeln!(out, "… and {cells}: the tables of the run's record have all");
        }
        for note in &self.grid.notes {
            let _ = writeln!(out, "{note}");
        }
        out
    }
}

/// Every row of the table, in at most `width` columns.
pub fn terminal(table: &StudyTable, width: usize) -> String {
    Overview::first(table, usize::MAX).text(width)
}

fn drawn_within(grid: &Grid, columns: &[usize], width: usize) -> Option<String> {
    let mut drawn = [Layout::Beside, Layout::Below].map(|layout| draw(grid, columns, layout)).into_iter();
    drawn.find(|text| text.lines().all(|line| line.chars().count() <= width))
}

/// As many columns per part as fit; one column always passes, however wide.
fn in_parts(grid: &Grid, width: usize) -> String {
    let (mut out, mut part) = (String::new(), Vec::new());
    for column in 0..grid.columns.len() {
        let wider: Vec<usize> = part.iter().copied().chain([column]).collect();
        if !part.is_empty() && drawn_within(grid, &wider, width).is_none() {
            out.push_str(&part_text(grid, &part, width));
            part.clear();
        }
        part.push(column);
    }
    out.push_str(&part_text(grid, &part, width));
    out
}

fn part_text(grid: &Grid, part: &[usize], width: usize) -> String {
    drawn_within(grid, part, width).unwrap_or_else(|| draw(grid, part, Layout::Below))
}

fn draw(grid: &Grid, columns: &[usize], layout: Layout) -> String {
    let mut drawn = Table::new();
    drawn.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    let head = |column: &usize| {
        let head = &grid.columns[*column];
        format!("{}\n{}", head.stage, head.metric)
    };
    drawn.set_header(std::iter::once("cell".to_owned()).chain(columns.iter().map(head)));
    for (name, texts) in &grid.rows {
        let place =
            |column: &usize| Cell::new(placed(&texts[*column], layout)).set_alignment(CellAlignment::Right);
        drawn.add_row(std::iter::once(Cell::new(name)).chain(columns.iter().map(place)));
    }
    format!("{drawn}\n")
}

fn placed(text: &Text, layout: Layout) -> String {
    match (&text.difference, layout) {
        (None, _) => text.value.clone(),
        (Some(difference), Layout::Beside) => format!("{} ({difference})", text.value),
        (Some(difference), Layout::Below) => format!("{}\n{difference}", text.value),
    }
}

/// The table as GitHub-flavoured Markdown, with its heading and notes.
pub fn markdown(table: &StudyTable) -> String {
    let grid = Grid::new(table, usize::MAX);
    let mut out = format!("# {}\n\n", escaped(&table.study));
    let heads: Vec<String> = grid.columns.iter().map(|h| format!("{}.{}", h.stage, h.metric)).collect();
    line(&mut out, "cell", &heads);
    let _ = writeln!(out, "|:--|{}", "--:|".repeat(heads.len()));
    for (name, texts) in &grid.rows {
        let places: Vec<String> = texts.iter().map(|text| placed(text, Layout::Beside)).collect();
        line(&mut out, name, &places);
    }
    for note in &grid.notes {
        let _ = write!(out, "\n{}\n", escaped(note));
    }
    out
}

fn line(out: &mut String, first: &str, others: &[String]) {
    let _ = write!(out, "| {} |", escaped(first));
    for text in others {
        let _ = write!(out, " {} |", escaped(text));
    }
    out.push('\n');
}

/// A cell's text may hold what Markdown would take for the table's own.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
