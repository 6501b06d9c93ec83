//! Reading a TOML file so that every mistake in it is told at once, each with its line and its mend.
//!
//! A deserializer stops at the first mistake. Here a [`Section`] is asked for its keys one by one; what does not fit is
//! noted and reading goes on with nothing in its place; what was never asked for is an unknown key. Only after the whole
//! file was read is it decided whether there is a configuration.

use busway_core::units::{ByteSize, parse_duration};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One mistake in one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 where the whole file is meant.
    pub line: usize,
    /// The key, such as `plugin[0].limits.timeout`; empty where none is meant.
    pub key: String,
    /// What is wrong, and how to mend it.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The text of one file and the mistakes found in it.
pub struct Document {
    file: PathBuf,
    text: String,
    mistakes: RefCell<Vec<Mistake>>,
}

/// A table of the file, with the keys that were asked for so far.
pub struct Section<'d> {
    document: &'d Document,
    table: &'d DeTable<'d>,
    path: String,
    start: usize,
    asked: RefCell<BTreeSet<String>>,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The key it stands under.
    pub key: String,
    /// Its line, from 1.
    pub line: usize,
}

/// What is written under a key that may be written in several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A text.
    Text,
    /// A list.
    List,
    /// A table.
    Table,
    /// Anything else.
    Other,
}

impl Document {
    /// The text of a file, not read yet.
    pub fn new(file: &Path, text: String) -> Self {
        Self { file: file.to_owned(), text, mistakes: RefCell::default() }
    }

    /// Reads the document's top table with `read`, unknown keys included.
    pub fn read<T>(&self, read: impl for<'d> FnOnce(&Section<'d>) -> T) -> T
    where
        T: 'static,
    {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for error in errors {
            let start = error.span().map_or(0, |span| span.start);
            self.note(start, String::new(), error.message().to_owned());
        }
        let section = Section {
            document: self,
            table: table.get_ref(),
            path: String::new(),
            start: 0,
            asked: RefCell::default(),
        };
        let value = read(&section);
        section.finish();
        value
    }

    /// The mistakes found, in the order of the file.
    pub fn into_mistakes(self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort();
        mistakes.dedup();
        mistakes
    }

    /// Notes a mistake about a value that was read before.
    pub fn refuse<T>(&self, place: &Located<T>, what: impl Into<String>) {
        let (file, line, key, what) = (self.file.clone(), place.line, place.key.clone(), what.into());
        self.mistakes.borrow_mut().push(Mistake { file, line, key, what });
    }

    fn note(&self, start: usize, key: String, what: String) {
        let (file, line) = (self.file.clone(), self.line(start));
        self.mistakes.borrow_mut().push(Mistake { file, line, key, what });
    }

    fn line(&self, start: usize) -> usize {
        self.text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1
    }
}

