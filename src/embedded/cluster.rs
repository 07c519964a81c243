//! One member of a cluster: how it is reached, and what goes wrong with it alone.

use super::connection::Connector;
use super::path::NetworkPath;
use super::server::channel_through;
use etcd_client::Channel;

/// A member of an [`EmbeddedEtcd`](super::EmbeddedEtcd) of several, made by its
/// [`member`](super::EmbeddedEtcd::member). What happens to it leaves the others alone: they go on, as a majority
/// does. Cheap to clone.
///
/// ```
/// # use etcd_rules::embedded::*;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let etcd = EmbeddedEtcd::in_process_cluster(3);
/// let (first, second) = (etcd.member(0), etcd.member(1));
/// let mut at_first = etcd_client::Client::from_channel(first.channel(), None).await?;
/// let mut at_second = etcd_client::Client::from_channel(second.channel(), None).await?;
///
/// first.isolate();
/// assert!(at_first.put("key", "value", None).await.is_err(), "it has no leader");
/// at_second.put("key", "value", None).await?;
/// first.rejoin();
/// assert_eq!(at_first.get("key", None).await?.count(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EmbeddedMember {
    connector: Connector,
}

impl std::fmt::Debug for EmbeddedMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedMember").field("number", &self.connector.number).finish_non_exhaustive()
    }
}

impl EmbeddedMember {
    pub(super) fn new(connector: &Connector) -> Self {
        Self { connector: connector.clone() }
    }

    /// A connection to this member, as [`EmbeddedEtcd::channel`](super::EmbeddedEtcd::channel).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn channel(&self) -> Channel {
        channel_through(self.connector.clone())
    }

    /// A way of its own to this member.
    pub fn path(&self) -> NetworkPath {
        NetworkPath::new(&self.connector)
    }

    /// Stands still, as a stopped process: its connections stay open, new ones too, and nothing comes over them.
    pub fn stand_still(&self) {
        self.connector.process.freeze();
    }

    /// Ends a [`stand_still`](Self::stand_still): what has waited is done.
    pub fn go_on(&self) {
        self.connector.process.thaw();
    }

    /// Ends its process, or, with `true`, starts it again: connections close, and new ones are refused.
    pub fn set_running(&self, running: bool) {
        self.connector.process.set_reachable(running);
    }

    /// Cuts it off from the others. It has no leader, and is refused what needs one; it learns nothing of what the
    /// others do.
    pub fn isolate(&self) {
        self.change(|replica| replica.isolated = true);
    }

    /// Ends an [`isolate`](Self::isolate). It learns what it missed.
    pub fn rejoin(&self) {
        self.change(|replica| replica.isolated = false);
    }

    /// Falls behind: it takes part, and applies nothing. Its watches tell nothing, its serializable reads are old. All
    /// other requests take effect in the cluster, and are answered when it has caught up; after 7 seconds they are
    /// refused with [`RpcError::TIMED_OUT`](super::RpcError::TIMED_OUT). Leases are renewed, by the leader.
    pub fn fall_behind(&self) {
        self.change(|replica| replica.lagging = true);
    }

    /// Ends a [`fall_behind`](Self::fall_behind).
    pub fn catch_up(&self) {
        self.change(|replica| replica.lagging = false);
    }

    fn change(&self, change: impl FnOnce(&mut super::replica::Replica)) {
        let number = self.connector.number;
        self.connector.shared.disturb(|inner, _| {
            let revision = inner.member.store.revision();
            inner.replicas[number].change(revision, change);
        });
    }
}
