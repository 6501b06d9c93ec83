//! `wasi:blobstore`: links, and answers that this version does not offer it.
//!
//! Only an outgoing value can be made, and nothing can be written to it; no container can be opened, so no function that
//! takes one can be reached.

use super::UNAVAILABLE;
use crate::{
    bindings::wasi::blobstore::{
        blobstore,
        container::{self, ContainerMetadata, ObjectMetadata},
        types::{self, ObjectId},
    },
    store::State,
};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

/// A container: there is none.
pub struct NoContainer;
/// A value from a container: there is none.
pub struct NoIncoming;
/// A listing: there is none.
pub struct NoNames;
/// A value that nothing can be written to.
pub struct OutgoingPlaceholder;

type Answer<T> = wasmtime::Result<Result<T, String>>;

fn unavailable<T>() -> Answer<T> {
    Ok(Err(UNAVAILABLE.to_owned()))
}

impl types::Host for State {}

impl types::HostOutgoingValue for State {
    fn new_outgoing_value(&mut self) -> wasmtime::Result<Resource<OutgoingPlaceholder>> {
        Ok(self.table.push(OutgoingPlaceholder)?)
    }

    fn outgoing_value_write_body(
        &mut self,
        _value: Resource<OutgoingPlaceholder>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        Ok(Err(()))
    }

    fn finish(&mut self, value: Resource<OutgoingPlaceholder>) -> Answer<()> {
        self.table.delete(value)?;
        unavailable()
    }

    fn drop(&mut self, value: Resource<OutgoingPlaceholder>) -> wasmtime::Result<()> {
        self.table.delete(value)?;
        Ok(())
    }
}

impl types::HostIncomingValue for State {
    fn incoming_value_consume_sync(&mut self, _value: Resource<NoIncoming>) -> Answer<Vec<u8>> {
        unavailable()
    }

    fn incoming_value_consume_async(
        &mut self,
        _value: Resource<NoIncoming>,
    ) -> Answer<Resource<DynInputStream>> {
        unavailable()
    }

    fn size(&mut self, _value: Resource<NoIncoming>) -> wasmtime::Result<u64> {
        Ok(0)
    }

    fn drop(&mut self, _value: Resource<NoIncoming>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl container::Host for State {}

impl container::HostContainer for State {
    fn name(&mut self, _container: Resource<NoContainer>) -> Answer<String> {
        unavailable()
    }

    fn info(&mut self, _container: Resource<NoContainer>) -> Answer<ContainerMetadata> {
        unavailable()
    }

    fn get_data(
        &mut self,
        _container: Resource<NoContainer>,
        _name: String,
        _start: u64,
        _end: u64,
    ) -> Answer<Resource<NoIncoming>> {
        unavailable()
    }

    fn write_data(
        &mut self,
        _container: Resource<NoContainer>,
        _name: String,
        _data: Resource<OutgoingPlaceholder>,
    ) -> Answer<()> {
        unavailable()
    }

    fn list_objects(&mut self, _container: Resource<NoContainer>) -> Answer<Resource<NoNames>> {
        unavailable()
    }

    fn delete_object(&mut self, _container: Resource<NoContainer>, _name: String) -> Answer<()> {
        unavailable()
    }

    fn delete_objects(&mut self, _container: Resource<NoContainer>, _names: Vec<String>) -> Answer<()> {
        unavailable()
    }

    fn has_object(&mut self, _container: Resource<NoContainer>, _name: String) -> Answer<bool> {
        unavailable()
    }

    fn object_info(&mut self, _container: Resource<NoContainer>, _name: String) -> Answer<ObjectMetadata> {
        unavailable()
    }

    fn clear(&mut self, _container: Resource<NoContainer>) -> Answer<()> {
        unavailable()
    }

    fn drop(&mut self, _container: Resource<NoContainer>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl container::HostStreamObjectNames for State {
    fn read_stream_object_names(
        &mut self,
        _names: Resource<NoNames>,
        _len: u64,
    ) -> Answer<(Vec<String>, bool)> {
        unavailable()
    }

    fn skip_stream_object_names(&mut self, _names: Resource<NoNames>, _num: u64) -> Answer<(u64, bool)> {
        unavailable()
    }

    fn drop(&mut self, _names: Resource<NoNames>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl blobstore::Host for State {
    fn create_container(&mut self, _name: String) -> Answer<Resource<NoContainer>> {
        unavailable()
    }

    fn get_container(&mut self, _name: String) -> Answer<Resource<NoContainer>> {
        unavailable()
    }

    fn delete_container(&mut self, _name: String) -> Answer<()> {
        unavailable()
    }

    fn container_exists(&mut self, _name: String) -> Answer<bool> {
        unavailable()
    }

    fn copy_object(&mut self, _src: ObjectId, _dest: ObjectId) -> Answer<()> {
        unavailable()
    }

    fn move_object(&mut self, _src: ObjectId, _dest: ObjectId) -> Answer<()> {
        unavailable()
    }
}
