//! `include "other.kdl"`: another text's nodes, in the place of the include.
//!
//! An included text is a manifest of its own version (`qpipe 1`), whose name, if it has one, names nothing: so a
//! study that runs by itself can be included too. Paths are relative to the text they stand in. A text may be
//! included once, whatever the way to it: its stages and variables would stand twice.

use std::io;
use std::path::{Component, Path, PathBuf};

use kdl::{KdlDocument, KdlEntry, KdlIdentifier, KdlNode};
use miette::{LabeledSpan, SourceSpan};

use super::document::{Naming, header, plain_word, refuse_annotation, refuse_properties, refuse_rest};
use super::error::{Errors, ManifestError};
use super::scope::refuse_block;
use super::syntax::{self, arguments, entry_span, name_span};
use crate::graph::Span;
use crate::sources::Sources;

/// Most texts that one study may include.
const MAX_INCLUDES: usize = 64;

/// Reads an included text by its path.
pub(crate) type Files<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// The nodes of a manifest with those of its includes; `None` if one of them cannot be had, since half a study
/// would only be blamed for its missing half.
pub(crate) fn splice(
    tree: &KdlDocument,
    files: Files<'_>,
    sources: &mut Sources,
    errors: &mut Errors,
) -> Option<Vec<KdlNode>> {
    let root = sources.root().path.clone();
    let name = root.file_name().map_or_else(PathBuf::new, PathBuf::from);
    let open = vec![Open { identity: normalized(sources.root().folder(), &name), included: None }];
    let mut splicer =
        Splicer { files, sources, errors, open, known: Vec::new(), nodes: Vec::new(), whole: true };
    splicer.nodes_of(tree.nodes(), &root);
    splicer.whole.then_some(splicer.nodes)
}

/// A text on the way from the manifest to the one that is being read.
struct Open {
    identity: PathBuf,
    /// Where it is included; `None` for the manifest itself.
    included: Option<Span>,
}

struct Splicer<'a> {
    files: Files<'a>,
    sources: &'a mut Sources,
    errors: &'a mut Errors,
    open: Vec<Open>,
    /// Every text that was included, with the place.
    known: Vec<(PathBuf, Span)>,
    nodes: Vec<KdlNode>,
    whole: bool,
}

