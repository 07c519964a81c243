//! Paths in what `syn` leaves as tokens: the bodies of macros, the arguments of macros and those of attributes.
//!
//! Nobody knows what a macro makes of its tokens. So each sequence `a::b` counts as a path, and `a::{b, c}` as two.
//! What is no path to a module here, such as `$a::b` or `::a::b`, begins with an unknown name, or with one that an
//! import has brought, which is an arrow anyway.

use super::How;
use super::reader::{Reader, names};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::ext::IdentExt;

impl Reader<'_> {
    /// Refers to every path in the tokens. In an attribute a string may be a path, too.
    pub(super) fn scan(&mut self, tokens: TokenStream, attribute: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Group(group) => self.scan(group.stream(), attribute),
                TokenTree::Ident(_) => at = self.scan_path(&tokens, at - 1),
                TokenTree::Literal(literal) if attribute => {
                    let text = syn::parse_str::<syn::LitStr>(&literal.to_string());
                    let path = text.ok().and_then(|text| syn::parse_str::<syn::Path>(&text.value()).ok());
                    if let Some(path) = path.filter(|path| path.leading_colon.is_none()) {
                        self.refer(names(&path), literal.span().start().line, How::Path);
                    }
                }
                TokenTree::Literal(_) | TokenTree::Punct(_) => {}
            }
        }
    }

    /// Reads the path that begins at an identifier, and tells where it ends.
    fn scan_path(&mut self, tokens: &[TokenTree], start: usize) -> usize {
        let (mut names, mut at) = (Vec::new(), start);
        let line = tokens[start].span().start().line;
        let mut open = false;
        while let Some(TokenTree::Ident(name)) = tokens.get(at) {
            names.push(name.unraw().to_string());
            at += 1;
            open = is_punct(tokens, at, ':') && is_punct(tokens, at + 1, ':');
            if !open {
                break;
            }
            at += 2;
        }
        match tokens.get(at) {
            Some(TokenTree::Group(group)) if open && group.delimiter() == Delimiter::Brace => {
                self.scan_group(group.stream(), &names);
                return at + 1;
            }
            Some(TokenTree::Punct(star)) if open && star.as_char() == '*' => {
                self.refer(names, line, How::Import { glob: true, exported: false });
                return at + 1;
            }
            _ => {}
        }
        self.forbid_rename(&names, tokens.get(at), line);
        if is_punct(tokens, at, '!') && !is_punct(tokens, at + 1, '=') {
            self.refer(names, line, How::Macro);
        } else {
            self.refer(names, line, How::Path);
        }
        at
    }

    /// What an import in tokens brings is not known as a name. That matters for the root and the modules around alone:
    /// to import anything else is an arrow already.
    fn forbid_rename(&mut self, names: &[String], next: Option<&TokenTree>, line: usize) {
        let is_around = names.iter().all(|name| ["crate", "self", "super"].contains(&name.as_str()));
        let renamed = matches!(next, Some(TokenTree::Ident(word)) if word == "as");
        // `self as u8` is a number.
        if renamed && is_around && names != ["self"] {
            self.fault(line, "renames a module in a macro, which is not followed: name what is used");
        }
    }

    /// Reads the group of a `use`: `prefix::{…}`.
    fn scan_group(&mut self, tokens: TokenStream, prefix: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for part in tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
            let Some(line) = part.first().map(|token| token.span().start().line) else { continue };
            let (mut names, mut glob, mut group) = (prefix.to_vec(), false, None);
            for token in part {
                match token {
                    TokenTree::Ident(name) if name == "as" => {
                        self.forbid_rename(&names, Some(token), line);
                        break;
                    }
                    TokenTree::Ident(name) if name != "self" => names.push(name.unraw().to_string()),
                    TokenTree::Group(inner) => group = Some(inner.stream()),
                    TokenTree::Punct(punct) => glob |= punct.as_char() == '*',
                    TokenTree::Ident(_) | TokenTree::Literal(_) => {}
                }
            }
            if let Some(group) = group {
                self.scan_group(group, &names);
            } else if glob {
                self.refer(names, line, How::Import { glob, exported: false });
            } else {
                self.refer(names, line, How::Path);
            }
        }
    }
}

fn is_punct(tokens: &[TokenTree], at: usize, wanted: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}