impl<'d> Section<'d> {
    /// The document that the section stands in.
    pub fn document(&self) -> &'d Document {
        self.document
    }

    /// The section's own place.
    pub fn place(&self) -> Located<()> {
        Located { value: (), key: self.path.clone(), line: self.document.line(self.start) }
    }

    /// Whether the key is written at all, rightly or wrongly. Counts as asking for it.
    pub fn was_given(&self, key: &str) -> bool {
        let given = self.table.get(key).is_some();
        if given {
            self.asked.borrow_mut().insert(key.to_owned());
        }
        given
    }

    /// Whether a key that takes a list is not written, or its list is empty.
    pub fn names_nothing(&self, key: &'static str) -> bool {
        match self.get(key).map(Spanned::get_ref) {
            None => true,
            Some(DeValue::Array(items)) => items.is_empty(),
            Some(_) => false,
        }
    }

    /// Where a key stands; where it is not written, the section's own place.
    pub fn place_of(&self, key: &str) -> Located<()> {
        let start = self.table.get(key).map_or(self.start, |value| value.span().start);
        Located { value: (), key: self.path_of(key), line: self.document.line(start) }
    }

    /// What is written under a key; none where nothing is. Does not count as asking for it.
    pub fn shape(&self, key: &str) -> Option<Shape> {
        Some(match self.table.get(key)?.get_ref() {
            DeValue::String(_) => Shape::Text,
            DeValue::Array(_) => Shape::List,
            DeValue::Table(_) => Shape::Table,
            _ => Shape::Other,
        })
    }

    /// A text.
    pub fn text(&self, key: &'static str) -> Option<Located<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(self.located(key, value, text.to_string())),
            other => self.wrong(key, value, &format!("must be text, is {}", kind(other))),
        }
    }

    /// A text that is read by its type's own rules.
    pub fn parsed<T>(&self, key: &'static str) -> Option<Located<T>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let text = self.text(key)?;
        match text.value.parse() {
            Ok(value) => Some(Located { value, key: text.key, line: text.line }),
            Err(why) => {
                self.document.refuse(&text, format!("{:?}: {why}", text.value));
                None
            }
        }
    }

    /// One of a set of words.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<Located<T>> {
        let text = self.text(key)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(Located { value: *value, key: text.key, line: text.line });
        }
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.document.refuse(&text, format!("{:?} is not one of {}", text.value, words.join(", ")));
        None
    }

    /// A duration with its unit.
    pub fn duration(&self, key: &'static str) -> Option<Located<Duration>> {
        let text = self.with_unit(key, "\"5s\"")?;
        self.converted(text, parse_duration)
    }

    /// A size with its unit.
    pub fn size(&self, key: &'static str) -> Option<Located<ByteSize>> {
        let text = self.with_unit(key, "\"64MiB\"")?;
        self.converted(text, |text| text.parse())
    }

    /// A whole number, not negative.
    pub fn count(&self, key: &'static str) -> Option<Located<u32>> {
        let value = self.get(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            other => return self.wrong(key, value, &format!("must be a whole number, is {}", kind(other))),
        };
        match number {
            Some(number) => Some(self.located(key, value, number)),
            None => self.wrong(key, value, "must be a whole number between 0 and 4294967295"),
        }
    }

    /// A number, with or without a fraction.
    pub fn number(&self, key: &'static str) -> Option<Located<f64>> {
        let value = self.get(key)?;
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            other => return self.wrong(key, value, &format!("must be a number, is {}", kind(other))),
        };
        match number {
            Some(number) => Some(self.located(key, value, number)),
            None => self.wrong(key, value, "is not a number that can be read"),
        }
    }

    /// True or false.
    pub fn flag(&self, key: &'static str) -> Option<Located<bool>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(self.located(key, value, *flag)),
            other => self.wrong(key, value, &format!("must be true or false, is {}", kind(other))),
        }
    }

    /// A list of texts, each with its own place. A single text counts as a list of one.
    pub fn texts(&self, key: &'static str) -> Option<Vec<Located<String>>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(vec![self.located(key, value, text.to_string())]),
            DeValue::Array(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .filter_map(|(index, item)| self.item_text(&format!("{key}[{index}]"), item))
                    .collect(),
            ),
            other => self.wrong(key, value, &format!("must be a list of texts, is {}", kind(other))),
        }
    }

    /// A list of texts read by their type's own rules.
    pub fn all_parsed<T>(&self, key: &'static str) -> Option<Vec<Located<T>>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let texts = self.texts(key)?;
        let parsed = texts.into_iter().filter_map(|text| match text.value.parse() {
            Ok(value) => Some(Located { value, key: text.key, line: text.line }),
            Err(why) => {
                self.document.refuse(&text, format!("{:?}: {why}", text.value));
                None
            }
        });
        Some(parsed.collect())
    }

    /// A table.
    pub fn section(&self, key: &'static str) -> Option<Section<'d>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.child(self.path_of(key), value, table)),
            other => self.wrong(key, value, &format!("must be a table, is {}", kind(other))),
        }
    }

    /// A list of tables.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let what = format!("must be a list of tables ([[{key}]]), is {}", kind(value.get_ref()));
            let _none: Option<()> = self.wrong(key, value, &what);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = self.path_of(&format!("{key}[{index}]"));
            match item.get_ref() {
                DeValue::Table(table) => sections.push(self.child(path, item, table)),
                other => {
                    let what = format!("must be a table, is {}", kind(other));
                    self.document.note(item.span().start, path, what);
                }
            }
        }
        sections
    }

    /// Every key of the section with its text, or with a `{ file = "…" }` beside it; for tables whose keys are free.
    pub fn free_texts(&self) -> Vec<(String, FreeText, Located<()>)> {
        let mut texts = Vec::new();
        for (key, value) in self.table.iter() {
            let path = self.path_of(key.get_ref());
            let place = Located { value: (), key: path, line: self.document.line(value.span().start) };
            match value.get_ref() {
                DeValue::String(text) => {
                    texts.push((key.get_ref().to_string(), FreeText::Literal(text.to_string()), place));
                }
                DeValue::Table(table) => match file_of(table) {
                    Some(file) => texts.push((key.get_ref().to_string(), FreeText::File(file.into()), place)),
                    None => self.document.refuse(&place, "must be text, or { file = \"…\" }"),
                },
                other => {
                    let what = format!("must be text, or {{ file = \"…\" }}, is {}", kind(other));
                    self.document.refuse(&place, what);
                }
            }
        }
        texts
    }

    /// Notes every key that was never asked for.
    pub fn finish(&self) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let name = key.get_ref();
            if asked.contains(&**name) {
                continue;
            }
            let near = asked
                .iter()
                .filter(|known| distance(known, name) <= 2)
                .min_by_key(|known| distance(known, name));
            let mend = match near {
                Some(known) => format!("did you mean `{known}`?"),
                None if asked.is_empty() => "no key is known here".to_owned(),
                None => {
                    format!("known here: {}", asked.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
                }
            };
            self.document.note(key.span().start, self.path_of(name), format!("unknown key; {mend}"));
        }
    }

    fn get(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.table.get(key)
    }

    fn child(&self, path: String, value: &Spanned<DeValue<'_>>, table: &'d DeTable<'d>) -> Section<'d> {
        Section { document: self.document, table, path, start: value.span().start, asked: RefCell::default() }
    }

    fn item_text(&self, key: &str, item: &Spanned<DeValue<'_>>) -> Option<Located<String>> {
        match item.get_ref() {
            DeValue::String(text) => Some(self.located(key, item, text.to_string())),
            other => self.wrong(key, item, &format!("must be text, is {}", kind(other))),
        }
    }

    fn with_unit(&self, key: &'static str, example: &str) -> Option<Located<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(self.located(key, value, text.to_string())),
            other => self.wrong(
                key,
                value,
                &format!("must be text with a unit, such as {example}, is {}", kind(other)),
            ),
        }
    }

    fn converted<T>(
        &self,
        text: Located<String>,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        match convert(&text.value) {
            Ok(value) => Some(Located { value, key: text.key, line: text.line }),
            Err(why) => {
                self.document.refuse(&text, why);
                None
            }
        }
    }

    fn located<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, inner: T) -> Located<T> {
        Located { value: inner, key: self.path_of(key), line: self.document.line(value.span().start) }
    }

    fn wrong<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, what: &str) -> Option<T> {
        self.document.note(value.span().start, self.path_of(key), what.to_owned());
        None
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// A text that stands in the file itself or in another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreeText {
    /// Here.
    Literal(String),
    /// There; relative to the configuration's folder.
    File(PathBuf),
}

