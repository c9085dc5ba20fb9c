//! The schema: a tree of fields from the footer's flat list, with definition and repetition levels.

use super::ParquetError;
use super::thrift::Item;

const MAX_ELEMENTS: usize = 10_000;
const MAX_DEPTH: usize = 16;

/// The root's fields, and the leaves below them in the order of the columns.
pub(super) struct Schema {
    pub(super) fields: Vec<Field>,
    pub(super) leaves: Vec<Leaf>,
}

/// A field at some depth.
pub(super) struct Field {
    pub(super) name: String,
    pub(super) repetition: Repetition,
    /// The definition level at which the field itself is there.
    pub(super) definition: u16,
    /// The repetition level at which it repeats.
    pub(super) repeats: u16,
    pub(super) content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    Required,
    Optional,
    Repeated,
}

pub(super) enum Content {
    /// A column, by its number.
    Leaf(usize),
    /// A struct.
    Group(Vec<Field>),
    /// A group that only says that the field in it is a list, or a list's element.
    Wrapper(Box<Field>),
}

impl Field {
    /// The first column at or below the field: its levels tell whether the field is there.
    pub(super) fn first_leaf(&self) -> usize {
        match &self.content {
            Content::Leaf(leaf) => *leaf,
            Content::Group(fields) => fields.first().map_or(0, Field::first_leaf),
            Content::Wrapper(field) => field.first_leaf(),
        }
    }

    /// All columns at or below the field: they follow one another.
    pub(super) fn leaves(&self) -> std::ops::RangeInclusive<usize> {
        self.first_leaf()..=self.last_leaf()
    }

    fn last_leaf(&self) -> usize {
        match &self.content {
            Content::Leaf(leaf) => *leaf,
            Content::Group(fields) => fields.last().map_or(0, Field::last_leaf),
            Content::Wrapper(field) => field.last_leaf(),
        }
    }
}

/// A column.
pub(super) struct Leaf {
    /// Names from the root, with dots.
    pub(super) path: String,
    pub(super) physical: Physical,
    pub(super) unsigned: bool,
    pub(super) definition: u16,
    pub(super) repetition: u16,
}

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Physical {
    Boolean,
    Int32,
    Int64,
    Float,
    Double,
    ByteArray,
}

impl Schema {
    pub(super) fn parse(elements: &[Item<'_>]) -> Result<Self, ParquetError> {
        if elements.len() > MAX_ELEMENTS {
            let (what, found) = ("the schema".into(), elements.len() as u64);
            return Err(ParquetError::TooLarge { what, found, limit: MAX_ELEMENTS as u64 });
        }
        let mut builder = Builder { elements, at: 0, leaves: Vec::new(), path: Vec::new() };
        let root = builder.next()?;
        let fields = builder.children(root, Levels::default())?;
        if builder.at != elements.len() {
            return Err(ParquetError::invalid("the schema", "it has elements outside its tree"));
        }
        Ok(Self { fields, leaves: builder.leaves })
    }
}

#[derive(Clone, Copy, Default)]
struct Levels {
    definition: u16,
    repetition: u16,
}

struct Builder<'a, 'b> {
    elements: &'a [Item<'b>],
    at: usize,
    leaves: Vec<Leaf>,
    path: Vec<String>,
}

/// What an element's converted or logical type says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Plain,
    List,
    Unsigned,
    Map,
    Decimal,
}

impl<'a, 'b> Builder<'a, 'b> {
    fn next(&mut self) -> Result<&'a Item<'b>, ParquetError> {
        let element = self.elements.get(self.at);
        self.at += 1;
        element.ok_or_else(|| ParquetError::Truncated { what: "the schema".into() })
    }

    fn children(&mut self, group: &Item<'_>, levels: Levels) -> Result<Vec<Field>, ParquetError> {
        let count = group.size(5).unwrap_or(0);
        if count == 0 {
            return Err(ParquetError::invalid(
                "the schema",
                format!("`{}` has no columns", self.path.join(".")),
            ));
        }
        (0..count).map(|_| self.field(levels)).collect()
    }

