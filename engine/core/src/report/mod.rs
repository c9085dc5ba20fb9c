//! The study's table and the reporters of a run: pure renderings, which never print. The CLI owns the terminal.
//!
//! Terminal and Markdown show the headline metrics, one row per cell, with the signed difference from the cell's
//! baseline and the spread beside each value; where a stage compared two models on the same items, its paired difference
//! with its interval stands there instead. A terminal shows only the first rows of a long table ([`Overview`]). CSV and
//! JSON hold every metric.

mod data;
mod format;
mod grid;
mod human;
mod paired;
mod progress;
mod table;
mod text;

pub use data::{TableDoc, csv};
pub use format::{counted, duration, quantity};
pub use human::{HumanReporter, Style};
pub use paired::Comparison;
pub use progress::Progress;
pub use table::{Column, Entry, Row, StageEnd, StudyTable, TABLE_SCHEMA};
pub use text::{Overview, markdown, terminal};
