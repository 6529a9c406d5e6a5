//! NVRTC, NVIDIA's compiler as a library: for who changes the kernels on a machine with a GPU and without nvcc.
//!
//! Signatures are those of `nvrtc.h` (CUDA 13.0).

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::null_mut;

use super::driver::Handle;
use super::error::Error;
use super::library::{Library, functions};

functions! {
    /// NVRTC's functions.
    Functions {
        fn nvrtcGetErrorString(c_int) -> *const c_char;
        fn nvrtcCreateProgram(*mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
        fn nvrtcDestroyProgram(*mut Handle) -> c_int;
        fn nvrtcCompileProgram(Handle, c_int, *const *const c_char) -> c_int;
        fn nvrtcGetProgramLogSize(Handle, *mut usize) -> c_int;
        fn nvrtcGetProgramLog(Handle, *mut c_char) -> c_int;
        fn nvrtcGetPTXSize(Handle, *mut usize) -> c_int;
        fn nvrtcGetPTX(Handle, *mut c_char) -> c_int;
    }
}

/// A program that is destroyed at the end.
struct Program<'f> {
    functions: &'f Functions,
    handle: Handle,
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from `nvrtcCreateProgram` and is not used any more.
        unsafe { (self.functions.nvrtcDestroyProgram)(&raw mut self.handle) };
    }
}

/// Compiles CUDA C++ `source` to PTX for a generation of GPUs, major and minor.
///
/// # Errors
///
/// [`Error::Unavailable`] without NVRTC; [`Error::Refused`] with the compiler's words.
pub(super) fn compile(source: &str, capability: [usize; 2]) -> Result<CString, Error> {
    let none = |problem| Error::Unavailable(format!("no NVRTC: {problem}"));
    let names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
    let library = Library::open(&names).map_err(none)?;
    // SAFETY: the library of this name is NVRTC, whose header has these signatures.
    let functions = unsafe { Functions::of(&library) }.map_err(none)?;
    let refused = |error: std::ffi::NulError| Error::Refused(format!("kernels: {error}"));
    let source = CString::new(source).map_err(refused)?;
    let [major, minor] = capability;
    let options = [
        format!("--gpu-architecture=compute_{major}{minor}"),
        "--fmad=true".to_owned(),
        "--std=c++17".to_owned(),
    ];
    let options = options.map(CString::new).into_iter();
    let options: Vec<CString> = options.collect::<Result<_, _>>().map_err(refused)?;
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let (mut handle, none) = (null_mut(), std::ptr::null());
    // SAFETY: both texts end with NUL; there are no headers; writes one handle.
    let code = unsafe {
        let name = c"kernels.cu".as_ptr();
        (functions.nvrtcCreateProgram)(&raw mut handle, source.as_ptr(), name, 0, none, none)
    };
    check(&functions, "nvrtcCreateProgram", code)?;
    let program = Program {
        functions: &functions,
        handle,
    };
    // SAFETY: as many options as are counted, each ending with NUL.
    let code = unsafe {
        (functions.nvrtcCompileProgram)(handle, options.len() as c_int, options.as_ptr())
    };
    if code != 0 {
        let log = text(
            &program,
            functions.nvrtcGetProgramLogSize,
            functions.nvrtcGetProgramLog,
        )?;
        let log = log.to_string_lossy();
        return Err(Error::Refused(format!(
            "the kernels do not compile:\n{}",
            log.trim_end()
        )));
    }
    text(&program, functions.nvrtcGetPTXSize, functions.nvrtcGetPTX)
}

/// A text of a program, whose size includes the NUL at its end.
fn text(
    program: &Program<'_>,
    size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    get: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
) -> Result<CString, Error> {
    let mut bytes = 0;
    // SAFETY: writes one size.
    let code = unsafe { size(program.handle, &raw mut bytes) };
    check(program.functions, "the size of a text of NVRTC", code)?;
    let mut text = vec![0u8; bytes + 1];
    // SAFETY: writes as many bytes as it said.
    let code = unsafe { get(program.handle, text.as_mut_ptr().cast()) };
    check(program.functions, "a text of NVRTC", code)?;
    let text = CStr::from_bytes_until_nul(&text);
    let text = text.map_err(|error| Error::Refused(error.to_string()))?;
    Ok(text.to_owned())
}

fn check(functions: &Functions, call: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: gives a string of the library that ends with NUL, for any code.
    let text = unsafe { CStr::from_ptr((functions.nvrtcGetErrorString)(code)) };
    Err(Error::Call {
        call,
        code,
        meaning: text.to_string_lossy().into_owned(),
    })
}
