//! JSONPath templates as kubectl reads them: text, `{.a.b[0]['c'].*}`, `[?(@.x=="y")]`, `..`, `{range …}{end}`.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

/// A template, ready to be filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Descend,
    Filter(Vec<Step>, Comparison),
}

#[derive(Clone, Debug, PartialEq)]
enum Comparison {
    Exists,
    Is(&'static str, Value),
}

impl Template {
    /// Reads a template. A bare path without braces is taken for one with.
    ///
    /// # Errors
    /// It cannot be read; says why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let braced = if text.contains('{') { text.to_owned() } else { format!("{{{}{text}}}", leading_dot(text)) };
        let mut tokens = tokens(&braced)?.into_iter();
        let nodes = nodes(&mut tokens, false)?;
        Ok(Self(nodes))
    }

    /// Fills the template in. A field that is absent is nothing.
    ///
    /// # Errors
    /// An index is out of range.
    pub fn render(&self, value: &Value) -> Result<String, String> {
        let mut text = String::new();
        render(&self.0, value, &mut text)?;
        Ok(text)
    }

    /// Returns what the paths of the template select.
    pub fn select<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let paths = self.0.iter().filter_map(|node| match node {
            Node::Path(steps) => Some(steps),
            _ => None,
        });
        paths.flat_map(|steps| walk(steps, value)).collect()
    }
}

fn leading_dot(text: &str) -> &'static str {
    if text.starts_with(['.', '[']) { "" } else { "." }
}

enum Token {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>),
    End,
}

/// Cuts a template into texts and what stands in braces.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            tokens.push(Token::Text(rest[..open].to_owned()));
        }
        let close = closing_brace(&rest[open + 1..]).ok_or_else(|| format!("unclosed action: `{}`", &rest[open..]))?;
        let inner = rest[open + 1..open + 1 + close].trim();
        tokens.push(action(inner)?);
        rest = &rest[open + close + 2..];
    }
    if !rest.is_empty() {
        tokens.push(Token::Text(rest.to_owned()));
    }
    Ok(tokens)
}

fn closing_brace(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(at),
            (None, _) => {}
        }
    }
    None
}

fn action(inner: &str) -> Result<Token, String> {
    if inner == "end" {
        return Ok(Token::End);
    }
    if let Some(path) = inner.strip_prefix("range ") {
        return Ok(Token::Range(steps(path.trim())?));
    }
    if inner.starts_with(['"', '\'']) {
        return literal(inner).map(Token::Text).ok_or_else(|| format!("unterminated text: `{inner}`"));
    }
    steps(inner).map(Token::Path)
}

fn nodes(tokens: &mut std::vec::IntoIter<Token>, within_range: bool) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    loop {
        match tokens.next() {
            Some(Token::Text(text)) => nodes.push(Node::Text(text)),
            Some(Token::Path(steps)) => nodes.push(Node::Path(steps)),
            Some(Token::Range(steps)) => {
                let body = self::nodes(tokens, true)?;
                nodes.push(Node::Range(steps, body));
            }
            Some(Token::End) if within_range => return Ok(nodes),
            Some(Token::End) => return Err("`{end}` without `{range}`".to_owned()),
            None if within_range => return Err("`{range}` without `{end}`".to_owned()),
            None => return Ok(nodes),
        }
    }
}

/// Reads a quoted text with `\n`, `\t` and the like.
fn literal(text: &str) -> Option<String> {
    let quote = text.chars().next()?;
    let mut out = String::new();
    let mut chars = text[1..].chars();
    loop {
        match chars.next()? {
            '\\' => out.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            c if c == quote => return chars.next().is_none().then_some(out),
            c => out.push(c),
        }
    }
}

/// Reads a path such as `.items[*].metadata.name`.
fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut chars = text.chars().peekable();
    if matches!(chars.peek(), Some('@' | '$')) {
        chars.next();
    }
    while let Some(c) = chars.next() {
        match c {
            '.' if chars.peek() == Some(&'.') => {
                chars.next();
                steps.push(Step::Descend);
                if chars.peek().is_some_and(|c| *c != '[') {
                    steps.push(field(&mut chars));
                }
            }
            '.' if chars.peek().is_none_or(|c| *c == '[') => {}
            '.' => steps.push(field(&mut chars)),
            '[' => steps.push(bracket(&between_brackets(&mut chars, text)?)?),
            _ => return Err(format!("unexpected `{c}` in `{text}`: a path begins with a dot")),
        }
    }
    Ok(steps)
}

fn field(chars: &mut Peekable<Chars<'_>>) -> Step {
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| !matches!(c, '.' | '[')) {
        // A backslash keeps a dot that belongs to the name, as in label keys.
        name.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    if name == "*" { Step::All } else { Step::Field(name) }
}

fn between_brackets(chars: &mut Peekable<Chars<'_>>, whole: &str) -> Result<String, String> {
    let (mut inner, mut depth, mut quote) = (String::new(), 1, None);
    for c in chars.by_ref() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(inner);
        }
        inner.push(c);
    }
    Err(format!("unterminated `[` in `{whole}`"))
}

