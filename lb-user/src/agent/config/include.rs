//! `include PATTERN` and its stricter forms.

use std::path::{Path, PathBuf};

/// What counts as an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strict {
    /// A file that cannot be read.
    pub readable: bool,
    /// A name without wildcards that matches nothing.
    pub matched: bool,
    /// A wildcard that matches nothing.
    pub wildcard: bool,
    /// A member of `{a,b}` that matches nothing.
    pub brace: bool,
}

/// The kind of include, and its pattern.
pub fn asked(text: &str) -> Option<(Strict, &str)> {
    let (word, pattern) = text.split_once([' ', '\t'])?;
    let none = Strict::default();
    let strict = match word {
        "include" => none,
        "includer" => Strict { readable: true, matched: true, ..none },
        "includem" => Strict { matched: true, ..none },
        "includew" => Strict { wildcard: true, ..none },
        "includeb" => Strict { brace: true, ..none },
        "includea" => Strict { readable: true, matched: true, wildcard: true, brace: true },
        _ => return None,
    };
    Some((strict, pattern.trim().trim_matches('"')))
}

/// The files a pattern stands for, relative to `here`, each pattern's in alphabetical order.
pub fn matches(here: &Path, pattern: &str, strict: Strict) -> Result<Vec<PathBuf>, String> {
    let members = braces(pattern, 0);
    let mut all = Vec::new();
    for member in &members {
        let full = here.join(member);
        let found: Vec<PathBuf> = glob::glob(&full.to_string_lossy())
            .map_err(|error| format!("`{member}` is no pattern: {error}"))?
            .filter_map(Result::ok)
            .filter(|path| !path.is_dir())
            .collect();
        let is_wild = member.contains(['*', '?', '[']);
        let missed =
            (strict.brace && members.len() > 1) || (if is_wild { strict.wildcard } else { strict.matched });
        if found.is_empty() && missed {
            return Err(format!("`{member}` matches no file"));
        }
        all.extend(found);
    }
    Ok(all)
}

/// The patterns that one with `{a,b}` stands for.
fn braces(pattern: &str, depth: usize) -> Vec<String> {
    let Some((open, close)) = pattern.find('{').zip(pattern.find('}')).filter(|(open, close)| open < close)
    else {
        return vec![pattern.to_owned()];
    };
    if depth > 8 {
        return vec![pattern.to_owned()];
    }
    let (before, after) = (&pattern[..open], &pattern[close + 1..]);
    pattern[open + 1..close]
        .split(',')
        .flat_map(|member| braces(&format!("{before}{member}{after}"), depth + 1))
        .collect()
}
