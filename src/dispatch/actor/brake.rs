//! Brakes: rules are held back, or let go, as they are wanted to be now.

use super::*;

/// The brakes have changed. Once it is answered, they hold.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Brake;

impl Handler<Brake> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: Brake, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, out| this.brake(now, out));
    }
}

impl Dispatcher {
    pub(super) fn brake(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Self { settings: Settings { brakes, .. }, pending, .. } = self;
        for lane in brakes.lanes() {
            match (pending.is_paused(lane), brakes.is_paused(lane)) {
                (false, true) => pending.pause(lane, now, out),
                (true, false) => pending.resume(lane),
                _ => {}
            }
        }
    }
}
