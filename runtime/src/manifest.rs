//! What an artifact says of itself: entry points, shapes, parameters. Written by code generation as JSON, read at load.
//! Knows nothing of how it is stored.

use serde::{Deserialize, Serialize};

use lith_ir::DType;
use lith_ir::quant::Scheme;

use crate::artifact::format::FormatError;

/// A size in the shape of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ArgSize {
    /// Always this.
    Constant(u64),
    /// `symbol + offset`: the call's array sets or confirms the symbol.
    Symbol {
        /// Index in [`Manifest::symbols`].
        symbol: usize,
        /// Added to the symbol's value.
        offset: i64,
    },
}

/// An argument of an entry point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArgEntry {
    /// Name callers use.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<ArgSize>,
    /// For the offsets of packed sequences: the number of tokens. The values are then checked to ascend from 0 to it
    /// before the code, which relies on that, runs.
    #[serde(default)]
    pub offsets_of: Option<ArgSize>,
}

/// A result of an entry point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultEntry {
    /// Name callers use.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Each size as an index in the dims table.
    pub shape: Vec<usize>,
}

/// A symbol with its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolEntry {
    /// Name.
    pub name: String,
    /// Least value.
    pub min: i64,
    /// Greatest value.
    pub max: i64,
    /// Every value is a multiple of this.
    pub multiple_of: i64,
}

/// Arguments that say where sequences lie in a paged cache, by index. Sequence `s` has the new tokens
/// `offsets[s]..offsets[s + 1]` and `past[s]` before them in the cache, in the pages `pages[s, ..]`. Code relies on what is
/// checked before: all numbers of pages that hold tokens of a sequence are those of pages, and a page that is written is
/// one sequence's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencesEntry {
    /// `i32[sequences + 1]`
    pub offsets: usize,
    /// `i32[sequences]`
    pub past: usize,
    /// `i32[sequences, pages of each]`
    pub pages: usize,
}

/// An entry point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPoint {
    /// Name.
    pub name: String,
    /// Offset of its [`crate::abi::EntryFn`] in the text section.
    pub code: u64,
    /// Index in the dims table of the arena's size in bytes.
    pub arena: usize,
    /// Arguments by index.
    pub args: Vec<ArgEntry>,
    /// Results by index.
    pub results: Vec<ResultEntry>,
    /// Sequences in the paged cache.
    #[serde(default)]
    pub sequences: Vec<SequencesEntry>,
}

/// A parameter as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamEntry {
    /// Name on disk.
    pub name: String,
    /// Element type of the stored data; of the values, where those are codes.
    pub dtype: DType,
    /// How codes stand for values, where the parameter is quantized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Logical shape.
    pub shape: Vec<usize>,
    /// Whether the data is a `[n, k]` matrix in panels of 16 outputs.
    pub panels: bool,
    /// Offset in the weight section.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// A state: memory that lives from call to call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEntry {
    /// Name.
    pub name: String,
    /// Size in bytes: of all of it, or of its part of each page.
    pub bytes: u64,
    /// Element type.
    pub dtype: DType,
    /// Shape of a state that is not in pages.
    #[serde(default)]
    pub shape: Vec<usize>,
    /// Where its part of each page of the cache starts; `None` for a state that is not in pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_offset: Option<u64>,
    /// Where in the section of weights the bytes are that it begins with; `None` for zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<u64>,
}

/// The paged cache of a program: one pool of pages for all states in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Tokens that a page holds of each state.
    pub page_tokens: usize,
    /// Bytes of a page, the parts of all states together.
    pub page_bytes: usize,
    /// Index of the symbol that counts the pages of the pool.
    pub pages: usize,
}

/// A kernel, for profiles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelEntry {
    /// Function or entry point, index in it, and the path of what it computes there (in a function: at its first call).
    pub name: String,
    /// What kind of code: `loop`, `gemm`, `attention` and so on.
    pub kind: String,
}

