//! GPUs: which there are, and one in use with its kernels.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Arithmetic;
use super::dnn::{Dnn, Library9};
use super::driver::{Address, Device, Driver, Handle};
use super::error::Error;
use super::nvrtc;
use super::ptx::{self, Kind};
use super::queue::{Module, Queue};

/// The oldest generation the kernels' text is for.
const OLDEST: [usize; 2] = [7, 5];

/// A GPU in use. Copies are the same one.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    number: usize,
    name: String,
    versions: String,
    kernels: BTreeMap<String, Kernel>,
    // Dropped in this order: what uses the queue before the queue.
    dnn: Mutex<Dnn>,
    _module: Module,
    queue: Arc<Queue>,
}

/// A compiled kernel and what it takes.
struct Kernel {
    function: Handle,
    parameters: Vec<Kind>,
}

// SAFETY: the function is only handed to the driver, which takes it from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.label())
    }
}

/// The same device.
impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a kernel is given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    Address(Address),
    Count(usize),
    Single(f32),
    Double(f64),
}

impl From<Address> for Argument {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl From<usize> for Argument {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl From<bool> for Argument {
    fn from(flag: bool) -> Self {
        Self::Count(usize::from(flag))
    }
}

impl From<f32> for Argument {
    fn from(number: f32) -> Self {
        Self::Single(number)
    }
}

impl From<f64> for Argument {
    fn from(number: f64) -> Self {
        Self::Double(number)
    }
}

/// What a kernel is given, in its order; the launch checks the types against the kernel's text.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        &[$($crate::nn::cuda::gpu::Argument::from($argument)),*]
    };
}
pub(super) use arguments;

impl Argument {
    fn kind(self) -> Kind {
        match self {
            Self::Address(_) => Kind::Address,
            Self::Count(_) => Kind::Count,
            Self::Single(_) => Kind::Single,
            Self::Double(_) => Kind::Double,
        }
    }

    /// Its bytes at the start of eight.
    fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        match self {
            Self::Address(address) => bytes = address.to_ne_bytes(),
            // Sizes of tensors are below 2^31, see `layout`.
            Self::Count(count) => bytes[..4].copy_from_slice(&(count as u32).to_ne_bytes()),
            Self::Single(number) => bytes[..4].copy_from_slice(&number.to_ne_bytes()),
            Self::Double(number) => bytes = number.to_ne_bytes(),
        }
        bytes
    }
}

impl Gpu {
    /// Starts using device `number`.
    ///
    /// Cost: about a second, and some hundred MiB of the process for the driver and cuDNN.
    ///
    /// # Errors
    ///
    /// No driver, no cuDNN, no such device, or one too old or in exclusive use.
    pub fn open(number: usize) -> Result<Self, Error> {
        Self::start(number, None)
    }

    /// Starts using device `number` with kernels compiled from CUDA C++ `source` instead of those that are shipped.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); no NVRTC; `source` does not compile.
    pub fn with_kernels(number: usize, source: &str) -> Result<Self, Error> {
        Self::start(number, Some(source))
    }

    fn start(number: usize, source: Option<&str>) -> Result<Self, Error> {
        let driver = Driver::get()?;
        let device = driver.device(number)?;
        let name = device.name()?;
        let label = |error: &Error| Error::Unavailable(format!("cuda:{number} ({name}): {error}"));
        let capability = device.capability()?;
        if let Some(problem) = too_old(capability) {
            return Err(label(&Error::Refused(problem)));
        }
        let dnn_library = Library9::get()?;
        let [major, minor] = driver.version()?;
        let [a, b, c] = dnn_library.version();
        let versions = format!("CUDA {major}.{minor}, cuDNN {a}.{b}.{c}");
        let start = || -> Result<Inner, Error> {
            let queue = Queue::new(device)?;
            let text = match source {
                Some(source) => nvrtc::compile(source, capability)?,
                None => ptx::text()?.to_owned(),
            };
            let module = queue.module(&text)?;
            let mut kernels = BTreeMap::new();
            for (name, parameters) in ptx::parameters(&text.to_string_lossy()) {
                let symbol = CString::new(name.clone());
                let symbol = symbol.map_err(|error| Error::Refused(error.to_string()))?;
                let function = module.function(&symbol)?;
                kernels.insert(
                    name,
                    Kernel {
                        function,
                        parameters,
                    },
                );
            }
            let dnn = Mutex::new(Dnn::new(&queue)?);
            Ok(Inner {
                number,
                name: name.clone(),
                versions,
                kernels,
                dnn,
                _module: module,
                queue,
            })
        };
        Ok(Self(Arc::new(start().map_err(|error| label(&error))?)))
    }

    /// How many devices there are, whether they can be used or not.
    ///
    /// # Errors
    ///
    /// There is no driver.
    pub fn count() -> Result<usize, Error> {
        Driver::get()?.count()
    }

