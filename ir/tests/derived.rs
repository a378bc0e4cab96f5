//! Derived parameters: printed, parsed, verified, computed.

use std::collections::BTreeMap;

use lith_ir::interp::{InterpError, Interpreter, Mode, Tensor};
use lith_ir::text::{parse, print};
use lith_ir::{DType, Program, verify};

const TEXT: &str = r#"program "scaled"
symbol tokens in 0..=2147483647
param "a": f32[2]
param "b": f32[3]

derived "ab" () {
  %0: f32[2] = param {name: "a"}
  %1: f32[3] = param {name: "b"}
  %2: f32[5] = concat(%0, %1) {axis: 0}
  return value = %2
}

entry "main" (%0 x: f32[5]) {
  %1: f32[5] = param {name: "ab"}
  %2: f32[5] = mul(%0, %1)
  return y = %2
}
"#;

fn floats(values: &[f64]) -> Tensor {
    Tensor::floats(DType::F32, &[values.len()], values.to_vec()).unwrap()
}

fn run(program: &Program, params: &[(&str, &[f64])]) -> Result<Vec<f64>, InterpError> {
    let params: BTreeMap<&str, Tensor> = params.iter().map(|(n, v)| (*n, floats(v))).collect();
    let interpreter = Interpreter::new(program, Mode::Rounded)?;
    let x = floats(&[1.0, 1.0, 2.0, 1.0, 1.0]);
    let results = interpreter.run("main", &[x], &|n| params.get(n).cloned(), &mut BTreeMap::new())?;
    Ok(results[0].as_floats().unwrap().to_vec())
}

#[test]
fn a_derived_parameter_is_computed_unless_it_is_given() {
    let program = parse(TEXT).unwrap();
    assert_eq!(print(&program), TEXT);
    verify(&program).unwrap();
    assert_eq!(program.param_type("ab").unwrap().to_string(), "f32[5]");
    assert_eq!(program.params.len(), 2);
    let values = run(&program, &[("a", &[1.0, 2.0]), ("b", &[3.0, 4.0, 5.0])]).unwrap();
    assert_eq!(values, [1.0, 2.0, 6.0, 4.0, 5.0]);
    // What an artifact stores is the derived one alone.
    assert_eq!(run(&program, &[("ab", &[9.0, 8.0, 7.0, 6.0, 5.0])]).unwrap(), [9.0, 8.0, 14.0, 6.0, 5.0]);
    assert!(matches!(run(&program, &[("a", &[1.0, 2.0])]), Err(InterpError::NoParam(name)) if name == "b"));
    assert!(matches!(run(&program, &[("a", &[1.0]), ("b", &[3.0, 4.0, 5.0])]), Err(InterpError::WrongType { .. })));
    let interpreter = Interpreter::new(&program, Mode::Rounded).unwrap();
    assert!(interpreter.derive("a", &|_| None).is_err());
}

#[test]
fn a_derived_parameter_follows_from_parameters_alone() {
    for (from, to, problem) in [
        ("\"ab\" ()", "\"ab\" (%0 z: f32[2])", "derived parameter"),
        ("%0: f32[2] = param {name: \"a\"}", "%0: f32[2] = state_read {name: \"a\"}", "derived parameter"),
        ("%0: f32[2] = param {name: \"a\"}", "%0: f32[2] = param {name: \"c\"}", "unknown parameter `c`"),
        ("derived \"ab\"", "derived \"a\"", "derived and given"),
        ("  return value = %2\n}\n\nentry", "  return value = %2, again = %1\n}\n\nentry", "2 results"),
        ("%1: f32[5] = param {name: \"ab\"}", "%1: f32[5] = param {name: \"b\"}", "is f32[3], not f32[5]"),
    ] {
        let text = TEXT.replacen(from, to, 1);
        assert_ne!(text, TEXT, "{from}");
        let text = if from.starts_with("\"ab\" ()") {
            text.replacen("  %0: f32[2] = param {name: \"a\"}\n", "", 1)
        } else {
            text
        };
        let found = verify(&parse(&text).unwrap()).unwrap_err().to_string();
        assert!(found.contains(problem), "{found}");
    }
    assert!(parse(&format!("{TEXT}\n{}", &TEXT[TEXT.find("derived").unwrap()..TEXT.find("entry").unwrap()])).is_err());
}
