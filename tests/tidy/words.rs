//! Words that DESIGN.md section 3 does not use, in the names that code declares.

/// Drawers, above all. `task` is left out: tokio's tasks are named so.
const BANNED: [&str; 3] = ["util", "helper", "manager"];

/// Names that the line declares: modules, types, functions.
pub fn declared(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if ["mod", "struct", "enum", "trait", "fn", "type"].contains(&word)
            && let Some(name) = words.next()
        {
            names.push(name);
        }
    }
    names
}

/// The banned word of which the name is made, if any.
pub fn banned(name: &str) -> Option<&'static str> {
    let snake: String =
        name.chars().flat_map(|c| if c.is_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] }).collect();
    let parts: Vec<&str> = snake.split('_').collect();
    BANNED.into_iter().find(|word| parts.iter().any(|part| part == word || *part == format!("{word}s")))
}

#[test]
fn names_are_taken_apart() {
    assert_eq!(declared("pub async fn batch_helper(x: u8) -> Foo {"), ["batch_helper"]);
    assert_eq!(declared("pub struct LeaseManager;"), ["LeaseManager"]);
    assert_eq!(banned("LeaseManager"), Some("manager"));
    assert_eq!(banned("batch_helpers"), Some("helper"));
    assert_eq!(banned("utilisation"), None);
}
