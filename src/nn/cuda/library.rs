//! Shared libraries that are looked for while the program runs, so that it starts on machines without them.

use std::ffi::{CStr, CString, c_void};

/// A library that stays loaded until the program ends.
pub(super) struct Library {
    name: String,
    handle: *mut c_void,
}

// SAFETY: the handle is only given to `dlsym`, which may be called from any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// The first of `names` that the system's loader finds: in `LD_LIBRARY_PATH`, its cache and its own folders.
    ///
    /// # Errors
    ///
    /// What the loader says about the first name.
    pub fn open(names: &[&str]) -> Result<Self, String> {
        let mut first = None;
        for name in names {
            let Ok(text) = CString::new(*name) else {
                continue;
            };
            // SAFETY: `text` ends with NUL. Loading runs the library's initialisers: the names are those of
            // NVIDIA's libraries, which are made to be loaded so.
            let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            if !handle.is_null() {
                let name = (*name).to_owned();
                return Ok(Self { name, handle });
            }
            let problem = problem();
            first.get_or_insert(problem);
        }
        Err(first.unwrap_or_default())
    }

    /// The function `name` as `F`.
    ///
    /// # Errors
    ///
    /// The library has no such function: it is older or newer than what medseg knows.
    ///
    /// # Safety
    ///
    /// `F` is the type of a pointer to a function with the library's own signature of `name`.
    pub unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, String> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the handle came from `dlopen` and is never closed; `name` ends with NUL.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        if address.is_null() {
            let (library, name) = (&self.name, name.to_string_lossy());
            return Err(format!("{library} has no function {name}"));
        }
        // SAFETY: a pointer of the same size; the caller vouches for the signature.
        Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

/// What the loader complains about last.
fn problem() -> String {
    // SAFETY: `dlerror` gives null or a string that ends with NUL and lives until this thread's next call.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            return "unknown reason".to_owned();
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// Declares the functions of a library and how all of them are looked up.
macro_rules! functions {
    ($(#[$meta:meta])* $table:ident { $(fn $name:ident($($argument:ty),*) -> $result:ty;)* }) => {
        $(#[$meta])*
        #[allow(non_snake_case)]
        pub(super) struct $table {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $table {
            /// Looks every function up.
            ///
            /// # Errors
            ///
            /// One is missing.
            ///
            /// # Safety
            ///
            /// The library is the one whose functions these are.
            unsafe fn of(library: &Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        let name = std::ffi::CStr::from_bytes_with_nul(name.as_bytes());
                        // SAFETY: the signature is the one of the library's header, by the caller's promise.
                        unsafe { library.function(name.map_err(|error| error.to_string())?)? }
                    },)*
                })
            }
        }
    };
}
pub(super) use functions;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let error = Library::open(&["libmedseg-has-none.so.1"]).err().unwrap();
        assert!(error.contains("libmedseg-has-none.so.1"), "{error}");
    }

    #[test]
    fn a_function_that_is_not_there_is_named() {
        let library = Library::open(&["libc.so.6"]).unwrap();
        // SAFETY: `getpid` takes nothing and gives an int.
        let getpid: extern "C" fn() -> i32 = unsafe { library.function(c"getpid").unwrap() };
        assert_eq!(u32::try_from(getpid()).unwrap(), std::process::id());
        // SAFETY: there is no such function.
        let missing: Result<extern "C" fn(), _> = unsafe { library.function(c"no_such") };
        assert_eq!(missing.err().unwrap(), "libc.so.6 has no function no_such");
    }
}
