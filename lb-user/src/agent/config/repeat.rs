//! `~SEQ(var, start, step, end) rest` and `~LST(var, a, b) rest`: the rest of the line once for each value.

/// The variables of one round.
pub type Round = Vec<(String, String)>;

/// Is it a repetition? The whole text again, for [`split`].
pub fn asked(text: &str) -> Option<String> {
    let after = text.strip_prefix("~SEQ").or_else(|| text.strip_prefix("~LST"))?;
    let after = after.strip_prefix('x').unwrap_or(after);
    after.starts_with('(').then(|| text.to_owned())
}

/// `~SEQ(…)` and the rest of the line.
pub fn split(text: &str) -> (&str, &str) {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return text.split_at(at + 1);
                }
            }
            _ => {}
        }
    }
    (text, "")
}

/// The rounds of `~SEQ(…)` or `~LST(…)`.
pub fn rounds(head: &str) -> Result<Box<dyn Iterator<Item = Round>>, String> {
    let (word, arguments) = head.split_once('(').unwrap_or((head, ""));
    let Some(arguments) = arguments.strip_suffix(')') else { return Err(format!("`{head}`: no `)`")) };
    let arguments = commas(arguments);
    match word {
        "~LST" => list(&arguments).ok_or_else(|| format!("`{head}`: (VARIABLE, VALUE…) is wanted")),
        _ => sequence(&arguments, word == "~SEQx")
            .ok_or_else(|| format!("`{head}`: (VARIABLE, START, STEP, END) is wanted, STEP towards END")),
    }
}

/// Split at commas outside braces.
fn commas(text: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0usize);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match parts.last_mut() {
            Some(_) if c == ',' && depth == 0 => parts.push(String::new()),
            Some(last) => last.push(c),
            None => {}
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

fn sequence(arguments: &[String], hexadecimal: bool) -> Option<Box<dyn Iterator<Item = Round>>> {
    let number = |text: &String| -> Option<i64> {
        let (sign, digits) = text.strip_prefix('-').map_or((1, text.as_str()), |rest| (-1, rest));
        let radix = if hexadecimal { 16 } else { 10 };
        let digits = if hexadecimal { digits.strip_prefix("0x").unwrap_or(digits) } else { digits };
        Some(sign * i64::from(u32::from_str_radix(digits, radix).ok()?))
    };
    let (name, numbers) = arguments.split_first()?;
    let numbers: Vec<i64> = numbers.iter().map(number).collect::<Option<_>>()?;
    let towards = |start: i64, end: i64| if end < start { -1 } else { 1 };
    let (start, step, end) = match numbers[..] {
        [end] => (towards(0, end), towards(0, end), end),
        [start, end] => (start, towards(start, end), end),
        [start, step, end] => (start, step, end),
        _ => return None,
    };
    if name.is_empty() || step == 0 || (end - start).signum() * step.signum() < 0 {
        return None;
    }
    let name = name.clone();
    let values = std::iter::successors(Some(start), move |value| Some(value + step));
    let values = values.take_while(move |value| if step > 0 { *value <= end } else { *value >= end });
    let text = move |value: i64| if hexadecimal { format!("{value:x}") } else { value.to_string() };
    Some(Box::new(values.map(move |value| vec![(name.clone(), text(value))])))
}

fn list(arguments: &[String]) -> Option<Box<dyn Iterator<Item = Round>>> {
    let (names, values) = arguments.split_first()?;
    let names = tuple(names);
    if names.iter().any(String::is_empty) || values.is_empty() {
        return None;
    }
    let round = |value: &String| {
        let parts = if names.len() == 1 { vec![value.clone()] } else { tuple(value) };
        let parts = parts.into_iter().chain(std::iter::repeat(String::new()));
        names.iter().cloned().zip(parts).collect::<Round>()
    };
    let rounds: Vec<Round> = values.iter().map(round).collect();
    Some(Box::new(rounds.into_iter()))
}

/// `{a,b}`, or one alone.
fn tuple(text: &str) -> Vec<String> {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(inner) => inner.split(',').map(|part| part.trim().to_owned()).collect(),
        None => vec![text.to_owned()],
    }
}
