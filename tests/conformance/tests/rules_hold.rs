//! The tree as it is keeps every rule.

use weft_conformance::tree::Tree;

#[test]
fn the_workspace_keeps_every_rule() {
    let found = weft_conformance::check(&Tree::real()).expect("the workspace can be checked");
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} breaches:\n{}",
        lines.len(),
        lines.join("\n")
    );
}