impl<T> Located<T> {
    /// The same place with another value.
    pub fn with<U>(&self, value: U) -> Located<U> {
        Located { value, key: self.key.clone(), line: self.line }
    }
}

fn file_of(table: &DeTable<'_>) -> Option<String> {
    match (table.len(), table.get("file").map(Spanned::get_ref)) {
        (1, Some(DeValue::String(file))) => Some(file.to_string()),
        _ => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// How many letters must be changed, added or removed to make one word of the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((r, above_left), above) in right.iter().zip(&row).zip(row.iter().skip(1)) {
            let before = next.last().copied().unwrap_or_default();
            next.push((above_left + usize::from(l != *r)).min(above + 1).min(before + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str, read: impl for<'d> FnOnce(&Section<'d>)) -> Vec<String> {
        let document = Document::new(Path::new("f.toml"), text.to_owned());
        document.read(read);
        document.into_mistakes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line_and_key() {
        let text = "timeuot = \"5s\"\n\n[a]\nlong = 5\nsize = \"64MB\"\nn = -1\nlist = [\"x\", 1]\n";
        let found = mistakes(text, |top| {
            top.duration("timeout");
            let a = top.section("a").unwrap();
            a.duration("long");
            a.size("size");
            a.count("n");
            a.texts("list");
            a.finish();
        });
        assert_eq!(
            found,
            [
                "f.toml:1: timeuot: unknown key; did you mean `timeout`?",
                "f.toml:4: a.long: must be text with a unit, such as \"5s\", is a whole number",
                "f.toml:5: a.size: \"64MB\" is not a size: write a whole number and a unit, B, KiB, MiB or GiB, such as \"64MiB\"",
                "f.toml:6: a.n: must be a whole number between 0 and 4294967295",
                "f.toml:7: a.list[1]: must be text, is a whole number",
            ]
        );
    }

    #[test]
    fn broken_syntax_is_told_with_its_line() {
        let found = mistakes("a = 1\nb = = 2\n", |top| {
            top.count("a");
            top.count("b");
        });
        assert!(found.first().is_some_and(|first| first.starts_with("f.toml:2: ")), "{found:?}");
    }

    #[test]
    fn a_distance_counts_letters() {
        for (left, right, expected) in
            [("timeout", "timeuot", 2), ("a", "a", 0), ("", "abc", 3), ("name", "nam", 1)]
        {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }
}
