//! cuDNN: convolutions and transposed convolutions of packed tensors.
//!
//! Signatures are those of `cudnn_ops.h` and `cudnn_cnn.h` of cuDNN 9.28. Algorithms are chosen by cuDNN's own rules,
//! not by timing, and only among those that give the same bytes every time.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

use super::Arithmetic;
use super::driver::{Address, Handle};
use super::error::Error;
use super::library::{Library, functions};
use super::queue::Queue;

/// `cudnnConvolutionFwdAlgoPerf_t`, `cudnnConvolutionBwdDataAlgoPerf_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    algorithm: c_int,
    status: c_int,
    time: f32,
    memory: usize,
    determinism: c_int,
    math: c_int,
    reserved: [c_int; 3],
}

functions! {
    /// cuDNN's functions.
    Functions {
        fn cudnnGetVersion() -> usize;
        fn cudnnGetErrorString(c_int) -> *const c_char;
        fn cudnnCreate(*mut Handle) -> c_int;
        fn cudnnDestroy(Handle) -> c_int;
        fn cudnnSetStream(Handle, Handle) -> c_int;
        fn cudnnCreateTensorDescriptor(*mut Handle) -> c_int;
        fn cudnnSetTensorNdDescriptor(Handle, c_int, c_int, *const c_int, *const c_int) -> c_int;
        fn cudnnDestroyTensorDescriptor(Handle) -> c_int;
        fn cudnnCreateFilterDescriptor(*mut Handle) -> c_int;
        fn cudnnSetFilterNdDescriptor(Handle, c_int, c_int, c_int, *const c_int) -> c_int;
        fn cudnnDestroyFilterDescriptor(Handle) -> c_int;
        fn cudnnCreateConvolutionDescriptor(*mut Handle) -> c_int;
        fn cudnnSetConvolutionNdDescriptor(Handle, c_int, *const c_int, *const c_int, *const c_int, c_int, c_int) -> c_int;
        fn cudnnSetConvolutionMathType(Handle, c_int) -> c_int;
        fn cudnnDestroyConvolutionDescriptor(Handle) -> c_int;
        fn cudnnGetConvolutionForwardAlgorithm_v7(Handle, Handle, Handle, Handle, Handle, c_int, *mut c_int, *mut Candidate) -> c_int;
        fn cudnnGetConvolutionBackwardDataAlgorithm_v7(Handle, Handle, Handle, Handle, Handle, c_int, *mut c_int, *mut Candidate) -> c_int;
        fn cudnnConvolutionForward(Handle, *const c_void, Handle, Address, Handle, Address, Handle, c_int, Address, usize, *const c_void, Handle, Address) -> c_int;
        fn cudnnConvolutionBackwardData(Handle, *const c_void, Handle, Address, Handle, Address, Handle, c_int, Address, usize, *const c_void, Handle, Address) -> c_int;
    }
}

/// `CUDNN_DATA_FLOAT`.
const SINGLE: c_int = 0;
/// `CUDNN_CROSS_CORRELATION`.
const CORRELATION: c_int = 1;
/// `CUDNN_DETERMINISTIC`.
const DETERMINISTIC: c_int = 1;
/// `CUDNN_TENSOR_OP_MATH`.
const TENSOR_CORES: c_int = 1;
/// `CUDNN_FMA_MATH`: no tensor cores, so no rounding of factors.
const PLAIN_SUMS: c_int = 3;
/// `CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED` and `..._DEVICE_ALLOCATION_FAILED`.
const NO_MEMORY: [c_int; 2] = [4003, 4004];
/// Statuses of what cuDNN cannot do, as opposed to what went wrong.
const NOT_SUPPORTED: std::ops::Range<c_int> = 3000..4000;
/// Most algorithms that are considered for a layer.
const CANDIDATES: usize = 16;

/// cuDNN as it is installed.
pub(super) struct Library9 {
    functions: Functions,
}

