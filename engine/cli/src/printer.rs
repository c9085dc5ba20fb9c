//! The one writer to the terminal: data to stdout, words for a person to stderr. A closed pipe is no error.

use std::io::{self, IsTerminal, Write};

use qpipe_engine::report::Style;

use crate::error::CliError;

/// Width of tables where nobody says how wide the terminal is.
const DEFAULT_WIDTH: usize = 110;

/// Both outputs, and what is known of them.
pub struct Printer {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// Columns that a table may take.
    pub width: usize,
    /// How a run's progress may be shown.
    pub style: Style,
}

impl Printer {
    /// The process's own outputs. There are no colours where they are not wanted (`NO_COLOR`, a pipe).
    pub fn of_process() -> Self {
        let columns = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let live = io::stderr().is_terminal() && !dumb;
        let width = columns.unwrap_or(DEFAULT_WIDTH).clamp(40, 200);
        let color = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
        let style = if live { Style::Live { width: columns.unwrap_or(80), color } } else { Style::Plain };
        Self { out: Box::new(anstream::stdout()), err: Box::new(anstream::stderr()), width, style }
    }

    /// Writes elsewhere: for tests.
    pub fn new(out: Box<dyn Write>, err: Box<dyn Write>, width: usize) -> Self {
        Self { out, err, width, style: Style::Plain }
    }

    /// A line of data.
    pub fn data(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }

    /// Data that brings its own line ends.
    pub fn data_block(&mut self, text: &str) {
        let _ = write!(self.out, "{text}");
        let _ = self.out.flush();
    }

    /// A line for a person.
    pub fn human(&mut self, line: &str) {
        let _ = writeln!(self.err, "{line}");
    }

    /// Words that bring their own line ends.
    pub fn human_block(&mut self, text: &str) {
        let _ = write!(self.err, "{text}");
    }

    /// An error, with its place in the manifest where it has one.
    pub fn error(&mut self, error: CliError) {
        let _ = writeln!(self.err, "{:?}", miette::Report::new(error));
    }

    /// Where progress goes. A terminal gets cursor movements, which must not pass through the colour filter.
    pub fn progress(&mut self) -> Box<dyn Write + '_> {
        match self.style {
            Style::Live { .. } => Box::new(io::stderr()),
            Style::Plain => Box::new(&mut self.err),
        }
    }

    /// Where events go as data.
    pub fn data_writer(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    /// Rows of texts in aligned columns.
    pub fn columns(&mut self, rows: &[Vec<String>]) {
        let count = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; count];
        for (column, text) in rows.iter().flat_map(|row| row.iter().enumerate()) {
            widths[column] = text.chars().count().max(widths[column]);
        }
        for row in rows {
            let padded = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
            let line = padded.collect::<Vec<_>>().join("  ");
            self.data(line.trim_end());
        }
    }
}
