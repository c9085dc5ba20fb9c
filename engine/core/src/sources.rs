//! The texts a study was read from, as one address space.
//!
//! A [`Span`](crate::graph::Span) is a place in any of them: every text begins at an offset of its own, after the end
//! of the one before. So spans stay two numbers wherever they go, and one diagnostic may point into several files.

use std::path::{Path, PathBuf};

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use qpipe_cache::Digest;

/// A text with the place it came from.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// As it is named in messages: the manifest's path as given, an include's relative to the same folder.
    pub path: PathBuf,
    pub text: String,
    /// The offset of the text's first byte.
    base: usize,
    /// Absolute: where the relative paths in this text start from.
    folder: PathBuf,
}

impl SourceFile {
    fn new(path: PathBuf, text: String, base: usize) -> Self {
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let folder = absolute.parent().map_or_else(PathBuf::new, Path::to_owned);
        Self { path, text, base, folder }
    }

    /// Absolute: where the relative paths in this text start from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The offset after the text's last byte, which still belongs to it: the end of a text is a place.
    fn end(&self) -> usize {
        self.base + self.text.len()
    }
}

/// The manifest, and what it includes in the order of inclusion.
#[derive(Clone, Debug)]
pub struct Sources {
    files: Vec<SourceFile>,
}

impl Sources {
    /// A manifest without includes.
    pub fn new(path: &Path, text: &str) -> Self {
        Self { files: vec![SourceFile::new(path.to_owned(), text.to_owned(), 0)] }
    }

    /// Adds an included text; gives the offset that its spans start from.
    pub(crate) fn add(&mut self, path: PathBuf, text: String) -> usize {
        let base = self.files.last().map_or(0, |last| last.end() + 1);
        self.files.push(SourceFile::new(path, text, base));
        base
    }

    /// The manifest itself.
    pub fn root(&self) -> &SourceFile {
        &self.files[0]
    }

    /// What the manifest includes, in order.
    pub fn includes(&self) -> &[SourceFile] {
        &self.files[1..]
    }

    /// The text that an offset is in.
    pub fn file(&self, offset: usize) -> &SourceFile {
        let after = self.files.partition_point(|file| file.base <= offset);
        &self.files[after.saturating_sub(1)]
    }

    /// The words at a place; empty outside of every text.
    pub fn text_at(&self, offset: usize, len: usize) -> &str {
        let file = self.file(offset);
        file.text.get(offset - file.base..offset - file.base + len).unwrap_or_default()
    }

    /// `ablation.kdl:15:5`; lines and columns count from 1, columns in characters.
    pub fn place(&self, offset: usize) -> String {
        let file = self.file(offset);
        let name = file.path.file_name().map_or_else(|| "manifest".into(), |name| name.to_string_lossy());
        let (line, column) = line_and_column(&file.text, offset - file.base);
        format!("{name}:{line}:{column}")
    }

    /// BLAKE3-256 of every text with its length, the manifest first. It says whether a study was written the same;
    /// whether it means the same is what action keys are for.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for file in &self.files {
            bytes.extend((file.text.len() as u64).to_le_bytes());
            bytes.extend(file.text.as_bytes());
        }
        Digest::of_bytes(&bytes)
    }
}

/// Lets one diagnostic show several files: a span across two texts is out of bounds, so each label is shown in its
/// own.
impl SourceCode for Sources {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let file = self.file(span.offset());
        let local = SourceSpan::new((span.offset() - file.base).into(), span.len());
        if local.offset() + local.len() > file.text.len() {
            return Err(MietteError::OutOfBounds);
        }
        let found = file.text.as_str().read_span(&local, before, after)?;
        let moved = SourceSpan::new((found.span().offset() + file.base).into(), found.span().len());
        Ok(Box::new(MietteSpanContents::new_named(
            file.path.display().to_string(),
            found.data(),
            moved,
            found.line(),
            found.column(),
            found.line_count(),
        )))
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "ab\nçd\n";
        assert_eq!(line_and_column(text, 0), (1, 1));
        assert_eq!(line_and_column(text, 3), (2, 1));
        assert_eq!(line_and_column(text, 5), (2, 2));
        assert_eq!(line_and_column(text, 4), (2, 1), "inside a character: its start");
        assert_eq!(line_and_column(text, 99), (3, 1));
    }

    #[test]
    fn every_offset_belongs_to_one_text() {
        let mut sources = Sources::new(Path::new("/s/a.kdl"), "one\n");
        assert_eq!(sources.add("/s/b.kdl".into(), String::new()), 5);
        assert_eq!(sources.add("/s/sub/c.kdl".into(), "two\nthree".into()), 6);
        let places: Vec<String> = [0, 4, 5, 6, 10].iter().map(|at| sources.place(*at)).collect();
        assert_eq!(places, ["a.kdl:1:1", "a.kdl:2:1", "b.kdl:1:1", "c.kdl:1:1", "c.kdl:2:1"]);
        assert_eq!(sources.text_at(10, 5), "three");
        assert_eq!(sources.file(10).folder(), Path::new("/s/sub"));
        let across = SourceSpan::new(0.into(), 8);
        assert!(sources.read_span(&across, 1, 1).is_err());
    }

    #[test]
    fn the_digest_covers_every_text_and_where_one_ends() {
        let of = |root: &str, include: &str| {
            let mut sources = Sources::new(Path::new("a.kdl"), root);
            sources.add("b.kdl".into(), include.into());
            sources.digest()
        };
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert_ne!(of("ab", "c"), of("ab", "d"));
        assert_eq!(of("ab", "c"), of("ab", "c"));
    }
}