    /// Starts using the first device that can be used.
    ///
    /// Cost: less than a millisecond on a machine without a driver.
    ///
    /// # Errors
    ///
    /// There is none; why the first cannot be used, where there are some.
    pub fn first() -> Result<Self, Error> {
        let count = Self::count()?;
        let mut problem = None;
        for number in 0..count {
            match Self::open(number) {
                Ok(gpu) => return Ok(gpu),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        let none = || Error::Unavailable("the NVIDIA driver finds no GPU".to_owned());
        Err(problem.unwrap_or_else(none))
    }

    /// Its number.
    pub fn number(&self) -> usize {
        self.0.number
    }

    /// `cuda:0`.
    pub fn id(&self) -> String {
        format!("cuda:{}", self.0.number)
    }

    /// `cuda:0 (NVIDIA H200)`.
    pub fn label(&self) -> String {
        format!("{} ({})", self.id(), self.0.name)
    }

    /// Versions of CUDA that the driver supports, and of cuDNN.
    pub fn versions(&self) -> &str {
        &self.0.versions
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.0.queue
    }

    /// cuDNN, for one thread at a time.
    pub(super) fn dnn(&self) -> MutexGuard<'_, Dnn> {
        self.0.dnn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a kernel over activations of the type of `arithmetic`.
    ///
    /// # Safety
    ///
    /// As for [`launch`](Self::launch).
    pub(super) unsafe fn launch_typed(
        &self,
        kernel: &str,
        arithmetic: Arithmetic,
        threads: usize,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let numbers = match arithmetic {
            Arithmetic::Fp32 | Arithmetic::Tf32 => "f32",
            Arithmetic::Fp16 => "f16",
            Arithmetic::Bf16 => "bf16",
        };
        // SAFETY: by the caller's promise.
        unsafe { self.launch(&format!("{kernel}_{numbers}"), threads, arguments) }
    }

    /// Runs a kernel, whose parameters are checked against the text it was compiled from.
    ///
    /// # Safety
    ///
    /// Every address among the arguments is valid for what the kernel does there, for as long as it runs.
    pub(super) unsafe fn launch(
        &self,
        kernel: &str,
        threads: usize,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let refused = |problem: &str| Error::Refused(format!("kernel {kernel}: {problem}"));
        let found = self
            .0
            .kernels
            .get(kernel)
            .ok_or_else(|| refused("does not exist"))?;
        let kinds = arguments.iter().map(|argument| argument.kind());
        if !kinds.eq(found.parameters.iter().copied()) {
            return Err(refused("takes other parameters"));
        }
        let mut bytes: Vec<[u8; 8]> = arguments.iter().map(|argument| argument.bytes()).collect();
        let mut pointers: Vec<*mut c_void> = bytes
            .iter_mut()
            .map(|bytes| bytes.as_mut_ptr().cast())
            .collect();
        // SAFETY: each pointer leads to as many bytes as the text declares; addresses by the caller's promise.
        unsafe { self.0.queue.launch(found.function, threads, &mut pointers) }
    }
}

/// Why a generation cannot be used.
fn too_old(capability: [usize; 2]) -> Option<String> {
    let [major, minor] = capability;
    let [a, b] = OLDEST;
    (capability < OLDEST)
        .then(|| format!("has compute capability {major}.{minor}, at least {a}.{b} is needed"))
}

/// Every GPU of this machine and what is needed to use it.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Highest CUDA version of the driver, major and minor; why there is none.
    pub driver: Result<[usize; 2], Error>,
    /// Version of cuDNN; why there is none.
    pub dnn: Result<[usize; 3], Error>,
    /// The GPUs.
    pub devices: Vec<Found>,
}

/// A GPU of this machine.
#[derive(Debug, Clone)]
pub struct Found {
    /// What its maker calls it.
    pub name: String,
    /// Its generation, major and minor.
    pub capability: [usize; 2],
    /// Bytes of its memory.
    pub memory: usize,
    /// Bytes of it that are free; `None` where it cannot be used.
    pub free: Option<usize>,
    /// Why it cannot be used.
    pub problem: Option<Error>,
}

impl Survey {
    /// Looks at every device, starting each.
    ///
    /// Cost: about a second per GPU; less than a millisecond without a driver.
    pub fn new() -> Self {
        let driver = Driver::get();
        let devices = driver.as_ref().map_or_else(
            |_| Vec::new(),
            |driver| {
                let count = driver.count().unwrap_or(0);
                (0..count)
                    .filter_map(|number| look(driver.device(number).ok()?, number).ok())
                    .collect()
            },
        );
        Self {
            driver: driver.and_then(Driver::version),
            dnn: Library9::get().map(Library9::version),
            devices,
        }
    }
}

impl Default for Survey {
    fn default() -> Self {
        Self::new()
    }
}

fn look(device: Device, number: usize) -> Result<Found, Error> {
    let opened = Gpu::open(number);
    let free = opened
        .as_ref()
        .ok()
        .and_then(|gpu| gpu.queue().free_memory().ok());
    Ok(Found {
        name: device.name()?,
        capability: device.capability()?,
        memory: device.memory()?,
        free,
        problem: opened.err(),
    })
}
