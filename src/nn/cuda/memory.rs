//! Memory on a device.

use std::ffi::c_int;
use std::sync::Arc;

use super::driver::{Address, Handle};
use super::error::Error;
use super::queue::Queue;

/// A piece of it.
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
        self.write_at(0, numbers)
    }

    /// Copies `numbers` to the bytes from `first` on, after the work queued so far.
    ///
    /// # Panics
    ///
    /// There are more than fit.
    pub fn write_at<T: Plain>(&mut self, first: usize, numbers: &[T]) -> Result<(), Error> {
        let bytes = size_of_val(numbers);
        let to = self.part(first, bytes);
        let queue = &self.queue;
        queue.enter()?;
        // SAFETY: as many bytes lie at both places. The driver has read memory that is not pinned before it returns.
        let code = unsafe {
            (queue.driver.functions.cuMemcpyHtoDAsync_v2)(
                to,
                numbers.as_ptr().cast(),
                bytes,
                queue.stream(),
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
        self.copy_out(0, numbers, self.queue.stream())
    }

    /// The bytes from `first` on as they are now, while other work goes on: a [`Mark`](super::queue::Mark) behind the
    /// work that makes them was waited for.
    ///
    /// # Panics
    ///
    /// There are fewer.
    pub fn read_now<T: Plain>(&self, first: usize, numbers: &mut [T]) -> Result<(), Error> {
        self.copy_out(first, numbers, self.queue.copies())
    }

    fn copy_out<T: Plain>(
        &self,
        first: usize,
        numbers: &mut [T],
        stream: Handle,
    ) -> Result<(), Error> {
        let bytes = size_of_val(numbers);
        let from = self.part(first, bytes);
        let queue = &self.queue;
        queue.enter()?;
        let functions = &queue.driver.functions;
        let to = numbers.as_mut_ptr().cast();
        // SAFETY: as many bytes lie at both places, any of which make numbers; the copy is waited for below.
        let code: c_int = unsafe { (functions.cuMemcpyDtoHAsync_v2)(to, from, bytes, stream) };
        queue.driver.check("cuMemcpyDtoHAsync", code)?;
        // SAFETY: the stream lives as long as the queue.
        let code = unsafe { (functions.cuStreamSynchronize)(stream) };
        queue.driver.check("cuStreamSynchronize", code)
    }

    /// Makes all of it zeros, after the work queued so far.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.clear_part(0, self.bytes)
    }

    /// Makes so many bytes from `first` on zeros, after the work queued so far.
    ///
    /// # Panics
    ///
    /// There are fewer.
    pub fn clear_part(&mut self, first: usize, bytes: usize) -> Result<(), Error> {
        let to = self.part(first, bytes);
        let queue = &self.queue;
        queue.enter()?;
        // SAFETY: so many bytes lie there.
        let code =
            unsafe { (queue.driver.functions.cuMemsetD8Async)(to, 0, bytes, queue.stream()) };
        queue.driver.check("cuMemsetD8Async", code)
    }

    /// The address of so many bytes from `first` on.
    fn part(&self, first: usize, bytes: usize) -> Address {
        let end = first.checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "a copy beyond its buffer"
        );
        self.address + first as Address
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
impl Plain for half::f16 {}
