//! The deepest chain of calls in the compiled programs. The verifier gives all functions of a chain 512 bytes of stack
//! together, each a multiple of 32; its complaint names two numbers of many. This finds the whole chain, and the margin.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};
use std::collections::{BTreeMap, BTreeSet};

/// A chain: its functions with the stack each uses, and the sum as the verifier counts.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// Bytes.
    pub total: u32,
    /// Names and bytes, the program first.
    pub functions: Vec<(String, u32)>,
}

/// The limit of the verifier's.
pub const LIMIT: u32 = 512;

/// What a function uses and calls.
#[derive(Debug, Default)]
struct Function {
    stack: u32,
    calls: BTreeSet<String>,
}

/// The deepest chain from any of the object's programs.
pub fn deepest(object: &[u8]) -> Result<Chain> {
    let functions = functions(object)?;
    let called: BTreeSet<&String> = functions.values().flat_map(|function| &function.calls).collect();
    let mut worst = Chain::default();
    for name in functions.keys().filter(|name| !called.contains(name)) {
        walk(name, &functions, &Chain::default(), &mut worst);
    }
    Ok(worst)
}

fn walk(name: &str, functions: &BTreeMap<String, Function>, above: &Chain, worst: &mut Chain) {
    let Some(function) = functions.get(name) else { return };
    if above.functions.iter().any(|(caller, _)| caller == name) {
        return;
    }
    let mut chain = above.clone();
    chain.total += function.stack.max(1).next_multiple_of(32);
    chain.functions.push((name.to_owned(), function.stack));
    if chain.total > worst.total {
        *worst = chain.clone();
    }
    function.calls.iter().for_each(|callee| walk(callee, functions, &chain, worst));
}

/// Sections and addresses of functions, to name the target of a call.
type Starts = BTreeMap<(usize, u64), (String, u64)>;

fn functions(bytes: &[u8]) -> Result<BTreeMap<String, Function>> {
    let file = object::File::parse(bytes).context("not an object file")?;
    let mut starts = Starts::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        let section = symbol.section_index().context("a function in no section")?;
        starts.insert((section.0, symbol.address()), (symbol.name()?.to_owned(), symbol.size()));
    }
    let mut found = BTreeMap::new();
    for (&(index, start), (name, size)) in &starts {
        let section = file.section_by_index(SectionIndex(index))?;
        let code = section.data()?;
        let code =
            code.get(start as usize..(start + size) as usize).context("a function past its section")?;
        let mut targets = BTreeMap::new();
        for (offset, relocation) in section.relocations() {
            if let RelocationTarget::Symbol(symbol) = relocation.target() {
                targets.insert(offset, file.symbol_by_index(symbol)?);
            }
        }
        let target = |at: u64, bytes: i64| match targets.get(&at) {
            Some(symbol) if symbol.kind() == SymbolKind::Text => symbol.name().ok().map(str::to_owned),
            // Against a section, with the place in the instruction.
            Some(symbol) => named(&starts, symbol.section_index()?.0, symbol.address(), bytes),
            None if code[(at - start) as usize] == CALL => named(&starts, index, at, bytes),
            // A constant of 64 bits.
            None => None,
        };
        found.insert(name.clone(), read(code, start, target));
    }
    match found.is_empty() {
        true => bail!("there is no function in the object"),
        false => Ok(found),
    }
}

fn named(starts: &Starts, section: usize, base: u64, bytes: i64) -> Option<String> {
    let place = base.checked_add_signed(bytes)?;
    let ((there, start), (name, size)) = starts.range(..=(section, place)).next_back()?;
    (*there == section && place < start + size).then(|| name.clone())
}

const CALL: u8 = 0x85;

/// Reads a function's instructions: the deepest place written or pointed at below the frame pointer, and the calls.
fn read(code: &[u8], start: u64, target: impl Fn(u64, i64) -> Option<String>) -> Function {
    const FRAME: u8 = 10;
    let mut function = Function::default();
    let mut copies = BTreeSet::new();
    let mut wide = false;
    for (nth, raw) in code.chunks_exact(8).enumerate() {
        if std::mem::take(&mut wide) {
            continue;
        }
        let at = start + nth as u64 * 8;
        let (op, to, from) = (raw[0], raw[1] & 15, raw[1] >> 4);
        let offset = i16::from_le_bytes([raw[2], raw[3]]);
        let immediate = i32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]);
        // Of jumps: counted in instructions, from the next one.
        let words = (i64::from(immediate) + 1) * 8;
        let mut depth = |below: i32| function.stack = function.stack.max(below.min(0).unsigned_abs());
        match op & 7 {
            1 if from == FRAME => depth(offset.into()),
            2 | 3 if to == FRAME => depth(offset.into()),
            _ => {}
        }
        match op {
            // r = fp, then r += a negative number: the address of something on the stack.
            0xbf if from == FRAME => drop(copies.insert(to)),
            0x07 if immediate < 0 && copies.remove(&to) => depth(immediate),
            CALL if from == 1 => function.calls.extend(target(at, words)),
            // The address of a function, for a callback; its other half is no instruction.
            0x18 => {
                wide = true;
                match from {
                    0 => function.calls.extend(target(at, immediate.into())),
                    4 => function.calls.extend(target(at, words)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    function
}
