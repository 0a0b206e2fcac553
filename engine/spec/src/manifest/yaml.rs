//! Text to a tree of values that know their line and column.
//!
//! Built on the events of `saphyr-parser`, not on a ready-made loader, because the manifest comes from outside and every
//! step must be bounded: length, depth, number of values, and what aliases expand to (the "billion laughs"). It also
//! lets both places of a doubled key be named.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use serde_json::{Map, Value};

use super::path::{FieldPath, Step};
use super::{LIMITS, scalar};

/// Most values in one manifest, aliases expanded.
const VALUES_MAX: usize = LIMITS.manifest_values_max as usize;

/// Deepest nesting.
const DEPTH_MAX: usize = LIMITS.manifest_depth_max as usize;

/// A place in the text; both numbers from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Mark {
    /// The beginning of the text.
    pub(super) const START: Mark = Mark { line: 1, column: 1 };
}

impl From<&Marker> for Mark {
    fn from(marker: &Marker) -> Mark {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Mark {
            line: narrow(marker.line()).max(1),
            column: narrow(marker.col()).saturating_add(1),
        }
    }
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Mark,
    pub(super) data: Data,
}

/// The three shapes of a value.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// Null, boolean, number or string.
    Scalar(Value),
    /// Items in order.
    List(Vec<Node>),
    /// Fields in order; keys are unique.
    Mapping(Vec<Field>),
}

/// A field of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) key: String,
    pub(super) key_at: Mark,
    pub(super) value: Node,
}

/// Where the deepest existing value on a path is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Where the value begins.
    pub(super) value: Mark,
    /// Where its key begins, if it has one.
    pub(super) key: Option<Mark>,
}

/// Why a text is not a manifest's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    pub(super) at: Mark,
    pub(super) kind: YamlErrorKind,
}

/// See [`YamlError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum YamlErrorKind {
    /// Not well-formed, with the parser's words.
    Syntax(String),
    /// A key that the same mapping already has, and where.
    DuplicateKey { key: String, first: Mark },
    /// A key that is a list, a mapping or an alias.
    ComplexKey,
    /// The merge key `<<`.
    MergeKey,
    /// A second document begins.
    SecondDocument,
    /// No document, or an empty one.
    NoDocument,
    /// A tag such as `!Ref`.
    Tag(String),
    /// Infinity or not-a-number, which JSON does not have.
    NotFinite(String),
    /// An alias to a value that it is part of.
    AliasToItself,
    /// More than [`DEPTH_MAX`] levels.
    TooDeep,
    /// More than [`VALUES_MAX`] values.
    TooManyValues,
    /// An unquoted text that YAML 1.1, and so Kubernetes, reads as something else.
    Ambiguous { text: String, kubernetes: &'static str },
}

