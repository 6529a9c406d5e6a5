//! A device in use: its queues of work, functions, marks and graphs.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use super::driver::{Device, Driver, Handle};
use super::error::Error;

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_BLOCKING_SYNC` and `CU_EVENT_DISABLE_TIMING`: who waits leaves the processor to others.
const EVENT: c_uint = 3;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: other threads go on with other devices meanwhile.
const THIS_THREAD: c_int = 1;

/// A device in use, with one queue of work and one of copies to the host.
pub(super) struct Queue {
    pub driver: &'static Driver,
    device: c_int,
    context: Handle,
    stream: Handle,
    copies: Handle,
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
            copies: null_mut(),
        };
        queue.enter()?;
        for made in [&mut queue.stream, &mut queue.copies] {
            // SAFETY: writes one handle; the context is current.
            let code = unsafe { (driver.functions.cuStreamCreate)(made, NON_BLOCKING) };
            driver.check("cuStreamCreate", code)?;
        }
        Ok(Arc::new(queue))
    }

    /// Makes the device the one that this thread's calls are about.
    pub fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained for as long as `self` lives.
        let code = unsafe { (self.driver.functions.cuCtxSetCurrent)(self.context) };
        self.driver.check("cuCtxSetCurrent", code)
    }

    /// The handle of the queue of work.
    pub fn stream(&self) -> Handle {
        self.stream
    }

    /// The handle of the queue of copies: they overtake what is queued as work.
    pub fn copies(&self) -> Handle {
        self.copies
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

    /// A mark behind the work queued so far.
    pub fn mark(self: &Arc<Self>) -> Result<Mark, Error> {
        self.enter()?;
        let mut event = null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (self.driver.functions.cuEventCreate)(&raw mut event, EVENT) };
        self.driver.check("cuEventCreate", code)?;
        let queue = Arc::clone(self);
        let mark = Mark { queue, event };
        // SAFETY: both handles live.
        let code = unsafe { (self.driver.functions.cuEventRecord)(event, self.stream) };
        self.driver.check("cuEventRecord", code)?;
        Ok(mark)
    }

    /// What `work` queues as a graph, without doing it. `work` copies nothing to or from the host and takes no memory.
    ///
    /// # Errors
    ///
    /// Those of `work`; something in it cannot be recorded.
    pub fn record(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Graph, Error> {
        let functions = &self.driver.functions;
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        let code = unsafe { (functions.cuStreamBeginCapture_v2)(self.stream, THIS_THREAD) };
        self.driver.check("cuStreamBeginCapture", code)?;
        let worked = work();
        let mut recorded = null_mut();
        // SAFETY: writes one handle, null where the recording is not valid. Ends the recording in any case.
        let code = unsafe { (functions.cuStreamEndCapture)(self.stream, &raw mut recorded) };
        let ended = self.driver.check("cuStreamEndCapture", code);
        if let Err(error) = worked.and(ended) {
            if !recorded.is_null() {
                // SAFETY: nothing else knows the handle.
                unsafe { (functions.cuGraphDestroy)(recorded) };
            }
            return Err(error);
        }
        let mut graph = null_mut();
        // SAFETY: writes one handle, made from the recording, which is not needed afterwards.
        let code = unsafe {
            let code = (functions.cuGraphInstantiateWithFlags)(&raw mut graph, recorded, 0);
            (functions.cuGraphDestroy)(recorded);
            code
        };
        self.driver.check("cuGraphInstantiate", code)?;
        let queue = Arc::clone(self);
        Ok(Graph { queue, graph })
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
            for stream in [self.stream, self.copies] {
                if !stream.is_null() && self.enter().is_ok() {
                    (self.driver.functions.cuStreamDestroy_v2)(stream);
                }
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

/// A place in a queue.
pub(super) struct Mark {
    queue: Arc<Queue>,
    event: Handle,
}

// SAFETY: as for `Queue`.
unsafe impl Send for Mark {}

impl Mark {
    /// Waits until what was queued before the mark is done, and says how it went.
    pub fn wait(&self) -> Result<(), Error> {
        self.queue.enter()?;
        // SAFETY: the event lives as long as `self`.
        let code = unsafe { (self.queue.driver.functions.cuEventSynchronize)(self.event) };
        self.queue.driver.check("cuEventSynchronize", code)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.queue.enter().is_ok() {
            // SAFETY: nothing waits for it any more.
            unsafe { (self.queue.driver.functions.cuEventDestroy_v2)(self.event) };
        }
    }
}

/// Recorded work that is queued as a whole.
pub(super) struct Graph {
    queue: Arc<Queue>,
    graph: Handle,
}

// SAFETY: as for `Queue`.
unsafe impl Send for Graph {}

impl Graph {
    /// Queues it once more.
    ///
    /// # Safety
    ///
    /// The memory that the recorded work uses is still there.
    pub unsafe fn launch(&self) -> Result<(), Error> {
        let Queue { driver, stream, .. } = &*self.queue;
        self.queue.enter()?;
        // SAFETY: both handles live; the memory by the caller's promise.
        let code = unsafe { (driver.functions.cuGraphLaunch)(self.graph, *stream) };
        driver.check("cuGraphLaunch", code)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.queue.enter().is_ok() {
            // SAFETY: the driver keeps it for as long as it runs.
            unsafe { (self.queue.driver.functions.cuGraphExecDestroy)(self.graph) };
        }
    }
}
