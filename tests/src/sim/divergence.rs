//! What changes of home set aside, as an administrator looks at it: it is whole, and where a site's devices are full it is
//! let go of, so that the site can take in what its peer has.

use super::work::contents;
use super::world::World;
use farside::client::{Client, ClientError, Log, What};
use serde_json::Value;

/// (5) Looks at everything that was set aside of a log at a site; answers how many deltas that is.
pub async fn look(world: &World, log: &Log) -> Result<u64, ClientError> {
    let mut deltas = 0;
    log.for_each_set_aside(|aside| {
        deltas += 1;
        async move {
            let What::Put(object) = aside.what else { return Ok(()) };
            let number = object.info.modified.0 as u64;
            let expected = contents(number, world.shared().objects);
            let read = object.into_bytes().await;
            world.violations().check(read.as_ref().is_ok_and(|bytes| *bytes == expected), || {
                format!("version {number} was set aside, and is not whole: {:?}", read.err())
            });
            Ok(())
        }
    })
    .await?;
    Ok(deltas)
}

/// Whether a site says that its devices are full.
pub fn is_full(document: &Value) -> bool {
    let full = |alert: &Value| alert.as_str().is_some_and(|alert| alert.contains("the devices are full"));
    document["alerts"].as_array().into_iter().flatten().any(full)
}

/// Where a site says that it is full, lets go of what was set aside there, once it has been looked at.
pub async fn make_room(world: &World, site: usize, client: &Client, document: &Value) -> Result<(), String> {
    if !is_full(document) {
        return Ok(());
    }
    for log in document["logs"].as_array().into_iter().flatten().filter(|log| log["set_aside_deltas"] != 0) {
        let name = log["name"].as_str().unwrap_or_default();
        let failed = |error: ClientError| format!("{name}: {error}");
        let log = client.open_log(name).await.map_err(failed)?;
        let deltas = look(world, &log).await.map_err(failed)?;
        log.discard_set_aside(deltas).await.map_err(failed)?;
        world.trace().line(format!("site {site} let go of {deltas} deltas of {name} that were set aside"));
        world.discarded(site, name, deltas);
    }
    Ok(())
}
