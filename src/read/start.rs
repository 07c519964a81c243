//! Asks etcd from where a watch may go on.

use super::resume::{Resume, Start};
use crate::etcd::{EtcdClient, Failure};
use crate::pattern::KeyScope;

/// Where the cluster stands, and whether it is still the one that is known: a backup may have been restored under
/// the same id and have outgrown the position, so that the revision alone tells nothing.
pub(crate) async fn start(etcd: &EtcdClient, keys: &KeyScope, resume: &mut Resume) -> Result<Start, Failure> {
    let start = resume.start(etcd.header(keys).await?);
    match resume.seen() {
        Some(seen) if !matches!(start, Start::Rewound(_)) && !etcd.has(seen).await? => {
            Ok(Start::Rewound(format!("what came at revision {} is not in its history", seen.revision)))
        }
        _ => Ok(start),
    }
}
