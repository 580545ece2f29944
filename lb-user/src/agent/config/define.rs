//! `$NAME=value` and what `$NAME` and `${NAME}` stand for.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;

/// What a line became.
#[derive(Debug, PartialEq, Eq)]
pub enum Expanded {
    /// There was nothing to replace.
    Same,
    /// These; they may hold further references.
    Lines(Vec<String>),
}

/// What predefined names tell about.
pub struct Surroundings<'a> {
    /// The file being read.
    pub file: &'a Path,
    /// The configuration's id.
    pub id: &'a str,
}

/// `$NAME=value`: name and value.
pub fn definition(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('$')?;
    let (name, value) = text.split_at(name_length(text));
    (!name.is_empty()).then_some(())?;
    Some((name, value.strip_prefix('=')?.trim()))
}

/// Replaces every reference that `value` knows. What it does not know stays as it was written; so does a reference to
/// several lines that does not end its own.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> Expanded {
    let (mut out, mut rest, mut changed) = (String::new(), text, false);
    while let Some(at) = rest.find('$') {
        let (before, reference) = rest.split_at(at);
        out.push_str(before);
        let known = reference_of(reference).and_then(|(name, length)| Some((value(name)?, length)));
        match known {
            Some((lines, length)) if lines.contains('\n') && !reference[length..].trim().is_empty() => {
                out.push_str(&reference[..length]);
                rest = &reference[length..];
            }
            Some((value, length)) => {
                changed = true;
                out.push_str(&value);
                rest = &reference[length..];
            }
            None => {
                out.push('$');
                rest = &reference[1..];
            }
        }
    }
    out.push_str(rest);
    if changed { Expanded::Lines(out.split('\n').map(str::to_owned).collect()) } else { Expanded::Same }
}

/// Is this text, which follows a `$`, a name in braces? Its length with the braces.
pub fn braced(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('{')?;
    let end = inner.find('}')?;
    let name = &inner[..end];
    let fits = name_length(name) > 0
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b' '));
    fits.then_some(end + 2)
}

/// The name a text that starts with `$` refers to, and how long the reference is.
fn reference_of(text: &str) -> Option<(&str, usize)> {
    let after = text.get(1..)?;
    if let Some(length) = braced(after) {
        return Some((&after[1..length - 1], length + 1));
    }
    let length = name_length(after);
    let ends = after[length..].chars().next().is_none_or(|c| matches!(c, ' ' | '\t' | ',' | ')'));
    (length > 0 && ends).then(|| (&after[..length], length + 1))
}

fn name_length(text: &str) -> usize {
    let letters = text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    if text.starts_with(|c: char| c.is_ascii_digit()) { 0 } else { letters }
}

/// Names that need no definition.
pub fn predefined(name: &str, around: &Surroundings<'_>) -> Option<String> {
    let mut words = name.split(' ').filter(|word| !word.is_empty());
    match words.next()? {
        "_PWD" => {
            let dir = around.file.parent().filter(|dir| !dir.as_os_str().is_empty());
            let dir = dir.unwrap_or(Path::new("."));
            Some(
                std::path::absolute(dir)
                    .map_or_else(|_| dir.display().to_string(), |dir| dir.display().to_string()),
            )
        }
        "_INSTANCE" => Some(around.id.to_owned()),
        "_HASH" => Some("#".to_owned()),
        "_BANG" => Some("!".to_owned()),
        "_ENV" => Some(std::env::var(words.next()?).unwrap_or_default()),
        "_RANDOM" => {
            let mut bound = |usual: u64| words.next().map_or(Some(usual), |word| word.parse().ok());
            let (low, high) = (bound(0)?, bound(32767)?);
            let span = high.checked_sub(low)?.checked_add(1)?;
            Some((low + RandomState::new().hash_one(0) % span).to_string())
        }
        _ => None,
    }
}
