//! What a pickle of tensors can be made of.

use safetensors::Dtype;

/// What `torch.save` calls the storages of a type, all of them in the module `torch`.
const STORAGES: [(&str, Dtype); 10] = [
    ("FloatStorage", Dtype::F32),
    ("HalfStorage", Dtype::F16),
    ("BFloat16Storage", Dtype::BF16),
    ("DoubleStorage", Dtype::F64),
    ("LongStorage", Dtype::I64),
    ("IntStorage", Dtype::I32),
    ("ShortStorage", Dtype::I16),
    ("CharStorage", Dtype::I8),
    ("ByteStorage", Dtype::U8),
    ("BoolStorage", Dtype::BOOL),
];

/// What is not as it should be, where only the caller knows in which file and at what place.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) expected: String,
    pub(super) found: String,
}

impl Mismatch {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }
}

/// A name that a pickle may refer to: all that describing tensors takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`, of state dictionaries and of (empty) hooks.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.FloatStorage` and the like.
    Storage(Dtype),
}

impl Global {
    pub(super) fn named(module: &str, name: &str) -> Result<Self, Mismatch> {
        let storage = || STORAGES.iter().find(|(storage, _)| *storage == name);
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Self::RebuildParameter),
            ("torch", _) if let Some((_, dtype)) = storage() => Ok(Self::Storage(*dtype)),
            _ => Err(Mismatch::new(
                "only names that describe dense tensors (collections.OrderedDict, torch._utils._rebuild_tensor_v2, \
                 torch.FloatStorage and the like)",
                format!("{}.{}, which is not run", module.escape_debug(), name.escape_debug()),
            )),
        }
    }
}

/// A value. Those that hold others are indices into a [`Heap`], so that copies are cheap, Python's aliases are aliases
/// here, and nothing recurses however deep a pickle nests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// Only metadata has these, which nobody reads.
    Float,
    Text(&'a str),
    Global(Global),
    Tuple(Tuple),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// A tuple's place in [`Heap::items`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    start: usize,
    len: usize,
}

impl Value<'_> {
    /// The value's kind, for messages.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "a whole number",
            Self::Float => "a floating-point number",
            Self::Text(_) => "a text",
            Self::Global(_) => "a name",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// A run of values of one type, which tensors may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) dtype: Dtype,
    /// Values, not bytes.
    pub(super) len: usize,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor<'a> {
    pub(super) storage: Storage<'a>,
    /// Values of the storage before the tensor's first.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Values of the storage from one index to the next, for each dimension.
    pub(super) strides: Vec<usize>,
}

/// More dimensions than any weight has.
const MOST_DIMENSIONS: usize = 8;

/// What values refer to.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    items: Vec<Value<'a>>,
    pub(super) lists: Vec<Vec<Value<'a>>>,
    pub(super) dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<Tensor<'a>>,
}

impl<'a> Heap<'a> {
    pub(super) fn new_tuple(&mut self, items: impl IntoIterator<Item = Value<'a>>) -> Value<'a> {
        let start = self.items.len();
        self.items.extend(items);
        Value::Tuple(Tuple { start, len: self.items.len() - start })
    }

    pub(super) fn new_list(&mut self) -> Value<'a> {
        self.lists.push(Vec::new());
        Value::List(self.lists.len() - 1)
    }

    pub(super) fn new_dict(&mut self) -> Value<'a> {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    fn tuple(&self, value: Value<'a>, what: &str) -> Result<&[Value<'a>], Mismatch> {
        match value {
            Value::Tuple(Tuple { start, len }) => Ok(&self.items[start..start + len]),
            other => Err(Mismatch::new(format!("a tuple for {what}"), other.kind())),
        }
    }

    /// The result of calling `callable` with the tuple `arguments`.
    pub(super) fn call(&mut self, callable: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>, Mismatch> {
        let Value::Global(callable) = callable else {
            return Err(Mismatch::new("a function's name", callable.kind()));
        };
        let arguments = self.tuple(arguments, "arguments")?;
        match (callable, arguments) {
            (Global::OrderedDict, []) => Ok(self.new_dict()),
            // What follows the strides is about gradients, but for the last, which may say that values are negated.
            (Global::RebuildTensor, &[storage, offset, shape, strides, _, _]) => {
                self.view(storage, offset, shape, strides)
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, _, _, metadata]) => match metadata {
                Value::Dict(dict) if self.dicts[dict].is_empty() => self.view(storage, offset, shape, strides),
                Value::None => self.view(storage, offset, shape, strides),
                _ => Err(Mismatch::new("a tensor of values as they are", "one that is marked as conjugate or negated")),
            },
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), _, _]) => Ok(tensor),
            (callable, arguments) => {
                let kinds: Vec<_> = arguments.iter().take(MOST_DIMENSIONS).map(|argument| argument.kind()).collect();
                Err(Mismatch::new(
                    "arguments as torch.save writes them",
                    format!("{callable:?} of {} ({})", arguments.len(), kinds.join(", ")),
                ))
            }
        }
    }

    fn view(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
    ) -> Result<Value<'a>, Mismatch> {
        let Value::Storage(storage) = storage else {
            return Err(Mismatch::new("a storage for a tensor", storage.kind()));
        };
        let tensor = Tensor {
            storage: self.storages[storage],
            offset: count(offset, "the offset")?,
            shape: self.counts(shape, "the shape")?,
            strides: self.counts(strides, "the strides")?,
        };
        if tensor.shape.len() != tensor.strides.len() {
            return Err(Mismatch::new(
                format!("{} strides for the shape {:?}", tensor.shape.len(), tensor.shape),
                format!("{:?}", tensor.strides),
            ));
        }
        self.tensors.push(tensor);
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    fn counts(&self, value: Value<'a>, what: &str) -> Result<Vec<usize>, Mismatch> {
        let items = self.tuple(value, what)?;
        if items.len() > MOST_DIMENSIONS {
            return Err(Mismatch::new(format!("at most {MOST_DIMENSIONS} dimensions"), items.len().to_string()));
        }
        items.iter().map(|&item| count(item, what)).collect()
    }

    /// What the tuple `id` stands for: `("storage", type, key, device, length)`, and in files of before PyTorch 1.6 a
    /// view, which has been none since 0.4.
    pub(super) fn persistent(&mut self, id: Value<'a>) -> Result<Value<'a>, Mismatch> {
        let storage = match self.tuple(id, "a persistent id")? {
            &[Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), _, len]
            | &[Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), _, len, Value::None] => {
                Storage { key, dtype, len: count(len, "the length of a storage")? }
            }
            other => {
                let kinds: Vec<_> = other.iter().take(MOST_DIMENSIONS).map(|item| item.kind()).collect();
                return Err(Mismatch::new(
                    "a persistent id (\"storage\", type, key, device, length)",
                    format!("({})", kinds.join(", ")),
                ));
            }
        };
        self.storages.push(storage);
        Ok(Value::Storage(self.storages.len() - 1))
    }
}

fn count(value: Value<'_>, what: &str) -> Result<usize, Mismatch> {
    let expected = || format!("a whole number of at least 0 in {what}");
    match value {
        Value::Int(number) => usize::try_from(number).map_err(|_| Mismatch::new(expected(), number.to_string())),
        other => Err(Mismatch::new(expected(), other.kind())),
    }
}
