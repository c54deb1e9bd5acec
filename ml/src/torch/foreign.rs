//! The only file of this crate with unsafe code beside `allocator`: the bytes of a tensor's values
//! without copying them, and loading a part of libtorch that the linker dropped.
#![expect(unsafe_code, reason = "neither can be done in another way")]

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Device, Kind, TchError, Tensor};

/// Loads a library of libtorch by its file name, for as long as the process lives. It is looked
/// for where libtorch itself was found. An error says why not.
pub fn load(name: &str) -> Result<(), String> {
    // SAFETY: the name is one of libtorch's own libraries, in the folder that this program was
    // linked against and whose code it runs anyway; its initialisers register kernels and expect
    // nothing of the caller. It is never unloaded.
    let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) };
    match library {
        Ok(library) => {
            let _stays_loaded = library.into_raw();
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Calls `read` with the values of an f32 tensor as little-endian bytes (the byte order of every
/// machine libtorch runs on here). Tensors of other devices are copied first.
pub fn with_bytes<R>(tensor: &Tensor, read: impl FnOnce(&[u8]) -> R) -> Result<R, TchError> {
    if tensor.kind() != Kind::Float {
        return Err(TchError::Kind("only f32 tensors are read as bytes".into()));
    }
    let tensor = tensor.f_to(Device::Cpu)?.f_contiguous()?;
    let length = tensor.numel() * size_of::<f32>();
    if length == 0 {
        return Ok(read(&[]));
    }
    // SAFETY: the tensor is a contiguous f32 tensor on the processor, so `numel` values lie at its
    // data pointer, and every bit pattern is a valid byte. It is held by this function while the
    // slice lives, and one thread does all of libtorch's work (see the module above), so nothing
    // writes to it meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), length) };
    Ok(read(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_order() {
        let tensor = Tensor::from_slice(&[1.0f32, -2.5, 0.0, 3.0]).view([2, 2]).tr();
        let bytes = with_bytes(&tensor, <[u8]>::to_vec).expect("f32");
        let expect: Vec<u8> =
            [1.0f32, 0.0, -2.5, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(bytes, expect);
        assert!(with_bytes(&Tensor::from_slice(&[1i64]), <[u8]>::len).is_err());
        assert_eq!(with_bytes(&Tensor::from_slice::<f32>(&[]), <[u8]>::len).expect("empty"), 0);
    }
}
