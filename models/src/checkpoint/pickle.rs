//! The pickle inside `pytorch_model.bin`, read as data (CKP-17).
//!
//! A pickle is a program for a small stack machine, and Python's own reader lets it call anything. This one knows
//! tensors, storages, ordered dictionaries and plain values; any other name the pickle mentions ends the reading
//! before anything is done with it. Opcodes: Python's `pickletools`. Containers live in one flat arena, so that
//! neither depth nor sharing in a hostile file costs stack or memory beyond its own length.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use lith_ir::DType;

use super::Element;

/// A tensor as the pickle describes it: a view on a storage, all in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickledTensor {
    /// Its name in the dictionary.
    pub name: String,
    /// The element type.
    pub element: Element,
    /// The key of its storage: the last part of the zip entry's name.
    pub storage: String,
    /// Elements in the storage.
    pub storage_len: usize,
    /// Where the tensor starts in the storage.
    pub offset: usize,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    pub strides: Vec<usize>,
}

/// Why a pickle is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It mentions something that is not needed for tensors: `module.name`.
    #[error("the pickle asks for `{0}`")]
    Forbidden(String),
    /// It is broken.
    #[error("broken pickle at byte {at}: {reason}")]
    Broken {
        /// Offset of the opcode.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// It holds something else than a dictionary of tensors.
    #[error("expected a dictionary of tensors, found {0}")]
    NotTensors(String),
}

/// Most dimensions of a tensor, and longest key of a storage. Both are copied for every tensor that shares them.
const MAX_RANK: usize = 64;
const MAX_KEY: usize = 255;

/// The names a pickle may mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

const STORAGES: &[(&str, Element)] = &[
    ("FloatStorage", Element::Known(DType::F32)),
    ("HalfStorage", Element::Known(DType::F16)),
    ("BFloat16Storage", Element::Known(DType::Bf16)),
    ("DoubleStorage", Element::Known(DType::F64)),
    ("LongStorage", Element::Known(DType::I64)),
    ("IntStorage", Element::Known(DType::I32)),
    ("ShortStorage", Element::Known(DType::I16)),
    ("CharStorage", Element::Known(DType::I8)),
    ("ByteStorage", Element::Known(DType::U8)),
    ("BoolStorage", Element::Known(DType::Bool)),
    ("ComplexFloatStorage", Element::Foreign("C64", 64)),
];

impl Global {
    fn find(module: &str, name: &str) -> Option<Global> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
            ("torch" | "torch.storage", name) => {
                STORAGES.iter().find(|(known, _)| *known == name).map(|(_, element)| Global::Storage(*element))
            }
            _ => None,
        }
    }
}

/// A value on the stack. Containers are places in the arena.
#[derive(Clone, Debug)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(Rc<str>),
    Bytes,
    Sequence(usize),
    Dict(usize),
    Global(Global),
    Storage(Rc<Storage>),
    Tensor(Rc<Tensor>),
}

#[derive(Debug)]
struct Storage {
    element: Element,
    key: Rc<str>,
    len: usize,
}

