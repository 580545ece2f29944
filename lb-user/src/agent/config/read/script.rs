//! Scripts: their own quoting, whom they run as, and whether others could change them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::unistd::{Group, User};

use super::Reader;
use crate::agent::config::model::Script;
use crate::agent::config::tree::Statement;

/// Whom scripts run as that do not say.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    pub chosen: Option<(u32, u32)>,
    pub secure: bool,
    pub no_new_privs: bool,
}

impl Reader<'_> {
    pub(super) fn script_user(&mut self, statement: &Statement) {
        match statement.word(1) {
            Some(user) => self.users.chosen = self.user(statement, user, statement.word(2)),
            None => self.warn(statement, "script_user: a user is wanted"),
        }
    }

    fn user(&mut self, statement: &Statement, user: &str, group: Option<&str>) -> Option<(u32, u32)> {
        let found = User::from_name(user).ok().flatten();
        let Some(found) = found else {
            self.error(statement, format!("there is no user '{user}'"));
            return None;
        };
        let gid = match group.map(|group| (group, Group::from_name(group).ok().flatten())) {
            None => found.gid,
            Some((_, Some(group))) => group.gid,
            Some((name, None)) => {
                self.error(statement, format!("there is no group '{name}'"));
                return None;
            }
        };
        Some((found.uid.as_raw(), gid.as_raw()))
    }

    /// The words after a keyword as a shell would see them.
    fn parts(&mut self, statement: &Statement) -> Option<Vec<String>> {
        let after = statement.raw.trim_start().strip_prefix(statement.keyword()).unwrap_or_default();
        let parts = shell_words(after);
        if parts.is_none() {
            self.error(statement, format!("{}: a quote has no partner", statement.keyword()));
        }
        parts
    }

    /// The first of them.
    pub(super) fn quoted(&mut self, statement: &Statement) -> Option<String> {
        self.parts(statement)?.into_iter().next()
    }

    /// The script of a statement: its first word, then user and group.
    pub(super) fn script(&mut self, statement: &Statement) -> Option<Script> {
        let parts = self.parts(statement)?;
        let Some(words) = shell_words(parts.first().map_or("", String::as_str)) else {
            self.error(statement, format!("{}: a quote inside has no partner", statement.keyword()));
            return None;
        };
        let words: Vec<String> = words.iter().map(|word| unescape(word)).collect();
        if words.is_empty() {
            self.warn(statement, format!("{}: a script is wanted", statement.keyword()));
            return None;
        }
        let user = match parts.get(1) {
            Some(user) => Some(self.user(statement, user, parts.get(2).map(String::as_str))?),
            None => self.users.chosen.or_else(usual_user),
        };
        self.may_run(statement, &words[0], user).then_some(Script {
            words,
            user,
            no_new_privs: self.users.no_new_privs,
        })
    }

    fn may_run(&mut self, statement: &Statement, program: &str, user: Option<(u32, u32)>) -> bool {
        let path = Path::new(program);
        let executable = match fs::metadata(path) {
            Ok(found) => found.is_file() && found.permissions().mode() & 0o111 != 0,
            // In a directory of its user's, where the agent may not look: we will see.
            Err(error) => error.kind() == ErrorKind::PermissionDenied,
        };
        if path.is_absolute() && !executable {
            self.warn(statement, format!("{program} is no file that can be run: it is not run"));
            return false;
        }
        let by_root = user.is_none_or(|(uid, _)| uid == 0);
        let open = path.ancestors().find(|part| others_may_write(part));
        match open {
            Some(open) if by_root => {
                let place = statement.place.clone();
                let fate = if self.users.secure { "it is not run" } else { "say enable_script_security" };
                let open = open.display();
                self.insecure(
                    &place,
                    format!("{program} would run as root, and {open} is not root's alone: {fate}"),
                );
                !self.users.secure
            }
            _ => true,
        }
    }
}

/// keepalived's own user for scripts, where there is one.
fn usual_user() -> Option<(u32, u32)> {
    let user = User::from_name("keepalived_script").ok().flatten()?;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

fn others_may_write(path: &Path) -> bool {
    let Ok(found) = fs::metadata(path) else { return false };
    let mode = found.permissions().mode();
    // /tmp: others may add, but not replace.
    let sticky = found.is_dir() && mode & 0o1000 != 0;
    found.uid() != 0 || (mode & 0o022 != 0 && !sticky)
}

/// Words where both kinds of quotes quote, and adjacent pieces are one word. `None`: a quote is missing.
fn shell_words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if matches!(c, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_ascii_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// `\n`, `\x41`, `\101`, `\cA` and the like.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(c) = chars.next() else { break };
        let digits =
            |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, radix: u32, most: usize, start: u32| {
                (0..most).fold(start, |value, _| match chars.next_if(|next| next.is_digit(radix)) {
                    Some(digit) => value * radix + digit.to_digit(radix).unwrap_or(0),
                    None => value,
                })
            };
        let code = match c {
            'a' => 7,
            'b' => 8,
            'E' | 'e' => 27,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            'x' => digits(&mut chars, 16, 2, 0),
            'c' => chars.next().map_or(0, |c| u32::from(c) & 0x1f),
            '0'..='7' => digits(&mut chars, 8, 2, c.to_digit(8).unwrap_or(0)),
            other => u32::from(other),
        };
        out.extend(char::from_u32(code));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(shell_words("\"/x 'a b'\" user").unwrap(), ["/x 'a b'", "user"]);
        assert_eq!(shell_words("ab\" c\"d 'e f'").unwrap(), ["ab cd", "e f"]);
        assert_eq!(shell_words("/x 'a"), None);
        assert_eq!(unescape("a\\x41\\101\\tb\\\\"), "aAA\tb\\");
    }
}
