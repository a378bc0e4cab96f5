//! `--report`: one page of HTML with the curves and figures of a run, which needs no script, font or other file. Must not
//! know programs or files.

use std::fmt::Write;

use serde_json::Value;

use super::arguments::TrainingArguments;
use super::state::{Logs, TrainerState};

/// Most points of a curve; longer ones are averaged piece by piece.
const POINTS: usize = 500;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
/// Room for the axes: left, right, top, bottom.
const ROOM: (f64, f64, f64, f64) = (64.0, 16.0, 12.0, 40.0);

const STYLE: &str = "
:root { --ground: #fcfcfb; --ink: #20221f; --quiet: #6b6f6a; --grid: #e3e4e0; --one: #2458a6; --two: #b4531a; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #171816; --ink: #e6e7e3; --quiet: #9a9e97; --grid: #2f312d; --one: #7fb0f5; --two: #f0a06a; }
}
body { background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 86rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.05rem; margin: 0 0 .4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 2rem; margin: 2rem 0; }
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
text { fill: var(--quiet); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--grid); } .one, .two { fill: none; stroke-width: 2; stroke-linejoin: round; }
.one { stroke: var(--one); } .two { stroke: var(--two); } circle.one { fill: var(--one); } circle.two { fill: var(--two); }
.key { color: var(--quiet); font-size: .85rem; } .key b { font-weight: 600; } .key b.one { color: var(--one); } .key b.two { color: var(--two); }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 2rem; align-items: start; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } td { border-top: 1px solid var(--grid); padding: .25rem .5rem .25rem 0; overflow-wrap: anywhere; }
td + td { text-align: right; font-variant-numeric: tabular-nums; }
";

/// A curve: its name and its points, by rising step.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The page.
pub(super) fn html(title: &str, facts: &[(String, String)], args: &TrainingArguments, state: &TrainerState) -> String {
    let title = escaped(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<div class=\"charts\">\n"
    );
    for (name, curves) in charts(&state.log_history) {
        page.push_str(&chart(&name, &curves));
    }
    page.push_str("</div>\n<div class=\"tables\">\n");
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let mut run: Vec<(String, String)> = facts.to_vec();
    run.push(("updates".into(), format!("{} of {}", state.global_step, state.max_steps)));
    run.push(("epochs".into(), short(state.epoch)));
    if let Some(best) = state.best_metric {
        let step = state.best_global_step.map_or(String::new(), |step| format!(" (update {step})"));
        run.push(("best metric".into(), format!("{}{step}", short(best))));
    }
    page.push_str(&table("Run", &run));
    let defaults = TrainingArguments::default().to_json();
    let given = args.to_json().into_iter().filter(|(name, value)| defaults.get(name) != Some(value));
    page.push_str(&table(
        "Arguments that are not at their default",
        &given.map(|(n, v)| (n, text(&v))).collect::<Vec<_>>(),
    ));
    if let Some(last) = state.log_history.last() {
        let rows = last.iter().map(|(name, value)| (name.clone(), value.as_f64().map_or(text(value), short)));
        page.push_str(&table("Last log", &rows.collect::<Vec<_>>()));
    }
    page.push_str("</div>\n</body>\n</html>\n");
    page
}

/// The charts of a log: losses together, all other figures by themselves.
fn charts(history: &[Logs]) -> Vec<(String, Vec<Curve>)> {
    let curve = |key: &str, name: &str| -> Option<Curve> {
        let points = history.iter().filter_map(|line| Some((line.get("step")?.as_f64()?, line.get(key)?.as_f64()?)));
        let points = thinned(points.collect());
        (!points.is_empty()).then(|| Curve { name: name.into(), points })
    };
    let mut charts = Vec::new();
    let losses: Vec<Curve> =
        [("loss", "training"), ("eval_loss", "evaluation")].iter().filter_map(|(k, n)| curve(k, n)).collect();
    if !losses.is_empty() {
        charts.push(("Loss".to_string(), losses));
    }
    for (key, name) in [("learning_rate", "Learning rate"), ("grad_norm", "Norm of the gradients")] {
        charts.extend(curve(key, name).map(|curve| (name.to_string(), vec![curve])));
    }
    let mut seen: Vec<&str> = Vec::new();
    for key in history.iter().flat_map(|line| line.keys()) {
        let timed = key.ends_with("_runtime") || key.ends_with("_per_second");
        if key.starts_with("eval_") && key != "eval_loss" && !timed && !seen.contains(&key.as_str()) {
            seen.push(key);
            charts.extend(curve(key, "evaluation").map(|curve| (key.clone(), vec![curve])));
        }
    }
    charts
}

/// At most [`POINTS`] points: means of equal pieces.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let piece = points.len().div_ceil(POINTS).max(1);
    let mean =
        |points: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    points.chunks(piece).map(|points| (mean(points, |p| p.0), mean(points, |p| p.1))).collect()
}

/// Round values that cover a range, about five of them.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let scale = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * scale).find(|&step| step >= rough).unwrap_or(scale * 10.0);
    let first = (low / step).ceil() as i64;
    // A few more than there may be, should rounding have it so.
    (0..16).map(|i| (first + i) as f64 * step).take_while(|&tick| tick <= high + step * 1e-6).collect()
}