impl Library9 {
    /// Loads cuDNN on the first call.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`], the same for every call.
    pub fn get() -> Result<&'static Self, Error> {
        static LIBRARY: OnceLock<Result<Library9, Error>> = OnceLock::new();
        LIBRARY
            .get_or_init(Self::load)
            .as_ref()
            .map_err(Error::clone)
    }

    fn load() -> Result<Self, Error> {
        let none = |problem| {
            Error::Unavailable(format!(
                "no cuDNN 9: {problem}; install it, for example by pip install nvidia-cudnn-cu12, and name its folder in LD_LIBRARY_PATH"
            ))
        };
        let library = Library::open(&["libcudnn.so.9"]).map_err(none)?;
        // SAFETY: the library of this name is cuDNN 9, whose headers have these signatures.
        let functions = unsafe { Functions::of(&library) }.map_err(none)?;
        Ok(Self { functions })
    }

    /// Its version: major, minor, patch.
    pub fn version(&self) -> [usize; 3] {
        // SAFETY: takes nothing.
        let version = unsafe { (self.functions.cudnnGetVersion)() };
        [version / 10_000, version / 100 % 100, version % 100]
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        if NO_MEMORY.contains(&code) {
            return Err(Error::Memory {
                what: call,
                bytes: 0,
            });
        }
        // SAFETY: gives a string of the library that ends with NUL, for any code.
        let text = unsafe { (self.functions.cudnnGetErrorString)(code) };
        let meaning = if text.is_null() {
            "unknown error".to_owned()
        } else {
            // SAFETY: as above.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        };
        Err(Error::Call {
            call,
            code,
            meaning,
        })
    }
}

/// cuDNN in use on one device.
pub(super) struct Dnn {
    library: &'static Library9,
    handle: Handle,
    queue: Arc<Queue>,
}

// SAFETY: the handle may be used by one thread after the other, which exclusive borrows and the lock around it ensure.
unsafe impl Send for Dnn {}

impl Dnn {
    /// Starts cuDNN on the queue's device.
    pub fn new(queue: &Arc<Queue>) -> Result<Self, Error> {
        let library = Library9::get()?;
        queue.enter()?;
        let mut handle = null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (library.functions.cudnnCreate)(&raw mut handle) };
        library.check("cudnnCreate", code)?;
        let dnn = Self {
            library,
            handle,
            queue: Arc::clone(queue),
        };
        // SAFETY: both handles live.
        let code = unsafe { (library.functions.cudnnSetStream)(handle, queue.stream()) };
        library.check("cudnnSetStream", code)?;
        Ok(dnn)
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        if self.queue.enter().is_ok() {
            // SAFETY: nothing else uses the handle.
            unsafe { (self.library.functions.cudnnDestroy)(self.handle) };
        }
    }
}

/// What is convolved; spatial sizes are z, y, x, or y, x.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// Tensors at a time.
    pub items: usize,
    /// Channels read and written.
    pub channels: [usize; 2],
    /// Sizes of what is read.
    pub from: Vec<usize>,
    /// Sizes of what is written.
    pub to: Vec<usize>,
    /// Kernel.
    pub kernel: Vec<usize>,
    /// Stride, or factor of a transposed convolution.
    pub stride: Vec<usize>,
    /// Whether `from` is smaller than `to`; the kernel is the factor then.
    pub transposed: bool,
    /// Whether channels are innermost.
    pub last: bool,
}

/// A descriptor of cuDNN and what ends its life.
struct Descriptor {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it was made by the function that belongs to `destroy` and is not used any more.
        unsafe { (self.destroy)(self.handle) };
    }
}

impl Descriptor {
    fn new(
        library: &Library9,
        create: unsafe extern "C" fn(*mut Handle) -> c_int,
        destroy: unsafe extern "C" fn(Handle) -> c_int,
    ) -> Result<Self, Error> {
        let mut handle = null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { create(&raw mut handle) };
        library.check("making a cuDNN descriptor", code)?;
        Ok(Self { handle, destroy })
    }

    /// A packed tensor of items, channels and `sizes`.
    fn tensor(
        library: &Library9,
        arithmetic: Arithmetic,
        items: usize,
        channels: usize,
        sizes: &[usize],
        last: bool,
    ) -> Result<Self, Error> {
        let functions = &library.functions;
        let made = Self::new(
            library,
            functions.cudnnCreateTensorDescriptor,
            functions.cudnnDestroyTensorDescriptor,
        )?;
        let voxels: usize = sizes.iter().product();
        let (inner, outer) = if last { (channels, 1) } else { (1, voxels) };
        let mut strides = vec![inner; sizes.len()];
        for axis in (1..sizes.len()).rev() {
            strides[axis - 1] = strides[axis] * sizes[axis];
        }
        let dims = numbers([items, channels].iter().chain(sizes))?;
        let strides = numbers([channels * voxels, outer].iter().chain(&strides))?;
        // SAFETY: both lists have as many numbers as the rank says.
        let code = unsafe {
            (functions.cudnnSetTensorNdDescriptor)(
                made.handle,
                data_type(arithmetic),
                dims.len() as c_int,
                dims.as_ptr(),
                strides.as_ptr(),
            )
        };
        library.check("cudnnSetTensorNdDescriptor", code)?;
        Ok(made)
    }
}

