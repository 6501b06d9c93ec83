//! Reads Rust code as far as counting needs: what is code, what is a comment or a string, where a function ends.
//!
//! Not a parser. Comments and the insides of strings are blanked out, line ends stay; on what is left, words and braces
//! can be counted.

/// The same text with comments and the insides of strings and character literals turned into spaces.
pub fn blanked(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        let word_before =
            out.chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !word_before) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            out.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            continue;
        };
        let (gone, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    out
}

/// The length of a block comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"`, if the text begins with one.
fn raw_string(text: &str) -> Option<usize> {
    let start = if text.starts_with("br") { 2 } else { 1 };
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    after.get(hashes..)?.strip_prefix('"')?;
    let open = start + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(text.get(open..)?.find(&close).map_or(text.len(), |at| open + at + close.len()))
}

/// The length of a literal between two `quote`s, with escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Whether a `'` opens a character literal, and not a lifetime.
fn is_character(text: &str) -> bool {
    let mut after = text.chars().skip(1);
    match after.next() {
        Some('\\') => true,
        Some(_) => after.next() == Some('\''),
        None => false,
    }
}

/// A function: its name, the line where it begins (from 1) and how many lines it has.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Where `fn` stands, counted from 1.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
}

/// Every function with a body, in the order of the text. Takes text that was [`blanked`].
pub fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code.get(from..).and_then(|rest| rest.find("fn ")).map(|at| from + at) {
        from = at + 3;
        let word_before = code.get(..at).and_then(|before| before.chars().next_back());
        if word_before.is_some_and(|before| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = code.get(from..).unwrap_or_default();
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if let Some(length) = body_end(rest).filter(|_| !name.is_empty()) {
            let line = code.get(..at).unwrap_or_default().matches('\n').count() + 1;
            let lines = rest.get(..length).unwrap_or_default().matches('\n').count() + 1;
            found.push(Function { name, line, lines });
        }
    }
    found
}

/// Where the body that follows ends; none for a declaration without one.
fn body_end(text: &str) -> Option<usize> {
    let mut braces = 0_usize;
    let mut brackets = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 && brackets == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blanked_and_lines_stay() {
        for (text, left) in [
            ("a // fn x() {\nb", "a b"),
            ("a /* { /* } */ { */ b", "a b"),
            ("f(\"}\\\"}\") }", "f( ) }"),
            ("r#\"}\"}\"# }", "}"),
            ("'{' '\\'' 'a { }", "'a { }"),
        ] {
            let found = blanked(text);
            assert_eq!(found.len(), text.len(), "{text}");
            assert_eq!(found.matches('\n').count(), text.matches('\n').count());
            assert_eq!(found.split_whitespace().collect::<Vec<_>>().join(" "), left);
        }
    }

    #[test]
    fn a_function_is_counted_from_its_name_to_its_brace() {
        let code = "pub fn one(a: [u8; 2]) -> u8 {\n    if a { 1 } else { 2 }\n}\n\ntrait T { fn none(&self); }\nasync fn two() {}\n";
        let found: Vec<_> = functions(code).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(found, [("one".to_owned(), 1, 3), ("two".to_owned(), 6, 1)]);
    }

    #[test]
    fn a_type_of_a_function_is_not_a_function() {
        assert_eq!(functions("type F = fn (u8) -> u8;\nlet xfn = 1;\n"), []);
    }
}
