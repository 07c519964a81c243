//! The modules of a crate, the names in them and every path in their code, read from the source files.
//!
//! [`Tree::read`] begins at `src/lib.rs`, follows each `mod`, and parses what it finds. It leaves out what only a
//! test build contains: `#[cfg(test)]`, also as a part of `all(…)`. Any other `cfg` counts as if it held, and
//! `#[cfg(not(test))]` is one of those. Comments and strings contain no paths.
//!
//! | file | subject |
//! |---|---|
//! | [`reader`] | what one file says: modules, names, imports and paths |
//! | [`tokens`] | paths in the bodies of macros and in attributes, which `syn` does not parse |
//!
//! A name that only a macro's expansion defines is not known. A path to it leads to the module that the path
//! names last, so that it is still an arrow.

mod reader;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Source files: each path from the root of the project, with `/`, and the text.
pub(crate) type Files = BTreeMap<String, String>;

/// The file that declares the modules of the root.
pub(crate) const LIB: &str = "src/lib.rs";
/// The scope of the crate's root.
pub(crate) const ROOT: usize = 0;

/// A module, or a block that has items of its own.
#[derive(Debug)]
pub(crate) struct Scope {
    /// The scope around it. The root has none.
    pub(crate) outer: Option<usize>,
    /// The module that it belongs to, which is itself if it is one.
    pub(crate) module: usize,
    /// The names of the modules from the root to its module.
    pub(crate) path: Rc<[String]>,
    pub(crate) file: Rc<str>,
    pub(crate) names: BTreeMap<String, Vec<What>>,
    pub(crate) globs: Vec<Vec<String>>,
    /// Whether only tests contain it.
    pub(crate) test: bool,
    /// Whether the macros that it defines are known outside of it without a path.
    pub(crate) macro_use: bool,
}

/// What a name of a scope stands for. Its visibility is left out: whoever compiles sees to it, and what a module
/// imports for itself it also has an arrow to.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Item { defined_in: usize },
    Module(usize),
    Import(Vec<String>),
    Foreign,
}

/// A path in the code.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) scope: usize,
    pub(crate) line: usize,
    pub(crate) path: Vec<String>,
    pub(crate) how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// In an expression, a type, a pattern, the body of a macro or an attribute.
    Path,
    /// The name of a macro that is called.
    Macro,
    Import {
        glob: bool,
        /// Whether other modules of the root see it.
        exported: bool,
    },
}

#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) scopes: Vec<Scope>,
    pub(crate) references: Vec<Reference>,
    /// The modules of the root that are not empty, those for tests included.
    pub(crate) top: BTreeSet<String>,
    /// Macros by name, with the scopes that define them.
    pub(crate) macros: BTreeMap<String, Vec<usize>>,
    /// What could not be read, or may not be written because it could not be followed.
    pub(crate) faults: Vec<String>,
    /// The files that a `mod` leads to, and whether one that is not only for tests does.
    reached: BTreeMap<String, bool>,
}

impl Tree {
    pub(crate) fn read(files: &Files) -> Self {
        let mut tree = Self::default();
        tree.scopes.push(Scope {
            outer: None,
            module: ROOT,
            path: Rc::new([]),
            file: LIB.into(),
            names: BTreeMap::new(),
            globs: Vec::new(),
            test: false,
            macro_use: true,
        });
        tree.read_file(files, LIB, ROOT, false, "src");
        for file in files.keys().filter(|file| !tree.reached.contains_key(*file)) {
            tree.faults.push(format!("{file}:1: no `mod` leads to this file: declare it, or delete it"));
        }
        tree
    }

    /// Reads a file as the content of a scope, whose modules have their files in `folder`.
    fn read_file(&mut self, files: &Files, file: &str, scope: usize, test: bool, folder: &str) {
        let Some(text) = files.get(file) else { return };
        let reached = self.reached.entry(file.to_owned()).or_default();
        if *reached && !test {
            self.faults.push(format!("{file}:1: this file is that of two modules: let one use the other"));
            return;
        }
        *reached |= !test;
        match syn::parse_file(text) {
            Ok(parsed) => reader::Reader::new(files, folder, scope, test, self).read(&parsed),
            Err(error) => self.faults.push(format!("{file}:{}: {error}", error.span().start().line)),
        }
    }

    /// The module around a module; the root itself for the root.
    pub(crate) fn parent(&self, module: usize) -> usize {
        self.scopes[module].outer.map_or(ROOT, |outer| self.scopes[outer].module)
    }
}