/// `cudnnDataType_t` of activations and weights.
fn data_type(arithmetic: Arithmetic) -> c_int {
    match arithmetic {
        Arithmetic::Fp32 | Arithmetic::Tf32 => SINGLE,
        Arithmetic::Fp16 => 2,
        Arithmetic::Bf16 => 9,
    }
}

fn numbers<'a>(sizes: impl Iterator<Item = &'a usize>) -> Result<Vec<c_int>, Error> {
    let converted = sizes.map(|&size| c_int::try_from(size));
    let all: Result<_, _> = converted.collect();
    all.map_err(|_| Error::Refused("a layer is too large for cuDNN".to_owned()))
}

/// A convolution of one shape, ready to run.
pub(super) struct Convolution {
    library: &'static Library9,
    transposed: bool,
    plain: bool,
    from: Descriptor,
    to: Descriptor,
    filter: Descriptor,
    convolution: Descriptor,
    /// Algorithms to try, each with its math and bytes of work space.
    choices: Vec<[c_int; 2]>,
    workspaces: Vec<usize>,
}

// SAFETY: descriptors are plain memory of the host that only this owner uses.
unsafe impl Send for Convolution {}

impl Convolution {
    /// Plans a convolution with at most `limit` bytes of work space.
    ///
    /// # Errors
    ///
    /// cuDNN has no algorithm for it.
    pub fn new(
        dnn: &mut Dnn,
        arithmetic: Arithmetic,
        shape: &Shape,
        limit: usize,
    ) -> Result<Self, Error> {
        dnn.queue.enter()?;
        let library = dnn.library;
        let functions = &library.functions;
        let [channels_in, channels_out] = shape.channels;
        let tensor = |channels, sizes: &[usize]| {
            Descriptor::tensor(
                library,
                arithmetic,
                shape.items,
                channels,
                sizes,
                shape.last,
            )
        };
        let (from, to) = (
            tensor(channels_in, &shape.from)?,
            tensor(channels_out, &shape.to)?,
        );
        let filter = Descriptor::new(
            library,
            functions.cudnnCreateFilterDescriptor,
            functions.cudnnDestroyFilterDescriptor,
        )?;
        // A transposed convolution is the gradient of one from its result to its input.
        let outer = if shape.transposed {
            [channels_in, channels_out]
        } else {
            [channels_out, channels_in]
        };
        let dims = numbers(outer.iter().chain(&shape.kernel))?;
        // SAFETY: the list has as many numbers as the rank says.
        let code = unsafe {
            (functions.cudnnSetFilterNdDescriptor)(
                filter.handle,
                data_type(arithmetic),
                c_int::from(shape.last),
                dims.len() as c_int,
                dims.as_ptr(),
            )
        };
        library.check("cudnnSetFilterNdDescriptor", code)?;
        let convolution = Descriptor::new(
            library,
            functions.cudnnCreateConvolutionDescriptor,
            functions.cudnnDestroyConvolutionDescriptor,
        )?;
        let padding: Vec<usize> = shape
            .kernel
            .iter()
            .map(|&n| if shape.transposed { 0 } else { n / 2 })
            .collect();
        let (padding, stride) = (numbers(padding.iter())?, numbers(shape.stride.iter())?);
        let dilation = vec![1; padding.len()];
        // SAFETY: all three lists have as many numbers as the rank says.
        let code = unsafe {
            (functions.cudnnSetConvolutionNdDescriptor)(
                convolution.handle,
                padding.len() as c_int,
                padding.as_ptr(),
                stride.as_ptr(),
                dilation.as_ptr(),
                CORRELATION,
                SINGLE,
            )
        };
        library.check("cudnnSetConvolutionNdDescriptor", code)?;
        let mut made = Self {
            library,
            transposed: shape.transposed,
            plain: arithmetic == Arithmetic::Fp32,
            from,
            to,
            filter,
            convolution,
            choices: Vec::new(),
            workspaces: Vec::new(),
        };
        made.set_math(if made.plain { PLAIN_SUMS } else { TENSOR_CORES })?;
        made.choose(dnn, limit)?;
        Ok(made)
    }