/// A named piece of code in the text section, for listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeEntry {
    /// Name, with the function or entry point it belongs to.
    pub name: String,
    /// Offset in the text section.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// What an artifact says of its program.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the program.
    pub name: String,
    /// Symbols, in the order the dims function takes them.
    pub symbols: Vec<SymbolEntry>,
    /// Number of entries in the dims table.
    pub dims: usize,
    /// Offset of the [`crate::abi::DimsFn`] in the text section.
    pub dims_code: u64,
    /// Entry points.
    pub entries: Vec<EntryPoint>,
    /// Parameters.
    pub params: Vec<ParamEntry>,
    /// States by index.
    pub states: Vec<StateEntry>,
    /// The pool of pages that states in pages lie in.
    #[serde(default)]
    pub cache: Option<CacheEntry>,
    /// Kernels by the number that code gives them.
    #[serde(default)]
    pub kernels: Vec<KernelEntry>,
    /// All code.
    pub code: Vec<CodeEntry>,
    /// What the pipelines know of the model; its form is theirs.
    pub model: serde_json::Value,
}

impl Manifest {
    /// Checks that everything the manifest points to lies inside: code in `text` bytes, parameters in `weights` bytes,
    /// indices in the dims table and the symbols.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] naming the first thing that does not.
    pub fn check(&self, text: u64, weights: u64) -> Result<(), FormatError> {
        let fail = |problem: String| Err(FormatError::Malformed { what: "the manifest", problem });
        if self.dims_code >= text {
            return fail(format!("dims code at {} of {text} bytes", self.dims_code));
        }
        for s in &self.symbols {
            if s.min < 0 || s.max < s.min || s.multiple_of < 1 {
                return fail(format!("symbol `{}`: {} to {}, multiple of {}", s.name, s.min, s.max, s.multiple_of));
            }
        }
        for e in &self.entries {
            if e.code >= text {
                return fail(format!("entry `{}` at {} of {text} bytes", e.name, e.code));
            }
            let result_sizes = e.results.iter().flat_map(|r| &r.shape);
            if let Some(i) = result_sizes.chain([&e.arena]).find(|&&i| i >= self.dims) {
                return fail(format!("entry `{}`: size {i} of {} sizes", e.name, self.dims));
            }
            let mut symbols = e.args.iter().flat_map(|a| a.shape.iter().chain(&a.offsets_of)).filter_map(|s| match s {
                ArgSize::Symbol { symbol, .. } => Some(*symbol),
                ArgSize::Constant(_) => None,
            });
            if let Some(i) = symbols.find(|&i| i >= self.symbols.len()) {
                return fail(format!("entry `{}`: symbol {i} of {}", e.name, self.symbols.len()));
            }
            for s in &e.sequences {
                let fits = |arg: usize, rank: usize| {
                    e.args.get(arg).is_some_and(|a| a.dtype == DType::I32 && a.shape.len() == rank)
                };
                let checked = e.args.get(s.offsets).is_some_and(|a| a.offsets_of.is_some());
                if !(checked && fits(s.offsets, 1) && fits(s.past, 1) && fits(s.pages, 2)) || self.cache.is_none() {
                    return fail(format!("entry `{}`: sequences in the cache by {s:?}", e.name));
                }
            }
        }
        if let Some(cache) = &self.cache
            && (cache.pages >= self.symbols.len() || cache.page_tokens == 0)
        {
            return fail(format!("{cache:?} with {} symbols", self.symbols.len()));
        }
        for state in &self.states {
            let Some(offset) = state.page_offset else { continue };
            let page = self.cache.map_or(0, |c| c.page_bytes as u64);
            if offset.checked_add(state.bytes).is_none_or(|end| end > page) {
                return fail(format!("state `{}` ends past the {page} bytes of a page", state.name));
            }
        }
        for p in &self.params {
            if p.offset.checked_add(p.bytes).is_none_or(|end| end > weights) {
                return fail(format!("parameter `{}` ends past the weights' {weights} bytes", p.name));
            }
        }
        Ok(())
    }

    /// The entry point of this name.
    pub fn entry(&self, name: &str) -> Option<&EntryPoint> {
        self.entries.iter().find(|e| e.name == name)
    }
}
