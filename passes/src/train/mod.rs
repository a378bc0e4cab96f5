//! From a program that computes a loss to one that learns: its trained parameters become states, and its entry points are
//! the steps of training. Knows optimizers and gradients, nothing of data, schedules or files.
//!
//! | entry | arguments | results | states |
//! |---|---|---|---|
//! | `train_step` | those of the loss, `items`, [`HYPERPARAMETERS`] | `loss_sum`, `items`, `grad_norm` | parameters, moments |
//! | `accumulate` | those of the loss | `loss_sum`, `items` | gradients are added to |
//! | `apply` | `items`, [`HYPERPARAMETERS`] | `grad_norm` | parameters, moments; gradients become zero |
//! | `eval_step` | those of the loss | those of the loss | |
//!
//! Gradients are of `loss_sum / items`; that argument (`f32`) counts what the losses are of, in the whole window where several batches were accumulated, so that a window of
//! small batches is one large batch.

mod clip;
mod optimizer;

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::{Builder, DType, Graph, GraphError, Op, Program, Type, Value};

use crate::differentiate::gradients;
use crate::{Compiled, Options, PassError, canonicalize};
pub use optimizer::Optimizer;
use optimizer::Scalars;

/// The entry point of a traced program that is trained; its results `loss_sum` and `items` are `f32` scalars.
pub const LOSS: &str = "loss";

/// The arguments of a step that tell the optimizer what to do, `f64` scalars in this order: the rate of this step, how much
/// parameters decay, the two factors that moments keep (momentum and none, for optimizers with one), the number that keeps
/// quotients finite, the greatest norm of the gradient (0: any), and the number of this step, from 1.
pub const HYPERPARAMETERS: [&str; 7] =
    ["learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "max_grad_norm", "step"];

/// The entry point that computes the loss as it is when the model is used: traced without dropout, or that of [`LOSS`].
pub const EVAL: &str = "eval_step";

/// What is trained, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// The parameters that change; each becomes a state of its name, which begins with the parameter's value.
    pub trained: BTreeSet<String>,
    /// Those of them that weight decay is for.
    pub decayed: BTreeSet<String>,
    /// How gradients become new values.
    pub optimizer: Optimizer,
}

/// Name of the state with the sum of a parameter's gradients.
pub fn gradient_state(param: &str) -> String {
    format!("{param}/gradient")
}

pub(crate) fn run(compiled: &mut Compiled, options: &Options) -> Result<(), PassError> {
    let Some(training) = &options.training else { return Ok(()) };
    let program = &mut compiled.program;
    let Some(mut loss) = program.entries.remove(LOSS) else {
        return Err(PassError::broken(LOSS, "a program to train has no such entry point"));
    };
    for name in &training.trained {
        let Some(ty) = program.params.get(name).cloned() else {
            return Err(PassError::broken(LOSS, format!("no parameter `{name}` to train")));
        };
        program.states.insert(name.clone(), ty.clone());
        program.states.insert(gradient_state(name), ty.clone());
        for (state, ty) in training.optimizer.states(name, &ty) {
            program.states.insert(state, ty);
        }
    }
    let mut eval = program.entries.remove(EVAL).unwrap_or_else(|| loss.clone());
    read_states(&mut eval, &training.trained).map_err(PassError::in_graph(EVAL))?;
    let trained = read_states(&mut loss, &training.trained).map_err(PassError::in_graph(LOSS))?;
    let steps = Steps { loss: &loss, trained: &trained, training };
    let built: [(&str, Result<Graph, PassError>); 3] =
        [("train_step", steps.train_step()), ("accumulate", steps.accumulate()), ("apply", steps.apply(program))];
    for (name, graph) in built {
        program.entries.insert(name.into(), graph?);
    }
    program.entries.insert(EVAL.into(), eval);
    for (name, graph) in &mut program.entries {
        canonicalize::simplify(name, graph)?;
    }
    Ok(())
}

/// Reads trained parameters from their states: the values by parameter.
fn read_states(graph: &mut Graph, trained: &BTreeSet<String>) -> Result<BTreeMap<String, Value>, GraphError> {
    let mut read = BTreeMap::new();
    for node in graph.petgraph().node_indices().collect::<Vec<_>>() {
        let Op::Param { name, ty } = graph.node(node).op.clone() else { continue };
        if trained.contains(&name) {
            let value = match read.get(&name) {
                Some(&value) => value,
                None => graph.add(Op::StateRead { name: name.clone(), ty }, &[], "")?,
            };
            read.insert(name, value);
            graph.replace(node.into(), value);
        }
    }
    graph.prune();
    Ok(read)
}