fn bracket(inner: &str) -> Result<Step, String> {
    let inner = inner.trim();
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return comparison(filter);
    }
    if inner.starts_with(['"', '\'']) {
        return literal(inner).map(Step::Field).ok_or_else(|| format!("unterminated text: `{inner}`"));
    }
    if let Some((from, to)) = inner.split_once(':') {
        let bound = |text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| format!("`{inner}` is no range")),
        };
        return Ok(Step::Slice(bound(from)?, bound(to)?));
    }
    inner.parse().map(Step::Index).map_err(|_| format!("`[{inner}]` is no index, name or filter"))
}

fn comparison(filter: &str) -> Result<Step, String> {
    for operator in ["==", "!=", "<=", ">=", "<", ">"] {
        if let Some((left, right)) = filter.split_once(operator) {
            let right = right.trim();
            let value = match literal(right) {
                Some(text) if right.starts_with(['"', '\'']) => Value::String(text),
                _ => serde_json::from_str(right).map_err(|_| format!("`{right}` is no value"))?,
            };
            return Ok(Step::Filter(steps(left.trim())?, Comparison::Is(operator, value)));
        }
    }
    Ok(Step::Filter(steps(filter.trim())?, Comparison::Exists))
}

fn render(nodes: &[Node], here: &Value, text: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(literal) => text.push_str(literal),
            Node::Path(steps) => {
                let shown: Vec<String> = walk(steps, here).into_iter().map(plain).collect();
                text.push_str(&shown.join(" "));
            }
            Node::Range(steps, body) => {
                for item in walk(steps, here) {
                    render(body, item, text)?;
                }
            }
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'v>(steps: &[Step], value: &'v Value) -> Vec<&'v Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|value| take(step, value)).collect();
    }
    found
}

fn take<'v>(step: &Step, value: &'v Value) -> Vec<&'v Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::All => children(value),
        Step::Descend => {
            let mut all = vec![value];
            all.extend(children(value).into_iter().flat_map(|child| take(&Step::Descend, child)));
            all
        }
        Step::Index(index) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            position(*index, items.len()).and_then(|at| items.get(at)).into_iter().collect()
        }
        Step::Slice(from, to) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let bound = |bound: &Option<i64>, otherwise| match bound {
                Some(bound) => position(*bound, items.len()).unwrap_or(otherwise).min(items.len()),
                None => otherwise,
            };
            let (from, to) = (bound(from, 0), bound(to, items.len()));
            items.get(from..to).unwrap_or_default().iter().collect()
        }
        Step::Filter(path, comparison) => {
            children(value).into_iter().filter(|child| holds(path, comparison, child)).collect()
        }
    }
}

/// Returns the place an index means; negative ones count from the end.
fn position(index: i64, length: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(index) => Some(index),
        Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn holds(path: &[Step], comparison: &Comparison, value: &Value) -> bool {
    let found = walk(path, value);
    match comparison {
        Comparison::Exists => !found.is_empty(),
        Comparison::Is("==", wanted) => found.contains(&wanted),
        Comparison::Is("!=", wanted) => !found.is_empty() && !found.contains(&wanted),
        Comparison::Is(operator, wanted) => found.iter().any(|found| {
            let (Some(a), Some(b)) = (found.as_f64(), wanted.as_f64()) else { return false };
            match *operator {
                "<" => a < b,
                ">" => a > b,
                "<=" => a <= b,
                _ => a >= b,
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_mean_what_kubectl_means() {
        let value = json!({
            "items": [
                {"name": "a", "n": 1, "labels": {"x.y/z": "1"}, "conditions": [{"type": "Ready", "status": "True"}]},
                {"name": "b", "n": 2, "conditions": [{"type": "Other", "status": "False"}]},
            ],
            "kind": "List",
        });
        let table = [
            ("{.kind}", "List"),
            (".kind", "List"),
            ("kind", "List"),
            ("{.items[*].name}", "a b"),
            ("{.items[0].name}-{.items[-1].name}", "a-b"),
            ("{.items[0:1].name}", "a"),
            ("{range .items[*]}{.name}={.n}{\"\\n\"}{end}", "a=1\nb=2\n"),
            ("{.items[?(@.n>1)].name}", "b"),
            ("{.items[*].conditions[?(@.type==\"Ready\")].status}", "True"),
            ("{.items[?(@.labels)].name}", "a"),
            ("{.items[0].labels.x\\.y/z}", "1"),
            ("{.items[0].labels['x.y/z']}", "1"),
            ("{..status}", "True False"),
            ("{.none.at.all}", ""),
            ("{.items[0].conditions[0]}", "{\"type\":\"Ready\",\"status\":\"True\"}"),
        ];
        for (template, expected) in table {
            assert_eq!(Template::parse(template).unwrap().render(&value).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn a_template_that_cannot_be_read_says_why() {
        for template in ["{.a", "{.a[}", "{range .a}x", "{end}", "{.a[b]}", "{\"x}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
