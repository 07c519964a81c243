//! What all actors share: a panic in one ends it in order and is reported, so that the engine can
//! restart from a resync; and a full mailbox downstream makes an actor wait.

use crate::pattern::KeyScope;
use actix::dev::ToEnvelope;
use actix::prelude::*;
use futures_util::FutureExt;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Why the actors can't go on as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ActorFault {
    /// A part panicked.
    Panicked { part: &'static str, text: String },
    /// The store is another one than it was, or an older state of it: all that is known is void.
    Rewound(String),
    /// Etcd refuses to let these keys be read, which are more than what the patterns need.
    Refused(KeyScope),
}

/// Where faults are reported. One is enough for a restart: more than fit are dropped.
#[derive(Clone)]
pub(crate) struct ActorFaults {
    sender: mpsc::Sender<ActorFault>,
    probe: Option<MessageProbe>,
}

/// Called with the name of a part at every message that it handles. What it does happens to the part.
pub(crate) type MessageProbe = Arc<dyn Fn(&'static str) + Send + Sync>;

impl ActorFaults {
    pub(crate) fn new(probe: Option<MessageProbe>) -> (Self, mpsc::Receiver<ActorFault>) {
        let (sender, receiver) = mpsc::channel(16);
        (Self { sender, probe }, receiver)
    }

    pub(crate) fn report(&self, fault: ActorFault) {
        // Full or closed: a restart is under way already.
        let _ = self.sender.try_send(fault);
    }

    fn panicked(&self, part: &'static str, panic: &(dyn Any + Send)) {
        self.report(ActorFault::Panicked { part, text: panic_text(panic).to_owned() });
    }
}

/// An actor of the engine.
pub(crate) trait SupervisedActor: Actor<Context = Context<Self>> {
    const NAME: &'static str;

    fn faults(&self) -> &ActorFaults;
}

/// Runs the body of a handler. If it panics, the actor stops and the fault is reported: actix itself
/// would end the actor quietly, and might poll it again while unwinding.
pub(crate) fn guarded<A: SupervisedActor>(
    part: &mut A,
    ctx: &mut Context<A>,
    body: impl FnOnce(&mut A, &mut Context<A>),
) {
    let probe = part.faults().probe.clone();
    let body = AssertUnwindSafe(|| {
        if let Some(probe) = probe {
            probe(A::NAME);
        }
        body(part, ctx);
    });
    if let Err(panic) = catch_unwind(body) {
        part.faults().panicked(A::NAME, &*panic);
        ctx.terminate();
    }
}

/// Spawns a future on this thread; if it panics, the fault is reported as the part's.
pub(crate) fn spawn_guarded(
    faults: &ActorFaults,
    part: &'static str,
    future: impl Future<Output = ()> + 'static,
) -> tokio::task::JoinHandle<()> {
    let faults = faults.clone();
    // Not an async block: that would take twice the room of what it waits for.
    actix::spawn(AssertUnwindSafe(future).catch_unwind().map(move |ended| {
        if let Err(panic) = ended {
            faults.panicked(part, &*panic);
        }
    }))
}

/// Tells an actor something from a task, waiting for room in its mailbox only if there is none: who waits for
/// the answer to a message that has none is woken once more for nothing.
pub(crate) async fn tell<A, M>(to: &Addr<A>, message: M) -> Result<(), MailboxError>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message<Result = ()> + Send + 'static,
{
    match to.try_send(message) {
        Ok(()) => Ok(()),
        Err(SendError::Full(message)) => to.send(message).await,
        Err(SendError::Closed(_)) => Err(MailboxError::Closed),
    }
}

/// Tells an actor something; if its mailbox is full, a task of this thread waits for room. For messages of which
/// no more than so many can be under way by other bounds, so that such tasks are few.
pub(crate) fn tell_soon<M>(to: &Recipient<M>, message: M)
where
    M: Message<Result = ()> + Send + 'static,
{
    // Closed: the engine is stopping or restarting.
    if let Err(SendError::Full(message)) = to.try_send(message) {
        let sending = to.send(message);
        actix::spawn(async move {
            // Closed: as above.
            let _ = sending.await;
        });
    }
}

/// Hands a message on, down the path of a change. If the receiver's mailbox is full, this actor takes
/// no further message until there is room. Never use it up the path: that could wait in a circle.
pub(crate) fn forward<A, M>(ctx: &mut Context<A>, to: &Recipient<M>, message: M)
where
    A: SupervisedActor,
    M: Message<Result = ()> + Send + 'static,
{
    if let Err(SendError::Full(message)) = to.try_send(message) {
        // A closed mailbox means that the receiver has ended: the engine is restarting or stopping.
        ctx.wait(actix::fut::wrap_future::<_, A>(to.send(message)).map(|_, _, _| ()));
    }
}

/// The text of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}
