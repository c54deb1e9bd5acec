//! Whether any library holds documentation tests, which nextest does not run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Members of the workspace that are libraries.
const CRATES: [&str; 6] = ["protocol", "storage", "ml", "daemon", "cli", "testnet"];
/// What opens a code block that is not run.
const NOT_RUN: [&str; 8] =
    ["text", "ignore", "toml", "json", "sh", "console", "compile_fail", "mermaid"];

/// Looks for a code block in documentation comments that rustdoc would run.
pub(super) fn exist(root: &Path) -> Result<bool> {
    for folder in CRATES {
        if any_file(&root.join(folder).join("src"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn any_file(folder: &Path) -> Result<bool> {
    if !folder.is_dir() {
        return Ok(false);
    }
    let entries =
        fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let found = if path.is_dir() {
            any_file(&path)?
        } else {
            path.extension().is_some_and(|extension| extension == "rs")
                && has_doc_test(&fs::read_to_string(&path)?)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every second fence opens a block; its word says whether it runs.
fn has_doc_test(source: &str) -> bool {
    source
        .lines()
        .filter_map(|line| {
            let line = line.trim_start();
            let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
            text.trim_start().strip_prefix("```")
        })
        .step_by(2)
        .any(|word| !NOT_RUN.iter().any(|not_run| word.starts_with(not_run)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_run_count() {
        let block =
            |word: &str| format!("/// Text.\n///\n/// ```{word}\n/// x\n/// ```\nfn f() {{}}");
        for (word, expect) in
            [("", true), ("rust", true), ("no_run", true), ("text", false), ("ignore", false)]
        {
            assert_eq!(has_doc_test(&block(word)), expect, "{word:?}");
        }
        assert!(!has_doc_test("// ``` not documentation"));
        assert!(has_doc_test(&format!("{}\n{}", block("text"), block(""))));
    }
}
