//! The end: nothing more starts, and what runs is waited for, then cancelled.

use super::*;

/// How long etcd may take to answer after all callbacks have ended or were dropped.
const ANSWERS: Duration = Duration::from_secs(1);

/// Starts nothing more, and answers once no firing is left, with 0; or with the number of firings
/// that are left a short while after `deadline`, when the rest was cancelled.
#[derive(Message)]
#[rtype(result = "usize")]
pub(crate) struct Drain {
    pub(crate) deadline: Instant,
}

impl Handler<Drain> for Dispatcher {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, Drain { deadline }: Drain, ctx: &mut Self::Context) -> Self::Result {
        self.announce_drain();
        let (drained, done) = oneshot::channel();
        self.shutdown.draining = Some(drained);
        self.work.stop();
        let sleeping = actix::fut::wrap_future::<_, Self>(tokio::time::sleep_until(deadline));
        ctx.spawn(sleeping.then(|(), this, ctx| {
            // From here on, callbacks are told to end, then dropped, then their locks are released.
            let mut graces = Duration::ZERO;
            for (_, firing) in this.firings.iter_mut() {
                firing.cancel();
                graces = graces.max(firing.grace());
            }
            // Ending the firings needs etcd, which may have no space, or no leader, for a long time. The
            // leases, and the locks under them, end with the engine.
            let answers = actix::fut::wrap_future::<_, Self>(tokio::time::sleep(graces + ANSWERS));
            ctx.spawn(answers.map(|(), this, ctx| {
                this.shutdown.out_of_time.cancel();
                this.give_up(ctx);
            }));
            let limit = graces + 2 * ANSWERS;
            actix::fut::wrap_future::<_, Self>(tokio::time::sleep(limit)).map(|(), this, _| {
                if let Some(drained) = this.shutdown.draining.take() {
                    // The caller may have stopped waiting.
                    let _ = drained.send(this.work.running());
                }
            })
        }));
        self.turn(ctx, |_, _, _| {});
        Box::pin(async move { done.await.unwrap_or(0) })
    }
}
