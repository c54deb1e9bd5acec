//! What libtorch is made from: wheels pinned by hash, and the few files kept of each.
//!
//! No CPU-only wheel for Linux is published under PyPI's plain names, but the CPU part of the
//! CUDA wheel runs alone; `libtorch_cpu.so` looks for `libcudart` and `libcupti` at
//! `../../nvidia/cu13/lib`, so the layout of site-packages is kept.

/// One wheel.
#[derive(Clone, Debug)]
pub struct Wheel {
    /// Project and version for pip, `torch==2.13.0`.
    pub requirement: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
    /// What is kept of it.
    pub keep: Vec<Keep>,
}

impl Wheel {
    /// Name of the file under which a fetched wheel is kept.
    pub fn file_name(&self) -> String {
        format!("{}.whl", self.requirement.replace("==", "-"))
    }
}

/// Files to keep: one file, or with a trailing slash everything under a folder.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Path in the wheel.
    pub from: &'static str,
    /// Path under `.libtorch`.
    pub to: &'static str,
}

impl Keep {
    /// Where an entry of the wheel goes, if it is kept.
    pub fn destination(&self, entry: &str) -> Option<String> {
        if self.from.ends_with('/') {
            entry.strip_prefix(self.from).map(|rest| format!("{}{rest}", self.to))
        } else {
            (entry == self.from).then(|| self.to.to_owned())
        }
    }
}

/// What to install.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Content of `torch/build-version`, which `torch-sys` checks.
    pub version: &'static str,
    /// The wheels.
    pub wheels: Vec<Wheel>,
    /// Files without which the installation is not whole, under `.libtorch`.
    pub required: Vec<&'static str>,
    /// Bytes on disk after unpacking, for the check of free space.
    pub unpacked_bytes: u64,
}

/// A linker script: the wheel's own `libtorch.so` is empty and fails with GNU ld.
pub const LINKER_SCRIPT: &str = "INPUT(libtorch_cpu.so)\n";

const fn same(path: &'static str) -> Keep {
    Keep { from: path, to: path }
}

impl Recipe {
    /// libtorch 2.13.0 for the CPU, as tch 0.26 expects it.
    pub fn cpu() -> Self {
        let wheel = |requirement: &str, sha256: &str, bytes, keep: &[Keep]| Wheel {
            requirement: requirement.to_owned(),
            sha256: sha256.to_owned(),
            bytes,
            keep: keep.to_vec(),
        };
        Self {
            version: "2.13.0+cpu",
            wheels: vec![
                wheel(
                    "nvidia-cuda-runtime==13.0.96",
                    "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
                    2_243_632,
                    &[
                        same("nvidia/cu13/lib/libcudart.so.13"),
                        Keep {
                            from: "nvidia_cuda_runtime-13.0.96.dist-info/licenses/",
                            to: "nvidia/licences/cuda-runtime/",
                        },
                    ],
                ),
                wheel(
                    "nvidia-cuda-cupti==13.0.85",
                    "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
                    10_715_597,
                    &[
                        same("nvidia/cu13/lib/libcupti.so.13"),
                        Keep {
                            from: "nvidia_cuda_cupti-13.0.85.dist-info/licenses/",
                            to: "nvidia/licences/cuda-cupti/",
                        },
                    ],
                ),
                wheel(
                    "torch==2.13.0",
                    "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
                    526_574_961,
                    &[
                        same("torch/include/"),
                        same("torch/lib/libc10.so"),
                        same("torch/lib/libtorch_cpu.so"),
                        same("torch/lib/libgomp.so.1"),
                        Keep { from: "torch-2.13.0.dist-info/licenses/", to: "torch/licences/" },
                    ],
                ),
            ],
            required: vec![
                "nvidia/cu13/lib/libcudart.so.13",
                "nvidia/cu13/lib/libcupti.so.13",
                "torch/include/torch/csrc/api/include/torch/torch.h",
                "torch/lib/libc10.so",
                "torch/lib/libtorch_cpu.so",
                "torch/lib/libgomp.so.1",
                "torch/lib/libtorch.so",
                "torch/build-version",
            ],
            unpacked_bytes: 520_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_go_where_the_recipe_says() {
        let recipe = Recipe::cpu();
        let destination =
            |entry: &str| recipe.wheels[2].keep.iter().find_map(|keep| keep.destination(entry));
        for (entry, expect) in [
            ("torch/include/c10/a.h", Some("torch/include/c10/a.h")),
            ("torch/lib/libc10.so", Some("torch/lib/libc10.so")),
            ("torch/lib/libc10.so.old", None),
            ("torch/lib/libtorch_cuda.so", None),
            ("torch-2.13.0.dist-info/licenses/LICENSE", Some("torch/licences/LICENSE")),
        ] {
            assert_eq!(destination(entry).as_deref(), expect, "{entry}");
        }
    }

    #[test]
    fn the_version_is_the_one_that_wheels_carry() {
        let recipe = Recipe::cpu();
        let torch = &recipe.wheels[2].requirement;
        assert_eq!(torch.split("==").nth(1), recipe.version.split('+').next());
        assert!(recipe.wheels.iter().all(|wheel| wheel.sha256.len() == 64));
    }
}
