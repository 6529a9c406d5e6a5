//! NVIDIA's driver: the functions medseg calls, and the devices it knows.
//!
//! Signatures are those of `cuda.h` (CUDA 13.0); all of them are in every driver since CUDA 11.4.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use super::error::Error;
use super::library::{Library, functions};

/// A thing that only the driver knows.
pub(super) type Handle = *mut c_void;
/// An address on a device.
pub(super) type Address = u64;

functions! {
    /// The driver's functions.
    Functions {
        fn cuInit(c_uint) -> c_int;
        fn cuDriverGetVersion(*mut c_int) -> c_int;
        fn cuGetErrorString(c_int, *mut *const c_char) -> c_int;
        fn cuDeviceGetCount(*mut c_int) -> c_int;
        fn cuDeviceGet(*mut c_int, c_int) -> c_int;
        fn cuDeviceGetName(*mut c_char, c_int, c_int) -> c_int;
        fn cuDeviceTotalMem_v2(*mut usize, c_int) -> c_int;
        fn cuDeviceGetAttribute(*mut c_int, c_int, c_int) -> c_int;
        fn cuDevicePrimaryCtxRetain(*mut Handle, c_int) -> c_int;
        fn cuDevicePrimaryCtxRelease_v2(c_int) -> c_int;
        fn cuCtxSetCurrent(Handle) -> c_int;
        fn cuMemGetInfo_v2(*mut usize, *mut usize) -> c_int;
        fn cuMemAlloc_v2(*mut Address, usize) -> c_int;
        fn cuMemFree_v2(Address) -> c_int;
        fn cuMemcpyHtoDAsync_v2(Address, *const c_void, usize, Handle) -> c_int;
        fn cuMemcpyDtoHAsync_v2(*mut c_void, Address, usize, Handle) -> c_int;
        fn cuMemsetD8Async(Address, c_uchar, usize, Handle) -> c_int;
        fn cuStreamCreate(*mut Handle, c_uint) -> c_int;
        fn cuStreamDestroy_v2(Handle) -> c_int;
        fn cuStreamSynchronize(Handle) -> c_int;
        fn cuEventCreate(*mut Handle, c_uint) -> c_int;
        fn cuEventDestroy_v2(Handle) -> c_int;
        fn cuEventRecord(Handle, Handle) -> c_int;
        fn cuEventSynchronize(Handle) -> c_int;
        fn cuStreamBeginCapture_v2(Handle, c_int) -> c_int;
        fn cuStreamEndCapture(Handle, *mut Handle) -> c_int;
        fn cuGraphDestroy(Handle) -> c_int;
        fn cuGraphInstantiateWithFlags(*mut Handle, Handle, c_ulonglong) -> c_int;
        fn cuGraphLaunch(Handle, Handle) -> c_int;
        fn cuGraphExecDestroy(Handle) -> c_int;
        fn cuModuleLoadData(*mut Handle, *const c_void) -> c_int;
        fn cuModuleUnload(Handle) -> c_int;
        fn cuModuleGetFunction(*mut Handle, Handle, *const c_char) -> c_int;
        fn cuLaunchKernel(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void) -> c_int;
    }
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: c_int = 2;
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];
/// The driver of this machine, loaded and initialised.
pub(super) struct Driver {
    pub functions: Functions,
}