    fn field(&mut self, above: Levels) -> Result<Field, ParquetError> {
        let element = self.next()?;
        if self.path.len() >= MAX_DEPTH {
            let (what, found) = ("the schema's nesting".into(), self.path.len() as u64 + 1);
            return Err(ParquetError::TooLarge { what, found, limit: MAX_DEPTH as u64 });
        }
        let name = element.binary(4).ok_or_else(|| ParquetError::missing("a schema element", "name"))?;
        let name = String::from_utf8_lossy(name).into_owned();
        self.path.push(name.clone());
        let repetition = match element.int(3) {
            Some(0) => Repetition::Required,
            Some(1) => Repetition::Optional,
            Some(2) => Repetition::Repeated,
            _ => return Err(ParquetError::missing(&self.column(), "repetition_type")),
        };
        let levels = Levels {
            definition: above.definition + u16::from(repetition != Repetition::Required),
            repetition: above.repetition + u16::from(repetition == Repetition::Repeated),
        };
        let content = if element.has(5) && element.int(5) != Some(0) {
            self.group(element, levels)?
        } else {
            self.leaf(element, levels)?
        };
        self.path.pop();
        Ok(Field { name, repetition, definition: levels.definition, repeats: levels.repetition, content })
    }

    fn group(&mut self, element: &Item<'_>, levels: Levels) -> Result<Content, ParquetError> {
        match meaning(element) {
            Meaning::List => {
                let children = self.children(element, levels)?;
                let Ok([list]) = <[Field; 1]>::try_from(children) else {
                    return Err(ParquetError::invalid(self.column(), "a list has one field"));
                };
                Ok(Content::Wrapper(Box::new(self.element(list)?)))
            }
            Meaning::Map => Err(self.unsupported("a map")),
            _ => Ok(Content::Group(self.children(element, levels)?)),
        }
    }

    /// The repeated field of a list. In files of today it is a group around the element; in old ones, told by their
    /// form and names (the format's rules for backward compatibility), it is the element.
    fn element(&self, mut list: Field) -> Result<Field, ParquetError> {
        if list.repetition != Repetition::Repeated {
            return Err(ParquetError::invalid(self.column(), "a list's field is not repeated"));
        }
        let outer = self.path.last().map_or("", String::as_str);
        let is_element = list.name == "array" || list.name == format!("{outer}_tuple");
        if let Content::Group(fields) = &mut list.content
            && fields.len() == 1
            && !is_element
            && let Some(element) = fields.pop()
        {
            list.content = Content::Wrapper(Box::new(element));
        }
        Ok(list)
    }

    fn leaf(&mut self, element: &Item<'_>, levels: Levels) -> Result<Content, ParquetError> {
        let meaning = meaning(element);
        if meaning == Meaning::Decimal {
            return Err(self.unsupported("a decimal"));
        }
        let physical = match element.int(1) {
            Some(0) => Physical::Boolean,
            Some(1) => Physical::Int32,
            Some(2) => Physical::Int64,
            Some(4) => Physical::Float,
            Some(5) => Physical::Double,
            Some(6) => Physical::ByteArray,
            Some(3) => return Err(self.unsupported("int96")),
            Some(7) => return Err(self.unsupported("a fixed-length byte array")),
            _ => return Err(ParquetError::missing(&self.column(), "type")),
        };
        self.leaves.push(Leaf {
            path: self.path.join("."),
            physical,
            unsigned: meaning == Meaning::Unsigned,
            definition: levels.definition,
            repetition: levels.repetition,
        });
        Ok(Content::Leaf(self.leaves.len() - 1))
    }

    fn column(&self) -> String {
        format!("column `{}`", self.path.join("."))
    }

    fn unsupported(&self, value: &str) -> ParquetError {
        ParquetError::Unsupported {
            column: self.path.join("."),
            what: "type",
            value: value.to_owned(),
            supported: "booleans, integers, floats, text, lists, structs",
        }
    }
}

/// By the logical type where there is one, else by the converted type of older writers.
fn meaning(element: &Item<'_>) -> Meaning {
    if let Some(logical) = element.structure(10) {
        let unsigned = || logical.structure(10).is_some_and(|int| int.bool(2) == Some(false));
        return match () {
            () if logical.has(2) => Meaning::Map,
            () if logical.has(3) => Meaning::List,
            () if logical.has(5) => Meaning::Decimal,
            () if unsigned() => Meaning::Unsigned,
            () => Meaning::Plain,
        };
    }
    match element.int(6) {
        Some(1 | 2) => Meaning::Map,
        Some(3) => Meaning::List,
        Some(5) => Meaning::Decimal,
        Some(11..=14) => Meaning::Unsigned,
        _ => Meaning::Plain,
    }
}
