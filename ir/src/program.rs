//! A program: entry points and functions over shared parameters and states.

use std::collections::BTreeMap;

use crate::dim::Symbols;
use crate::graph::Graph;
use crate::types::Type;

/// A set of graphs over shared parameters and states.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Name, usually the model type.
    pub name: String,
    /// Symbols with what is known of each; shared by all graphs.
    pub symbols: Symbols,
    /// Parameters by name; a [`crate::Op::Param`] refers to one.
    pub params: BTreeMap<String, Type>,
    /// Parameters that follow from others, by name, computed once when weights are packed. Each is a graph without
    /// arguments over `params` alone, with one result, which is the value; a [`crate::Op::Param`] elsewhere refers to it as
    /// to any other.
    pub derived: BTreeMap<String, Graph>,
    /// States by name: values that live from call to call. One with the name of a parameter has the parameter's value at
    /// first, the others are zeros.
    pub states: BTreeMap<String, Type>,
    /// Functions that graphs call; they refer to no parameter or state, all comes by argument.
    pub functions: BTreeMap<String, Graph>,
    /// Entry points.
    pub entries: BTreeMap<String, Graph>,
}

impl Program {
    /// An empty program.
    pub fn new(name: &str) -> Self {
        Program { name: name.into(), ..Program::default() }
    }

    /// Every graph with its name: functions, then entry points.
    pub fn graphs(&self) -> impl Iterator<Item = (&str, &Graph)> {
        self.functions.iter().chain(&self.entries).map(|(n, g)| (n.as_str(), g))
    }

    /// The type of a parameter, derived or not.
    pub fn param_type(&self, name: &str) -> Option<&Type> {
        let derived = || self.derived.get(name).and_then(|g| g.try_ty(g.results().first()?.1));
        self.params.get(name).or_else(derived)
    }

    /// The function or entry point of this name.
    pub fn graph(&self, name: &str) -> Option<&Graph> {
        self.functions.get(name).or_else(|| self.entries.get(name))
    }
}
