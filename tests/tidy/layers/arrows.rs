//! All arrows of a crate: between the modules of its root, and between files.

use crate::imports::{How, LIB, Reference, Scope, Tree};
use crate::resolve::Target;
use std::collections::{BTreeMap, BTreeSet};

/// Where an arrow begins, what is written there, and the file that defines it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) defined_in: String,
}

#[derive(Default)]
pub(super) struct Arrows {
    /// Between modules of the root, with every place where one begins.
    pub(super) modules: BTreeMap<(String, String), BTreeSet<Site>>,
    /// Between files, with the first line where one begins.
    pub(super) files: BTreeMap<(String, String), usize>,
    /// Of each file that is not for tests the modules from the root to its own.
    pub(super) module_of: BTreeMap<String, Vec<String>>,
    /// What may not be written, wherever it leads.
    pub(super) forbidden: BTreeSet<String>,
}

impl Arrows {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut arrows = Self::default();
        for scope in tree.scopes.iter().filter(|scope| !scope.test) {
            // The first scope of a file is the module that the file is.
            arrows.module_of.entry(scope.file.to_string()).or_insert_with(|| scope.path.to_vec());
        }
        for reference in tree.references.iter().filter(|reference| !tree.is_known_here(reference)) {
            // Whatever `lib.rs` itself names is no arrow.
            let from = &tree.scopes[reference.scope];
            let Some(module) = from.path.first() else { continue };
            for target in tree.resolve(reference) {
                match target {
                    Target::In(scope) => arrows.add(reference, from, module, &tree.scopes[scope], false),
                    Target::Module(scope) => arrows.add(reference, from, module, &tree.scopes[scope], true),
                    Target::Foreign => {}
                }
            }
        }
        arrows
    }

    /// Adds the arrow from a module of the root to what a scope defines, or to the scope as a module.
    fn add(&mut self, reference: &Reference, from: &Scope, module: &String, to: &Scope, is_module: bool) {
        let written = reference.path.join("::");
        let (glob, exported) = match reference.how {
            How::Import { glob, exported } => (glob, exported && &*from.file != LIB),
            How::Path | How::Macro => (false, false),
        };
        let mut forbid = |what: &str| {
            self.forbidden.insert(format!("{}:{}: `{written}` {what}", from.file, reference.line));
        };
        let Some(used) = to.path.first() else {
            if glob {
                forbid("takes in whatever src/lib.rs exports: name what is used");
            } else if !is_module {
                forbid("is defined in src/lib.rs, which is above all modules: move it to one");
            } else if exported {
                forbid("exports the root of the crate: only src/lib.rs exports what others define");
            }
            return;
        };
        if used != module {
            if exported {
                forbid(&format!(
                    "is exported by `{module}`, but {} defines it: only src/lib.rs exports what others define; let \
                     users name `{used}`",
                    to.file
                ));
            }
            self.modules.entry((module.clone(), used.clone())).or_default().insert(Site {
                file: from.file.to_string(),
                line: reference.line,
                name: written,
                defined_in: to.file.to_string(),
            });
        }
        // Whoever only names a module uses nothing of its file. What it then uses has an arrow of its own.
        if (glob || !is_module) && from.file != to.file {
            let files = (from.file.to_string(), to.file.to_string());
            let line = self.files.entry(files).or_insert(reference.line);
            *line = reference.line.min(*line);
        }
    }
}
