//! cubecl's own CUDA stream and addresses, for work that is not one of its kernels: ordered among its launches, with no
//! waiting, and recorded by its graphs. All of cubecl that is not meant for users is named in this file.
#![allow(unsafe_code, reason = "addresses of buffers go to a C library")]

use std::ffi::c_void;

use cubecl::__private::Runtime;
use cubecl::client::Client;
use cubecl::cuda::CudaRuntime;
use cubecl::server::{Handle, ServerError, ServerStorage};
use cubecl_common::device_handle::DeviceHandle;
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::stream::StreamId;
use cubecl_server::stream::{ExecuteScope, WriteScoped};

use super::library::BlasError;

type Server = <CudaRuntime as Runtime>::Server;

/// Runs `task` where the device's context is current, and waits for it.
pub(crate) fn with_context<R: Send>(
    client: &Client,
    task: impl FnOnce() -> R + Send,
) -> Result<R, BlasError> {
    let device = DeviceHandle::<Server>::new(client.service_id().device);
    device.submit_blocking(move |_| task()).map_err(|error| BlasError::Server(format!("{error:?}")))
}

/// Enqueues work on the stream of the calling thread: `enqueue` gets the addresses of `buffers` and the stream. It writes
/// the last of the buffers. What fails is found by whoever reads that buffer.
pub(crate) fn enqueue(
    client: &Client,
    buffers: Vec<Handle>,
    enqueue: impl FnOnce(&[u64], *mut c_void) -> Result<(), BlasError> + Send + 'static,
) {
    let stream = StreamId::current();
    let device = DeviceHandle::<Server>::new(client.service_id().device);
    device.submit(move |server: &mut Server| {
        let bindings: Vec<_> = buffers.iter().map(|buffer| buffer.clone().binding()).collect();
        let found: Result<Vec<_>, ServerError> =
            bindings.iter().map(|binding| server.get_resource(binding.clone(), stream)).collect();
        let mut written = server.write_set();
        written.extend(bindings.last().cloned());
        ExecuteScope::over(server, stream, written).execute(|server| {
            // what a buffer's writer failed with, if it did
            let found = found?;
            let addresses: Vec<u64> = found.iter().map(|resource| resource.resource().ptr).collect();
            let Some(own) = server.write_streams().try_stream_mut(&stream) else {
                return Err(failed("the thread has no stream".into()));
            };
            for binding in &bindings {
                own.capturing.touch(binding.stream, binding.memory.descriptor().location());
            }
            enqueue(&addresses, own.sys.cast()).map_err(|error| failed(error.to_string()))
        });
    });
}

fn failed(reason: String) -> ServerError {
    ServerError::Generic { reason, backtrace: BackTrace::capture() }
}
