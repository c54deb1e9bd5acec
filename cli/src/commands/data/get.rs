//! `ayni data get`.

use std::path::{Path, PathBuf};

use protocol::api::{GetRequest, JobResult};

use super::GetArguments;
use crate::context::Context;
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::pairs;
use crate::text;

pub(super) async fn run(context: &Context, arguments: GetArguments) -> Result<(), Failure> {
    let target = arguments.target.as_deref().map(|target| locate(target, arguments.force));
    let request = GetRequest {
        hash: arguments.hash,
        providers: arguments.from,
        bytes_max: arguments.max,
        target: target.transpose()?,
        force: arguments.force,
        pin: arguments.pin,
        priority: arguments.priority.into(),
    };
    let client = context.client()?;
    let job = client.get_data(&request).await?;
    let result = context.wait_transfer(&client, job).await?;
    context.output.show(&result, || fetched(&result))
}

/// The absolute path of something that is to be written: its folder exists.
pub(crate) fn locate(target: &Path, force: bool) -> Result<String, Failure> {
    let shown = target.display();
    let name = target.file_name().ok_or_else(|| {
        Failure::new(USAGE, format!("{shown} does not end in the name of a file or folder"))
    })?;
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = std::fs::canonicalize(folder).map_err(|error| {
        Failure::new(USAGE, format!("cannot write to {}: {error}", folder.display()))
            .with_hint("make the folder first")
    })?;
    let path: PathBuf = folder.join(name);
    if !force && std::fs::symlink_metadata(&path).is_ok() {
        return Err(Failure::new(FAILED, format!("{} exists already", path.display()))
            .with_hint("name another target, or replace it with --force"));
    }
    path.into_os_string().into_string().map_err(|path| {
        Failure::new(USAGE, format!("the path {} is not UTF-8", path.display()))
            .with_hint("name another target")
    })
}

fn fetched(result: &JobResult) -> String {
    let JobResult::GetData {
        hash,
        bytes,
        files,
        collection,
        bytes_fetched,
        bytes_had,
        sources,
        target,
        pin,
        elapsed_ms,
    } = result
    else {
        return "Done.".to_owned();
    };
    let rate = bytes_fetched.saturating_mul(1_000).checked_div(*elapsed_ms).unwrap_or(0);
    let mut rows = vec![
        ("hash", hash.to_string()),
        ("size", text::bytes(*bytes)),
        (
            "fetched",
            format!(
                "{} in {}, {}/s",
                text::bytes(*bytes_fetched),
                text::duration(*elapsed_ms),
                text::bytes(rate)
            ),
        ),
        ("was here", text::bytes(*bytes_had)),
    ];
    if *collection {
        rows.push(("files", files.to_string()));
    }
    for source in sources {
        rows.push(("from", format!("{}: {}", source.node.short(), text::bytes(source.bytes))));
    }
    if let Some(target) = target {
        rows.push(("written to", target.clone()));
    }
    if let Some(pin) = pin {
        rows.push(("kept as", pin.to_string()));
    }
    pairs(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_absolute_and_not_overwritten() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path().canonicalize().expect("it exists");
        let check = |path: &Path, force| locate(path, force);
        let new = root.join("new");
        assert_eq!(check(&new, false).expect("free"), new.to_str().expect("UTF-8"));
        std::fs::write(&new, "x").expect("writable");
        assert!(check(&new, false).is_err());
        assert!(check(&new, true).is_ok());
        assert!(check(&root.join("none/new"), false).is_err());
        assert!(check(&root.join(".."), true).is_err());
        assert!(check(Path::new("/"), true).is_err());
    }
}
