//! Where a path leads: to the module that defines what it names, through imports, exports and globs.

use crate::imports::{How, ROOT, Reference, Tree, What};
use std::collections::BTreeSet;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Something that is defined in a scope, or that a macro there may define.
    In(usize),
    /// A module itself.
    Module(usize),
    /// Something of another crate or of the language.
    Foreign,
}

type Targets = BTreeSet<Target>;

/// The imports that are being followed, by scope and number, so that none is followed in a circle.
type Following = BTreeSet<(usize, String, usize)>;

impl Tree {
    /// What a path of the code leads to: several if a name stands for several things, nothing if it is unknown.
    pub(crate) fn resolve(&self, reference: &Reference) -> Targets {
        let found = self.follow(&reference.path, reference.scope, &mut Following::new());
        if found.is_empty() && reference.how == How::Macro && reference.path.len() == 1 {
            return self.macro_without_path(&reference.path[0], reference.scope);
        }
        found
    }

    /// Whether a path begins with a name that the same file defines or imports, and that is no module. Then it is
    /// the import that is the arrow, if there is one.
    pub(crate) fn is_known_here(&self, reference: &Reference) -> bool {
        let Some(first) = reference.path.first() else { return false };
        if reference.how != How::Path || ["crate", "self", "super"].contains(&first.as_str()) {
            return false;
        }
        let mut scope = Some(reference.scope);
        while let Some(at) = scope {
            if self.scopes[at].names.contains_key(first) {
                let found = self.look_up(at, first, &mut Following::new());
                return !found.iter().any(|target| matches!(target, Target::Module(_)));
            }
            scope = self.block_around(at);
        }
        false
    }

    fn follow(&self, path: &[String], scope: usize, following: &mut Following) -> Targets {
        let mut module = self.scopes[scope].module;
        let ups = path.iter().take_while(|name| ["self", "super"].contains(&name.as_str()));
        let (first, rest) = path.split_at(ups.count().max(1).min(path.len()));
        let mut targets = match first.first().map(String::as_str) {
            None => Targets::new(),
            Some("crate") => Targets::from([Target::Module(ROOT)]),
            Some("self" | "super") => {
                for _ in first.iter().filter(|name| *name == "super") {
                    module = self.parent(module);
                }
                Targets::from([Target::Module(module)])
            }
            Some(name) => self.look_up_around(scope, name, following),
        };
        for name in rest {
            let mut next = Targets::new();
            for target in targets {
                match target {
                    Target::Module(module) => {
                        let found = self.look_up(module, name, following);
                        next.extend(if found.is_empty() {
                            Targets::from([Target::In(module)])
                        } else {
                            found
                        });
                    }
                    // What follows is a variant, or something that a type has.
                    other => drop(next.insert(other)),
                }
            }
            targets = next;
        }
        targets
    }

    /// Looks a name up in a scope and in the blocks around it, up to its module.
    fn look_up_around(&self, scope: usize, name: &str, following: &mut Following) -> Targets {
        let mut around = Some(scope);
        while let Some(at) = around {
            let found = self.look_up(at, name, following);
            if !found.is_empty() {
                return found;
            }
            around = self.block_around(at);
        }
        Targets::new()
    }

    /// The scope around a block; a module's names end with it.
    fn block_around(&self, scope: usize) -> Option<usize> {
        let scope_is_module = self.scopes[scope].module == scope;
        self.scopes[scope].outer.filter(|_| !scope_is_module)
    }

    /// Looks a name up in one scope. What has the name itself goes before what a glob brings.
    fn look_up(&self, scope: usize, name: &str, following: &mut Following) -> Targets {
        let here = &self.scopes[scope];
        let mut found = Targets::new();
        for (number, known) in here.names.get(name).into_iter().flatten().enumerate() {
            match known {
                What::Item { defined_in } => drop(found.insert(Target::In(*defined_in))),
                What::Module(module) => drop(found.insert(Target::Module(*module))),
                What::Foreign => drop(found.insert(Target::Foreign)),
                What::Import(path) => {
                    let import = (scope, name.to_owned(), number);
                    if following.insert(import.clone()) {
                        let led_to = self.follow(path, scope, following);
                        following.remove(&import);
                        // What nothing here is called is the name of another crate.
                        found.extend(if led_to.is_empty() {
                            Targets::from([Target::Foreign])
                        } else {
                            led_to
                        });
                    }
                }
            }
        }
        if !found.is_empty() {
            return found;
        }
        for (number, glob) in here.globs.iter().enumerate() {
            let import = (scope, format!("{name} of *"), number);
            if !following.insert(import.clone()) {
                continue;
            }
            for target in self.follow(glob, scope, following) {
                if let Target::Module(module) = target {
                    found.extend(self.look_up(module, name, following));
                }
            }
            following.remove(&import);
        }
        found
    }

    /// A macro that is called by its name alone: one of the scopes around, or else of a module with `#[macro_use]`.
    fn macro_without_path(&self, name: &str, scope: usize) -> Targets {
        let Some(defined) = self.macros.get(name) else { return Targets::new() };
        let mut around = Some(scope);
        while let Some(at) = around {
            if defined.contains(&at) {
                return Targets::from([Target::In(at)]);
            }
            around = self.scopes[at].outer;
        }
        defined.iter().filter(|at| self.scopes[**at].macro_use).map(|at| Target::In(*at)).collect()
    }
}