#[derive(Debug)]
struct Tensor {
    storage: Rc<Storage>,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Reads the pickle of a checkpoint: the tensors of its dictionary, in its order. Entries that are numbers, text or
/// `None` are no weights and are left out.
pub fn parse(bytes: &[u8]) -> Result<Vec<PickledTensor>, PickleError> {
    parse_first(bytes).map(|(tensors, _)| tensors)
}

/// Like [`parse`], also telling where the pickle ends.
pub(super) fn parse_first(bytes: &[u8]) -> Result<(Vec<PickledTensor>, usize), PickleError> {
    let (machine, root) = run(bytes)?;
    let Value::Dict(root) = root else { return Err(PickleError::NotTensors(kind(&root).into())) };
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for (key, value) in &machine.dicts[root] {
        let Value::Text(name) = key else {
            return Err(PickleError::NotTensors(format!("a key that is {}", kind(key))));
        };
        if !names.insert(name) {
            return Err(PickleError::NotTensors(format!("`{name}` twice")));
        }
        let name = name.to_string();
        match value {
            Value::Tensor(tensor) => tensors.push(PickledTensor {
                name,
                element: tensor.storage.element,
                storage: tensor.storage.key.to_string(),
                storage_len: tensor.storage.len,
                offset: tensor.offset,
                shape: tensor.shape.clone(),
                strides: tensor.strides.clone(),
            }),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float | Value::Text(_) => {}
            other => return Err(PickleError::NotTensors(format!("{} under `{name}`", kind(other)))),
        }
    }
    Ok((tensors, machine.at))
}

/// Reads a dictionary of plain values: a flag of it, if it is there. Tells where the pickle ends.
pub(super) fn parse_flag(bytes: &[u8], name: &str) -> Result<(Option<bool>, usize), PickleError> {
    let (machine, root) = run(bytes)?;
    let Value::Dict(root) = root else { return Err(PickleError::NotTensors(kind(&root).into())) };
    let flag = machine.dicts[root].iter().find_map(|entry| match entry {
        (Value::Text(key), Value::Bool(flag)) if &**key == name => Some(*flag),
        _ => None,
    });
    Ok((flag, machine.at))
}

/// Reads a list of text. Tells where the pickle ends.
pub(super) fn parse_list(bytes: &[u8]) -> Result<(Vec<Rc<str>>, usize), PickleError> {
    let (machine, root) = run(bytes)?;
    let Value::Sequence(root) = root else { return Err(PickleError::NotTensors(kind(&root).into())) };
    let text = |item: &Value| match item {
        Value::Text(text) => Ok(Rc::clone(text)),
        other => Err(PickleError::NotTensors(kind(other).into())),
    };
    Ok((machine.sequences[root].iter().map(text).collect::<Result<_, _>>()?, machine.at))
}

fn run(bytes: &[u8]) -> Result<(Machine<'_>, Value), PickleError> {
    let mut machine = Machine { bytes, ..Machine::default() };
    match machine.run() {
        Ok(root) => Ok((machine, root)),
        Err(Stop::Forbidden(name)) => Err(PickleError::Forbidden(name)),
        Err(Stop::Broken(reason)) => Err(PickleError::Broken { at: machine.opcode_at, reason }),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::None => "None",
        Value::Bool(_) => "a boolean",
        Value::Int(_) => "an integer",
        Value::Float => "a number",
        Value::Text(_) => "text",
        Value::Bytes => "bytes",
        Value::Sequence(_) => "a list or tuple",
        Value::Dict(_) => "a dictionary",
        Value::Global(_) => "a type or function",
        Value::Storage(_) => "a storage",
        Value::Tensor(_) => "a tensor",
    }
}

enum Stop {
    Forbidden(String),
    Broken(String),
}

fn broken<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Broken(reason.into()))
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    opcode_at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    sequences: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return broken("it ends in the middle") };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A little-endian unsigned number of up to 8 bytes.
    fn number(&mut self, len: usize) -> Result<u64, Stop> {
        Ok(self.take(len)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn length(&mut self, len: usize) -> Result<usize, Stop> {
        let value = self.number(len)?;
        usize::try_from(value).or_else(|_| broken(format!("length {value}")))
    }

    fn text_of(&mut self, len: usize) -> Result<Value, Stop> {
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => Ok(Value::Text(text.into())),
            Err(_) => broken("text that is not UTF-8"),
        }
    }

    /// The rest of the line, for the opcodes of protocol 0.
    fn line(&mut self) -> Result<&'a str, Stop> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return broken("a line without end") };
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).or_else(|_| broken("text that is not UTF-8"))
    }

    fn pop(&mut self) -> Result<Value, Stop> {
        if self.marks.last().is_some_and(|mark| *mark == self.stack.len()) {
            return broken("pops a mark");
        }
        self.stack.pop().ok_or_else(|| Stop::Broken("pops an empty stack".into()))
    }

    /// The values above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value>, Stop> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => broken("no mark"),
        }
    }

    fn push_sequence(&mut self, items: Vec<Value>) {
        self.stack.push(Value::Sequence(self.sequences.len()));
        self.sequences.push(items);
    }

    fn push_dict(&mut self, items: Vec<Value>) -> Result<(), Stop> {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(Vec::new());
        self.set_items(items)
    }

    /// Appends to the list on top of the stack.
    fn append(&mut self, items: Vec<Value>) -> Result<(), Stop> {
        match self.stack.last() {
            Some(Value::Sequence(list)) => self.sequences[*list].extend(items),
            _ => return broken("appends to something that is no list"),
        }
        Ok(())
    }

    /// Sets items of the dictionary on top of the stack.
    fn set_items(&mut self, items: Vec<Value>) -> Result<(), Stop> {
        let Some(Value::Dict(dict)) = self.stack.last() else { return broken("sets items of no dictionary") };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            let Some(value) = items.next() else { return broken("a key without value") };
            self.dicts[*dict].push((key, value));
        }
        Ok(())
    }

    fn remember(&mut self, slot: u64) -> Result<(), Stop> {
        let Some(top) = self.stack.last() else { return broken("remembers an empty stack") };
        self.memo.insert(slot, top.clone());
        Ok(())
    }

    fn recall(&mut self, slot: u64) -> Result<(), Stop> {
        let Some(value) = self.memo.get(&slot) else { return broken(format!("recalls slot {slot}, which is empty")) };
        self.stack.push(value.clone());
        Ok(())
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), Stop> {
        let Some(global) = Global::find(module, name) else { return Err(Stop::Forbidden(format!("{module}.{name}"))) };
        self.stack.push(Value::Global(global));
        Ok(())
    }

    fn run(&mut self) -> Result<Value, Stop> {
        loop {
            self.opcode_at = self.at;
            let opcode = self.take(1)?[0];
            match opcode {
                // Protocol, frames, end.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                // Stack.
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = self.pop()?;
                    self.stack.extend([top.clone(), top]);
                }
                // Containers.
                b']' | b')' => self.push_sequence(Vec::new()),
                b'l' | b't' => {
                    let items = self.pop_mark()?;
                    self.push_sequence(items);
                }
                0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0x84..opcode {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push_sequence(items);
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                b'}' => self.push_dict(Vec::new())?,
                b'd' => {
                    let items = self.pop_mark()?;
                    self.push_dict(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(items)?;
                }
                // Plain values.
                b'N' => self.stack.push(Value::None),
                0x88 | 0x89 => self.stack.push(Value::Bool(opcode == 0x88)),
                b'K' | b'M' => {
                    let value = self.number(if opcode == b'K' { 1 } else { 2 })?;
                    self.stack.push(Value::Int(value as i64));
                }
                b'J' => {
                    let value = self.number(4)? as u32 as i32;
                    self.stack.push(Value::Int(value.into()));
                }
                0x8a | 0x8b => {
                    let len = self.length(if opcode == 0x8a { 1 } else { 4 })?;
                    let value = long(self.take(len)?)?;
                    self.stack.push(Value::Int(value));
                }
                b'I' | b'L' => {
                    let line = self.line()?;
                    self.stack.push(match (line, line.trim_end_matches('L').parse()) {
                        ("00" | "01", _) => Value::Bool(line == "01"),
                        (_, Ok(value)) => Value::Int(value),
                        _ => return broken(format!("`{line}` is no integer")),
                    });
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Float);
                }
                b'F' => {
                    self.line()?;
                    self.stack.push(Value::Float);
                }
                0x8c | b'X' | 0x8d | b'U' | b'T' => {
                    let width = match opcode {
                        0x8c | b'U' => 1,
                        0x8d => 8,
                        _ => 4,
                    };
                    let len = self.length(width)?;
                    let text = self.text_of(len)?;
                    self.stack.push(text);
                }
                b'C' | b'B' | 0x8e => {
                    let width = match opcode {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    };
                    let len = self.length(width)?;
                    self.take(len)?;
                    self.stack.push(Value::Bytes);
                }
                // Memo.
                b'q' | b'r' => {
                    let slot = self.number(if opcode == b'q' { 1 } else { 4 })?;
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' | b'j' => {
                    let slot = self.number(if opcode == b'h' { 1 } else { 4 })?;
                    self.recall(slot)?;
                }
                b'p' | b'g' => {
                    let line = self.line()?;
                    let Ok(slot) = line.parse() else { return broken(format!("`{line}` is no memo slot")) };
                    if opcode == b'p' { self.remember(slot)? } else { self.recall(slot)? }
                }
                // Names, calls, storages.
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push_global(module, name)?;
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => self.push_global(&module, &name)?,
                    _ => return broken("a name that is no text"),
                },
                b'R' => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.call(callable, arguments)?;
                }
                // State of an object: the only objects here are dictionaries, whose attributes are no weights.
                b'b' => {
                    let (_, object) = (self.pop()?, self.stack.last());
                    if !matches!(object, Some(Value::Dict(_))) {
                        return broken("sets the state of no dictionary");
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.stack.push(Value::Storage(Rc::new(storage)));
                }
                _ => return broken(format!("opcode 0x{opcode:02x}, which tensors do not need")),
            }
        }
    }

    fn items(&self, value: &Value) -> Result<&[Value], Stop> {
        match value {
            Value::Sequence(items) => Ok(&self.sequences[*items]),
            other => broken(format!("expected a tuple, found {}", kind(other))),
        }
    }

    fn call(&mut self, callable: Value, arguments: Value) -> Result<(), Stop> {
        let arguments = self.items(&arguments)?;
        match (callable, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.push_dict(Vec::new()),
            (Value::Global(Global::RebuildParameter), [Value::Tensor(tensor), ..]) => {
                let tensor = Rc::clone(tensor);
                self.stack.push(Value::Tensor(tensor));
                Ok(())
            }
            (
                Value::Global(Global::RebuildTensor),
                [Value::Storage(storage), Value::Int(offset), shape, strides, ..],
            ) => {
                let storage = Rc::clone(storage);
                let tensor = Tensor {
                    storage,
                    offset: usize::try_from(*offset).or_else(|_| broken(format!("storage offset {offset}")))?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                };
                if tensor.shape.len() != tensor.strides.len() {
                    return broken(format!("shape {:?} with strides {:?}", tensor.shape, tensor.strides));
                }
                self.stack.push(Value::Tensor(Rc::new(tensor)));
                Ok(())
            }
            (callable, _) => broken(format!("calls {} with arguments it does not take", kind(&callable))),
        }
    }

    fn sizes(&self, value: &Value) -> Result<Vec<usize>, Stop> {
        let size = |item: &Value| match item {
            Value::Int(size) => usize::try_from(*size).or_else(|_| broken(format!("size {size}"))),
            other => broken(format!("{} as a size", kind(other))),
        };
        match self.items(value)? {
            items if items.len() <= MAX_RANK => items.iter().map(size).collect(),
            items => broken(format!("a tensor of {} dimensions", items.len())),
        }
    }

    /// A storage from its persistent id: `("storage", type, key, device, number of elements)`; files of before
    /// PyTorch 1.6 add `None`.
    fn storage(&self, id: Value) -> Result<Storage, Stop> {
        match self.items(&id)? {
            [
                Value::Text(tag),
                Value::Global(Global::Storage(element)),
                Value::Text(key),
                _,
                Value::Int(len),
                rest @ ..,
            ] if &**tag == "storage" && key.len() <= MAX_KEY && matches!(rest, [] | [Value::None]) => {
                let len = usize::try_from(*len).or_else(|_| broken(format!("storage of {len} elements")))?;
                Ok(Storage { element: *element, key: Rc::clone(key), len })
            }
            _ => broken("a persistent id that is no storage"),
        }
    }
}

/// A little-endian two's complement integer of any length, as far as it fits 64 bits.
fn long(bytes: &[u8]) -> Result<i64, Stop> {
    let mut wide = match bytes.last() {
        Some(last) if *last >= 0x80 => [0xff; 8],
        _ => [0; 8],
    };
    match wide.get_mut(..bytes.len()) {
        Some(low) => low.copy_from_slice(bytes),
        None => return broken("an integer of more than 64 bits"),
    }
    Ok(i64::from_le_bytes(wide))
}