impl Splicer<'_> {
    fn nodes_of(&mut self, nodes: &[KdlNode], path: &Path) {
        for node in nodes {
            if node.name().value() != "include" {
                self.nodes.push(node.clone());
            } else if self.include(node, path).is_none() {
                self.whole = false;
            }
        }
    }

    /// Adds the nodes of the text that `node`, which stands in the text at `path`, includes.
    fn include(&mut self, node: &KdlNode, path: &Path) -> Option<()> {
        let (word, span) = self.target(node)?;
        let target = tidy(&path.parent().unwrap_or(Path::new("")).join(word));
        let identity = normalized(self.sources.file(span.offset).folder(), Path::new(word));
        self.refuse_repeats(&identity, word, span)?;
        let text = match (self.files)(&target) {
            Ok(text) => text,
            Err(error) => return self.unreadable(word, error.to_string(), span),
        };
        self.known.push((identity.clone(), span));
        let base = self.sources.add(target.clone(), text.clone());
        let mut tree = self.parsed(&text, base, word, span)?;
        tree.nodes_mut().iter_mut().for_each(|node| shift_node(node, base));
        header(&tree, base, Naming::Optional, self.errors)?;
        self.open.push(Open { identity, included: Some(span) });
        let first = tree.nodes().iter().position(|node| node.name().value() == "qpipe");
        let rest = tree.nodes().iter().enumerate().filter(|(index, _)| Some(*index) != first);
        let rest: Vec<KdlNode> = rest.map(|(_, node)| node.clone()).collect();
        self.nodes_of(&rest, &target);
        self.open.pop();
        Some(())
    }

    /// What is included, and where that is written.
    fn target<'t>(&mut self, node: &'t KdlNode) -> Option<(&'t str, Span)> {
        let before = self.errors.len();
        refuse_annotation(node, self.errors);
        refuse_block(node, self.errors);
        refuse_properties(node, "write `include \"FILE\"`", self.errors);
        let mut entries = arguments(node);
        let first = entries.next();
        refuse_rest(node, entries, "one argument, a path", self.errors);
        let Some(entry) = first else {
            self.errors.push(ManifestError::MissingArgument {
                node: "include".into(),
                needs: "a path".into(),
                span: name_span(node).into(),
                help: Some("write `include \"FILE\"`".into()),
            });
            return None;
        };
        let word = plain_word(node, entry, "a path", self.errors)?;
        (self.errors.len() == before).then_some((word, entry_span(entry)))
    }

    fn refuse_repeats(&mut self, identity: &Path, word: &str, span: Span) -> Option<()> {
        if let Some(from) = self.open.iter().position(|open| open.identity == identity) {
            let error = self.cycle(from, span);
            self.errors.push(error);
            return None;
        }
        if let Some((_, first)) = self.known.iter().find(|(known, _)| known == identity) {
            self.errors.push(ManifestError::Duplicate {
                what: "include",
                name: word.to_owned(),
                span: span.into(),
                first: (*first).into(),
                help: Some("a text is included once, by whichever way".into()),
            });
            return None;
        }
        if self.known.len() == MAX_INCLUDES {
            self.errors.push(ManifestError::TooManyIncludes { limit: MAX_INCLUDES, span: span.into() });
            return None;
        }
        Some(())
    }

    /// The circle from the open text `from` on, closed by the include at `last`.
    fn cycle(&self, from: usize, last: Span) -> ManifestError {
        let name = |open: &Open| open.identity.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let circle = &self.open[from..];
        let mut names: Vec<String> = circle.iter().map(name).collect();
        names.extend(circle.first().map(name));
        let steps = circle.iter().skip(1).filter_map(|open| open.included).chain([last]);
        let label = |(span, to): (Span, &String)| {
            LabeledSpan::new(Some(format!("includes `{to}`")), span.offset, span.len)
        };
        let links = steps.zip(names.iter().skip(1)).map(label).collect();
        ManifestError::IncludeCycle { path: names.join(" → "), links }
    }

    fn unreadable<T>(&mut self, path: &str, reason: String, span: Span) -> Option<T> {
        self.errors.push(ManifestError::UnreadableInclude {
            path: path.to_owned(),
            reason,
            span: span.into(),
        });
        None
    }

    /// The tree of an included text, its spans still those of the text alone.
    fn parsed(&mut self, text: &str, base: usize, path: &str, span: Span) -> Option<KdlDocument> {
        let mut found = Errors::default();
        let tree = syntax::parse(text, &mut found);
        for error in found.into_list() {
            if matches!(error, ManifestError::TooLarge { .. } | ManifestError::ParserFailed { .. }) {
                return self.unreadable(path, error.to_string(), span);
            }
            self.errors.push(error.moved(base));
        }
        tree
    }
}

/// The path without `.` and `..`, so that two ways to one text are one. Links are not followed.
fn normalized(folder: &Path, path: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder.join(path)).unwrap_or_else(|_| folder.join(path));
    tidy(&absolute)
}

/// The path with every `NAME/..` taken out.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        let climbs = part == Component::ParentDir
            && matches!(tidy.components().next_back(), Some(Component::Normal(_)));
        if climbs {
            tidy.pop();
        } else if part != Component::CurDir {
            tidy.push(part);
        }
    }
    tidy
}

fn shift_node(node: &mut KdlNode, base: usize) {
    node.set_span(shifted(node.span(), base));
    shift_identifier(node.name_mut(), base);
    if let Some(ty) = node.ty_mut() {
        shift_identifier(ty, base);
    }
    node.entries_mut().iter_mut().for_each(|entry| shift_entry(entry, base));
    if let Some(children) = node.children_mut() {
        children.nodes_mut().iter_mut().for_each(|child| shift_node(child, base));
    }
}

fn shift_entry(entry: &mut KdlEntry, base: usize) {
    entry.set_span(shifted(entry.span(), base));
    if let Some(name) = entry.name_mut() {
        shift_identifier(name, base);
    }
    if let Some(ty) = entry.ty_mut() {
        shift_identifier(ty, base);
    }
}

fn shift_identifier(identifier: &mut KdlIdentifier, base: usize) {
    identifier.set_span(shifted(identifier.span(), base));
}

fn shifted(span: SourceSpan, base: usize) -> SourceSpan {
    SourceSpan::new((span.offset() + base).into(), span.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ways_to_one_text_are_one() {
        let of = |path: &str| normalized(Path::new("/studies/a"), Path::new(path));
        assert_eq!(of("../b/./c.kdl"), Path::new("/studies/b/c.kdl"));
        assert_eq!(of("x/../c.kdl"), of("c.kdl"));
        assert_eq!(of("/c.kdl"), Path::new("/c.kdl"));
        assert_eq!(tidy(Path::new("../x/../c.kdl")), Path::new("../c.kdl"));
    }
}
