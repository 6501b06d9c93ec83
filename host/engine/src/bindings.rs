//! The contract in Rust, generated from `wit/`, and the linker that satisfies all of it.
//!
//! Everything that the host knows always links; what is not granted answers so. The borrowed forms of the exported types
//! let an event be lowered into the guest without a `String` for each header or a copy of the payload.

use crate::{capability::http, store::State};
use wasmtime::component::{HasSelf, Linker};

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "busway:plugin/plugin",
    imports: {
        // The only call that waits for somebody else.
        "busway:plugin/bus.request": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
    with: {
        "wasi:io": wasmtime_wasi::p2::bindings::io,
        "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        "wasi:random": wasmtime_wasi::p2::bindings::random,
        "wasi:http": wasmtime_wasi_http::p2::bindings::http,
        "wasi:keyvalue/store.bucket": crate::capability::keyvalue::NoBucket,
        "wasi:blobstore/types.outgoing-value": crate::capability::blobstore::OutgoingPlaceholder,
        "wasi:blobstore/types.incoming-value": crate::capability::blobstore::NoIncoming,
        "wasi:blobstore/container.container": crate::capability::blobstore::NoContainer,
        "wasi:blobstore/container.stream-object-names": crate::capability::blobstore::NoNames,
    },
});

/// A linker with everything that a plugin may import.
///
/// # Errors
/// Two definitions of one name: a mistake in this file.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    http::bound(&mut linker)?;
    link_own(&mut linker)?;
    Ok(linker)
}

fn link_own(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Own = HasSelf<State>;
    busway::plugin::types::add_to_linker::<_, Own>(linker, |state| state)?;
    busway::plugin::context::add_to_linker::<_, Own>(linker, |state| state)?;
    busway::plugin::bus::add_to_linker::<_, Own>(linker, |state| state)?;
    busway::plugin::secrets::add_to_linker::<_, Own>(linker, |state| state)?;
    busway::plugin::diagnostics::add_to_linker::<_, Own>(linker, |state| state)?;
    wasi::logging::logging::add_to_linker::<_, Own>(linker, |state| state)?;
    wasi::config::store::add_to_linker::<_, Own>(linker, |state| state)?;
    wasi::keyvalue::store::add_to_linker::<_, Own>(linker, |state| state)?;
    wasi::keyvalue::atomics::add_to_linker::<_, Own>(linker, |state| state)?;
    wasi::keyvalue::batch::add_to_linker::<_, Own>(linker, |state| state)?;
    wasi::blobstore::types::add_to_linker::<_, Own>(linker, |state| state)?;
    wasi::blobstore::container::add_to_linker::<_, Own>(linker, |state| state)?;
    wasi::blobstore::blobstore::add_to_linker::<_, Own>(linker, |state| state)
}
