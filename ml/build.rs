//! Lets the worker and the tests find libtorch at run time.
//!
//! Link arguments of a dependency do not reach the programs that use it, so the run path that
//! `torch-sys` would need is set here. Without the feature `torch` nothing is linked.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    let folder = std::env::var("LIBTORCH").unwrap_or_default();
    let library = Path::new(&folder).join("lib");
    assert!(
        !folder.is_empty() && library.is_dir(),
        "libtorch not found at {folder:?}: run `cargo demo` or `cargo verify` once, which fetch \
         it, or set LIBTORCH"
    );
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", library.display());
}
