//! Reads one file: its modules, the names that it defines and imports, and the paths in its code.

use super::{Files, How, ROOT, Scope, Tree, What};
use proc_macro2::{Ident, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::rc::Rc;
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree, Visibility};

pub(super) struct Reader<'a> {
    files: &'a Files,
    /// Where the files of the current module's modules are.
    folder: String,
    /// Whether the current module is written inside of another.
    inline: bool,
    scope: usize,
    /// Whether only tests contain what is read. Then only its modules are followed, to know their files.
    test: bool,
    tree: &'a mut Tree,
}

impl<'a> Reader<'a> {
    pub(super) fn new(files: &'a Files, folder: &str, scope: usize, test: bool, tree: &'a mut Tree) -> Self {
        Self { files, folder: folder.to_owned(), inline: false, scope, test, tree }
    }

    pub(super) fn read(mut self, file: &syn::File) {
        self.test |= only_for_tests(&file.attrs);
        self.tree.scopes[self.scope].test = self.test;
        self.visit_file(file);
    }

    fn here(&self) -> &Scope {
        &self.tree.scopes[self.scope]
    }

    /// Notes a path. A single name is left out: what brings it is an import, which is an arrow, or it is of this file.
    pub(super) fn refer(&mut self, path: Vec<String>, line: usize, how: How) {
        if how == How::Path && path.len() == 1 {
            return;
        }
        let scope = self.scope;
        self.tree.references.push(super::Reference { scope, line, path, how });
    }

    fn refer_to(&mut self, path: &syn::Path, how: How) {
        // `::name` is another crate.
        if path.leading_colon.is_none() {
            self.refer(names(path), path.segments[0].ident.span().start().line, how);
        }
    }

    pub(super) fn fault(&mut self, line: usize, fault: &str) {
        let fault = format!("{}:{line}: {fault}", self.here().file);
        self.tree.faults.push(fault);
    }

    /// Whether other modules of the root see what has this visibility.
    fn is_exported(&self, visibility: &Visibility) -> bool {
        match visibility {
            Visibility::Public(_) => true,
            Visibility::Inherited => false,
            Visibility::Restricted(restricted) => {
                let path = names(&restricted.path);
                let ups = path.iter().filter(|name| *name == "super").count();
                path == ["crate"] || (ups > 0 && self.here().path.len() <= ups)
            }
        }
    }

    fn define(&mut self, name: &Ident, what: What) {
        self.know(self.scope, name.unraw().to_string(), what);
    }

    fn know(&mut self, scope: usize, name: String, what: What) {
        self.tree.scopes[scope].names.entry(name).or_default().push(what);
    }

    /// A scope inside of this one: a module if it has a name, else a block.
    fn add_scope(&mut self, name: Option<&str>, file: Rc<str>, test: bool, macro_use: bool) -> usize {
        let (index, here) = (self.tree.scopes.len(), self.here());
        let path = here.path.iter().cloned().chain(name.map(str::to_owned)).collect();
        let module = if name.is_some() { index } else { here.module };
        let macro_use = macro_use && here.macro_use;
        let (outer, names, globs) = (Some(self.scope), BTreeMap::new(), Vec::new());
        self.tree.scopes.push(Scope { outer, module, path, file, names, globs, test, macro_use });
        index
    }

    fn read_module(&mut self, item: &syn::ItemMod) {
        let name = item.ident.unraw().to_string();
        if self.scope == ROOT && item.content.as_ref().is_none_or(|(_, items)| !items.is_empty()) {
            self.tree.top.insert(name.clone());
        }
        let test = self.test || only_for_tests(&item.attrs);
        let macro_use = has(&item.attrs, "macro_use");
        let path = path_attribute(&item.attrs);
        if let Some((_, items)) = &item.content {
            let scope = self.add_scope(Some(&name), Rc::clone(&self.here().file), test, macro_use);
            if !test {
                self.define(&item.ident, What::Module(scope));
            }
            let folder = format!("{}/{}", self.folder, path.unwrap_or(name));
            let mut inside = Reader::new(self.files, &folder, scope, test, self.tree);
            inside.inline = true;
            items.iter().for_each(|item| inside.visit_item(item));
            return;
        }
        let has_path = path.is_some();
        let Some(file) = self.file_of(&name, path) else {
            if !test {
                let line = item.ident.span().start().line;
                self.fault(line, &format!("the file of the module `{name}` is not there"));
            }
            return;
        };
        let scope = self.add_scope(Some(&name), file.as_str().into(), test, macro_use);
        if !test {
            self.define(&item.ident, What::Module(scope));
        }
        let (around, last) = file.rsplit_once('/').unwrap_or(("", &file));
        // A file that a `path` names is read as if it were a `mod.rs`.
        let folder =
            if has_path || last == "mod.rs" { around.to_owned() } else { format!("{around}/{name}") };
        self.tree.read_file(self.files, &file, scope, test, &folder);
    }

