//! `wasi:http`: every request is refused before anything is dialled.
//!
//! What a guest builds of a request stands in the host's memory, where the guest's own limit does not count it, and the
//! library takes methods, authorities and bodies of any size. So each part is bounded here; how many requests there may
//! be at once is bounded by the run's table of resources.

use crate::store::State;
use bytes::Bytes;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi_http::{
    WasiHttpCtx, WasiHttpHooks, WasiHttpView as _,
    p2::bindings::http::types::{HostOutgoingRequest as _, Method, OutgoingRequest},
};

/// Bytes of the headers of one request.
const FIELDS_BYTES_MAX: usize = 16 << 10;
/// Bytes of a request's method, of its authority, and of its path.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Bytes of a body that are held until somebody takes them: the least that the contract allows, because
/// `blocking-write-and-flush` takes as much in one piece.
const BODY_BYTES_MAX: usize = 4 << 10;

/// The interface whose functions are replaced; the version is the one in `wit/deps`.
const TYPES: &str = "wasi:http/types@0.2.12";

type Answer = wasmtime::Result<(Result<(), ()>,)>;
type Store<'a> = StoreContextMut<'a, State>;
type Text = (Resource<OutgoingRequest>, Option<String>);

/// What a run has of HTTP.
pub(super) fn context() -> WasiHttpCtx {
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(FIELDS_BYTES_MAX);
    http
}

/// Replaces the functions that take text of any length. They answer as for text that is none of a request's.
///
/// # Errors
/// Something else than these functions stands under their names: a mistake in this file.
pub(crate) fn bound(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap("[method]outgoing-request.set-method", set_method)?;
    types.func_wrap("[method]outgoing-request.set-authority", set_authority)?;
    types.func_wrap("[method]outgoing-request.set-path-with-query", set_path)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn set_method(mut store: Store<'_>, (request, method): (Resource<OutgoingRequest>, Method)) -> Answer {
    if matches!(&method, Method::Other(name) if name.len() > TEXT_BYTES_MAX) {
        return Ok((Err(()),));
    }
    Ok((store.data_mut().http().set_method(request, method)?,))
}

fn set_authority(mut store: Store<'_>, (request, authority): Text) -> Answer {
    if authority.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
        return Ok((Err(()),));
    }
    Ok((store.data_mut().http().set_authority(request, authority)?,))
}

fn set_path(mut store: Store<'_>, (request, path): Text) -> Answer {
    if path.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
        return Ok((Err(()),));
    }
    Ok((store.data_mut().http().set_path_with_query(request, path)?,))
}

/// Refuses every request before anything is dialled.
pub(super) struct Refusing;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, wasmtime_wasi_http::Error>;
type Finish = Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>;
type Sent = Result<(http::Response<Body>, Finish), wasmtime_wasi_http::Error>;

impl WasiHttpHooks for Refusing {
    fn send_request(
        &mut self,
        _request: http::Request<Body>,
        _options: Option<wasmtime_wasi_http::RequestOptions>,
        _finish: Finish,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_BYTES_MAX
    }
}
