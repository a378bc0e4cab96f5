//! What an artifact says of itself: entry points, shapes, parameters. Written by code generation as JSON, read at load.
//! Knows nothing of how it is stored.

use serde::{Deserialize, Serialize};

use lith_ir::DType;

/// A size in the shape of an argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A parameter as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamEntry {
    /// Name on disk.
    pub name: String,
    /// Element type of the stored data.
    pub dtype: DType,
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
    /// Size in bytes.
    pub bytes: u64,
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
    /// All code.
    pub code: Vec<CodeEntry>,
    /// What the pipelines know of the model; its form is theirs.
    pub model: serde_json::Value,
}