    /// The file of a module of this one.
    fn file_of(&self, name: &str, path: Option<String>) -> Option<String> {
        let candidates = match path {
            Some(path) if self.inline => vec![format!("{}/{path}", self.folder)],
            Some(path) => {
                let folder = self.here().file.rsplit_once('/').map_or("", |(folder, _)| folder);
                vec![format!("{folder}/{path}")]
            }
            None => vec![format!("{}/{name}.rs", self.folder), format!("{}/{name}/mod.rs", self.folder)],
        };
        candidates.iter().map(|path| without_dots(path)).find(|path| self.files.contains_key(path))
    }

    fn read_use(&mut self, tree: &UseTree, mut path: Vec<String>, foreign: bool, exported: bool) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.unraw().to_string());
                self.read_use(&step.tree, path, foreign, exported);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, path.clone(), foreign, exported);
                }
            }
            UseTree::Name(name) => self.import(&name.ident, None, path, foreign, exported),
            UseTree::Rename(name) => self.import(&name.ident, Some(&name.rename), path, foreign, exported),
            UseTree::Glob(glob) if !foreign => {
                self.tree.scopes[self.scope].globs.push(path.clone());
                let line = glob.star_token.spans[0].start().line;
                self.refer(path, line, How::Import { glob: true, exported });
            }
            _ => {}
        }
    }

    fn import(
        &mut self,
        name: &Ident,
        rename: Option<&Ident>,
        mut path: Vec<String>,
        foreign: bool,
        exported: bool,
    ) {
        // `a::b::{self}` imports `b`.
        if name != "self" || path.is_empty() {
            path.push(name.unraw().to_string());
        }
        let known_as = rename.map(|rename| rename.unraw().to_string()).or_else(|| path.last().cloned());
        let what = if foreign { What::Foreign } else { What::Import(path.clone()) };
        self.know(self.scope, known_as.unwrap_or_default(), what);
        if !foreign {
            self.refer(path, name.span().start().line, How::Import { glob: false, exported });
        }
    }
}

pub(super) fn names(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.unraw().to_string()).collect()
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident(name))
}

/// Whether something with these attributes exists in test builds only.
fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => implies_test(list.tokens.clone()),
        _ => false,
    })
}

/// Whether a condition of `cfg` holds only if `test` does.
fn implies_test(condition: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = condition.into_iter().collect();
    let (word, arguments) = match tokens.as_slice() {
        [TokenTree::Ident(word)] => return word == "test",
        [TokenTree::Ident(word), TokenTree::Group(arguments)] => (word, arguments.stream()),
        _ => return false,
    };
    let tokens: Vec<TokenTree> = arguments.into_iter().collect();
    let parts = tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','));
    let mut parts =
        parts.filter(|part| !part.is_empty()).map(|part| part.iter().cloned().collect()).peekable();
    match word.to_string().as_str() {
        "all" => parts.any(implies_test),
        "any" => parts.peek().is_some() && parts.all(implies_test),
        _ => false,
    }
}

/// The text of `#[path = "…"]`.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(syn::MetaNameValue {
            path,
            value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }),
            ..
        }) if path.is_ident("path") => Some(text.value()),
        _ => None,
    })
}