    fn set_math(&self, math: c_int) -> Result<(), Error> {
        // SAFETY: the descriptor lives.
        let code = unsafe {
            (self.library.functions.cudnnSetConvolutionMathType)(self.convolution.handle, math)
        };
        self.library.check("cudnnSetConvolutionMathType", code)
    }

    /// Asks cuDNN for algorithms, the best first.
    fn choose(&mut self, dnn: &mut Dnn, limit: usize) -> Result<(), Error> {
        let functions = &self.library.functions;
        let none = Candidate {
            algorithm: 0,
            status: -1,
            time: 0.0,
            memory: 0,
            determinism: 0,
            math: 0,
            reserved: [0; 3],
        };
        let mut candidates = [none; CANDIDATES];
        let mut count = 0;
        let (most, list) = (CANDIDATES as c_int, candidates.as_mut_ptr());
        let (from, to) = (self.from.handle, self.to.handle);
        let (filter, convolution) = (self.filter.handle, self.convolution.handle);
        // SAFETY: all descriptors live; at most `most` candidates are written.
        let (call, code) = unsafe {
            if self.transposed {
                let choose = functions.cudnnGetConvolutionBackwardDataAlgorithm_v7;
                let code = choose(
                    dnn.handle,
                    filter,
                    from,
                    convolution,
                    to,
                    most,
                    &raw mut count,
                    list,
                );
                ("cudnnGetConvolutionBackwardDataAlgorithm_v7", code)
            } else {
                let choose = functions.cudnnGetConvolutionForwardAlgorithm_v7;
                let code = choose(
                    dnn.handle,
                    from,
                    filter,
                    convolution,
                    to,
                    most,
                    &raw mut count,
                    list,
                );
                ("cudnnGetConvolutionForwardAlgorithm_v7", code)
            }
        };
        self.library.check(call, code)?;
        let count = usize::try_from(count).unwrap_or(0).min(CANDIDATES);
        let usable = |found: &&Candidate| {
            found.status == 0 && found.determinism == DETERMINISTIC && found.memory <= limit
        };
        for found in candidates[..count].iter().filter(usable) {
            self.choices.push([found.algorithm, found.math]);
            self.workspaces.push(found.memory);
        }
        if self.choices.is_empty() {
            return Err(Error::Refused(format!(
                "cuDNN has no reproducible algorithm with at most {} MiB of work space for a layer",
                limit >> 20
            )));
        }
        Ok(())
    }

    /// Bytes of work space that [`run`](Self::run) needs.
    pub fn workspace(&self) -> usize {
        self.workspaces.iter().copied().max().unwrap_or(0)
    }

    /// Convolves.
    ///
    /// # Safety
    ///
    /// The addresses are those of tensors and weights of the planned shape and of [`workspace`](Self::workspace) bytes.
    pub unsafe fn run(
        &mut self,
        dnn: &mut Dnn,
        from: Address,
        weights: Address,
        to: Address,
        workspace: Address,
    ) -> Result<(), Error> {
        let functions = &self.library.functions;
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        let (source, target) = (self.from.handle, self.to.handle);
        let (filter, convolution) = (self.filter.handle, self.convolution.handle);
        loop {
            let ([algorithm, math], bytes) = (self.choices[0], self.workspaces[0]);
            // Without tensor cores the descriptor's math is the only one that forbids them.
            if !self.plain {
                self.set_math(math)?;
            }
            // SAFETY: by the caller's promise; the two factors are of the type cuDNN expects for these tensors.
            let (call, code) = unsafe {
                if self.transposed {
                    let run = functions.cudnnConvolutionBackwardData;
                    let code = run(
                        dnn.handle,
                        one,
                        filter,
                        weights,
                        source,
                        from,
                        convolution,
                        algorithm,
                        workspace,
                        bytes,
                        zero,
                        target,
                        to,
                    );
                    ("cudnnConvolutionBackwardData", code)
                } else {
                    let run = functions.cudnnConvolutionForward;
                    let code = run(
                        dnn.handle,
                        one,
                        source,
                        from,
                        filter,
                        weights,
                        convolution,
                        algorithm,
                        workspace,
                        bytes,
                        zero,
                        target,
                        to,
                    );
                    ("cudnnConvolutionForward", code)
                }
            };
            if NOT_SUPPORTED.contains(&code) && self.choices.len() > 1 {
                // Promised, but not kept: the next.
                self.choices.remove(0);
                self.workspaces.remove(0);
                continue;
            }
            return self.library.check(call, code);
        }
    }
}
