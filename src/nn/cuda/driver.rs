//! NVIDIA's driver: the functions medseg calls, and memory on a device.
//!
//! Signatures are those of `cuda.h` (CUDA 13.0); all of them have been in every driver since CUDA 7.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

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
        fn cuMemsetD32Async(Address, c_uint, usize, Handle) -> c_int;
        fn cuStreamCreate(*mut Handle, c_uint) -> c_int;
        fn cuStreamDestroy_v2(Handle) -> c_int;
        fn cuStreamSynchronize(Handle) -> c_int;
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
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;

/// The driver of this machine, loaded and initialised.
pub(super) struct Driver {
    functions: Functions,
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
    driver: &'static Driver,
    device: c_int,
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

/// A device in use, with one queue of work.
pub(super) struct Queue {
    driver: &'static Driver,
    device: c_int,
    context: Handle,
    stream: Handle,
}

// SAFETY: the driver's functions may be called from any thread once the context is made current there, which every
// method does first; the handles themselves are never changed.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Starts using a device.
    pub fn new(device: Device) -> Result<Arc<Self>, Error> {
        let Device { driver, device } = device;
        let mut context = null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (driver.functions.cuDevicePrimaryCtxRetain)(&raw mut context, device) };
        driver.check("cuDevicePrimaryCtxRetain", code)?;
        let mut queue = Self {
            driver,
            device,
            context,
            stream: null_mut(),
        };
        queue.enter()?;
        let mut stream = null_mut();
        // SAFETY: writes one handle; the context is current.
        let code = unsafe { (driver.functions.cuStreamCreate)(&raw mut stream, NON_BLOCKING) };
        driver.check("cuStreamCreate", code)?;
        queue.stream = stream;
        Ok(Arc::new(queue))
    }

    /// Makes the device the one that this thread's calls are about.
    pub fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained for as long as `self` lives.
        let code = unsafe { (self.driver.functions.cuCtxSetCurrent)(self.context) };
        self.driver.check("cuCtxSetCurrent", code)
    }

    /// The queue's handle, for cuDNN.
    pub fn stream(&self) -> Handle {
        self.stream
    }

    /// Bytes of memory that are free now.
    pub fn free_memory(&self) -> Result<usize, Error> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        let code =
            unsafe { (self.driver.functions.cuMemGetInfo_v2)(&raw mut free, &raw mut total) };
        self.driver.check("cuMemGetInfo", code)?;
        Ok(free)
    }

    /// Waits until all work is done, and says how it went.
    pub fn wait(&self) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        let code = unsafe { (self.driver.functions.cuStreamSynchronize)(self.stream) };
        self.driver.check("cuStreamSynchronize", code)
    }

    /// Has the driver compile PTX `text`, which ends with NUL.
    pub fn module(self: &Arc<Self>, text: &CStr) -> Result<Module, Error> {
        self.enter()?;
        let mut module = null_mut();
        // SAFETY: the text ends with NUL; writes one handle.
        let code = unsafe {
            (self.driver.functions.cuModuleLoadData)(&raw mut module, text.as_ptr().cast())
        };
        self.driver.check("cuModuleLoadData", code)?;
        Ok(Module {
            queue: Arc::clone(self),
            module,
        })
    }

    /// Runs `function` on `threads` threads in blocks of 256.
    ///
    /// # Safety
    ///
    /// `parameters` points to what the function takes, in its order and of its types, and every address among them is
    /// valid for what the function does there.
    pub unsafe fn launch(
        &self,
        function: Handle,
        threads: usize,
        parameters: &mut [*mut c_void],
    ) -> Result<(), Error> {
        const BLOCK: usize = 256;
        // More would only wait: the functions go on with further indices themselves.
        const BLOCKS: usize = 1 << 16;
        let blocks = threads.div_ceil(BLOCK).clamp(1, BLOCKS) as c_uint;
        self.enter()?;
        // SAFETY: by the caller's promise; the driver copies the parameters before it returns.
        let code = unsafe {
            (self.driver.functions.cuLaunchKernel)(
                function,
                blocks,
                1,
                1,
                BLOCK as c_uint,
                1,
                1,
                0,
                self.stream,
                parameters.as_mut_ptr(),
                null_mut(),
            )
        };
        self.driver.check("cuLaunchKernel", code)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: nothing that uses the stream or the context is left; failures leave nothing to be done.
        unsafe {
            if !self.stream.is_null() && self.enter().is_ok() {
                (self.driver.functions.cuStreamDestroy_v2)(self.stream);
            }
            (self.driver.functions.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

/// Compiled functions.
pub(super) struct Module {
    queue: Arc<Queue>,
    module: Handle,
}

// SAFETY: as for `Queue`.
unsafe impl Send for Module {}
// SAFETY: as for `Queue`.
unsafe impl Sync for Module {}

impl Module {
    /// The function `name`.
    pub fn function(&self, name: &CStr) -> Result<Handle, Error> {
        let driver = self.queue.driver;
        self.queue.enter()?;
        let mut function = null_mut();
        // SAFETY: writes one handle; the name ends with NUL.
        let code = unsafe {
            (driver.functions.cuModuleGetFunction)(&raw mut function, self.module, name.as_ptr())
        };
        driver.check("cuModuleGetFunction", code)?;
        Ok(function)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.queue.enter().is_ok() {
            // SAFETY: its functions are not used any more.
            unsafe { (self.queue.driver.functions.cuModuleUnload)(self.module) };
        }
    }
}

/// Memory on a device.
pub(super) struct Buffer {
    queue: Arc<Queue>,
    address: Address,
    bytes: usize,
}

impl Buffer {
    /// So many bytes, at least one, with anything in them.
    pub fn new(queue: &Arc<Queue>, bytes: usize, what: &'static str) -> Result<Self, Error> {
        queue.enter()?;
        let mut address = 0;
        // SAFETY: writes one address.
        let code =
            unsafe { (queue.driver.functions.cuMemAlloc_v2)(&raw mut address, bytes.max(1)) };
        queue
            .driver
            .check("cuMemAlloc", code)
            .map_err(|error| match error {
                Error::Memory { .. } => Error::Memory { what, bytes },
                other => other,
            })?;
        Ok(Self {
            queue: Arc::clone(queue),
            address,
            bytes,
        })
    }

    /// A copy of `numbers`.
    pub fn of<T: Plain>(
        queue: &Arc<Queue>,
        numbers: &[T],
        what: &'static str,
    ) -> Result<Self, Error> {
        let mut buffer = Self::new(queue, size_of_val(numbers), what)?;
        buffer.write(numbers)?;
        Ok(buffer)
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills its start with `numbers`, after the work queued so far.
    ///
    /// # Panics
    ///
    /// There are more than fit.
    pub fn write<T: Plain>(&mut self, numbers: &[T]) -> Result<(), Error> {
        let bytes = size_of_val(numbers);
        assert!(bytes <= self.bytes, "a copy beyond its buffer");
        let queue = &self.queue;
        queue.enter()?;
        // SAFETY: as many bytes lie at both places. The driver has read memory that is not pinned before it returns.
        let code = unsafe {
            (queue.driver.functions.cuMemcpyHtoDAsync_v2)(
                self.address,
                numbers.as_ptr().cast(),
                bytes,
                queue.stream,
            )
        };
        queue.driver.check("cuMemcpyHtoDAsync", code)
    }

    /// Its start, once the work queued so far is done.
    ///
    /// # Panics
    ///
    /// `numbers` is longer.
    pub fn read<T: Plain>(&self, numbers: &mut [T]) -> Result<(), Error> {
        let bytes = size_of_val(numbers);
        assert!(bytes <= self.bytes, "a copy beyond its buffer");
        let queue = &self.queue;
        queue.enter()?;
        // SAFETY: as many bytes lie at both places, any of which make numbers; the copy is waited for below.
        let code = unsafe {
            (queue.driver.functions.cuMemcpyDtoHAsync_v2)(
                numbers.as_mut_ptr().cast(),
                self.address,
                bytes,
                queue.stream,
            )
        };
        queue.driver.check("cuMemcpyDtoHAsync", code)?;
        queue.wait()
    }

    /// Makes all of it zeros, after the work queued so far. Its size is a multiple of 4.
    pub fn clear(&mut self) -> Result<(), Error> {
        let queue = &self.queue;
        queue.enter()?;
        // SAFETY: so many words of 4 bytes lie there.
        let code = unsafe {
            (queue.driver.functions.cuMemsetD32Async)(self.address, 0, self.bytes / 4, queue.stream)
        };
        queue.driver.check("cuMemsetD32Async", code)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.queue.enter().is_ok() {
            // SAFETY: it came from `cuMemAlloc`; the driver waits for work that uses it.
            unsafe { (self.queue.driver.functions.cuMemFree_v2)(self.address) };
        }
    }
}

/// Numbers without padding for which every pattern of bits is one.
pub(super) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for u16 {}
