//! JSON objects as aligned columns, for people.

use serde_json::Value;

use super::client::clean;

/// The members `names` of each of `objects`, a line each under a line of names.
pub fn columns(names: &[&str], objects: &[Value]) -> String {
    let mut rows = vec![names.iter().map(|name| name.replace('_', " ").to_uppercase()).collect::<Vec<_>>()];
    rows.extend(objects.iter().map(|object| {
        let cell = |name: &&str| match &object[*name] {
            Value::Null => "-".to_owned(),
            Value::String(text) => clean(text),
            other => other.to_string(),
        };
        names.iter().map(cell).collect()
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..names.len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}
