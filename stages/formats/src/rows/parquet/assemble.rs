//! Rows from columns: the levels say where a value is absent and where a list goes on.

use std::rc::Rc;

use serde_json::Value;

use super::ParquetError;
use super::column::Column;
use super::schema::{Content, Field, Repetition, Schema};
use crate::rows::Row;

/// The rows of one row group, one at a time.
pub(super) struct Assembler {
    schema: Rc<Schema>,
    cursors: Vec<Cursor>,
    left: usize,
}

struct Cursor {
    column: Column,
    /// The current entry.
    entry: usize,
    /// The current value.
    value: usize,
}

impl Assembler {
    pub(super) fn new(schema: Rc<Schema>, columns: Vec<Column>, rows: usize) -> Self {
        let cursor = |column| Cursor { column, entry: 0, value: 0 };
        Self { schema, cursors: columns.into_iter().map(cursor).collect(), left: rows }
    }

    fn row(&mut self) -> Result<Row, ParquetError> {
        let schema = Rc::clone(&self.schema);
        let mut row = Row::new();
        for field in &schema.fields {
            row.insert(field.name.clone(), self.field(field)?);
        }
        Ok(row)
    }

    fn field(&mut self, field: &Field) -> Result<Value, ParquetError> {
        match field.repetition {
            Repetition::Required => self.content(field),
            Repetition::Optional if self.is_there(field)? => self.content(field),
            Repetition::Optional => self.absent(field).map(|()| Value::Null),
            Repetition::Repeated if self.is_there(field)? => {
                let mut items = vec![self.content(field)?];
                while self.goes_on(field) {
                    items.push(self.content(field)?);
                }
                Ok(Value::Array(items))
            }
            Repetition::Repeated => self.absent(field).map(|()| Value::Array(Vec::new())),
        }
    }

    fn content(&mut self, field: &Field) -> Result<Value, ParquetError> {
        match &field.content {
            Content::Leaf(leaf) => self.value(*leaf),
            Content::Wrapper(inner) => self.field(inner),
            Content::Group(fields) => {
                let mut group = Row::new();
                for field in fields {
                    group.insert(field.name.clone(), self.field(field)?);
                }
                Ok(Value::Object(group))
            }
        }
    }

    fn is_there(&self, field: &Field) -> Result<bool, ParquetError> {
        let leaf = field.first_leaf();
        let cursor = &self.cursors[leaf];
        let definition = cursor.column.definitions.get(cursor.entry).ok_or_else(|| self.short(leaf))?;
        Ok(*definition >= field.definition)
    }

    fn goes_on(&self, field: &Field) -> bool {
        let cursor = &self.cursors[field.first_leaf()];
        cursor.column.repetitions.get(cursor.entry) == Some(&field.repeats)
    }

    /// Steps over the one entry that says that the field is not there.
    fn absent(&mut self, field: &Field) -> Result<(), ParquetError> {
        for leaf in field.leaves() {
            let cursor = &self.cursors[leaf];
            let definition = cursor.column.definitions.get(cursor.entry).ok_or_else(|| self.short(leaf))?;
            if *definition >= field.definition {
                return Err(self.disagree(leaf));
            }
            self.cursors[leaf].entry += 1;
        }
        Ok(())
    }

    fn value(&mut self, leaf: usize) -> Result<Value, ParquetError> {
        let most = self.schema.leaves[leaf].definition;
        let cursor = &mut self.cursors[leaf];
        let (entry, value) = (cursor.entry, cursor.value);
        if cursor.column.definitions.get(entry).is_some_and(|definition| *definition != most) {
            return Err(self.disagree(leaf));
        }
        cursor.entry += 1;
        cursor.value += 1;
        let value = cursor.column.values.get_mut(value).map(Value::take);
        value.ok_or_else(|| self.short(leaf))
    }

    fn finish(&self) -> Result<(), ParquetError> {
        match self.cursors.iter().position(|cursor| cursor.entry != cursor.column.definitions.len()) {
            Some(leaf) => Err(ParquetError::invalid(self.column(leaf), "it goes on after the last row")),
            None => Ok(()),
        }
    }

    fn column(&self, leaf: usize) -> String {
        format!("column `{}`", self.schema.leaves[leaf].path)
    }

    fn short(&self, leaf: usize) -> ParquetError {
        ParquetError::Truncated { what: self.column(leaf) }
    }

    fn disagree(&self, leaf: usize) -> ParquetError {
        ParquetError::invalid(self.column(leaf), "its levels contradict those of its neighbours")
    }
}

impl Iterator for Assembler {
    type Item = Result<Row, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let row = match (self.row(), self.left) {
            (Ok(row), 0) => self.finish().map(|()| row),
            (row, _) => row,
        };
        if row.is_err() {
            self.left = 0;
        }
        Some(row)
    }
}
