//! The stack machine that runs a pickle: of Python's `pickle` protocol 2, what `torch.save` writes.
//!
//! Source of the format: `Lib/pickletools.py` of Python, whose names the comments on the opcodes are.

use std::collections::HashMap;

use super::value::{Global, Heap, Mismatch, Value};

/// A tensor is described in some 200 bytes, so this is enough for 80 000 in a file.
pub(super) const LARGEST_PICKLE: usize = 16 << 20;
/// What a pickle may put on its stack and into its memo, all in all. A tensor takes some 30. Values are a few words
/// each and nothing is copied deeply, so that this limits memory to some hundred megabytes.
const MOST_VALUES: usize = 1 << 21;
/// Of a module or something in it.
const LONGEST_NAME: usize = 100;

/// A pickle that has been run.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub(super) root: Value<'a>,
    pub(super) heap: Heap<'a>,
    /// The bytes that it took.
    pub(super) len: usize,
}

/// What is wrong with a pickle.
#[derive(Debug)]
pub(super) struct PickleProblem {
    /// Counted from the start of the pickle.
    pub(super) offset: usize,
    pub(super) mismatch: Mismatch,
}

impl<'a> Pickle<'a> {
    /// Runs the pickle at the start of `bytes`.
    pub(super) fn run(bytes: &'a [u8]) -> Result<Self, PickleProblem> {
        let bytes = &bytes[..bytes.len().min(LARGEST_PICKLE)];
        let mut machine = Machine {
            bytes,
            position: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            made: 0,
            heap: Heap::default(),
        };
        let mut offset = 0;
        let root = machine.run(&mut offset).map_err(|mismatch| PickleProblem { offset, mismatch })?;
        Ok(Self { root, heap: machine.heap, len: machine.position })
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at which runs of values begin.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    /// What has been put on the stack and into the memo so far.
    made: usize,
    heap: Heap<'a>,
}

impl<'a> Machine<'a> {
    /// `offset` is left at the instruction that failed.
    fn run(&mut self, offset: &mut usize) -> Result<Value<'a>, Mismatch> {
        // PROTO
        let start = self.array()?;
        if start != [0x80, 2] {
            return Err(Mismatch::new("a pickle of protocol 2", format!("\"{}\"", start.escape_ascii())));
        }
        loop {
            *offset = self.position;
            match self.byte()? {
                // STOP
                b'.' => return self.pop(),
                opcode => self.step(opcode)?,
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Mismatch> {
        match opcode {
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))
            }
            b'K' => {
                let number = self.byte()?;
                self.push(Value::Int(number.into()))
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))
            }
            0x8a => {
                let number = self.long()?;
                self.push(Value::Int(number))
            }
            // BINFLOAT
            b'G' => {
                self.array::<8>()?;
                self.push(Value::Float)
            }
            // BINUNICODE
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                let text = str::from_utf8(self.take(length as usize)?)
                    .map_err(|cause| Mismatch::new("text in UTF-8", cause.to_string()))?;
                self.push(Value::Text(text))
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push_tuple(Vec::new()),
            0x85..=0x87 => {
                let mut items = (0x84..opcode).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                self.push_tuple(items)
            }
            b't' => {
                let items = self.pop_run()?;
                self.push_tuple(items)
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => {
                let list = self.heap.new_list();
                self.push(list)
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' => {
                let items = self.pop_run()?;
                self.append(items)
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => {
                let dict = self.heap.new_dict();
                self.push(dict)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(&[key, value])
            }
            b'u' => {
                let items = self.pop_run()?;
                self.insert(&items)
            }
            // MARK
            b'(' => {
                self.charge()?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' => {
                let index = self.byte()?;
                self.remember(index.into())
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index)
            }
            b'h' => {
                let index = self.byte()?;
                self.recall(index.into())
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)
            }
            // GLOBAL
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push(Value::Global(Global::named(module, name)?))
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                let storage = self.heap.persistent(id)?;
                self.push(storage)
            }
            // REDUCE
            b'R' => {
                let arguments = self.pop()?;
                let callable = self.pop()?;
                let result = self.heap.call(callable, arguments)?;
                self.push(result)
            }
            // BUILD sets attributes: a state dictionary has its modules' versions there. They are not entries.
            b'b' => match (self.pop()?, self.top()?) {
                (Value::Dict(_), Value::Dict(_)) => Ok(()),
                (state, object) => Err(Mismatch::new(
                    "attributes of a dictionary",
                    format!("{} as those of {}", state.kind(), object.kind()),
                )),
            },
            other => Err(Mismatch::new(
                "an instruction that torch.save writes",
                format!("opcode 0x{other:02x} ('{}')", other.escape_ascii()),
            )),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Mismatch> {
        let rest = &self.bytes[self.position..];
        let Some(taken) = rest.get(..length) else {
            return Err(Mismatch::new(
                format!("{length} bytes more"),
                format!("{} (is the file cut short? At most {LARGEST_PICKLE} bytes are read)", rest.len()),
            ));
        };
        self.position += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Mismatch> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, Mismatch> {
        self.array().map(|[byte]| byte)
    }

    /// A little-endian number in two's complement, of as many bytes as it needs.
    fn long(&mut self) -> Result<i64, Mismatch> {
        let length = self.byte()?;
        let stored = self.take(length.into())?;
        let negative = stored.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut bytes = [if negative { 0xFF } else { 0 }; size_of::<i64>()];
        match bytes.get_mut(..stored.len()) {
            Some(start) => start.copy_from_slice(stored),
            None => return Err(Mismatch::new("a number of at most 8 bytes", length.to_string())),
        }
        Ok(i64::from_le_bytes(bytes))
    }

    /// Text up to the next line feed, which is skipped.
    fn line(&mut self) -> Result<&'a str, Mismatch> {
        let rest = &self.bytes[self.position..];
        let rest = &rest[..rest.len().min(LONGEST_NAME + 1)];
        let line = rest.split(|&byte| byte == b'\n').next().filter(|line| line.len() < rest.len());
        let text = line.and_then(|line| str::from_utf8(line).ok());
        let text = text.ok_or_else(|| {
            Mismatch::new(
                format!("a name of at most {LONGEST_NAME} bytes"),
                format!("\"{}\"", rest[..rest.len().min(20)].escape_ascii()),
            )
        })?;
        self.position += text.len() + 1;
        Ok(text)
    }

    fn charge(&mut self) -> Result<(), Mismatch> {
        self.made += 1;
        if self.made > MOST_VALUES {
            return Err(Mismatch::new(format!("at most {MOST_VALUES} values"), "more"));
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Mismatch> {
        self.charge()?;
        self.stack.push(value);
        Ok(())
    }

    fn push_tuple(&mut self, items: Vec<Value<'a>>) -> Result<(), Mismatch> {
        let tuple = self.heap.new_tuple(items);
        self.push(tuple)
    }

    /// Takes the value on top, unless a run begins above it.
    fn pop(&mut self) -> Result<Value<'a>, Mismatch> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn top(&self) -> Result<Value<'a>, Mismatch> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&value) if self.stack.len() > floor => Ok(value),
            _ => Err(Mismatch::new("a value on the stack", "none")),
        }
    }

    /// Takes what was pushed since the last mark.
    fn pop_run(&mut self) -> Result<Vec<Value<'a>>, Mismatch> {
        let mark = self.marks.pop().ok_or_else(|| Mismatch::new("a mark on the stack", "none"))?;
        // Nothing below a mark is popped while it is there.
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Value<'a>>) -> Result<(), Mismatch> {
        match self.top()? {
            Value::List(list) => self.heap.lists[list].extend(items),
            other => return Err(Mismatch::new("a list to append to", other.kind())),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Value<'a>]) -> Result<(), Mismatch> {
        let (pairs, rest) = items.as_chunks();
        if !rest.is_empty() {
            return Err(Mismatch::new("a value for every key", "a key without one"));
        }
        match self.top()? {
            Value::Dict(dict) => self.heap.dicts[dict].extend(pairs.iter().map(|&[key, value]| (key, value))),
            other => return Err(Mismatch::new("a dictionary to put entries in", other.kind())),
        }
        Ok(())
    }

    fn remember(&mut self, index: u32) -> Result<(), Mismatch> {
        self.charge()?;
        self.memo.insert(index, self.top()?);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), Mismatch> {
        match self.memo.get(&index) {
            Some(&value) => self.push(value),
            None => Err(Mismatch::new(format!("a value under number {index} of the memo"), "none")),
        }
    }
}