/// The entry points in the making.
struct Steps<'a> {
    loss: &'a Graph,
    /// Trained parameters in [`Steps::loss`].
    trained: &'a BTreeMap<String, Value>,
    training: &'a Training,
}

impl Steps<'_> {
    /// The graph of the loss with gradients of `loss_sum` by parameter, and its `loss_sum` and `items` as only results.
    fn with_gradients(&self, entry: &str) -> Result<(Graph, BTreeMap<String, Value>), PassError> {
        let mut graph = self.loss.clone();
        let [loss, items] = ["loss_sum", "items"].map(|name| result(&graph, name));
        let (Some(loss), Some(items)) = (loss, items) else {
            return Err(PassError::broken(LOSS, "expected results `loss_sum` and `items`"));
        };
        let wrt: Vec<Value> = self.trained.values().copied().collect();
        let found = gradients(&mut graph, loss, &wrt).map_err(|e| PassError::broken(entry, e.to_string()))?;
        graph.clear_results();
        graph.add_result("loss_sum", loss);
        graph.add_result("items", items);
        Ok((graph, self.trained.keys().cloned().zip(found).collect()))
    }

    fn train_step(&self) -> Result<Graph, PassError> {
        let (mut graph, gradients) = self.with_gradients("train_step")?;
        self.optimize(&mut graph, &gradients).map_err(PassError::in_graph("train_step"))?;
        Ok(graph)
    }

    fn accumulate(&self) -> Result<Graph, PassError> {
        let (mut graph, gradients) = self.with_gradients("accumulate")?;
        for (param, gradient) in gradients {
            let mut add = || -> Result<(), GraphError> {
                let (name, ty) = (gradient_state(&param), graph.ty(gradient).clone());
                let mut b = Builder::new(&mut graph, &format!("accumulate.{param}"));
                let sum = b.op(Op::StateRead { name: name.clone(), ty }, &[])?;
                let sum = b.add(sum, gradient)?;
                b.op(Op::StateWrite { name }, &[sum]).map(drop)
            };
            add().map_err(PassError::in_graph("accumulate"))?;
        }
        Ok(graph)
    }

    fn apply(&self, program: &Program) -> Result<Graph, PassError> {
        let mut graph = Graph::new();
        let mut build = || -> Result<(), GraphError> {
            let mut gradients = BTreeMap::new();
            let mut b = Builder::new(&mut graph, "apply");
            for param in &self.training.trained {
                let Some(ty) = program.params.get(param).cloned() else { continue };
                let sum = b.op(Op::StateRead { name: gradient_state(param), ty: ty.clone() }, &[])?;
                gradients.insert(param.clone(), sum);
                let zero = b.full(&ty, 0.0)?;
                b.op(Op::StateWrite { name: gradient_state(param) }, &[zero])?;
            }
            self.optimize(&mut graph, &gradients)
        };
        build().map_err(PassError::in_graph("apply"))?;
        Ok(graph)
    }

    /// Adds the optimizer, its arguments and the result `grad_norm`.
    fn optimize(&self, graph: &mut Graph, gradients: &BTreeMap<String, Value>) -> Result<(), GraphError> {
        let items = Builder::new(graph, "clip").arg("items", Type::scalar(DType::F32))?;
        let scalars = Scalars::arguments(&mut Builder::new(graph, "optimizer"))?;
        let (factor, norm) = clip::factor(&mut Builder::new(graph, "clip"), items, scalars.max_grad_norm, gradients)?;
        graph.add_result("grad_norm", norm);
        for (param, &gradient) in gradients {
            let mut b = Builder::new(graph, &format!("optimizer.{param}"));
            let ty = b.ty(gradient);
            let value = b.op(Op::StateRead { name: param.clone(), ty: ty.clone() }, &[])?;
            let factor = b.expand(factor, &ty.shape)?;
            let gradient = b.mul(gradient, factor)?;
            let decays = self.training.decayed.contains(param);
            let value = self.training.optimizer.update(&mut b, &scalars, param, value, gradient, decays)?;
            b.op(Op::StateWrite { name: param.clone() }, &[value])?;
        }
        Ok(())
    }
}

fn result(graph: &Graph, name: &str) -> Option<Value> {
    graph.results().iter().find(|(n, _)| n == name).map(|(_, v)| *v)
}
