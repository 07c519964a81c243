//! Rules that stay true whatever they do: how often they fire in a minute.

use super::*;

/// How often an instance of this rule fires in a minute, and how many actions that takes.
fn minute(rule: u32, finish: CallbackEnd, effects: &[(Slot, bool)], writes: Option<u64>) -> (u32, u64) {
    let mut world = World::new(1);
    world.calm = true;
    world.habit = Some(Habit { finish, effects: effects.to_vec(), writes: writes.map(ms) });
    world.outside(Op::Put(rule, Slot(0)));
    world.run(world.start + Duration::from_secs(60));
    (world.fired[rule as usize], world.actions)
}

#[test]
fn nothing_spins() {
    let done = || CallbackEnd::of(FiringOutcome::Done);
    let later = |delay| CallbackEnd::of(FiringOutcome::RetryAfter(delay));
    let give_up = || CallbackEnd::of(FiringOutcome::GaveUp("enough".into()));
    let failed = || CallbackEnd::of(FiringOutcome::Failed("no".into()));
    let rewrites: &[(Slot, bool)] = &[(Slot(0), true)];
    let hour = Duration::from_secs(3600);
    let slowed = 14..=20;
    let by_base = 300..=600;
    for (name, finish, effects, writes, expected) in [
        ("done, and still true", done(), &[][..], None, 1..=1),
        ("its commit rewrites its key", done(), rewrites, None, 1..=1),
        ("it writes its key during the callback", done(), &[], Some(1), slowed.clone()),
        // Without a lock it is refused eight times first, and then slowed.
        ("it writes its key with its commit and beside it", done(), rewrites, Some(1), 14..=30),
        ("it writes its key shortly after its end", done(), &[], Some(10), slowed.clone()),
        ("it writes its key long after its end", done(), &[], Some(300), 100..=300),
        ("it asks for later, and writes during the callback", later(hour), &[], Some(1), slowed.clone()),
        ("it asks for later, and writes after its end", later(hour), &[], Some(15), slowed),
        ("it asks for later in its commit", later(hour), rewrites, None, 1..=1),
        ("it asks for later, often", later(ms(500)), rewrites, None, 110..=120),
        // 300 at once, and then as often as the rate of instances allows.
        ("it asks for no delay at all", later(Duration::ZERO), &[], None, 300..=600),
        ("it gives up", give_up(), rewrites, None, 1..=1),
        ("it gives up, but writes its key", give_up(), &[], Some(1), by_base.clone()),
        ("it fails", failed(), &[], None, 7..=10),
        ("it fails, and writes its key", failed(), &[], Some(1), by_base),
    ] {
        for rule in [0, 1, 3] {
            let (fired, actions) = minute(rule, finish.clone(), effects, writes);
            assert!(expected.contains(&fired), "{name}, rule {rule}: {fired} times in a minute");
            assert!(actions <= 5 * u64::from(fired) + 5, "{name}, rule {rule}: {actions} actions");
        }
    }
}

#[test]
fn what_is_held_does_not_ask_again_and_again() {
    let mut world = World::new(1);
    world.calm = true;
    for id in [0, 1, 5, 9] {
        world.outside(Op::Put(id, Slot(0)));
    }
    world.outside(Op::Lock(0, 30_000));
    world.outside(Op::Lock(1, 30_000));
    world.run(world.start + Duration::from_secs(29));
    assert_eq!(world.fired, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0], "5 is of another group");
    assert!(world.actions < 10, "{}", world.actions);
    world.run(world.start + Duration::from_secs(31));
    assert_eq!(world.fired, [1, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
    world.check_calm();
}