impl Node {
    /// The same value without places.
    pub(super) fn to_json(&self) -> Value {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::List(items) => items.iter().map(Node::to_json).collect(),
            Data::Mapping(fields) => Value::Object(
                fields
                    .iter()
                    .map(|field| (field.key.clone(), field.value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The field of a mapping.
    pub(super) fn field(&self, key: &str) -> Option<&Field> {
        match &self.data {
            Data::Mapping(fields) => fields.iter().find(|field| field.key == key),
            Data::Scalar(_) | Data::List(_) => None,
        }
    }

    /// Where the value at a path is, or the deepest one on the way to it: a missing field is in its parent.
    pub(super) fn locate(&self, path: &FieldPath) -> Place {
        let mut place = Place {
            value: self.at,
            key: None,
        };
        let mut node = self;
        for step in &path.0 {
            match (&node.data, step) {
                (Data::List(items), Step::Index(index)) if *index < items.len() => {
                    node = &items[*index];
                    place = Place {
                        value: node.at,
                        key: None,
                    };
                }
                (Data::Mapping(_), step) => {
                    let digits;
                    let key = match step {
                        Step::Key(key) => key,
                        // A JSON pointer does not tell an index from a key of digits.
                        Step::Index(index) => {
                            digits = index.to_string();
                            &digits
                        }
                    };
                    let Some(field) = node.field(key) else { break };
                    node = &field.value;
                    place = Place {
                        value: node.at,
                        key: Some(field.key_at),
                    };
                }
                (Data::List(_) | Data::Scalar(_), _) => break,
            }
        }
        place
    }

    /// Number of values and levels below and including this one.
    fn size(&self) -> Size {
        let inner: Vec<Size> = match &self.data {
            Data::Scalar(_) => Vec::new(),
            Data::List(items) => items.iter().map(Node::size).collect(),
            Data::Mapping(fields) => fields.iter().map(|field| field.value.size()).collect(),
        };
        Size {
            values: 1 + inner.iter().map(|size| size.values).sum::<usize>(),
            depth: 1 + inner.iter().map(|size| size.depth).max().unwrap_or(0),
        }
    }
}

#[derive(Clone, Copy)]
struct Size {
    values: usize,
    depth: usize,
}

/// Reads the one document of a text.
pub(super) fn parse(text: &str) -> Result<Node, YamlError> {
    let mut loader = Loader::default();
    // The pull interface, because the parser's own `load` recurses as deep as its input.
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(syntax)?;
        loader.take(event, Mark::from(&span.start))?;
    }
    loader.root.ok_or(YamlError {
        at: Mark::START,
        kind: YamlErrorKind::NoDocument,
    })
}

fn syntax(error: ScanError) -> YamlError {
    let kind = match error.info() {
        // The parser has a limit of its own on brackets within brackets.
        "recursion limit exceeded" => YamlErrorKind::TooDeep,
        info => YamlErrorKind::Syntax(info.to_owned()),
    };
    YamlError {
        at: Mark::from(error.marker()),
        kind,
    }
}

/// Builds the tree from events; `open` are the lists and mappings that have begun and not ended.
#[derive(Default)]
struct Loader {
    root: Option<Node>,
    open: Vec<Open>,
    /// What anchors stand for, by the parser's number. A value is here only once it has ended.
    anchors: HashMap<usize, (Node, Size)>,
    values: usize,
}

struct Open {
    at: Mark,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Mapping {
        fields: Vec<Field>,
        seen: HashMap<String, Mark>,
        key: Option<(String, Mark)>,
    },
}

impl Loader {
    fn take(&mut self, event: Event<'_>, at: Mark) -> Result<(), YamlError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), at),
            Event::SequenceStart(anchor, tag) => self.begin(Inside::List(Vec::new()), anchor, tag.as_deref(), at),
            Event::MappingStart(anchor, tag) => {
                let inside = Inside::Mapping {
                    fields: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                };
                self.begin(inside, anchor, tag.as_deref(), at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn begin(&mut self, inside: Inside, anchor: usize, tag: Option<&Tag>, at: Mark) -> Result<(), YamlError> {
        self.expects_value(at)?;
        if let Some(tag) = tag {
            return fail(at, YamlErrorKind::Tag(tag.to_string()));
        }
        if self.open.len() >= DEPTH_MAX {
            return fail(at, YamlErrorKind::TooDeep);
        }
        self.count(1, at)?;
        self.open.push(Open { at, anchor, inside });
        Ok(())
    }

    fn end(&mut self) -> Result<(), YamlError> {
        let Open { at, anchor, inside } = self.open.pop().expect("the parser ends only what it began");
        let data = match inside {
            Inside::List(items) => Data::List(items),
            Inside::Mapping {
                fields,
                seen: _,
                key: _,
            } => Data::Mapping(fields),
        };
        self.place(Node { at, data }, anchor);
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Mark,
    ) -> Result<(), YamlError> {
        let plain = style == ScalarStyle::Plain;
        if let Some(Open {
            inside:
                Inside::Mapping {
                    seen,
                    key: key @ None,
                    fields: _,
                },
            ..
        }) = self.open.last_mut()
        {
            if plain && text == "<<" {
                return fail(at, YamlErrorKind::MergeKey);
            }
            if plain && let Some(kubernetes) = scalar::kubernetes_reading(text) {
                return fail(
                    at,
                    YamlErrorKind::Ambiguous {
                        text: text.to_owned(),
                        kubernetes,
                    },
                );
            }
            if let Some(first) = seen.insert(text.to_owned(), at) {
                return fail(
                    at,
                    YamlErrorKind::DuplicateKey {
                        key: text.to_owned(),
                        first,
                    },
                );
            }
            *key = Some((text.to_owned(), at));
            return Ok(());
        }
        let value = match tag {
            None if plain => scalar::value(text).map_err(|kind| YamlError { at, kind })?,
            None => Value::from(text),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Value::from(text),
            Some(tag) => return fail(at, YamlErrorKind::Tag(tag.to_string())),
        };
        if self.open.is_empty() && value.is_null() {
            // An empty document, such as the one after a `---` at the end of a file.
            return Ok(());
        }
        self.expects_value(at)?;
        self.count(1, at)?;
        self.place(
            Node {
                at,
                data: Data::Scalar(value),
            },
            anchor,
        );
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Mark) -> Result<(), YamlError> {
        self.expects_value(at)?;
        let Some((node, size)) = self.anchors.get(&anchor) else {
            return fail(at, YamlErrorKind::AliasToItself);
        };
        if self.open.len() + size.depth > DEPTH_MAX {
            return fail(at, YamlErrorKind::TooDeep);
        }
        let (node, values) = (node.clone(), size.values);
        self.count(values, at)?;
        self.place(node, 0);
        Ok(())
    }

    /// Whether a value that is no key may begin here.
    fn expects_value(&self, at: Mark) -> Result<(), YamlError> {
        match self.open.last() {
            None if self.root.is_some() => fail(at, YamlErrorKind::SecondDocument),
            Some(Open {
                inside: Inside::Mapping { key: None, .. },
                ..
            }) => fail(at, YamlErrorKind::ComplexKey),
            None | Some(_) => Ok(()),
        }
    }

    fn count(&mut self, values: usize, at: Mark) -> Result<(), YamlError> {
        self.values += values;
        if self.values > VALUES_MAX {
            fail(at, YamlErrorKind::TooManyValues)
        } else {
            Ok(())
        }
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, node: Node, anchor: usize) {
        // The parser numbers anchors from 1; 0 is no anchor.
        if anchor > 0 {
            let size = node.size();
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut().map(|open| &mut open.inside) {
            None => self.root = Some(node),
            Some(Inside::List(items)) => items.push(node),
            Some(Inside::Mapping { fields, key, seen: _ }) => {
                let (key, key_at) = key.take().expect("`expects_value` saw a key");
                fields.push(Field {
                    key,
                    key_at,
                    value: node,
                });
            }
        }
    }
}

fn fail<T>(at: Mark, kind: YamlErrorKind) -> Result<T, YamlError> {
    Err(YamlError { at, kind })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(text: &str) -> YamlErrorKind {
        parse(text).unwrap_err().kind
    }

    #[test]
    fn places_are_those_of_the_text() {
        let tree = parse("a: 1\nb:\n  - x\n  - {c: 'd'}\n").unwrap();
        assert_eq!(tree.to_json(), json!({ "a": 1, "b": ["x", { "c": "d" }] }));
        let place = tree.locate(&FieldPath::parse("b[1].c"));
        assert_eq!(
            (place.key, place.value),
            (Some(Mark { line: 4, column: 6 }), Mark { line: 4, column: 9 })
        );
        let missing = tree.locate(&FieldPath::parse("b[1].nothing.at.all"));
        assert_eq!((missing.key, missing.value), (None, Mark { line: 4, column: 5 }));
    }

    #[test]
    fn quotes_and_the_str_tag_make_text() {
        for text in ["'12'", "\"12\"", "!!str 12", "|-\n  12"] {
            assert_eq!(
                parse(&format!("v: {text}")).unwrap().to_json(),
                json!({ "v": "12" }),
                "{text}"
            );
        }
        assert_eq!(parse("'on': 'no'").unwrap().to_json(), json!({ "on": "no" }));
        assert!(matches!(error("on: 1"), YamlErrorKind::Ambiguous { .. }));
    }

    #[test]
    fn aliases_repeat_values_within_bounds() {
        assert_eq!(
            parse("a: &x {k: 1}\nb: *x").unwrap().to_json(),
            json!({ "a": { "k": 1 }, "b": { "k": 1 } })
        );
        assert_eq!(error("a: &x [*x]"), YamlErrorKind::AliasToItself);
        assert_eq!(error("&x a: 1\n*x : 2"), YamlErrorKind::ComplexKey);

        let mut laughs = "l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
        for level in 1..10 {
            let below = format!("*l{}, ", level - 1).repeat(10);
            laughs.push_str(&format!("l{level}: &l{level} [{below}]\n"));
        }
        assert_eq!(error(&laughs), YamlErrorKind::TooManyValues);

        // Each line nests the one before: short text, and without a bound a tree as deep as there are lines.
        let chain: String = (1..40)
            .map(|line| format!("l{line}: &l{line} [*l{}]\n", line - 1))
            .collect();
        assert_eq!(error(&format!("l0: &l0 []\n{chain}")), YamlErrorKind::TooDeep);
    }

    #[test]
    fn size_is_bounded() {
        assert_eq!(error(&"[".repeat(100)), YamlErrorKind::TooDeep);
        assert_eq!(error(&"- ".repeat(100)), YamlErrorKind::TooDeep);
        assert_eq!(
            error(&"a,".repeat(VALUES_MAX).replacen('a', "[a", 1)),
            YamlErrorKind::TooManyValues
        );
    }

    #[test]
    fn one_document_with_plain_keys() {
        assert_eq!(error("a: 1\n---\nb: 1"), YamlErrorKind::SecondDocument);
        assert_eq!(error(""), YamlErrorKind::NoDocument);
        assert_eq!(error("# only a comment\n---\n"), YamlErrorKind::NoDocument);
        parse("---\na: 1\n---\n").unwrap();
        assert_eq!(error("? [a]\n: 1"), YamlErrorKind::ComplexKey);
        assert_eq!(error("<<: {a: 1}"), YamlErrorKind::MergeKey);
        assert_eq!(error("a: !Ref b"), YamlErrorKind::Tag("!Ref".into()));
        assert_eq!(error("a: .inf"), YamlErrorKind::NotFinite(".inf".into()));
        let first = Mark { line: 1, column: 1 };
        assert_eq!(
            error("a: 1\n'a': 2"),
            YamlErrorKind::DuplicateKey { key: "a".into(), first }
        );
    }

    #[test]
    fn json_is_yaml() {
        let text = "{\n\t\"a\": [1, 2.5, \"x\\ny\", null, true],\n\t\"b\": {}\n}\n";
        assert_eq!(
            parse(text).unwrap().to_json(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }
}