/// A path of a file without `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reads what has attributes, unless only tests contain it.
macro_rules! unless_only_for_tests {
    ($($visit:ident($node:ident),)*) => {
        $(fn $visit(&mut self, node: &'ast syn::$node) {
            if !only_for_tests(&node.attrs) {
                visit::$visit(self, node);
            }
        })*
    };
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if let Item::Mod(module) = item {
            return self.read_module(module);
        }
        if self.test {
            return;
        }
        let defined = match item {
            Item::Const(item) => Some((&item.attrs, &item.ident)),
            Item::Enum(item) => Some((&item.attrs, &item.ident)),
            Item::Fn(item) => Some((&item.attrs, &item.sig.ident)),
            Item::Static(item) => Some((&item.attrs, &item.ident)),
            Item::Struct(item) => Some((&item.attrs, &item.ident)),
            Item::Trait(item) => Some((&item.attrs, &item.ident)),
            Item::TraitAlias(item) => Some((&item.attrs, &item.ident)),
            Item::Type(item) => Some((&item.attrs, &item.ident)),
            Item::Union(item) => Some((&item.attrs, &item.ident)),
            _ => None,
        };
        if let Some((attributes, name)) = defined
            && !only_for_tests(attributes)
        {
            self.define(name, What::Item { defined_in: self.scope });
        }
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !only_for_tests(&item.attrs) {
            let exported = self.is_exported(&item.vis);
            self.read_use(&item.tree, Vec::new(), item.leading_colon.is_some(), exported);
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if only_for_tests(&item.attrs) {
            return;
        }
        if item.ident == "self" {
            let line = item.ident.span().start().line;
            self.fault(line, "gives this crate a second name, which is not followed: say `crate`");
        }
        let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name);
        self.define(name, What::Foreign);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if only_for_tests(&item.attrs) {
            return;
        }
        let Some(name) = &item.ident else { return visit::visit_item_macro(self, item) };
        let (name, defined_in) = (name.unraw().to_string(), self.scope);
        let what = What::Item { defined_in };
        if has(&item.attrs, "macro_export") {
            self.know(ROOT, name.clone(), what.clone());
        }
        self.know(self.scope, name.clone(), what);
        self.tree.macros.entry(name).or_default().push(defined_in);
        self.scan(item.mac.tokens.clone(), false);
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        let around = self.scope;
        if block.stmts.iter().any(|statement| matches!(statement, syn::Stmt::Item(_))) {
            self.scope = self.add_scope(None, Rc::clone(&self.here().file), self.test, false);
        }
        visit::visit_block(self, block);
        self.scope = around;
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        self.refer_to(attribute.path(), How::Path);
        // `#[doc(alias = "…")]` is no code.
        if !attribute.path().is_ident("doc")
            && let Meta::List(list) = &attribute.meta
        {
            self.scan(list.tokens.clone(), true);
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if call.path.segments.last().is_some_and(|segment| segment.ident == "include") {
            let line = call.path.segments[0].ident.span().start().line;
            self.fault(line, "includes code that is not read: make it a module");
        }
        self.refer_to(&call.path, How::Macro);
        self.scan(call.tokens.clone(), false);
    }

    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.scan(tokens.clone(), false);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.refer_to(path, How::Path);
        visit::visit_path(self, path);
    }

    unless_only_for_tests! {
        visit_arm(Arm),
        visit_const_param(ConstParam),
        visit_expr_array(ExprArray),
        visit_expr_assign(ExprAssign),
        visit_expr_async(ExprAsync),
        visit_expr_await(ExprAwait),
        visit_expr_binary(ExprBinary),
        visit_expr_block(ExprBlock),
        visit_expr_break(ExprBreak),
        visit_expr_call(ExprCall),
        visit_expr_cast(ExprCast),
        visit_expr_closure(ExprClosure),
        visit_expr_const(ExprConst),
        visit_expr_field(ExprField),
        visit_expr_for_loop(ExprForLoop),
        visit_expr_if(ExprIf),
        visit_expr_index(ExprIndex),
        visit_expr_let(ExprLet),
        visit_expr_loop(ExprLoop),
        visit_expr_macro(ExprMacro),
        visit_expr_match(ExprMatch),
        visit_expr_method_call(ExprMethodCall),
        visit_expr_paren(ExprParen),
        visit_expr_path(ExprPath),
        visit_expr_range(ExprRange),
        visit_expr_reference(ExprReference),
        visit_expr_repeat(ExprRepeat),
        visit_expr_return(ExprReturn),
        visit_expr_struct(ExprStruct),
        visit_expr_try(ExprTry),
        visit_expr_tuple(ExprTuple),
        visit_expr_unary(ExprUnary),
        visit_expr_while(ExprWhile),
        visit_field(Field),
        visit_field_pat(FieldPat),
        visit_field_value(FieldValue),
        visit_impl_item_const(ImplItemConst),
        visit_impl_item_fn(ImplItemFn),
        visit_impl_item_macro(ImplItemMacro),
        visit_impl_item_type(ImplItemType),
        visit_item_const(ItemConst),
        visit_item_enum(ItemEnum),
        visit_item_fn(ItemFn),
        visit_item_impl(ItemImpl),
        visit_item_static(ItemStatic),
        visit_item_struct(ItemStruct),
        visit_item_trait(ItemTrait),
        visit_item_trait_alias(ItemTraitAlias),
        visit_item_type(ItemType),
        visit_item_union(ItemUnion),
        visit_local(Local),
        visit_pat_type(PatType),
        visit_stmt_macro(StmtMacro),
        visit_trait_item_const(TraitItemConst),
        visit_trait_item_fn(TraitItemFn),
        visit_trait_item_macro(TraitItemMacro),
        visit_trait_item_type(TraitItemType),
        visit_type_param(TypeParam),
        visit_variant(Variant),
    }
}
