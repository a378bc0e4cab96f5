//! Weights of an artifact from new values of the parameters that it was compiled with: what compilation did with them is
//! in the artifact, as the entries of its manifest and the graphs of its derived parameters.

use std::collections::BTreeMap;

use super::{Derived, WeightData, WeightError, stored};
use crate::artifact::format::{FormatError, section};
use crate::artifact::{Artifact, ArtifactError};
use crate::manifest::ParamEntry;

/// How the weights of an artifact follow from parameters.
#[derive(Clone, Debug)]
pub struct Repacking(Derived);

impl Repacking {
    /// That of an artifact.
    ///
    /// # Errors
    /// When its graph is missing or damaged.
    pub fn new(artifact: &Artifact) -> Result<Repacking, ArtifactError> {
        let program = lith_ir::text::parse(artifact.text_section(section::GRAPH)?).map_err(|e| {
            let source = FormatError::Malformed { what: "the graph", problem: e.to_string() };
            ArtifactError::Format { path: artifact.path().into(), source }
        })?;
        Ok(Repacking(Derived::new(&program)))
    }

    /// The parameters that a stored one is or follows from.
    pub fn sources<'n>(&'n self, entry: &'n ParamEntry) -> Vec<&'n str> {
        self.0.sources(&entry.name).map_or_else(|| vec![entry.name.as_str()], |sources| sources.into_iter().collect())
    }

    /// The bytes of a stored parameter from new values, which `value` gives by name; `None` where it gives none of those
    /// that the parameter is or follows from, so that its bytes stay.
    ///
    /// # Errors
    /// When `value` fails, gives some of them only, or values that are not what the program says.
    pub fn bytes<'v, E: From<WeightError>>(
        &self,
        entry: &ParamEntry,
        value: &mut dyn FnMut(&str) -> Result<Option<WeightData<'v>>, E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let sources = self.sources(entry);
        let mut given = BTreeMap::new();
        for &source in &sources {
            given.extend(value(source)?.map(|data| (source, data)));
        }
        if given.is_empty() {
            return Ok(None);
        }
        let data = match given.remove(entry.name.as_str()) {
            Some(own) => own,
            None => self.0.value(&entry.name, given)?,
        };
        Ok(Some(stored(entry, &data)?.into_owned()))
    }
}