fn chart(name: &str, curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let low = all().map(of).fold(f64::INFINITY, f64::min);
        let high = all().map(of).fold(f64::NEG_INFINITY, f64::max);
        // A single value has a range around it.
        let pad = if high > low { 0.0 } else { (high.abs() * 0.1).max(1e-9) };
        (low - pad, high + pad)
    };
    let ((x0, x1), (y0, y1)) = (range(|p| p.0), range(|p| p.1));
    let (left, right, top, bottom) = ROOM;
    let x = |step: f64| left + (step - x0) / (x1 - x0) * (WIDTH - left - right);
    let y = |value: f64| HEIGHT - bottom - (value - y0) / (y1 - y0) * (HEIGHT - top - bottom);
    let mut svg = String::new();
    let label = escaped(name);
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<figure>\n<h2>{label}</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label} by update\">\n"
    );
    for tick in ticks(y0, y1) {
        let at = y(tick);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{left}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - right
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            at + 4.0,
            short(tick)
        );
    }
    for tick in ticks(x0, x1) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(tick),
            HEIGHT - bottom + 18.0,
            short(tick)
        );
    }
    let _ =
        writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">update</text>", WIDTH - right, HEIGHT - 4.0);
    for (curve, class) in curves.iter().zip(["one", "two"]) {
        let points: Vec<String> =
            curve.points.iter().map(|&(step, value)| format!("{:.1},{:.1}", x(step), y(value))).collect();
        let _ = writeln!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
        // Few points are marked, and tell their values to a pointer.
        for &(step, value) in curve.points.iter().filter(|_| curve.points.len() <= 60) {
            let (cx, cy) = (x(step), y(value));
            let _ = writeln!(
                svg,
                "<circle class=\"{class}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\"><title>{}, update {}: {}</title></circle>",
                escaped(&curve.name),
                short(step),
                short(value)
            );
        }
    }
    svg.push_str("</svg>\n");
    let keys: Vec<String> = curves
        .iter()
        .zip(["one", "two"])
        .map(|(curve, class)| {
            let last = curve.points.last().map_or(String::new(), |point| short(point.1));
            format!("<b class=\"{class}\">{}</b> {last} at the end", escaped(&curve.name))
        })
        .collect();
    let _ = writeln!(svg, "<figcaption class=\"key\">{}</figcaption>\n</figure>", keys.join(" &nbsp; "));
    svg
}

fn table(name: &str, rows: &[(String, String)]) -> String {
    let mut text = format!("<section><h2>{}</h2>\n<table>\n", escaped(name));
    for (name, value) in rows {
        let _ = writeln!(text, "<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(value));
    }
    text.push_str("</table></section>\n");
    text
}

/// A number with at most four digits that count.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        "0".into()
    } else if !(1e-3..1e6).contains(&magnitude) {
        let text = format!("{value:.3e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'))
    } else if magnitude >= 1000.0 && value.fract() == 0.0 {
        format!("{value}")
    } else {
        let decimals = (3 - magnitude.log10().floor() as i32).clamp(0, 6) as usize;
        let text = format!("{value:.decimals$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(lines: usize) -> TrainerState {
        let mut state = TrainerState { global_step: lines as u64, max_steps: lines as u64, ..TrainerState::default() };
        for i in 1..=lines {
            let line = json!({"loss": 1.0 / i as f64, "learning_rate": 1e-5, "grad_norm": i as f64, "step": i});
            state.log_history.push(line.as_object().unwrap().clone());
            let line = json!({"eval_loss": 2.0 / i as f64, "eval_f1": 0.5, "eval_runtime": 1.0, "step": i});
            state.log_history.push(line.as_object().unwrap().clone());
        }
        state
    }

    /// One page with every curve, nothing from elsewhere, and texts that stay texts.
    #[test]
    fn page_is_whole_and_harmless() {
        let args = TrainingArguments {
            run_name: Some("</td><script>alert(1)</script>".into()),
            ..TrainingArguments::default()
        };
        let page = html("A & B <x>", &[("model".into(), "\"m\"".into())], &args, &state(20));
        assert_eq!(page.matches("<svg").count(), 4);
        assert_eq!(page.matches("<polyline").count(), 5);
        assert_eq!(page.matches("<circle").count(), 100);
        for part in
            ["<title>A &amp; B &lt;x&gt;</title>", "Learning rate", "eval_f1", "20 of 20", "&quot;m&quot;", "run_name"]
        {
            assert!(page.contains(part), "{part}");
        }
        for part in ["<script", "http", "src=", "url(", "NaN", "inf"] {
            assert!(!page.contains(part), "{part}");
        }
        for tag in ["figure", "svg", "table", "tr", "td", "section", "div"] {
            let open = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        let long = html("long", &[], &TrainingArguments::default(), &state(5000));
        assert!(long.len() < 200_000, "{}", long.len());
        let empty = html("empty", &[], &TrainingArguments::default(), &TrainerState::default());
        assert!(!empty.contains("<svg"));
    }

    #[test]
    fn ticks_and_numbers() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(0.3, 0.69).len(), 4);
        let rows = [
            (0.0, "0"),
            (0.12345, "0.1235"),
            (1234.0, "1234"),
            (12.5, "12.5"),
            (5e-5, "5e-5"),
            (2.5e7, "2.5e7"),
            (3.0, "3"),
        ];
        for (value, text) in rows {
            assert_eq!(short(value), text);
        }
    }
}
