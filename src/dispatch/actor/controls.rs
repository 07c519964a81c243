//! Applies the controls of rules: holds a rule back, or lets it go, as is wanted now.

use super::*;
use crate::mutants::{Mutant, is_active};

/// The controls have changed. Once it is answered, they hold.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct ApplyControls;

impl Handler<ApplyControls> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: ApplyControls, ctx: &mut Self::Context) {
        self.turn(ctx, |this, now, out| {
            this.apply_controls(now, out);
            this.announce(now);
        });
    }
}

impl Dispatcher {
    pub(super) fn apply_controls(&mut self, now: Instant, out: &mut Vec<Action>) {
        if is_active(Mutant::Pause) {
            return;
        }
        for (lane, wanted) in self.config.controls.wanted() {
            self.work.set_controls(lane, wanted, now, out);
        }
    }
}
