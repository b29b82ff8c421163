//! What an operator or a tenant's client has made: tenants, and logs whose home is this site.

use super::auditing::certificate;
use super::server::{Answered, log_info};
use super::shard::Shard;
use farside_codec::command::{ControlCommand, GroupCommand};
use farside_codec::delta::{Generation, LogDescriptor};
use farside_codec::message::{Reply, Tenant};
use farside_io::disk::Disk;
use farside_transport::Caller;
use std::rc::Rc;

pub(super) async fn tenant<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, mut tenant: Tenant) -> Answered {
    tenant.created = shard.clock.now();
    shard.control(&certificate(caller), ControlCommand::PutTenant(tenant.clone())).await?;
    let made = shard.view().tenants.get(&tenant.tenant).cloned().unwrap_or(tenant);
    Ok(Reply::Tenants(vec![made]).into())
}

pub(super) async fn log<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, mut descriptor: LogDescriptor) -> Answered {
    descriptor.created = shard.clock.now();
    let log = descriptor.log;
    shard.control(&certificate(caller), ControlCommand::PutLog(descriptor.clone())).await?;
    let generation = Generation { counter: 1, site: shard.site.site, incarnation: shard.site.incarnation };
    shard.log_command(log, GroupCommand::CreateLog((descriptor, generation))).await?;
    Ok(Reply::Log(log_info(shard, log).await?).into())
}
