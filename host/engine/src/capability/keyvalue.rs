//! `wasi:keyvalue`: links, and answers that this version does not offer it.
//!
//! No bucket can be opened, so no function that takes one can be reached; they answer all the same.

use super::UNAVAILABLE;
use crate::{
    bindings::wasi::keyvalue::{
        atomics, batch,
        store::{self, Error, KeyResponse},
    },
    store::State,
};
use wasmtime::component::Resource;

/// A bucket: there is none.
pub struct NoBucket;

type Answer<T> = wasmtime::Result<Result<T, Error>>;

fn unavailable<T>() -> Answer<T> {
    Ok(Err(Error::Other(UNAVAILABLE.to_owned())))
}

impl store::Host for State {
    fn open(&mut self, _identifier: String) -> Answer<Resource<NoBucket>> {
        unavailable()
    }
}

impl store::HostBucket for State {
    fn get(&mut self, _bucket: Resource<NoBucket>, _key: String) -> Answer<Option<Vec<u8>>> {
        unavailable()
    }

    fn set(&mut self, _bucket: Resource<NoBucket>, _key: String, _value: Vec<u8>) -> Answer<()> {
        unavailable()
    }

    fn delete(&mut self, _bucket: Resource<NoBucket>, _key: String) -> Answer<()> {
        unavailable()
    }

    fn exists(&mut self, _bucket: Resource<NoBucket>, _key: String) -> Answer<bool> {
        unavailable()
    }

    fn list_keys(&mut self, _bucket: Resource<NoBucket>, _cursor: Option<u64>) -> Answer<KeyResponse> {
        unavailable()
    }

    fn drop(&mut self, _bucket: Resource<NoBucket>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl atomics::Host for State {
    fn increment(&mut self, _bucket: Resource<NoBucket>, _key: String, _delta: u64) -> Answer<u64> {
        unavailable()
    }
}

impl batch::Host for State {
    fn get_many(
        &mut self,
        _bucket: Resource<NoBucket>,
        _keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        unavailable()
    }

    fn set_many(&mut self, _bucket: Resource<NoBucket>, _pairs: Vec<(String, Vec<u8>)>) -> Answer<()> {
        unavailable()
    }

    fn delete_many(&mut self, _bucket: Resource<NoBucket>, _keys: Vec<String>) -> Answer<()> {
        unavailable()
    }
}