impl Driver {
    /// Loads the driver on the first call.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`], the same for every call.
    pub fn get() -> Result<&'static Self, Error> {
        static DRIVER: OnceLock<Result<Driver, Error>> = OnceLock::new();
        DRIVER
            .get_or_init(Self::load)
            .as_ref()
            .map_err(Error::clone)
    }

    fn load() -> Result<Self, Error> {
        let none = |problem| Error::Unavailable(format!("no NVIDIA driver: {problem}"));
        let library = Library::open(&["libcuda.so.1", "libcuda.so"]).map_err(none)?;
        // SAFETY: the library of this name is the driver's, whose header has these signatures.
        let functions = unsafe { Functions::of(&library) }.map_err(none)?;
        let driver = Self { functions };
        // SAFETY: takes no pointers; the flags must be 0.
        let code = unsafe { (driver.functions.cuInit)(0) };
        match driver.check("cuInit", code) {
            Ok(()) => Ok(driver),
            Err(_) if code == NO_DEVICE => {
                let text = "the NVIDIA driver finds no GPU".to_owned();
                Err(Error::Unavailable(text))
            }
            Err(error) => {
                let text = format!("the NVIDIA driver does not start: {error}");
                Err(Error::Unavailable(text))
            }
        }
    }

    /// The error of a call that returned `code`.
    pub fn check(&self, call: &'static str, code: c_int) -> Result<(), Error> {
        match code {
            0 => Ok(()),
            OUT_OF_MEMORY => Err(Error::Memory {
                what: call,
                bytes: 0,
            }),
            _ => {
                let mut text = std::ptr::null();
                // SAFETY: writes a pointer to a string that lives as long as the driver, or null.
                let known = unsafe { (self.functions.cuGetErrorString)(code, &raw mut text) } == 0;
                let meaning = if known && !text.is_null() {
                    // SAFETY: the driver's strings end with NUL.
                    unsafe { CStr::from_ptr(text) }
                        .to_string_lossy()
                        .into_owned()
                } else {
                    "unknown error".to_owned()
                };
                Err(Error::Call {
                    call,
                    code,
                    meaning,
                })
            }
        }
    }

    /// The highest CUDA version the driver supports, major and minor.
    pub fn version(&self) -> Result<[usize; 2], Error> {
        let mut version = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.functions.cuDriverGetVersion)(&raw mut version) };
        self.check("cuDriverGetVersion", code)?;
        let version = usize::try_from(version).unwrap_or(0);
        Ok([version / 1000, version % 1000 / 10])
    }

    /// How many devices there are.
    pub fn count(&self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.functions.cuDeviceGetCount)(&raw mut count) };
        self.check("cuDeviceGetCount", code)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The device of a number.
    pub fn device(&'static self, number: usize) -> Result<Device, Error> {
        let found = self.count()?;
        let asked = c_int::try_from(number).ok().filter(|_| number < found);
        let asked = asked.ok_or(Error::NoSuchDevice {
            asked: number,
            found,
        })?;
        let mut device = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.functions.cuDeviceGet)(&raw mut device, asked) };
        self.check("cuDeviceGet", code)?;
        Ok(Device {
            driver: self,
            device,
        })
    }
}

/// A device that is not in use yet.
#[derive(Clone, Copy)]
pub(super) struct Device {
    pub driver: &'static Driver,
    pub device: c_int,
}

impl Device {
    /// What its maker calls it.
    pub fn name(self) -> Result<String, Error> {
        const LENGTH: usize = 256;
        let mut name: [c_char; LENGTH] = [0; LENGTH];
        let start = name.as_mut_ptr();
        // SAFETY: writes at most the given number of bytes, the last of them NUL.
        let code = unsafe {
            (self.driver.functions.cuDeviceGetName)(start, LENGTH as c_int - 1, self.device)
        };
        self.driver.check("cuDeviceGetName", code)?;
        // SAFETY: the last byte was not handed out and is NUL.
        Ok(unsafe { CStr::from_ptr(start) }
            .to_string_lossy()
            .into_owned())
    }

    /// Bytes of its memory.
    pub fn memory(self) -> Result<usize, Error> {
        let mut bytes = 0;
        // SAFETY: writes one size.
        let code =
            unsafe { (self.driver.functions.cuDeviceTotalMem_v2)(&raw mut bytes, self.device) };
        self.driver.check("cuDeviceTotalMem", code)?;
        Ok(bytes)
    }

    /// Its generation, major and minor.
    pub fn capability(self) -> Result<[usize; 2], Error> {
        let mut found = [0; 2];
        for (attribute, found) in CAPABILITY.into_iter().zip(&mut found) {
            let mut value = 0;
            // SAFETY: writes one int.
            let code = unsafe {
                (self.driver.functions.cuDeviceGetAttribute)(&raw mut value, attribute, self.device)
            };
            self.driver.check("cuDeviceGetAttribute", code)?;
            *found = usize::try_from(value).unwrap_or(0);
        }
        Ok(found)
    }
}
