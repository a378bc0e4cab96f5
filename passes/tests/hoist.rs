//! What follows from parameters alone leaves the graphs: layers of one input become one, repeated layers stay one function,
//! and the program means what it meant.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::bert;
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::quant::{Scales, Scheme, Storage, Values};
use lith_ir::testing::Rng;
use lith_ir::{DType, Graph, Op, Program, Type};
use lith_passes::{Options, Stage, run};

fn layers() -> Program {
    bert(3, false, &|i| format!("encoder.layer.{i}"))
}

fn hoisted(program: Program, stored: BTreeMap<String, Storage>) -> Program {
    let options = Options { stop_after: Some(Stage::Hoist), stored, ..Options::default() };
    run(program, &options).unwrap().program
}

fn linears(graph: &Graph) -> usize {
    graph.petgraph().node_weights().filter(|n| n.op == Op::Linear {}).count()
}

fn params_of(graph: &Graph) -> BTreeSet<String> {
    let name = |op: &Op| match op {
        Op::Param { name, .. } => Some(name.clone()),
        _ => None,
    };
    graph.petgraph().node_weights().filter_map(|n| name(&n.op)).collect()
}

fn values(ty: &Type, rng: &mut Rng) -> Tensor {
    let shape = ty.static_shape().unwrap();
    let values = (0..shape.iter().product()).map(|_| f64::from(rng.between(-0.5, 0.5) as f32)).collect();
    Tensor::floats(ty.dtype, &shape, values).unwrap()
}

fn embeddings(program: &Program, params: &BTreeMap<String, Tensor>) -> Vec<Vec<u8>> {
    let ids = Tensor::ints(DType::I32, &[7], vec![1, 5, 9, 4, 2, 8, 3]).unwrap();
    let offsets = Tensor::ints(DType::I32, &[3], vec![0, 3, 7]).unwrap();
    let args: Vec<Tensor> = program.entries["encode"]
        .args()
        .iter()
        .map(|&a| match &program.entries["encode"].node(a).op {
            Op::Arg { name, .. } if name == "offsets" => offsets.clone(),
            _ => ids.clone(),
        })
        .collect();
    let interpreter = Interpreter::new(program, Mode::Rounded).unwrap();
    let results = interpreter.run("encode", &args, &|n| params.get(n).cloned(), &mut BTreeMap::new()).unwrap();
    results.iter().map(Tensor::to_bytes).collect()
}

#[test]
fn queries_keys_and_values_are_one_layer() {
    let before = layers();
    let after = hoisted(before.clone(), BTreeMap::new());
    assert_eq!(after.functions.len(), 1, "{after}");
    let layer = after.functions.values().next().unwrap();
    assert_eq!(linears(layer), 4, "{after}");
    // The layer's arguments are those that it reads, by the names of what they are made of.
    let names: Vec<String> = layer
        .args()
        .iter()
        .filter_map(|&a| match &layer.node(a).op {
            Op::Arg { name, .. } => Some(name.clone()),
            _ => None,
        })
        .collect();
    assert!(names.iter().any(|n| n == "attention.self.{query,key,value}.weight"), "{names:?}");
    assert!(layer.args().iter().all(|&a| !layer.users(a.into()).is_empty()), "{after}");
    for i in 0..3 {
        let derived = format!("bert.encoder.layer.{i}.attention.self.{{query,key,value}}.weight");
        assert!(after.derived.contains_key(&derived), "{after}");
    }
    let read = params_of(&after.entries["encode"]);
    assert!(read.iter().all(|n| !n.contains("self.query.")), "{read:?}");
    // The tokens' sums are the same, so no bit is another.
    let mut rng = Rng::new(3);
    let params: BTreeMap<String, Tensor> =
        before.params.iter().map(|(n, ty)| (n.clone(), values(ty, &mut rng))).collect();
    assert!(embeddings(&before, &params) == embeddings(&after, &params));
    let parsed: Program = after.to_string().parse().unwrap();
    assert_eq!(parsed.to_string(), after.to_string());
}

#[test]
fn weights_of_different_codes_stay_apart() {
    let scheme = |bits| {
        let values = Values::Offset { zero: 8 };
        Storage::Quantized(Scheme { bits, values, group: 32, scales: Scales::F32, mins: false })
    };
    let matrices = |bits: fn(usize, &str) -> u8| -> BTreeMap<String, Storage> {
        let names = (0..3).flat_map(|i| ["query", "key", "value"].map(|n| (i, n)));
        names.map(|(i, n)| (format!("bert.encoder.layer.{i}.attention.self.{n}.weight"), scheme(bits(i, n)))).collect()
    };
    // Alike in each layer, though not in all.
    let alike = hoisted(layers(), matrices(|i, _| if i == 1 { 8 } else { 4 }));
    assert!(alike.functions.values().all(|g| linears(g) == 4), "{alike}");
    // In one layer of another width.
    let mixed = hoisted(layers(), matrices(|i, n| if i == 1 && n == "value" { 8 } else { 4 }));
    assert!(mixed.functions.values().all(|g| linears(g) == 5), "{mixed}");
    let read: BTreeSet<String> = mixed.derived.values().flat_map(params_of).collect();
    assert!(read.iter().all(|n| !n.ends_with("value.weight")), "{read:?}");
}
